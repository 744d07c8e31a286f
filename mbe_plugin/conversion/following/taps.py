"""Convolutions by events: where the taps of a kernel carry an element of the input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mbe_plugin.conversion.following.fan_out import CONVOLUTION_ARGUMENTS
from mbe_plugin.conversion.vocabulary.rules import Call
from mbe_plugin.recording import EventList


def convolved(op: str, call: Call, events: EventList, out: Tensor) -> int:
    """Each event adds its amount times each tap of its channel's weights to the places that the tap reaches."""
    geometry = _Geometry.of(op, call, out)
    weight = geometry.weight_by_tap(call.operands["1"])  # [channels, taps, outputs of the group]
    batch, width = out.numel() // max(geometry.out_channels * geometry.places, 1), weight.shape[-1]
    flat = out.reshape(batch, geometry.groups, width, geometry.places).transpose(2, 3).reshape(-1, width)
    additions = 0
    for _, place, amount in events.by_step():
        image, channel, position = geometry.unravel(place)
        group = channel // (weight.shape[0] // geometry.groups)
        for tap in range(weight.shape[1]):
            reached, inside = geometry.reached(position, tap)
            row = ((image * geometry.groups + group) * geometry.places + reached)[inside]
            added = weight[channel[inside], tap].to(out.dtype) * amount[inside, None]
            flat.index_add_(0, row, added.to(out.dtype))
            additions += added.numel()
    back = flat.reshape(batch, geometry.groups, geometry.places, width).transpose(2, 3)
    out.copy_(back.reshape(out.shape))
    return additions


@dataclass(frozen=True)
class _Geometry:
    """Where a tap of a kernel carries an element of the input."""

    transposed: bool
    groups: int
    in_channels: int
    out_channels: int
    input: tuple[int, ...]
    output: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]  # padding
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, op: str, call: Call, out: Tensor) -> _Geometry:
        """The geometry of a call of a convolution."""
        transposed = "_transpose" in op
        order = CONVOLUTION_ARGUMENTS["_transpose" if transposed else ""]
        named = dict(zip(order, call.args, strict=False)) | call.kwargs
        x, weight = call.operands["0"], call.operands["1"]
        n = weight.dim() - 2
        kernel, groups = tuple(weight.shape[2:]), named.get("groups", 1)
        dilation = _each(named.get("dilation", 1), n)
        padding = named.get("padding", 0)
        if padding == "same":
            before = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
        else:
            before = (0,) * n if padding == "valid" else _each(padding, n)
        channels = weight.shape[1] * groups if transposed else weight.shape[0]
        shapes = tuple(x.shape[-n:]), tuple(out.shape[-n:])
        stride = _each(named.get("stride", 1), n)
        return cls(transposed, groups, x.shape[-n - 1], channels, *shapes, kernel, stride, before, dilation)

    @property
    def places(self) -> int:
        """Of one channel of the output."""
        return torch.Size(self.output).numel()

    def weight_by_tap(self, weight: Tensor) -> Tensor:
        """The weights as [input channels, taps, output channels of the group]."""
        taps = torch.Size(self.kernel).numel()
        if self.transposed:
            return weight.reshape(self.in_channels, -1, taps).mT
        by_group = weight.reshape(self.groups, -1, self.in_channels // self.groups, taps)
        return by_group.permute(0, 2, 3, 1).reshape(self.in_channels, taps, -1)

    def unravel(self, place: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Image, channel and position of elements of the input, by their flat index."""
        position: list[Tensor] = []
        for size in reversed(self.input):
            position.insert(0, place % size)
            place = place // size
        return place // self.in_channels, place % self.in_channels, position

    def reached(self, position: list[Tensor], tap: int) -> tuple[Tensor, Tensor]:
        """Which place of the output (flat) a tap carries each position to, and whether there is one."""
        flat = torch.zeros_like(position[0])
        inside = torch.ones_like(flat, dtype=torch.bool)
        for d, size in enumerate(self.kernel):
            offset = tap // torch.Size(self.kernel[d + 1 :]).numel() % size * self.dilation[d]
            if self.transposed:
                to = position[d] * self.stride[d] - self.before[d] + offset
            else:
                shifted = position[d] + self.before[d] - offset
                inside &= shifted % self.stride[d] == 0
                to = shifted // self.stride[d]
            inside &= (to >= 0) & (to < self.output[d])
            flat = flat * self.output[d] + to
        return flat, inside


def _each(value: int | tuple[int, ...], n: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * n
    return tuple(value) * n if len(value) == 1 else tuple(value)
