"""What converting a language model takes in time and memory: measured on SmolLM2-135M, reckoned for larger Llamas.

    python -m benchmarks.large_models [--tokens 256] [--threads 2]

Memory is resident (Linux) beyond what the process held before the weights, each row in a process of its own. The
second and third row tell glibc to take blocks from 128 KiB from the system and give them back
(MALLOC_MMAP_THRESHOLD_=131072), so that they show what is alive and not what the allocator keeps. Writes
results/large_models.md (--out: another name); docs/large_models.md says what follows.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

import mbe_plugin
from benchmarks._common import RESULTS, markdown_table, provenance
from benchmarks._memory import THRESHOLD, elsewhere, peak, reset_peak
from examples._shared.networks import load_smollm2
from mbe_plugin import MBEConfig
from mbe_plugin.operators import CalibratedNode

MIB, GIB = 2**20, 2**30
RUNS = ((False, False), (False, True), (True, True))  # copy, and whether glibc gives large blocks back


@dataclass(frozen=True)
class Shape:
    """A Llama's dimensions."""

    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    key_values: int  # width of the keys, and of the values
    vocabulary: int
    tied: bool = False

    @property
    def sites(self) -> int:
        """Twelve in a layer, the last norm and the head."""
        return 12 * self.layers + 2

    @property
    def multiplied(self) -> int:
        """Weights that a token meets in matrix products."""
        layer = 2 * self.hidden * (self.hidden + self.key_values) + 3 * self.hidden * self.inner
        return self.layers * layer + self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All weights."""
        norms = (2 * self.layers + 1) * self.hidden
        return self.multiplied + norms + (0 if self.tied else self.hidden * self.vocabulary)


SMOL = Shape("SmolLM2-135M", 30, 576, 1536, 9, 192, 49152, tied=True)
LARGER = (
    Shape("1B", 16, 2048, 8192, 32, 512, 128256, tied=True),
    Shape("7B", 32, 4096, 11008, 32, 4096, 32000),
    Shape("70B", 80, 8192, 28672, 64, 1024, 128256),
)


@dataclass(frozen=True)
class Measured:
    """One run; memory in bytes, times in seconds."""

    ann_peak: int
    calibration_peak: int
    conversion_peak: int
    snn_peak: int
    ann_seconds: float
    calibration_seconds: float
    building_seconds: float
    audit_seconds: float
    snn_seconds: float
    operators: int  # bytes of the operators' buffers
    elements: dict[int, int]  # values through neurons: how many of them per token -> in how many neurons


def measure(copied: bool, tokens: int, threads: int) -> Measured:
    """Calibrate, convert and run, in this process."""
    torch.set_num_threads(threads)
    _, ann = load_smollm2()
    weights = sum(p.numel() * p.element_size() for p in ann.parameters())
    batch = {"input_ids": torch.arange(7, 7 + tokens)[None] * 31 % SMOL.vocabulary, "use_cache": False}
    _seconds(ann, batch)  # what torch allocates once, and what converting loads of libraries and tables
    mbe_plugin.convert(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Softmax(-1)), [torch.randn(4, 8)])
    before = reset_peak() * 1024 - weights
    ann_seconds, ann_peak = _seconds(ann, batch), peak() * 1024 - before
    reset_peak()
    first: dict[str, tuple[float, int]] = {}
    last: dict[str, tuple[float, int]] = {}

    def progress(stage: str, done: int, total: int | None) -> None:
        last[stage] = perf_counter(), peak() * 1024 - before
        first.setdefault(stage, last[stage])

    begun = perf_counter()
    snn = mbe_plugin.convert(ann, [batch], MBEConfig(), copy=copied, progress=progress)
    _calibrating, building, auditing = first
    (recorded, recording), (built, _), (ended, ending) = first[building], last[building], last[auditing]
    reset_peak()
    snn_seconds = _seconds(snn, batch)
    return Measured(
        ann_peak, recording, ending, peak() * 1024 - before, ann_seconds,
        recorded - begun, built - recorded, ended - built, snn_seconds,
        sum(b.numel() * b.element_size() for b in snn.mbe.buffers()), _elements(snn, tokens),
    )  # fmt: skip


def _seconds(model: nn.Module, batch: dict[str, Any]) -> float:
    start = perf_counter()
    with torch.no_grad():
        model(**batch)
    return perf_counter() - start


def _elements(snn: nn.Module, tokens: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for node in snn.mbe.modules():
        if isinstance(node, CalibratedNode) and int(node.seen):
            each = round(int(node.seen) / tokens)
            found[each] = found.get(each, 0) + 1
    return found


def elements_per_token(measured: Measured, shape: Shape, tokens: int) -> float:
    """Values that go through neurons for one token of a window of ``tokens``, by the dimension that they belong to."""
    dimensions = {
        SMOL.hidden: shape.hidden,
        SMOL.inner: shape.inner,
        SMOL.key_values: shape.key_values,
        SMOL.vocabulary: shape.vocabulary,
        SMOL.heads: shape.heads,
        1: 1,
    }
    total = 0.0
    for each, neurons in measured.elements.items():
        # whatever is none of these is a score of attention: heads times the tokens before
        scaled = dimensions.get(each, each * shape.heads / SMOL.heads)
        total += scaled * neurons * shape.layers / SMOL.layers
    return total


def measured_table(runs: list[tuple[bool, bool, Measured]]) -> str:
    """One row per run."""
    rows = []
    for copied, giving_back, m in runs:
        highest = max(m.calibration_peak, m.conversion_peak)
        mib = [f"{n / MIB:.0f}" for n in (m.ann_peak, m.calibration_peak, m.conversion_peak, m.snn_peak)]
        times = [m.ann_seconds, m.calibration_seconds, m.building_seconds, m.audit_seconds, m.snn_seconds]
        rows.append(
            [
                copied,
                THRESHOLD if giving_back else "default",
                *mib,
                f"{highest / m.ann_peak:.2f}",
                *(f"{t:.1f}" for t in times),
            ]
        )
    header = [
        "copy",
        "threshold",
        "ANN forward, MiB",
        "calibration",
        "building and audit",
        "SNN forward",
        "highest / ANN",
    ]
    return markdown_table(
        [*header, "ANN forward, s", "calibration", "building", "audit", "SNN forward"], rows
    )


def reckoned_table(m: Measured, tokens: int) -> str:
    """Larger networks by arithmetic; the audit, calibration and forwards grow with the forward, building with the sites."""
    small = elements_per_token(m, SMOL, tokens)
    per_weight = m.ann_seconds / tokens / SMOL.multiplied
    per_element = (m.snn_seconds - m.ann_seconds) / tokens / small
    activations = (m.ann_peak - SMOL.parameters * 4) / tokens / SMOL.vocabulary
    rows = []
    for shape in (SMOL, *LARGER):
        elements = elements_per_token(m, shape, tokens)
        ann = per_weight * shape.multiplied * tokens
        snn = ann + per_element * elements * tokens
        calibrating = m.calibration_seconds / m.ann_seconds * ann
        auditing = m.audit_seconds / m.snn_seconds * snn
        building = m.building_seconds / SMOL.sites * shape.sites
        memory = [shape.parameters * size / GIB for size in (4, 2)]
        rows.append(
            [
                shape.name, f"{shape.parameters / 1e9:.2f}", shape.sites, *(f"{n:.1f}" for n in memory),
                f"{m.operators / SMOL.sites * shape.sites / MIB:.1f}",
                f"{activations * shape.vocabulary * tokens / GIB:.2f}",
                f"{ann:.0f}", f"{snn:.0f}", f"{snn / ann:.2f}", f"{(calibrating + building + auditing) / 60:.1f}",
            ]
        )  # fmt: skip
    header = [
        "network",
        "weights, 10^9",
        "sites",
        "float32, GiB",
        "bfloat16, GiB",
        "operators, MiB",
        "activations, GiB",
    ]
    return markdown_table([*header, "ANN forward, s", "SNN forward, s", "ratio", "conversion, minutes"], rows)


def costs(m: Measured, tokens: int) -> str:
    """The measured costs that the arithmetic takes."""
    elements = elements_per_token(m, SMOL, tokens)
    return markdown_table(
        ["cost", "measured"],
        [
            ["one weight and token in the ANN", f"{m.ann_seconds / tokens / SMOL.multiplied * 1e12:.1f} ps"],
            [
                "one value through a neuron, beyond the ANN",
                f"{(m.snn_seconds - m.ann_seconds) / tokens / elements * 1e9:.1f} ns",
            ],
            ["values through neurons per token", f"{elements:,.0f}"],
            ["operators, per site", f"{m.operators / SMOL.sites / 1024:.1f} KiB"],
            [
                "activations of the ANN, per token",
                f"{(m.ann_peak - SMOL.parameters * 4) / tokens / 1024:.0f} KiB",
            ],
            [
                "activations of the SNN, per token",
                f"{(m.snn_peak - SMOL.parameters * 4 - m.operators) / tokens / 1024:.0f} KiB",
            ],
            ["calibration, per forward of the ANN", f"{m.calibration_seconds / m.ann_seconds:.1f}"],
            ["building, per site", f"{m.building_seconds / SMOL.sites * 1000:.0f} ms"],
            ["audit, per forward of the SNN", f"{m.audit_seconds / m.snn_seconds:.1f}"],
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=256, help="in the one window that calibrates")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS / "large_models.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = []
    for copied, giving_back in RUNS:
        found = elsewhere(measure, copied, options.tokens, options.threads, giving_back=giving_back)
        runs.append((copied, giving_back, found))
        print(measured_table(runs), flush=True)
    first = runs[0][2]
    text = f"""# Large models

{provenance()}

## Measured: SmolLM2-135M, one window of {options.tokens} tokens, float32

{measured_table(runs)}

{costs(first, options.tokens)}

## Reckoned from these costs, not measured: the same window, on this processor

{reckoned_table(first, options.tokens)}
"""
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
