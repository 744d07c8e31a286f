"""convert(): record, build, route, audit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion.audit import Audit, Findings
from mbe_plugin.conversion.backend import check_backend, load_kernels
from mbe_plugin.conversion.batches import device_of
from mbe_plugin.conversion.build import NeuronBuilder
from mbe_plugin.conversion.following.comparison import root_ratio, seeded, squared_error
from mbe_plugin.conversion.following.frames import ModuleSites, watched_by
from mbe_plugin.conversion.following.waits import Waits
from mbe_plugin.conversion.following.walk import Router
from mbe_plugin.conversion.marks import holds_numbers, tensors_of
from mbe_plugin.conversion.network import Conversion, attach, install_copy
from mbe_plugin.conversion.progress import Progress, Tell
from mbe_plugin.conversion.record import record
from mbe_plugin.conversion.sites import Calibration, Site, structure_of
from mbe_plugin.conversion.storage import save
from mbe_plugin.errors import CalibrationError, ConversionError, UnsupportedOperatorError
from mbe_plugin.fitting.functions import Scalar
from mbe_plugin.operators import CalibratedNode, SpikingOperator
from mbe_plugin.recording import count_spikes

SPIKES_LOOKED_AT = 1 << 16  # elements per call of a neuron, for the rates in the report


@torch.inference_mode(False)  # the caller may be in it, and its tensors cannot be used outside
def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    copy: bool = True,
    centers: bool = True,
    progress: bool | Tell = False,
) -> Calibration:
    """Record what convert() needs of a model, once for any number of conversions (a sweep over T, say).

    model: stays as it is. batches: dicts, tensors, (inputs, label) or ((args...), {kwargs}), or a DataLoader
    of these; they are taken one at a time. copy=False shares the parameters instead of copying them. centers: keep how
    each channel is spread, 256 rows of every layer's input, which MBEConfig(center=True) and tune() need; without it a
    batch takes half the time. progress: True for a bar, or a function that is told (stage, done, total or None). Raises
    CalibrationError for no batches, a batch that the model refuses, or values that are not finite.
    """
    work, modules = install_copy(model, copy)
    return record(work, modules, batches, Progress(progress), centers)


@torch.inference_mode(False)
def convert(
    model: nn.Module,
    calibration: Calibration | Iterable[Any],
    config: MBEConfig | None = None,
    *,
    copy: bool = True,
    progress: bool | Tell = False,
) -> nn.Module:
    """Turn a pretrained network into a spiking one without training (arXiv:2508.07710).

    model: any nn.Module; it, its mode and its device stay as they are. calibration: a few batches in the forms that
    calibrate() takes, or its result. config: MBEConfig(). copy=False shares parameters and buffers with
    the model instead of copying them (the weights are not changed either way). progress: see calibrate.

    Returns a module of the model's own class, in eval mode, with the same call and the same outputs; its operators are
    submodules under ``.mbe``, and ``mbe_plugin.report(snn)`` lists them.
    Raises CalibrationError (see calibrate), UnsupportedOperatorError for an operator on activations without a spiking
    form, named with its module path (strict), ConversionError if nothing was found to convert, the model cannot be
    copied or followed, or it computes something else once its modules are routed, BackendError for a backend that cannot
    run here.
    """
    config, tell = config or MBEConfig(), Progress(progress)
    check_backend(config.backend)
    work, modules = install_copy(model, copy)
    if isinstance(calibration, Calibration):
        _check_same_model(work, calibration)
        _check_centers(calibration, config)
    else:
        calibration = record(work, modules, calibration, tell, config.centers_any)
    conversion = build(work, modules, calibration, config, tell)
    args, kwargs = calibration.first_batch
    del calibration  # and with it the samples, unless the caller holds them
    load_kernels(work, config.backend, tell)
    conversion.findings = audit(work, args, kwargs, conversion, tell)
    if config.strict and conversion.findings.unsupported:
        raise UnsupportedOperatorError(_unsupported(conversion.findings))
    reset_counts(work)
    return work


def build(
    work: nn.Module,
    modules: dict[str, ModuleSites],
    calibration: Calibration,
    config: MBEConfig,
    tell: Progress,
) -> Conversion:
    """Make every site's neurons from what calibration saw, and attach them."""
    reasons = {site.name: _why_exact(site, config) for site in calibration.sites}
    kept = {name: why for name, why in reasons.items() if why}
    if len(kept) == len(calibration.sites):
        raise ConversionError(_nothing(calibration, kept))
    conversion = Conversion(
        config,
        calibration.sites,
        kept,
        Findings(),
        batches=calibration.batches,
        inputs=calibration.inputs,
        origins=calibration.origins,
        unchecked=calibration.unchecked,
        unmarked=calibration.unmarked,
    )
    shared = {site.name: site.shared for site in calibration.sites}
    builders = {site.name: NeuronBuilder(site, config) for site in calibration.sites}
    neurons: dict[tuple[str, str], nn.Module] = {}
    numbers = {site.name: i for i, site in enumerate(calibration.sites)}

    def neuron(site: str, role: str, function: str, scalar: Scalar | None) -> nn.Module:
        tell("building neurons, sites", numbers[site], len(numbers))
        there = shared[site].get(role, ("", ""))
        twin = neurons.get(there)
        if twin is None or not _interchangeable(twin, builders[there[0]], there[1], builders[site], role):
            twin = builders[site](role, function, scalar)
        neurons[site, role] = twin
        return twin

    attach(work, modules, conversion, neuron, save)
    tell("building neurons, sites", len(numbers), len(numbers))
    return conversion


