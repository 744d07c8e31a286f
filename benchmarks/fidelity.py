"""How close the spiking MiniLM stays to the ANN, and for how many spikes.

    python -m benchmarks.fidelity [--time-steps 16 8 6 4] [--sentences FILE --calibration FILE --label-column]

Every axis (--scale, --bases, ...) takes several values; their product is measured, or with --one-at-a-time
each value alone against the default configuration. Writes results/fidelity.md, .csv and .png beside this
file (--out: another name). Sentences of equal length go together, so no padding is computed or counted.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

import mbe_plugin
from benchmarks._common import RESULTS, interleaved_medians, markdown_table, provenance, write_csv
from benchmarks.fidelity_figure import trade_off
from benchmarks.fidelity_row import Row
from examples._shared.compare import compare, equal_length_batches
from examples._shared.networks import load_minilm
from examples.sentences import calibration_sentences, evaluation_sentences
from mbe_plugin import MBEConfig
from mbe_plugin.sources import Batch, padded_batches, read_sentences

COUNT_EVERY = 4  # spikes are counted on every fourth batch: counting costs as much as running
AXES = ("family", "code", "scale", "dead_zone", "bases", "identity_bases", "merge", "linear_inputs", "margin")

# wanted of the default configuration: T -> minimum cosine, maximum error, spikes per token
TARGETS: dict[int, tuple[float, float, float | None]] = {
    16: (0.99999, 0.008, 220e3),
    8: (0.99998, 0.02, 115e3),
    6: (0.9998, 0.1, None),
    4: (0.9985, 0.2, 75e3),
}


def main() -> None:
    options = parse()
    tokenizer, ann = load_minilm()
    calibration = sentences_of(options.calibration, options.label_column, calibration_sentences)[:64]
    evaluation = sentences_of(options.sentences, options.label_column, evaluation_sentences)
    evaluation = evaluation[: options.count]
    overlap = set(calibration) & set(evaluation)
    if overlap:
        raise SystemExit(f"{len(overlap)} sentences are in both lists, for instance: {min(overlap)}")
    recorded = mbe_plugin.calibrate(ann, padded_batches(tokenizer, calibration))
    batches = equal_length_batches(tokenizer, evaluation)
    tokens = sum(b["input_ids"].numel() for b in batches)

    rows = [
        measure(ann, recorded, c, batches) for c in tqdm(list(configurations(options)), desc="configurations")
    ]
    data = (
        f"{len(evaluation)} sentences of {tokens / len(evaluation):.1f} tokens on average, none of the "
        f"{len(calibration)} used for calibration"
    )
    text = markdown(rows, data)
    print(text)
    write_csv(options.out.with_suffix(".csv"), Row, rows)
    options.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    trade_off(rows, options.out.with_suffix(".png"))


def measure(ann: Any, recorded: mbe_plugin.Calibration, config: MBEConfig, batches: list[Batch]) -> Row:
    """Convert, compare on every batch, count spikes on some, time one of middle length."""
    started = time.perf_counter()
    snn = mbe_plugin.convert(ann, recorded, config)
    seconds = time.perf_counter() - started
    closeness = compare(ann, snn, batches)
    neurons = [n for site in mbe_plugin.report(snn).sites for n in site.neurons]
    with mbe_plugin.count_spikes(snn) as spikes:
        counted = compare(ann, snn, batches[::COUNT_EVERY])
    middle = batches[len(batches) // 2]
    medians = interleaved_medians({"ann": lambda: ann(**middle), "snn": lambda: snn(**middle)})
    return Row(
        configuration=name_of(config),
        time_steps=config.time_steps,
        minimum_cosine=closeness.cosines.min().item(),
        mean_cosine=closeness.cosines.mean().item(),
        max_error=closeness.max_error,
        spikes=spikes.total / counted.tokens,
        exponents=spikes.exponents / counted.tokens,
        firing_rate=spikes.firing_rate,
        outside=sum(n.outside * n.seen for n in neurons) / sum(n.seen for n in neurons),
        conversion_seconds=seconds,
        time_ratio=medians["snn"] / medians["ann"],
        **{axis: getattr(config, axis) for axis in AXES},
    )


def configurations(options: argparse.Namespace) -> Iterator[MBEConfig]:
    """The configurations that the options ask for, T varying fastest."""
    if options.one_at_a_time:
        default = MBEConfig()
        chosen = [{axis: v} for axis in AXES for v in getattr(options, axis) if v != getattr(default, axis)]
        settings = [{}, *chosen]
    else:
        product = itertools.product(*(getattr(options, axis) for axis in AXES))
        settings = [dict(zip(AXES, values, strict=True)) for values in product]
    for changes in settings:
        for time_steps in options.time_steps:
            if changes.get("family") == "published":
                published = {
                    k: v for k, v in changes.items() if k not in ("family", "bases", "scale", "merge")
                }
                yield MBEConfig.published(time_steps=time_steps, **published)
            else:
                yield MBEConfig(time_steps=time_steps, **changes)


def name_of(config: MBEConfig) -> str:
    """What differs from the default configuration, T apart."""
    default = MBEConfig()
    changes = [f"{f}={getattr(config, f)}" for f in AXES if getattr(config, f) != getattr(default, f)]
    return ", ".join(changes) or f"default (bases={default.bases}, identity_bases={default.identity_bases})"


def markdown(rows: list[Row], data: str) -> str:
    """The targets that apply, then every row."""
    header = [
        "configuration",
        "T",
        "minimum cosine",
        "mean cosine",
        "max error",
        "spikes / token",
        "exponents / token",
        "firing rate",
        "values outside ranges",
        "conversion, s",
        "time / ANN",
    ]
    cells = [
        (
            row.configuration,
            row.time_steps,
            f"{row.minimum_cosine:.7f}",
            f"{row.mean_cosine:.7f}",
            f"{row.max_error:.4f}",
            f"{row.spikes:,.0f}",
            f"{row.exponents:,.0f}",
            f"{row.firing_rate:.1%}",
            f"{row.outside:.1e}" if row.outside else "0",
            f"{row.conversion_seconds:.1f}",
            f"{row.time_ratio:.2f}",
        )
        for row in rows
    ]
    notes = [
        "# MiniLM as a spiking network\n",
        f"{provenance()}; {data}. Cosine between the ANN's and the SNN's sentence embeddings; max error of "
        "the last hidden state (its standard deviation is 0.44) over all tokens; spikes of every encoder and "
        f"neuron, without padding, on every {COUNT_EVERY}th batch; times are medians of interleaved "
        "forwards.\n",
    ]
    return "\n".join([*notes, *targets(rows), markdown_table(header, cells)])


def targets(rows: list[Row]) -> list[str]:
    """The table of targets, for the rows of the default configuration."""
    lines = []
    for row in rows:
        if row.configuration != name_of(MBEConfig()) or row.time_steps not in TARGETS:
            continue
        cosine, error, spikes = TARGETS[row.time_steps]
        lines.append(
            (
                row.time_steps,
                "minimum cosine",
                cosine,
                f"{row.minimum_cosine:.7f}",
                row.minimum_cosine >= cosine,
            )
        )
        lines.append((row.time_steps, "max error", error, f"{row.max_error:.4f}", row.max_error <= error))
        if spikes is not None:
            lines.append(
                (
                    row.time_steps,
                    "spikes / token",
                    f"{spikes:,.0f}",
                    f"{row.spikes:,.0f}",
                    row.spikes <= spikes,
                )
            )
    if not lines:
        return []
    cells = [(*line[:-1], "met" if line[-1] else "**not met**") for line in lines]
    return [markdown_table(["T", "figure", "target", "measured", ""], cells), ""]


def sentences_of(path: Path | None, label_column: bool, bundled: Any) -> list[str]:
    """The file's sentences without repetitions, their first word left out if it is a label, or the bundled ones."""
    if path is None:
        return bundled()
    lines = read_sentences(path)
    return list(
        dict.fromkeys(line.split(maxsplit=1)[-1] for line in lines) if label_column else dict.fromkeys(lines)
    )


