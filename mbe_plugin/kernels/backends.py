"""Which backends the neuron has in each step mode, as SpikingJelly counts them, and why one cannot run here."""

from __future__ import annotations

import importlib

import torch

from mbe_plugin.errors import BackendError

# the host's rule: a kernel over all T steps is a matter of step mode 'm'
SUPPORTED: dict[str, tuple[str, ...]] = {"s": ("torch",), "m": ("torch", "cupy")}
BACKENDS = SUPPORTED["m"]


def missing(backend: str) -> list[str]:
    """What keeps one of BACKENDS from running here; nothing for one that can."""
    if backend == "torch":
        return []
    gpu = [] if torch.cuda.is_available() else ["there is no CUDA GPU (torch.cuda.is_available() is False)"]
    return [*_without_cupy(), *gpu, "the CuPy kernel comes with a later release of mbe_plugin"]


def require(backend: str, step_mode: str, neuron: str) -> None:
    """Raise BackendError, in one sentence, unless the backend can be chosen for a neuron in this step mode."""
    if backend not in BACKENDS:
        known = ", ".join(map(repr, BACKENDS))
        raise BackendError(f"{neuron} knows no backend {backend!r}; take one of {known}")
    if backend not in SUPPORTED[step_mode]:
        raise BackendError(
            f"{neuron} has the backend {backend!r} in step_mode 'm' only and is in {step_mode!r}; call "
            "functional.set_step_mode(net, 'm') first, or keep backend='torch'"
        )
    reasons = missing(backend)
    if reasons:
        raise BackendError(
            f"{neuron} cannot run on backend {backend!r} here: {', '.join(reasons)}; keep backend='torch'"
        )


def cupy_install() -> str:
    """The command that installs the CuPy of this torch's CUDA."""
    major = (torch.version.cuda or "12").split(".")[0]
    return f"pip install cupy-cuda{major}x"


def _without_cupy() -> list[str]:
    try:
        importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return [f"CuPy is not installed ({cupy_install()})"]
        return [f"CuPy does not load ({error})"]
    except ImportError as error:
        return [f"CuPy does not load ({error})"]
    return []
