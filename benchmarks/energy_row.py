"""One line of the energy table, and the lines of an earlier run."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One network and setting; loss in points of accuracy or percent of perplexity, shares of the ANN's energy.

    steps: from input to output.
    """

    network: str
    setting: str
    items: int
    measure: str
    loss: float
    changed: int
    minimum_cosine: float
    complete_float32: float
    complete_float16: float
    complete_int8: float
    published: float
    commit: str
    memory_float32: float
    memory_integer: float
    steps: int


def read(path: Path) -> list[Row]:
    """The rows of an earlier run."""
    if not path.exists():
        return []
    kinds = {"items": int, "changed": int, "steps": int} | dict.fromkeys(
        [name for name, kind in Row.__annotations__.items() if kind == "float"], float
    )
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(**{name: kinds.get(name, str)(value) for name, value in line.items()})
            for line in csv.DictReader(file)
        ]
