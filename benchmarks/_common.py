"""What the benchmarks share: where results go, tables, the command line and the machine that made them."""

from __future__ import annotations

import csv
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from examples._shared.measure import interleaved_medians, machine

RESULTS = Path(__file__).parent / "results"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"  # beside a checkout of this project


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; every cell is printed as str() gives it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_csv(path: Path, kind: type, rows: Iterable[Any]) -> None:
    """Instances of one dataclass as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(kind)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def quantiles(seconds: Sequence[float]) -> list[float]:
    """p20, p50, p80."""
    found: list[float] = torch.tensor(seconds).quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()
    return found


def revision() -> str:
    """The commit that is checked out, with a plus if files differ from it; 'unknown' outside a repository."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def provenance() -> str:
    """The command that is running, and on what, as a line of Markdown."""
    name = Path(sys.argv[0]).stem
    command = shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])
    return f"`{command}` at commit {revision()} on {machine()}"


__all__ = [
    "DTYPES",
    "RESULTS",
    "interleaved_medians",
    "machine",
    "markdown_table",
    "provenance",
    "quantiles",
    "revision",
    "write_csv",
]
