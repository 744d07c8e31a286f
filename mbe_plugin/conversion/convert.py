"""convert(): record, build, route, audit."""

from __future__ import annotations

import copy as copying
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion.audit import Findings, audit_forward
from mbe_plugin.conversion.batches import device_of
from mbe_plugin.conversion.build import NeuronBuilder, make_operator
from mbe_plugin.conversion.comparison import root_ratio, seeded, squared_error
from mbe_plugin.conversion.frames import ModuleSites, Router, inside_operator, watched_by
from mbe_plugin.conversion.marks import holds_numbers, tensors_of
from mbe_plugin.conversion.record import record
from mbe_plugin.conversion.routed import CONTAINER, install
from mbe_plugin.conversion.sites import Calibration, Site, structure_of
from mbe_plugin.errors import ConversionError, UnsupportedOperatorError
from mbe_plugin.fitting.functions import Scalar
from mbe_plugin.operators import CalibratedNode, SpikingOperator
from mbe_plugin.operators.neuron import RangeNotice
from mbe_plugin.operators.spikes import SpikeCounts, count_spikes

Progress = Callable[[str], None]


@dataclass
class Conversion:
    """What a converted model knows of its own making; ``snn.mbe_conversion``."""

    config: MBEConfig
    sites: list[Site]
    kept_exact: dict[str, str]  # site -> why
    findings: Findings
    local_errors: dict[str, float] = field(
        default_factory=dict
    )  # site -> relative error on the audit's batch
    spikes: SpikeCounts | None = None  # of the audit's batch
    batches: int = 0


@torch.inference_mode(False)  # the caller may be in it, and its tensors cannot be used outside
def calibrate(
    model: nn.Module, batches: Iterable[Any], *, copy: bool = True, progress: Progress = lambda _: None
) -> Calibration:
    """Record what convert() needs of a model, once for any number of conversions (a sweep over T, say).

    model: stays as it is. batches: dicts, tensors, (inputs, label) or ((args...), {kwargs}), or a DataLoader
    of these. copy=False shares the parameters instead of copying them. Raises CalibrationError for no
    batches, a batch that the model refuses, or values that are not finite.
    """
    work, modules = install_copy(model, copy)
    return record(work, modules, batches, progress)


@torch.inference_mode(False)
def convert(
    model: nn.Module,
    calibration: Calibration | Iterable[Any],
    config: MBEConfig | None = None,
    *,
    copy: bool = True,
    progress: Progress = lambda _: None,
) -> nn.Module:
    """Turn a pretrained network into a spiking one without training (METHOD section 2).

    model: any nn.Module; it, its mode and its device stay as they are. calibration: a few batches in the forms that
    calibrate() takes, or its result. config: MBEConfig(). copy=False shares parameters and buffers with
    the model instead of copying them (the weights are not changed either way). progress is told each stage.

    Returns a module of the model's own class, in eval mode, with the same call and the same outputs; its operators are
    submodules under ``.mbe``, and ``mbe_plugin.report(snn)`` lists them.
    Raises CalibrationError (see calibrate), UnsupportedOperatorError for an operator on activations without a spiking
    form, named with its module path (strict), and ConversionError if nothing was found to convert, the model cannot be
    copied or followed, or it computes something else once its modules are routed.
    """
    config = config or MBEConfig()
    work, modules = install_copy(model, copy)
    if isinstance(calibration, Calibration):
        _check_same_model(work, calibration)
    else:
        calibration = record(work, modules, calibration, progress)
    progress("building neurons")
    conversion = build(work, modules, calibration, config)
    progress("auditing")
    args, kwargs = calibration.first_batch
    conversion.findings = audit(work, args, kwargs, conversion)
    if config.strict and conversion.findings.unsupported:
        raise UnsupportedOperatorError(_unsupported(conversion.findings))
    reset_counts(work)
    return work


def build(
    work: nn.Module, modules: dict[str, ModuleSites], calibration: Calibration, config: MBEConfig
) -> Conversion:
    """Make every site's neurons from what calibration saw, and attach them."""
    reasons = {site.name: _why_exact(site, config) for site in calibration.sites}
    kept = {name: why for name, why in reasons.items() if why}
    if len(kept) == len(calibration.sites):
        raise ConversionError(_nothing(calibration, kept))
    conversion = Conversion(config, calibration.sites, kept, Findings(), batches=calibration.batches)
    shared = {site.name: site.shared for site in calibration.sites}
    builders = {site.name: NeuronBuilder(site, config) for site in calibration.sites}
    neurons: dict[tuple[str, str], nn.Module] = {}

    def neuron(site: str, role: str, function: str, scalar: Scalar | None) -> nn.Module:
        twin = neurons.get(shared[site].get(role, ("", "")))
        made = twin if _interchangeable(twin, builders[site]) else builders[site](role, function, scalar)
        assert made is not None
        neurons[site, role] = made
        return made

    attach(work, modules, conversion, calibration.inputs, neuron)
    return conversion


MakeNeuron = Callable[[str, str, str, Scalar | None], nn.Module]  # site, role, function, scalar


