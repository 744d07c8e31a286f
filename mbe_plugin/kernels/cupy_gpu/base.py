"""The interface of SpikingJelly's CKernel2D, for hosts that no longer have it (2.0.0)."""

from __future__ import annotations


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
