"""Following events through a forward: what every train sends, carried beside its decoded value to the synapses.

Only while somebody counts. Between sites the counts (recording/sent.py) hang on the marked tensor and are moved by the
same functions that move it. Inside an operator every torch function is looked at: a function that is linear in each
operand delivers, a function that moves values moves the counts, a sum adds the events up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from mbe_plugin.conversion.following.fan_out import ELEMENTWISE, arrivals
from mbe_plugin.conversion.following.walk import Router
from mbe_plugin.conversion.vocabulary.catalogue import ORDINARY, SPELLINGS
from mbe_plugin.conversion.vocabulary.rules import Call, MultilinearRule, Rule, Spelling
from mbe_plugin.errors import ConversionError
from mbe_plugin.operators import (
    Attention,
    CalibratedNode,
    EncodedCall,
    Exponential,
    Logarithm,
    Periodic,
    Rectifier,
    SpikingOperator,
    Unary,
)
from mbe_plugin.operators.calls import CALLS, calls_taken_by
from mbe_plugin.recording import Ledger, Sent, open_ledgers, sent_by

_ATTRIBUTE = "_mbe_sent"
READ_OUT = "read-out"

# one neuron each, whose value is the operator's; those of the second line send a constant with every element
_FUNCTIONS_OF_ONE_NUMBER = (Unary, Exponential, Logarithm, Periodic, Rectifier)
_WITH_A_CONSTANT = (Logarithm, Periodic)

_CASTS = frozenset("to float double half bfloat16 type_as cpu cuda contiguous clone detach".split())
_DROPOUTS = frozenset(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout".split()
)
_OFFSETS = frozenset("add sub __add__ __radd__ __sub__ __rsub__ add_ __iadd__ sub_ __isub__".split())
_SUMS = frozenset("sum mean".split())
_JOINS = frozenset("cat stack concat concatenate".split())


def counts_now() -> bool:
    """Whether this thread's neurons are called as in any forward: not in the further runs of step mode 'm'."""
    return CALLS.taken_by is None or CALLS.taken_by.counted


