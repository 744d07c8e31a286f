"""What a spiking network costs in energy, by every accounting, beside what it loses.

    OMP_NUM_THREADS=1 python -m benchmarks.energy --data ../shared/data [--only PATTERN ...] [--settings PATTERN ...]
        [--items 200]

MiniLM on SST-2, DINOv2 on photographs of one fold, SmolLM2 on windows of 256 tokens, and the geometry of ViT-B/16 with
random weights; calibration, tuning and evaluation share no item.
Energies are of one batch without padding, by mbe_plugin.energy (docs/energy.md). Rows are written as they are made, to
results/energy.csv and .md, with a figure, energy.png; those that --only or --settings leave out keep their place.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from benchmarks._common import DATA, RESULTS, markdown_table, provenance, revision, write_csv
from benchmarks.energy_figure import frontier
from benchmarks.energy_row import Row, read
from benchmarks.energy_tuned import tuned
from benchmarks.real import geometry, images, language, sentences
from benchmarks.real.quality import Converter, rows
from benchmarks.real.workload import Workload
from mbe_plugin import MBEConfig, RangeWarning
from mbe_plugin.analysis.energy.measure import billed, counted

TUNED = "tuned"
LOW = MBEConfig.low_energy()
VALUES = tuple((f"*{name}:linear|encoders.*", {"dead_zone": 0.02}) for name in ("v_proj", "value"))


def with_layers(**settings: Any) -> MBEConfig:
    """The preset with other settings for all layers' inputs, and its own for products of activations."""
    layers, products = LOW.sites[:2]
    return replace(LOW, sites=(*LOW.sites, (layers[0], settings), products))


SETTINGS: dict[str, MBEConfig | None] = {
    "default, T = 16": MBEConfig(),
    "default, T = 8": MBEConfig(time_steps=8),
    "default, T = 4": MBEConfig(time_steps=4),
    "every value encoded, T = 8": MBEConfig(time_steps=8, merge=False),
    "every value encoded, T = 4": MBEConfig(time_steps=4, merge=False),
    "every value encoded, T = 2, N = 64": MBEConfig(time_steps=2, identity_bases=64, merge=False),
    "published, T = 16": MBEConfig.published(time_steps=16),
    "published, T = 8": MBEConfig.published(time_steps=8),
    **{
        f"first spike, T = {time_steps}, N = {bases}": MBEConfig(
            time_steps=time_steps, identity_bases=bases, code="first_spike", merge=False
        )
        for time_steps, bases in ((16, 64), (16, 32), (12, 32), (16, 16))
    },
    "low energy": LOW,
    "low energy, half the dead zone": with_layers(dead_zone=0.05),
    "low energy, values precise": replace(LOW, sites=(*LOW.sites, *VALUES)),
    TUNED: None,  # from low energy, for CLOSENESS or SURPLUS on batches that are held out
}
LOADERS: dict[str, Callable[[argparse.Namespace], list[Workload]]] = {
    sentences.NETWORK: lambda options: sentences.sentences(options.data, "SST-2", options.items),
    images.NETWORK: lambda options: images.stamps(options.data),
    language.NETWORK: lambda options: language.wikitext(options.data),
    geometry.NETWORK: lambda options: geometry.vit(),
}
# accounting and baseline
COLUMNS = (
    ("complete", "float32"),
    ("complete", "float16"),
    ("complete", "int8"),
    ("memory", "float32"),
    ("memory", "integer"),
    ("published", "float32"),
)


def column(accounting: str, baseline: str) -> str:
    """A Row's name for it."""
    return accounting if accounting == "published" else f"{accounting}_{baseline}"


