"""The columns that benchmarks/tasks.py brings the examples' tables to, and the Markdown it writes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from benchmarks._common import machine, markdown_table, revision

Row = dict[str, str]

# what the project set itself: points of accuracy, or percent of perplexity, lost at most
GOALS = {"accuracy": {8: 0.2, 4: 1.0}, "perplexity": {8: 0.5, 4: 3.0}}
SHARED = (
    "items",
    "agreement",
    "flipped",
    "lost",
    "gained",
    "minimum_cosine",
    "same_generated",
    "firing_rate",
)
COLUMNS = ("task", "measure", "time_steps", "ann", "snn", "loss", "goal", "verdict", *SHARED, "command")


def common_row(task: str, command: str, row: Row) -> Row:
    """A row of an example's CSV; loss is in points of accuracy or in percent of perplexity."""
    measure = "perplexity" if "ann_perplexity" in row else "accuracy"
    ann, snn = float(row[f"ann_{measure}"]), float(row[f"snn_{measure}"])
    loss = ann - snn if measure == "accuracy" else 100 * (snn / ann - 1)
    goal = GOALS[measure].get(int(row["time_steps"]))
    verdict = "" if goal is None else "met" if loss <= goal + 1e-9 else "NOT met"
    figures = {"ann": f"{ann:.4f}", "snn": f"{snn:.4f}", "loss": f"{loss:.4f}", "verdict": verdict}
    shared = {name: row.get(name, "") for name in SHARED}
    start = {"task": task, "measure": measure, "time_steps": row["time_steps"]}
    return {**start, **figures, "goal": "" if goal is None else str(goal), **shared, "command": command}


NOTE = """
Calibration uses training data only. Sentences are drawn from the held-out ones with a fixed seed: those of
the smaller count are among those of the larger. One sentence of 1,000 is 0.1 points, one digit of 450 is 0.22.
Loss is in points of accuracy and in percent of perplexity; a negative one is a gain.
lost and gained: right by the ANN and wrong by the SNN, and the other way round; flipped: all changed
predictions. The firing rate is that of the first calibration batch. DATA is the data folder.
"""


def markdown(rows: Sequence[Row], seconds: float, options: argparse.Namespace) -> str:
    """Both tables, with machine, versions and the commands."""
    accuracy, perplexity = ([r for r in rows if r["measure"] == m] for m in GOALS)
    commands = "\n".join(dict.fromkeys(row["command"] for row in rows))
    return (
        f"# Whole tasks\n\n{_made(seconds, options)}\n{NOTE}\n## Accuracy, %\n\n{_accuracies(accuracy)}\n\n"
        f"## Perplexity\n\n{_perplexities(perplexity)}\n\n## Commands\n\n```\n{commands}\n```\n"
    )


def _made(seconds: float, options: argparse.Namespace) -> str:
    return (
        f"Made by `OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')} python benchmarks/tasks.py` "
        f"(last part: --only {' '.join(options.only)}, --jobs {options.jobs}, {seconds:.0f} s) at commit {revision()}\n"
        f"on {machine('torch', 'transformers', 'timm', 'spikingjelly')}; shared with other work."
    )


def _accuracies(rows: Sequence[Row]) -> str:
    head = (
        "task",
        "T",
        "items",
        "ANN",
        "SNN",
        "loss",
        "goal",
        "flipped",
        "lost",
        "gained",
        "min cosine",
        "firing",
    )
    figures = ("flipped", "lost", "gained", "minimum_cosine")
    return markdown_table(
        head, [[*_start(r, 2), *(r[name][:9] for name in figures), _percent(r["firing_rate"])] for r in rows]
    )


def _perplexities(rows: Sequence[Row]) -> str:
    head = (
        "task",
        "T",
        "tokens",
        "ANN",
        "SNN",
        "loss, %",
        "goal",
        "same top token, %",
        "same generated",
        "firing",
    )
    return markdown_table(
        head,
        [
            [*_start(r, 3), f"{float(r['agreement']):.2f}", r["same_generated"], _percent(r["firing_rate"])]
            for r in rows
        ],
    )


def _start(row: Row, digits: int) -> list[str]:
    goal = f"{row['goal']}: {row['verdict']}" if row["goal"] else ""
    figures = (f"{float(row[name]):.{digits}f}" for name in ("ann", "snn", "loss"))
    return [row["task"], row["time_steps"], row["items"], *figures, goal]


def _percent(share: str) -> str:
    return f"{float(share):.1%}"
