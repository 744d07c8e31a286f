"""MiniLM with a linear head on labelled sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.real.workload import Part, Row, Tensors, Workload
from examples._shared.compare import equal_length_batches
from examples._shared.heads import fit_head
from examples._shared.networks import load_minilm
from examples._shared.sentences import HEAD_STRENGTH, MiniLMClassifier, batches_by_length, split
from examples._shared.sweep import accuracy_figures, evaluate

NETWORK = "MiniLM"
FILES = {
    "SST-2": ("sst2/train.txt", "sst2/test.txt"),
    "SST-5": ("sst5/train.txt", "sst5/test.txt"),
    "MR": ("mr/all.txt", None),
    "Subj": ("subj/all.txt", None),
}
TRAINING, CALIBRATION, BATCH, COUNTED, TUNING = 2000, 32, 32, 64, 128


def sentences(data: Path, task: str, limit: int, fitted: bool = True) -> list[Workload]:
    """The head is fitted on 2,000 training sentences, 32 of which calibrate; at most limit held-out ones are judged.

    fitted=False: a head at random.
    """
    train, test = FILES[task]
    found = split(data / train, data / test if test else None, seed=0)
    tokenizer, bert = load_minilm()
    ann = MiniLMClassifier(bert, len(found.labels)).eval()
    classes = {label: i for i, label in enumerate(found.labels)}

    def batches(chosen: list[tuple[str, str]], size: int) -> tuple[list[dict[str, Tensor]], Tensor]:
        made, order = batches_by_length(tokenizer, [text for _, text in chosen], size, "cpu")
        return made, torch.tensor([classes[chosen[i][0]] for i in order])

    if fitted:
        known, wanted = batches(found.train[:TRAINING], BATCH)
        fit_head(ann.head, evaluate(ann, known, outputs)[0], wanted, HEAD_STRENGTH)
    held_out, labels = batches(found.test[:limit], BATCH)

    def figures(exact: Tensors, spiking: Tensors) -> Row:
        return accuracy_figures(exact[1], spiking[1], labels[: len(exact[1])])

    unpadded = equal_length_batches(tokenizer, [text for _, text in found.test[:COUNTED]], BATCH)
    counted = [(batch, batch["input_ids"].numel()) for batch in unpadded]
    parts = [Part(batches(found.train[:CALIBRATION], 8)[0], held_out)]
    tuning = batches(found.train[:TUNING], 8)[0]
    return [Workload(NETWORK, task, "accuracy", ann, parts, outputs, figures, counted, few=2, tuning=tuning)]


def outputs(network: nn.Module, batch: dict[str, Any]) -> Tensors:
    """Embeddings and logits."""
    logits, embedding = network(**batch)
    return embedding, logits