def main() -> None:
    options = parser(__doc__).parse_args()
    warnings.simplefilter("ignore", RangeWarning)  # what lies outside shows in the closeness
    made = {(row.network, row.setting): row for row in read(RESULTS / "energy.csv")}
    settings = [name for name in SETTINGS if any(fnmatchcase(name, p) for p in options.settings)]
    for load in networks(options):
        workload = load()
        for row in tqdm(measured(workload, settings), total=len(settings), desc=workload.network):
            made[row.network, row.setting] = row
            keep(made.values())
    print(keep(made.values()))


def keep(found: Iterable[Row]) -> str:
    """Write the table, in the order of networks and settings, and the figure; the table."""
    places = {name: place for place, name in enumerate([*LOADERS, *SETTINGS])}
    made = sorted(found, key=lambda row: (places[row.network], places[row.setting]))
    table = text(made)
    write_csv(RESULTS / "energy.csv", Row, made)
    (RESULTS / "energy.md").write_text(table, encoding="utf-8")
    frontier(made, RESULTS / "energy.png")
    return table


def networks(options: argparse.Namespace) -> Iterator[Callable[[], Workload]]:
    """What loads each network with a part of its task."""
    for name, load in LOADERS.items():
        if any(fnmatchcase(name, pattern) for pattern in options.only):
            yield functools.partial(first_part, load, options)


def first_part(load: Callable[[argparse.Namespace], list[Workload]], options: argparse.Namespace) -> Workload:
    """The first task, on its first part."""
    workload = load(options)[0]
    return replace(workload, parts=workload.parts[:1])


def measured(workload: Workload, settings: Sequence[str]) -> Iterator[Row]:
    """A row per setting."""
    convert = Converter(workload.ann)
    for name in settings:
        config = SETTINGS[name] or tuned(workload)
        [quality] = rows({workload.task: workload}, [(workload.task, config)])
        yield Row(
            network=workload.network,
            setting=name,
            **{key: quality[key] for key in ("items", "measure", "loss", "changed", "minimum_cosine")},
            **shares(convert(workload.parts[0], config), workload.counted[0][0]),
            commit=revision(),
        )


def shares(snn: nn.Module, batch: Any) -> dict[str, float]:
    """SNN / ANN by each accounting and baseline, and the steps from input to output; of one forward."""
    found = counted(snn, batch)
    bills = {
        column(accounting, baseline): billed(found, accounting, baseline=baseline)
        for accounting, baseline in COLUMNS
    }
    return {**{name: bill.share for name, bill in bills.items()}, "steps": found.latency.steps}


def text(made: list[Row]) -> str:
    """Markdown."""
    header = ["network", "setting", "items", "loss", "changed", "minimum cosine"]
    header += [*(", ".join(names) for names in COLUMNS), "steps"]
    cells = []
    for row in made:
        loss = f"{row.loss:.2f} {'points' if row.measure == 'accuracy' else '%'}"
        energies = [getattr(row, column(*names)) for names in COLUMNS]
        closeness = f"{row.minimum_cosine:.5f}"
        percent = [f"{share:.1%}" for share in energies]
        cells.append([row.network, row.setting, row.items, loss, row.changed, closeness, *percent, row.steps])
    return f"""# Energy

The SNN's energy in percent of the ANN's, by accounting and the ANN's precision (docs/energy.md), of one batch without
padding. 45 nm, M. Horowitz, ISSCC 2014; `memory` is our own model after arXiv:2409.08290, `published` our reading of the
MBE paper's count; neither could be verified. steps: from input to output, windows one after another. Every operator spikes.
Of random weights only closeness and energy say something: their classes are nearly alike. Rows were made by several calls
with --only and --settings (the published family's with --items 16), each at the commit that energy.csv names; the last call
is below.

{markdown_table(header, cells)}

{provenance()}
"""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Which networks of which data, on how much of it, in which settings."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--data", type=Path, default=DATA, help="default: ../shared/data")
    add("--only", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns on names of networks")
    add("--settings", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns on names of settings")
    add("--items", type=int, default=200, help="sentences (%(default)s)")
    return made


if __name__ == "__main__":
    main()