def attach(
    work: nn.Module,
    modules: dict[str, ModuleSites],
    conversion: Conversion,
    inputs: dict[str, dict[str, int]],
    neuron: MakeNeuron,
) -> None:
    """Make the operators with neurons from ``neuron``, put them under ``work.mbe``, tell the modules their own."""
    config, kept = conversion.config, conversion.kept_exact
    # what an operator that stays exact hands on is no train: then nothing is merged
    emitter_kept = any(site.name in kept and len(site.dims) != 1 for site in conversion.sites)
    reuse = config.merge and config.family == "routed" and not emitter_kept
    container, notice = nn.ModuleDict(), RangeNotice()
    for site in conversion.sites:
        owner = modules[site.path]
        owner.unit = site.unit or owner.unit
        operator = None
        if site.name not in kept:
            operator = _operator(work, site if reuse else replace(site, coded=frozenset()), neuron)
            container[site.name.replace(".", "/")] = operator
            for role, node in operator.neurons():
                node.simulate, node.notice = config.simulate, notice
                if not node.site:
                    node.site, node.role = site.name, role
        if site.unit is not None:
            owner.unit_operator = operator
        else:
            owner.operators[site.label] = operator
    notice.nodes = [m for m in container.modules() if isinstance(m, CalibratedNode)]
    for owner in modules.values():
        owner.notice = notice
    for path, marks in inputs.items():
        modules[path].inputs = dict(marks)
    work.add_module(CONTAINER, container.to(device_of(work)).eval())
    work.__dict__["mbe_conversion"] = conversion


def _operator(work: nn.Module, site: Site, neuron: MakeNeuron) -> SpikingOperator:
    def make(role: str, function: str, scalar: Scalar | None = None) -> nn.Module:
        return neuron(site.name, role, function, scalar)

    scalar = _module_function(work.get_submodule(site.path)) if site.unit is not None else None
    return make_operator(site, make, scalar)


def _nothing(calibration: Calibration, kept: dict[str, str]) -> str:
    if kept:
        return (
            f"nothing to convert: {calibration.model_class} has {len(kept)} sites, all kept exact; check include, exclude "
            "and linear_inputs"
        )
    return (
        f"nothing to convert: no operator on activations was found in {calibration.model_class}; is the calibration "
        "batch's input a floating tensor, or looked up in an embedding?"
    )


def _module_function(module: nn.Module) -> Scalar:
    """What a module without parameters computes, in float64, away from the model's dtype and device."""
    double = copying.deepcopy(module).to(device="cpu", dtype=torch.float64)
    return lambda x: inside_operator(lambda: double(x))


def _interchangeable(twin: nn.Module | None, builder: NeuronBuilder) -> bool:
    """Whether a neuron that encodes the same tensor has the settings that this site asks for."""
    return (
        isinstance(twin, CalibratedNode)
        and twin.time_steps == builder.time_steps
        and twin.bases == builder.identity_bases
        and twin.scale == builder.scale
    )


def _why_exact(site: Site, config: MBEConfig) -> str:
    if config.keeps_exact(site.name):
        return "excluded by the configuration"
    if config.linear_inputs == "analogue" and len(site.dims) == 1:
        return "linear with analogue input, by configuration"
    return ""


def audit(work: nn.Module, args: tuple, kwargs: dict[str, Any], conversion: Conversion) -> Findings:
    """One forward of the converted model under both the audit and a watch that measures each operator's error."""
    squares: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def watch(site: str, operator: SpikingOperator, out: Any, exact: Callable[[], Any]) -> None:
        if isinstance(out, Tensor):
            squares[site].append(squared_error(out, exact()))

    inputs = [t for _, t in tensors_of((args, kwargs)) if holds_numbers(t)]
    with (
        torch.no_grad(),
        seeded(device_of(work)),
        watched_by(Router(watch)),
        count_spikes(work) as conversion.spikes,
    ):
        findings = audit_forward(lambda: work(*args, **kwargs), inputs)
    conversion.local_errors = {site: root_ratio(found) for site, found in squares.items()}
    return findings


def reset_counts(snn: nn.Module) -> None:
    """Forget how many values were seen, and seen outside the calibrated ranges."""
    for module in snn.modules():
        if isinstance(module, CalibratedNode):
            module.reset_counts()


def _unsupported(findings: Findings) -> str:
    listed = ", ".join(f"{op} in {path} ({n}x)" for (path, op), n in sorted(findings.unsupported.items()))
    return (
        f"operators on activations without a spiking form: {listed}; rewrite them, or convert with strict=False to "
        "keep them exact (the report then lists them)"
    )


def install_copy(model: nn.Module, copy: bool) -> tuple[nn.Module, dict[str, ModuleSites]]:
    """A copy of the model in eval mode (of its structure only, if not ``copy``), routed, without sites yet."""
    if not isinstance(model, nn.Module):
        raise ConversionError(f"convert takes a torch.nn.Module, got {type(model).__name__}")
    if isinstance(getattr(model, "mbe_conversion", None), Conversion):
        raise ConversionError("this model is converted already; convert the ANN it came from")
    bare = next((n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta), None)
    if bare is not None:
        raise ConversionError(f"{bare} is on the meta device, which holds no values; load the weights first")
    memo: dict[int, Any] = {}
    if not copy:
        memo = {id(t): t for t in (*model.parameters(), *model.buffers())}
    try:
        work = copying.deepcopy(model, memo).eval()
    except Exception as refused:
        raise ConversionError(
            f"{type(model).__name__} cannot be copied ({type(refused).__name__}: {refused}); make copy.deepcopy(model) "
            "work, for instance by torch.nn.utils.remove_weight_norm"
        ) from refused
    return work, install(work)


def _check_same_model(work: nn.Module, calibration: Calibration) -> None:
    here, there = structure_of(work), calibration.structure
    different = next((name for name in {**there, **here} if here.get(name) != there.get(name)), None)
    if different is not None:
        raise ConversionError(
            f"this calibration is of a {calibration.model_class} in which {different} is "
            f"{there.get(different, 'absent')}, not of this {type(work).__name__}, where it is "
            f"{here.get(different, 'absent')}; calibrate this model"
        )


__all__ = ["Calibration", "Conversion", "calibrate", "convert", "reset_counts"]