def _nothing(calibration: Calibration, kept: dict[str, str]) -> str:
    if kept:
        return (
            f"nothing to convert: {calibration.model_class} has {len(kept)} sites, all kept exact; check include, exclude "
            "and linear_inputs"
        )
    return (
        f"nothing to convert: no operator on activations was found in {calibration.model_class}; activations are floating "
        "inputs, embeddings, and what meets a weight and differs from batch to batch"
    )


def _interchangeable(
    twin: nn.Module, builder: NeuronBuilder, role: str, other: NeuronBuilder, other_role: str
) -> bool:
    """Whether builder's neuron, which encodes the same tensor, has the settings that the other site asks for."""
    settings = other.identity_settings(other_role)
    same = builder.identity_settings(role) == settings
    return same and isinstance(twin, CalibratedNode) and twin.scale == settings[-1]


def _why_exact(site: Site, config: MBEConfig) -> str:
    if config.keeps_exact(site.name):
        return "excluded by the configuration"
    if config.linear_inputs == "analogue" and len(site.dims) == 1:
        return "linear with analogue input, by configuration"
    return ""


def audit(
    work: nn.Module, args: tuple, kwargs: dict[str, Any], conversion: Conversion, tell: Progress
) -> Findings:
    """One forward of the converted model under both the audit and a watch that measures each operator's error."""
    squares: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def watch(site: str, operator: SpikingOperator, out: Any, exact: Callable[[], Any]) -> None:
        if isinstance(out, Tensor):
            squares[site].append(squared_error(out, exact()))
        tell("auditing, sites", len(squares), spiking)

    spiking = len(conversion.sites) - len(conversion.kept_exact)
    inputs = [t for _, t in tensors_of((args, kwargs)) if holds_numbers(t)]
    with (
        torch.no_grad(),
        seeded(device_of(work)),
        count_spikes(work, SPIKES_LOOKED_AT) as conversion.spikes,
        Audit(inputs) as watching,
        watched_by(Router(watch, watching.follow)),
        Waits() as waits,
    ):
        out = work(*args, **kwargs)
    conversion.latency = waits.latency(out, conversion.spikes)
    tell("auditing, sites", spiking, spiking)
    conversion.local_errors = {site: root_ratio(found) for site, found in squares.items()}
    return watching.findings


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


def _check_centers(calibration: Calibration, config: MBEConfig) -> None:
    if config.centers_any and not calibration.centers:
        raise CalibrationError(
            "MBEConfig(center=True) needs channels' distributions, which this calibration did not keep; calibrate with "
            "centers=True"
        )


def _check_same_model(work: nn.Module, calibration: Calibration) -> None:
    here, there = structure_of(work), calibration.structure
    different = next((name for name in {**there, **here} if here.get(name) != there.get(name)), None)
    if different is not None:
        raise ConversionError(
            f"this calibration is of a {calibration.model_class} in which {different} is "
            f"{there.get(different, 'absent')}, not of this {type(work).__name__}, where it is "
            f"{here.get(different, 'absent')}; calibrate this model"
        )
