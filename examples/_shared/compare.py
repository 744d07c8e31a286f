"""Sentences as batches, and two networks side by side on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.sources import Batch


def equal_length_batches(tokenizer: Any, sentences: Iterable[str], size: int = 16) -> list[Batch]:
    """Batches of sentences with the same number of tokens, so that every token is a real one."""
    groups: dict[int, list[str]] = defaultdict(list)
    for sentence in sentences:
        groups[len(tokenizer(sentence, truncation=True)["input_ids"])].append(sentence)
    return [
        dict(tokenizer(group[i : i + size], padding=True, truncation=True, return_tensors="pt"))
        for _, group in sorted(groups.items())
        for i in range(0, len(group), size)
    ]


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
