"""The Triton kernels as the GPU gets them, compiled without one: nothing is fused, approximated or flushed to zero."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from mbe_plugin import BackendError, MBENode, fit
from mbe_plugin.fitting.segments import identity_tables, shared_scale_tables
from mbe_plugin.hosts import features
from mbe_plugin.kernels import backends, operator, triton_gpu
from mbe_plugin.neuron.first_spike import first_spike_tables

triton = pytest.importorskip("triton", reason="pip install triton")
if not features.has_recipes():  # an older host, on which the suite runs once more
    pytest.skip(
        "Triton's kernels do not know the host; SpikingJelly 2.0's run tests them", allow_module_level=True
    )

TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.int16: "*i16", torch.int32: "*i32"} | {
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.bfloat16: "*bf16",
}
LAUNCHING = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")


def launched(run: Callable[[], object]) -> list[tuple[Any, tuple, dict]]:
    """The kernels that a call launches, and their arguments."""
    from mbe_plugin.kernels.triton_gpu.compiled import attention, cells, kernels, norms

    found = []

    def recorder(kernel: Any) -> Any:
        return mock.MagicMock(__getitem__=lambda _, grid: lambda *a, **k: found.append((kernel, a, k)))

    with ExitStack() as patched:
        of_elements = (cells, "lay_out"), (kernels, "neuron"), (kernels, "numerators")
        for module, name in (*of_elements, (norms, "normalize"), (attention, "attend")):
            patched.enter_context(mock.patch.object(module, name, recorder(getattr(module, name))))
        run()
    return found


def compiled(launch: tuple[Any, tuple, dict], capability: int) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, args, constants = launch
    constants = constants | ({"PTX": True} if "PTX" in constants else {})
    options = {name: constants.pop(name) for name in LAUNCHING if name in constants}
    given = dict(zip(kernel.arg_names, args, strict=False))
    ones = [name for name, value in given.items() if type(value) is int and value == 1]
    constants |= {name: given.pop(name) for name in ones}  # as at a launch
    signature = {name: _type(given[name]) if name in given else "constexpr" for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _type(value: object) -> str:
    if isinstance(value, Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


LIMITS = {"calibrated": torch.zeros(2), "accurate": (-1.0, 1.0)}
RANGED = {"counted": True, **LIMITS}
INSIDE = {**LIMITS, "counters": [torch.zeros((), dtype=torch.int64)] * 3}


def neuron(made: MBENode, x: Tensor, **more: Any) -> Callable[[], object]:
    from mbe_plugin.kernels.triton_gpu import calls

    def run() -> object:
        with mock.patch.object(operator, "neuron", calls.neuron):
            return made._by_kernel(x, **more)

    return run


def of(function: str, time_steps: int = 8, bases: int = 16, **kwargs: Any) -> MBENode:
    return fit(function, time_steps=time_steps, bases=bases, **kwargs).node()


def normalisation() -> object:
    from mbe_plugin.kernels.triton_gpu.norms import normalized

    deviation = MBENode(identity_tables(16, 8), "identity")._asked(**INSIDE)
    gain = torch.ones(768)
    return normalized(
        torch.zeros(64, 768), 768, 1e-5, True, gain, gain, deviation, of("rsqrt")._asked(**INSIDE)
    )


def attention() -> object:
    from mbe_plugin.kernels.triton_gpu.attention import attended

    q = torch.zeros(2, 3, 100, 32)
    identity = MBENode(identity_tables(16, 8), "identity")._asked(**INSIDE)
    exp2, reciprocal = (of(name, 16, 64)._asked(**INSIDE) for name in ("exp2", "reciprocal"))
    return attended(q, q, q, 0.25, None, True, exp2, reciprocal, identity, identity)


X, SHORT = torch.zeros(4096), torch.zeros(4096).bfloat16()
SHARED = {"shared": "channel", "exponents": torch.zeros(256, dtype=torch.int32)}
KERNELS: dict[str, Callable[[], object]] = {
    "gelu": neuron(of("gelu", 16, 64), X),
    "gelu with counts and where": neuron(of("gelu", 16, 64), X, where=X == 0, **RANGED),
    "exp2": neuron(of("exp2"), X),
    "scores": neuron(of("exp2"), torch.zeros(64, 64), scores=True, **LIMITS),
    "1/sqrt": neuron(of("rsqrt"), X.half()),
    "sqrt": neuron(of("sqrt_octave"), X),
    "steps": neuron(of("gelu", 16, 4, family="published"), X),
    "identity": neuron(MBENode(identity_tables(16, 8), "identity"), SHORT, **RANGED),
    "first spike": neuron(MBENode(first_spike_tables(16, 8), "clip"), X, **RANGED),
    "a scale per channel": neuron(MBENode(shared_scale_tables(8, 8)), torch.zeros(16, 256), **SHARED),
    "one element": neuron(of("gelu"), torch.zeros(1)),
    "normalisation": normalisation,
    "attention": attention,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Nothing compiled earlier is taken for the result."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_is_fused_approximated_or_flushed(cache: None, name: str) -> None:
    capability = 90 if name in ("exp2", "first spike") else 80
    for launch in launched(KERNELS[name]):
        code = compiled(launch, capability).asm["ptx"]
        assert f".target sm_{capability}" in code
        assert not re.findall(r"\b(?:fma|mad)\.(?!lo|hi|wide)\S*", code), (
            "a multiplication and an addition, rounded once"
        )
        assert not re.findall(r"\S*(?:approx|\.full|\.ftz)\S*", code)


def test_the_assembler_fuses_nothing_either(cache: None, tmp_path: Path) -> None:
    from triton.backends import nvidia

    disassembler = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    if not disassembler.exists():
        pytest.skip("this Triton brings no disassembler")
    for name in ("gelu", "steps"):
        (tmp_path / "kernel.cubin").write_bytes(compiled(launched(KERNELS[name])[-1], 80).asm["cubin"])
        command = [disassembler, "-sass", tmp_path / "kernel.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert "FADD" in done.stdout
        assert "FFMA" not in done.stdout


# whether it can be chosen


def test_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backends.missing("triton") == ["there is no CUDA GPU (torch.cuda.is_available() is False)"]
    with pytest.raises(
        BackendError,
        match="^MBENode cannot run on backend 'triton' here: there is no CUDA GPU .*; keep backend='torch'$",
    ):
        MBENode(identity_tables(4, 8), "identity", backend="triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert backends.missing("triton") == [
        "this is a ROCm build of torch (6.4), and the kernels are for NVIDIA's GPUs"
    ]
    monkeypatch.setattr(torch.version, "hip", None)
    assert backends.missing("triton") == []


def on_gpu(dtype: torch.dtype = torch.float32) -> Any:
    """What is asked of an input on a GPU."""
    return SimpleNamespace(is_cuda=True, device=torch.device("cuda", 0), dtype=dtype)


def test_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert [triton_gpu.refusal(on_gpu(dtype)) for dtype in triton_gpu.DTYPES] == [None] * 3
    assert triton_gpu.refusal(on_gpu(torch.float64)) == "an input of torch.float64"
    assert triton_gpu.refusal(torch.zeros(2)) == "an input on cpu"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert triton_gpu.refusal(on_gpu()) == "an input on cuda:0, whose compute capability is 7.5 and not 8.0"


@pytest.mark.parametrize(("here", "taken"), [([], "triton"), (["Triton is not installed"], "torch")])
def test_auto_goes_by_the_device(monkeypatch: pytest.MonkeyPatch, here: list[str], taken: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(backends._MISSING, "triton", lambda: here)
    monkeypatch.setitem(backends._MISSING, "numba", list)
    monkeypatch.setattr(backends, "PLAIN", (Tensor, SimpleNamespace))
    backends._taken.cache_clear()
    try:
        assert backends.runs_on("auto", on_gpu()) == taken
        assert backends.runs_on("auto", on_gpu(torch.float64)) == "torch"
        assert backends.runs_on("auto", torch.zeros(2)) == "numba"
        assert "numba on the CPU" in backends.automatic()
        assert (
            "triton on CUDA" if taken == "triton" else "(Triton is not installed)"
        ) in backends.automatic()
    finally:
        backends._taken.cache_clear()


def test_the_operator_counts_ranges_on_cuda_only() -> None:
    made, x = MBENode(identity_tables(4, 8), "identity"), torch.zeros(3)
    with pytest.raises(BackendError, match="counts what leaves a range on CUDA only"):
        made._by_kernel(x, **LIMITS)
