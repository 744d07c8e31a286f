"""Every page of docs/ is a session: its Python blocks run, in order and in one namespace; most of them with --full.

A page's first line may say what it needs: ``<!-- needs: module -->`` or ``<!-- needs: module attribute -->``, or of torch a
version, ``<!-- needs: torch 2.14 -->``; where what is installed lacks it, the page is skipped with that reason.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [p for p in sorted((ROOT / "docs").rglob("*.md")) if BLOCK.search(p.read_text(encoding="utf-8"))]
NEEDS = re.compile(r"<!-- needs: (\S+)(?: (\S+))? -->")


def skip_unless_there(page: str) -> None:
    found = NEEDS.match(page)
    if found is None:
        return
    name, attribute = found.groups()
    if name == "torch":
        if [int(n) for n in torch.__version__.split(".")[:2]] < [int(n) for n in attribute.split(".")]:
            pytest.skip(f"the page needs torch {attribute} or newer")
        return
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        pytest.skip(f"the page needs {name}, which is not installed")
    if attribute is not None and not hasattr(module, attribute):
        pytest.skip(f"the page needs {name}.{attribute}, which the installed version does not have")


def script(page: str) -> str:
    """The blocks as one program, each on the line where the page has it."""
    lines: list[str] = []
    for block in BLOCK.finditer(page):
        start = page.count("\n", 0, block.start(1))
        lines += [""] * (start - len(lines)) + block[1].splitlines()
    return "\n".join(lines) + "\n"


def by_cost(path: Path) -> object:
    """A page is a process of its own, so of more than twenty only the one on the older SpikingJelly runs without --full."""
    quick = path.stem == "spikingjelly_legacy"
    return pytest.param(path, marks=() if quick else pytest.mark.slow, id=path.stem)


@pytest.mark.parametrize("path", [by_cost(path) for path in PAGES])
def test_the_page_runs_as_it_stands(path: Path, tmp_path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    skip_unless_there(page)
    (tmp_path / "session.py").write_text(script(page), encoding="utf-8")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "session.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{path.name}, by line:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


def test_the_script_keeps_the_lines_of_the_page() -> None:
    page = "# Title\n\n```python\na = 1\nb = 2\n```\n\nwords\n\n```bash\nls\n```\n\n```python\nassert a + b == 3\n```\n"
    lines = script(page).splitlines()
    assert lines[3:5] == ["a = 1", "b = 2"]
    assert lines[14] == "assert a + b == 3"
    exec(script(page), {})


def test_no_block_hides_from_the_session() -> None:
    """What is fenced is run, or says that it is no Python."""
    fence = re.compile(r"^ *```(.*)$", re.MULTILINE)
    for path in sorted((ROOT / "docs").rglob("*.md")):
        opened = fence.findall(path.read_text(encoding="utf-8"))[::2]
        assert set(opened) <= {"python", "bash", "text"}, path
