"""What watches a calibration's forwards: Scout finds where activations begin, Recorder makes the sites and observes.

The recorder walks like the router, but at each site it makes the original call and lets the operator's
observers see the same operands, so inner quantities (deviations, exponents, sums) are recorded too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from mbe_plugin.conversion.build import make_operator
from mbe_plugin.conversion.following.entry import slots
from mbe_plugin.conversion.following.frames import SLOT, Frame, inside_operator
from mbe_plugin.conversion.following.origins import Origins, follow_weights, is_weight
from mbe_plugin.conversion.following.walk import WatchedForward
from mbe_plugin.conversion.marks import CODED, PRODUCT, holds_numbers, level, mark
from mbe_plugin.conversion.sites import Calibration, Site, structure_of
from mbe_plugin.conversion.vocabulary.rules import Call, MultilinearRule, QuotientRule, Rule, Spelling
from mbe_plugin.fitting.functions import Scalar
from mbe_plugin.operators import EncodedCall, Memo, Observer, SpikingOperator
from mbe_plugin.operators.softmax import WEIGHT


class Scout(WatchedForward):
    """Makes the original calls, and finds where activations begin (origins.py)."""

    def __init__(self, origins: Origins) -> None:
        super().__init__()
        self.origins = origins

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See WatchedForward; follows what is computed from weights, too."""
        out = super().__torch_function__(func, types, args, kwargs)
        if not SLOT.inside_operator:
            follow_weights(args, kwargs or {}, out)
        return out

    def looks_for_origins(self, frame: Frame) -> bool:
        """See WatchedForward."""
        return True

    def origins_at(
        self, frame: Frame, call: str, operands: Mapping[str, Tensor], weights: list[Any]
    ) -> list[str]:
        """See WatchedForward; by comparing with what the same call met before."""
        if not any(is_weight(t) for t in weights):
            return []
        return self.origins.begins(frame.sites.path, call, operands)

    def at_site(self, rule: Rule, call: Call, label: str, exact: Callable[[], Any]) -> Any:
        """The original call's result."""
        return inside_operator(exact)

    def at_unit(self, frame: Frame, x: Tensor, exact: Callable[[], Any]) -> Any:
        """What the module itself returns."""
        assert frame.sites.unit is not None
        out = inside_operator(exact)
        mark(out, frame.sites.unit.emits)
        return out


class Recorder(Scout):
    """Makes a Site for every call site it meets, and observes."""

    def __init__(self, origins: Origins, centers: bool) -> None:
        super().__init__(origins)
        # whether observers keep each channel's distribution, which centers are made of
        self.centers = centers
        self.unmarked: set[tuple[str, str]] = set()  # nonlinear functions that met no activation
        self.sites: dict[str, Site] = {}
        self.observers: dict[str, SpikingOperator] = {}
        self.inputs: dict[str, dict[str, int]] = {}
        self._encoded: list[tuple[Tensor, int, str, str]] = []  # tensor, version, site, role

    def start(self) -> None:
        """Forget the tensors of the last forward."""
        self._encoded.clear()
        self.memo = Memo()

    def at_entry(self, frame: Frame, names: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> None:
        """Remember which inputs of a module are activations, for calls that enter there from outside."""
        known = self.inputs.setdefault(frame.sites.path, {})
        for slot, tensor in slots(names, args, kwargs):
            key = f"{frame.method}({slot})"
            known[key] = max(known.get(key, 0), level(tensor))

    def _bound(self, rule: Rule, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        call = super()._bound(rule, spelling, args, kwargs)
        x = args[0] if args else kwargs.get("input")
        if call is None and rule.nonlinear and isinstance(x, Tensor) and holds_numbers(x):
            self.unmarked.add((self.frames[-1].sites.path, rule.op))
        return call

    def at_site(self, rule: Rule, call: Call, label: str, exact: Callable[[], Any]) -> Any:
        """The original call's result; the observers see the operands first (it may work in place)."""
        path = self.frames[-1].sites.path
        name = self.frames[-1].sites.site(label)
        if name not in self.sites:
            self._add(Site(path, label, rule.operator(call), _static(rule, call), _dims(rule, call)), call)
        self._update_coded(self.sites[name], call)
        self._note_sharing(self.sites[name], call)
        observed = inside_operator(lambda: rule.run(self.observers[name], call, Memo()))
        # a product's observers hand on its own operands, so this was the original call
        same = isinstance(self.observers[name], EncodedCall) and call.target is None
        return observed if same else inside_operator(exact)

    def at_unit(self, frame: Frame, x: Tensor, exact: Callable[[], Any]) -> Any:
        """A module that is one operator."""
        spec = frame.sites.unit
        assert spec is not None
        name = frame.sites.site(spec.function)
        if name not in self.sites:
            module = frame.module
            site = Site(frame.sites.path, spec.function, spec.function, unit=spec)
            self._add(site, None, lambda v: inside_operator(lambda: type(module).forward(module, v)))
        inside_operator(lambda: self.observers[name](*spec.arguments(frame.module, x)))
        return super().at_unit(frame, x, exact)

    def _add(self, site: Site, call: Call | None, scalar: Scalar | None = None) -> None:
        self.sites[site.name] = site
        site.coded = frozenset() if call is None else frozenset(call.operands)

        def make(role: str, function: str, scalar: Scalar | None = None) -> nn.Module:
            if function == WEIGHT:
                return nn.Identity()
            return Observer(function, scalar, site.name, role, self.centers)

        coded, site.coded = site.coded, frozenset()  # observe every operand
        self.observers[site.name] = make_operator(site, make, scalar)
        site.coded = coded

    def _update_coded(self, site: Site, call: Call) -> None:
        enough = (
            PRODUCT if len(site.dims) == 1 else CODED
        )  # weights take pairs of spikes, products single trains
        arrived = {n for n, t in call.operands.items() if level(t) >= enough}
        site.coded = site.coded & arrived

    def _note_sharing(self, site: Site, call: Call) -> None:
        if not site.dims:
            return
        for operand in site.dims:
            tensor, role = call.operands[operand], f"encoders.{operand}"
            version = self.memo.version_of(tensor)
            twin = next((e for e in self._encoded if e[0] is tensor and e[1] == version), None)
            if twin is not None and twin[2] != site.name:
                site.shared.setdefault(role, (twin[2], twin[3]))
            elif twin is None:
                site.shared.pop(role, None)
                self._encoded = [*self._encoded[-3:], (tensor, version, site.name, role)]

    def finish(self, batches: int, first: tuple[tuple, dict], model: nn.Module) -> Calibration:
        """The plain data."""
        for name, site in self.sites.items():
            for observer in self.observers[name].modules():
                if isinstance(observer, Observer):
                    site.roles[observer.role] = observer.statistics
        return Calibration(
            list(self.sites.values()),
            self.inputs,
            batches,
            first,
            type(model).__name__,
            structure_of(model),
            self.origins.begun,
            self.origins.unchecked(),
            sorted(self.unmarked),
            self.centers,
        )


def _static(rule: Rule, call: Call) -> dict[str, Any]:
    static = dict(call.static)
    if isinstance(rule, QuotientRule):
        static["numerator"] = "0" in call.operands
    return static


def _dims(rule: Rule, call: Call) -> dict[str, int]:
    if not isinstance(rule, MultilinearRule):
        return {}
    dims = rule.dims(call)
    return {n: dims[n] for n, p in zip(call.operands, call.pattern, strict=True) if p == "a"}
