"""What a spiking network costs in energy, by every accounting, beside what it loses.

    OMP_NUM_THREADS=1 python -m benchmarks.energy --data ../shared/data [--only PATTERN ...] [--items 200]

MiniLM on SST-2, DINOv2 on photographs of one fold, SmolLM2 on windows of 256 tokens; calibration and evaluation share no
item.
Energies are of one batch without padding, by mbe_plugin.energy (docs/energy.md). Rows are written as they are made, to
results/energy.csv and .md; those of networks that --only leaves out keep their place.
"""

from __future__ import annotations

import argparse
import csv
import functools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

import mbe_plugin
from benchmarks._common import RESULTS, markdown_table, provenance, revision, write_csv
from benchmarks.real import images, language, sentences
from benchmarks.real.quality import Converter, rows
from benchmarks.real.workload import Workload
from mbe_plugin import MBEConfig, RangeWarning

FIRST_SPIKE = {"code": "first_spike", "merge": False, "margin": 0.0}
AT_LAYERS = (("*:linear", {"dead_zone": 0.1}),)
SETTINGS = {
    "default, T = 16": MBEConfig(),
    "default, T = 8": MBEConfig(time_steps=8),
    "default, T = 4": MBEConfig(time_steps=4),
    "every value encoded, T = 8": MBEConfig(time_steps=8, merge=False),
    "every value encoded, T = 4": MBEConfig(time_steps=4, merge=False),
    "every value encoded, T = 2, N = 64": MBEConfig(time_steps=2, identity_bases=64, merge=False),
    "first spike, T = 16, N = 32": MBEConfig(time_steps=16, identity_bases=32, **FIRST_SPIKE),
    "first spike, T = 16, N = 32, dead zone 0.1 at layers": MBEConfig(
        time_steps=16, identity_bases=32, sites=AT_LAYERS, **FIRST_SPIKE
    ),
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


@dataclass(frozen=True)
class Row:
    """One network and setting; loss in points of accuracy or percent of perplexity, shares of the ANN's energy.

    steps: from input to output. Rows of earlier runs may lack the last three.
    """

    network: str
    setting: str
    items: int
    measure: str
    loss: float
    changed: int
    minimum_cosine: float
    complete_float32: float
    complete_float16: float
    complete_int8: float
    published: float
    commit: str
    memory_float32: float = math.nan
    memory_integer: float = math.nan
    steps: int = 0


def main() -> None:
    options = parse()
    warnings.simplefilter("ignore", RangeWarning)  # what lies outside shows in the closeness
    made = {(row.network, row.setting): row for row in read(RESULTS / "energy.csv")}
    for load in networks(options):
        workload = load()
        for row in tqdm(measured(workload), total=len(SETTINGS), desc=workload.network):
            made[row.network, row.setting] = row
            write_csv(RESULTS / "energy.csv", Row, made.values())
            (RESULTS / "energy.md").write_text(text(list(made.values())), encoding="utf-8")
    print(text(list(made.values())))


def networks(options: argparse.Namespace) -> Iterator[Callable[[], Workload]]:
    """What loads each network with a part of its task."""
    data, items = options.data, options.items
    loaders: dict[str, Callable[[], list[Workload]]] = {
        sentences.NETWORK: functools.partial(sentences.sentences, data, "SST-2", items),
        images.NETWORK: functools.partial(images.stamps, data),
        language.NETWORK: functools.partial(language.wikitext, data),
    }
    for name, load in loaders.items():
        if any(fnmatchcase(name, pattern) for pattern in options.only):
            yield functools.partial(first_part, load)


def first_part(load: Callable[[], list[Workload]]) -> Workload:
    """The first task, on its first part."""
    workload = load()[0]
    return replace(workload, parts=workload.parts[:1])


def measured(workload: Workload) -> Iterator[Row]:
    """A row per setting."""
    convert = Converter(workload.ann)
    for name, config in SETTINGS.items():
        [quality] = rows({workload.task: workload}, [(workload.task, config)])
        yield Row(
            network=workload.network,
            setting=name,
            **{key: quality[key] for key in ("items", "measure", "loss", "changed", "minimum_cosine")},
            **shares(convert(workload.parts[0], config), workload.counted[0][0]),
            commit=revision(),
        )


def shares(snn: nn.Module, batch: Any) -> dict[str, float]:
    """SNN / ANN by each accounting and baseline, and the steps from input to output."""
    billed = {
        column(accounting, baseline): mbe_plugin.energy(snn, batch, accounting, baseline=baseline)
        for accounting, baseline in COLUMNS
    }
    found = {name: energy.share for name, energy in billed.items()}
    return {**found, "steps": billed["complete_float32"].latency.steps}


def text(made: list[Row]) -> str:
    """Markdown."""
    header = ["network", "setting", "items", "loss", "changed", "minimum cosine"]
    header += [*(", ".join(names) for names in COLUMNS), "steps"]
    cells = []
    for row in made:
        loss = f"{row.loss:.2f} {'points' if row.measure == 'accuracy' else '%'}"
        energies = [getattr(row, column(*names)) for names in COLUMNS]
        closeness = f"{row.minimum_cosine:.5f}"
        percent = ["" if math.isnan(share) else f"{share:.1%}" for share in energies]
        cells.append(
            [row.network, row.setting, row.items, loss, row.changed, closeness, *percent, row.steps or ""]
        )
    return f"""# Energy

The SNN's energy in percent of the ANN's, by accounting and the ANN's precision (docs/energy.md), of one batch without
padding. 45 nm, M. Horowitz, ISSCC 2014; `memory` is our own model after arXiv:2409.08290, `published` our reading of the
MBE paper's count; neither could be verified. steps: from input to output, windows one after another. Every operator spikes.

{markdown_table(header, cells)}

{provenance()}
"""


def read(path: Path) -> list[Row]:
    """The rows of an earlier run."""
    if not path.exists():
        return []
    kinds = {"items": int, "changed": int, "steps": int} | dict.fromkeys(
        [name for name, kind in Row.__annotations__.items() if kind == "float"], float
    )
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(**{name: kinds.get(name, str)(value) for name, value in line.items()})
            for line in csv.DictReader(file)
        ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="default: ../shared/data")
    parser.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns on names of networks"
    )
    parser.add_argument("--items", type=int, default=200, help="sentences (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
