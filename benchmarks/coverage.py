"""Every Transformer-like architecture of transformers and timm: what converts, what is refused, what fails.

python benchmarks/coverage.py [--only PATTERN] [--library NAME] [--jobs N] [--timeout S] [--sample]
    [--keep OUTCOME ...]

Denominator: every entry of transformers.CONFIG_MAPPING and the first registered model of every file of
timm.models, built small from its configuration with random weights, offline. Four counts add up to it:
converted (strict) and close (T = 16, largest error of the outputs at most 2 % of their standard deviation, on
a batch that calibration has not seen), refused (with operator and path), failed, and not built (with
the reason). Each model runs in a process of its own, so that none ends the run.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder: its coverage.py would hide the package of that name

import multiprocessing  # noqa: E402
import resource  # noqa: E402

import torch  # noqa: E402

from benchmarks._common import machine, revision, write_csv  # noqa: E402
from benchmarks.small.sample import SAMPLE  # noqa: E402
from benchmarks.small.trial import CONVERTED, FAILED, NOT_BUILT, REFUSED, Result, run  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
OUTCOMES = (CONVERTED, REFUSED, FAILED, NOT_BUILT)
GIGABYTES = 10


def main() -> None:
    options = _options()
    tasks = _tasks(options)
    table = options.results / "coverage.csv"
    before = _read(table) if options.keep else {}
    kept = {t: r for t, r in before.items() if r.outcome in options.keep}
    options.results.mkdir(parents=True, exist_ok=True)
    results = dict(before)
    for result in _run_all([t for t in tasks if t not in kept], options.jobs, options.timeout):
        results[result.library, result.name] = result
        write_csv(table, Result, results.values())
    rows = [results[t] for t in tasks]
    write_csv(table, Result, rows)
    (options.results / "coverage.md").write_text(_markdown(rows, len(kept)))
    print(_summary(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="*", help="shell pattern on the names")
    parser.add_argument("--library", choices=("transformers", "timm"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=90, help="seconds per model")
    parser.add_argument(
        "--sample", action="store_true", help="the 20 of tests/models/test_coverage_sample.py"
    )
    parser.add_argument(
        "--keep", nargs="*", default=(), choices=OUTCOMES, help="outcomes in coverage.csv not to run again"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def _tasks(options: argparse.Namespace) -> list[tuple[str, str]]:
    from benchmarks.small.models import entries

    chosen = list(SAMPLE) if options.sample else entries()
    return [
        (library, name)
        for library, name in chosen
        if fnmatchcase(name, options.only) and options.library in (None, library)
    ]


def _run_all(tasks: list[tuple[str, str]], jobs: int, timeout: float) -> Iterator[Result]:
    """Each task in a process forked from this one, which has the libraries loaded already."""
    context = multiprocessing.get_context("fork")
    run("transformers", "bert")  # imports what all models import, before the first fork
    waiting, running, finished = list(tasks), {}, 0
    while waiting or running:
        while waiting and len(running) < jobs:
            task = waiting.pop(0)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(task, sender), daemon=True)
            process.start()
            sender.close()
            running[task] = (process, receiver, time.monotonic())
        wait([receiver for _, receiver, _ in running.values()], timeout=1)
        for task, (process, receiver, start) in list(running.items()):
            result = _collected(task, process, receiver, time.monotonic() - start > timeout, timeout)
            if result is not None:
                del running[task]
                finished += 1
                print(f"[{finished}/{len(tasks)}] {_line(result)}", flush=True)
                yield result


def _child(task: tuple[str, str], sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES * 2**30, GIGABYTES * 2**30))
    torch.set_num_threads(1)
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    try:
        sender.send(run(*task, progress=sender.send))
    except BaseException as error:  # MemoryError too: the row says so
        sender.send(Result(*task, outcome=FAILED, why=type(error).__name__))


def _collected(
    task: tuple[str, str], process: Any, receiver: Connection, late: bool, timeout: float
) -> Result | None:
    """The task's result once there is one; the child's last words tell how far it got."""
    try:
        while receiver.poll():
            message = receiver.recv()
            if isinstance(message, Result):
                process.join()
                return message
            _stage[task] = message
        if not late:
            return None
    except EOFError:
        pass
    process.kill()
    process.join()
    stage = _stage.get(task, "building")
    result = Result(*task, outcome=NOT_BUILT if stage == "building" else FAILED)
    result.why = (
        f"{'took more than ' + format(timeout, 'g') + ' s' if late else 'the process died'} while {stage}"
    )
    return result


_stage: dict[tuple[str, str], str] = {}


def _line(r: Result) -> str:
    error = (
        ""
        if r.error is None
        else f" {r.error:.2%}" + ("" if r.chaos is None else f" (perturbed ANN {r.chaos:.2%})")
    )
    return f"{r.library}/{r.name}: {r.outcome}{error} {r.why[:200]} [{r.seconds:.0f} s]"


def _summary(rows: list[Result]) -> str:
    counts = Counter(r.outcome for r in rows)
    goal = [r for r in rows if r.outcome != NOT_BUILT and r.attention]
    good = sum(r.outcome == CONVERTED for r in goal)
    share = f"{good / len(goal):.1%}" if goal else "none"
    return (
        "\n".join(f"{counts[o]:4d} {o}" for o in OUTCOMES)
        + f"\n{len(rows):4d} together\n\nOf the {len(goal)} that were built and contain attention, {good} "
        f"are converted and close: {share} (goal 90 %)."
    )


def _markdown(rows: list[Result], kept: int) -> str:
    lines = [
        "# Coverage",
        "",
        f"`{' '.join(['python', *sys.argv])}`, {time.strftime('%Y-%m-%d')}, at commit {revision()}: "
        f"{machine('torch', 'transformers', 'timm')}.",
        "",
        *(line.strip() for line in (__doc__ or "").split("\n\n")[2].splitlines()),
        "",
        "```",
        _summary(rows),
        "```",
        "",
        *(
            [
                f"{kept} of these rows were kept from earlier runs (--keep), which may be of earlier revisions.",
                "",
            ]
            if kept
            else []
        ),
        "error: largest error of any output / its standard deviation. perturbed: the same between two ANNs "
        "whose weights differ by 1e-6 of themselves; where it is large the random network is chaotic. given: the "
        "tensors that the model was called with; what is not given did not run (the images of a text model "
        "with eyes, say).",
    ]
    for outcome in OUTCOMES:
        chosen = [r for r in rows if r.outcome == outcome]
        lines += [
            "",
            f"## {outcome} ({len(chosen)})",
            "",
            "| model | class | given | attention | error | perturbed | why |",
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [_row(r) for r in chosen]
    return "\n".join(lines) + "\n"


def _row(r: Result) -> str:
    error, chaos = ("" if v is None else f"{v:.3%}" for v in (r.error, r.chaos))
    attention, why = "yes" if r.attention else "", r.why.replace("|", "\\|")
    return f"| {r.library}/{r.name} | {r.model} | {r.given} | {attention} | {error} | {chaos} | {why} |"


def _read(path: Path) -> dict[tuple[str, str], Result]:
    if not path.exists():
        return {}
    found = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            numbers = {k: float(row[k]) if row[k] else None for k in ("error", "chaos")}
            values = (
                row | numbers | {"seconds": float(row["seconds"]), "attention": row["attention"] == "True"}
            )
            found[row["library"], row["name"]] = Result(**values)
    return found


if __name__ == "__main__":
    main()
