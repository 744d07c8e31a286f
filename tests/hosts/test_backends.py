"""MBENode.backend, by the rules of a host that has backends, and the same on one that has none."""

from __future__ import annotations

import copy
import logging
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from features import offered
from networks import WIDTH, tokens, transformer
from oracle import assert_same_bits
from spikingjelly.activation_based import functional, neuron
from torch import nn

import mbe_plugin
from mbe_plugin import BackendError, MBENode
from mbe_plugin.fitting.segments import identity_tables
from mbe_plugin.kernels import backends
from mbe_plugin.kernels.cupy_gpu import kernel


def node(step_mode: str = "s") -> MBENode:
    return MBENode(identity_tables(4, 8), "identity", step_mode=step_mode)


def set_backend(net: nn.Module, backend: str) -> None:
    offered("spikingjelly.activation_based.functional", "set_backend")(net, backend)


def test_what_each_step_mode_has() -> None:
    neuron = node()
    assert (neuron.supported_backends, neuron.backend) == (("auto", "torch", "numba", "triton"), "auto")
    functional.set_step_mode(neuron, "m")
    assert (neuron.supported_backends, neuron.backend) == (("auto", "torch", "cupy"), "auto")
    neuron.backend = "torch"
    assert "backend=torch" in repr(neuron)


def test_a_backend_that_nobody_knows_is_refused_by_name() -> None:
    for step_mode in "sm":
        with pytest.raises(
            BackendError,
            match="^MBENode knows no backend 'tpu'; take one of 'auto', 'torch', 'numba', 'triton', 'cupy'$",
        ):
            node(step_mode).backend = "tpu"


def test_step_mode_comes_first() -> None:
    with pytest.raises(
        BackendError, match=r"in step_mode 'm' only and is in 's'; call functional.set_step_mode\("
    ) as told:
        node().backend = "cupy"
    assert str(told.value).endswith("or keep backend='torch'")
    assert isinstance(told.value, NotImplementedError), "the host's own class for it"


@pytest.fixture
def without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import of it raises ModuleNotFoundError


@pytest.fixture
def with_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))


def refusal(neuron: MBENode) -> str:
    with pytest.raises(BackendError) as told:
        neuron.backend = "cupy"
    assert neuron.backend == "auto"
    return str(told.value)


@pytest.mark.parametrize(
    ("cuda", "wheel"), [("13.0", "cupy-cuda13x"), ("12.8", "cupy-cuda12x"), (None, "cupy-cuda12x")]
)
def test_without_cupy(
    without_cupy: None, monkeypatch: pytest.MonkeyPatch, cuda: str | None, wheel: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    told = refusal(node("m"))
    assert told.startswith(
        f"MBENode cannot run on backend 'cupy' here: CuPy is not installed (pip install {wheel}), "
    )
    assert told.endswith("; keep backend='torch'")


def test_with_cupy_a_gpu_is_needed(with_cupy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refusal(node("m")) == (
        "MBENode cannot run on backend 'cupy' here: there is no CUDA GPU (torch.cuda.is_available() is False); "
        "keep backend='torch'"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    neuron = node("m")
    neuron.backend = "cupy"
    assert neuron.backend == "cupy"


@pytest.mark.parametrize("fault", ["import fastrlock_missing", "raise ImportError('no libnvrtc')"])
def test_a_cupy_that_does_not_load_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "cupy.py").write_text(fault)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    told = refusal(node("m"))
    assert (
        "CuPy does not load (No module named 'fastrlock_missing'), " in told or "load (no libnvrtc), " in told
    )


def test_torch_can_always_run() -> None:
    assert backends.missing("torch") == []


def test_copies_and_pickles_keep_it() -> None:
    neuron = node("m")
    neuron.backend = "torch"
    for twin in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert (twin.backend, twin.supported_backends) == ("torch", ("auto", "torch", "cupy"))


# through the host's functional.set_backend, on the hosts that have it


def test_the_host_logs_and_goes_on_in_mode_s(caplog: pytest.LogCaptureFixture) -> None:
    neuron = node()
    with caplog.at_level(logging.WARNING):
        set_backend(neuron, "cupy")
    assert "does not supports for backend=cupy. It will still use backend=auto" in caplog.text
    assert neuron.backend == "auto"


def test_and_hears_why_not_in_mode_m(caplog: pytest.LogCaptureFixture, without_cupy: None) -> None:
    net = nn.Sequential(nn.Linear(3, 3), node("m"))
    set_backend(net, "torch")
    with pytest.raises(BackendError, match="cannot run on backend 'cupy' here: CuPy is not installed"):
        set_backend(net, "cupy")
    set_backend(net, "lava")  # which the neuron has in no mode: the host's rule is a warning
    assert "backend=lava. It will still use backend=torch" in caplog.text
    assert net[1].backend == "torch"


def test_a_converted_network(caplog: pytest.LogCaptureFixture, without_cupy: None) -> None:
    snn = mbe_plugin.convert(transformer(), [tokens(2, 5, WIDTH)], mbe_plugin.MBEConfig(bases=8))
    x = tokens(2, 5, WIDTH, seed=2)
    want = snn(x)
    set_backend(snn, "cupy")
    assert "It will still use backend=auto" in caplog.text
    functional.set_step_mode(snn, "m")
    with pytest.raises(BackendError, match="CalibratedNode cannot run on backend 'cupy' here"):
        set_backend(snn, "cupy")
    functional.set_step_mode(snn, "s")
    assert {m.backend for m in snn.modules() if isinstance(m, MBENode)} == {"auto"}
    assert_same_bits(snn(x), want)


def test_set_backend_runs_the_hosts_kind_of_kernel(cupy: Any) -> None:
    """The host's own kernel class, but neither its -use_fast_math nor its np.int, which NumPy no longer has."""
    net = nn.Sequential(nn.Linear(3, 3), node())
    x = torch.randn(4, 5, 3)
    functional.set_step_mode(net, "m")
    want = net(x)
    set_backend(net, "cupy")
    assert net[1].backend == "cupy"
    cupy.launches.clear()
    assert_same_bits(net(x), want)
    assert [name for name, _, _ in cupy.launches] == ["mbe_sequence_float"]
    assert "-use_fast_math" not in cupy.made[0].options
    kinds = [kind.__module__ for kind in type(kernel.kernel_of("sequence", torch.float32)).__mro__]
    assert any(kind.startswith("spikingjelly.activation_based.") for kind in kinds)


def test_a_converted_network_on_cupy(cupy: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2), nn.Tanh())
    x = torch.randn(4, 6, 3)
    snn = mbe_plugin.convert(model, [x.sum(0)], mbe_plugin.MBEConfig(time_steps=4, bases=8))
    functional.set_step_mode(snn, "m")
    set_backend(snn, "torch")
    want = snn(x)
    set_backend(snn, "cupy")
    assert cupy.launches == []
    assert_same_bits(snn(x), want)
    assert {name for name, _, _ in cupy.launches} == {"mbe_decoded_float", "mbe_sequence_float"}


def test_a_network_of_both_neurons_follows_the_host() -> None:
    net = nn.Sequential(neuron.LIFNode(step_mode="m"), node("m"))
    set_backend(net, "torch")
    assert [m.backend for m in net] == ["torch", "torch"]