def parse() -> argparse.Namespace:
    default = {f.name: getattr(MBEConfig(), f.name) for f in fields(MBEConfig)}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--time-steps", type=int, nargs="+", default=[16, 8, 6, 4])
    add("--family", nargs="+", default=[default["family"]])
    add("--code", nargs="+", default=[default["code"]], help="binary, first_spike")
    add("--scale", nargs="+", default=[default["scale"]], help="auto, element, token, channel, tensor")
    add("--dead-zone", type=float, nargs="+", default=[default["dead_zone"]])
    add("--bases", type=int, nargs="+", default=[default["bases"]])
    add("--identity-bases", type=int, nargs="+", default=[default["identity_bases"]])
    add("--merge", nargs="+", type=_truth, default=[default["merge"]], metavar="yes|no")
    add("--linear-inputs", nargs="+", default=[default["linear_inputs"]], help="spiking, analogue")
    add("--margin", type=float, nargs="+", default=[default["margin"]])
    add("--one-at-a-time", action="store_true", help="vary one axis at a time, not their product")
    add("--sentences", type=Path, help="evaluation sentences, one per line (default: bundled)")
    add("--calibration", type=Path, help="calibration sentences; the first 64 are used (default: bundled)")
    add("--label-column", action="store_true", help="lines of both files begin with a label")
    add("--count", type=int, default=256, help="how many evaluation sentences at most")
    add("--out", type=Path, default=RESULTS / "fidelity", help="results' path without suffix")
    return parser.parse_args()


def _truth(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"yes or no, got {text!r}")
    return text == "yes"


if __name__ == "__main__":
    main()
