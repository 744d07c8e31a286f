"""Looking on at a forward from outside: at every function of torch, and at every call of a neuron."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mbe_plugin.operators import CalibratedNode
from mbe_plugin.operators.calls import CALLS, calls_taken_by, passed_on


class Onlooker(TorchFunctionMode):
    """While entered, this thread's functions of torch come to ``__torch_function__``, its neurons to ``__call__``."""

    counted = True

    def __init__(self) -> None:
        super().__init__()
        self._before: Any = None
        self._standing_in = ExitStack()

    def __enter__(self) -> Self:
        self._before = CALLS.taken_by
        self._standing_in.enter_context(calls_taken_by(self))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._standing_in.close()

    def __call__(self, node: CalibratedNode, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Tensor:
        """A neuron's call; what becomes of it is for a subclass to say."""
        raise NotImplementedError

    def passed_on(self, node: CalibratedNode, *args: Any, **kwargs: Any) -> Tensor:
        """What the neuron gives, or whoever stood in for it before; its own functions of torch do not come here."""
        with torch._C.DisableTorchFunction():
            return passed_on(self._before, node, *args, **kwargs)
