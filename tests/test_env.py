"""mbe_plugin.env: a torchaudio that does not load is hidden, and no other."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mbe_plugin.env import hide_broken_torchaudio

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
