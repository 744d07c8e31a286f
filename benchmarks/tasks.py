"""Whole tasks: the three convert_*.py examples on a folder of data, and whether their losses meet the goals.

python benchmarks/tasks.py [--data ../shared/data] [--only PATTERN ...] [--limit 1000] [--goal-limit 2500]
    [--resume]

The data folder has the files that TASKS names (SST-2, SST-5, MR, Subj as `label text`, WikiText-2 as running
text). A sentence task is two runs of the example: T = 8 and 4, which have goals, on --goal-limit held-out
sentences (there are no more than 2,210), the other T on --limit. Tasks that --only leaves out keep their rows of tasks.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.tasks_report import COLUMNS, Row, common_row, markdown  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SPLIT = "--train {0}/train.txt --test {0}/test.txt"
TASKS = {
    "SST-2": ("convert_roberta.py", SPLIT.format("DATA/sst2")),
    "SST-5": ("convert_roberta.py", SPLIT.format("DATA/sst5")),
    "MR": ("convert_roberta.py", "--train DATA/mr/all.txt"),
    "Subj": ("convert_roberta.py", "--train DATA/subj/all.txt"),
    "WikiText-2": (
        "convert_gpt2.py",
        "--text DATA/wikitext-2/valid.txt --test DATA/wikitext-2/test.txt --width 128 --depth 4 --steps 600 "
        "--limit 500",
    ),
    "digits": ("convert_vit.py", "--batch 50"),
}
Run = tuple[str, str]  # task, command


def main() -> None:
    options = _options()
    started = time.perf_counter()
    table = options.results / "tasks.csv"
    rows = {(row["task"], row["time_steps"]): row for row in _read(table)}
    with ThreadPoolExecutor(options.jobs) as pool:
        done = {row["command"] for row in rows.values()} if options.resume else set()
        runs = [run for run in _runs(options) if run[1] not in done]
        failed = 0
        for made in pool.map(lambda run: _run(*run, options.data), runs):
            failed += not made
            rows |= {(row["task"], row["time_steps"]): row for row in made}
            _write(table, rows.values())
    text = markdown(_read(table), time.perf_counter() - started, options)
    table.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    if failed:
        raise SystemExit(f"{failed} of {len(runs)} runs failed; their rows, if any, are older")


def _runs(options: argparse.Namespace) -> Iterator[Run]:
    """The commands, those with goals first."""
    for steps, limit in (("8 4", options.goal_limit), ("16 12 10 6", options.limit)):
        for task, (example, arguments) in TASKS.items():
            if not any(fnmatchcase(task, pattern) for pattern in options.only):
                continue
            command = f"python examples/{example} {arguments}"
            if example == "convert_roberta.py":
                command += f" --training {options.training} --limit {limit} --batch 32 --time-steps {steps}"
                yield task, command
            elif steps == "8 4":  # one run for all T, for the network is trained in it
                yield task, command


def _run(task: str, command: str, data: Path) -> list[Row]:
    """One example in a process of its own, and its rows in the common columns; none if it failed."""
    print(command, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        words = command.replace("DATA", str(data.resolve())).split()[1:]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        words = [sys.executable, *words, "--csv", str(table)]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"FAILED: {command}\n{done.stderr[-2000:]}", flush=True)
        return [common_row(task, command, row) for row in _read(table)]


def _read(table: Path) -> list[Row]:
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(table: Path, rows: Iterable[Row]) -> None:
    """Sorted, after every run, so that one may be interrupted."""
    names = list(TASKS)
    rows = sorted(rows, key=lambda row: (names.index(row["task"]), -int(row["time_steps"])))
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", help="default: ../shared/data")
    add("--only", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns on the tasks' names")
    add("--limit", type=int, default=1000, help="held-out sentences per task (%(default)s)")
    add("--goal-limit", type=int, default=2500, help="the same at T = 8 and 4 (%(default)s)")
    add("--training", type=int, default=2000, help="sentences to fit a head on (%(default)s)")
    add("--resume", action="store_true", help="only the commands that tasks.csv has no rows of")
    add("--jobs", type=int, default=1, help="examples at a time (%(default)s)")
    add("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
