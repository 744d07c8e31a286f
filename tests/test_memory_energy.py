"""Accounting 'memory' and baseline 'integer': traffic counted by hand, and the figures of the paper that it is after."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling, tokens
from test_energy import ROWS, X, sent, small, totals
from torch import Tensor, nn

from mbe_plugin import MBEConfig, convert, energy
from mbe_plugin.analysis.energy import FLOAT32, KINDS, TRAFFIC, Memory, break_even
from mbe_plugin.analysis.energy.baselines import code_bits, encoders, levels
from mbe_plugin.analysis.energy.costs import integer

T = 4  # of small()
PRODUCTS, FUNCTIONS = ROWS * (3 * 4 + 4 * 2), ROWS * 4


def traffic_of(operations: Counter[tuple[str, str]]) -> dict[str, int]:
    return {kind: n for kind, n in totals(operations).items() if kind in TRAFFIC}


@pytest.mark.parametrize(
    ("baseline", "bits"),
    [("float32", (32, 32)), ("float16", (16, 16)), ("int8", (8, 8)), ("integer", (8, 7))],
)
@pytest.mark.parametrize("merge", [True, False])
def test_two_layers_by_hand_with_their_traffic(merge: bool, baseline: str, bits: tuple[int, int]) -> None:
    """Complete, and every event at every synapse, every membrane at every step; every product and every GELU of the ANN."""
    weight_bits, value_bits = bits
    snn = small(merge)
    events = sent(snn)
    (spikes, side), (gelu_spikes, gelu_side) = events["0:linear"], events["1:gelu" if merge else "2:linear"]
    synaptic = (spikes + side) * 4 + (gelu_spikes + gelu_side) * 2
    membranes = ROWS * 3 + FUNCTIONS + (0 if merge else FUNCTIONS)
    found = energy(snn, X, "memory", baseline=baseline)
    assert traffic_of(found.snn_operations) == {
        "routed event": synaptic,
        "stored bit": synaptic * weight_bits + membranes * T * 2 * 32,
        "moved bit": (side * 4 + gelu_side * 2) * 12,
    }
    assert traffic_of(found.ann_operations) == {
        "stored bit": PRODUCTS * weight_bits + FUNCTIONS * 2 * value_bits,
        "moved bit": PRODUCTS * value_bits,
    }
    complete = energy(snn, X, baseline=baseline)
    prices = {"routed event": 3.0, "stored bit": 10 / 64, "moved bit": 0.25}
    for with_traffic, without, operations in (
        (found.snn, complete.snn, found.snn_operations),
        (found.ann, complete.ann, found.ann_operations),
    ):
        moved = sum(prices[kind] * n for kind, n in traffic_of(operations).items())
        assert moved > 0
        assert with_traffic == pytest.approx(without + moved)


def test_a_site_that_stays_exact_has_the_anns_traffic() -> None:
    x = tokens(5)
    snn = convert(Calling(lambda m, x: m.fc(F.gelu(x))), [x], MBEConfig(exclude=("fc:*",)))
    spent = energy(snn, x, "memory").by_site()["fc:linear"]
    each = 4.6 + 32 * 10 / 64 + 32 * 0.25
    assert spent.snn == spent.ann == pytest.approx(each * 5 * WIDTH * WIDTH + 0.9 * 5 * WIDTH)


def test_its_parameters_can_be_replaced_and_are_checked() -> None:
    snn = small(merge=False)
    nothing = Memory(stored=0, value=0, event=0)
    assert energy(snn, X, "memory", memory=nothing).share == energy(snn, X).share
    once, twice = (energy(snn, X, "memory", memory=Memory(stored=0, hops=hops)) for hops in (1.0, 2.0))
    complete = energy(snn, X)
    assert twice.snn - complete.snn == pytest.approx(2 * (once.snn - complete.snn))
    assert twice.ann - complete.ann == pytest.approx(2 * (once.ann - complete.ann))
    assert "our own model after arXiv:2409.08290, which could not be read" in str(once)
    assert "| routed event |" in once.to_markdown()
    assert energy(snn, X, "memory", costs=dict.fromkeys(KINDS, 0.0), memory=nothing).snn == 0
    with pytest.raises(ValueError, match=r"numbers of 0 or more, got {'hops': -1}"):
        Memory(hops=-1)
    with pytest.raises(
        ValueError, match=r"memory= belongs to accounting 'memory', got accounting 'complete'"
    ):
        energy(snn, X, memory=Memory())


# as quoted of arXiv:2409.08290: 22 nm; 0.0375 pJ a bit and 0.15 pJ a multiply-accumulate fit the quoted figures
PAPER = Memory(stored=0.0375)
ACCUMULATE, MULTIPLY_ACCUMULATE = 0.05448, 0.15


def paper_rate(time_steps: int, weight_bits: int, **changes: float) -> float:
    """The rate at which the two cost the same: of the ANN's numbers 1 - g are not 0, and then rate = (1 - g)(1/T + 1)/2."""
    memory = Memory(**{"stored": PAPER.stored, **changes})
    bits = math.ceil(math.log2(time_steps + 1))
    rate = 0.0
    for _ in range(20):  # the ANN's zeros are not multiplied
        active = rate / ((1 / time_steps + 1) / 2)
        rate = break_even(memory, weight_bits, bits, ACCUMULATE, active * MULTIPLY_ACCUMULATE) / time_steps
    return rate


