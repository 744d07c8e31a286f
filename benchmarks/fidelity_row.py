"""What benchmarks/fidelity.py measures and its figure draws."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One configuration on the evaluation sentences; spikes and exponents per token."""

    configuration: str
    time_steps: int
    minimum_cosine: float
    mean_cosine: float
    max_error: float
    spikes: float
    exponents: float
    firing_rate: float
    outside: float
    conversion_seconds: float
    time_ratio: float
    family: str
    code: str
    scale: str
    dead_zone: float
    bases: int
    identity_bases: int
    merge: bool
    linear_inputs: str
    margin: float
