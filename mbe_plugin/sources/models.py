"""open_model(): a pretrained model with what prepares its inputs, by the name or folder that its library knows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from mbe_plugin.errors import StorageError

CONFIG = "config.json"


class Source(Protocol):
    """A pretrained model in eval mode, and what its library knows of its inputs; ``name`` is what it was asked for by."""

    name: str
    model: nn.Module

    def tokenizer(self) -> Any:
        """The model's tokenizer; CalibrationError for a model without."""

    def pixels(self, images: list[Any]) -> Tensor | dict[str, Tensor]:
        """PIL images -> one batch, as the model was trained on them; CalibrationError for a model without images."""

    def write(self, folder: Path) -> None:
        """Write the model to a folder that open_model and mbe_plugin.load read."""


def open_model(name: str | Path) -> Source:
    """A pretrained model of transformers or timm.

    name: a folder that ``save_pretrained`` of transformers or ``timm.models.save_for_hf`` wrote, a name of timm
    ("vit_tiny_patch16_224") or one of the Hugging Face hub ("bert-base-uncased"). What is not on this machine the library
    downloads, unless HF_HUB_OFFLINE=1 is set. Code that comes with a model is never run.
    Raises StorageError, in one sentence, for what cannot be read.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise StorageError(
                f"{folder} holds no model: there is no {CONFIG}, which save_pretrained of transformers or "
                "timm.models.save_for_hf writes"
            )
        return _of_timm(str(name)) if is_of_timm(folder) else _of_transformers(str(name))
    if importlib.util.find_spec("timm") is not None:
        import timm

        if timm.is_model(str(name)):
            return _of_timm(str(name))
    return _of_transformers(str(name))


def is_of_timm(folder: Path) -> bool:
    """Whether timm wrote the folder's config.json; transformers calls its models otherwise."""
    return "architecture" in read_config(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as broken:
        raise StorageError(f"{folder / CONFIG} is not valid JSON: {broken}") from broken
    if not isinstance(config, dict):
        raise StorageError(
            f"{folder / CONFIG} is no model's configuration: it holds a {type(config).__name__}"
        )
    return config


def _of_timm(name: str) -> Source:
    _needs("timm", name)
    from mbe_plugin.sources.of_timm import TimmSource

    return TimmSource(name)


def _of_transformers(name: str) -> Source:
    _needs("transformers", name)
    from mbe_plugin.sources.of_transformers import TransformersSource

    return TransformersSource(name)


def _needs(library: str, name: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise StorageError(f"reading {name!r} needs {library}: pip install 'mbe_plugin[{library}]'")
