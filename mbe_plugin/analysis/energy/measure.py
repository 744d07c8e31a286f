"""energy(): one forward, counted and priced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mbe_plugin.analysis.energy.accountings import ACCOUNTINGS, complete, published
from mbe_plugin.analysis.energy.costs import BASELINES, FLOAT32, SOURCE, checked
from mbe_plugin.analysis.energy.operations import Forward
from mbe_plugin.analysis.energy.result import Energy
from mbe_plugin.analysis.report import conversion_of
from mbe_plugin.conversion.batches import as_call
from mbe_plugin.conversion.following.waits import Waits
from mbe_plugin.recording import record, told

_BILLED = {"complete": complete, "published": published}


def energy(
    snn: nn.Module,
    batch: Any,
    accounting: str = "complete",
    costs: Mapping[str, float] | None = None,
    baseline: str = "float32",
) -> Energy:
    """What a batch costs a converted network, and what it would cost the ANN; docs/energy.md says what is counted.

    batch: in any of the forms that convert() takes; it runs once. accounting: 'complete' or 'published' (our reading of the
    paper). costs: pJ per operation of every kind (analysis.energy.KINDS), for the SNN and for the ANN in float32; 45 nm
    by default. baseline: the ANN's precision, 'float32', 'float16' or 'int8'; the last two keep their own costs.

    Raises ConversionError if snn was not converted, and for sites whose events or products cannot be counted;
    ValueError for an unknown accounting or baseline, and for costs that lack a kind or have an unknown one.
    """
    conversion_of(snn)
    _check("accounting", accounting, ACCOUNTINGS)
    _check("baseline", baseline, BASELINES)
    given = FLOAT32 if costs is None else checked(costs)
    args, kwargs = as_call(batch, snn)
    forward = Forward()
    with torch.no_grad(), record(snn, deliveries=True) as recording, told(forward), Waits() as waits:
        out = snn(*args, **kwargs)
    spiking, dense = _BILLED[accounting](snn, forward, recording)
    return Energy(
        accounting,
        baseline,
        spiking,
        dense,
        given,
        given if baseline == "float32" else BASELINES[baseline],
        SOURCE if costs is None else "given by the caller",
        dict(forward.unknown) if accounting == "complete" else {},
        waits.latency(out, recording),
    )


def _check(name: str, value: str, choices: Mapping[str, object]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {value!r}")
