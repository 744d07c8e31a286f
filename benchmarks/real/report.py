"""The tables of benchmarks/real_networks.py as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._common import machine, markdown_table
from benchmarks._memory import ALLOCATOR, THRESHOLD
from benchmarks.real.cost import PER_BATCH, PER_CONVERSION, PER_SITE
from benchmarks.real.workload import Row

# what the project set itself: T -> percent of perplexity lost, and predictions changed of 268, at most
GOALS = {8: (0.1, 1), 4: (0.2, 4), 3: (1.0, 8)}
PHOTOGRAPHS = 268

GLANCE = """\
Points of accuracy or percent of perplexity lost (negative: gained), and in brackets predictions changed, over T.
"""

QUALITY = """\
Calibration and evaluation share no item. **DINOv2**: a linear probe on the class token over five folds, fitted on the
ANN's features of four and judged on the fifth; fold 0 is run by a network calibrated on 16 images of fold 1, the others
by one calibrated on 16 of fold 0. Nearest: how many images have a nearest neighbour (by cosine of the class tokens, all
from the same network's outputs) of another class than by the ANN. **MiniLM**: a linear head fitted on 2,000 training
sentences, 32 of which calibrate. **SmolLM2**: calibrated on 1,792 tokens of the validation text, evaluated on 16
windows of 256 and 4 of 1,024 of the test text; changed counts the tokens where another one is thought likeliest. All
are converted whole, with their heads.

Loss is in points of accuracy and in percent of perplexity; a negative one is a gain. lost and gained: right by the ANN
and wrong by the SNN, and the other way round. Cosine and maximum error are of what the head reads: class token
(standard deviation 2.3), sentence embedding (of length 1), each token's last hidden state. Spikes and side events
(exponents, with sign and address) are per token or patch, counted on one batch or 64 sentences without padding. N:
bases of the identities; of the functions 64. The published family, `MBEConfig.published()`, has 16 photographs, 64
sentences and one batch of windows, since each takes it minutes.
"""

COST = f"""\
Seconds are medians of interleaved forwards, or of one calibration and conversion. The goals: {PER_BATCH} of the ANN's
forwards for a calibration batch, and for a conversion what is allowed, {PER_CONVERSION} forwards on the first batch and
{PER_SITE} s a site. Memory in MiB: the weights and what the process adds to them at its peak, in the ANN's forwards, in
calibration and conversion with `copy=False`, and in the SNN's forward afterwards, when it holds the neurons as well;
compiled kernels, some 150 MiB once per process, are loaded before and not counted. Alive: the same where glibc gives
freed blocks of 128 KiB and more back to the system (`{ALLOCATOR}={THRESHOLD}`; goal: at most
1.15 times the ANN); else it keeps and splits them, and more is resident (docs/large_models.md).
"""


def markdown(qualities: Sequence[Row], costs: Sequence[Row]) -> str:
    """Goals, quality and cost."""
    commits = sorted({row["commit"] for row in [*qualities, *costs]})
    made = (
        f"Made by {_commands(qualities, costs)}, at commit {', '.join(commits)}\n"
        f"on {machine('torch', 'transformers', 'timm', 'spikingjelly')}; shared with other work."
    )
    ours = [row for row in qualities if row["family"] == "routed"]
    parts = [
        f"# Three real networks\n\n{made}",
        f"## At a glance\n\n{GLANCE}\n{glance(ours)}",
        f"## Goals\n\n{goals(ours)}",
        f"## Quality\n\n{QUALITY}",
    ]
    for network in dict.fromkeys(row["network"] for row in qualities):
        rows = [row for row in qualities if row["network"] == network]
        parts.append(f"### {network}\n\n{quality_table(rows)}")
    if costs:
        parts.append(f"## Cost\n\n{COST}\n{cost_table(costs)}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _commands(qualities: Sequence[Row], costs: Sequence[Row]) -> str:
    """What the rows come from; a row that was not made is missing in the tables."""
    options = [""]
    options += [" --published"] if any(row["family"] == "published" for row in qualities) else []
    options += [" --pass cost"] if costs else []
    return ", ".join(
        f"`OMP_NUM_THREADS=1 python -m benchmarks.real_networks --data ../shared/data{o}`" for o in options
    )


def glance(rows: Sequence[Row]) -> str:
    """A line per task and N of the identities, a column per T."""
    steps = sorted({int(row["time_steps"]) for row in rows}, reverse=True)
    lines = []
    for (network, task), found in _grouped(rows).items():
        for bases in sorted({int(row["identity_bases"]) for row in found}):
            here = {int(r["time_steps"]): r for r in found if int(r["identity_bases"]) == bases}
            unit = "%" if found[0]["measure"] == "perplexity" else "points"
            cells = [
                f"{float(here[t]['loss']):.3f} ({here[t]['changed']})" if t in here else "" for t in steps
            ]
            lines.append([f"{network}, {task}", bases, f"{int(found[0]['items']):,}", unit, *cells])
    return markdown_table(["network, task", "N", "items", "loss in", *(f"T = {t}" for t in steps)], lines)


def goals(rows: Sequence[Row]) -> str:
    """A line per T and figure, a column per N of the identities."""
    bases = sorted({int(row["identity_bases"]) for row in rows})
    lines = []
    for (network, task), found in _grouped(rows).items():
        for figure, name, place in _figures_with_goals(found[0]):
            values = {(int(r["time_steps"]), int(r["identity_bases"])): float(r[figure]) for r in found}
            for steps, limits in GOALS.items():
                cells = [_verdict(values.get((steps, n)), limits[place]) for n in bases]
                lines.append([f"{network}, {task}", name, steps, f"at most {limits[place]}", *cells])
    return markdown_table(["network, task", "figure", "T", "goal", *(f"N = {n}" for n in bases)], lines)


def _figures_with_goals(row: Row) -> list[tuple[str, str, int]]:
    """Columns that have a goal: name, in words, place in GOALS."""
    if row["measure"] == "perplexity":
        return [("loss", "perplexity lost, %", 0)]
    if int(row["items"]) != PHOTOGRAPHS:
        return []
    return [
        ("changed", "predictions changed of 268", 1),
        ("nearest_changed", "nearest class changed of 268", 1),
    ]


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["task"]), []).append(row)
    return groups


def _verdict(value: float | None, limit: float) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3g}, {'met' if value <= limit else '**not met**'}"


def quality_table(rows: Sequence[Row]) -> str:
    """The rows of one network, by task and family, T downwards."""
    order = list(dict.fromkeys(row["task"] for row in rows))
    chosen = sorted(
        rows,
        key=lambda r: (
            order.index(r["task"]),
            r["family"] != "routed",
            int(r["identity_bases"]),
            -int(r["time_steps"]),
        ),
    )
    head = "task, T, N, items, ANN, SNN, loss, changed, lost, gained, same %, nearest, min cosine, max error"
    columns = [*head.split(", "), "spikes", "side events", "firing"]
    kept = [i for i, name in enumerate(columns) if any(_cells(row)[i] for row in chosen)]
    return markdown_table([columns[i] for i in kept], [[_cells(row)[i] for i in kept] for row in chosen])


def _cells(row: Row) -> list[str]:
    published = row["family"] == "published"
    figures = [f"{float(row[name]):.2f}" for name in ("ann", "snn")]
    return [
        row["task"] + (", published family" if published else ""),
        row["time_steps"],
        "" if published else row["identity_bases"],
        f"{int(row['items']):,}",
        *figures,
        f"{float(row['loss']):.3f}",
        *(row[name] for name in ("changed", "lost", "gained")),
        f"{float(row['same_percent']):.2f}",
        row["nearest_changed"],
        f"{float(row['minimum_cosine']):.6f}",
        f"{float(row['max_error']):.4f}",
        *(f"{float(row[name]):,.0f}" for name in ("spikes", "side_events")),
        f"{float(row['firing_rate']):.1%}",
    ]


def cost_table(rows: Sequence[Row]) -> str:
    """Every row: what a conversion and a forward take."""
    head = (
        "network, task; T; N; forward of; ANN, s; SNN / ANN; calibration, s; in forwards; conversion, s; in forwards; "
        "allowed, s; sites; ANN, alive, MiB; converting, alive; ratio; ANN; converting; SNN's forward; threads"
    )
    lines = [
        [
            f"{row['network']}, {row['task']}",
            row["time_steps"],
            row["identity_bases"],
            row["forward"],
            *(f"{float(row[name]):.2f}" for name in ("ann_seconds", "time_ratio", "calibration_seconds")),
            *(f"{float(row[name]):.1f}" for name in ("calibration_forwards", "conversion_seconds")),
            *(f"{float(row[name]):.1f}" for name in ("conversion_forwards", "conversion_allowed")),
            row["sites"],
            *(f"{float(row[f'{name}_alive_mebibytes']):,.0f}" for name in ("ann", "converting")),
            f"{float(row['converting_alive_mebibytes']) / float(row['ann_alive_mebibytes']):.2f}",
            *(f"{float(row[f'{name}_mebibytes']):,.0f}" for name in ("ann", "converting", "snn")),
            row["threads"],
        ]
        for row in rows
    ]
    return markdown_table(head.split("; "), lines)
