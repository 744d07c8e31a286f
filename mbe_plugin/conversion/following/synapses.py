"""Synapses: each event of a call's operands adds its amount times a row of weights to the outputs that it reaches.

What fan_out.py counts is done here, event after event in the order of time, and counted while it is done. Matrix
products and convolutions (taps.py) are scatter-adds; other functions that are linear in each operand are called with the
events of one slot at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from itertools import product

import torch
from torch import Tensor

from mbe_plugin.conversion.following.fan_out import (
    MATRIX_PRODUCTS,
    arrivals,
    without_addend,
)
from mbe_plugin.conversion.following.taps import convolved
from mbe_plugin.conversion.vocabulary.rules import Call, MultilinearRule
from mbe_plugin.recording import EventList

AT_ONCE = 1 << 22  # additions in one scatter
Operand = EventList | Tensor
Arrange = Callable[[Tensor], Tensor]


def deliver(rule: MultilinearRule, call: Call, lists: Mapping[str, EventList], out: Tensor) -> int:
    """Add to ``out``, the call's output without them, what the events of its operands cause; how many additions that took.

    lists: by operand, without their constants. The function must have synapses (fan_out.check_synapses).
    """
    arranged = _arranged(rule, call, out)
    if arranged is not None:
        first, second = (_canonical(lists.get(n, t), f) for (n, t), f in arranged.operands(call))
        into = out.view(arranged.shape)
        return _matrix_product(first, second, into, call.kwargs.get("alpha", 1))
    if rule.op.startswith("conv") and set(lists) == {"0"}:
        return convolved(rule.op, call, lists["0"], out)
    return _by_the_function(rule, call, lists, out)


def add_up(events: EventList, into: Tensor, index: Tensor | None = None) -> int:
    """Add each event to its own element of ``into``, or to the one (flat index) that ``index`` [...] names for it."""
    flat, additions = into.view(-1), 0
    for _, place, amount in events.by_step():
        where = place if index is None else index.reshape(-1)[place]
        flat.index_add_(0, where, amount.to(flat.dtype))
        additions += len(place)
    return additions


@dataclass(frozen=True)
class _Matrices:
    """A call as out[b, l, s] += sum over k of first[b, l, k] second[b, k, s]."""

    first: Arrange
    second: Arrange
    shape: tuple[int, int, int]

    def operands(self, call: Call) -> Iterator[tuple[tuple[str, Tensor], Arrange]]:
        """Name, tensor and arrangement of both."""
        return zip(call.operands.items(), (self.first, self.second), strict=True)


def _arranged(rule: MultilinearRule, call: Call, out: Tensor) -> _Matrices | None:
    """None for a function that is no product of two matrices."""
    if rule.op == "linear":
        weight = call.operands["1"]
        width = weight.shape[0] if weight.dim() > 1 else 1
        rows = out.numel() // max(width, 1)
        return _Matrices(
            lambda x: x.reshape(1, rows, x.shape[-1]),
            lambda w: w.reshape(1, width, w.shape[-1]).mT,
            (1, rows, width),
        )
    if rule.op not in MATRIX_PRODUCTS or call.function is Tensor.__rmatmul__:
        return None
    a, b = (t.shape for t in call.operands.values())
    rows, inner, columns = a[-2] if len(a) > 1 else 1, a[-1], b[-1] if len(b) > 1 else 1
    if rule.op == "addbmm":  # the batch is summed over, too
        return _Matrices(
            lambda x: x.transpose(0, 1).reshape(1, rows, -1),
            lambda y: y.reshape(1, -1, columns),
            (1, rows, columns),
        )
    batch = torch.broadcast_shapes(a[:-2], b[:-2])

    def wide(height: int, width: int) -> Arrange:
        return lambda t: (
            t.reshape(*t.shape[:-2], height, width).expand(*batch, height, width).reshape(-1, height, width)
        )

    return _Matrices(wide(rows, inner), wide(inner, columns), (batch.numel(), rows, columns))


def _canonical(operand: Operand, arrange: Arrange) -> Operand:
    return operand.moved(arrange) if isinstance(operand, EventList) else arrange(operand)


def _matrix_product(first: Operand, second: Operand, out: Tensor, alpha: float) -> int:
    if isinstance(first, EventList) and isinstance(second, EventList):
        return _pairs(first, second, out, alpha)
    if isinstance(first, EventList):
        assert isinstance(second, Tensor)
        return _rows(first, second, out, alpha)
    assert isinstance(second, EventList)
    turned = out.mT.contiguous()
    additions = _rows(second.moved(lambda t: t.mT), first.mT, turned, alpha)
    out.copy_(turned.mT)
    return additions


def _rows(events: EventList, weights: Tensor, out: Tensor, alpha: float) -> int:
    """An event at [b, l, k] adds its amount times row [b, k] of the weights [B, K, S] to row [b, l] of out [B, L, S]."""
    (_, height, width), inner = out.shape, weights.shape[1]
    rows, into, additions = weights.reshape(-1, width), out.view(-1, width), 0
    for _, places, amounts in events.by_step():
        most = max(AT_ONCE // max(width, 1), 1)
        for place, amount in zip(places.split(most), amounts.split(most), strict=True):
            row, k = place // inner, place % inner
            added = rows[row // height * inner + k].to(out.dtype) * (alpha * amount)[:, None]
            into.index_add_(0, row, added.to(out.dtype))
            additions += added.numel()
    return additions


def _pairs(first: EventList, second: EventList, out: Tensor, alpha: float) -> int:
    """Every event that arrives meets those of the other operand that are there already: [b, l, k] with [b, k, s]."""
    _, height, width = out.shape
    inner = first.constant.shape[-1]

    def arriving(events: EventList, which: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        return ((step, which, place, amount) for step, place, amount in events.by_step())

    there: list[list[tuple[Tensor, Tensor]]] = [[], []]
    additions = 0
    both = merge(arriving(first, 0), arriving(second, 1), key=lambda event: event[:2])
    for _, which, place, amount in both:
        there[which].append((place, amount))
        if not there[1 - which]:
            continue
        others = tuple(torch.cat(t) for t in zip(*there[1 - which], strict=True))
        (left, x), (right, y) = ((place, amount), others) if which == 0 else (others, (place, amount))
        left_key = left // inner // height * inner + left % inner
        for i, j in _meeting(left_key, right // width):
            where = left[i] // inner * width + right[j] % width
            out.view(-1).index_add_(0, where, (alpha * x[i] * y[j]).to(out.dtype))
            additions += len(where)
    return additions


def _meeting(left: Tensor, right: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of places i, j with left[i] == right[j], some at a time."""
    right, order = right.sort(stable=True)
    begin, end = torch.searchsorted(right, left), torch.searchsorted(right, left, right=True)
    partners = end - begin
    for some in _portions(partners):
        i = torch.repeat_interleave(some, partners[some])
        before = partners[some].cumsum(0) - partners[some]
        within = torch.arange(len(i), device=i.device) - torch.repeat_interleave(before, partners[some])
        yield i, order[begin[i] + within]


