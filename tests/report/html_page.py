"""A page as its tags, for what must hold of each page."""

import base64
import itertools
import urllib.parse
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "hr", "input", "col"}


class Page(HTMLParser):
    """Every tag with its attributes; a tag that is not closed, or closed twice, is an error."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts, self.code, self.tables = [], [], [], [], []
        self.sections = []  # (tables, downloads) of each
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in {"section", "article"}:
            self.sections.append([0, 0])
        elif tag == "a" and "download" in dict(attributes):
            self.sections[-1][1] += 1
        if tag == "table":
            self.tables.append([])
            self.sections[-1][0] += 1
        elif "table" in self.open:
            self.tables[-1].append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        (self.code if {"style", "script"} & set(self.open) else self.texts).append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def find(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def headings(self):
        return [int(tag[1]) for tag, _ in self.tags if tag in {"h1", "h2", "h3", "h4", "h5", "h6"}]

    def downloads(self):
        """The content of each file to download, by name."""
        found = {}
        for link in self.find("a"):
            if "download" in link:
                kind, _, content = link["href"].partition(";base64,")
                assert kind in (
                    "data:text/csv;charset=utf-8",
                    "data:application/json;charset=utf-8",
                )
                found[link["download"]] = base64.b64decode(urllib.parse.unquote(content)).decode()
        return found


def check_page(text):
    """What holds of every page; returns it."""
    page = Page(text)
    # Nothing is loaded from elsewhere.
    for tag, attributes in page.tags:
        assert tag not in {"iframe", "object", "embed", "link", "base", "form", "foreignobject"}
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"href", "src", "xlink:href", "srcset", "data", "poster"}:
                assert value.startswith(("#", "data:")), (tag, value[:80])
            if name == "style":
                assert value.count("url(") == value.count("url(#")
    (policy,) = (one["content"] for one in page.find("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    for code in page.code:
        assert not [word for word in ("http", "@import", "url(") if word in code]
    # It is easy to find one's way in it, with a keyboard and a screen reader too.
    assert page.find("html") == [{"lang": "en"}]
    levels = page.headings()
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels)), levels
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids), sorted({one for one in ids if ids.count(one) > 1})
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "href"):
            value = attributes.get(name, "")
            if value and not value.startswith("data:"):
                assert value.removeprefix("#") in ids
    for table in page.tables:
        assert table[0][0] == "caption"
        rows = [tag for tag, _ in table].count("tr")
        scopes = [attributes.get("scope") for tag, attributes in table if tag == "th"]
        assert scopes.count("col") >= 2
        assert scopes.count("row") == rows - 1
    # Behind every table is a file.
    assert all(downloads for tables, downloads in page.sections if tables)
    for tag, attributes in page.tags:
        if tag == "img" or attributes.get("role") == "img":
            assert len(attributes.get("alt") or attributes["aria-label"]) > 20
        if tag == "svg":
            assert attributes["aria-hidden"] == "true"
    return page
