"""Time of one neuron's kernel, by backend, against the GELU of torch in the same run: on the CPU, or a CUDA GPU.

    python -m benchmarks.speed [--device cpu] [--backends torch numba] [--elements 12582912] [--threads 2] [--rounds 15]
    python -m benchmarks.speed --device cuda          # the same table for the GPU that is here, with Triton

A call is the decoded value of every element; counted, of an MBENode's spike_counts(), which kernels find in the same pass.
Two baselines: torch.ops.aten.gelu.out writes into an output that is there
already; F.gelu allocates its own, as the neurons and the networks do, which for 50 MB on a CPU takes longer than the
function. Rounds are interleaved after a warm-up and timed by the clock, on a GPU by CUDA's events. Nothing is printed
unless each backend has given the bits of 'torch' and its counts before.
Writes results/speed_<device>.md and .csv (--out: another name).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._common import DTYPES, RESULTS, markdown_table, provenance, quantiles, write_csv
from mbe_plugin import MBENode, fit
from mbe_plugin.fitting.segments import identity_tables

# GELU in closed form and, as published, by steps; what encodes the inputs of layers and products
NEURONS = {"closed": 64, "steps": 4, "identity": 8}  # bases
COMPARED = 1 << 20  # elements that every backend computes before it is timed
WARM_UP = 3
LAUNCHING = 20_000_000  # clock cycles, some 10 ms, within which the host has launched what is timed

Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """What was measured of one neuron on one backend; seconds of one call."""

    device: str
    simulate: str
    bases: int
    time_steps: int
    dtype: str
    backend: str
    elements: int
    gelu_p50: float
    allocating_p50: float
    p20: float
    p50: float
    p80: float
    ratio: float
    allocating_ratio: float
    counting_ratio: float


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    rows = [row for elements in options.elements for row in measured(options, elements)]
    out = options.out or RESULTS / f"speed_{options.device}"
    header = "neuron N T dtype backend elements".split()
    header += [
        "GELU, ms",
        "allocating, ms",
        "p20, ms",
        "p50, ms",
        "p80, ms",
        "times GELU",
        "allocating",
        "counted / not",
    ]
    where = f", {torch.cuda.get_device_name()}" if options.device == "cuda" else ""
    text = (
        f"# Speed of one neuron's kernel\n\n{provenance()}{where}. {options.rounds} interleaved rounds after {WARM_UP} to "
        "warm up; GELU is torch.ops.aten.gelu.out into an output that is there, allocating F.gelu; the neurons allocate "
        "(all are GELU's, but for the identity). Every backend gave the bits and the counts of 'torch' before.\n\n"
        + markdown_table(header, [cells(row) for row in rows])
    )
    print(text)
    write_csv(out.with_suffix(".csv"), Row, rows)
    out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def cells(row: Row) -> tuple[object, ...]:
    seconds = row.gelu_p50, row.allocating_p50, row.p20, row.p50, row.p80
    times = (f"{1e3 * each:.3f}" for each in seconds)
    plain = row.simulate, row.bases, row.time_steps, row.dtype, row.backend, row.elements
    return (
        *plain,
        *times,
        *(f"{each:.2f}" for each in (row.ratio, row.allocating_ratio, row.counting_ratio)),
    )


def measured(options: argparse.Namespace, elements: int) -> Iterator[Row]:
    """A row per neuron, T, dtype and backend, each set of backends beside its baseline."""
    for dtype in options.dtypes:
        x = torch.randn(elements, device=options.device).to(DTYPES[dtype])
        for simulate in options.neurons:
            for time_steps in options.time_steps:
                neurons = {b: neuron(simulate, time_steps, b).to(options.device) for b in options.backends}
                check(neurons, x)
                calls: dict[str, Call] = {b: partial(one, x) for b, one in neurons.items()}
                calls |= {f"{b} counted": partial(one.spike_counts, x) for b, one in neurons.items()}
                calls["GELU"] = partial(torch.ops.aten.gelu.out, x, out=torch.empty_like(x))
                calls["allocating"] = partial(torch.nn.functional.gelu, x)
                seconds = interleaved(calls, options.rounds, options.device)
                for backend in options.backends:
                    p20, p50, p80 = quantiles(seconds[backend])
                    base, allocating = (quantiles(seconds[name])[1] for name in ("GELU", "allocating"))
                    counted = quantiles(seconds[f"{backend} counted"])[1]
                    kind = options.device, simulate, NEURONS[simulate], time_steps, dtype, backend
                    times = base, allocating, p20, p50, p80
                    yield Row(*kind, elements, *times, p50 / base, p50 / allocating, counted / p50)


@cache
def fitted(simulate: str, time_steps: int) -> Any:
    family: Any = "published" if simulate == "steps" else "routed"
    return fit("gelu", time_steps=time_steps, bases=NEURONS[simulate], family=family)


def neuron(simulate: str, time_steps: int, backend: str) -> MBENode:
    if simulate == "identity":
        return MBENode(identity_tables(time_steps, NEURONS[simulate]), "identity", backend=backend)
    made = fitted(simulate, time_steps).node()
    made.simulate = simulate
    made.backend = backend
    return made


def check(neurons: dict[str, MBENode], x: Tensor) -> None:
    """SystemExit unless all of them give the bits and counts of backend 'torch', on every bfloat16 number, too."""
    short = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    sample = torch.cat([x[:COMPARED], short.to(x)])
    one = next(iter(neurons.values()))
    reference = MBENode(one.tables(), one.reduction.name, simulate=one.simulate, backend="torch").to(x.device)
    with torch.no_grad():
        want, spikes = reference(sample), reference.spike_counts(sample)[0]
        for backend, each in neurons.items():
            got = each(sample)
            same = (got == want) & (got.signbit() == want.signbit()) | (got.isnan() & want.isnan())
            if not bool(same.all()) or not torch.equal(each.spike_counts(sample)[0], spikes):
                raise SystemExit(
                    f"backend {backend!r} does not give the bits of 'torch'; its speed means nothing"
                )


def interleaved(calls: dict[str, Call], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call in every round; one round runs each once, so that a busy machine hits all alike."""
    timed = by_events if device == "cuda" else by_clock
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for number in range(WARM_UP + rounds):
            for name, call in calls.items():
                took = timed(call)
                if number >= WARM_UP:
                    seconds[name].append(took)
    return seconds


def by_clock(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def by_events(call: Call) -> float:
    """The GPU's own time: what the host needs to launch is hidden behind an idle wait in front."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(LAUNCHING)
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--backends", nargs="+", choices=["torch", "numba", "triton"])
    parser.add_argument("--neurons", nargs="+", default=list(NEURONS), choices=list(NEURONS))
    parser.add_argument("--time-steps", type=int, nargs="+", default=[16, 8, 4])
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--elements", type=int, nargs="+", default=[4096 * 3072])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="results' path without suffix")
    options = parser.parse_args()
    options.backends = options.backends or ["torch", "triton" if options.device == "cuda" else "numba"]
    return options


if __name__ == "__main__":
    main()
