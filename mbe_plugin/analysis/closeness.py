"""How close a converted network is to its ANN, item by item of what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.conversion.batches import as_call
from mbe_plugin.conversion.following.comparison import outputs_of
from mbe_plugin.errors import ConversionError

# of what the network returns, the numbers [items, ...] whose closeness counts
Outputs = Callable[[Any], Tensor]


class Closeness:
    """The smallest cosine between ANN and SNN of an item's output, on some batches."""

    def __init__(self, ann: nn.Module, batches: Sequence[Any], outputs: Outputs) -> None:
        self.batches, self.outputs = batches, outputs
        self.wanted = [self._of(ann, batch) for batch in batches]

    def __call__(self, snn: nn.Module) -> float:
        """In [-1, 1]."""
        got = [self._of(snn, batch) for batch in self.batches]
        return min(torch.cosine_similarity(w, g).min().item() for w, g in zip(self.wanted, got, strict=True))

    def _of(self, network: nn.Module, batch: Any) -> Tensor:
        args, kwargs = as_call(batch, network)
        with torch.no_grad():
            out = self.outputs(network(*args, **kwargs))
        return out.reshape(len(out), -1).double()


def first_floating(out: Any) -> Tensor:
    """The first floating tensor of what a network returns."""
    found = outputs_of(out)
    if not found:
        raise ConversionError(
            f"no floating tensor in what the model returns ({type(out).__name__}); say which: outputs="
        )
    return found[0]
