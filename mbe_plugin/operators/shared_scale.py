"""Identities whose power-of-two scale is shared: by a token, a channel or a whole tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbe_plugin.neuron.scaling import (
    IDENTITY,
    binary_exponent,
    compute_dtype,
    power_of_two,
    scale_by_power_of_two,
)
from mbe_plugin.neuron.tables import Tables
from mbe_plugin.operators.neuron import CalibratedNode
from mbe_plugin.operators.ranges import ends_of, hold


class SharedScaleNode(CalibratedNode):
    """An identity whose power-of-two scale is shared: per token (from the data), channel or tensor (calibrated).

    The tables live on magnitudes [0, 1), routed by binary exponent, or by mantissa in the first-spike code; a value at or
    above the shared scale saturates. With 'channel', ``calibrated`` is [-1, 1], in units of each channel's scale, so that
    what saturates in a small channel is counted although a large one would hold it. With 'token' nothing finite
    saturates, so what calibration did not see is ``beyond`` its range and never ``outside``. With ``center`` [C] the train
    spells the distance to a constant per channel, which the layer's bias takes in; range and dead zone are of the distance.
    """

    exponents: Tensor
    center: Tensor

    def __init__(
        self,
        tables: Tables,
        scale: str,
        exponents: Tensor,
        low: float,
        high: float,
        center: Tensor | None = None,
    ) -> None:
        reduction, error = ("clip", 1 / tables.bases) if tables.octaves else ("none", 2.0**-tables.time_steps)
        super().__init__(tables, reduction, low, high, "identity", error)
        self.shared = scale
        self.register_buffer("exponents", exponents)
        self.register_buffer("center", torch.zeros(()) if center is None else center)
        self.centered = center is not None

    @property
    def scale(self) -> str:
        """Where the power-of-two scale comes from."""
        return self.shared

    def forward(self, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Tensor:
        """Decoded value of x, scaled along ``dim``, the contracted dimension."""
        alone = self.spike_listener is None and not self.centered
        if alone and self._kernel_for(x) is not None and x.is_contiguous():
            return self._scaled_in_one_pass(x, dim, where)
        reduced, exponent = self.scaled(x, dim)
        self.count_range(reduced if self.shared == "channel" else self.distance(x, dim), where)
        if self.spike_listener is not None:
            self.spike_listener(reduced, where, exponent, None)
        return self._restored(self.single_step_forward(reduced), exponent, dim).to(x.dtype)

    def _scaled_in_one_pass(self, x: Tensor, dim: int, where: Tensor | None) -> Tensor:
        """forward(x, dim, where) where there is a _kernel_for(x), for contiguous x and without a listener."""
        sent = self.without_dead_zone(x)
        exponents = self._exponent(sent.to(compute_dtype(x)), dim)
        ranged = self._ranged(x) if sent is x else {}
        asked = where if ranged else None
        y, ends, counts = self._by_kernel(
            sent, asked, shared=self.shared, exponents=exponents, dim=dim, **ranged
        )
        if ranged:
            self._without_range(counts, ranged)
        elif self.shared != "channel":
            self.count_range(x, where, ends if sent is x else None)
        elif not hold(self.calibrated, ends_of(x, ends)):
            self.count_range(self.scaled(x, dim)[0], where)
        else:
            self.see(x, where)
        return y

    def decoded(self, x: Tensor, dim: int = -1) -> Tensor:
        """See CalibratedNode."""
        reduced, exponent = self.scaled(x, dim)
        return self._restored(self.single_step_forward(reduced), exponent, dim).to(x.dtype)

    def sequence(self, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Tensor:
        """See CalibratedNode; the shared scale is inside the values, the center in the first step's."""
        reduced, exponent = self.scaled(x, dim)
        weighted = scale_by_power_of_two(self.weighted_spikes(reduced), exponent)
        if self.centered:
            weighted = torch.cat([weighted[:1] + self.center_along(x.dim(), dim), weighted[1:]])
        return weighted.to(x.dtype)

    def scaled(self, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """x less the center, in units of its scale, with 0 for the dead zone; and the scale's exponent."""
        work = self.without_dead_zone(self.distance(x.to(compute_dtype(x)), dim))
        exponent = self._exponent(work, dim)
        return scale_by_power_of_two(work, -exponent), exponent

    def distance(self, x: Tensor, dim: int) -> Tensor:
        """x less the center."""
        return x - self.center_along(x.dim(), dim) if self.centered else x

    def center_along(self, dims: int, dim: int) -> Tensor:
        """The center in a shape of so many dimensions, along dim."""
        return self._along(self.center, dims, dim)

    def _restored(self, y: Tensor, exponent: Tensor, dim: int) -> Tensor:
        y = scale_by_power_of_two(y, exponent)
        return y + self.center_along(y.dim(), dim) if self.centered else y

    def accurate_range(self, dtype: torch.dtype) -> tuple[Any, Any] | None:
        """See CalibratedNode; with 'tensor' up to the scale, which is a power of two above the range."""
        if self.shared == "token":
            return IDENTITY.accurate_range(dtype, mirrored=True)
        if self.shared == "channel":
            return None
        reach = power_of_two(self.exponents, torch.float32)
        return -reach, reach

    def _accurate_numbers(self, dtype: torch.dtype) -> tuple[float, float] | None:
        # the reach of 'tensor' is in its exponents, which the kernel has
        return self.accurate_range(dtype) if self.shared == "token" else None

    def _exponent(self, work: Tensor, dim: int) -> Tensor:
        if self.shared == "token":
            return binary_exponent(work.abs().amax(dim=dim, keepdim=True))
        if self.shared == "tensor" or work.dim() == 0:
            return self.exponents
        return self._along(self.exponents, work.dim(), dim)

    @staticmethod
    def _along(values: Tensor, dims: int, dim: int) -> Tensor:
        """Values [C], one per entry of dim, in a shape that broadcasts."""
        shape = [1] * dims
        shape[dim % dims] = -1
        return values.reshape(shape)
