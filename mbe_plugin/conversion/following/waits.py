"""Which neurons wait for which: the calls of neurons that a value is made of, followed beside it through a forward.

A call of a neuron gives a value that is made of that call alone; every other function of torch gives one that is made
of all that its operands are made of. What no function of torch shows (scripted code, autograd.Functions) ends a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from mbe_plugin.conversion.following.comparison import outputs_of
from mbe_plugin.conversion.following.onlooker import Onlooker
from mbe_plugin.conversion.marks import tensors_of
from mbe_plugin.conversion.vocabulary.catalogue import ORDINARY, SPELLINGS
from mbe_plugin.operators import CalibratedNode
from mbe_plugin.recording import Latency, NeuronCall, Recording, latency_of

_ATTRIBUTE = "_mbe_waits"
_NOTHING: frozenset[int] = frozenset()
_INDICES = frozenset(("argmax", "argmin"))  # no activations, but they wait for what they are found in


class Waits(Onlooker):
    """While entered, notes the calls of neurons in this thread, and whose values each one's input is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[NeuronCall] = []
        self._own = object()  # what other forwards have hung on a tensor counts for nothing

    def latency(self, out: Any, recording: Recording) -> Latency:
        """Of the forward that returned ``out``; what hangs on its tensors is taken away."""
        ends = self._made_of(outputs_of(out))
        for _, tensor in tensors_of(out):
            vars(tensor).pop(_ATTRIBUTE, None)
        return latency_of(self.calls, ends, recording.neurons)

    def __call__(self, node: CalibratedNode, *args: Any, **kwargs: Any) -> Tensor:
        """The neuron's call, noted."""
        out = self.passed_on(node, *args, **kwargs)
        waits_for = self._made_of(t for _, t in tensors_of((args, kwargs)))
        self._keep(out, frozenset((len(self.calls),)))
        self.calls.append(NeuronCall(node.site, node.role, node.time_steps, waits_for))
        return out

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run func; what it returns, or writes into, is made of what its operands are made of."""
        kwargs = {} if kwargs is None else kwargs
        out = func(*args, **kwargs)
        spelling = SPELLINGS.get(func, ORDINARY)
        if spelling.shape_only and spelling.name not in _INDICES:
            return out
        operands = tensors_of(args[:1] if spelling.like else (args, kwargs))
        made_of = self._made_of(t for _, t in operands)
        if made_of:
            for _, tensor in tensors_of(out):
                self._keep(tensor, made_of)
            if spelling.writes and isinstance(args[0], Tensor):
                self._written(args[0], made_of)
        return out

    def _written(self, tensor: Tensor, made_of: frozenset[int]) -> None:
        self._keep(tensor, made_of)
        if tensor._base is not None:
            self._keep(tensor._base, made_of | self._made_of([tensor._base]))

    def _made_of(self, tensors: Iterable[Tensor]) -> frozenset[int]:
        found = _NOTHING
        for tensor in tensors:
            owner, made_of = getattr(tensor, _ATTRIBUTE, (None, _NOTHING))
            if owner is self._own and not made_of <= found:
                found = found | made_of if found else made_of
        return found

    def _keep(self, tensor: Tensor, made_of: frozenset[int]) -> None:
        setattr(tensor, _ATTRIBUTE, (self._own, made_of))
