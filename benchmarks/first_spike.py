"""The first-spike code and dead zones on MiniLM: how close, and how many events meet the weights.

    OMP_NUM_THREADS=1 python -m benchmarks.first_spike [--count 48]

Twice: with only the inputs of linear layers encoded and all else exact, and with every operator spiking (functions in
binary digits at T = 16, every encoded activation in the code of the row, a dead zone at the inputs of layers). Writes
results/first_spike.md and .csv.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from tqdm import tqdm

import mbe_plugin
from benchmarks._common import RESULTS, markdown_table, provenance, write_csv
from examples._shared.compare import Closeness, compare, equal_length_batches
from examples._shared.networks import load_minilm
from examples.sentences import calibration_sentences, evaluation_sentences
from mbe_plugin import Calibration, MBEConfig
from mbe_plugin.sources import Batch, padded_batches

SHARE = 0.9 / 4.6  # of an accumulate in a multiply-accumulate, float32 (45 nm)
ENERGY = (
    "Energy: linear layers only, every event an accumulate (0.9 pJ), against a float32 multiply-accumulate (4.6 pJ); "
    "nothing else is billed."
)
CALIBRATION = 32
IDENTITIES = ("encoders.*", "deviation", "query", "key", "value", "mixed")
# code, scale, T, N, dead zone
SETTINGS = (
    *(("first_spike", "tensor", t, n, 0.0) for t, n in ((16, 32), (16, 16), (12, 16), (10, 16))),
    ("first_spike", "channel", 16, 32, 0.0),
    *(("first_spike", "tensor", 16, 32, tau) for tau in (0.05, 0.1, 0.2)),
    *(("binary", "element", 4, 8, tau) for tau in (0.0, 0.1)),
)


@dataclass(frozen=True)
class Row:
    """One setting: closeness of both networks; events of the linear layers' inputs, where only these are encoded."""

    code: str
    scale: str
    time_steps: int
    identity_bases: int
    dead_zone: float
    linear_cosine: float
    linear_error: float
    events_per_element: float
    events_per_weight: float
    all_cosine: float
    all_error: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=48, help="evaluation sentences")
    count = parser.parse_args().count
    warnings.simplefilter("ignore", mbe_plugin.RangeWarning)
    tokenizer, ann = load_minilm()
    recorded = mbe_plugin.calibrate(ann, padded_batches(tokenizer, calibration_sentences()[:CALIBRATION]))
    batches = equal_length_batches(tokenizer, evaluation_sentences()[:count])
    rows = [measure(ann, recorded, batches, *setting) for setting in tqdm(SETTINGS)]
    text = "\n".join(
        [
            "# The first-spike code and dead zones",
            "",
            table(rows),
            "",
            ENERGY,
            "",
            f"{count} sentences, {CALIBRATION} others for calibration. {provenance()}",
        ]
    )
    print(text)
    write_csv(RESULTS / "first_spike.csv", Row, rows)
    (RESULTS / "first_spike.md").write_text(text + "\n", encoding="utf-8")


def measure(
    ann: nn.Module,
    recorded: Calibration,
    batches: list[Batch],
    code: Any,
    scale: Any,
    time_steps: int,
    bases: int,
    tau: float,
) -> Row:
    """Both networks of one setting."""
    sent = {"code": code, "scale": scale, "identity_bases": bases, "time_steps": time_steps}
    common = {"merge": False, "margin": 0.0}
    roles = (*((f"*|{role}", sent) for role in IDENTITIES), ("*:linear", {"dead_zone": tau}))
    only_linear = MBEConfig(**sent, **common, dead_zone=tau, include=("*:linear",))
    linear = mbe_plugin.convert(ann, recorded, only_linear)
    with mbe_plugin.record(linear) as found:
        close = compare(ann, linear, batches)
    everything = compare(ann, mbe_plugin.convert(ann, recorded, MBEConfig(**common, sites=roles)), batches)
    events = sum(n.events for n in found.neurons.values()) / sum(n.elements for n in found.neurons.values())
    return Row(
        code,
        scale,
        time_steps,
        bases,
        tau,
        *figures(close),
        events,
        per_weight(linear, found),
        *figures(everything),
    )


def figures(close: Closeness) -> tuple[float, float]:
    return close.cosines.min().item(), close.max_error


def per_weight(snn: nn.Module, found: mbe_plugin.Recording) -> float:
    """Events that arrive at weights, per multiply-accumulate of the linear layers: each meets a row of them."""
    events = products = 0
    for site in mbe_plugin.report(snn).sites:
        outputs = snn.get_submodule(site.site.rpartition(":")[0]).weight.shape[0]
        for neuron in site.neurons:
            sent = found.neurons[neuron.site, neuron.role]
            events, products = events + sent.events * outputs, products + sent.elements * outputs
    return events / products


def table(rows: list[Row]) -> str:
    """Markdown; the energy is that of the linear layers' products, every event an accumulate."""
    header = ["code", "scale", "T", "N", "tau", "linear inputs only: minimum cosine / maximum error"]
    header += [
        "events per element",
        "energy of the linear products",
        "everything: minimum cosine / maximum error",
    ]
    cells = []
    for row in rows:
        r: dict[str, Any] = asdict(row)
        cells.append(
            (
                row.code.replace("_", " "),
                *(r[name] for name in ("scale", "time_steps", "identity_bases", "dead_zone")),
                f"{row.linear_cosine:.5f} / {row.linear_error:.2f}",
                f"{row.events_per_element:.3f}",
                f"{row.events_per_weight * SHARE:.1%}",
                f"{row.all_cosine:.5f} / {row.all_error:.2f}",
            )
        )
    return markdown_table(header, cells)


if __name__ == "__main__":
    main()
