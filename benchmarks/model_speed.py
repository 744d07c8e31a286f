"""Time and memory of a forward through a spiking network, by backend, against the ANN's in the same run.

    python -m benchmarks.model_speed [--networks minilm dinov2 ...] [--backends numba] [--time-steps 16]
        [--batch-sizes 1 8] [--length 25] [--threads 2] [--steps] [--dtypes float32 bfloat16]
    python -m benchmarks.model_speed --device cuda --dtypes float32 bfloat16     # on the GPU that is here, with Triton

Networks and their usual sizes are in speed_networks.py. Times are of interleaved forwards after a warm-up, with and
without counting events; ANN and SNN allocate their outputs alike, in inference mode. Memory is what one forward adds to
the resident size at its peak (Linux), the median of three processes; on a GPU to what torch has given out there. Nothing is
printed unless every backend gives the bits of 'torch'; on a GPU, of a forward that counts events: without, operators are
one kernel each, whose sums come in another order. There both networks are also timed as graphs of CUDA, which they were
captured in: what the GPU does, without the Python that tells it to.
Writes results/model_speed.md and .csv (--out: another name).
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import mbe_plugin
from benchmarks._common import DTYPES, RESULTS, markdown_table, provenance, quantiles, write_csv
from benchmarks._memory import elsewhere, peak, reset_peak
from benchmarks.speed_networks import NETWORKS, ON_GPU, Inputs, Loaded, output
from mbe_plugin import MBEConfig

MEBI = 1 << 20
CAPTURED = ["captured: ANN, s", "SNN, s", "SNN / ANN"]
PROCESSES = 3  # in which a peak of memory is measured


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
    device: str
    dtype: str


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
    captured_ann_seconds: float
    captured_snn_seconds: float
    weights_mebibytes: float
    ann_mebibytes: float
    snn_mebibytes: float

    @property
    def memory_ratio(self) -> float:
        """Of what a forward holds at its peak, the weights included."""
        return (self.weights_mebibytes + self.snn_mebibytes) / (self.weights_mebibytes + self.ann_mebibytes)

    @property
    def captured_ratio(self) -> float:
        """Of the times as graphs of CUDA; NaN on a CPU."""
        return self.captured_snn_seconds / self.captured_ann_seconds


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads[0])  # for the line that names the machine
    rows = []
    for setting in settings(options):
        rows.append(measure(setting, options.rounds))
        print(rows[-1], flush=True)
        write_csv(options.out.with_suffix(".csv"), Row, rows)
    header = "network backend simulation T batch tokens threads dtype".split()
    header += ["ANN, s", "SNN p20, s", "p50, s", "p80, s", "SNN / ANN", "goal", "counted / not"]
    header += CAPTURED if options.device == "cuda" else []
    header += ["weights, MiB", "ANN, MiB", "SNN, MiB", "memory, SNN / ANN"]
    text = (
        f"# Speed of spiking networks\n\n{provenance()}. {options.rounds} interleaved forwards; images are of 224 x 224 "
        "pixels; memory is what one forward adds at its peak (on a CPU the median of three processes), its ratio with the "
        "weights. "
        f"{_on(options.device)} The backends' outputs are the same bits.\n\n"
        + markdown_table(header, [cells(row) for row in rows])
    )
    print(text)
    options.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def _on(device: str) -> str:
    """What else to know of the device."""
    if device == "cuda":
        return f"On {torch.cuda.get_device_name()}."
    cold = _compiling()
    return (
        f"Numba's kernel takes {cold['cold']:.1f} s of a core to compile, once per machine, and {cold['warm']:.1f} s to "
        "load afterwards."
    )


def cells(row: Row) -> tuple[object, ...]:
    times = (row.ann_seconds, row.snn_p20, row.snn_seconds, row.snn_p80)
    size = row.batch, row.length or "", row.threads, row.dtype
    seconds = row.captured_ann_seconds, row.captured_snn_seconds
    captured = *(f"{each:.4f}" for each in seconds), f"{row.captured_ratio:.2f}"
    return (
        *(row.network, row.backend, row.simulate, row.time_steps, *size),
        *(f"{seconds:.4f}" for seconds in times),
        *(f"{row.time_ratio:.2f}", row.goal, f"{row.counting_ratio:.2f}"),
        *(captured if row.device == "cuda" else ()),
        *(f"{row.weights_mebibytes:.0f}", f"{row.ann_mebibytes:.0f}", f"{row.snn_mebibytes:.0f}"),
        f"{row.memory_ratio:.2f}",
    )


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    for name in options.networks:
        usual = NETWORKS[name]
        batch, length = (options.device == "cuda" and usual.on_gpu) or (usual.batch, usual.length)
        for threads, dtype, time_steps, backend, simulate, size in itertools.product(
            options.threads,
            options.dtypes,
            options.time_steps,
            options.backends,
            ("closed", "steps") if options.steps else ("closed",),
            options.batch_sizes or [batch],
        ):
            kind = name, backend, simulate, time_steps, size, options.length or length
            yield Setting(*kind, threads, options.device, dtype)


def measure(setting: Setting, rounds: int) -> Row:
    """Times in one process, each peak of memory in another; on a GPU, whose memory torch counts, all in this one."""
    if setting.device == "cuda":
        times, weights, ann, snn = on_gpu(setting, rounds)
    else:
        times = elsewhere(times_of, setting, rounds)
        weights, ann = usual_memory_of(setting, "ann")
        snn = usual_memory_of(setting, "snn")[1]
    base, (p20, p50, p80) = times["ann"][1], times["snn"]
    goal = NETWORKS[setting.network].goal if setting.device == "cpu" else ON_GPU
    ratios = p50 / base, goal, times["counted"][1] / p50
    captured = (times[name][1] if name in times else nan for name in ("captured ann", "captured snn"))
    return Row(*vars(setting).values(), base, p20, p50, p80, *ratios, *captured, weights, ann, snn)


def _compiling() -> dict[str, float]:
    """Processor seconds until the kernel can run, without and with what an earlier process left on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: elsewhere(_loading, folder) for name in ("cold", "warm")}


