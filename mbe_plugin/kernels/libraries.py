"""Why a backend's library cannot be used here."""

from __future__ import annotations

import importlib

import torch


def why_absent(module: str, name: str, install: str) -> list[str]:
    """In a few words that it is not installed, with the command, or that it does not load; nothing where it does."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return [f"{name} is not installed ({install})"]
        return [f"{name} does not load ({error})"]
    except ImportError as error:  # Numba says so that it does not fit the NumPy that is there
        return [f"{name} does not load ({error})"]
    return []


def without_gpu() -> list[str]:
    """That there is no CUDA GPU; nothing where there is."""
    return [] if torch.cuda.is_available() else ["there is no CUDA GPU (torch.cuda.is_available() is False)"]
