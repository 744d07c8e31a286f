"""Sentences as batches, and two networks side by side on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


def read_sentences(path: Path, label_column: bool = False) -> list[str]:
    """One sentence per line; with label_column the first word of each line is a label and is dropped."""
    # not splitlines, which also breaks at the C1 controls that MR and Subj have inside sentences
    lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [line.split(maxsplit=1)[-1] for line in lines] if label_column else lines


def padded_batches(tokenizer: Any, sentences: Iterable[str], size: int = 8) -> list[Batch]:
    """Batches of neighbours in length, shortest first, padded, with an attention mask."""
    ordered = sorted(sentences, key=lambda s: len(tokenizer(s)["input_ids"]))
    return [_tokenized(tokenizer, ordered[i : i + size]) for i in range(0, len(ordered), size)]


def equal_length_batches(tokenizer: Any, sentences: Iterable[str], size: int = 16) -> list[Batch]:
    """Batches of sentences with the same number of tokens, so that every token is a real one."""
    groups: dict[int, list[str]] = defaultdict(list)
    for sentence in sentences:
        groups[len(tokenizer(sentence, truncation=True)["input_ids"])].append(sentence)
    return [
        _tokenized(tokenizer, group[i : i + size])
        for _, group in sorted(groups.items())
        for i in range(0, len(group), size)
    ]


def _tokenized(tokenizer: Any, sentences: list[str]) -> Batch:
    return dict(tokenizer(sentences, padding=True, truncation=True, return_tensors="pt"))


@dataclass(frozen=True)
class Closeness:
    """Two networks on the same sentences: cosines [n] of the embeddings, largest difference of a token."""

    cosines: Tensor
    max_error: float
    tokens: int


def compare(
    ann: nn.Module, snn: nn.Module, batches: Iterable[Batch], progress: Callable[[], object] = lambda: None
) -> Closeness:
    """Run both on every batch; progress is called after each."""
    cosines, largest, tokens = [], 0.0, 0
    with torch.no_grad():
        for batch in batches:
            mask = batch["attention_mask"]
            exact, spiking = (m(**batch).last_hidden_state.double() for m in (ann, snn))
            largest = max(largest, (exact - spiking)[mask.bool()].abs().max().item())
            cosines.append(torch.cosine_similarity(_embedding(exact, mask), _embedding(spiking, mask)))
            tokens += int(mask.sum())
            progress()
    return Closeness(torch.cat(cosines), largest, tokens)


def _embedding(hidden: Tensor, mask: Tensor) -> Tensor:
    """MiniLM's sentence embedding: the mean over real tokens; hidden [B, L, C] -> [B, C]."""
    return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
