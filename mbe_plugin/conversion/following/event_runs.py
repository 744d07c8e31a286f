"""Single functions run by the events of their operands: the value, and how many additions that took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.conversion.following.synapses import add_up, deliver
from mbe_plugin.conversion.vocabulary.rules import Call, MultilinearRule
from mbe_plugin.recording import EventList, Sent, exponents_of

Arrangement = tuple[str, Sent, Sent]


def multiplied(
    rule: MultilinearRule, call: Call, sent: Mapping[str, Sent], arrangement: Arrangement | None
) -> tuple[Tensor, int]:
    """A function that is linear in each operand, for what its operands send; the others are weights.

    The function must have synapses (fan_out.check_synapses). arrangement: see Inside.arrangement.
    """
    lists = {name: _listed(s) for name, s in sent.items()}
    constants = {name: e.constant.to(call.operands[name].dtype) for name, e in lists.items()}
    args, kwargs = rule.place(call, constants)
    before = call.function(*args, **kwargs)  # a bias, most often
    wide = torch.float64 if before.dtype == torch.float64 else torch.float32
    out = before.to(wide, copy=True, memory_format=torch.contiguous_format)
    if arrangement is not None and not any(_listed(s).has_constant for s in arrangement[1:]):
        additions = _rows_first(rule, call, lists, arrangement, out)
    else:
        additions = deliver(rule, call, lists, out)
        for name, s in sent.items():
            additions += _beside(rule, call, name, lists, constants, out)
            additions += _exponents_at(rule, call, name, s, out)
    return out.to(before.dtype), additions


def summed(
    name: str, function: Callable, sent: Sent, args: tuple, kwargs: Mapping[str, Any]
) -> tuple[Tensor, int]:
    """The sum or mean of a value, function(value, *args, **kwargs), for what it sends."""
    events = _listed(sent)
    before = function(events.constant, *args, **kwargs)
    index = _rows(events.constant, args[0] if args else kwargs.get("dim"))
    total = torch.zeros(before.numel(), dtype=before.dtype, device=before.device)
    additions = add_up(events, total, index) + _exponents(sent, total, index)
    if name == "mean":
        total = total * (before.numel() / index.numel())
    return before + total.reshape(before.shape), additions


def read_out(sent: Sent) -> tuple[Tensor, int]:
    """A value itself, for what it sends."""
    value = _listed(sent).constant.clone(memory_format=torch.contiguous_format)
    return value, add_up(_listed(sent), value) + _exponents(sent, value)


def _rows_first(
    rule: MultilinearRule,
    call: Call,
    lists: Mapping[str, EventList],
    arrangement: Arrangement,
    out: Tensor,
) -> int:
    """W (r d) as r (W d): every event of r adds what the events of d have added up to, at each of its outputs."""
    name, varying, constant = arrangement
    weight, total = lists[name].weight, torch.zeros_like(out)
    events = _listed(varying).weighed(lambda t: t * weight)
    additions = deliver(rule, call, {name: events}, total)
    additions += _exponents_at(rule, call, name, varying, total)

    def at_outputs(t: Tensor) -> Tensor:
        t = t.mT if rule.op == "linear" and name == "1" else t
        return (t if t.numel() != out.numel() else t.reshape(out.shape)).expand(out.shape)

    rows = constant.moved(at_outputs)
    once = _listed(rows).weighed(lambda t: t * total)
    return additions + add_up(once, out) + _exponents(rows, out)


def _beside(
    rule: MultilinearRule,
    call: Call,
    name: str,
    lists: Mapping[str, EventList],
    constants: Mapping[str, Tensor],
    out: Tensor,
) -> int:
    """The events of one operand where they meet constants of the others."""
    others = {n: constants[n] for n, events in lists.items() if n != name and events.has_constant}
    if not others:
        return 0
    beside = Call(call.function, call.args, call.kwargs, {**call.operands, **others})
    return deliver(rule, beside, {name: lists[name]}, out)


def _exponents_at(rule: MultilinearRule, call: Call, name: str, sent: Sent, out: Tensor) -> int:
    return 0 if sent.shared is None else deliver(rule, call, {name: exponents_of(sent.shared, out)}, out)


def _exponents(sent: Sent, into: Tensor, index: Tensor | None = None) -> int:
    return 0 if sent.shared is None else add_up(exponents_of(sent.shared, into), into, index)


def _listed(sent: Sent) -> EventList:
    assert sent.listed is not None  # in a network that is run by events
    return sent.listed


def _rows(like: Tensor, dim: Any) -> Tensor:
    """For each element of a tensor the flat index of the sum over ``dim`` that it belongs to; int64."""
    dims = range(like.dim()) if dim is None else (dim,) if isinstance(dim, int) else dim
    left = list(like.shape)
    for d in dims:
        left[d] = 1
    return torch.arange(torch.Size(left).numel(), device=like.device).reshape(left).expand(like.shape)
