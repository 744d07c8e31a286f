"""Time and memory of a forward through a spiking network, by backend, against the ANN's in the same run.

    python -m benchmarks.model_speed [--networks minilm dinov2] [--backends torch numba] [--time-steps 16 8 4]
        [--batch-sizes 1 8 32] [--threads 1] [--steps]
    python -m benchmarks.model_speed --device cuda          # the same on the GPU that is here, with Triton

Times are medians of interleaved forwards, with and without counting events; memory is what one forward adds to the resident
size at its peak (Linux), on a GPU to the memory that torch has given out there, each in a process of its own. Nothing is
printed unless every backend gives the bits of 'torch'. On a GPU that is asked of a forward that counts events; without,
operators are one kernel each, whose sums come in another order.
Writes results/model_speed.md and .csv (--out: another name).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mbe_plugin
from benchmarks._common import RESULTS, interleaved_medians, markdown_table, provenance, write_csv
from benchmarks._memory import elsewhere, peak, reset_peak
from examples._shared.compare import padded_batches
from examples._shared.networks import IMAGE_SIZE, load_dinov2, load_minilm
from examples.sentences import calibration_sentences
from mbe_plugin import MBEConfig

STEPS_BATCH = 8  # 'steps' is measured for this batch size only

Inputs = dict[str, Tensor]


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


@dataclass(frozen=True)
class Row(Setting):
    """What was measured of a setting; memory in MiB beyond what the process held before the forward."""

    ann_seconds: float
    snn_seconds: float
    time_ratio: float
    counting_ratio: float
    ann_mebibytes: float
    snn_mebibytes: float


def main() -> None:
    options = parse()
    rows = [measure(setting, options.rounds) for setting in settings(options)]
    header = "network backend simulation T batch tokens threads".split()
    header += ["ANN, s", "SNN, s", "SNN / ANN", "counted / not", "ANN, MiB", "SNN, MiB"]
    text = (
        f"# Speed of spiking networks\n\n{provenance()}. Medians of {options.rounds} interleaved forwards; images are of "
        f"{IMAGE_SIZE} x {IMAGE_SIZE} pixels; memory is what one forward adds at its peak. {_on(options.device)} The "
        "backends' outputs are the same bits.\n\n" + markdown_table(header, [cells(row) for row in rows])
    )
    print(text)
    write_csv(options.out.with_suffix(".csv"), Row, rows)
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
    return (
        *(row.network, row.backend, row.simulate, row.time_steps, row.batch, row.length or "", row.threads),
        f"{row.ann_seconds:.4f}",
        f"{row.snn_seconds:.4f}",
        f"{row.time_ratio:.2f}",
        f"{row.counting_ratio:.2f}",
        f"{row.ann_mebibytes:.0f}",
        f"{row.snn_mebibytes:.0f}",
    )


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    device = options.device
    for network in options.networks:
        length = options.length if network == "minilm" else 0
        for threads in options.threads:
            for time_steps in options.time_steps:
                for backend in options.backends:
                    for batch in options.batch_sizes:
                        yield Setting(network, backend, "closed", time_steps, batch, length, threads, device)
                    if options.steps:
                        yield Setting(
                            network, backend, "steps", time_steps, STEPS_BATCH, length, threads, device
                        )


def measure(setting: Setting, rounds: int) -> Row:
    """Times in one process, each peak of memory in another."""
    times = elsewhere(_times, setting, rounds)
    ann, snn = (elsewhere(_memory, setting, name) for name in ("ann", "snn"))
    ratio, counting = times["snn"] / times["ann"], times["counted"] / times["snn"]
    return Row(*vars(setting).values(), times["ann"], times["snn"], ratio, counting, ann, snn)


def _compiling() -> dict[str, float]:
    """Processor seconds until the kernel can run, without and with what an earlier process left on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: elsewhere(_loading, folder) for name in ("cold", "warm")}


def _loading(folder: str) -> float:
    os.environ["NUMBA_CACHE_DIR"] = folder
    started = time.process_time()
    import mbe_plugin.kernels.numba_cpu.compiled  # noqa: F401  # where the time goes

    return time.process_time() - started


def _times(setting: Setting, rounds: int) -> dict[str, float]:
    networks, inputs = _networks(setting)
    snn = networks["snn"]
    _check_bits(snn, inputs, setting)

    def counted() -> None:
        with mbe_plugin.count_spikes(snn):
            snn(**inputs)

    calls: dict[str, Callable[[], Any]] = {name: partial(m, **inputs) for name, m in networks.items()}
    calls["counted"] = counted
    if setting.device == "cuda":
        calls = {name: partial(_waited, call) for name, call in calls.items()}
    return interleaved_medians(calls, rounds)


def _waited(call: Callable[[], Any]) -> None:
    """The call, until the GPU has done it."""
    call()
    torch.cuda.synchronize()


def _check_bits(snn: nn.Module, inputs: Inputs, setting: Setting) -> None:
    found = []
    for name in ("torch", setting.backend):
        mbe_plugin.set_backend(snn, name)
        counting = mbe_plugin.count_spikes(snn) if setting.device == "cuda" else nullcontext()
        with torch.no_grad(), counting:
            found.append(snn(**inputs).last_hidden_state)
    if not torch.equal(*found):
        raise SystemExit(
            f"backend {setting.backend!r} does not give the bits of 'torch'; its speed means nothing"
        )


def _memory(setting: Setting, name: str) -> float:
    networks, inputs = _networks(setting)
    small = {key: value[:1] for key, value in inputs.items()}
    with torch.no_grad():
        networks[name](**small)  # what the first call sets up once is no part of it
        if setting.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            networks[name](**inputs)
            return (torch.cuda.max_memory_allocated() - held) / 2**20
        before = reset_peak()
        networks[name](**inputs)
    return (peak() - before) / 1024


def _networks(setting: Setting) -> tuple[dict[str, nn.Module], Inputs]:
    torch.set_num_threads(setting.threads)
    generator = torch.Generator().manual_seed(0)
    if setting.network == "minilm":
        tokenizer, ann = load_minilm()
        # the first batch is run by the audit, so a small one keeps the peak of memory before the forward low
        calibration: Any = padded_batches(tokenizer, calibration_sentences(16), size=2)
        tokens = torch.randint(1000, 20000, (setting.batch, setting.length), generator=generator)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    else:
        ann = load_dinov2()
        images = torch.randn(setting.batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
        inputs, calibration = {"pixel_values": images}, [{"pixel_values": images[:1]}]
    simulate: Any = setting.simulate
    config = MBEConfig(time_steps=setting.time_steps, simulate=simulate)
    snn = mbe_plugin.convert(ann, calibration, config)
    networks = {"ann": ann.to(setting.device), "snn": snn.to(setting.device)}
    mbe_plugin.set_backend(snn, setting.backend)
    return networks, {name: value.to(setting.device) for name, value in inputs.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["minilm"], choices=["minilm", "dinov2"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--backends", nargs="+", choices=["torch", "numba", "triton"])
    parser.add_argument("--time-steps", type=int, nargs="+", default=[16, 8, 4])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--length", type=int, default=25, help="tokens per sentence")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", action="store_true", help="the step loop too (slow)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="results' path without suffix")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.backends = options.backends or ["torch", "triton" if on_gpu else "numba"]
    options.out = options.out or RESULTS / ("model_speed_cuda" if on_gpu else "model_speed")
    return options


if __name__ == "__main__":
    main()
