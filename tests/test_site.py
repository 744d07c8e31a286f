"""The documentation as a site, without a warning; and its links as GitHub follows them."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

import mbe_plugin

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks" / "results").glob("*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)
HIDDEN = re.compile(f"{FENCED.pattern}|<!--.*?-->", re.DOTALL | re.MULTILINE)


def anchors(page: str) -> set[str]:
    """The names that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> Iterator[str]:
    yield from (unquote(link) for link in LINK.findall(HIDDEN.sub("", page)) if "://" not in link)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for link in links(path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path.name} links to {link}"


def test_links_and_anchors_are_found() -> None:
    page = (
        "# A title, `code`\n\n[a](b.md#c) ![d](e.png) [f](https://g.h)\n\n```text\n# no heading [i](j)\n```\n"
    )
    assert list(links(page)) == ["b.md#c", "e.png"]
    assert anchors(page) == {"a-title-code"}


def test_every_public_name_is_in_the_reference() -> None:
    listed = set(re.findall(r"^- `mbe_plugin\.(\w+)`$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))
    assert listed - {"MBERecipe"} == set(mbe_plugin.__all__)


def sphinx(*options: str) -> subprocess.CompletedProcess[str]:
    if missing := [
        m for m in ("furo", "myst_parser", "nir", "snntorch") if importlib.util.find_spec(m) is None
    ]:
        pytest.skip(f"the site needs {missing}: pip install -e '.[docs]'")
    if not hasattr(importlib.import_module("spikingjelly.activation_based.ann2snn"), "ModuleConverter"):
        pytest.skip("the reference documents MBERecipe, which needs SpikingJelly 2")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = sphinx("-d", str(tmp_path / "trees"), ".", str(tmp_path / "site"))
    assert (done.returncode, done.stderr) == (0, "")
    site = tmp_path / "site"
    assert "url=docs/index.html" in (site / "index.html").read_text()
    start = (site / "docs" / "index.html").read_text()
    assert start.count("toctree-l1") > 20
    reference = (site / "docs" / "api.html").read_text()
    for name in mbe_plugin.__all__:
        assert f'id="mbe_plugin.{name}"' in reference, name


@pytest.mark.slow
def test_links_to_elsewhere(tmp_path: Path) -> None:
    try:
        socket.create_connection(("arxiv.org", 443), timeout=5).close()
    except OSError as offline:
        pytest.skip(f"no network: {offline}")
    done = sphinx("-b", "linkcheck", "-d", str(tmp_path / "trees"), ".", str(tmp_path / "links"))
    assert done.returncode == 0, done.stderr
