"""Ready-made tables as data: the standard functions at T = 2 .. 16 and useful N.

``python -m mbe_plugin.fitting.library`` makes the files in data/, one per function, as JSON; the same command
gives the same bytes. A file is read when its function is first asked for; nothing in it is executed.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbe_plugin.fitting.bases import DECAY_DIGITS, Array, coded_tables
from mbe_plugin.fitting.fit import fit
from mbe_plugin.fitting.functions import FUNCTIONS
from mbe_plugin.fitting.result import Fit
from mbe_plugin.neuron.tables import Tables

FORMAT = 1
SLACK = 1.25  # a table serves a narrower domain if its own is at most this much wider

FUNCTION_NAMES = (
    *("exp2", "reciprocal", "rsqrt", "rsqrt_octave", "sqrt_octave"),
    *("gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "erf", "softplus"),
)
MORE_DOMAINS = {"gelu": ((-120.0, 10.0),)}  # the paper's
CONTENTS = {
    # family: (time steps, bases)
    "routed": (tuple(range(2, 17)), (4, 8, 16, 32, 64)),
    "curved": ((8, 10, 12, 16), (4, 8, 16)),
}
_FIELDS = ("offset", "gain", "weight", "bias", "breakpoints")


def find(
    function: str,
    time_steps: int,
    bases: int,
    domain: tuple[float, float] | None = None,
    family: str = "routed",
) -> Fit | None:
    """The stored fit of a function, or None where there is none.

    domain: where the neuron will be used; the stored domain must contain it and be at most a quarter wider.
    Left out, the stored domain is taken. The identity is not stored: its tables are exact (fit() makes them).
    """
    for entry in _entries(function):
        if (entry["time_steps"], entry["bases"], entry["family"]) != (time_steps, bases, family):
            continue
        low, high = entry["domain"]
        if domain is None or _serves((low, high), domain):
            tables = _tables(entry)
            return Fit(FUNCTIONS[function], (low, high), tables, family)
    return None


def make(function: str) -> str:
    """The text of a function's data file."""
    entries = []
    for family, (all_steps, all_bases) in CONTENTS.items():
        for time_steps in all_steps:
            for bases in all_bases:
                for domain in (None, *MORE_DOMAINS.get(function, ())):
                    entries.append(_entry(fit(function, domain, time_steps, bases, family=family)))
    head = {"format": FORMAT, "function": function, "made_by": "python -m mbe_plugin.fitting.library"}
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    return json.dumps(head)[:-1] + ', "entries": [\n' + lines + "\n]}\n"


def _serves(stored: tuple[float, float], wanted: tuple[float, float]) -> bool:
    inside = stored[0] <= wanted[0] and wanted[1] <= stored[1]
    return inside and stored[1] - stored[0] <= SLACK * (wanted[1] - wanted[0])


@cache
def _entries(function: str) -> list[dict[str, Any]]:
    if function not in FUNCTION_NAMES:
        return []
    file = resources.files("mbe_plugin.fitting").joinpath("data", f"{function}.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{file} has format {content.get('format')!r}, this version reads {FORMAT}; "
            "make it again with: python -m mbe_plugin.fitting.library"
        )
    return content["entries"]


def _entry(found: Fit) -> dict[str, Any]:
    """A fit as JSON numbers that give back its float32 tables bit for bit."""
    entry: dict[str, Any] = {
        "family": found.family,
        "time_steps": found.time_steps,
        "bases": found.bases,
        "domain": list(found.domain),
        "mean_squared_error": float(f"{found.mean_squared_error:.4g}"),
        "max_error": float(f"{found.max_error:.4g}"),
        "spikes_per_element": float(f"{found.spikes_per_element:.4g}"),
    }
    tables = found.tables.as_dict()
    entry["tables"] = {name: _numbers(tables[name]) for name in _FIELDS}
    if not found.tables.halving:
        entry["tables"]["decays"] = _decays(found.tables).tolist()
    return entry


def _decays(tables: Tables) -> Array:
    """The decays [N, 3] per step, which the search rounds, read off the tables' first two steps."""
    pairs = np.stack([t[:2].double().numpy() for t in (tables.threshold, tables.reset, tables.intensity)])
    return np.round(pairs[:, 1] / pairs[:, 0], DECAY_DIGITS).T


def _numbers(values: torch.Tensor) -> list[float]:
    # the shortest decimal that rounds to the same float32
    return [float(np.format_float_scientific(np.float32(v), unique=True)) for v in values.numpy()]


def _tables(entry: dict[str, Any]) -> Tables:
    stored = {name: torch.tensor(entry["tables"][name], dtype=torch.float32) for name in _FIELDS}
    decays = entry["tables"].get("decays", [[0.5] * 3] * entry["bases"])
    return coded_tables(entry["time_steps"], np.array(decays), **stored)


def main() -> None:
    """Write every data file beside this module."""
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    for function in FUNCTION_NAMES:
        text = make(function)
        (folder / f"{function}.json").write_text(text, encoding="utf-8")
        print(f"{function}: {len(text)} bytes")


if __name__ == "__main__":
    main()
