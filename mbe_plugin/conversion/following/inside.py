"""Inside an operator, while somebody counts: what its neurons send, and where it arrives.

Every torch function that the operator calls is looked at: one that is linear in each operand delivers, one that moves
values moves the counts, a sum adds the events up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mbe_plugin.conversion.following.fan_out import ELEMENTWISE, MATRIX_PRODUCTS, counted_arrivals
from mbe_plugin.conversion.following.moving import moved
from mbe_plugin.conversion.vocabulary.catalogue import ORDINARY, SPELLINGS
from mbe_plugin.conversion.vocabulary.rules import Call, MultilinearRule, Spelling
from mbe_plugin.errors import ConversionError
from mbe_plugin.operators import (
    CalibratedNode,
    Exponential,
    Logarithm,
    Periodic,
    Rectifier,
    SpikingOperator,
    Unary,
)
from mbe_plugin.operators.calls import CALLS, passed_on
from mbe_plugin.recording import Amplitudes, Delivery, Ledger, Sent, joined, looking, sent_by

READ_OUT = "read-out"

# one neuron each, whose value is the operator's; those of the second line send a constant with every element
_FUNCTIONS_OF_ONE_NUMBER = (Unary, Exponential, Logarithm, Periodic, Rectifier)
WITH_A_CONSTANT = (Logarithm, Periodic)

_OFFSETS = frozenset("add sub __add__ __radd__ __sub__ __rsub__ add_ __iadd__ sub_ __isub__".split())
SUMS = frozenset("sum mean".split())
_ROW_BY_ROW = MATRIX_PRODUCTS - {"addbmm"} | {"linear"}  # no output sums over several rows
_JOINS = frozenset("cat stack concat concatenate".split())


class Inside(TorchFunctionMode):
    """One run of an operator: the neurons' calls as a stand-in, all other functions as a mode."""

    counted = True
    remedy = "record without deliveries"  # against what cannot be followed

    def __init__(self, site: str, operator: SpikingOperator, ledgers: tuple[Ledger, ...]) -> None:
        super().__init__()
        self.site, self.operator, self.ledgers = site, operator, ledgers
        self._sent: dict[int, tuple[Tensor, Sent]] = {}  # the tensor too, so that its id stays its own
        self._last: Sent | None = None
        self.silent = True  # nothing has been delivered yet
        self._before = CALLS.taken_by

    def take(self, tensor: Tensor, sent: Sent | None, name: str = "") -> None:
        """A train that arrives; ConversionError if nobody knows what it sends."""
        if sent is None:
            raise ConversionError(
                f"{self.site} reads operand {name} as a train whose events could not be followed to it (it came from "
                "outside the running forward, or through a dropout in training mode); call the whole network in eval "
                "mode, or convert with merge=False"
            )
        self._sent[id(tensor)] = tensor, sent

    def of(self, value: object) -> Sent | None:
        """What a tensor's train sends, if it has one."""
        found = self._sent.get(id(value))
        return None if found is None else found[1]

    def __call__(self, node: CalibratedNode, *args: Any, **kwargs: Any) -> Tensor:
        """The neuron's call, and what it sends."""
        with torch._C.DisableTorchFunction():
            with looking():
                sent = self.sent(node, args[0].detach(), *args[1:], **kwargs)
            out = passed_on(self._before, node, *args, **kwargs)
        self._last = sent
        self._sent[id(out)] = out, sent
        return out

    def sent(self, node: CalibratedNode, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Sent:
        """What the neuron sends in the call node(x, dim, where)."""
        sent = sent_by(node, x, dim, where)
        if not isinstance(self.operator, WITH_A_CONSTANT):
            return sent
        constant = torch.ones_like(sent.side) if where is None else where.to(sent.side.dtype)
        return replace(sent, side=constant)

    def called(
        self, name: str, spelling: Spelling, func: Callable, args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """What a function that the operator calls returns."""
        return func(*args, **kwargs)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run func, and follow the events through it."""
        kwargs = {} if kwargs is None else kwargs
        spelling = SPELLINGS.get(func, ORDINARY)
        name = spelling.name or getattr(func, "__name__", "")
        out = self.called(name, spelling, func, args, kwargs)
        by_events = False
        if self._sent:
            with torch._C.DisableTorchFunction(), looking():
                by_events = self._follow(name, spelling, func, args, kwargs, out)
        # of a mean by events the product with 1/n is left
        if not spelling.moves and holds_tensors(out) and (not by_events or name == "mean"):
            taken, given = sizes(args, out)
            for ledger in self.ledgers:
                ledger.computed(self.site, "mul" if by_events else name, taken, given)
        return out

    def _follow(
        self, name: str, spelling: Spelling, func: Callable, args: tuple, kwargs: dict[str, Any], out: Any
    ) -> bool:
        """Follow the events; whether they did what the function computes."""
        first = self.of(args[0]) if args else None
        if isinstance(spelling.rule, MultilinearRule):
            return self._multilinear(spelling.rule, func, args, kwargs, out)
        if name in _JOINS:
            self._joined(func, args, kwargs, out)
        elif name == "where" and len(args) == 3:
            self._chosen(args, out)
        elif name in _OFFSETS:
            self._offset(args, out)
        elif first is not None and spelling.moves:
            for tensor, sent in moved(spelling, first, args, kwargs, out):
                self._sent[id(tensor)] = tensor, sent
        elif first is not None and name in SUMS:
            if not first.paired:
                self._added_up(name, first)
            return True
        return False

    def _multilinear(
        self, rule: MultilinearRule, func: Callable, args: tuple, kwargs: dict[str, Any], out: Any
    ) -> bool:
        operands = rule.operands(args, kwargs)
        sent = {name: self.of(t) for name, t in operands.items()}
        known = {name: s for name, s in sent.items() if s is not None}
        if not known:
            return False
        call = Call(func, args, kwargs, operands)
        if rule.op in ELEMENTWISE and len(known) == 1:  # by a constant, which each spike's value takes in
            [only] = known.values()
            self._sent[id(out)] = out, only.moved(lambda t: t.expand(out.shape))
            return False
        arrangement = self.arrangement(rule, known)
        if arrangement is None:
            self._delivered(rule, call, known, out)
        else:
            name, varying, constant = arrangement
            self._delivered(rule, call, {name: varying}, out)
            self._at_the_sum(rule.op, constant, out)
        if rule.op == "mul":
            one, other = known.values()
            self._sent[id(out)] = out, one.times(other)
        return True

    def arrangement(self, rule: MultilinearRule, known: Mapping[str, Sent]) -> tuple[str, Sent, Sent] | None:
        """Operand, d and r of pairs with a factor that is constant along the contracted dimension: W (r d) = r (W d).

        The events of d meet the weights, then each event of r the sum that has come of them.
        """
        if len(known) > 1 or rule.op not in _ROW_BY_ROW:
            return None
        [(name, sent)] = known.items()
        dims = getattr(self.operator, "dims", {})
        if sent.factors is None or name not in dims:
            return None
        for varying, factor in (sent.factors, sent.factors[::-1]):
            constant = factor.once(dims[name])
            if constant is not None:
                return name, varying.sent, constant
        return None

    def _delivered(self, rule: MultilinearRule, call: Call, known: Mapping[str, Sent], out: Tensor) -> None:
        def total(counts: Mapping[str, Tensor]) -> Tensor:
            return counted_arrivals(self.site, rule, call, counts)

        spikes = total({name: s.spikes for name, s in known.items()})
        events = total({name: s.events for name, s in known.items()})
        for name, s in known.items():
            if s.shared is not None:
                events = events + total({name: s.shared})
        bases = prod(s.bases for s in known.values())
        products = int(total({}))
        first, *others = (s.amplitudes for s in known.values())
        amplitudes = reduce(Amplitudes.times, others, first)
        weighted = len(known) < len(call.operands)
        self._tell(
            Delivery(
                rule.op, spikes, events - spikes, products, bases, products, out.numel(), amplitudes, weighted
            )
        )

    def _at_the_sum(self, function: str, sent: Sent, out: Tensor) -> None:
        """Every event meets each of its row's outputs."""
        each, outputs = out.numel() // max(sent.spikes.numel(), 1), out.numel()
        spikes, events = (count * each for count in _all_of(sent))
        self._tell(
            Delivery(
                function, spikes, events - spikes, 0, sent.bases, outputs, outputs, sent.amplitudes, False
            )
        )

    def _added_up(self, function: str, sent: Sent) -> None:
        """Every event is added to one value."""
        spikes, events = _all_of(sent)
        self._tell(Delivery(function, spikes, events - spikes, 0, sent.bases, 0, 0, Amplitudes(), True))

    def _tell(self, delivery: Delivery) -> None:
        self.silent = False
        for ledger in self.ledgers:
            ledger.delivered(self.operator, delivery)

    def _joined(self, func: Callable, args: tuple, kwargs: dict[str, Any], out: Tensor) -> None:
        parts = [p for p in map(self.of, args[0]) if p is not None]
        if not parts or len(parts) < len(args[0]):
            return
        self._sent[id(out)] = out, joined(parts, lambda tensors: func(tensors, *args[1:], **kwargs))

    def _chosen(self, args: tuple, out: Tensor) -> None:
        """where(condition, a, b) of which one is a train, the other a constant that sends nothing."""
        condition, *choices = args
        sent = [self.of(c) for c in choices]
        if sent[0] is not None and sent[1] is None:
            self._sent[id(out)] = out, sent[0].moved(lambda t: torch.where(condition, t, 0.0))
        elif sent[1] is not None and sent[0] is None:
            self._sent[id(out)] = out, sent[1].moved(lambda t: torch.where(condition, 0.0, t))

    def _offset(self, args: tuple, out: Tensor) -> None:
        """A train plus a constant: the constant is part of what reads it."""
        sent = [s for s in map(self.of, args[:2]) if s is not None]
        if len(sent) == 1:
            self._sent[id(out)] = out, sent[0].moved(lambda t: t.expand(out.shape))

    def emitted(self, out: Any) -> tuple[Any, Sent | None]:
        """The operator's output, and what its own train sends; a single one is read out, one operation per event."""
        alone = isinstance(self.operator, _FUNCTIONS_OF_ONE_NUMBER)
        sent = self._last if alone else self.of(out)
        if sent is not None and not sent.paired:
            with looking():
                self._added_up(READ_OUT, sent)
        return out, sent


def _all_of(sent: Sent) -> tuple[Tensor, Tensor]:
    """Spikes, and all events, of a train; float64 []."""
    spikes, events = (t.sum(dtype=torch.float64) for t in (sent.spikes, sent.events))
    return spikes, events if sent.shared is None else events + sent.shared.sum(dtype=torch.float64)


def holds_tensors(out: Any) -> bool:
    """Whether a function returned a tensor, or several."""
    return isinstance(out, Tensor) or (isinstance(out, tuple) and any(isinstance(o, Tensor) for o in out))


def sizes(args: tuple, out: Any) -> tuple[int, int]:
    """How many numbers a call's largest operand and its output hold."""
    taken = max((a.numel() for a in args if isinstance(a, Tensor)), default=0)
    outs = out if isinstance(out, tuple) else (out,)
    return taken, max(o.numel() for o in outs if isinstance(o, Tensor))
