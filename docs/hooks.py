"""What MkDocs does beside docs/: pages from files elsewhere in the repository, and formulas.

README, changelog, examples and the notebook stay where a reader of the repository looks for
them. Links between all these files are written for the repository, and rewritten for the site.
"""

import ast
import base64
import json
import os
import pathlib
import posixpath
import re
import subprocess
import sys

from latex2mathml import converter
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
# Page of the site → file of the repository.
COPIED = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "benchmarks.md": "benchmarks/README.md",
    "benchmark_results.md": "benchmarks/RESULTS.md",
    "embedded_digits.md": "hr_keras/data/README.md",
}
NOTEBOOK = "examples/tour.ipynb"
PLACES = {source: page for page, source in COPIED.items()} | {
    NOTEBOOK: "tour.md",
    "benchmarks": "benchmarks.md",
    "examples": "examples.md",
    "docs": "index.md",
}
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")


def find_place(path):
    """Where the site has a file or folder of the repository."""
    if path in PLACES:
        return PLACES[path]
    if path.startswith("examples/") and path.endswith(".py"):
        return f"examples.md#{pathlib.PurePath(path).stem}"
    return path.removeprefix("docs/")


def find_source(page):
    """The file of the repository that a page is made from."""
    return COPIED.get(page, {"tour.md": NOTEBOOK}.get(page, f"docs/{page}"))


def resolve(source, target):
    """The file of the repository that a relative link in another of its files names."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def on_config(config):
    config["mdx_configs"].setdefault("pymdownx.superfences", {})["custom_fences"] = [
        {"name": "math", "class": "math", "format": format_formula}
    ]
    named = json.dumps(config["nav"])
    pages = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    config["nav"] += [page for page in pages if page not in named]  # none is lost
    return config


def format_formula(source, *arguments, **options):
    """A fenced block of LaTeX as MathML, which browsers draw without a script.

    Where it is too wide, it scrolls, and not the page.
    """
    formula = converter.convert(source.strip(), display="block")
    return f'<div style="overflow-x: auto" tabindex="0">{formula}</div>'


def on_files(files, config):
    def add(page, **content):
        files.append(File.generated(config, page, **content))

    for page, source in COPIED.items():
        add(page, abs_src_path=str(ROOT / source))
    add("examples.md", content=write_examples())
    add("api/command_line.md", content=write_command_line())
    text, pictures = write_notebook(json.loads((ROOT / NOTEBOOK).read_text()))
    add("tour.md", content=text)
    for name, picture in pictures.items():
        add(name, content=picture)
    for page in [file for file in files if file.is_documentation_page()]:
        source = find_source(page.src_uri)
        for target, _ in LINK.findall(page.content_string):
            path = resolve(source, target)
            if files.get_file_from_path(find_place(path).partition("#")[0]) is None and (
                (ROOT / path).is_file() and not path.endswith(".md")
            ):
                add(path, abs_src_path=str(ROOT / path))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites links between files of the repository to links between pages."""
    source = find_source(page.file.src_uri)

    def rewrite(match):
        path = resolve(source, match[1])
        if not (ROOT / path).exists():
            return match[0]
        place = posixpath.relpath(find_place(path), posixpath.dirname(page.file.src_uri) or ".")
        return place + (match[2] or "")

    return LINK.sub(rewrite, markdown)


def write_examples():
    """A page with all scripts in examples/."""
    parts = ["# Examples\n\nEach of these scripts runs as it is, on a CPU.\n"]
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text()
        title, _, more = ast.get_docstring(ast.parse(text)).partition(":")
        code = text.partition('"""\n')[2].strip()
        parts.append(f"## {title.rstrip('.')} {{ #{path.stem} }}\n")
        parts.append(f"`examples/{path.name}`{':' + more if more else ''}\n")
        parts.append(f"```python\n{code}\n```\n")
    return "\n".join(parts)


def write_notebook(notebook):
    """The Markdown of a notebook with its output, and its pictures by file name."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"tour_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                alt = cell["metadata"].get("alt", "")
                parts.append(f"![{alt}]({name})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    if repository := os.environ.get("GITHUB_REPOSITORY"):
        address = f"https://colab.research.google.com/github/{repository}/blob/main/{NOTEBOOK}"
        parts.insert(1, f"[Open in Colab]({address})")
    return "\n\n".join(parts) + "\n", pictures


def write_command_line():
    """A page with all options of all commands, as typer describes them; no sentence is cut off."""
    command = ("-m", "typer", "hr_keras.cli", "utils", "docs", "--name", "hr-keras")
    text = subprocess.check_output([sys.executable, *command], cwd=ROOT, text=True)
    whole = dict(re.findall(r"^## `hr-keras (\S+)`\n\n(.+)", text, re.MULTILINE))
    return re.sub(
        r"^\* `(\S+)`: .*\.\.\.$", lambda m: f"* `{m[1]}`: {whole[m[1]]}", text, flags=re.MULTILINE
    )
