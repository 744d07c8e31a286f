"""Choosing the backend of a network: by its configuration, by set_backend, from its files."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import WIDTH, tokens, transformer
from torch import nn

import mbe_plugin
from mbe_plugin import BackendError, MBEConfig, MBENode
from mbe_plugin.env.found import environment
from mbe_plugin.fitting.segments import identity_tables
from mbe_plugin.kernels import backends, numba_cpu

MISSING = "Numba is not installed (pip install 'mbe_plugin[fast]')"
ROOT = Path(__file__).parents[1]


def backends_of(net: nn.Module) -> set[str]:
    return {m.backend for m in net.modules() if isinstance(m, MBENode)}


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)  # an import of it raises ModuleNotFoundError
    backends._taken.cache_clear()
    yield
    backends._taken.cache_clear()


@pytest.fixture(scope="module")
def snn() -> nn.Module:
    return mbe_plugin.convert(transformer(depth=1), [tokens()], MBEConfig(bases=8))


def test_a_network_is_on_auto_and_goes_where_it_is_told(snn: nn.Module) -> None:
    assert backends_of(snn) == {"auto"}
    for name in ("torch", "auto"):
        mbe_plugin.set_backend(snn, name)
        assert backends_of(snn) == {name}
        assert snn.mbe_conversion.config.backend == name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tpu", "knows no backend 'tpu'"),
        ("triton", "there is no CUDA GPU"),
        ("cupy", "cupy"),
    ],
)
def test_what_cannot_run_is_refused_and_nothing_changes(snn: nn.Module, name: str, sentence: str) -> None:
    with pytest.raises(BackendError, match=sentence):
        mbe_plugin.set_backend(snn, name)
    assert backends_of(snn) == {"auto"}


def test_a_network_of_which_one_neuron_cannot_stays_as_it_was() -> None:
    first, second = (MBENode(identity_tables(4, 8), "identity") for _ in range(2))
    second.step_mode = "m"
    with pytest.raises(BackendError, match="'numba' in step_mode 's' only and is in 'm'"):
        mbe_plugin.set_backend(nn.Sequential(first, second), "numba")
    assert (first.backend, second.backend) == ("auto", "auto")


def test_a_module_without_neurons_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear holds no MBE neuron"):
        mbe_plugin.set_backend(nn.Linear(2, 2), "torch")


def test_the_configuration(without_numba: None) -> None:
    with pytest.raises(ValueError, match="backend must be one of"):
        MBEConfig(backend="tpu")  # type: ignore[arg-type]
    told = []

    class Refusing(nn.Module):
        def __deepcopy__(self, memo: dict) -> nn.Module:
            told.append("copied")
            return self

    with pytest.raises(BackendError) as why:
        mbe_plugin.convert(Refusing(), [tokens()], MBEConfig(backend="numba"))
    assert (
        str(why.value)
        == f"a converted network cannot run on backend 'numba' here: {MISSING}; keep backend='torch'"
    )
    assert told == [], "it is said before the work begins"


def test_a_file_holds_it_as_a_wish(
    snn: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture, without_numba: None
) -> None:
    mbe_plugin.save(snn, tmp_path)
    description = json.loads((tmp_path / "mbe.json").read_text())
    assert description["config"]["backend"] == "auto"
    description["config"]["backend"] = "numba"
    (tmp_path / "mbe.json").write_text(json.dumps(description))
    with caplog.at_level(logging.WARNING, "mbe_plugin"):
        back = mbe_plugin.load(tmp_path, transformer(depth=1), check_weights=False)
    assert caplog.messages == [
        "the saved network is loaded with backend='auto': a converted network cannot run on backend 'numba' here: "
        f"{MISSING}; keep backend='torch'"
    ]
    assert backends_of(back) == {"auto"}
    del description["config"]["backend"]  # written before there were backends
    (tmp_path / "mbe.json").write_text(json.dumps(description))
    assert backends_of(mbe_plugin.load(tmp_path, transformer(depth=1), check_weights=False)) == {"auto"}


def test_without_numba_auto_is_torch_and_says_so_once(
    caplog: pytest.LogCaptureFixture, without_numba: None
) -> None:
    neuron = MBENode(identity_tables(4, 8), "identity")
    with caplog.at_level(logging.INFO, "mbe_plugin"):
        neuron(torch.randn(3))
        neuron(torch.randn(4))
    assert caplog.messages == [f"backend 'auto' is torch: {MISSING}"]
    with pytest.raises(
        BackendError, match="MBENode cannot run on backend 'numba' here: Numba is not installed"
    ):
        neuron.backend = "numba"
    assert environment()["backend auto"] == caplog.messages[0].replace("|", "/")
    assert environment()["backend numba"] == f"not available: {MISSING}"


@pytest.mark.parametrize(
    "fault", ["import llvmlite_missing", "raise ImportError('Numba needs NumPy 2.3 or less')"]
)
def test_a_numba_that_does_not_load_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "numba.py").write_text(fault)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    [told] = numba_cpu.missing()
    assert told.startswith("Numba does not load (")
    assert "llvmlite_missing" in told or "NumPy 2.3 or less" in told


def test_a_process_without_numba_converts_and_runs(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ModuleNotFoundError('no numba', name='numba')")
    code = (
        "import torch, mbe_plugin; from torch import nn\n"
        f"net = nn.Sequential(nn.Linear({WIDTH}, 4), nn.GELU())\n"
        f"snn = mbe_plugin.convert(net, [torch.randn(3, {WIDTH})])\n"
        f"print(tuple(snn(torch.randn(2, {WIDTH})).shape))"
    )
    paths = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=paths, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "(2, 4)\n"), done.stderr
