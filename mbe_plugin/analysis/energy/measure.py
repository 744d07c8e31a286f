"""energy(): one forward, counted and priced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mbe_plugin.analysis.energy.accountings import ACCOUNTINGS, complete, published
from mbe_plugin.analysis.energy.baselines import BASELINES, baseline_of
from mbe_plugin.analysis.energy.costs import SOURCE, checked
from mbe_plugin.analysis.energy.memory import Memory, traffic
from mbe_plugin.analysis.energy.operations import Forward
from mbe_plugin.analysis.energy.result import Energy
from mbe_plugin.analysis.report import conversion_of
from mbe_plugin.conversion.batches import as_call
from mbe_plugin.conversion.following.waits import Waits
from mbe_plugin.recording import Latency, Recording, record, told

MEMORY = Memory()


def energy(
    snn: nn.Module,
    batch: Any,
    accounting: str = "complete",
    costs: Mapping[str, float] | None = None,
    baseline: str = "float32",
    memory: Memory | None = None,
) -> Energy:
    """What a batch costs a converted network, and what it would cost the ANN; docs/energy.md says what is counted.

    batch: in any of the forms that convert() takes; it runs once. accounting: 'complete', 'memory' (with the traffic of
    weights, membranes, events and numbers) or 'published' (our reading of the paper). costs: pJ per operation of every
    kind (analysis.energy.KINDS), for the SNN and for the ANN in float32; 45 nm by default. baseline: the ANN's precision,
    'float32', 'float16', 'int8' or 'integer' (whole numbers, as precise as the SNN's codes); the last three keep their own
    costs. memory: the parameters of accounting 'memory'.

    Raises ConversionError if snn was not converted, and for sites whose events or products cannot be counted;
    ValueError for an unknown accounting or baseline, for costs that lack a kind or have an unknown one, and for ``memory``
    with another accounting.
    """
    conversion_of(snn)
    _check("accounting", accounting, ACCOUNTINGS)
    _check("baseline", baseline, BASELINES)
    if memory is not None and accounting != "memory":
        raise ValueError(f"memory= belongs to accounting 'memory', got accounting {accounting!r}")
    given = None if costs is None else checked(costs)
    return billed(counted(snn, batch), accounting, given, baseline, memory or MEMORY)


@dataclass(frozen=True)
class Counted:
    """What one forward of a converted network did, whatever it is billed by."""

    snn: nn.Module
    forward: Forward
    recording: Recording
    latency: Latency


def counted(snn: nn.Module, batch: Any) -> Counted:
    """One forward."""
    args, kwargs = as_call(batch, snn)
    forward = Forward()
    with torch.no_grad(), record(snn, deliveries=True) as recording, told(forward), Waits() as waits:
        out = snn(*args, **kwargs)
    return Counted(snn, forward, recording, waits.latency(out, recording))


def billed(
    found: Counted,
    accounting: str = "complete",
    costs: Mapping[str, float] | None = None,
    baseline: str = "float32",
    memory: Memory = MEMORY,
) -> Energy:
    """What was counted, priced; see energy()."""
    precision = baseline_of(baseline, found.snn, None if costs is None else dict(costs))
    bill = published if accounting == "published" else complete
    spiking, dense = bill(found.snn, found.forward, found.recording)
    moved: dict[str, float] = {}
    if accounting == "memory":
        more = traffic(memory, found.forward, found.recording, precision.weight_bits, precision.value_bits)
        spiking, dense, moved = spiking + more[0], dense + more[1], memory.costs
    return Energy(
        accounting,
        baseline,
        spiking,
        dense,
        precision.snn_costs | moved,
        precision.costs | moved,
        f"{SOURCE if costs is None else 'given by the caller'}; {precision.description}",
        dict(found.forward.unknown) if accounting != "published" else {},
        found.latency,
    )


def _check(name: str, value: str, choices: Mapping[str, object]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {value!r}")
