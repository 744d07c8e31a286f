"""What is asked of a neuron that a backend computes in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Asked(NamedTuple):
    """The arguments of ``operator.neuron`` beside its input x [...], in the order of the operator's.

    tables: in the order of TABLE_FIELDS. form: 'identity' (closed.encode_identity with kept_bits), 'first_spike' (kept_bits
    choose the basis), 'closed' or 'steps'. reduction: its name. where: what is counted (None: all). shared: who has one of
    the power-of-two scales 2^exponents (int32) in common, '' (nobody), 'tensor' (one), 'channel' (one per entry of dim;
    then the ends are of the scaled x) or 'token' (one per entry of the others). scores: x, contiguous float32, are those of
    a softmax over the last dimension and the neuron is 2^x; the values are the numerators, the ends the powers', counts [1]
    how many are sent. calibrated: on CUDA, a range [2], float32; then three counts follow: how many inputs are asked
    about, how many lie beyond it and beyond ``accurate``, two numbers (None: it), and how many beyond it only; of a
    softmax, of the powers. counters: three int64 tensors [] to which these are added instead; never through torch's
    dispatcher, which knows no operator that adds to what it is given.
    """

    tables: Sequence[Tensor]
    form: str
    reduction: str
    mirrored: bool
    octaves: bool
    kept_bits: int
    where: Tensor | None
    counted: bool
    shared: str = ""
    exponents: Tensor | None = None
    dim: int = -1
    scores: bool = False
    calibrated: Tensor | None = None
    accurate: Sequence[float] | None = None
    counters: Sequence[Tensor] | None = None

    @property
    def in_order(self) -> bool:
        """Whether the order of the elements counts; then the output is contiguous."""
        return self.exponents is not None or self.scores

    @property
    def slots(self) -> int:
        """How many counts come back."""
        return self.event_slots + (3 if self.calibrated is not None and self.counters is None else 0)

    @property
    def event_slots(self) -> int:
        """How many of them are of events."""
        if self.counted:
            return self.tables[0].numel() + 1
        return int(self.scores and self.calibrated is None)  # what is sent is what is asked about

    def laid_out(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The output, and x and the mask in its layout, so that all of them are walked through as they lie in memory."""
        return laid_out(x, self.where, self.in_order)


def laid_out(x: Tensor, where: Tensor | None, in_order: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """See Asked."""
    out = torch.empty_like(x)
    if not x.is_contiguous():
        out = out.contiguous() if in_order else out
        if x.stride() != out.stride():
            x = torch.empty_like(out).copy_(x)
    return out, x, mask_like(out, where)


def mask_like(out: Tensor, where: Tensor | None) -> Tensor | None:
    """The mask in the shape and layout of the output."""
    if where is None or (where.shape == out.shape and where.stride() == out.stride()):
        return where
    return torch.empty_like(out, dtype=torch.bool).copy_(where)
