"""Counting is no part of the forward that is counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import _disable_current_modes

from mbe_plugin.errors import ConversionError


@contextmanager
def looking() -> Iterator[None]:
    """No audit or counter of operations sees what is done meanwhile, and it outlives inference mode."""
    with _disable_current_modes(), torch.inference_mode(False), torch.no_grad():
        yield


def refuse_compiled() -> None:
    """ConversionError while a compiler looks on."""
    if torch.compiler.is_compiling():
        raise ConversionError(
            "a compiled forward cannot be recorded; call the network that you passed to torch.compile"
        )
