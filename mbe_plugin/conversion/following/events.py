"""Following events through a forward: what every train sends, carried beside its decoded value to the synapses.

Only while somebody counts. Between sites the counts (recording/sent.py) hang on the marked tensor and are moved by the
same functions that move it (moving.py); inside an operator they are followed by inside.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from mbe_plugin.conversion.following.dense import site_call, unit_call
from mbe_plugin.conversion.following.frames import Frame
from mbe_plugin.conversion.following.inside import Inside, holds_tensors, sizes
from mbe_plugin.conversion.following.moving import moved
from mbe_plugin.conversion.following.walk import Router
from mbe_plugin.conversion.marks import is_activation, tensors_of
from mbe_plugin.conversion.vocabulary.rules import Call, Rule, Spelling
from mbe_plugin.errors import ConversionError
from mbe_plugin.operators import Attention, EncodedCall, SpikingOperator
from mbe_plugin.operators.calls import CALLS, calls_taken_by
from mbe_plugin.recording import Sent, SiteCall, looking, open_ledgers

_ATTRIBUTE = "_mbe_sent"


def counts_now() -> bool:
    """Whether this thread's neurons are called as in any forward: not in the further runs of step mode 'm'."""
    return CALLS.taken_by is None or CALLS.taken_by.counted


class Following(Router):
    """A router that tells the open ledgers what is delivered where."""

    def __init__(self) -> None:
        super().__init__()
        self.ledgers = open_ledgers()
        self.tells_everything = any(ledger.everything for ledger in self.ledgers)
        self._own = object()  # counts of another forward are none
        self._shared_train: tuple[Tensor, Sent] | None = None  # of self.memo's output
        self._latest: Sent | None = None

    def ordinary(self, spelling: Spelling, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """See WatchedForward; moves the counts, too."""
        before = args[0] if args else None
        sent = self._sent_by(before)
        counted = self.tells_everything and any(is_activation(t) for _, t in tensors_of((args, kwargs)))
        out = super().ordinary(spelling, func, args, kwargs)
        if counted and not spelling.moves and holds_tensors(out):
            path = self.frames[-1].sites.path or "(root)"
            name = spelling.name or getattr(func, "__name__", "")
            for ledger in self.ledgers:
                ledger.computed(path, name, *sizes(args, out))
        if spelling.moves and sent is not None:
            with looking():
                for tensor, of_it in moved(spelling, sent, args, kwargs, out):
                    self._keep(tensor, of_it)
        return out

    def at_site(self, rule: Rule, call: Call, label: str, exact: Callable[[], Any]) -> Any:
        """See WatchedForward; says what the ANN would compute."""
        if self.tells_everything:
            sites = self.frames[-1].sites
            spiking = sites.operators.get(label) is not None
            with looking():
                self._called(site_call(sites.site(label), rule, call, spiking))
        return super().at_site(rule, call, label, exact)

    def at_unit(self, frame: Frame, x: Tensor, exact: Callable[[], Any]) -> Any:
        """See WatchedForward; says what the ANN would compute."""
        assert frame.sites.unit is not None
        site = frame.sites.site(frame.sites.unit.function)
        self._called(unit_call(site, frame.sites.unit, x, frame.sites.unit_operator is not None))
        return super().at_unit(frame, x, exact)

    def inside(self, site: str, operator: SpikingOperator) -> Inside:
        """What follows events through one run of an operator."""
        return Inside(site, operator, self.ledgers)

    def _called(self, call: SiteCall) -> None:
        for ledger in self.ledgers:
            ledger.called(call)

    def run(
        self,
        site: str,
        operator: SpikingOperator,
        operands: Mapping[str, Tensor],
        run: Callable[[], Any],
        exact: Callable[[], Any],
    ) -> Any:
        """See Router."""
        inside = self.inside(site, operator)
        for name in _trains_read(operator):
            inside.take(operands[name], self._sent_by(operands[name]), name)
        if self._shared_train is not None and self._shared_train[0] is self.memo.output:
            inside.take(*self._shared_train)
        hidden = any(ledger.stands_for for ledger in self.ledgers)
        with _disable_current_modes() if hidden else nullcontext(), calls_taken_by(inside), inside:
            out = super().run(site, operator, operands, run, exact)
        if isinstance(operator, EncodedCall) and inside.silent:
            raise ConversionError(
                f"{site}: the events of its operands could not be followed to the product (complex numbers, say); "
                f"{inside.remedy}"
            )
        if isinstance(operator, EncodedCall) and self.memo.output is not None:
            encoded = inside.of(self.memo.output)
            self._shared_train = None if encoded is None else (self.memo.output, encoded)
        out, self._latest = inside.emitted(out)
        for ledger in self.ledgers:
            ledger.finished(operator)
        self._keep(out, self._latest)
        return out

    def leave(self, out: Any) -> None:
        """See WatchedForward; the counts stay behind, too."""
        super().leave(out)
        for _, tensor in tensors_of(out):
            vars(tensor).pop(_ATTRIBUTE, None)

    def _sent_by(self, value: Any) -> Sent | None:
        owner, sent = getattr(value, _ATTRIBUTE, (None, None))
        return sent if owner is self._own else None

    def _keep(self, tensor: Any, sent: Sent | None) -> None:
        if sent is not None:
            setattr(tensor, _ATTRIBUTE, (self._own, sent))

    def _site(self, rule: Rule, call: Call, exact: Callable[[], Any]) -> Any:
        out = super()._site(rule, call, exact)
        if call.target is not None:
            self._keep(out, self._latest)
        return out


def _trains_read(operator: SpikingOperator) -> list[str]:
    """The operands that arrive as trains."""
    if isinstance(operator, EncodedCall):
        return [name for name in operator.dims if name not in operator.encoders]
    if isinstance(operator, Attention):
        names = ("query", "key", "value")
        return [name for name in names if isinstance(getattr(operator, name), nn.Identity)]
    return []
