"""Recording: one forward per calibration batch, watched; the result is plain data.

The recorder walks like the router, but at each site it makes the original call and lets the operator's
observers see the same operands, so inner quantities (deviations, exponents, sums) are recorded too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

from mbe_plugin.conversion.batches import as_call, device_of
from mbe_plugin.conversion.build import make_operator
from mbe_plugin.conversion.following.comparison import (
    is_same_network,
    outputs_of,
    relative_difference,
    seeded,
)
from mbe_plugin.conversion.following.frames import (
    SLOT,
    Frame,
    ModuleSites,
    WatchedForward,
    inside_operator,
    slots,
    watched_by,
)
from mbe_plugin.conversion.following.origins import Origins, follow_weights, is_weight, perturbed_run
from mbe_plugin.conversion.following.routed import unrouted
from mbe_plugin.conversion.marks import CODED, PRODUCT, holds_numbers, level, mark
from mbe_plugin.conversion.progress import Progress
from mbe_plugin.conversion.sites import Calibration, Site, structure_of
from mbe_plugin.conversion.vocabulary.probe import find_units
from mbe_plugin.conversion.vocabulary.rules import Call, MultilinearRule, QuotientRule, Rule, Spelling
from mbe_plugin.conversion.vocabulary.units import UnitSpec
from mbe_plugin.errors import CalibrationError, ConversionError, MBEError
from mbe_plugin.fitting.functions import Scalar
from mbe_plugin.operators import EncodedCall, Memo, Observer, SpikingOperator
from mbe_plugin.operators.neuron import spread

OUTPUTS_COMPARED = 1 << 20
STAGE = "calibrating, batches"


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

    def __init__(self, origins: Origins) -> None:
        super().__init__(origins)
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
            return Observer(function, scalar, site.name, role)

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
        )


def record(
    model: nn.Module,
    modules: dict[str, ModuleSites],
    batches: Iterable[Any],
    tell: Progress,
) -> Calibration:
    """Run ``batches`` through ``model`` (routed, in eval mode) and return what its sites saw.

    Raises CalibrationError for no batches, a batch that the model refuses, and values that are not finite.
    """
    _check_batches(batches)
    recorder = Recorder(Origins())
    first: tuple[tuple, dict] | None = None
    count = 0
    total = len(batches) if isinstance(batches, Sized) else None
    tell(STAGE, 0, total)
    for batch in batches:
        args, kwargs = as_call(batch, model)
        if first is None:
            first = (args, kwargs)
            recorder = _first_batch(model, modules, args, kwargs)
        else:
            _run(recorder, model, count, args, kwargs)
        count += 1
        tell(STAGE, count, total)
    if first is None:
        raise CalibrationError("no calibration data: the iterable gave no batch; pass at least one")
    return recorder.finish(count, first, model)


def _first_batch(model: nn.Module, modules: dict[str, ModuleSites], args: tuple, kwargs: dict) -> Recorder:
    """The recorder that has seen the first batch, which also tells units, origins, and whether routing changes it."""
    wanted = _find_units(model, modules, args, kwargs)
    recorder = Recorder(Origins())
    out = _run(recorder, model, 0, args, kwargs)
    _check_routing(model, _part_of(out), wanted, args, kwargs)
    del out
    origins = recorder.origins
    if origins.seen:
        for bold in (
            (False, True) if device_of(model).type == "cpu" else (False,)
        ):  # a GPU dies of a wrong index
            perturbed_run(lambda a, k: _run(Scout(origins), model, 0, a, k), args, kwargs, bold)
    if any(origins.begun.values()):
        origins.met.clear()  # what lies behind them is no question any more
        recorder = Recorder(origins)
        _run(recorder, model, 0, args, kwargs)
    return recorder


def _run(mode: Scout, model: nn.Module, index: int, args: tuple, kwargs: dict) -> Any:
    """One forward under ``mode``, with the random numbers of calibration batch ``index``."""
    if isinstance(mode, Recorder):
        mode.start()
    with seeded(device_of(model), index), watched_by(mode):
        return _forward(model, index, args, kwargs)


def _check_batches(batches: Any) -> None:
    """One batch in place of several would be read row by row, or key by key."""
    iterable = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    if not iterable or isinstance(batches, (Tensor, Mapping, str)):
        raise CalibrationError(
            "calibration must be an iterable of batches, such as [batch] or a DataLoader, or calibrate()'s result; "
            f"got {type(batches).__name__}"
        )


def _as_it_was(model: nn.Module, args: tuple, kwargs: dict) -> list[Tensor]:
    """The outputs of the first batch without any routing."""
    # any mode keeps torch's fused fast paths away, which skip submodules
    with unrouted(model), BaseTorchFunctionMode(), seeded(device_of(model)):
        return _part_of(_forward(model, 0, args, kwargs))


def _part_of(out: Any) -> list[Tensor]:
    """Of every output at most a million values, so that large ones need not be held while recording goes on."""
    return [spread(tensor, None, OUTPUTS_COMPARED).clone() for tensor in outputs_of(out)]


def _find_units(model: nn.Module, modules: dict[str, ModuleSites], args: tuple, kwargs: dict) -> list[Tensor]:
    """Tell the modules that are one operator; returns the outputs of the forward that this took."""
    outputs: list[Tensor] = []
    found: dict[str, UnitSpec] = inside_operator(
        lambda: find_units(model, lambda: outputs.extend(_as_it_was(model, args, kwargs)))
    )
    for path, spec in found.items():
        modules[path].unit = spec
    return outputs


def _check_routing(
    model: nn.Module, routed: list[Tensor], wanted: list[Tensor], args: tuple, kwargs: dict
) -> None:
    """ConversionError if the routed network, with every operator exact, is not the one that was passed.

    A module's code that looks at its own class or children could take another way once it is routed.
    """
    if is_same_network(routed, wanted):
        return
    if not is_same_network(_as_it_was(model, args, kwargs), wanted):
        return  # a model with a memory, or a batch that it writes into: nothing can be said
    raise ConversionError(
        f"{type(model).__name__} computes something else once its modules are routed: with every operator exact its "
        f"output differs by {relative_difference(routed, wanted):.1e} on calibration batch 0; does its "
        "code compare types with `is`, or count its modules? Please report the model"
    )


def _forward(model: nn.Module, index: int, args: tuple, kwargs: dict) -> Any:
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    except MBEError:
        raise
    except Exception as refused:
        as_keywords = isinstance(refused, TypeError) and not args
        hint = (
            " (a mapping is passed as keyword arguments; for a model that takes the mapping itself give "
            "((mapping,), {}) as a batch)"
        )
        raise CalibrationError(
            f"the model refused calibration batch {index}: {type(refused).__name__}: {refused}{hint if as_keywords else ''}"
        ) from refused


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
