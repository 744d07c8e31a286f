"""Triton's interpreter in a process of its own: it is asked for before Triton is imported, and changes it for good."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any


class Interpreter:
    """Runs functions of modules that import Triton, on the CPU, by the interpreter."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def run(self, module: str, function: str, *args: Any) -> Any:
        """module.function(*args) there; what goes and comes is pickled, so nothing is shared."""
        return pickle.loads(self._pool.submit(_run, module, function, pickle.dumps(args)).result())


@contextmanager
def interpreter() -> Iterator[Interpreter]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin) as pool:
        yield Interpreter(pool)


def _begin() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"


def _run(module: str, function: str, args: bytes) -> bytes:
    import importlib

    import numpy as np

    _patch_once()
    with np.errstate(all="ignore"):  # infinities are computed with on purpose
        return pickle.dumps(getattr(importlib.import_module(module), function)(*pickle.loads(args)))


@cache
def _patch_once() -> None:
    """Put Triton's language in the interpreter's hands once; it would do so in every call of every function."""
    import triton.language as tl
    from triton.runtime import interpreter

    patch, done = interpreter._patch_lang, set()

    def patch_others(function: Any) -> Any:
        languages = {id(tl), id(tl.core)} & {id(value) for value in function.__globals__.values()}
        if not languages <= done:
            patch(function)
            done.update(languages)
        return SimpleNamespace(restore=lambda: None)  # nothing but kernels runs here

    interpreter._patch_lang = patch_others
