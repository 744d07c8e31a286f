"""What benchmarks/functions.py measures, and its tables and figures show."""

from __future__ import annotations

from dataclasses import dataclass

Domain = tuple[float, float] | None


@dataclass(frozen=True)
class Row:
    """One measured neuron."""

    section: str
    function: str
    low: float
    high: float
    time_steps: int
    bases: int
    family: str
    mean_squared_error: float
    max_error: float
    relative_error: float
    spikes_per_element: float
    bases_per_element: int
    distinct_outputs: int
    fit_ms: float


def is_of(row: Row, name: str, domain: Domain) -> bool:
    """Whether a row is of this function and, unless None, this domain."""
    return row.function == name and (domain is None or (row.low, row.high) == domain)
