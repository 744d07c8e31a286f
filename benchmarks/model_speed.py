"""Time and memory of a forward through the spiking MiniLM, against the ANN's.

    python -m benchmarks.model_speed [--time-steps 16 8 4] [--batch-sizes 1 8 32] [--threads 1] [--steps]

Times are medians of interleaved forwards; memory is what one forward adds to the resident size at its
peak (Linux), each in a process of its own. Writes results/model_speed.md and .csv (--out: another name).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import mbe_plugin
from benchmarks._common import RESULTS, interleaved_medians, markdown_table, provenance, write_csv
from benchmarks._memory import elsewhere, peak, reset_peak
from examples._shared.compare import Batch, padded_batches
from examples._shared.networks import load_minilm
from examples.sentences import calibration_sentences
from mbe_plugin import MBEConfig

LENGTH = 25  # tokens per sentence
STEPS_BATCH = 8  # 'steps' is measured for this batch size only


@dataclass(frozen=True)
class Row:
    """One configuration; memory in MiB beyond what the process held before the forward."""

    simulate: str
    time_steps: int
    batch: int
    threads: int
    ann_seconds: float
    snn_seconds: float
    time_ratio: float
    ann_mebibytes: float
    snn_mebibytes: float


def main() -> None:
    options = parse()
    rows = [measure(*setting, options.rounds) for setting in settings(options)]
    header = ["simulation", "T", "batch", "threads", "ANN, s", "SNN, s", "SNN / ANN", "ANN, MiB", "SNN, MiB"]
    cells = [
        (
            row.simulate,
            row.time_steps,
            row.batch,
            row.threads,
            f"{row.ann_seconds:.4f}",
            f"{row.snn_seconds:.4f}",
            f"{row.time_ratio:.2f}",
            f"{row.ann_mebibytes:.0f}",
            f"{row.snn_mebibytes:.0f}",
        )
        for row in rows
    ]
    text = (
        f"# Speed of the spiking MiniLM\n\n{provenance()}. One forward of [batch, {LENGTH}] tokens, medians of "
        f"{options.rounds} interleaved rounds; memory is what one forward adds at its peak.\n\n"
        + markdown_table(header, cells)
    )
    print(text)
    write_csv(options.out.with_suffix(".csv"), Row, rows)
    options.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def settings(options: argparse.Namespace) -> Iterator[tuple[str, int, int, int]]:
    """(simulate, T, batch, threads)."""
    for threads in options.threads:
        for time_steps in options.time_steps:
            for batch in options.batch_sizes:
                yield "closed", time_steps, batch, threads
            if options.steps:
                yield "steps", time_steps, STEPS_BATCH, threads


def measure(simulate: str, time_steps: int, batch: int, threads: int, rounds: int) -> Row:
    """Times in one process, each peak of memory in another."""
    setting = simulate, time_steps, batch, threads
    times = elsewhere(_times, *setting, rounds)
    memory = {name: elsewhere(_memory, *setting, name) for name in ("ann", "snn")}
    return Row(
        *setting, times["ann"], times["snn"], times["snn"] / times["ann"], memory["ann"], memory["snn"]
    )


def _times(simulate: str, time_steps: int, batch: int, threads: int, rounds: int) -> dict[str, float]:
    networks, inputs = _networks(simulate, time_steps, batch, threads)
    return interleaved_medians({k: lambda m=m: m(**inputs) for k, m in networks.items()}, rounds)


def _memory(simulate: str, time_steps: int, batch: int, threads: int, name: str) -> float:
    networks, inputs = _networks(simulate, time_steps, batch, threads)
    small = {key: value[:1, :4] for key, value in inputs.items()}
    with torch.no_grad():
        networks[name](**small)  # what the first call sets up once is no part of it
        before = reset_peak()
        networks[name](**inputs)
    return (peak() - before) / 1024


def _networks(simulate: str, time_steps: int, batch: int, threads: int) -> tuple[dict[str, nn.Module], Batch]:
    torch.set_num_threads(threads)
    tokenizer, ann = load_minilm()
    # the first batch is run by the audit, so a small one keeps the peak of memory before the forward low
    calibration = padded_batches(tokenizer, calibration_sentences(16), size=2)
    config = MBEConfig(time_steps=time_steps, simulate=simulate)  # type: ignore[arg-type]  # a command-line word
    snn = mbe_plugin.convert(ann, calibration, config)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1000, 20000, (batch, LENGTH), generator=generator)
    return {"ann": ann, "snn": snn}, {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--time-steps", type=int, nargs="+", default=[16, 8, 4])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", action="store_true", help="the step loop too (slow)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "model_speed", help="results' path without suffix"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
