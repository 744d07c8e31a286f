"""mbe_plugin.env: what is there is told, whatever is broken; a torchaudio that does not load is hidden, and no other."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import spikingjelly.activation_based.functional as functional
import torch

import mbe_plugin
from mbe_plugin.env import environment, hide_broken_torchaudio, table
from mbe_plugin.env.found import LIBRARIES
from mbe_plugin.kernels import backends

ROOT = Path(__file__).parents[1]


def write_torchaudio(folder: Path, body: str) -> None:
    (folder / "torchaudio").mkdir()
    (folder / "torchaudio" / "__init__.py").write_text("from torchaudio import part\n" + body)
    (folder / "torchaudio" / "part.py").write_text("")


@pytest.fixture
def no_torchaudio_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder at the head of sys.path, and no trace of torchaudio in sys.modules, put back afterwards."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    # registered with monkeypatch, so that what the test leaves in its place is removed
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    del sys.modules["torchaudio"]
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("fault", ["OSError", "RuntimeError", "ImportError", "ModuleNotFoundError"])
def test_a_torchaudio_that_does_not_load_is_hidden_and_said_so_once(
    no_torchaudio_yet: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    write_torchaudio(no_torchaudio_yet, f"raise {fault}('no libcudart')\n")
    assert "no libcudart" in (hide_broken_torchaudio() or "")
    assert hide_broken_torchaudio() is None
    assert capsys.readouterr().err.count("no libcudart") == 1
    assert importlib.util.find_spec("torchaudio") is None
    assert "torchaudio.part" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("torchaudio")


def test_a_torchaudio_that_loads_is_left_alone(
    no_torchaudio_yet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_torchaudio(no_torchaudio_yet, "")
    assert hide_broken_torchaudio() is None
    assert capsys.readouterr().err == ""
    assert importlib.util.find_spec("torchaudio") is not None


def test_other_faults_of_torchaudio_are_not_swallowed(no_torchaudio_yet: Path) -> None:
    write_torchaudio(no_torchaudio_yet, "raise SystemError('something else')\n")
    with pytest.raises(SystemError, match="something else"):
        hide_broken_torchaudio()


def test_transformers_models_import_once_it_is_hidden(tmp_path: Path) -> None:
    write_torchaudio(tmp_path, "raise OSError('no libcudart')\n")
    code = (
        "import sys, mbe_plugin\n"
        "assert 'mbe_plugin.env' not in sys.modules, 'import mbe_plugin repairs nothing by itself'\n"
        "from mbe_plugin.env import hide_broken_torchaudio\n"
        "assert hide_broken_torchaudio() is not None\n"
        "from transformers import BertModel\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


# the table


def rows(printed: str) -> dict[str, str]:
    """The cells of a Markdown table of two columns, without its head."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()]
    assert all(len(row) == 2 for row in cells)
    return dict(cells[2:])


def told(folder: Path, *options: str) -> dict[str, str]:
    """What the command prints in a process of its own, with the modules of a folder before all others."""
    paths = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, *options, "-m", "mbe_plugin.env"]
    done = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return rows(done.stdout)


def test_what_is_there_is_in_the_table() -> None:
    found = environment()
    assert found["mbe_plugin"].startswith(mbe_plugin.__version__)
    assert found["Python"].endswith(sys.version.split()[0])
    assert found["torch"].startswith(torch.__version__)
    assert found["numpy"] == numpy.__version__
    assert (found["GPU"] == "none (torch.cuda.device_count() is 0)") is (torch.cuda.device_count() == 0)
    assert found["backend torch"] == "available"
    reasons = ", ".join(backends.missing("cupy"))
    assert found["backend cupy"] == (f"not available: {reasons}" if reasons else "available")
    assert found["backend auto, step_mode 'm'"] == backends.automatic_on_gpu()
    assert set(LIBRARIES) <= set(found)
    assert rows(table()) == found


def test_the_hosts_features_are_looked_for() -> None:
    found = environment()
    there = "spikingjelly has" if hasattr(functional, "set_backend") else "spikingjelly lacks"
    assert "functional.set_backend" in found[there]
    recipes = "MBERecipe" in found["spikingjelly has"]
    assert recipes is not ("MBEConverter" in found["spikingjelly has"])


def test_a_library_that_is_not_there_shows_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = environment()
    for name, install in LIBRARIES.items():
        assert found[name] == f"not installed ({install})"


def test_libraries_that_do_not_load_say_why_in_one_line(tmp_path: Path) -> None:
    """And what they complain of is kept out of the table, whatever the interpreter does with warnings."""
    faults = {
        "cupy": "raise ImportError('no libnvrtc')",
        "timm": "raise SystemError('two lines\\nand | a bar')",
        "snntorch": "import nothing_of_this_name",
        "numba": "1 / 0",
        "transformers": "import warnings; warnings.warn('old', FutureWarning)",
    }
    for name, body in faults.items():
        (tmp_path / f"{name}.py").write_text(body)
    found = told(tmp_path, "-W", "error")
    assert "does not load: ImportError: no libnvrtc" in found["cupy"]
    assert "CuPy does not load (no libnvrtc)" in found["backend cupy"]
    assert found["timm"].endswith(", does not load: SystemError: two lines and / a bar")
    assert "does not load: ModuleNotFoundError: No module named 'nothing_of_this_name'" in found["snntorch"]
    assert "does not load: ZeroDivisionError: division by zero" in found["numba"]
    assert "load" not in found["transformers"]


@pytest.mark.parametrize("missing", ["torch", "spikingjelly"])
def test_without_what_everything_stands_on_there_is_a_table_all_the_same(
    tmp_path: Path, missing: str
) -> None:
    (tmp_path / f"{missing}.py").write_text("raise OSError('no libcudart')")
    (tmp_path / "transformers.py").write_text("")  # the real one takes seconds
    (tmp_path / "timm.py").write_text("")
    found = told(tmp_path)
    assert set(found) == set(environment())
    assert "does not load: OSError: no libcudart" in found[missing]
    assert "does not load: OSError: no libcudart" in found["spikingjelly has"]
