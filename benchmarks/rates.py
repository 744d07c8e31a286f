"""Firing rates per operator, by three denominators, beside those that the MBE paper gives for its ViT-M/16.

    OMP_NUM_THREADS=1 python -m benchmarks.rates --data ../shared/data

MiniLM at T = 16 on one batch of SST-2 without padding, default configuration and published family (fitted on 32 other
sentences). Writes results/rates.md.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

import mbe_plugin
from benchmarks._common import DATA, RESULTS, markdown_table, provenance
from benchmarks.real import sentences
from mbe_plugin import MBEConfig, RangeWarning
from mbe_plugin.recording import NeuronEvents, Recording

# what a neuron does, as it is found by its role or site -> the paper's rate in percent, where it names the like
OPERATORS: dict[str, tuple[str, float | None]] = {
    "2^x": ("softmax.exp2", 47),
    "GELU": (":gelu", 38),
    "LayerNorm input": ("deviation", 28),
    "1/sqrt": ("rsqrt", 25),
    "attention score": ("query", 8),
    "1/x": ("softmax.reciprocal", 4),
    "input of a linear layer": ("encoders.", None),
}
CONFIGS = {"default": MBEConfig(), "published": MBEConfig.published(time_steps=16)}
DENOMINATORS = {
    "firing_rate": "T x bases that an element can drive",
    "rate_per_step": "T",
    "rate_per_slot": "T x all bases",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="default: ../shared/data")
    warnings.simplefilter("ignore", RangeWarning)
    [workload] = sentences.sentences(parser.parse_args().data, "SST-2", 64, fitted=False)
    recorded = mbe_plugin.calibrate(workload.ann, workload.parts[0].calibration)
    found = {}
    for name, config in CONFIGS.items():
        snn = mbe_plugin.convert(workload.ann, recorded, config)
        with torch.no_grad(), mbe_plugin.record(snn) as recording:
            snn(**workload.counted[0][0])
        found[name] = recording
    text = table(found)
    (RESULTS / "rates.md").write_text(text, encoding="utf-8")
    print(text)


def table(found: Mapping[str, Recording]) -> str:
    """A row per operator, a column per configuration and denominator."""
    header = ["operator", "MBE paper, ViT-M/16", *(f"{name}, {r}" for name in found for r in DENOMINATORS)]
    rows = []
    for operator, (pattern, paper) in OPERATORS.items():
        parts = [_part(recording, pattern) for recording in found.values()]
        rates = [f"{getattr(part, r):.1%}" if part.neurons else "" for part in parts for r in DENOMINATORS]
        rows.append([operator, "" if paper is None else f"{paper} %", *rates])
    meaning = "; ".join(f"`{name}`: spikes / (elements x {what})" for name, what in DENOMINATORS.items())
    return f"""# Firing rates per operator

MiniLM, T = 16. {meaning}. The paper does not say which it takes. Of attention scores the query's train stands here. No
exponent and no constant is counted.

{markdown_table(header, rows)}

{provenance()}
"""


def _part(recording: Recording, pattern: str) -> Recording:
    neurons: dict[tuple[str, str], NeuronEvents] = {
        key: sent for key, sent in recording.neurons.items() if pattern in f"{key[0]}|{key[1]}"
    }
    return Recording(neurons)


if __name__ == "__main__":
    main()
