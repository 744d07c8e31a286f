"""What a conversion changes, and how many spikes it takes: one row per network, task and configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

import mbe_plugin
from benchmarks._common import revision
from benchmarks.real.workload import Part, Row, Tensors, Workload
from examples._shared.sweep import evaluate
from mbe_plugin import MBEConfig

KEY = ("network", "task", "family", "time_steps", "identity_bases")
COLUMNS = (
    *KEY, "items", "measure", "ann", "snn", "loss", "changed", "lost", "gained", "same_percent", "nearest_changed",
    "minimum_cosine", "max_error", "spikes", "side_events", "firing_rate", "commit",
)  # fmt: skip


def key_of(network: str, task: str, config: MBEConfig) -> Row:
    """What a row is found by."""
    names = {"network": network, "task": task, "family": config.family}
    return {**names, "time_steps": config.time_steps, "identity_bases": config.identity_bases}


class Converter:
    """One network's conversions: a calibration is recorded once, and a conversion serves all its tasks."""

    def __init__(self, ann: nn.Module) -> None:
        self.ann = ann
        self.recorded: dict[int, tuple[Sequence[Any], mbe_plugin.Calibration]] = {}
        self.made: dict[int, nn.Module] = {}
        self.config: MBEConfig | None = None

    def __call__(self, part: Part, config: MBEConfig) -> nn.Module:
        """The spiking network of a part's calibration; only the last configuration's are kept."""
        name = id(part.calibration)
        if name not in self.recorded:  # the batches are held, so that no other list takes their id
            self.recorded[name] = part.calibration, mbe_plugin.calibrate(self.ann, part.calibration)
        if config != self.config:
            self.made, self.config = {}, config
        if name not in self.made:
            self.made[name] = mbe_plugin.convert(self.ann, self.recorded[name][1], config)
        return self.made[name]


def rows(workloads: Mapping[str, Workload], wanted: Sequence[tuple[str, MBEConfig]]) -> Iterator[Row]:
    """A row for every wanted (task, configuration) of workloads that share one ANN."""
    convert = Converter(next(iter(workloads.values())).ann)
    exact: dict[str, list[Tensors]] = {}
    for task, config in wanted:
        workload = workloads[task]
        if task not in exact:
            exact[task] = [
                evaluate(workload.ann, part.evaluation, workload.outputs) for part in workload.parts
            ]
        yield {**key_of(workload.network, task, config), **_row(workload, config, convert, exact[task])}


def _row(workload: Workload, config: MBEConfig, convert: Converter, exact: Sequence[Tensors]) -> Row:
    """Evaluate every part, or a few batches of the first in the published family, and count spikes."""
    few = config.family == "published"
    spiking = []
    for part in workload.parts[: 1 if few else None]:
        batches = part.evaluation[: workload.few if few else None]
        spiking.append(evaluate(convert(part, config), batches, workload.outputs))
    first = convert(workload.parts[0], config)
    counted = workload.counted[: 1 if few else None]
    with mbe_plugin.count_spikes(first) as spikes:
        evaluate(first, [batch for batch, _ in counted], workload.outputs)
    snn = _joined(spiking)
    ann = tuple(kept[: len(snn[0])] for kept in _joined(exact))
    tokens = sum(count for _, count in counted)
    return {
        **_judged(workload, workload.figures(ann, snn)),
        **_closeness(ann[0].double(), snn[0].double()),
        "spikes": spikes.total / tokens,
        "side_events": spikes.exponents / tokens,
        "firing_rate": spikes.firing_rate,
        "commit": revision(),
    }


def _joined(parts: Sequence[Tensors]) -> Tensors:
    return tuple(torch.cat(kept) for kept in zip(*parts, strict=True))


def _judged(workload: Workload, figures: Row) -> Row:
    """Loss in points of accuracy or in percent of perplexity."""
    ann, snn = (figures[f"{name}_{workload.measure}"] for name in ("ann", "snn"))
    loss = ann - snn if workload.measure == "accuracy" else 100 * (snn / ann - 1)
    start = {"items": figures["items"], "measure": workload.measure, "ann": ann, "snn": snn, "loss": loss}
    counts = {name: figures.get(name, "") for name in ("lost", "gained", "nearest_changed")}
    return {**start, "changed": figures["flipped"], "same_percent": figures["agreement"], **counts}


def _closeness(exact: torch.Tensor, spiking: torch.Tensor) -> Row:
    """Of features [n, C]."""
    cosines = torch.cosine_similarity(exact, spiking)
    return {"minimum_cosine": cosines.min().item(), "max_error": (exact - spiking).abs().max().item()}
