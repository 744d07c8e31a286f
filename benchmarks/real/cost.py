"""Seconds and memory of calibration, conversion and forwards: one row per network and configuration."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

import mbe_plugin
from benchmarks._common import interleaved_medians, revision
from benchmarks._memory import elsewhere, peak, reset_peak
from benchmarks.real.workload import Row, Workload
from mbe_plugin import MBEConfig

ROUNDS = 5
PER_BATCH, PER_CONVERSION, PER_SITE = 3, 8, 0.05  # goals: ANN's forwards, ANN's forwards, and seconds
KEY = ("network", "task", "time_steps", "identity_bases")
COLUMNS = (
    *KEY, "forward", "ann_seconds", "snn_seconds", "time_ratio", "calibration_seconds", "calibration_forwards",
    "conversion_seconds", "conversion_forwards", "conversion_allowed", "sites", "ann_mebibytes", "snn_mebibytes",
    "converting_mebibytes", "ann_alive_mebibytes", "converting_alive_mebibytes", "threads", "commit",
)  # fmt: skip
Load = Callable[[], list[Workload]]  # importable, as it is called in another process


def key_of(network: str, task: str, config: MBEConfig) -> Row:
    """What a row is found by."""
    sizes = {"time_steps": config.time_steps, "identity_bases": config.identity_bases}
    return {"network": network, "task": task, **sizes}


def cost(load: Load, network: str, task: str, config: MBEConfig) -> Row:
    """Times in one process, the memory of each network in others."""
    times = elsewhere(_times, load, task, config)
    made = {"threads": torch.get_num_threads(), "commit": revision()}
    return {**key_of(network, task, config), **times, **memory(load, task, config), **made}


def memory(load: Load, task: str, config: MBEConfig) -> Row:
    """Peaks in MiB: as glibc has it, and (alive) where it keeps no large blocks that were freed."""

    def peaks(giving_back: bool) -> Row:
        ann = elsewhere(_memory_of_ann, load, task, giving_back=giving_back)
        return ann | elsewhere(_memory_of_snn, load, task, config, giving_back=giving_back)

    alive = peaks(giving_back=True)
    return {
        **peaks(giving_back=False),
        "ann_alive_mebibytes": alive["ann_mebibytes"],
        "converting_alive_mebibytes": alive["converting_mebibytes"],
    }


def _workload(load: Load, task: str) -> Workload:
    return next(workload for workload in load() if workload.task == task)


def _times(load: Load, task: str, config: MBEConfig) -> Row:
    workload = _workload(load, task)
    ann, batches = workload.ann, workload.parts[0].calibration
    plain = interleaved_medians({str(i): lambda b=b: _call(ann, b) for i, b in enumerate(batches)}, rounds=3)
    started = time.perf_counter()
    calibration = mbe_plugin.calibrate(ann, batches, centers=config.centers_any)
    calibrated = time.perf_counter()
    snn = mbe_plugin.convert(ann, calibration, config)
    conversion = time.perf_counter() - calibrated
    inputs = _middle(workload)
    networks = {"ann": ann, "snn": snn}
    medians = interleaved_medians(
        {name: lambda n=n: workload.outputs(n, inputs) for name, n in networks.items()}, ROUNDS
    )
    sites = len(mbe_plugin.report(snn).sites)
    return {
        "forward": _shape(inputs),
        "ann_seconds": medians["ann"],
        "snn_seconds": medians["snn"],
        "time_ratio": medians["snn"] / medians["ann"],
        "calibration_seconds": calibrated - started,
        "calibration_forwards": (calibrated - started) / sum(plain.values()),
        "conversion_seconds": conversion,
        "conversion_forwards": conversion / plain["0"],
        "conversion_allowed": PER_CONVERSION * plain["0"] + PER_SITE * sites,
        "sites": sites,
    }


def _memory_of_ann(load: Load, task: str) -> Row:
    """Of the larger of a forward and the calibration's batches."""
    workload = _workload(load, task)
    before = reset_peak()
    with torch.no_grad():
        for batch in workload.parts[0].calibration:
            _call(workload.ann, batch)
        workload.outputs(workload.ann, _middle(workload))
    return {"ann_mebibytes": _weights(workload.ann) + (peak() - before) / 1024}


def _memory_of_snn(load: Load, task: str, config: MBEConfig) -> Row:
    """While a network is calibrated and converted without a copy, and of a forward afterwards."""
    workload = _workload(load, task)
    _load_kernels()
    before = reset_peak()
    snn = mbe_plugin.convert(workload.ann, workload.parts[0].calibration, config, copy=False)
    converting = peak()
    reset_peak()
    with torch.no_grad():
        workload.outputs(snn, _middle(workload))
    peaks = {"converting_mebibytes": converting, "snn_mebibytes": peak()}
    return {name: _weights(workload.ann) + (size - before) / 1024 for name, size in peaks.items()}


def _load_kernels() -> None:
    """What compiled kernels take of a process, once, is no part of a network's memory."""
    x = torch.randn(4, 8)
    snn = mbe_plugin.convert(torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.GELU()), [x])
    with torch.no_grad():
        snn(x)


def _weights(network: torch.nn.Module) -> float:
    """MiB of parameters and buffers, shared ones once."""
    return sum(t.nbytes for t in [*network.parameters(), *network.buffers()]) / 2**20


def _middle(workload: Workload) -> Any:
    """The batch of middle length."""
    batches = workload.parts[0].evaluation
    return batches[len(batches) // 2]


def _call(network: torch.nn.Module, batch: Any) -> object:
    return network(**batch) if isinstance(batch, dict) else network(batch)


def _shape(inputs: Any) -> str:
    tensor = inputs["input_ids"] if isinstance(inputs, dict) else inputs
    return " x ".join(map(str, tensor.shape))
