"""Tables cast to the dtype and device of one call, with what the kernels derive from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mbe_plugin.kernels.banks import find_bank


@dataclass(frozen=True)
class Prepared:
    """What a kernel needs; the tensors have the dtype and device of the input."""

    threshold: Tensor
    reset: Tensor
    intensity: Tensor
    weight: Tensor
    bias: Tensor
    offset: Tensor
    gain: Tensor
    breakpoints: Tensor
    mirrored: bool
    halving: bool
    octaves: bool = False

    @property
    def time_steps(self) -> int:
        """T."""
        return self.threshold.shape[0]

    @property
    def banks(self) -> int:
        """B."""
        return self.bias.shape[0]

    @property
    def bases_per_bank(self) -> int:
        """How many bases one element drives."""
        return self.weight.shape[0] // self.banks

    def bank(self, x: Tensor) -> Tensor | None:
        """Bank of each element, or None when there is only one."""
        if self.banks == 1:
            return None
        return find_bank(x, self.breakpoints, self.mirrored, self.octaves)

    def rows(self, bank: Tensor | None, place: int) -> int | Tensor:
        """Index of the basis at ``place`` within each element's bank."""
        return place if bank is None else bank * self.bases_per_bank + place


def prepare(
    buffers: Mapping[str, Tensor], like: Tensor, *, mirrored: bool, halving: bool, octaves: bool = False
) -> Prepared:
    """Cast buffers to the dtype and device of ``like``."""
    cast = {name: value.to(like) for name, value in buffers.items()}
    return Prepared(**cast, mirrored=mirrored, halving=halving, octaves=octaves)
