"""MiniLM run event by event: additions that were done against those that are billed, and what the order of sums changes.

    OMP_NUM_THREADS=1 python -m benchmarks.by_events

One sentence of eight tokens, T = 4, default configuration, in float32 and in float64. Writes results/by_events.md.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

import mbe_plugin
from benchmarks._common import RESULTS, markdown_table, provenance
from examples._shared.networks import load_minilm
from examples.sentences import calibration_sentences
from mbe_plugin import MBEConfig
from mbe_plugin.sources import padded_batches

SENTENCE = "the dog sleeps by the fire"


def main() -> None:
    tokenizer, ann = load_minilm()
    calibration = padded_batches(tokenizer, calibration_sentences(16), size=2)
    batch = dict(tokenizer([SENTENCE], return_tensors="pt"))
    rows = [measured(ann.to(dtype), calibration, batch) for dtype in (torch.float32, torch.float64)]
    header = [
        "dtype",
        "tokens",
        "additions done",
        "billed",
        "functions of sites, equal",
        "largest difference",
    ]
    header += ["smallest cosine of a token", "by events, s", "closed form, s"]
    text = f"""# Event by event

MiniLM, T = 4: `simulate="events"` against the closed form, and its additions against what `energy()` bills. In float32 a
sum's last bit can carry a neuron's input over a step's edge, and flips the last of T digits.

{markdown_table(header, rows)}

{provenance()}
"""
    (RESULTS / "by_events.md").write_text(text, encoding="utf-8")
    print(text)


def measured(ann: nn.Module, calibration: list[Any], batch: dict[str, Tensor]) -> list[object]:
    """A row of the table."""
    recorded = mbe_plugin.calibrate(ann, calibration)
    closed = mbe_plugin.convert(ann, recorded, MBEConfig(time_steps=4))
    events = mbe_plugin.convert(ann, recorded, MBEConfig(time_steps=4, simulate="events"))
    seconds, values = [], []
    with torch.no_grad():
        for network in (events, closed):
            started = time.perf_counter()
            values.append(network(**batch).last_hidden_state)
            seconds.append(f"{time.perf_counter() - started:.2f}")
        with mbe_plugin.record(events, deliveries=True) as found:
            events(**batch)
    deliveries = (found.deliveries or {}).values()
    equal = sum(d.additions == d.total for d in deliveries)
    difference = (values[0] - values[1]).abs().max().item()
    cosine = torch.cosine_similarity(*values, dim=-1).min().item()
    done = sum(d.additions or 0 for d in deliveries)
    dtype = str(values[0].dtype).removeprefix("torch.")
    tokens = batch["input_ids"].numel()
    counts = [f"{done:,}", f"{found.synaptic_operations:,}", f"{equal} of {len(deliveries)}"]
    return [dtype, tokens, *counts, f"{difference:.1e}", f"{cosine:.7f}", *seconds]


if __name__ == "__main__":
    main()
