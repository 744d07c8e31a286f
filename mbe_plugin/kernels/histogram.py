"""Counting whole numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def histogram(keys: Tensor, bins: int) -> Tensor:
    """How often each of 0 .. bins - 1 is among the keys [n], int64 [bins]; off the CPU without waiting for the device."""
    if keys.device.type == "cpu":
        return torch.bincount(keys, minlength=bins)  # elsewhere it looks for the largest key first
    keys = keys.to(torch.int64)
    return torch.zeros(bins, dtype=torch.int64, device=keys.device).scatter_add_(
        0, keys, torch.ones_like(keys)
    )
