"""The site; ``python -m sphinx -W -c docs . build/site`` builds it.

The source folder is the repository's root, so that pages may link to benchmarks/results and examples as they do on GitHub.
The pages stay plain Markdown; two are completed while they are read: the contents in index.md become the navigation, and
the names listed in api.md their docstrings.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mbe_plugin import __version__

project, author, release = "mbe_plugin", "The mbe_plugin authors", __version__
copyright = "the mbe_plugin authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "SECURITY.md", "docs/**", "benchmarks/results/*.md"]
html_theme = "furo"
html_title = f"mbe_plugin {release}"
html_show_sourcelink = False
myst_heading_anchors = 4  # as GitHub makes them
myst_enable_extensions: list[str] = []
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
pygments_style = "friendly"
linkcheck_timeout = 20

ENTRY = re.compile(r"^- \[(.*?)\]\((.*?)\.md\)", re.MULTILINE)
NAME = re.compile(r"^- `(mbe_plugin[\w.]*)`$", re.MULTILINE)

PART = re.compile(r"(Raises|Returns) |[a-z]\w*(, [a-z]\w*)*: ")
MARKUP = re.compile(r"``.*?``|[*|]|_(?=\W)")


def contents(page: str) -> str:
    """Hidden toctrees of the page's lists of links, one per third-level heading."""
    trees = []
    for part in page.split("\n### ")[1:]:
        caption, entries = part.split("\n", 1)[0], ENTRY.findall(part)
        listed = "\n".join(f"{title} <{posixpath.normpath(f'/docs/{page}')}>" for title, page in entries)
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n")
    return "\n" + "\n".join(trees)


def documented(found: re.Match[str]) -> str:
    """The autodoc directive of one public name."""
    import importlib

    home, name = found[1].rsplit(".", 1)
    kind = "class" if isinstance(getattr(importlib.import_module(home), name), type) else "function"
    return f"```{{eval-rst}}\n.. auto{kind}:: {found[1]}\n```"


def complete(app: Any, docname: str, source: list[str]) -> None:
    """What the site has and plain Markdown has not."""
    if docname == root_doc:
        source[0] += contents(source[0])
    if docname == "docs/api":
        source[0] = NAME.sub(documented, source[0])
    if docname == "docs/measurements":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n/benchmarks/results/*\n```\n"


def plain(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings are prose with literals: stars, bars and final underscores mean themselves.

    A line that begins with an argument's name, and what is returned and raised, begins a paragraph.
    """
    for number in reversed(range(len(lines))):
        line = MARKUP.sub(lambda m: m[0] if m[0].startswith("``") else f"\\{m[0]}", lines[number])
        begins = PART.match(line) and lines[number - 1].endswith(".")
        lines[number : number + 1] = ["", line] if begins else [line]


def enter(app: Any, error: Exception | None) -> None:
    """build/site/index.html leads to the start page."""
    if error is None and app.builder.name == "html":
        way = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html">\n'
        (Path(app.outdir) / "index.html").write_text(way, encoding="utf-8")


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("source-read", complete)
    app.connect("autodoc-process-docstring", plain)
    app.connect("build-finished", enter)
