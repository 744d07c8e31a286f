"""UnitSpec: a whole module that is one operator, found by probe.py."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mbe_plugin.conversion.marks import CODED, PRODUCT


@dataclass(frozen=True)
class UnitSpec:
    """A whole module that is one operator: 'unary' (function name) or 'normalization'."""

    kind: str
    function: str
    centered: bool = False
    eps: float = 0.0
    gain_offset: float = 0.0
    weight: str | None = None
    bias: str | None = None

    @property
    def emits(self) -> int:
        """How the unit's output is marked (marks.py)."""
        return CODED if self.kind == "unary" else PRODUCT

    def arguments(self, module: nn.Module, x: Tensor) -> tuple:
        """What the operator is called with."""
        if self.kind == "unary":
            return (x,)
        weight = None if self.weight is None else getattr(module, self.weight)
        bias = None if self.bias is None else getattr(module, self.bias)
        return x, weight, bias