@pytest.mark.parametrize(
    ("time_steps", "weight_bits", "quoted"), [(5, 4, 0.057), (2, 4, 0.104), (2, 8, 0.123), (3, 8, 0.082)]
)
def test_the_break_even_rates_of_the_paper(time_steps: int, weight_bits: int, quoted: float) -> None:
    assert paper_rate(time_steps, weight_bits) == pytest.approx(quoted, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "quoted"),
    [
        ({"value": 0.125}, 0.0341),
        ({"event": 1.5}, 0.1080),
        ({"stored": PAPER.stored / 2}, 0.0539),
        ({"stored": PAPER.stored * 1.5}, 0.0608),
    ],
)
def test_how_the_papers_rate_moves_with_its_parameters(changes: dict[str, float], quoted: float) -> None:
    """Half and one and a half of one energy, T = 5, weights of 4 bits."""
    assert paper_rate(5, 4, **changes) == pytest.approx(quoted, abs=1e-3)


def test_our_break_even_rate_at_five_steps() -> None:
    """By hand, with our table: weights of 8 bits, a rate code of 6 levels against activations of 3 bits."""
    multiply_accumulate = integer(8, 3)["multiply-accumulate"]
    rate = break_even(Memory(), 8, 3, 0.1, multiply_accumulate) / 5
    assert rate == pytest.approx(
        (multiply_accumulate + 8 * 10 / 64 + 3 * 0.25) / (0.1 + 8 * 10 / 64 + 3.0) / 5
    )
    assert 0.09 < rate < 0.11


def linear(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return convert(nn.Sequential(nn.Linear(3, 4)), [X], MBEConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ({"time_steps": 4, "identity_bases": 8}, 7),  # 2^4 in each of 8 banks
        ({"time_steps": 2, "identity_bases": 64}, 8),
        (
            {"time_steps": 8, "identity_bases": 16, "code": "first_spike"},
            8,
        ),  # 8 times in each of 16 banks, and silence
        ({"time_steps": 7, "identity_bases": 2, "code": "first_spike"}, 4),  # 15
        ({"time_steps": 20, "identity_bases": 1 << 14}, 32),  # 34, which no whole number here has
    ],
)
def test_an_integer_network_has_as_many_bits_as_the_code(settings: dict[str, Any], bits: int) -> None:
    assert code_bits(linear(**settings)) == bits


def test_the_levels_of_a_first_spike_are_all_that_it_decodes_to() -> None:
    snn = linear(time_steps=6, identity_bases=8, code="first_spike")
    [node] = encoders(snn)
    reach = 2.0 ** float(node.exponents)  # type: ignore[operator]
    grid = torch.linspace(-reach, reach, 100_001)[1:-1]
    assert levels(node) == node.decoded(grid[:, None]).unique().numel()


def test_whole_numbers_cost_what_the_source_says_and_between_it_what_their_bits_ask_for() -> None:
    assert integer(8, 8)["multiplication"] == pytest.approx(0.2)
    assert integer(32, 32)["multiplication"] == pytest.approx(3.1)
    assert integer(8, 16)["multiplication"] == pytest.approx(0.2 * 2, rel=0.01)
    assert integer(8, 8)["multiply-accumulate"] == pytest.approx(0.3)


def test_the_snn_beside_an_integer_network() -> None:
    """Sums of whole numbers where no exponent is sent, else in float32; the text says which, and how many bits."""
    found = energy(linear(time_steps=8, identity_bases=16, code="first_spike"), X, baseline="integer")
    assert found.snn_costs["accumulate"] == 0.1
    assert found.ann_costs["multiply-accumulate"] == pytest.approx(0.3)
    assert "weights of 8 bits, activations of 8; the SNN's sums of whole numbers, too" in str(found)
    found = energy(linear(time_steps=4), X, baseline="integer")
    assert found.snn_costs == FLOAT32
    assert "weights of 8 bits, activations of 7; the SNN's sums in float32, since exponents are sent" in str(
        found
    )
    given = dict.fromkeys(KINDS, 1.0)
    assert energy(linear(time_steps=4), X, costs=given, baseline="integer").snn_costs == given


def test_a_network_of_functions_alone_has_the_codes_of_its_functions() -> None:
    snn = convert(nn.Sequential(nn.GELU()), [X], MBEConfig(time_steps=4, bases=8))
    assert code_bits(snn) == 7
    assert energy(snn, X, "memory", baseline="integer").share > 0


def test_pairs_and_read_outs() -> None:
    """A pair finds its way once; a read-out is where the neuron is."""

    def forward(m: Calling, x: Tensor) -> Tensor:
        return F.gelu(x) * torch.tanh(x)

    x = tokens(3)
    snn = convert(Calling(forward), [x], MBEConfig(time_steps=5))
    found = energy(snn, x, "memory")
    kinds = Counter(
        {kind: n for (site, kind), n in found.snn_operations.items() if site == "(root):mul(a,a)"}
    )
    assert kinds["routed event"] == kinds["accumulate"] > 0
    assert found.snn_operations["(root):gelu", "read-out"] > 0
    assert ("(root):gelu", "routed event") not in found.snn_operations
