"""Labelled sentences from files, and MiniLM with a linear head as one network."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

Sentence = tuple[str, str]  # label, text
HEAD_STRENGTH = 10.0  # of a logistic regression on embeddings of length 1


@dataclass(frozen=True)
class Split:
    """Sentences to fit and calibrate with, and others, none of them the same text, to evaluate on."""

    train: list[Sentence]
    test: list[Sentence]
    labels: list[str]  # sorted; a label's place is its class


def read_labelled(path: Path) -> list[Sentence]:
    """Lines `label text`; empty ones are skipped. Only a newline ends a line: MR has other separators inside."""
    text = path.read_text(encoding="utf-8")
    lines = [line.split(maxsplit=1) for line in text.split("\n") if line.strip()]
    wrong = next((line for line in lines if len(line) != 2), None)
    if wrong:
        raise SystemExit(f"{path}: every line must be `label text`, found {' '.join(wrong)!r}")
    return [(label, text.strip()) for label, text in lines]


def split(train: Path, test: Path | None, seed: int) -> Split:
    """Both files shuffled; without a test file the last 20 % of the shuffled train file are held out."""
    sentences = read_labelled(train)
    random.Random(seed).shuffle(sentences)
    if test:
        held_out = read_labelled(test)
        random.Random(seed).shuffle(held_out)
    else:
        cut = len(sentences) - len(sentences) // 5
        sentences, held_out = sentences[:cut], sentences[cut:]
    texts = {text for _, text in held_out}
    kept = [s for s in sentences if s[1] not in texts]
    return Split(kept, held_out, sorted({label for label, _ in kept + held_out}))


class MiniLMClassifier(nn.Module):
    """Embedding e = normalised mean of the last hidden states over real tokens; logits = W e + b."""

    def __init__(self, bert: nn.Module, classes: int) -> None:
        super().__init__()
        self.bert = bert
        self.head = nn.Linear(bert.config.hidden_size, classes)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Token numbers and mask [B, L] -> logits [B, classes], embeddings [B, C]."""
        hidden = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        embedding = functional.normalize(mean, dim=-1)
        return self.head(embedding), embedding


def batches_by_length(
    tokenizer: Any, texts: Sequence[str], size: int, device: str
) -> tuple[list[dict[str, Tensor]], list[int]]:
    """Padded batches of neighbours in length, and the places in texts that their sentences come from."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    batches = []
    for start in range(0, len(order), size):
        chosen = [texts[i] for i in order[start : start + size]]
        tokens = tokenizer(chosen, padding=True, truncation=True, return_tensors="pt")
        batches.append({name: tensor.to(device) for name, tensor in tokens.items()})
    return batches, order
