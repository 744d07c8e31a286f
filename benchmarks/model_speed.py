"""Time and memory of a forward through a spiking network, by backend, against the ANN's in the same run.

    python -m benchmarks.model_speed [--networks minilm dinov2 ...] [--backends numba] [--time-steps 16]
        [--batch-sizes 1 8] [--length 25] [--threads 2] [--steps]

Networks and their usual sizes are in speed_networks.py. Times are of interleaved forwards after a warm-up, with and
without counting events; ANN and SNN allocate their outputs alike, in inference mode. Memory is what one forward adds to
the resident size at its peak (Linux), each in a process of its own. Nothing is printed unless every backend gives the bits
of 'torch'.
Writes results/model_speed.md and .csv (--out: another name).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mbe_plugin
from benchmarks._common import RESULTS, markdown_table, provenance, write_csv
from benchmarks._memory import elsewhere, peak, reset_peak
from benchmarks.speed_networks import NETWORKS, Inputs, Loaded, output
from mbe_plugin import MBEConfig

MEBI = 1 << 20


@dataclass(frozen=True)
class Setting:
    """One configuration."""

    network: str
    backend: str
    simulate: str
    time_steps: int
    batch: int
    length: int
    threads: int


@dataclass(frozen=True)
class Row(Setting):
    """What was measured of a setting; memory in MiB beyond what the process held before the forward."""

    ann_seconds: float
    snn_p20: float
    snn_seconds: float
    snn_p80: float
    time_ratio: float
    goal: float
    counting_ratio: float
    weights_mebibytes: float
    ann_mebibytes: float
    snn_mebibytes: float

    @property
    def memory_ratio(self) -> float:
        """Of what a forward holds at its peak, the weights included."""
        return (self.weights_mebibytes + self.snn_mebibytes) / (self.weights_mebibytes + self.ann_mebibytes)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads[0])  # for the line that names the machine
    cold = _compiling()
    rows = []
    for setting in settings(options):
        rows.append(measure(setting, options.rounds))
        print(rows[-1], flush=True)
        write_csv(options.out.with_suffix(".csv"), Row, rows)
    header = "network backend simulation T batch tokens threads".split()
    header += ["ANN, s", "SNN p20, s", "p50, s", "p80, s", "SNN / ANN", "goal", "counted / not"]
    header += ["weights, MiB", "ANN, MiB", "SNN, MiB", "memory, SNN / ANN"]
    text = (
        f"# Speed of spiking networks\n\n{provenance()}. {options.rounds} interleaved forwards; images are of 224 x 224 "
        "pixels; memory is what one forward adds at its peak, its ratio with the weights. Numba's kernel takes "
        f"{cold['cold']:.1f} s of a core to compile, once per machine, and {cold['warm']:.1f} s to load afterwards. The "
        "backends' outputs are the same bits.\n\n" + markdown_table(header, [cells(row) for row in rows])
    )
    print(text)
    options.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def cells(row: Row) -> tuple[object, ...]:
    times = (row.ann_seconds, row.snn_p20, row.snn_seconds, row.snn_p80)
    return (
        *(row.network, row.backend, row.simulate, row.time_steps, row.batch, row.length or "", row.threads),
        *(f"{seconds:.4f}" for seconds in times),
        *(f"{row.time_ratio:.2f}", row.goal, f"{row.counting_ratio:.2f}"),
        *(f"{row.weights_mebibytes:.0f}", f"{row.ann_mebibytes:.0f}", f"{row.snn_mebibytes:.0f}"),
        f"{row.memory_ratio:.2f}",
    )


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    for name in options.networks:
        usual = NETWORKS[name]
        length = options.length or usual.length
        for threads in options.threads:
            for time_steps in options.time_steps:
                for backend in options.backends:
                    for simulate in ("closed", "steps") if options.steps else ("closed",):
                        for batch in options.batch_sizes or [usual.batch]:
                            yield Setting(name, backend, simulate, time_steps, batch, length, threads)


def measure(setting: Setting, rounds: int) -> Row:
    """Times in one process, each peak of memory in another."""
    times = elsewhere(_times, setting, rounds)
    weights, ann = elsewhere(_memory, setting, "ann")
    snn = elsewhere(_memory, setting, "snn")[1]
    base, (p20, p50, p80) = times["ann"][1], times["snn"]
    ratios = p50 / base, NETWORKS[setting.network].goal, times["counted"][1] / p50
    return Row(*vars(setting).values(), base, p20, p50, p80, *ratios, weights, ann, snn)


def _compiling() -> dict[str, float]:
    """Processor seconds until the kernel can run, without and with what an earlier process left on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: elsewhere(_loading, folder) for name in ("cold", "warm")}


