"""Kernels' parts by themselves; imported where Triton interprets (tests/interpreter.py)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mbe_plugin.kernels.asked import Asked
from mbe_plugin.kernels.triton_gpu.compiled.kernels import shared_exponent
from mbe_plugin.kernels.triton_gpu.compiled.numbers import block_start, whole_below


def with_counters(module: str, function: str, args: tuple) -> tuple[Any, list[Sequence[Tensor]]]:
    """A function's result, and the counters that its arguments have."""
    result = getattr(importlib.import_module(module), function)(*args)
    return result, [asked.counters for asked in args if isinstance(asked, Asked) and asked.counters]


@triton.jit
def _starts(program, out, BLOCK: tl.constexpr):
    tl.store(out, block_start(program, BLOCK))


def start_of(program: int, block: int) -> int:
    out = torch.zeros(1, dtype=torch.int64)
    _starts[(1,)](torch.tensor(program, dtype=torch.int32).item(), out, BLOCK=block)
    return int(out)


@triton.jit
def _exponents(
    exponents, out, start, inner, along, SHARED: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr
):
    lane = tl.arange(0, BLOCK)
    tl.store(out + lane, shared_exponent(exponents, start, lane, lane < BLOCK, inner, along, SHARED, WIDE))


def exponents_from(exponents: Tensor, start: int, inner: int, along: int, shared: str, wide: bool) -> Tensor:
    """The exponents of 16 elements from the one at ``start``."""
    out = torch.zeros(16, dtype=torch.int32)
    _exponents[(1,)](exponents, out, start, inner, along, SHARED=shared, WIDE=wide, BLOCK=16)
    return out


@triton.jit
def _wholes(x, out, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(out + lane, whole_below(tl.load(x + lane)))


def wholes(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    _wholes[(1,)](x, out, BLOCK=x.numel())
    return out
