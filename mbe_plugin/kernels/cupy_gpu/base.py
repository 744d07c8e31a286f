"""SpikingJelly's CKernel2D where the host has it, and its interface for hosts that no longer do (2.0.0)."""

from __future__ import annotations

import importlib.util
from typing import Any

# where the host's CuPy kernels live: in 0.0.0.0.14, and in the pre-releases of 2.0
HOST_KERNELS = tuple(
    f"spikingjelly.activation_based.{module}" for module in ("auto_cuda.base", "cuda_kernel.auto_cuda.base")
)


def host_kernels() -> str | None:
    """The host's module of kernels compiled by CuPy, or None; told by what is there and never by a version."""
    return next(filter(_exists, HOST_KERNELS), None)


def host_kernel_class() -> Any:
    """The host's class for kernels over [T, N], CKernel2D, or None; CuPy need not be there."""
    module = host_kernels()
    return None if module is None else importlib.import_module(module).CKernel2D


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package on the way
        return False


class CKernel2D:
    """A CUDA kernel [T, N] as text: its parameters by name, what it does once, and what for each element.

    cparams: name -> type; they are passed in the order of their names. reserved_cnames: names that no parameter may have.
    Raises ValueError for a parameter whose name is taken.
    """

    def __init__(self, kernel_name: str) -> None:
        self.kernel_name = kernel_name
        self.cparams = {"N": "const int &", "numel": "const int &"}
        self.reserved_cnames = ["index", "dt", "t"]
        self.core = self.pre_core = self.post_core = ""

    def add_param(self, ctype: str, cname: str) -> None:
        """One more parameter."""
        if cname in self.cparams or cname in self.reserved_cnames:
            raise ValueError(f"the kernel {self.kernel_name} has a {cname!r} already; take another name")
        self.cparams[cname] = ctype

    def check_keys(self, py_dict: dict) -> None:
        """Raise ValueError unless there is a value for each parameter and none for others."""
        if py_dict.keys() != self.cparams.keys():
            odd = sorted(py_dict.keys() ^ self.cparams.keys())
            raise ValueError(f"the kernel {self.kernel_name} takes {sorted(self.cparams)}; look at {odd}")

    declaration = head = tail = ""

    @property
    def full_codes(self) -> str:
        """The whole text."""
        return self.declaration + self.head + self.core + self.tail