def _loading(folder: str) -> float:
    os.environ["NUMBA_CACHE_DIR"] = folder
    started = time.process_time()
    import mbe_plugin.kernels.numba_cpu.compiled  # noqa: F401  # where the time goes

    return time.process_time() - started


def _times(setting: Setting, rounds: int) -> dict[str, list[float]]:
    """p20, p50 and p80 of the ANN's, the SNN's and the counted SNN's forwards, seconds."""
    torch.set_num_threads(setting.threads)
    loaded = NETWORKS[setting.network].load()
    snn, inputs = _converted(setting, loaded), loaded.inputs(setting.batch, setting.length)
    _check_bits(snn, inputs, setting.backend)

    def counted(**inputs: Any) -> None:
        with mbe_plugin.count_spikes(snn):
            snn(**inputs)

    seconds: dict[str, list[float]] = {"ann": [], "snn": [], "counted": []}
    with torch.inference_mode():
        for number in range(1 + rounds):  # the first warms up
            for name, call in {"ann": loaded.ann, "snn": snn, "counted": counted}.items():
                given = deepcopy(inputs)  # a cache is written into
                started = time.perf_counter()
                call(**given)
                if number:
                    seconds[name].append(time.perf_counter() - started)
    edges = torch.tensor([0.2, 0.5, 0.8])
    return {name: torch.tensor(found).quantile(edges).tolist() for name, found in seconds.items()}


def _check_bits(snn: nn.Module, inputs: Inputs, backend: str) -> None:
    found = []
    for name in ("torch", backend):
        mbe_plugin.set_backend(snn, name)
        with torch.no_grad():
            found.append(output(snn(**deepcopy(inputs))))
    if not torch.equal(*found):
        raise SystemExit(f"backend {backend!r} does not give the bits of 'torch'; its speed means nothing")


def _memory(setting: Setting, name: str) -> tuple[float, float]:
    """The network's weights, and what one forward adds at its peak, MiB."""
    torch.set_num_threads(setting.threads)
    loaded = NETWORKS[setting.network].load()
    network = loaded.ann if name == "ann" else _converted(setting, loaded)
    inputs = loaded.inputs(setting.batch, setting.length)
    with torch.inference_mode():
        network(
            **loaded.inputs(1, min(setting.length, 16))
        )  # what the first call sets up once is no part of it
        before = reset_peak()
        network(**inputs)
    weights = sum(p.numel() * p.element_size() for p in loaded.ann.parameters()) / MEBI
    return weights, (peak() - before) / 1024


def _converted(setting: Setting, loaded: Loaded) -> nn.Module:
    simulate: Any = setting.simulate
    config = MBEConfig(time_steps=setting.time_steps, simulate=simulate)
    snn = mbe_plugin.convert(loaded.ann, loaded.calibration, config)
    mbe_plugin.set_backend(snn, setting.backend)
    return snn


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--backends", nargs="+", default=["numba"], choices=["torch", "numba"])
    parser.add_argument("--time-steps", type=int, nargs="+", default=[16])
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="default: the network's usual one")
    parser.add_argument("--length", type=int, help="tokens; default: the network's usual number")
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--steps", action="store_true", help="the step loop too (slow)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "model_speed", help="results' path without suffix"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