class Following(Router):
    """A router that tells the open ledgers what is delivered where."""

    def __init__(self) -> None:
        super().__init__()
        self.ledgers = open_ledgers()
        self._shared_train: tuple[Tensor, Sent] | None = None  # of self.memo's output
        self._latest: Sent | None = None

    def ordinary(self, spelling: Spelling, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """See WatchedForward; moves the counts, too."""
        before = args[0] if args else None
        sent = getattr(before, _ATTRIBUTE, None)
        out = super().ordinary(spelling, func, args, kwargs)
        if spelling.moves and sent is not None:
            with looking():
                for tensor, of_it in moved(spelling, sent, args, kwargs, out):
                    setattr(tensor, _ATTRIBUTE, of_it)
        return out

    def run(
        self,
        site: str,
        operator: SpikingOperator,
        operands: Mapping[str, Tensor],
        run: Callable[[], Any],
        exact: Callable[[], Any],
    ) -> Any:
        """See Router."""
        inside = Inside(site, operator, self.ledgers)
        for name in _trains_read(operator):
            inside.take(operands[name], getattr(operands[name], _ATTRIBUTE, None), name)
        if self._shared_train is not None and self._shared_train[0] is self.memo.output:
            inside.take(*self._shared_train)
        with calls_taken_by(inside), inside:
            out = super().run(site, operator, operands, run, exact)
        if isinstance(operator, EncodedCall) and self.memo.output is not None:
            encoded = inside.of(self.memo.output)
            self._shared_train = None if encoded is None else (self.memo.output, encoded)
        self._latest = inside.emitted(out)
        if self._latest is not None:
            setattr(out, _ATTRIBUTE, self._latest)
        return out

    def _site(self, rule: Rule, call: Call, exact: Callable[[], Any]) -> Any:
        out = super()._site(rule, call, exact)
        if call.target is not None and self._latest is not None:
            setattr(out, _ATTRIBUTE, self._latest)
        return out


def _trains_read(operator: SpikingOperator) -> list[str]:
    """The operands that arrive as trains."""
    if isinstance(operator, EncodedCall):
        return [name for name in operator.dims if name not in operator.encoders]
    if isinstance(operator, Attention):
        names = ("query", "key", "value")
        return [name for name in names if isinstance(getattr(operator, name), nn.Identity)]
    return []


class Inside(TorchFunctionMode):
    """One run of an operator: the neurons' calls as a stand-in, all other functions as a mode."""

    counted = True

    def __init__(self, site: str, operator: SpikingOperator, ledgers: tuple[Ledger, ...]) -> None:
        super().__init__()
        self.site, self.operator, self.ledgers = site, operator, ledgers
        self._sent: dict[int, tuple[Tensor, Sent]] = {}  # the tensor too, so that its id stays its own
        self._last: Sent | None = None
        self._before = CALLS.taken_by

    def take(self, tensor: Tensor, sent: Sent | None, name: str = "") -> None:
        """A train that arrives; ConversionError if nobody knows what it sends."""
        if sent is None:
            raise ConversionError(
                f"{self.site} reads operand {name} as a train whose events could not be followed to it (it came from "
                "outside the recorded forward, or through a dropout in training mode); record a whole forward in eval "
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
            call = nn.Module.__call__ if self._before is None else self._before
            with looking():
                sent = sent_by(node, args[0].detach(), *args[1:], **kwargs)
            out = call(node, *args, **kwargs)
            if isinstance(self.operator, _WITH_A_CONSTANT):
                where = kwargs.get("where")
                constant = torch.ones_like(sent.side) if where is None else where.to(sent.side.dtype)
                sent = Sent(sent.spikes, constant)
        self._last = sent
        self._sent[id(out)] = out, sent
        return out

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run func, and follow the events through it."""
        kwargs = {} if kwargs is None else kwargs
        out = func(*args, **kwargs)
        spelling = SPELLINGS.get(func, ORDINARY)
        if self._sent:
            name = spelling.name or getattr(func, "__name__", "")
            with torch._C.DisableTorchFunction(), looking():
                self._follow(name, spelling, func, args, kwargs, out)
        return out

    def _follow(
        self, name: str, spelling: Spelling, func: Callable, args: tuple, kwargs: dict[str, Any], out: Any
    ) -> None:
        first = self.of(args[0]) if args else None
        if isinstance(spelling.rule, MultilinearRule):
            self._multilinear(spelling.rule, func, args, kwargs, out)
        elif name in _JOINS:
            self._joined(func, args, kwargs, out)
        elif name == "where" and len(args) == 3:
            self._chosen(args, out)
        elif name in _OFFSETS:
            self._offset(args, out)
        elif first is None:
            return
        elif spelling.moves:
            for tensor, sent in moved(spelling, first, args, kwargs, out):
                self._sent[id(tensor)] = tensor, sent
        elif name in _SUMS and not first.paired:
            self._added_up(name, first)

    def _multilinear(
        self, rule: MultilinearRule, func: Callable, args: tuple, kwargs: dict[str, Any], out: Any
    ) -> None:
        operands = rule.operands(args, kwargs)
        sent = {name: self.of(t) for name, t in operands.items()}
        known = {name: s for name, s in sent.items() if s is not None}
        if not known:
            return
        call = Call(func, args, kwargs, operands)
        if rule.op in ELEMENTWISE and len(known) == 1:  # by a constant, which each spike's value takes in
            [only] = known.values()
            self._sent[id(out)] = out, only.moved(lambda t: t.expand(out.shape))
            return
        self._delivered(rule, call, known)
        if rule.op == "mul":
            one, other = known.values()
            self._sent[id(out)] = out, one.times(other)

    def _delivered(self, rule: MultilinearRule, call: Call, known: Mapping[str, Sent]) -> None:
        def total(counts: Mapping[str, Tensor]) -> Tensor:
            try:
                return arrivals(rule, call, counts)
            except ValueError as uncounted:
                raise ConversionError(
                    f"{self.site}: no fan-out is known for {uncounted}, so its deliveries cannot be counted; leave the "
                    f"site out: MBEConfig(exclude=({self.site!r},)), or record without deliveries"
                ) from None

        spikes = total({name: s.spikes for name, s in known.items()})
        events = total({name: s.events for name, s in known.items()})
        for name, s in known.items():
            if s.shared is not None:
                events = events + total({name: s.shared})
        self._tell(rule.op, spikes, events - spikes, int(total({})))

    def _added_up(self, function: str, sent: Sent) -> None:
        """Every event is added to one value."""
        spikes, events = (t.sum(dtype=torch.float64) for t in (sent.spikes, sent.events))
        if sent.shared is not None:
            events = events + sent.shared.sum(dtype=torch.float64)
        self._tell(function, spikes, events - spikes, 0)

    def _tell(self, function: str, spikes: Tensor, side: Tensor, products: int) -> None:
        for ledger in self.ledgers:
            ledger.delivered(self.operator, function, spikes, side, products)

    def _joined(self, func: Callable, args: tuple, kwargs: dict[str, Any], out: Tensor) -> None:
        parts = [self.of(t) for t in args[0]]
        if not parts or any(p is None for p in parts):
            return

        def join(kind: Callable[[Sent], Tensor]) -> Tensor:
            return func([kind(p) for p in parts if p is not None], *args[1:], **kwargs)

        shared = None
        if any(p is not None and p.shared is not None for p in parts):
            shared = join(lambda p: torch.zeros_like(p.spikes) if p.shared is None else p.shared)
        paired = any(p is not None and p.paired for p in parts)
        self._sent[id(out)] = out, Sent(join(lambda p: p.spikes), join(lambda p: p.side), shared, paired)

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

    def emitted(self, out: Any) -> Sent | None:
        """What the operator's own train sends; a single one is read out as well, one operation per event."""
        alone = isinstance(self.operator, _FUNCTIONS_OF_ONE_NUMBER)
        sent = self._last if alone else self.of(out)
        if sent is not None and not sent.paired:
            with looking():
                self._added_up(READ_OUT, sent)
        return sent


def moved(
    spelling: Spelling, sent: Sent, args: tuple, kwargs: dict[str, Any], out: Any
) -> list[tuple[Tensor, Sent]]:
    """The tensors that a function which only moves args[0] returned, each with what its train sends."""
    if spelling.name in _CASTS:
        return [(out, sent.moved(lambda t: t.to(out.device)))]
    if spelling.name == "alpha_dropout":
        return []  # what it puts in place of a dropped value is no train
    if spelling.name in _DROPOUTS:
        kept = (out != 0) | (args[0] == 0)
        return [(out, sent.moved(lambda t: torch.where(kept, t, 0.0)))]
    if spelling.name.startswith("max_pool"):
        return [_pooled(spelling.name, sent, args, kwargs, out)]

    def pieces(counts: Tensor) -> list[Tensor]:
        result = spelling.plain(counts, *args[1:], **kwargs)
        return [result] if isinstance(result, Tensor) else list(result)

    outs = [out] if isinstance(out, Tensor) else list(out)
    shared: list[Any] = [None] * len(outs) if sent.shared is None else pieces(sent.shared)
    parts = zip(outs, pieces(sent.spikes), pieces(sent.side), shared, strict=True)
    return [(tensor, Sent(spikes, side, own, sent.paired)) for tensor, spikes, side, own in parts]


def _pooled(name: str, sent: Sent, args: tuple, kwargs: dict[str, Any], out: Any) -> tuple[Tensor, Sent]:
    """Of each window the element that was chosen."""
    options = {key: value for key, value in kwargs.items() if key != "return_indices"}
    index = getattr(F, f"{name}_with_indices")(*args[:6], **options)[1]
    places = int(name[-2])
    flat = index.flatten(-places)
    chosen = sent.moved(lambda t: t.flatten(-places).gather(-1, flat).reshape(index.shape))
    return (out if isinstance(out, Tensor) else out[0]), chosen


@contextmanager
def looking() -> Iterator[None]:
    """Counting is no part of the forward: no audit or counter of operations sees it, and it outlives inference mode."""
    with _disable_current_modes(), torch.inference_mode(False), torch.no_grad():
        yield
