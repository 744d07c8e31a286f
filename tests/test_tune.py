"""tune(): its estimates against networks that were run, its choice against every other, its result against its promise."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch
from networks import Transformer
from torch import Tensor, nn

import mbe_plugin
from examples._shared.language import divergences
from mbe_plugin import ConversionError, MBEConfig, calibrate, convert, energy, tune
from mbe_plugin.analysis.energy.measure import counted
from mbe_plugin.operators import CalibratedNode
from mbe_plugin.tuning.choice import chosen, path
from mbe_plugin.tuning.places import places_of
from mbe_plugin.tuning.trials import prices, trials
from mbe_plugin.tuning.tune import Closeness, first_floating
from mbe_plugin.tuning.watching import watched

WIDTH = 32
MENU = tuple(
    {"code": "first_spike", "time_steps": 12, "identity_bases": n, "dead_zone": d, "center": c}
    for n, d, c in itertools.product((8, 32, 256), (0.0, 0.1, 0.3), (False, True))
)
BASE = MBEConfig.low_energy()


def network(depth: int = 1) -> nn.Module:
    torch.manual_seed(1)
    return Transformer(WIDTH, depth=depth).eval()


def batches(seed: int, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 7, WIDTH, generator=generator) for _ in range(count)]


def test_square_roots_of_probabilities_are_off_by_half_the_divergence() -> None:
    """What tune's docstring says of language models, against the sum of p log(p / q) in float64."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(50, 300, generator=generator, dtype=torch.float64)
    p = logits.softmax(-1)
    q = (logits + 0.05 * torch.randn(50, 300, generator=generator, dtype=torch.float64)).softmax(-1)
    divergence = (p * (p / q).log()).sum(-1)
    off = (p.sqrt() - q.sqrt()).square().sum(-1)
    assert torch.allclose(off, divergence / 2, rtol=0.1)
    assert torch.allclose(divergences(p.log(), q.log() + 7), divergence, atol=1e-12)


def test_every_prefix_of_the_path_is_the_best_that_its_energy_buys() -> None:
    """Against all combinations of choices at four places."""
    dice = random.Random(0)
    for _ in range(20):
        energies = [[dice.uniform(1, 9) for _ in range(5)] for _ in range(4)]
        errors = [[dice.uniform(0, 1) for _ in range(5)] for _ in range(4)]
        start, steps = path(energies, errors)
        every = [
            (
                sum(e[i] for e, i in zip(energies, c, strict=True)),
                sum(r[i] for r, i in zip(errors, c, strict=True)),
            )
            for c in itertools.product(range(5), repeat=4)
        ]
        assert min(error for _, error in every) == pytest.approx(
            sum(r[i] for r, i in zip(errors, start, strict=True))
        )
        for n in range(len(steps) + 1):
            now = chosen(start, steps[:n])
            spent = sum(e[i] for e, i in zip(energies, now, strict=True))
            lost = sum(r[i] for r, i in zip(errors, now, strict=True))
            assert lost == pytest.approx(min(error for cost, error in every if cost <= spent + 1e-9))
        assert spent == pytest.approx(sum(min(e) for e in energies))


def test_places_copy_their_own_neurons_alone() -> None:
    """What warns for the whole network knows all its neurons; copied along they took n^2 time and memory."""
    ann, known = network(2), batches(2, 2)
    recorded = calibrate(ann, known)
    snn = convert(ann, recorded, BASE)
    notices = {id(node.notice) for node in snn.modules() if isinstance(node, CalibratedNode)}
    places = places_of(snn, recorded.sites, BASE, MENU)
    assert len(notices) == 1 and {id(place.node.notice) for place in places} == notices
    assert len({id(place.node) for place in places}) == len(places)


