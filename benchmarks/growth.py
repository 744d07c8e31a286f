"""How time grows with the number of elements, and time and memory of attention with the length.

    python -m benchmarks.growth [--threads 2] [--rounds 5] [--out FOLDER]

One neuron (GELU, T = 16, 64 bases) on 10^4 to 10^8 float32 numbers beside F.gelu, and a BERT of two layers on 256 to 4,096
tokens beside its ANN, whose fused attention keeps no scores; memory is what a forward adds at its peak, each in a process
of its own. Writes results/growth.md and growth.png.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import RESULTS, markdown_table, provenance, quantiles
from benchmarks._memory import elsewhere
from benchmarks.model_speed import Setting, memory_of, times_of
from benchmarks.speed import check, interleaved, neuron
from mbe_plugin.analysis.colours import ANN, SNN
from mbe_plugin.kernels import numba_cpu

ELEMENTS = [10**power for power in range(4, 9)]
LENGTHS = (256, 512, 1024, 2048, 4096)
TIME_STEPS = 16


@dataclass(frozen=True)
class Grown:
    """Seconds, and for the network MiB, of both sides at one size."""

    size: int
    ann: float
    snn: float
    ann_mebibytes: float = 0.0
    snn_mebibytes: float = 0.0


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    backend = "torch" if numba_cpu.missing() else "numba"
    elements = [of_elements(count, backend, options.rounds) for count in ELEMENTS]
    tokens = [of_tokens(length, backend, options) for length in LENGTHS]
    text = markdown(elements, tokens, backend)
    print(text)
    (options.out / "growth.md").write_text(text, encoding="utf-8")
    draw(elements, tokens, options.out / "growth.png")


def of_elements(count: int, backend: str, rounds: int) -> Grown:
    """One neuron on so many numbers, beside F.gelu."""
    x = torch.randn(count)
    made = neuron("closed", TIME_STEPS, backend)
    check({backend: made}, x)
    calls: dict[str, Any] = {"snn": partial(made, x), "ann": partial(torch.nn.functional.gelu, x)}
    seconds = interleaved(calls, rounds, "cpu")
    return Grown(count, *(quantiles(seconds[name])[1] for name in ("ann", "snn")))


def of_tokens(length: int, backend: str, options: argparse.Namespace) -> Grown:
    """A forward over one sequence of so many tokens."""
    setting = Setting("bert-long", backend, "closed", TIME_STEPS, 1, length, options.threads, "cpu")
    times = elsewhere(times_of, setting, options.rounds)
    memory = [elsewhere(memory_of, setting, name)[1] for name in ("ann", "snn")]
    return Grown(length, times["ann"][1], times["snn"][1], *memory)


def markdown(elements: list[Grown], tokens: list[Grown], backend: str) -> str:
    """Both tables."""
    one = [
        (f"{g.size:,}", f"{1e9 * g.ann / g.size:.2f}", f"{1e9 * g.snn / g.size:.2f}", f"{g.snn / g.ann:.2f}")
        for g in elements
    ]
    other = [
        (
            f"{g.size:,}", f"{g.ann:.3f}", f"{g.snn:.3f}", f"{g.snn / g.ann:.2f}", f"{1e6 * g.snn / g.size:.0f}",
            f"{g.ann_mebibytes:.1f}", f"{g.snn_mebibytes:.1f}", f"{1024 * g.snn_mebibytes / g.size:.1f}",
        )
        for g in tokens
    ]  # fmt: skip
    header = "tokens|ANN, s|SNN, s|SNN / ANN|SNN, us a token|ANN, MiB|SNN, MiB|SNN, KiB a token".split("|")
    return (
        f"# Growth\n\n{provenance()}. Backend {backend!r}, T = {TIME_STEPS}; medians of interleaved calls; both sides "
        "allocate their outputs.\n\n## One neuron: time is linear in elements\n\n"
        + markdown_table(
            ["elements", "F.gelu, ns an element", "neuron, ns an element", "neuron / F.gelu"], one
        )
        + "\n\n## BERT of two layers, one sequence: memory is linear in the length\n\nIts time is not: scores are of every "
        "token with every other, in both networks.\n\n" + markdown_table(header, other) + "\n"
    )


def draw(elements: list[Grown], tokens: list[Grown], path: Path) -> None:
    """Time over elements, memory over tokens, both axes logarithmic; a line of slope one beside them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    sizes = [g.size for g in elements]
    left.loglog(sizes, [g.ann for g in elements], "o-", color=ANN, label="F.gelu")
    left.loglog(sizes, [g.snn for g in elements], "s-", color=SNN, label="GELU neuron")
    left.set(xlabel="elements", ylabel="s", title="One neuron")
    lengths = [g.size for g in tokens]
    right.loglog(lengths, [g.ann_mebibytes for g in tokens], "o-", color=ANN, label="ANN")
    right.loglog(lengths, [g.snn_mebibytes for g in tokens], "s-", color=SNN, label="SNN")
    right.set(xlabel="tokens", ylabel="MiB that a forward adds", title="BERT of two layers")
    for axes, grown, found in ((left, sizes, elements[0].snn), (right, lengths, tokens[0].snn_mebibytes)):
        axes.loglog(grown, [found * size / grown[0] for size in grown], ":", color="0.6", label="linear")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