def _loading(folder: str) -> float:
    os.environ["NUMBA_CACHE_DIR"] = folder
    started = time.process_time()
    import mbe_plugin.kernels.numba_cpu.row_calls  # noqa: F401  # where the time goes

    return time.process_time() - started


def times_of(setting: Setting, rounds: int) -> dict[str, list[float]]:
    """p20, p50 and p80 of the ANN's, the SNN's and the counted SNN's forwards, seconds."""
    torch.set_num_threads(setting.threads)
    loaded = NETWORKS[setting.network].load()
    return _timed(loaded.ann, _converted(setting, loaded), _inputs(setting, loaded), setting, rounds)


def on_gpu(setting: Setting, rounds: int) -> tuple[dict[str, list[float]], float, float, float]:
    """times_of(setting, rounds), the network's weights, and what a forward of each network adds at its peak, MiB."""
    loaded = NETWORKS[setting.network].load()
    snn, inputs = _converted(setting, loaded), _inputs(setting, loaded)
    times = _timed(loaded.ann, snn, inputs, setting, rounds)
    added = []
    for network in (loaded.ann, snn):
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        with torch.inference_mode():
            network(**inputs)
        added.append((torch.cuda.max_memory_allocated() - held) / MEBI)
    return times, _weights(loaded.ann), added[0], added[1]


def _timed(
    ann: nn.Module, snn: nn.Module, inputs: Inputs, setting: Setting, rounds: int
) -> dict[str, list[float]]:
    _check_bits(snn, inputs, setting)

    def counted(**inputs: Any) -> None:
        with mbe_plugin.count_spikes(snn):
            snn(**inputs)

    calls: dict[str, Callable[..., object]] = {"ann": ann, "snn": snn, "counted": counted}
    with torch.inference_mode():
        if setting.device == "cuda":
            calls |= {f"captured {name}": captured(calls[name], inputs) for name in ("ann", "snn")}
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(1 + rounds):  # the first warms up
            for name, call in calls.items():
                given = deepcopy(inputs)  # a cache is written into
                _wait(setting)
                started = time.perf_counter()
                call(**given)
                _wait(setting)
                if number:
                    seconds[name].append(time.perf_counter() - started)
    return {name: quantiles(found) for name, found in seconds.items()}


