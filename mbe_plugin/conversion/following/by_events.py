"""simulate="events": every call that delivers is run by its events, addition after addition, and the additions are counted.

The same following as where somebody counts (events.py, inside.py), with the events themselves carried along; a call that
delivers is replaced by what synapses.py does. Pairs are added where they are needed first: to the sum over a row, or to
their own value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.conversion.following.event_runs import multiplied, read_out, summed
from mbe_plugin.conversion.following.events import Following
from mbe_plugin.conversion.following.fan_out import ELEMENTWISE, check_synapses
from mbe_plugin.conversion.following.inside import READ_OUT, SUMS, WITH_A_CONSTANT, Inside
from mbe_plugin.conversion.following.walk import Router
from mbe_plugin.conversion.marks import tensors_of
from mbe_plugin.conversion.vocabulary.rules import Call, MultilinearRule, Spelling
from mbe_plugin.errors import ConversionError
from mbe_plugin.operators import CalibratedNode, SpikingOperator
from mbe_plugin.recording import EventList, Sent, events_of, sum_of

_REMEDY = "convert with simulate='closed', or leave the site exact (exclude)"
_PRODUCTS = frozenset("mul rmul multiply neg".split())
_QUOTIENTS = frozenset("div truediv true_divide".split())
_SIGNS = {  # of the first and the second operand
    **dict.fromkeys(("add", "radd", "iadd"), (1, 1)),
    **dict.fromkeys(("sub", "isub"), (1, -1)),
    "rsub": (-1, 1),
}


class ByEvents(Following):
    """A router whose operators are run event by event."""

    def inside(self, site: str, operator: SpikingOperator) -> Inside:
        """See Following."""
        return InsideByEvents(site, operator, self.ledgers)


class NotCompiled(Router):
    """A router of compiled forwards, which have no lists of events."""

    def run(self, site: str, *_: Any) -> Any:
        """See Router; ConversionError."""
        raise ConversionError(
            f"{site} is run by its events, which a compiled forward has no list of; call the network that you passed to "
            "torch.compile, or convert with simulate='closed'"
        )


class InsideByEvents(Inside):
    """One run of an operator, event by event."""

    remedy = _REMEDY

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._waiting: dict[int, Tensor] = {}  # products element by element whose pairs nobody has needed yet

    def sent(self, node: CalibratedNode, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Sent:
        """See Inside; with the events themselves."""
        always = isinstance(self.operator, WITH_A_CONSTANT)
        return replace(super().sent(node, x, dim, where), listed=events_of(node, x, dim, where, always))

    def called(
        self, name: str, spelling: Spelling, func: Callable, args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """See Inside; by events where there are some."""
        gradients = torch.is_grad_enabled()
        with torch._C.DisableTorchFunction(), torch.no_grad():
            out = None
            if name in SUMS and args and self.of(args[0]) is not None:
                out = self._summed(name, func, args, kwargs)
            else:
                for _, tensor in tensors_of((args, kwargs)):
                    self._add_pairs(tensor)
                if isinstance(spelling.rule, MultilinearRule):
                    out = self._run(spelling.rule, func, args, kwargs)
        if out is None:
            return func(*args, **kwargs)
        if gradients:
            self._refuse_gradients(args, kwargs)
        return out

    def emitted(self, out: Any) -> tuple[Any, Sent | None]:
        """See Inside; what is read out is the sum of the events."""
        if torch.is_grad_enabled():
            self._refuse_gradients(out)
        with torch.no_grad():
            self._add_pairs(out)
        out, sent = super().emitted(out)
        if sent is None or sent.paired:
            return out, sent
        sent = replace(sent, listed=self._listed(self.of(out)).settled())
        with torch.no_grad():
            value, additions = read_out(sent)
        self._count(READ_OUT, additions)
        return value.to(out.dtype), sent

    def _run(
        self, rule: MultilinearRule, func: Callable, args: tuple, kwargs: dict[str, Any]
    ) -> Tensor | None:
        """The output of a function that is linear in each operand; None where no events meet synapses."""
        operands = rule.operands(args, kwargs)
        sent = {name: s for name, t in operands.items() if (s := self.of(t)) is not None}
        if not sent or (rule.op in ELEMENTWISE and len(sent) == 1):
            return None
        for s in sent.values():
            self._listed(s)
        call = Call(func, args, kwargs, operands)
        if rule.op == "mul":
            one, other = operands.values()
            shape = torch.broadcast_shapes(one.shape, other.shape)
            out = torch.full(shape, torch.nan, dtype=torch.result_type(one, other), device=one.device)
            self._waiting[id(out)] = out
            return out
        try:
            check_synapses(rule, call)
        except ValueError as without:
            raise ConversionError(
                f"{self.site}: no synapses are known for {without}, so it cannot be run by its events; {_REMEDY}"
            ) from None
        out, additions = multiplied(rule, call, sent, self.arrangement(rule, sent))
        self._count(rule.op, additions)
        return out

    def _summed(self, name: str, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
        """A sum or mean; of pairs if nobody has added them yet."""
        x, sent = args[0], self.of(args[0])
        assert sent is not None
        if sent.paired and self._waiting.pop(id(x), None) is None:
            return None
        self._listed(sent)
        out, additions = summed(name, func, sent, args[1:], kwargs)
        self._count("mul" if sent.paired else name, additions)
        return out

    def _add_pairs(self, product: Any) -> None:
        """Pairs to the value of their product, which somebody is about to read."""
        if self._waiting.pop(id(product), None) is None:
            return
        sent = self.of(product)
        self._listed(sent)
        assert sent is not None
        value, additions = read_out(sent)
        self._count("mul", additions)
        product.copy_(value)

    def _listed(self, sent: Sent | None) -> EventList:
        if sent is None or sent.listed is None:
            raise ConversionError(
                f"{self.site}: a value cannot be followed back to its events (through a dropout in training mode, say), so "
                f"it cannot be run by them; {_REMEDY}"
            )
        return sent.listed

    def _count(self, function: str, additions: int) -> None:
        for ledger in self.ledgers:
            ledger.added(self.operator, function, additions)

    def _refuse_gradients(self, *values: Any) -> None:
        if any(t.requires_grad for _, t in tensors_of(values)):
            raise ConversionError(
                f"{self.site} is run by its events, which have no gradients; call the network under torch.no_grad(), or "
                "convert with simulate='closed'"
            )

    def _follow(
        self, name: str, spelling: Spelling, func: Callable, args: tuple, kwargs: dict[str, Any], out: Any
    ) -> bool:
        """See Inside; with the events of values that are no mere moves of others."""
        trains = {place: s for place, a in enumerate(args) if (s := self.of(a)) is not None}
        found = super()._follow(name, spelling, func, args, kwargs, out)
        if trains:
            events = self._changed(name, func, args, {place: self._listed(s) for place, s in trains.items()})
            if events is not None:
                sent = self.of(out) or next(iter(trains.values()))
                self._sent[id(out)] = out, replace(sent, listed=events)
        return found

    def _changed(
        self, name: str, func: Callable, args: tuple, trains: Mapping[int, EventList]
    ) -> EventList | None:
        """The events of a value plus or times a constant, or of one chosen of two; None for another function."""
        if name == "where" and len(args) == 3:
            condition = args[0]
            parts = ((condition, 1), (~condition, 2))
            return sum_of(
                trains[place].kept(where) if place in trains else torch.where(where, args[place], 0.0)
                for where, place in parts
            )
        if len(trains) != 1:
            return None
        [(place, events)] = trains.items()
        stem = name.strip("_")
        signs = _SIGNS.get(stem)
        if signs is not None:
            constant = args[1 - place] * signs[1 - place]
            return events.weighed(lambda t: t * signs[place]).plus(constant)
        if stem in _PRODUCTS or (stem in _QUOTIENTS and place == 0):
            return events.weighed(lambda t: func(*args[:place], t, *args[place + 1 :]))
        return None
