"""Where the time of a forward goes, of the ANN and of its spiking network: in computing, or in whose Python.

    python -m benchmarks.where_time_goes [--networks smollm2-token bert-long] [--time-steps 16] [--rounds 10]

By cProfile, of one thread, so that nothing waits: each function's own time goes to whose it is. It slows down what calls
often, so the forward's time without it stands beside, and shares say more of Python than there is. Sizes are those of
speed_networks.py. Writes results/where_time_goes.md and .csv.
"""

from __future__ import annotations

import argparse
import cProfile
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass

import torch
from torch import nn

import mbe_plugin
from benchmarks._common import RESULTS, interleaved_medians, markdown_table, provenance, write_csv
from benchmarks.speed_networks import NETWORKS, Inputs
from mbe_plugin import MBEConfig

ENTERED = ("walk.py", "__torch_function__")  # once for each of torch's functions in a converted forward
MODULE_CALLED = ("nn/modules/module.py", "_call_impl")
KERNEL = ("numba_cpu/teams.py", "run")
PRODUCTS = ("linear", "matmul", "addmm", "scaled_dot_product_attention")


@dataclass(frozen=True)
class Row:
    """One network's forward: seconds without the profiler, calls, and the profile's shares."""

    network: str
    forward: str
    time_steps: int
    seconds: float
    functions_entered: int
    modules_called: int
    kernels_called: int
    products: float
    functions: float
    kernels: float
    telling_kernels: float
    operators: float
    following: float
    modules: float
    others: float


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    rows = [row for name in options.networks for row in measured(name, options.time_steps, options.rounds)]
    header = ["network", "forward", "T", "s", "torch's functions entered", "modules called", "kernels called"]
    header += ["products", "torch's other functions", "neurons' kernels", "telling kernels"]
    header += ["neurons and operators", "following the forward", "torch's modules", "the model and others"]
    cells = [
        [*known[:3], f"{row.seconds:.4f}", *known[4:7], *(f"{share:.0%}" for share in known[7:])]
        for row in rows
        if (known := list(asdict(row).values()))
    ]
    text = (
        f"# Where the time of a forward goes\n\n{provenance()}. Seconds: the median of {options.rounds} forwards without "
        "the profiler; counts those of one forward; shares are of the profile, which makes Python look dearer than it is. "
        "The first three compute, all others are Python.\n\n" + markdown_table(header, cells)
    )
    print(text)
    write_csv(RESULTS / "where_time_goes.csv", Row, rows)
    (RESULTS / "where_time_goes.md").write_text(text + "\n", encoding="utf-8")


def measured(name: str, time_steps: int, rounds: int) -> list[Row]:
    """The ANN's row and the SNN's."""
    network = NETWORKS[name]
    loaded = network.load()
    snn = mbe_plugin.convert(loaded.ann, loaded.calibration, MBEConfig(time_steps=time_steps))
    inputs = loaded.inputs(network.batch, network.length)
    forwards = {"ANN": loaded.ann, "SNN": snn}
    with torch.inference_mode():
        calls = {kind: fresh(forward, inputs, 1 + rounds) for kind, forward in forwards.items()}
        seconds = interleaved_medians(calls, rounds)
        return [
            Row(name, kind, time_steps, seconds[kind], *profiled(fresh(forward, inputs, rounds), rounds))
            for kind, forward in forwards.items()
        ]


def fresh(forward: nn.Module, inputs: Inputs, times: int) -> Callable[[], object]:
    """A call that can be made so many times: each gets a copy, since a cache is written into."""
    copies = iter([deepcopy(inputs) for _ in range(times)])
    return lambda: forward(**next(copies))


def profiled(call: Callable[[], object], rounds: int) -> tuple[float, ...]:
    """The counts and shares of a Row."""
    with cProfile.Profile() as profile:
        for _ in range(rounds):
            call()
    calls, own = Counter[tuple[str, str]](), Counter[str]()
    for entry in profile.getstats():
        built_in = isinstance(entry.code, str)  # and so not Python's
        file, function = ("", entry.code) if built_in else (entry.code.co_filename, entry.code.co_name)
        own[part_of(file, function)] += entry.inlinetime
        for which in (ENTERED, MODULE_CALLED, KERNEL):
            if file.endswith(which[0]) and function == which[1]:
                calls[which] += entry.callcount
    total = own.total()
    counts = (calls[which] // rounds for which in (ENTERED, MODULE_CALLED, KERNEL))
    parts = (
        "products",
        "functions",
        "kernels",
        "telling kernels",
        "operators",
        "following",
        "modules",
        "others",
    )
    return (*counts, *(own[part] / total for part in parts))


def part_of(file: str, function: str) -> str:
    """Whose a function's own time is."""
    if not file:
        if any(name in function for name in PRODUCTS):
            return "products"
        return "functions" if "torch" in function else "others"
    if file.endswith(KERNEL[0]) and function == KERNEL[1]:
        return "kernels"
    if "mbe_plugin/kernels" in file:
        return "telling kernels"
    if "mbe_plugin/operators" in file or file.endswith("mbe_plugin/node.py"):
        return "operators"
    if "mbe_plugin" in file:
        return "following"
    return "modules" if "/torch/" in file else "others"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    slow = ["minilm-sentence", "smollm2-token", "smollm2", "bert-long"]
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=slow)
    parser.add_argument("--time-steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