def test_errors_and_prices_are_those_of_networks_that_take_a_choice() -> None:
    """One choice at one place: the output moves as estimated (within half), and the energy is as priced (within 1 %)."""
    ann, known = network(2), batches(2, 4)
    recorded = calibrate(ann, known)
    snn = convert(ann, recorded, replace(BASE, gradient="slope"))
    places = places_of(snn, recorded.sites, BASE, MENU)
    assert len(places) == 2 * 5 + 2
    seen = watched(snn, known, places, first_floating)
    coarse = MENU.index({**MENU[0], "identity_bases": 8, "dead_zone": 0.3, "center": False})
    precise = MENU.index({**MENU[0], "identity_bases": 256})
    for place in places:
        place.take(precise)
    costs = mbe_plugin.analysis.energy.FLOAT32
    recording = counted(snn, known[0]).recording
    before, spent = [snn(x).detach() for x in known], energy(snn, known[0])
    for place, calls in zip(places, seen, strict=True):
        tried = trials(place, calls)
        cost = prices(place, tried, recording, costs)
        place.take(coarse)
        off = [(snn(x).detach() - b).flatten(0, 1) for x, b in zip(known, before, strict=True)]
        moved = sum(
            ((o.norm(dim=-1) / b.flatten(0, 1).norm(dim=-1)) ** 2).sum().item()
            for o, b in zip(off, before, strict=True)
        )
        assert tried[coarse].error == pytest.approx(moved, rel=0.5)
        saved, left = cost[precise] - cost[coarse], energy(snn, known[0])
        here = spent.by_site()[place.site.name].snn - left.by_site()[place.site.name].snn
        assert saved == pytest.approx(here, rel=0.01)
        # what other layers send changes a little with what they get
        assert saved == pytest.approx(spent.snn - left.snn, rel=0.05)
        place.take(precise)


def test_the_least_energy_at_a_closeness() -> None:
    ann, known, held_out, unseen = network(), batches(3), batches(4, 2), batches(5, 4)
    config = tune(ann, known, 0.999, held_out=held_out, menu=MENU)
    snn = convert(ann, known, config)
    assert Closeness(ann, held_out, first_floating)(snn) >= 0.999
    assert MBEConfig.from_json(config.to_json()) == config
    assert tune(ann, known, 0.999, held_out=held_out, menu=MENU) == config
    on_new = Closeness(ann, unseen, first_floating)
    share = energy(snn, unseen[0]).share
    for settings in MENU[1::3]:  # no uniform choice is as close on data that nobody has seen and cheaper
        uniform = convert(
            ann, known, MBEConfig(**{**vars(BASE), "sites": (*BASE.sites, ("*|encoders.*", settings))})
        )
        assert on_new(uniform) < on_new(snn) or energy(uniform, unseen[0]).share > share


def test_the_best_closeness_at_an_energy() -> None:
    ann, known, held_out = network(), batches(3), batches(4, 2)
    shares = [
        energy(
            convert(ann, known, tune(ann, known, s, "closeness", held_out=held_out, menu=MENU)), held_out[0]
        )
        for s in (0.5, 0.4)
    ]
    assert shares[0].share <= 0.5
    assert shares[1].share <= 0.4


def test_a_figure_of_ones_own_and_outputs_by_name() -> None:
    ann, known = network(), batches(3)
    calls = []

    def figure(snn: nn.Module) -> float:
        calls.append(snn)
        return -float((snn(known[1]) - ann(known[1])).detach().abs().max())

    told = []
    config = tune(
        ann,
        known,
        -0.2,
        figure=figure,
        outputs=lambda y: y,
        menu=MENU,
        progress=lambda *stage: told.append(stage),
    )
    assert figure(convert(ann, known, config)) >= -0.25
    assert len(calls) > 3
    assert {stage for stage, *_ in told} >= {"trying codes, places", "trying networks"}


def test_what_is_refused() -> None:
    ann, known = network(), batches(3)
    with pytest.raises(ValueError, match="objective must be 'energy' or 'closeness', got 'time'"):
        tune(ann, known, 0.9, "time")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sets every fourth calibration batch apart .* and got 1"):
        tune(ann, known[:1], 0.9)
    with pytest.raises(ValueError, match="menu is empty"):
        tune(ann, known, 0.9, menu=())
    with pytest.raises(
        ValueError, match="target 1.1 is out of reach: with the most precise choices the figure is 0.9"
    ):
        tune(ann, known, 1.1, menu=MENU[:2])
    with pytest.raises(ValueError, match="target 0.001 is out of reach: the cheapest choices take"):
        tune(ann, known, 0.001, "closeness", menu=MENU[:2])
    with pytest.raises(ConversionError, match="no layer whose input is encoded"):
        tune(nn.Sequential(nn.GELU()), known, 0.9)
    with pytest.raises(ConversionError, match="no floating tensor in what the model returns"):
        tune(nn.Sequential(nn.Linear(WIDTH, 2), Largest()), known, 0.9)


class Largest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1)
