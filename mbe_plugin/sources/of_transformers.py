"""Models of transformers, by name or folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import transformers
from torch import Tensor

from mbe_plugin.errors import CalibrationError, MBEError, StorageError


class TransformersSource:
    """See Source. The class is the one that the configuration names first, else AutoModel's choice."""

    def __init__(self, name: str) -> None:
        self.name = name
        config = _read(transformers.AutoConfig, name, StorageError)
        named = [
            getattr(transformers, cls) for cls in config.architectures or () if hasattr(transformers, cls)
        ]
        made_by = (*named, transformers.AutoModel)[0]
        self.model = _read(made_by, name, StorageError).eval()

    def tokenizer(self) -> Any:
        """AutoTokenizer's choice, which makes one that knows no word where there is none: refused, too."""
        made = _read(transformers.AutoTokenizer, self.name, CalibrationError)
        if set(made.get_vocab()) <= set(made.all_special_tokens):
            raise CalibrationError(
                f"{self.name} has no tokenizer; put its files beside the model, or calibrate on "
                "arrays of tokens (.npz, .safetensors)"
            )
        return made

    def pixels(self, images: list[Any]) -> dict[str, Tensor]:
        """By AutoImageProcessor's choice."""
        prepare = _read(transformers.AutoImageProcessor, self.name, CalibrationError)
        return dict(prepare(images=images, return_tensors="pt"))

    def write(self, folder: Path) -> None:
        """By save_pretrained of the model, and of the tokenizer and image processor where it has them."""
        self.model.save_pretrained(folder)
        for made in (
            self.tokenizer,
            partial(_read, transformers.AutoImageProcessor, self.name, CalibrationError),
        ):
            try:
                made().save_pretrained(folder)
            except CalibrationError:
                continue  # the model has none of this kind


def _read(made_by: Any, name: str, error: type[MBEError]) -> Any:
    try:
        # False, not the default, which asks on the terminal whether to run the code beside a model
        return made_by.from_pretrained(name, trust_remote_code=False)
    except UnpicklingError as refused:
        raise error(
            f"{name!r} holds a pickle of more than tensors, which would run code; write it as safetensors, by "
            "save_pretrained, where you trust it"
        ) from refused
    except (ImportError, KeyError, OSError, TypeError, ValueError) as refused:
        said = " ".join(f"{type(refused).__name__}: {refused}".split())
        raise error(f"transformers cannot read {name!r} ({made_by.__name__}): {said}") from refused
