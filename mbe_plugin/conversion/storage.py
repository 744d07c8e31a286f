"""Saving a converted network's operators, and putting them back: safetensors and JSON, nothing that executes.

``mbe.safetensors`` holds every neuron's buffers, ``mbe.json`` the sites, the configuration, the audit's result and a
checksum. The weights are the model's own and are not in these files; a Hugging Face model's
``save_pretrained`` writes them beside.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion.audit import Findings
from mbe_plugin.conversion.backend import runnable
from mbe_plugin.conversion.following.routed import CONTAINER, original_class
from mbe_plugin.conversion.network import Conversion, attach, install_copy
from mbe_plugin.conversion.sites import Site
from mbe_plugin.conversion.vocabulary.units import UnitSpec
from mbe_plugin.errors import StorageError
from mbe_plugin.operators import CalibratedNode, SpikingOperator, Statistics
from mbe_plugin.operators.description import buffers_of, described, missing_from, restored
from mbe_plugin.operators.softmax import WEIGHT
from mbe_plugin.recording import Latency, NeuronEvents, Recording
from mbe_plugin.sources.models import is_of_timm, open_model

FORMAT = 3
TENSORS, DESCRIPTION = "mbe.safetensors", "mbe.json"


def save(snn: nn.Module, folder: str | Path) -> None:
    """Write the operators of a converted network to ``folder`` (made if it does not exist).

    Raises StorageError for a module that is not a converted network.
    """
    conversion = getattr(snn, "mbe_conversion", None)
    if not isinstance(conversion, Conversion):
        raise StorageError(f"save takes what mbe_plugin.convert returned, got a {type(snn).__name__}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    neurons, tensors = _neurons_of(snn, conversion)
    save_file(tensors, folder / TENSORS)
    description = {
        "format": FORMAT,
        "model_class": original_class(snn).__name__,
        "structure": structure_fingerprint(snn),
        "weights": weights_fingerprint(snn),
        "tensors_sha256": hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest(),
        "config": json.loads(conversion.config.to_json()),
        "sites": [_site_as_dict(site) for site in conversion.sites],
        "inputs": conversion.inputs,
        "origins": conversion.origins,
        "unchecked": conversion.unchecked,
        "unmarked": conversion.unmarked,
        "neurons": neurons,
        "kept_exact": conversion.kept_exact,
        "findings": {k: [[*key, n] for key, n in getattr(conversion.findings, k).items()] for k in _FINDINGS},
        "local_errors": conversion.local_errors,
        "batches": conversion.batches,
        "spikes": _spikes_as_list(conversion.spikes),
        "latency": asdict(conversion.latency) if conversion.latency else None,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1))


def load(
    folder: str | Path, model: nn.Module | None = None, *, copy: bool = True, check_weights: bool = True
) -> nn.Module:
    """The converted network that save() wrote, bit for bit, around ``model``'s weights.

    model: the ANN that was converted; left as it is. Without it, ``folder`` must hold it, too, as a Hugging Face
    model's ``save_pretrained`` or ``timm.models.save_for_hf`` (as safetensors) writes it. check_weights=False allows
    other weights of the same shapes.
    Raises StorageError for another model, other weights, a missing or altered file or tensor, or another format.
    """
    folder = Path(folder)
    description = _description(folder)
    tensors = _tensors(folder, description)
    if model is None:
        model = _pretrained(folder, description)
    _check_model(model, description, check_weights)
    work, modules = install_copy(model, copy)
    sites = [_site_from_dict(d) for d in description["sites"]]
    nodes = _nodes_from(description["neurons"], tensors)
    conversion = Conversion(
        config=runnable(MBEConfig.from_json(json.dumps(description["config"]))),
        sites=sites,
        kept_exact=description["kept_exact"],
        findings=Findings(
            *(Counter({tuple(r[:2]): r[2] for r in description["findings"][k]}) for k in _FINDINGS)
        ),
        local_errors=description["local_errors"],
        batches=description["batches"],
        spikes=_spikes_from_list(description["spikes"]),
        latency=_latency_from_dict(description.get("latency")),
        inputs=description["inputs"],
        origins=description["origins"],
        unchecked=description["unchecked"],
        unmarked=[(path, function) for path, function in description["unmarked"]],
    )

    def neuron(site: str, role: str, function: str, _: object) -> nn.Module:
        key = f"{site}|{role}"
        return nn.Identity() if function == WEIGHT and key not in nodes else nodes[key]

    attach(work, modules, conversion, neuron, save)
    return work


_FINDINGS = ("unsupported", "linear", "exact")


def structure_fingerprint(model: nn.Module) -> str:
    """Hash of the class name and of every parameter's name and shape."""
    digest = hashlib.sha256(original_class(model).__name__.encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
    return digest.hexdigest()


def weights_fingerprint(model: nn.Module) -> str:
    """Hash of at most 4096 evenly spaced values of each parameter."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(flat.numel() // 4096, 1)].to(device="cpu", dtype=torch.float64)
        digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def _neurons_of(snn: nn.Module, conversion: Conversion) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and buffers of every neuron by 'site|role'; a shared one is described once."""
    known: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    first_key: dict[int, str] = {}
    for site in conversion.sites:
        operator = getattr(snn, CONTAINER)._modules.get(site.key)
        if not isinstance(operator, SpikingOperator):
            continue
        for role, node in operator.neurons():
            key = f"{site.name}|{role}"
            if id(node) in first_key:
                known[key] = {"same_as": first_key[id(node)]}
                continue
            first_key[id(node)] = key
            known[key] = described(node)
            for name, value in buffers_of(node).items():
                tensors[f"{key}|{name}"] = value
    return known, tensors


def _nodes_from(known: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, CalibratedNode]:
    nodes: dict[str, CalibratedNode] = {}
    for key, d in known.items():
        if "same_as" in d:
            nodes[key] = nodes[d["same_as"]]
            continue
        buffers = {k.rpartition("|")[2]: v for k, v in tensors.items() if k.startswith(f"{key}|")}
        nodes[key] = _node(key, d, buffers)
    return nodes


def _node(key: str, d: dict[str, Any], buffers: dict[str, Tensor]) -> CalibratedNode:
    missing = missing_from(buffers)
    if missing:
        raise StorageError(f"{TENSORS} has no tensor {key}|{missing[0]}; save again")
    return restored(d, buffers)


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise StorageError(f"{path} does not exist; load takes a folder that mbe_plugin.save wrote")
    try:
        description = json.loads(path.read_text())
    except ValueError as broken:
        raise StorageError(f"{path} is not valid JSON: {broken}") from broken
    if description.get("format") != FORMAT:
        raise StorageError(
            f"{path} has format {description.get('format')!r}, this mbe_plugin reads {FORMAT}; convert again"
        )
    return description


def _tensors(folder: Path, description: dict[str, Any]) -> dict[str, Tensor]:
    path = folder / TENSORS
    if not path.is_file():
        raise StorageError(f"{path} does not exist; save again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != description["tensors_sha256"]:
        raise StorageError(f"{path} was altered since it was saved (its checksum differs); save again")
    try:
        return load_file(path)
    except SafetensorError as broken:
        raise StorageError(f"{path} is not a safetensors file: {broken}") from broken


def _check_model(model: nn.Module, description: dict[str, Any], check_weights: bool) -> None:
    if structure_fingerprint(model) != description["structure"]:
        raise StorageError(
            f"this {type(model).__name__} is not the {description['model_class']} that was converted: its class "
            "or its parameters' names and shapes differ"
        )
    if check_weights and weights_fingerprint(model) != description["weights"]:
        raise StorageError(
            f"this {type(model).__name__} has other weights (or another dtype) than the one that was converted; convert "
            "it, or pass check_weights=False"
        )


def _pretrained(folder: Path, description: dict[str, Any]) -> nn.Module:
    if not (folder / "config.json").is_file():
        raise StorageError(f"{folder} holds no Hugging Face model (config.json); pass the model to load()")
    if is_of_timm(folder):
        return open_model(folder).model
    import transformers

    cls = getattr(transformers, description["model_class"], None)
    if cls is None:
        raise StorageError(
            f"transformers has no class {description['model_class']}; pass the model to load()"
        )
    return cls.from_pretrained(folder).eval()


def _site_as_dict(site: Site) -> dict[str, Any]:
    return {
        "path": site.path,
        "label": site.label,
        "op": site.op,
        "static": site.static,
        "dims": site.dims,
        "coded": sorted(site.coded),
        "roles": {r: [s.low, s.high, s.count] for r, s in site.roles.items()},
        "unit": None if site.unit is None else asdict(site.unit),
    }


def _site_from_dict(d: dict[str, Any]) -> Site:
    roles = {r: Statistics(low, high, count) for r, (low, high, count) in d["roles"].items()}
    unit = None if d["unit"] is None else UnitSpec(**d["unit"])
    return Site(
        d["path"], d["label"], d["op"], d["static"], d["dims"], frozenset(d["coded"]), roles, {}, unit
    )


def _spikes_as_list(spikes: Recording | None) -> list[Any]:
    found = spikes.neurons if spikes else {}
    return [[*key, n.counts.tolist(), n.bases_per_element, *n.tally.tolist()] for key, n in found.items()]


def _latency_from_dict(d: dict[str, Any] | None) -> Latency | None:
    return None if d is None else Latency(**{**d, "path": tuple(d["path"])})


def _spikes_from_list(rows: list[Any]) -> Recording:
    return Recording(
        {
            (site, role): NeuronEvents(torch.tensor(counts), bases, torch.tensor(tally))
            for site, role, counts, bases, *tally in rows
        }
    )
