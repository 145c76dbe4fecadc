"""Parts of a page as HTML: Markdown through markdown-it, everything else through Jinja2."""

import base64
import functools
import hashlib
from typing import Any, cast

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from hr_keras import __version__
from hr_keras.report.drawing import PREFIX
from hr_keras.report.parts import Document
from hr_keras.report.reading import Contents

_LONG = 32  # a cell with more characters may be broken into lines
_MEDIA_TYPES = {"csv": "text/csv", "json": "application/json"}


def render_page(contents: Contents) -> str:
    """Returns the page.

    Args:
        contents: What it shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hr_keras.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"uri": _make_uri, "inline": _render_inline}
    environment.globals["render"] = _Renderer().render
    parts = contents.parts
    script, style = (_read(environment, name) for name in ("page.js", "page.css"))
    return environment.get_template("page.html").render(
        parts=parts,
        unfinished=contents.unfinished,
        title=parts[0].title if len(parts) == 1 else f"{len(parts)} results",
        version=__version__,
        script=script,
        style=style,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _read(environment: jinja2.Environment, name: str) -> Markup:
    loader = cast(jinja2.BaseLoader, environment.loader)
    return Markup(loader.get_source(environment, name)[0])


def _make_uri(content: str, name: str) -> str:
    """A `data:` URI of a file to download."""
    kind = _MEDIA_TYPES[name.rpartition(".")[2]]
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(content.encode()).decode()}"


def _render_inline(text: str) -> Markup:
    """A paragraph of Markdown without a `<p>` around it."""
    return Markup(MarkdownIt("commonmark", {"html": False}).renderInline(text))


class _Renderer:
    """Markdown with captions and scopes of tables, and our figures in place of images."""

    def __init__(self) -> None:
        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        renderer: Any = self._markdown.renderer
        for name in ("heading_open", "heading_close", "table_open", "table_close", "th_open",
                     "tr_open", "td_open", "td_close", "image"):  # fmt: skip
            rule = functools.partial(getattr(_Renderer, f"_{name}"), self)
            renderer.rules[name] = rule
        self._figures = 0
        self._tables = 0

    def render(self, document: Document, shift: int) -> Markup:
        """The HTML of a document, its headings `shift` levels deeper."""
        env = {"shift": shift, "figures": document.figures, "caption": "", "column": 0}
        text = document.text.replace(" %", "\u00a0%")  # no line begins with a unit
        return Markup(self._markdown.render(text, env))

    def _heading_open(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        children = tokens[index + 1].children
        env["caption"] = "".join(child.content for child in children)
        return f"<{_deepen(tokens[index].tag, env)}>"

    def _heading_close(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        return f"</{_deepen(tokens[index].tag, env)}>\n"

    def _table_open(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        # A wide table scrolls, with the keyboard too.
        self._tables += 1
        label = f"table-{self._tables}"
        # A plain string: markdown-it-py 3 adds to it, and `Markup` would escape what follows.
        return (
            f'<div class="scroll" role="group" tabindex="0" aria-labelledby="{label}">'
            f'<table><caption id="{label}">{escape(env["caption"])}</caption>\n'
        )

    def _table_close(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        return "</table></div>\n"

    def _th_open(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        return '<th scope="col">'

    def _tr_open(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        env["column"] = 0
        return "<tr>"

    def _td_open(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        env["column"] += 1
        if env["column"] == 1:
            return '<th scope="row">'
        return "<td>" if len(tokens[index + 1].content) > _LONG else '<td class="short">'

    def _td_close(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        return "</th>" if env["column"] == 1 else "</td>"

    def _image(self, tokens: Any, index: int, options: Any, env: Any) -> str:
        """Ours are the only images: anything else would be loaded from outside."""
        figure = env["figures"].get(tokens[index].attrs["src"])
        if figure is None:
            return str(escape(tokens[index].content))
        self._figures += 1
        svg = figure.svg.replace(PREFIX, f"figure{self._figures}-")
        # The script reads the last three; without it the figure is complete.
        attributes = {
            "class": "figure", "role": "img", "tabindex": "0", "aria-label": figure.alt,
            "data-values": figure.values, "data-choice": figure.choice,
            "data-chosen": "yes" if figure.is_chosen else "",
        }  # fmt: skip
        given = [f' {name}="{escape(value)}"' for name, value in attributes.items() if value]
        return f"<span{''.join(given)}>{svg}</span>"


def _deepen(tag: str, env: Any) -> str:
    return f"h{min(int(tag[1]) + env['shift'], 6)}"
