"""What the convert_*.py examples share: options, the sweep over T, figures of a classifier, table, CSV."""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import mbe_plugin

from .measure import machine

TIME_STEPS = (8, 4, 3)
Row = dict[str, Any]
Tensors = tuple[Tensor, ...]
Reduce = Callable[[nn.Module, Any], Tensors]  # what to keep of one batch, items first
Compare = Callable[[Tensors, Tensors], Row]  # of the ANN, of the SNN


def option_parser(description: str | None, items: str, csv_file: str) -> argparse.ArgumentParser:
    """The options that the three examples have in common; items is what they evaluate on."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--time-steps", type=int, nargs="+", default=TIME_STEPS, metavar="T", help="default: %(default)s")
    add("--calibration", type=int, default=32, metavar="N", help=f"{items} to calibrate with (%(default)s)")
    add("--limit", type=int, metavar="N", help=f"evaluate on at most so many held-out {items} (all)")
    add("--batch", type=int, default=16, metavar="N", help=f"{items} in a batch (%(default)s)")
    add("--published", action="store_true", help="MBEConfig.published(), the method as published")
    add("--device", default="cpu", help="such as cuda (%(default)s)")
    add("--seed", type=int, default=0, help="of splits, initial weights and training (%(default)s)")
    add("--csv", type=Path, default=Path(csv_file), help="where the table goes (%(default)s)")
    return parser


def config_for(options: argparse.Namespace, time_steps: int) -> mbe_plugin.MBEConfig:
    make = mbe_plugin.MBEConfig.published if options.published else mbe_plugin.MBEConfig
    return make(time_steps=time_steps)


def sweep(
    ann: nn.Module,
    calibration: Sequence[Any],
    evaluation: Sequence[Any],
    options: argparse.Namespace,
    reduce: Reduce,
    compare: Compare,
) -> Iterator[tuple[Row, nn.Module]]:
    """Calibrate once, then convert and evaluate at every T: one row and the spiking network each."""
    with tqdm(total=len(evaluation) * (1 + len(options.time_steps)), desc="calibrating", disable=None) as bar:
        recorded = mbe_plugin.calibrate(ann, calibration)
        bar.set_description("ANN")
        exact = evaluate(ann, evaluation, reduce, bar.update)
        for steps in options.time_steps:
            bar.set_description(f"SNN, T = {steps}")
            snn = mbe_plugin.convert(ann, recorded, config_for(options, steps))
            started = time.perf_counter()
            figures = compare(exact, evaluate(snn, evaluation, reduce, bar.update))
            seconds = time.perf_counter() - started
            spikes = snn.mbe_conversion.spikes  # of the first calibration batch, counted by convert()
            yield {"time_steps": steps, **figures, "firing_rate": spikes.firing_rate, "seconds": seconds}, snn


def evaluate(
    network: nn.Module, batches: Sequence[Any], reduce: Reduce, advance: Callable[[], object] = lambda: None
) -> Tensors:
    """What reduce keeps of every batch, joined along the items."""
    parts = []
    with torch.no_grad():
        for batch in batches:
            parts.append([t.cpu() for t in reduce(network, batch)])
            advance()
    return tuple(torch.cat(kept) for kept in zip(*parts, strict=True))


def accuracy_figures(exact: Tensor, spiking: Tensor, labels: Tensor) -> Row:
    """Two classifiers' logits [n, classes] on the same n items, in percent and in counts."""
    ann, snn = exact.argmax(-1), spiking.argmax(-1)
    right_ann, right_snn = ann == labels, snn == labels
    return {
        "items": len(labels),
        "ann_accuracy": 100 * right_ann.double().mean().item(),
        "snn_accuracy": 100 * right_snn.double().mean().item(),
        "agreement": 100 * (ann == snn).double().mean().item(),
        "flipped": int((ann != snn).sum()),
        "lost": int((right_ann & ~right_snn).sum()),
        "gained": int((right_snn & ~right_ann).sum()),
    }


def report(title: str, rows: Sequence[Row], path: Path) -> None:
    """Print the table with its machine, and write the CSV."""
    print(f"\n{title}")
    print(as_table(rows))
    print(f"on {machine()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"table: {path}")


def as_table(rows: Sequence[Row]) -> str:
    """Columns aligned to the right; a name's underscores are spaces."""
    lines = [[name.replace("_", " ") for name in rows[0]]]
    lines += [[_cell(name, value) for name, value in row.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines)


def _cell(name: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if name == "firing_rate":
        return f"{value:.1%}"
    return f"{value:.7f}" if "cosine" in name else f"{value:.1f}" if name == "seconds" else f"{value:.3f}"
