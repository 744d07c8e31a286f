"""The walk: what happens to each torch function while a converted model runs.

While the outermost frame runs, a TorchFunctionMode watches every torch function; a call that the catalogue knows is a
*site*, named by its module's path, the operator and its order within its frame. Three modes share this walk: Router
(here) at run time, Scout and Recorder (recorder.py) in calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode, _push_mode

from mbe_plugin.conversion.following.frames import SLOT, UNIT, Frame, Refusal, inside_operator
from mbe_plugin.conversion.marks import (
    ACTIVATION,
    CONSTANT,
    enter_as,
    holds_numbers,
    is_activation,
    mark,
    mark_written,
    propagate,
    tensors_of,
)
from mbe_plugin.conversion.vocabulary.catalogue import ORDINARY, SPELLINGS
from mbe_plugin.conversion.vocabulary.rules import Call, Rule, Spelling
from mbe_plugin.errors import UnseenSiteError, UnsupportedOperatorError
from mbe_plugin.operators import Memo, SpikingOperator
from mbe_plugin.recording import open_ledgers, refuse_compiled

PLAIN = frozenset(
    {torch.Size, torch.dtype, torch.device, int, float, bool, str, type(None)}
)  # nothing to mark


class WatchedForward(TorchFunctionMode):
    """The walk; subclasses decide what happens at a site."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self.memo = Memo()

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Route a call that is a site, run any other, and carry the marks along."""
        kwargs = {} if kwargs is None else kwargs
        if SLOT.inside_operator:
            return func(*args, **kwargs)
        spelling = SPELLINGS.get(func, ORDINARY)
        rule = spelling.rule
        if rule is not None:
            call = self._bound(rule, spelling, args, kwargs)
            if call is not None:
                if kwargs.get("out") is not None:
                    self._refuse_out(rule.label(call))
                if not rule.takes_complex and _any_complex(call.operands.values()):
                    return self._refused(_of_complex(rule.label(call)), lambda: func(*args, **kwargs))
                return self._site(rule, call, lambda: func(*args, **kwargs))
        elif spelling.decomposition is not None and self._takes_activation(spelling, args, kwargs):
            return self._decomposed(spelling, args, kwargs, lambda: func(*args, **kwargs))
        elif spelling.is_loss:
            return inside_operator(lambda: func(*args, **kwargs))
        return self.ordinary(spelling, func, args, kwargs)

    def ordinary(self, spelling: Spelling, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run a call that is no site, and carry the marks along."""
        out = func(*args, **kwargs)
        if type(out) in PLAIN and not spelling.writes:  # a shape, a number, nothing
            return out
        if func is F.embedding:
            mark(out, ACTIVATION)
        elif not spelling.shape_only:
            if spelling.moves and isinstance(out, (list, tuple)) and torch.compiler.is_compiling():
                out = tuple(
                    [piece.view_as(piece) for piece in out]
                )  # pieces of a tuple cannot be marked there
            if spelling.like:  # the other arguments give a shape or a dtype, but no values
                args = args[:1]
            propagate(
                args, {} if spelling.like else kwargs, out, moves=spelling.moves, writes=spelling.writes
            )
        if spelling.writes or "out" in kwargs:
            self.memo.written()
        return out

    def _bound(self, rule: Rule, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """The call as a site, if an activation is among its operands or begins there."""
        call = rule.bind(spelling, args, kwargs)
        frame = self.frames[-1]
        if not rule.weighs or not self.looks_for_origins(frame):
            return call
        name = frame.call(rule.op)
        if call is not None:
            return call
        operands = {n: t for n, t in rule.operands(args, kwargs).items() if isinstance(t, Tensor)}
        if not self._begin(frame, name, operands, rule.weights(args, kwargs)):
            return None
        return rule.bind(spelling, args, kwargs)

    def _takes_activation(self, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether an activation is among a composite's arguments, or begins there."""
        frame = self.frames[-1]
        numbered = frame.call(spelling.name) if self.looks_for_origins(frame) else ""
        found = tensors_of((args, kwargs))
        if any(is_activation(t) for _, t in found):
            return True
        operands = {slot: t for slot, t in found if holds_numbers(t)}
        return bool(numbered) and self._begin(frame, numbered, operands, list(operands.values()))

    def _begin(self, frame: Frame, call: str, operands: Mapping[str, Tensor], weights: list[Any]) -> bool:
        """Make activations of the operands that begin at this call; whether there are any."""
        names = self.origins_at(frame, call, operands, weights)
        for name in names:
            enter_as(operands[name], ACTIVATION)
        return bool(names)

    def looks_for_origins(self, frame: Frame) -> bool:
        """Whether this frame's calls are numbered, because activations may begin in it."""
        raise NotImplementedError

    def origins_at(
        self, frame: Frame, call: str, operands: Mapping[str, Tensor], weights: list[Any]
    ) -> list[str]:
        """The names of the unmarked operands that are activations all the same; weights may be weights."""
        raise NotImplementedError

    def at_site(self, rule: Rule, call: Call, label: str, exact: Callable[[], Any]) -> Any:
        """What the site's call returns; exact() makes the original call."""
        raise NotImplementedError

    def at_unit(self, frame: Frame, x: Tensor, exact: Callable[[], Any]) -> Any:
        """What a module that is one operator returns; exact() runs the module itself."""
        raise NotImplementedError

    def reaches_unit(self, frame: Frame, x: Any) -> bool:
        """Whether the input of a module that is one operator is an activation, or becomes one there."""
        if is_activation(x):
            return True
        if not isinstance(x, Tensor) or not holds_numbers(x) or not self.looks_for_origins(frame):
            return False
        return self._begin(frame, UNIT, {"input": x}, list(frame.module.parameters(recurse=False)))

    def leave(self, out: Any) -> None:
        """Take away what the forward has hung on the tensors that it returns."""
        for _, tensor in tensors_of(out):
            mark(tensor, CONSTANT)

    def at_entry(self, frame: Frame, names: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> None:
        """Called when a frame begins, with its parameters' names and its arguments."""

    def _site(self, rule: Rule, call: Call, exact: Callable[[], Any]) -> Any:
        label = self.frames[-1].label(rule.label(call))
        out = self.at_site(rule, call, label, exact)
        to = rule.emits
        if call.target is not None:
            out = out if out is call.target else call.target.copy_(out)
            mark_written(out, to)
            self.memo.written()
        else:
            mark(out, to)
        return out

    def _decomposed(
        self, spelling: Spelling, args: tuple, kwargs: dict[str, Any], exact: Callable[[], Any]
    ) -> Any:
        assert spelling.decomposition is not None
        if kwargs.get("out") is not None:
            self._refuse_out(spelling.name)
        if _any_complex(t for _, t in tensors_of((args, kwargs))):
            return self._refused(_of_complex(spelling.name), exact)
        steps = (self.frames[-1].repeated,) if spelling.by_steps else ()
        try:
            with self:
                return spelling.decomposition(*steps, *args, **kwargs)
        except NotImplementedError as missing:
            return self._refused(str(missing), exact)

    def _refuse_out(self, name: str) -> NoReturn:
        raise UnsupportedOperatorError(
            f"{self.frames[-1].sites.site(name)} writes into out=; assign the result instead"
        )

    def _refused(self, name: str, exact: Callable[[], Any]) -> Any:
        """The exact result of a composite without a spiking form; the audit reports it under this name."""
        SLOT.refused = Refusal(name)
        try:
            out = exact()
        finally:
            SLOT.refused = None
        mark(out, ACTIVATION)
        return out


def _any_complex(tensors: Iterable[Tensor]) -> bool:
    return any(t.is_complex() for t in tensors)


def _of_complex(name: str) -> str:
    return f"{name} of complex numbers"


Watch = Callable[[str, SpikingOperator, Any, Callable[[], Any]], None]


class Router(WatchedForward):
    """Run time: every site goes to its operator module; a site never seen in calibration is an error.

    ``watch`` is told (site, operator, output, exact) after every operator, exact() giving the ANN's result;
    ``begun`` of every tensor that becomes an activation where it meets a weight.
    """

    def __init__(self, watch: Watch | None = None, begun: Callable[[Tensor], None] | None = None) -> None:
        super().__init__()
        self.watch, self.begun = watch, begun

    def looks_for_origins(self, frame: Frame) -> bool:
        """See WatchedForward."""
        return bool(frame.sites.origins)

    def origins_at(
        self, frame: Frame, call: str, operands: Mapping[str, Tensor], weights: list[Any]
    ) -> list[str]:
        """See WatchedForward; what calibration found."""
        names = [name for name in frame.sites.origins.get(call, ()) if name in operands]
        if self.begun is not None:
            for name in names:
                self.begun(operands[name])
        return names

    def at_site(self, rule: Rule, call: Call, label: str, exact: Callable[[], Any]) -> Any:
        """See WatchedForward."""
        sites = self.frames[-1].sites
        if label not in sites.operators:
            raise UnseenSiteError(unseen(sites.site(label)))
        operator = sites.operators[label]
        if operator is None:
            return inside_operator(exact)
        return self.run(
            sites.site(label), operator, call.operands, lambda: rule.run(operator, call, self.memo), exact
        )

    def at_unit(self, frame: Frame, x: Tensor, exact: Callable[[], Any]) -> Any:
        """See WatchedForward."""
        sites, spec = frame.sites, frame.sites.unit
        assert spec is not None
        operator = sites.unit_operator
        if operator is None:
            out = inside_operator(exact)
            mark(out, ACTIVATION)
            return out
        # no call comes to this mode, if it is the innermost: as torch has it within a site's function
        innermost = not torch.compiler.is_compiling() and _get_current_function_mode() is self
        if innermost:
            _pop_mode()
        try:
            out = self.run(
                sites.site(spec.function),
                operator,
                {"input": x},
                lambda: operator(*spec.arguments(frame.module, x)),
                exact,
            )
            mark(out, spec.emits)
        finally:
            if innermost:
                _push_mode(self)
        return out

    def run(
        self,
        site: str,
        operator: SpikingOperator,
        operands: Mapping[str, Tensor],
        run: Callable[[], Any],
        exact: Callable[[], Any],
    ) -> Any:
        """The output of a site's operator, which is called by ``run``."""
        if open_ledgers():
            refuse_compiled()
        out = inside_operator(run)
        if self.watch is not None:
            inside_operator(lambda: self.watch(site, operator, out, exact))  # type: ignore[misc]  # not None here
        return out


def unseen(site: str) -> str:
    """The message for a call site that calibration never reached."""
    return (
        f"{site} was never reached in calibration, so it has no neurons; add a calibration batch that takes "
        "this branch and convert again"
    )
