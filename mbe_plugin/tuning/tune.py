"""tune(): the least energy at a given closeness, or the best closeness at a given energy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from mbe_plugin.analysis.closeness import Closeness, Outputs, first_floating
from mbe_plugin.analysis.energy.costs import FLOAT32, checked
from mbe_plugin.analysis.energy.measure import billed, counted
from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion.batches import as_call
from mbe_plugin.conversion.convert import calibrate, convert
from mbe_plugin.conversion.progress import Progress, Tell
from mbe_plugin.errors import ConversionError
from mbe_plugin.recording import record
from mbe_plugin.tuning.choice import chosen, path
from mbe_plugin.tuning.menu import MENU
from mbe_plugin.tuning.places import places_of
from mbe_plugin.tuning.trials import prices, trials
from mbe_plugin.tuning.watching import watched

Objective = Literal["energy", "closeness"]
Figure = Callable[[nn.Module], float]


def tune(
    model: nn.Module,
    calibration: Sequence[Any],
    target: float,
    objective: Objective = "energy",
    *,
    held_out: Sequence[Any] | None = None,
    figure: Figure | None = None,
    outputs: Outputs | None = None,
    config: MBEConfig | None = None,
    menu: Sequence[Mapping[str, Any]] = MENU,
    costs: Mapping[str, float] | None = None,
    progress: bool | Tell = False,
) -> MBEConfig:
    """The configuration with the least energy whose figure is at least ``target``, or the best figure at an energy.

    Chosen are code, T, N, dead zone and center of every neuron whose train meets weights; all else is as in ``config``.
    What a choice adds to the error is estimated from the network's derivatives, what it costs is the complete accounting
    (docs/energy.md). Choices are taken in the order of error per energy saved (a knapsack's greedy solution, exact on the
    hulls of the places), and how many of them is found by trying networks on held-out batches. Deterministic.

    model: as for convert(). calibration: a list of batches; the largest decides the memory, as in a step of training: of a
    language model take short windows. target: the least figure (objective 'energy'), or the largest
    share of the ANN's energy in float32 (objective 'closeness'). held_out: batches that the result is checked on; by
    default every fourth calibration batch is set apart. figure: what counts, larger is better, such as accuracy, or the
    perplexity with a minus; by default the smallest cosine between ANN and SNN of an item's output. outputs: which numbers
    of what the network returns count, every row of them relative to its size; the first floating tensor by default. Of a
    language model take the square roots of its probabilities, ``lambda out: out.logits.softmax(-1).sqrt()``: what they are
    off, squared, is half the divergence from the ANN's, where in logits what is never said would count like what is.
    config: MBEConfig.low_energy(). menu: settings as in MBEConfig.sites. costs: pJ per operation, see energy(). progress:
    see calibrate.

    Raises ValueError for a target that no choice reaches (with what is reached), for fewer than two batches without
    held_out, for an unknown objective; ConversionError if nothing meets weights; and what convert() raises.
    """
    config, tell = config or MBEConfig.low_energy(), Progress(progress)
    if objective not in ("energy", "closeness"):
        raise ValueError(f"objective must be 'energy' or 'closeness', got {objective!r}")
    if not menu:
        raise ValueError(
            "menu is empty; give it settings such as {'code': 'first_spike', 'identity_bases': 32}"
        )
    known, held_out = _parted(list(calibration), held_out)
    outputs = outputs or first_floating
    search = Search(
        model, known, held_out, outputs, config, menu, FLOAT32 if costs is None else checked(costs), tell
    )
    if objective == "closeness":
        return search.closest(target)
    return search.cheapest(figure or Closeness(model, held_out, outputs), target)


def _parted(batches: list[Any], held_out: Sequence[Any] | None) -> tuple[list[Any], list[Any]]:
    if held_out is not None:
        if not held_out or not batches:
            raise ValueError("tune needs at least one batch in calibration and one in held_out")
        return batches, list(held_out)
    if len(batches) < 2:
        raise ValueError(
            f"tune sets every fourth calibration batch apart to check its choice on, and got {len(batches)}; give two "
            "or more, or held_out="
        )
    apart = batches[1::4]
    return [b for i, b in enumerate(batches) if i % 4 != 1], apart


class Search:
    """A network in its most precise setting, and the steps from there to the cheapest."""

    def __init__(
        self,
        model: nn.Module,
        known: Sequence[Any],
        held_out: Sequence[Any],
        outputs: Outputs,
        config: MBEConfig,
        menu: Sequence[Mapping[str, Any]],
        costs: Mapping[str, float],
        tell: Progress,
    ) -> None:
        self.config, self.tell = config, tell
        recorded = calibrate(model, known)
        self.snn = convert(model, recorded, replace(config, gradient="slope"))
        self.places = places_of(self.snn, recorded.sites, config, menu)
        if not self.places:
            raise ConversionError(
                f"{type(model).__name__} has no layer whose input is encoded for it, so there is nothing to tune; convert "
                "with merge=False"
            )
        seen = watched(self.snn, known, self.places, outputs)
        # a place that does not reach the outputs stays as it is: nothing is known of what it does
        reaching = [bool(calls) and all(call.pulled for call in calls) for calls in seen]
        self.places = list(itertools.compress(self.places, reaching))
        args, kwargs = as_call(held_out[0], self.snn)
        with torch.no_grad(), record(self.snn, deliveries=True) as recording:
            self.snn(*args, **kwargs)
        added, cost = [], []
        for index, (place, calls) in enumerate(
            zip(self.places, itertools.compress(seen, reaching), strict=True)
        ):
            tell("trying codes, places", index, len(self.places))
            tried = trials(place, calls)
            added.append([trial.error for trial in tried])
            cost.append(prices(place, tried, recording, costs))
        tell("trying codes, places", len(self.places), len(self.places))
        self.start, self.steps = path(cost, added)
        self.held_out, self.costs = held_out, costs

    def cheapest(self, figure: Figure, target: float) -> MBEConfig:
        """The most steps after which the figure is at least target."""
        best = figure(self.after(0))
        if best < target:
            raise ValueError(
                f"target {target} is out of reach: with the most precise choices the figure is {best:.6g} on the held-out "
                "batches; lower it, or give a config or a menu with more bases and steps"
            )
        return self._last(lambda network: figure(network) >= target)

    def closest(self, share: float) -> MBEConfig:
        """The fewest steps after which the energy is at most this share of the ANN's."""

        def dearer(network: nn.Module) -> bool:
            return billed(counted(network, self.held_out[0]), costs=self.costs).share > share

        if dearer(self.after(len(self.steps))):
            least = billed(counted(self.snn, self.held_out[0]), costs=self.costs).share
            raise ValueError(
                f"target {share} is out of reach: the cheapest choices take {least:.4g} of the ANN's energy"
            )
        if not dearer(self.after(0)):
            return self.config_after(0)
        return self._last(dearer, beyond=1)

    def _last(self, holds: Callable[[nn.Module], bool], beyond: int = 0) -> MBEConfig:
        """The configuration after the last number of steps at which this holds (or so many later); it holds at 0."""
        low, high, tries = 0, len(self.steps) + 1, 0
        while high - low > 1:
            middle = (low + high) // 2
            self.tell("trying networks", tries, None)
            tries += 1
            low, high = (middle, high) if holds(self.after(middle)) else (low, middle)
        return self.config_after(min(low + beyond, len(self.steps)))

    def after(self, steps: int) -> nn.Module:
        """The network after so many steps."""
        for place, choice in zip(self.places, chosen(self.start, self.steps[:steps]), strict=True):
            place.take(choice)
        return self.snn

    def config_after(self, steps: int) -> MBEConfig:
        """The configuration of that network."""
        choices = chosen(self.start, self.steps[:steps])
        overrides = [p.override(choice) for p, choice in zip(self.places, choices, strict=True)]
        return replace(self.config, sites=(*self.config.sites, *overrides))
