"""Three real pretrained networks as spiking ones: what changes, and what it costs.

    OMP_NUM_THREADS=1 python -m benchmarks.real_networks --data ../shared/data [--pass quality|cost|report]
        [--only PATTERN ...] [--time-steps 8 4 3] [--identity-bases 8 64] [--published] [--resume]

The data folder has stamps/ (one folder of photographs per class), wikitext-2/, sst2/, sst5/, mr/ and subj/. The quality
pass writes results/real_networks.csv, the cost pass results/real_networks_cost.csv, each row as soon as it is made; all
write results/real_networks.md. Rows that a run does not make again keep their place. --resume: only rows that are missing.
"""

from __future__ import annotations

import argparse
import csv
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from tqdm import tqdm

from benchmarks._common import DATA, RESULTS
from benchmarks.real import cost, images, language, quality, report, sentences
from benchmarks.real.workload import Row, Workload
from mbe_plugin import MBEConfig, RangeWarning

TIME_STEPS = {"quality": (8, 4, 3, 16, 6, 2, 1), "cost": (16, 4)}  # those with goals first
IDENTITY_BASES = {"quality": (8, 64), "cost": (8,)}
ONCE = ("SST-5", "MR", "Subj")  # the same network as SST-2: no cost of their own


@dataclass(frozen=True)
class Source:
    """What loads one network with its tasks; it can be sent to another process."""

    network: str
    tasks: Sequence[str]
    load: Callable[[], list[Workload]]


def main() -> None:
    options = parse()
    warnings.simplefilter("ignore", RangeWarning)  # what lies outside shows in the closeness
    tables = [options.results / name for name in ("real_networks.csv", "real_networks_cost.csv")]
    if options.work == "quality":
        quality_pass(options, tables[0])
    elif options.work == "cost":
        cost_pass(options, tables[1])
    text = report.markdown(*map(_read, tables))
    (options.results / "real_networks.md").write_text(text, encoding="utf-8")
    print(text)


def quality_pass(options: argparse.Namespace, table: Path) -> None:
    """Each network is loaded and calibrated once, whatever the number of configurations."""
    for source in sources(options):
        wanted = [(task, config) for config in configurations(options) for task in source.tasks]
        wanted = _missing(options, table, wanted, lambda t, c, s=source: quality.key_of(s.network, t, c))
        if wanted:
            rows = quality.rows({workload.task: workload for workload in source.load()}, wanted)
            for row in tqdm(rows, desc=source.network, total=len(wanted)):
                _keep(table, row, quality.KEY, quality.COLUMNS)


def cost_pass(options: argparse.Namespace, table: Path) -> None:
    """Each figure is measured in a process of its own."""
    for source in sources(options):
        tasks = [task for task in source.tasks if task not in ONCE]
        wanted = [(task, config) for config in configurations(options) for task in tasks]
        wanted = _missing(options, table, wanted, lambda t, c, s=source: cost.key_of(s.network, t, c))
        for task, config in tqdm(wanted, desc=source.network):
            unfitted = functools.partial(
                source.load, fitted=False
            )  # a head's numbers cost no time and no memory
            row = cost.cost(unfitted, source.network, task, config)
            _keep(table, row, cost.KEY, cost.COLUMNS)


def sources(options: argparse.Namespace) -> Iterator[Source]:
    """The networks with those of their tasks that --only names, the quick ones first."""
    data = options.data
    every = [
        Source(sentences.NETWORK, [task], functools.partial(sentences.sentences, data, task, options.limit))
        for task in sentences.FILES
    ]
    every.append(Source(images.NETWORK, [images.TASK], functools.partial(images.stamps, data)))
    every.append(Source(language.NETWORK, list(language.TASKS), functools.partial(language.wikitext, data)))
    for source in every:
        names = {f"{source.network}: {task}": task for task in source.tasks}
        tasks = [task for name, task in names.items() if any(fnmatchcase(name, p) for p in options.only)]
        if tasks:
            yield replace(source, tasks=tasks)


def configurations(options: argparse.Namespace) -> list[MBEConfig]:
    """The published family, or ours over T and N of the identities."""
    time_steps = options.time_steps or TIME_STEPS[options.work]
    if options.published:
        return [MBEConfig.published(time_steps=t) for t in options.time_steps or (16, 8)]
    bases = options.identity_bases or IDENTITY_BASES[options.work]
    return [MBEConfig(time_steps=t, identity_bases=n) for n in bases for t in time_steps]


def _missing(
    options: argparse.Namespace,
    table: Path,
    wanted: list[tuple[str, MBEConfig]],
    key_of: Callable[[str, MBEConfig], Row],
) -> list[tuple[str, MBEConfig]]:
    """With --resume, those of which the table has no row; otherwise all."""
    keys = [key_of(*pair) for pair in wanted]
    known = {_identity(row, keys[0]) for row in _read(table)} if options.resume else set()
    return [pair for pair, key in zip(wanted, keys, strict=True) if _identity(key, key) not in known]


def _identity(row: Row, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in names)


def _keep(table: Path, row: Row, names: Sequence[str], columns: Sequence[str]) -> None:
    """The row in place of the one with its key, or at the end; written at once, so that a run may be interrupted."""
    rows = {_identity(old, names): old for old in _read(table)}
    rows[_identity(row, names)] = row
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())


def _read(table: Path) -> list[Row]:
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=DATA, help="default: ../shared/data")
    add("--pass", dest="work", choices=("quality", "cost", "report"), default="quality")
    add("--only", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns on 'network: task'")
    add("--time-steps", type=int, nargs="+", metavar="T")
    add("--identity-bases", type=int, nargs="+", metavar="N")
    add("--published", action="store_true", help="MBEConfig.published() on a few items, at T = 16 and 8")
    add("--limit", type=int, default=1000, help="held-out sentences per task (%(default)s)")
    add("--resume", action="store_true", help="only rows that the table lacks")
    add("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
