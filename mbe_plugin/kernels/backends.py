"""Which backends the neuron has in each step mode, as SpikingJelly counts them, why one cannot run here, and which does.

A backend is a module or a package in this folder with ``missing()`` and ``refusal(x)``; see numba_cpu.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from mbe_plugin.errors import BackendError
from mbe_plugin.kernels import cupy_gpu, numba_cpu, triton_gpu
from mbe_plugin.kernels.libraries import why_absent, without_gpu

# the host's rule: a kernel over all T steps is a matter of step mode 'm'; ours compute the decoded value of mode 's'
SUPPORTED: dict[str, tuple[str, ...]] = {
    "s": ("auto", "torch", "numba", "triton"),
    "m": ("auto", "torch", "cupy"),
}
Backend = Literal["auto", "torch", "numba", "triton", "cupy"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
# those that compute a decoded value in one call, with its counts and ends; and all that have kernels
ONE_PASS: dict[str, ModuleType] = {"numba": numba_cpu, "triton": triton_gpu}
_KERNELS: dict[str, ModuleType] = {**ONE_PASS, "cupy": cupy_gpu}
PLAIN = (Tensor, torch.nn.Parameter)  # inputs whose type means nothing of its own


def missing(backend: str) -> list[str]:
    """What keeps one of BACKENDS from running here; nothing for one that can."""
    return _MISSING[backend]() if backend in _MISSING else []


def require(backend: str, supported: Sequence[str], step_mode: str, neuron: str) -> None:
    """Raise BackendError, in one sentence, unless the backend can be chosen for a neuron in this step mode."""
    check_known(backend, neuron)
    if backend not in supported:
        other = "m" if step_mode == "s" else "s"
        raise BackendError(
            f"{neuron} has the backend {backend!r} in step_mode {other!r} only and is in {step_mode!r}; call "
            f"functional.set_step_mode(net, {other!r}) first, or keep backend='torch'"
        )
    reasons = missing(backend)
    if reasons:
        raise BackendError(
            f"{neuron} cannot run on backend {backend!r} here: {', '.join(reasons)}; keep backend='torch'"
        )


def check_known(backend: object, who: str) -> None:
    """Raise BackendError for what is not one of BACKENDS."""
    if backend not in BACKENDS:
        known = ", ".join(map(repr, BACKENDS))
        raise BackendError(f"{who} knows no backend {backend!r}; take one of {known}")


def runs_on(backend: str, x: Tensor) -> str:
    """'torch', one of ONE_PASS or 'cupy': what computes a decoded value of x [...].

    Raises BackendError for an input for which a backend asked for by name has no kernel.
    """
    if backend == "auto":
        return _automatic(x)
    if backend not in _KERNELS:
        return "torch"
    if why := _KERNELS[backend].refusal(x):
        raise BackendError(f"backend {backend!r} has no kernel for {why}; take backend='auto' or 'torch'")
    return backend


def spells_out(backend: str, x: Tensor) -> str:
    """'torch' or 'cupy': what makes the spikes of x [...], step by step; errors as runs_on's."""
    if backend == "cupy":
        return runs_on(backend, x)
    if backend != "auto" or torch.compiler.is_compiling() or type(x) not in PLAIN or cupy_gpu.refusal(x):
        return "torch"
    return "cupy" if _cupy_is_there() else "torch"


def _automatic(x: Tensor) -> str:
    # a compiler and a subclass of Tensor (DTensor, say) know what torch's own operators do
    if torch.compiler.is_compiling() or type(x) not in PLAIN:
        return "torch"
    backend = "triton" if x.is_cuda else "numba"
    return backend if not ONE_PASS[backend].refusal(x) and backend in _taken() else "torch"


@cache
def _taken() -> frozenset[str]:
    logging.getLogger("mbe_plugin").info(automatic())
    return frozenset(name for name in _devices() if not missing(name))


@cache
def _cupy_is_there() -> bool:
    logging.getLogger("mbe_plugin").info(automatic_on_gpu())
    return not missing("cupy")


def automatic_on_gpu() -> str:
    """What the backend 'auto' takes on a CUDA GPU for step_mode 'm' and why, in one sentence."""
    reasons = missing("cupy")
    if reasons:
        return f"backend 'auto' in step_mode 'm' is torch: {', '.join(reasons)}"
    return (
        "backend 'auto' in step_mode 'm' is cupy for float32, float16 and bfloat16 on a CUDA GPU, where one kernel writes "
        "all steps, and torch for other inputs and in compiled forwards"
    )


def automatic() -> str:
    """What the backend 'auto' takes here and why, in one sentence."""
    found = {name: missing(name) for name in _devices()}
    absent = ", ".join(reason for reasons in found.values() for reason in reasons)
    if all(found.values()):
        return f"backend 'auto' is torch: {absent}"
    taken = " and ".join(f"{name} on {device}" for name, device in _devices().items() if not found[name])
    return (
        f"backend 'auto' is {taken} for float32, bfloat16 and float16, where one compiled pass is the cheapest, and torch "
        f"for other inputs and in compiled forwards{absent and f' ({absent})'}"
    )


def _devices() -> dict[str, str]:
    """The backends of this machine's devices."""
    return {"numba": "the CPU"} | ({"triton": "CUDA"} if torch.cuda.is_available() else {})


def cupy_install() -> str:
    """The command that installs the CuPy of this torch's CUDA."""
    major = (torch.version.cuda or "12").split(".")[0]
    return f"pip install cupy-cuda{major}x"


def _cupy() -> list[str]:
    return [*why_absent("cupy", "CuPy", cupy_install()), *without_gpu()]


_MISSING: dict[str, Callable[[], list[str]]] = {
    **{name: backend.missing for name, backend in ONE_PASS.items()},
    "cupy": _cupy,
}
