"""Step mode 'm' of a converted network: the spikes of its last neurons arrive one step after another.

The *last* neurons are those whose spikes reach the output without passing another neuron. y^(t) is the output when they
have sent their first t steps, all others being complete; the sequence is y^(1), y^(2) - y^(1), ..., so its sum is y^(T),
the output of mode 's'. What reaches the output without a neuron comes at step 0.

T + 1 forwards: one that finds the last neurons (every neuron's output begins a graph of its own there, so those that
the output's graph leads back to are the last), the complete one, which hooks and counters of neurons see, and one for
each y^(t) before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn

from mbe_plugin.conversion.following.sequences import Outputs, Run, SummedCall, other_way
from mbe_plugin.errors import ConversionError
from mbe_plugin.operators import CalibratedNode
from mbe_plugin.operators.calls import CALLS, StandIn, calls_taken_by, passed_on

_CALL = "_mbe_call"  # the attribute of a leaf that holds the number of the neuron's call


def run_in_steps(
    network: nn.Module, run: Run, names: tuple[str, ...], args: tuple, kwargs: dict[str, Any], time_steps: int
) -> Any:
    """What run(args, kwargs), a call of network, returns in step mode 'm': a sequence [T, ...] for each of its tensors.

    names: of the arguments. Gradients go through the weighted spikes of the last neurons to all that the complete run
    depends on. Raises SummedCall's errors, and ConversionError for a forward that has no such sequence.
    """
    with _outside_inference():
        call, again = SummedCall(names, args, kwargs, time_steps), _Again(network)

        def once(stand_in: StandIn) -> Any:
            with calls_taken_by(stand_in):
                return run(*call.arguments())

        search = _Search()
        with again, torch.enable_grad():
            last = search.last_of(once(search))
        complete = _Complete(last)
        outputs = Outputs(once(complete))
        if outputs.numbers and complete.calls and not last:
            raise ConversionError(_NO_WAY)
        partial = []
        for steps in range(1, time_steps if last else 1):
            neurons = _Partial(steps, complete)
            with again:
                partial.append(outputs.partial(once(neurons)))
            neurons.check_calls()
        return outputs.as_sequences(partial, time_steps)


_NO_WAY = (
    "no neuron's spikes can be followed to the output, so it has no sequence: does the forward run under torch.no_grad, "
    "or detach what it returns? Take that away, or stay in step mode 's'"
)


@contextmanager
def _outside_inference() -> Iterator[None]:
    """Tensors that a graph may hold, and gradients where the caller asks for them."""
    asked = torch.is_grad_enabled()
    inference = torch.is_inference_mode_enabled()
    with torch.inference_mode(False) if inference else nullcontext(), torch.set_grad_enabled(asked):
        yield


class _Again:
    """What a run changes begins as it was when this was made, while a ``with`` block lasts, and goes on after it as before.

    Random numbers, and the memories of the host's modules, such as the membranes of LIF neurons in the model.
    """

    def __init__(self, network: nn.Module) -> None:
        device = next(network.buffers()).device  # the neurons' at least
        self.other = None if device.type == "cpu" else device
        memories = [m for m in network.modules() if isinstance(m, base.MemoryModule)]
        self.stateful = [m for m in memories if m._memories]
        self.states = self._states()

    def _states(self) -> tuple[Tensor, Tensor | None, list[dict[str, Any]]]:
        memories = [dict(m._memories) for m in self.stateful]
        if self.other is None:
            return torch.get_rng_state(), None, memories
        return torch.get_rng_state(), torch.get_device_module(self.other).get_rng_state(self.other), memories

    def _set(self, states: tuple[Tensor, Tensor | None, list[dict[str, Any]]]) -> None:
        torch.set_rng_state(states[0])
        if self.other is not None:
            torch.get_device_module(self.other).set_rng_state(states[1], self.other)
        for module, memories in zip(self.stateful, states[2], strict=True):
            module._memories.update(memories)

    def __enter__(self) -> None:
        self.before = self._states()
        self._set(self.states)

    def __exit__(self, *error: object) -> None:
        self._set(self.before)


class _Search:
    """Neurons whose outputs begin a graph each."""

    counted = False

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, node: CalibratedNode, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Tensor:
        leaf = _uncounted(node, x, dim).requires_grad_()
        setattr(leaf, _CALL, self.calls)
        self.calls += 1
        with torch.enable_grad():
            return leaf.clone()  # which a forward may write into

    def last_of(self, out: Any) -> frozenset[int]:
        """The numbers of the calls whose outputs the graph of ``out`` leads back to."""
        found: set[int] = set()
        waiting: list[Any] = [tensor.grad_fn for tensor in Outputs(out).numbers]
        seen = set(waiting)
        while waiting:
            function = waiting.pop()
            if function is None:
                continue
            number = getattr(getattr(function, "variable", None), _CALL, None)
            if number is not None:
                found.add(number)
            following = {f for f, _ in function.next_functions} - seen
            seen |= following
            waiting.extend(following)
        return frozenset(found)


class _Complete:
    """Neurons as in mode 's', hooks and counters included; of the last ones, the weighted spikes so far are kept."""

    counted = True

    def __init__(self, last: frozenset[int]) -> None:
        self.last = last
        self.calls = 0
        self._before = CALLS.taken_by
        self.kept: dict[
            int, tuple[CalibratedNode, Tensor]
        ] = {}  # call -> node, sums [T, ...] of its first spikes

    def __call__(self, node: CalibratedNode, *args: Any, **kwargs: Any) -> Tensor:
        out = passed_on(self._before, node, *args, **kwargs)
        if (
            self.calls in self.last
        ):  # copied now: the forward may write into the membrane and into out afterwards
            first = node.sequence(*args, **kwargs)[:-1].cumsum(0)
            self.kept[self.calls] = node, torch.cat([first, out[None]])
        self.calls += 1
        return out


class _Partial:
    """Neurons of which the last ones have sent their first ``steps`` only."""

    counted = False

    def __init__(self, steps: int, complete: _Complete) -> None:
        self.steps, self.complete = steps, complete
        self.calls = 0

    def __call__(self, node: CalibratedNode, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Tensor:
        kept = self.complete.kept.get(self.calls)
        self.calls += 1
        if kept is None:
            return _uncounted(node, x, dim)
        owner, sums = kept
        if owner is not node or sums.shape[1:] != x.shape:
            raise ConversionError(other_way(f"{node.site} gets {list(x.shape)}"))
        return sums[min(self.steps, len(sums)) - 1].clone()  # a neuron with steps of its own may have fewer

    def check_calls(self) -> None:
        """ConversionError if neurons were called more or less often than in the complete run."""
        if self.calls != self.complete.calls:
            what = f"it calls {self.calls} neurons, and {self.complete.calls} otherwise"
            raise ConversionError(other_way(what))


def _uncounted(node: CalibratedNode, x: Tensor, dim: int) -> Tensor:
    """The decoded value as a constant, which no hook or counter has seen."""
    with torch.no_grad():
        return node.decoded(x.detach(), dim)
