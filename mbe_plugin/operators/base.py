"""What all operators share."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from mbe_plugin.operators.neuron import CalibratedNode


class SpikingOperator(nn.Module):
    """A Transformer operator made of MBE neurons; called with the arguments of the torch function it stands for.

    ``exact_parts`` says in words what of it is not done by spikes, ``site`` which call site of the network it serves.
    """

    exact_parts: str = ""
    site: str = ""

    def neurons(self) -> Iterator[tuple[str, CalibratedNode]]:
        """The calibrated neurons by role: their place in this operator."""
        for role, module in self.named_modules(remove_duplicate=False):
            if isinstance(module, CalibratedNode):
                yield role, module
