"""Pretrained models by name or folder, and calibration batches from files: what ``python -m mbe_plugin convert`` reads."""

from mbe_plugin.sources.batches import Batch, padded_batches, read_batches, read_sentences
from mbe_plugin.sources.models import Source, open_model

__all__ = [
    "Batch",
    "Source",
    "open_model",
    "padded_batches",
    "read_batches",
    "read_sentences",
]
