"""A converted network: a routed copy of the model, the operators in it, and what it knows of its own making."""

from __future__ import annotations

import copy as copying
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion.audit import Findings
from mbe_plugin.conversion.batches import device_of
from mbe_plugin.conversion.build import make_operator
from mbe_plugin.conversion.following.foreign import refuse_foreign_modules
from mbe_plugin.conversion.following.frames import ModuleSites, inside_operator
from mbe_plugin.conversion.following.routed import CONTAINER, SAVER, install
from mbe_plugin.conversion.sites import Site
from mbe_plugin.errors import ConversionError
from mbe_plugin.fitting.functions import Scalar
from mbe_plugin.operators import CalibratedNode, SpikingOperator
from mbe_plugin.operators.neuron import RangeNotice
from mbe_plugin.recording import Latency, Recording


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
    spikes: Recording | None = None  # of the audit's batch
    latency: Latency | None = None  # the same; None for a network that was saved before this was measured
    batches: int = 0
    # as in Calibration:
    inputs: dict[str, dict[str, int]] = field(default_factory=dict)
    origins: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    unmarked: list[tuple[str, str]] = field(default_factory=list)


def install_copy(model: nn.Module, copy: bool) -> tuple[nn.Module, dict[str, ModuleSites]]:
    """A copy of the model in eval mode (of its structure only, if not ``copy``), routed, without sites yet."""
    work = copy_of(model, share=not copy)
    return work, install(work)


def copy_of(model: nn.Module, *, share: bool = False) -> nn.Module:
    """A copy of the model in eval mode; share: of its structure only, with the same parameters and buffers.

    Raises ConversionError for what is no module, has no weights yet, or cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(f"convert takes a torch.nn.Module, got {type(model).__name__}")
    refuse_foreign_modules(model)
    bare = next((n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta), None)
    if bare is not None:
        raise ConversionError(f"{bare} is on the meta device, which holds no values; load the weights first")
    memo: dict[int, Any] = {}
    if share:
        memo = {id(t): t for t in (*model.parameters(), *model.buffers())}
    try:
        with _Detached():
            return copying.deepcopy(model, memo).eval()
    except Exception as refused:
        raise ConversionError(
            f"{type(model).__name__} cannot be copied ({type(refused).__name__}: {refused}); make copy.deepcopy(model) "
            "work, for instance by deleting what it holds beside its parameters and buffers"
        ) from refused


class _Detached(TorchFunctionMode):
    """A deep copy takes the tensors that hang on a graph, such as a model keeps of its last forward, as constants."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run func, or in place of refusing a copy with gradients make one without."""
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


MakeNeuron = Callable[[str, str, str, Scalar | None], nn.Module]  # site, role, function, scalar
Save = Callable[[nn.Module, str], None]


def attach(
    work: nn.Module,
    modules: dict[str, ModuleSites],
    conversion: Conversion,
    neuron: MakeNeuron,
    save: Save,
) -> None:
    """Make the operators with neurons from ``neuron``, put them under ``work.mbe``, tell the modules their own.

    save writes the network to a folder; a Hugging Face model's ``save_pretrained`` calls it.
    """
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
            container[site.key] = operator
            operator.site = site.name
            for role, node in operator.neurons():
                node.simulate = "steps" if config.simulate == "steps" else "closed"
                node.gradient, node.backend, node.notice = config.gradient, config.backend, notice
                if not node.site:
                    node.site, node.role = site.name, role
        if site.unit is not None:
            owner.unit_operator = operator
        else:
            owner.operators[site.label] = operator
    notice.nodes = [m for m in container.modules() if isinstance(m, CalibratedNode)]
    for owner in modules.values():
        owner.notice, owner.by_events = notice, config.simulate == "events"
    for path, marks in conversion.inputs.items():
        modules[path].inputs = dict(marks)
    for path, begun in conversion.origins.items():
        modules[path].origins = dict(begun)
    modules[""].time_steps = config.time_steps
    work.add_module(CONTAINER, container.to(device_of(work)).eval())
    conversion.sites = [site.without_samples() for site in conversion.sites]
    work.__dict__["mbe_conversion"] = conversion
    work.__dict__[SAVER] = save


def _operator(work: nn.Module, site: Site, neuron: MakeNeuron) -> SpikingOperator:
    def make(role: str, function: str, scalar: Scalar | None = None) -> nn.Module:
        return neuron(site.name, role, function, scalar)

    scalar = module_function(work.get_submodule(site.path)) if site.unit is not None else None
    return make_operator(site, make, scalar)


def module_function(module: nn.Module) -> Scalar:
    """What a module without parameters computes, in float64, away from the model's dtype and device."""
    double = copying.deepcopy(module).to(device="cpu", dtype=torch.float64)
    return lambda x: inside_operator(lambda: double(x))
