"""The configurations that mbe_plugin.tune chooses for the networks of benchmarks/energy.py."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mbe_plugin
from benchmarks._common import RESULTS
from benchmarks.real import geometry
from benchmarks.real.workload import Workload
from examples._shared.language import divergences
from mbe_plugin import MBEConfig
from mbe_plugin.tuning import MENU

CLOSENESS = 0.995  # smallest cosine of an item's features
# nats by which the probabilities of a language model may diverge: half a percent of perplexity
SURPLUS = 0.005
# of MENU, what hundreds of layers are tried with in minutes
FEW = (
    *(
        choice
        for choice in MENU
        if choice["center"] and choice["identity_bases"] in (32, 64) and choice["dead_zone"] <= 0.2
    ),
    {**MENU[0], "identity_bases": 256, "center": False},
)


def tuned(workload: Workload) -> MBEConfig:
    """The least energy at CLOSENESS, or at SURPLUS; kept beside the results, for benchmarks.uniform."""
    batches = workload.tuning or workload.parts[0].calibration
    given: dict[str, Any] = {"held_out": workload.held_out or None, "progress": True}
    if workload.measure == "accuracy":
        features = operator.itemgetter(1) if workload.network != geometry.NETWORK else None
        found = mbe_plugin.tune(workload.ann, batches, CLOSENESS, outputs=features, **given)
    else:
        figure = Agreement(workload.ann, workload.held_out)
        given |= {"figure": figure, "outputs": root_probabilities, "menu": FEW}
        found = mbe_plugin.tune(workload.ann, batches, -SURPLUS, **given)
    tuned_path(workload.network).write_text(found.to_json(), encoding="utf-8")
    return found


def tuned_path(network: str) -> Path:
    """Where a network's tuned configuration is kept."""
    return RESULTS / f"tuned_{network.split()[0].replace('/', '-')}.json"


def root_probabilities(out: Any) -> Tensor:
    """Of a language model: their squared error is half the divergence of what is likely, whatever the logits."""
    return out.logits.float().softmax(-1).sqrt()


class Agreement:
    """The mean divergence from the ANN's probabilities with a minus, in nats per token of some batches."""

    def __init__(self, ann: nn.Module, batches: Sequence[Any]) -> None:
        self.batches = batches
        self.exact = [self._logits(ann, batch) for batch in batches]

    def __call__(self, snn: nn.Module) -> float:
        """At most 0."""
        pairs = zip(self.batches, self.exact, strict=True)
        found = [divergences(exact, self._logits(snn, batch)).flatten() for batch, exact in pairs]
        return -float(torch.cat(found).mean())

    @staticmethod
    @torch.no_grad()
    def _logits(network: nn.Module, batch: Any) -> Tensor:
        return network(**batch).logits.float()
