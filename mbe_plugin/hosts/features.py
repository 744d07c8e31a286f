"""What the installed host offers, told by what is there and never by its version."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

SPIKINGJELLY = "spikingjelly.activation_based"
NEURONS, CONVERSION, FUNCTIONAL = (
    f"{SPIKINGJELLY}.neuron",
    f"{SPIKINGJELLY}.ann2snn",
    f"{SPIKINGJELLY}.functional",
)
# where the host's CuPy kernels live: in 0.0.0.0.14, and in the pre-releases of 2.0
CUPY_KERNELS = (f"{SPIKINGJELLY}.auto_cuda.base", f"{SPIKINGJELLY}.cuda_kernel.auto_cuda.base")


def has_recipes() -> bool:
    """SpikingJelly 2.0's module-tree recipes: what MBERecipe is."""
    return hasattr(importlib.import_module(CONVERSION), "ModuleConversionRecipe")


def has_dataloader_converter() -> bool:
    """SpikingJelly 0.0.0.0.14's ``Converter(dataloader)(model)``: what MBEConverter is. 2.0's Converter takes a recipe."""
    converter = getattr(importlib.import_module(CONVERSION), "Converter", None)
    return inspect.isclass(converter) and "dataloader" in inspect.signature(converter).parameters


def has_set_backend() -> bool:
    """``functional.set_backend``, with which a user chooses a network's kernels."""
    return hasattr(importlib.import_module(FUNCTIONAL), "set_backend")


def has_cupy_kernels() -> bool:
    """The host's classes for kernels compiled by CuPy; whether CuPy itself is there is another question."""
    return any(map(_exists, CUPY_KERNELS))


def host_kernel_class() -> Any:
    """The host's class for kernels over [T, N], CKernel2D, or None; CuPy need not be there."""
    return next(
        (importlib.import_module(module).CKernel2D for module in CUPY_KERNELS if _exists(module)), None
    )


def has_few_spike_node() -> bool:
    """The host's own neuron of the few-spikes family, MBENode's nearest relative."""
    return hasattr(importlib.import_module(NEURONS), "FewSpikeNode")


# what a table of the environment calls them
FEATURES: dict[str, Callable[[], bool]] = {
    "recipes (MBERecipe)": has_recipes,
    "Converter(dataloader) (MBEConverter)": has_dataloader_converter,
    "functional.set_backend": has_set_backend,
    "CuPy kernels": has_cupy_kernels,
    "FewSpikeNode": has_few_spike_node,
}


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package on the way
        return False
