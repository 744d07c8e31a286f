"""Calibration batches from a file of sentences, a folder of images, or arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mbe_plugin.errors import CalibrationError
from mbe_plugin.sources.models import Source

Batch = dict[str, Tensor]
ITEMS, SIZE, TOKENS = 32, 4, 256  # items in all, of one batch, and tokens of a sentence
ARRAYS = (".npy", ".npz", ".safetensors")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
Item = TypeVar("Item")


def read_batches(source: Source, path: str | Path, items: int = ITEMS, size: int = SIZE) -> list[Any]:
    """Batches of ``size`` that mbe_plugin.convert takes for source.model: ``items`` of the file, evenly spread over it.

    path: a .txt file with a sentence a line, through the model's tokenizer (at most 256 tokens of each); a folder of
    images, searched through, as the model was trained on them; or prepared inputs, items along the first
    dimension: a .npy file (the only argument), or a .npz or .safetensors file (keyword arguments, by their names).
    Raises CalibrationError, in one sentence, for anything else and for what holds nothing.
    """
    path = Path(path)
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in IMAGES]
        chosen = spread(files, items, f"{path} holds no image ({', '.join(IMAGES)})")
        return [source.pixels([_image(f) for f in part]) for part in _parts(chosen, size)]
    if not path.is_file():
        raise CalibrationError(f"there is no calibration file {path}")
    if path.suffix == ".txt":
        sentences = spread(read_sentences(path), items, f"{path} holds no sentence; write one a line")
        return padded_batches(source.tokenizer(), sentences, size, _most_tokens(source))
    if path.suffix in ARRAYS:
        return _array_batches(path, items, size)
    raise CalibrationError(
        f"{path} is no calibration data; take a .txt file of sentences, a folder of images, or arrays ({', '.join(ARRAYS)})"
    )


def spread(all_of: Sequence[Item], items: int, nothing: str) -> list[Item]:
    """At most ``items``, evenly spread over all, in their order; CalibrationError(nothing) for none."""
    if not all_of:
        raise CalibrationError(nothing)
    count = min(items, len(all_of))
    return [all_of[i * len(all_of) // count] for i in range(count)]


def read_sentences(path: Path) -> list[str]:
    """One sentence per line; empty lines are skipped."""
    # not splitlines, which also breaks at the C1 controls that MR and Subj have inside sentences
    return [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def padded_batches(
    tokenizer: Any, sentences: Iterable[str], size: int = 8, tokens: int | None = None
) -> list[Batch]:
    """Batches of neighbours in length, shortest first, padded, with an attention mask; one sentence each without padding.

    tokens: at most so many of a sentence, the tokenizer's own limit by default.
    """
    size = size if tokenizer.pad_token is not None else 1
    ordered = sorted(
        sentences, key=lambda s: len(tokenizer(s, truncation=True, max_length=tokens)["input_ids"])
    )
    return [_tokenized(tokenizer, part, tokens) for part in _parts(ordered, size)]


def _tokenized(tokenizer: Any, sentences: list[str], tokens: int | None = None) -> Batch:
    return dict(
        tokenizer(
            sentences, padding=len(sentences) > 1, truncation=True, max_length=tokens, return_tensors="pt"
        )
    )


def _most_tokens(source: Source) -> int:
    own = getattr(getattr(source.model, "config", None), "max_position_embeddings", None)
    return min(TOKENS, own or TOKENS)


def _parts(items: list[Item], size: int) -> Iterable[list[Item]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _image(path: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path).convert("RGB")
    except OSError as broken:
        raise CalibrationError(f"{path} is no image that Pillow reads: {broken}") from broken


def _array_batches(path: Path, items: int, size: int) -> list[Any]:
    arrays = _arrays(path)
    counts = {name: len(a) if a.dim() else 0 for name, a in arrays.items()}
    if len(set(counts.values())) != 1:
        raise CalibrationError(
            f"{path}: every array must hold as many items along its first dimension, found {counts}"
        )
    places = torch.tensor(spread(range(counts.popitem()[1]), items, f"{path} holds no item"))
    batches = [{name: a[part] for name, a in arrays.items()} for part in places.split(size)]
    return [batch[""] for batch in batches] if "" in arrays else batches


def _arrays(path: Path) -> dict[str, Tensor]:
    """By keyword; '' is the only argument."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = np.load(path, allow_pickle=False)
        return (
            {"": torch.from_numpy(found)}
            if path.suffix == ".npy"
            else {k: torch.from_numpy(v) for k, v in found.items()}
        )
    except (OSError, TypeError, ValueError, SafetensorError) as broken:
        raise CalibrationError(f"{path} cannot be read as arrays: {broken}") from broken
