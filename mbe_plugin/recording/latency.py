"""Latency: how many windows of time steps a forward takes, one after another, and how soon the next may follow.

A neuron begins with its whole input (its membrane starts at it), so it waits for the complete trains of all that its
input is made of, and then takes a window of its T steps. Synapses, products of trains, sums and read-outs work within
the windows of the neurons that send; what stays exact takes no step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mbe_plugin.recording.events import NeuronEvents


@dataclass(frozen=True)
class NeuronCall:
    """One call of a neuron in a forward; waits_for: the earlier calls, by number, that its input is made of."""

    site: str
    role: str
    time_steps: int
    waits_for: frozenset[int]


@dataclass(frozen=True)
class Latency:
    """How long one input takes through a network whose every call of a neuron is hardware of its own.

    windows: on the longest path. steps: from input to output, the sum of T over that path. interval: steps between two
    inputs where the neurons work as a pipeline, the largest T. until_last_spike: steps from input to output if every window
    ended with the last spike that any element of its neuron sent in the forward (the longest such path, a bound on
    what a code that finishes early can gain; a window has one step at least, for side events). mean_step: at which step of
    its window a spike came in the mean, from 1; 0 without spikes. path: the neurons of the longest path, 'site role'.
    """

    windows: int
    steps: int
    interval: int
    until_last_spike: int
    mean_step: float
    path: tuple[str, ...]

    def summary(self) -> str:
        """A line."""
        spikes = f", the mean spike at step {self.mean_step:.1f} of its window" if self.mean_step else ""
        return (
            f"{self.windows} windows on the longest path, {self.steps} steps from input to output, {self.interval} between "
            f"two inputs in a pipeline; {self.until_last_spike} steps if windows ended with their last spike{spikes}"
        )


def latency_of(
    calls: Sequence[NeuronCall], ends: Collection[int], sent: Mapping[tuple[str, str], NeuronEvents]
) -> Latency:
    """The latency of a forward: its neurons' calls in order, those that its outputs are made of, and what was sent."""

    def until_last_spike(call: NeuronCall) -> int:
        neuron = sent.get((call.site, call.role))
        return call.time_steps if neuron is None else max(neuron.last_step, 1)

    path = _longest(calls, ends, lambda call: call.time_steps)
    early = _longest(calls, ends, until_last_spike)
    per_step = [(t + 1, n) for neuron in sent.values() for t, n in enumerate(neuron.counts.sum(1).tolist())]
    spikes = sum(n for _, n in per_step)
    return Latency(
        windows=len(path),
        steps=sum(calls[i].time_steps for i in path),
        interval=max((call.time_steps for call in calls), default=0),
        until_last_spike=sum(until_last_spike(calls[i]) for i in early),
        mean_step=sum(t * n for t, n in per_step) / spikes if spikes else 0.0,
        path=tuple(f"{calls[i].site} {calls[i].role}" for i in path),
    )


def _longest(
    calls: Sequence[NeuronCall], ends: Collection[int], steps: Callable[[NeuronCall], int]
) -> list[int]:
    """The calls, by number, of the path to an end that takes the most steps; of equally long ones the most windows."""
    reached: list[tuple[int, int]] = []  # steps and windows until a call is complete
    before: list[int | None] = []
    for call in calls:
        last = _latest(call.waits_for, reached)
        taken, windows = (0, 0) if last is None else reached[last]
        reached.append((taken + steps(call), windows + 1))
        before.append(last)
    path: list[int] = []
    at = _latest(ends, reached)
    while at is not None:
        path.append(at)
        at = before[at]
    return path[::-1]


def _latest(numbers: Collection[int], reached: Sequence[tuple[int, int]]) -> int | None:
    return max(sorted(numbers), key=reached.__getitem__, default=None)