def captured(call: Callable[..., object], inputs: Inputs) -> Callable[..., object]:
    """A forward of these inputs as a graph of CUDA; whatever it is given, it takes them."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what the first calls set up is no part of it
        call(**inputs)
        call(**inputs)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call(**inputs)
    return lambda **_: graph.replay()


def _wait(setting: Setting) -> None:
    """Until a GPU has done what it was given."""
    if setting.device == "cuda":
        torch.cuda.synchronize()


def _check_bits(snn: nn.Module, inputs: Inputs, setting: Setting) -> None:
    found, backend = [], setting.backend
    for name in ("torch", backend):
        mbe_plugin.set_backend(snn, name)
        with torch.no_grad(), mbe_plugin.count_spikes(snn) if setting.device == "cuda" else nullcontext():
            found.append(output(snn(**deepcopy(inputs))))
    if not torch.equal(*found):
        raise SystemExit(f"backend {backend!r} does not give the bits of 'torch'; its speed means nothing")


def usual_memory_of(setting: Setting, name: str) -> tuple[float, float]:
    """The median of PROCESSES peaks: what an allocator keeps differs from process to process."""
    found = [elsewhere(memory_of, setting, name) for _ in range(PROCESSES)]
    return found[0][0], median(added for _, added in found)


def memory_of(setting: Setting, name: str) -> tuple[float, float]:
    """The network's weights, and what one forward adds at its peak, MiB."""
    torch.set_num_threads(setting.threads)
    loaded = NETWORKS[setting.network].load()
    network = _placed(loaded.ann, setting) if name == "ann" else _converted(setting, loaded)
    inputs = _inputs(setting, loaded)
    small = replace(setting, batch=1, length=min(setting.length, 16))
    with torch.inference_mode():
        network(**_inputs(small, loaded))  # what the first call sets up once is no part of it
        before = reset_peak()
        network(**inputs)
    return _weights(loaded.ann), (peak() - before) / 1024


def _weights(ann: nn.Module) -> float:
    return sum(p.numel() * p.element_size() for p in ann.parameters()) / MEBI


def _inputs(setting: Setting, loaded: Loaded) -> Inputs:
    inputs = loaded.inputs(setting.batch, setting.length)
    if setting.device == "cpu" and setting.dtype == "float32":
        return inputs
    if not all(isinstance(value, Tensor) for value in inputs.values()):
        raise SystemExit(f"{setting.network}'s cache is float32 on the CPU; leave it out of --networks")
    return {
        name: value.to(setting.device, DTYPES[setting.dtype] if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _converted(setting: Setting, loaded: Loaded) -> nn.Module:
    """The spiking network; the ANN comes along to its device and dtype."""
    simulate: Any = setting.simulate
    config = MBEConfig(time_steps=setting.time_steps, simulate=simulate)
    ann = loaded.ann.to(setting.device)
    snn = _placed(mbe_plugin.convert(ann, loaded.calibration, config), setting)
    _placed(ann, setting)
    mbe_plugin.set_backend(snn, setting.backend)
    return snn


def _placed(network: nn.Module, setting: Setting) -> nn.Module:
    return network.to(setting.device, DTYPES[setting.dtype])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=list(NETWORKS),
        help="default: all; on a GPU, those with a size there",
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--backends", nargs="+", choices=["torch", "numba", "triton"])
    parser.add_argument("--time-steps", type=int, nargs="+", default=[16])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=list(DTYPES))
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="default: the network's usual one")
    parser.add_argument("--length", type=int, help="tokens; default: the network's usual number")
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--steps", action="store_true", help="the step loop too (slow)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="results' path without suffix")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.networks = options.networks or [
        name for name, each in NETWORKS.items() if each.on_gpu or not on_gpu
    ]
    options.backends = options.backends or ["triton" if on_gpu else "numba"]
    options.out = options.out or RESULTS / ("model_speed_cuda" if on_gpu else "model_speed")
    return options


if __name__ == "__main__":
    main()
