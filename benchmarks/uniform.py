"""What tune chose, beside every uniform configuration that costs as much, on data that neither has seen.

    OMP_NUM_THREADS=1 python -m benchmarks.uniform --data ../shared/data [--only PATTERN ...]

The tuned configurations are those that `python -m benchmarks.energy --settings tuned` left in results/. Uniform: one N and
one dead zone for all layers, the rest as in MBEConfig.low_energy(); for each N the smallest dead zone is found that costs
no more (accounting complete, float32).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

from benchmarks._common import RESULTS, markdown_table, provenance, write_csv
from benchmarks.energy import networks, parser, with_layers
from benchmarks.energy_tuned import Agreement, tuned_path
from benchmarks.real.quality import Converter
from benchmarks.real.workload import Workload
from examples._shared.sweep import evaluate
from mbe_plugin import MBEConfig, RangeWarning
from mbe_plugin.analysis.energy.measure import billed, counted

BASES = (8, 16, 32, 64, 256)
ZONES = (0.0, 0.6)
TRIES = 7  # halvings of the dead zone's interval: to .005


@dataclass(frozen=True)
class Row:
    """distance: the mean of 1 - cosine of the features, or the divergence of a language model's probabilities, nats."""

    network: str
    setting: str
    dead_zone: float
    share: float
    distance: float


def main() -> None:
    options = parser(__doc__).parse_args()
    warnings.simplefilter("ignore", RangeWarning)
    found: list[Row] = []
    for load in networks(options):
        workload = load()
        for row in tqdm(compared(workload), total=1 + len(BASES), desc=workload.network):
            found.append(row)
            write_csv(RESULTS / "uniform.csv", Row, found)
            (RESULTS / "uniform.md").write_text(text(found), encoding="utf-8")


def compared(workload: Workload) -> Iterator[Row]:
    """The tuned configuration, then for each N the uniform one of the same energy."""
    convert, far = Converter(workload.ann), distance(workload)
    part, batch = workload.parts[0], workload.counted[0][0]

    def row(setting: str, zone: float, config: MBEConfig) -> Row:
        snn = convert(part, config)
        return Row(workload.network, setting, zone, billed(counted(snn, batch)).share, far(snn))

    tuned = MBEConfig.from_json(tuned_path(workload.network).read_text(encoding="utf-8"))
    first = row("tuned", 0.0, tuned)
    yield first
    for bases in BASES:
        zone = smallest_zone(
            lambda zone, bases=bases: billed(counted(convert(part, uniform(bases, zone)), batch)).share,
            first.share,
        )
        yield row(f"N = {bases}", zone, uniform(bases, zone))


def uniform(bases: int, zone: float) -> MBEConfig:
    """Every layer by one N and one dead zone."""
    return with_layers(identity_bases=bases, dead_zone=zone)


def smallest_zone(share: Callable[[float], float], most: float) -> float:
    """The smallest dead zone whose share is at most so much, to a few thousandths; the largest of ZONES if none is."""
    low, high = ZONES
    for _ in range(TRIES):
        middle = (low + high) / 2
        low, high = (low, middle) if share(middle) <= most else (middle, high)
    return high


def distance(workload: Workload) -> Callable[[nn.Module], float]:
    """How far a network is from the ANN on the evaluated items."""
    evaluation = workload.parts[0].evaluation
    if workload.measure == "perplexity":
        agreement = Agreement(workload.ann, [{"input_ids": window} for window in evaluation])
        return lambda snn: -agreement(snn)
    [exact, *_] = evaluate(workload.ann, evaluation, workload.outputs)

    def far(snn: nn.Module) -> float:
        [found, *_] = evaluate(snn, evaluation, workload.outputs)
        return float(1 - torch.cosine_similarity(exact.double(), found.double()).mean())

    return far


def text(found: list[Row]) -> str:
    """Markdown."""
    header = ["network", "setting", "dead zone", "energy", "distance"]
    cells = [
        [
            row.network,
            row.setting,
            f"{row.dead_zone:.3f}" if row.dead_zone else "",
            f"{row.share:.2%}",
            f"{row.distance:.2e}",
        ]
        for row in found
    ]
    return f"""# Tuned against uniform

Energy: complete, float32. Distance: the mean of 1 - cosine of the features; of SmolLM2 the divergence of its probabilities,
nats per token. On items that neither calibration nor tuning saw.

{markdown_table(header, cells)}

{provenance()}
"""


if __name__ == "__main__":
    main()