def _portions(sizes: Tensor) -> Iterator[Tensor]:
    """Indices of sizes in runs whose sum is about AT_ONCE at most."""
    which = torch.arange(len(sizes), device=sizes.device)
    run = sizes.cumsum(0) // AT_ONCE
    _, lengths = run.unique_consecutive(return_counts=True)
    return (part for part in which.split(lengths.tolist()) if bool(sizes[part].any()))


def _by_the_function(rule: MultilinearRule, call: Call, lists: Mapping[str, EventList], out: Tensor) -> int:
    """The definition, slowly: the function itself on the events of one slot of each operand, every other element 0."""
    bare, additions = without_addend(rule, call), 0
    factor = {name: call.kwargs[name] for name in ("alpha", "value") if name in call.kwargs}
    for slots in product(*(list(events.by_step()) for events in lists.values())):
        amounts, fired = dict(call.operands), {}
        for name, (_, place, amount) in zip(lists, slots, strict=True):
            blank = torch.zeros_like(call.operands[name]).reshape(-1)
            shape = call.operands[name].shape
            amounts[name] = blank.index_put((place,), amount.to(blank.dtype)).reshape(shape)
            fired[name] = (
                torch.zeros_like(blank, dtype=torch.float64).index_fill(0, place, 1.0).reshape(shape)
            )
        args, kwargs = rule.place(bare, amounts)
        additions += int(arrivals(rule, call, fired))
        out += call.function(*args, **{**kwargs, **factor}).to(out.dtype)
    return additions
