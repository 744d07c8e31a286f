"""energy(): every operation of small networks counted by hand, and what the result says of itself."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling, tokens, transformer
from test_recording import overheard
from torch import Tensor, nn

from mbe_plugin import ConversionError, Energy, MBEConfig, convert, energy
from mbe_plugin.analysis.energy import ACCOUNTINGS, BASELINES, FLOAT32, KINDS
from mbe_plugin.operators import CalibratedNode

ROWS = 2
X = torch.tensor([[0.7, -0.2, 0.0], [1.5, 0.3, -0.9]])


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))


def small(merge: bool) -> nn.Module:
    return convert(
        two_layers(), [X, X + 0.1], MBEConfig(time_steps=4, bases=8, identity_bases=8, merge=merge)
    )


def sent(snn: nn.Module) -> dict[str, tuple[int, int]]:
    """Spikes of the explicit trains and side events, by site."""
    with torch.no_grad(), overheard(snn) as heard:
        snn(X)
    found = {}
    for (site, _), [call] in heard.items():
        if site.endswith("linear"):  # every number but zero has an exponent
            side = int((call.x != 0).sum())
        else:  # the segments' constants
            tables = call.node.tables()
            side = int((tables.bias[torch.bucketize(call.x, tables.breakpoints, right=True)] != 0).sum())
        found[site] = int(call.spikes().sum()), side
    return found


def totals(operations: Counter[tuple[str, str]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for (_, kind), n in operations.items():
        found[kind] += n
    return {kind: n for kind, n in found.items() if n}


def put_together(snn: nn.Module, site: str, events: int, outputs: int) -> dict[str, int]:
    """What it takes to give the events that met weights their amplitudes; the amplitudes are read from the tables."""
    tables = next(m for m in snn.modules() if isinstance(m, CalibratedNode) and m.site == site).tables()
    values = [*(tables.weight * tables.intensity).flatten().tolist(), *tables.bias.tolist()]
    uneven = sorted({math.frexp(abs(v))[0] for v in values} - {0.0, 0.5})
    spaced = len({round(b - a, 12) for a, b in itertools.pairwise(uneven)}) <= 1
    apart = (2 if spaced else 1) * len(uneven) * outputs
    if apart < events:  # a sum for each amplitude
        return {"addition" if spaced else "multiply-accumulate": apart}
    return {"multiplication": events}


ANN = {
    "multiply-accumulate": ROWS * (3 * 4 + 4 * 2) + ROWS * 4 * 12,  # the layers, 12 for each GELU
    "addition": ROWS * (4 + 2),  # biases
}


@pytest.mark.parametrize("merge", [True, False])
def test_two_layers_by_hand_everything_billed(merge: bool) -> None:
    snn = small(merge)
    events = sent(snn)
    first, gelu = sum(events["0:linear"]), sum(events["1:gelu"])
    spikes = sum(s for s, _ in events.values())
    if merge:
        second, encoded = gelu, ROWS * 3
        assert "2:linear" not in events
    else:
        second, encoded = sum(events["2:linear"]), ROWS * 3 + ROWS * 4
    functions = ROWS * 4
    accumulations = first * 4 + second * 2
    amplitudes = Counter(put_together(snn, "0:linear", first * 4, ROWS * 4))
    amplitudes.update(put_together(snn, "1:gelu" if merge else "2:linear", second * 2, ROWS * 2))
    by_hand = (
        Counter(
            {
                "accumulate": accumulations,
                "read-out": gelu,  # the GELU's own value
                "shift": accumulations
                + gelu
                + encoded * 2,  # and the exponent taken off, and the gain, a power of two
                "subtraction": spikes,
                # 4 thresholds; 4 segments for either sign, found by 2 comparisons and 1; 8 segments by 3
                "comparison": encoded * (4 + 3) + functions * (4 + 3),
                "addition": ROWS * (4 + 2) + encoded + functions,  # biases; the left edge of each segment
                "multiplication": functions,  # by the gain of a segment of any width
                # identities: the left edge; GELUs: constant, slope and gain as well
                "table read": encoded + 2 * functions,
            }
        )
        + amplitudes
    )
    found = energy(snn, X)
    assert totals(found.snn_operations) == by_hand
    assert totals(found.ann_operations) == ANN
    assert found.snn == pytest.approx(sum(FLOAT32[kind] * n for kind, n in by_hand.items()))
    assert found.ann == pytest.approx(4.6 * ANN["multiply-accumulate"] + 0.9 * ANN["addition"])
    assert found.share == found.snn / found.ann
    assert found.uncounted == {}


@pytest.mark.parametrize("merge", [True, False])
def test_two_layers_by_hand_as_published(merge: bool) -> None:
    """Spikes alone, at the neurons and at the weights; T x rate x elements is the number of spikes."""
    snn = small(merge)
    events = sent(snn)
    second = events["1:gelu" if merge else "2:linear"][0]
    found = energy(snn, X, "published")
    synaptic = sum(s for s, _ in events.values()) + events["0:linear"][0] * 4 + second * 2
    assert totals(found.snn_operations) == {"accumulate": synaptic}
    assert totals(found.ann_operations) == {"multiply-accumulate": ROWS * (3 * 4 + 4 * 2)}
    assert found.share == pytest.approx(0.9 * synaptic / (4.6 * ROWS * (3 * 4 + 4 * 2)))


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_parallel_bases_do_not_appear_in_the_published_count() -> None:
    """N = 8 bases of a product's two operands: 64 pairs of trains are counted as one."""
    a, b = tokens(2, 3), tokens(2, 4, seed=2)
    snn = convert(Calling(lambda m, a, b: a @ b.mT), [((a, b), {})], MBEConfig.published(time_steps=6))
    found = energy(snn, ((a, b), {}), "published")
    with torch.no_grad(), overheard(snn) as heard:
        snn(a, b)
    first, second = (calls[0].spikes().double().sum((0, 1)) for calls in heard.values())
    neurons = (round(float(first.sum()) / 8), round(float(second.sum()) / 8))
    pairs = round(float((first @ second).sum()) / 64)
    assert totals(found.snn_operations) == {"accumulate": sum(neurons) + pairs}
    assert totals(found.ann_operations) == {"multiply-accumulate": 2 * 3 * 4 * WIDTH}


def test_exact_sites_cost_both_networks_the_same() -> None:
    """An excluded layer is dense in the SNN too, and so is what lies between sites."""

    def forward(m: Calling, x: Tensor) -> Tensor:
        return m.fc(F.gelu(x)) + x.mean(-1, keepdim=True) * 3

    x = tokens(5)
    snn = convert(Calling(forward), [x], MBEConfig(exclude=("fc:*",)))
    found = energy(snn, x)
    spent = found.by_site()["fc:linear"]
    assert spent.snn == spent.ann == pytest.approx(4.6 * 5 * WIDTH * WIDTH + 0.9 * 5 * WIDTH)
    between = found.by_site()["(root)"]
    sums = 5 * WIDTH + 5 * WIDTH  # the mean's, the last addition
    products = 5 + 5  # 1/n, 3
    assert between.snn == between.ann == pytest.approx(0.9 * sums + 3.7 * products)
    published = energy(snn, x, "published").by_site()["fc:linear"]
    assert published.snn == published.ann == pytest.approx(4.6 * 5 * WIDTH * WIDTH)


FUNCTIONS: dict[str, tuple[Any, dict[str, int]]] = {
    "relu": (F.relu, {"comparison": 1}),
    "exp": (torch.exp, {"multiply-accumulate": 6}),
    "silu": (F.silu, {"multiply-accumulate": 12}),
    "square": (torch.square, {"multiplication": 1}),
    "softmax": (
        lambda x: torch.softmax(x, -1),
        {"comparison": 1, "addition": 2, "multiply-accumulate": 6 + 4 / WIDTH, "multiplication": 1},
    ),
    "layer_norm": (
        lambda x: F.layer_norm(x, (WIDTH,)),
        {"addition": 2, "multiply-accumulate": 1 + 4 / WIDTH, "multiplication": 1 + 2 / WIDTH},
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_function_costs_the_ann(name: str) -> None:
    function, each = FUNCTIONS[name]
    x = tokens(3).abs() + 0.1
    snn = convert(Calling(lambda m, x: function(x)), [x])
    found = energy(snn, x)
    site = next(site for site, _ in found.ann_operations if name in site)
    assert totals(found.ann_operations) == {kind: round(n * x.numel()) for kind, n in each.items()}
    assert found.by_site()[site].snn > 0


def test_convolutions_and_attention_cost_the_ann_their_products() -> None:
    x = torch.randn(2, 3, 5, 5)
    found = energy(convert(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), [x]), x)
    inside = sum(
        (min(i + 1, 4) - max(i - 1, 0) + 1) for i in range(5)
    )  # taps within the image along one side
    assert found.ann_operations["0:conv2d", "multiply-accumulate"] == 2 * 3 * 4 * inside * inside
    assert found.ann_operations["0:conv2d", "addition"] == 2 * 4 * 5 * 5
    q, k = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 5, 4)
    model = Calling(lambda m, q, k: F.scaled_dot_product_attention(q, k, k))
    found = energy(convert(model, [((q, k), {})]), ((q, k), {}))
    [macs] = [n for (_, kind), n in found.ann_operations.items() if kind == "multiply-accumulate"]
    assert macs == 2 * 2 * 3 * 5 * (4 + 4) + 6 * 2 * 2 * 3 * 5 + 4 * 2 * 2 * 3


def test_a_whole_network_adds_up_and_says_what_it_holds_for() -> None:
    snn = convert(transformer(depth=1), [tokens()], MBEConfig(time_steps=5))
    before = snn(tokens())
    for accounting in ACCOUNTINGS:
        for baseline in BASELINES:
            found = energy(snn, tokens(), accounting, baseline=baseline)
            assert isinstance(found, Energy)
            for parts in (found.by_site(), found.by_kind()):
                assert sum(spent.snn for spent in parts.values()) == pytest.approx(found.snn)
                assert sum(spent.ann for spent in parts.values()) == pytest.approx(found.ann)
            for text in (str(found), found.to_markdown()):
                assert f"accounting '{accounting}', baseline {baseline}" in text
                assert ACCOUNTINGS[accounting] in text
                assert "45 nm" in text
            data = json.loads(json.dumps(found.to_dict()))
            assert (data["accounting"], data["baseline"], data["unit"]) == (accounting, baseline, "pJ")
            assert data["share"] == pytest.approx(found.snn / found.ann)
    assert found.uncounted == {}
    assert torch.equal(snn(tokens()), before)
    ann = [energy(snn, tokens(), baseline=b).ann for b in ("float32", "float16", "int8")]
    assert ann == sorted(ann, reverse=True)


def test_costs_can_be_replaced_and_are_checked() -> None:
    snn = small(merge=True)
    ones = dict.fromkeys(KINDS, 1.0)
    found = energy(snn, X, costs=ones)
    assert (found.snn, found.ann) == (found.snn_operations.total(), found.ann_operations.total())
    assert "given by the caller" in str(found)
    assert energy(snn, X, costs=ones, baseline="int8").ann == energy(snn, X, baseline="int8").ann
    with pytest.raises(ValueError, match=r"costs says nothing of \['read-out'\]"):
        energy(snn, X, costs={k: 1.0 for k in KINDS if k != "read-out"})
    with pytest.raises(ValueError, match=r"unknown kinds of operations \['multiply'\]"):
        energy(snn, X, costs={**ones, "multiply": 1.0})
    with pytest.raises(ValueError, match=r"0 or more pJ, got {'shift': -1}"):
        energy(snn, X, costs={**ones, "shift": -1})


def test_what_it_refuses() -> None:
    snn = small(merge=True)
    with pytest.raises(
        ValueError, match=r"accounting must be one of .*'complete', 'memory', 'published'.*, got 'honest'"
    ):
        energy(snn, X, "honest")
    with pytest.raises(
        ValueError, match=r"baseline must be one of .*'float32', 'float16', 'int8'.*, got 'fp4'"
    ):
        energy(snn, X, baseline="fp4")
    with pytest.raises(ConversionError, match="is no converted network"):
        energy(two_layers(), X)


def test_a_function_of_which_no_count_is_known_is_named() -> None:
    x = tokens(4)
    snn = convert(Calling(lambda m, x: m.fc(x).sort(-1).values), [x])
    found = energy(snn, x)
    assert found.uncounted == {"sort in (root)": 1}
    assert "NOT COUNTED in either network, no count of operations is known: sort in (root) (1x)" in str(found)


def test_a_first_spike_code_has_no_side_events_and_a_dead_zone_costs_a_comparison() -> None:
    """One event per number at most; its bank is found by the mantissa, its scale taken off by a shift."""
    config = MBEConfig(time_steps=8, identity_bases=16, code="first_spike", dead_zone=0.4)
    snn = convert(nn.Sequential(nn.Linear(3, 4)), [X], config)
    found = energy(snn, X)
    [node] = [m for m in snn.modules() if isinstance(m, CalibratedNode)]
    speaking = X.abs() >= node.dead_zone
    spikes = int(speaking.sum())
    assert 0 < spikes < int((X != 0).sum())
    apart = 2 * 8 * ROWS * 4  # 8 segments' middles, evenly spaced, would be 8 sums for each output
    assert spikes * 4 < apart
    steps = sum(
        2.0 ** (float(node.exponents) - t) > node.dead_zone for t in range(8)
    )  # below it none is taken
    assert 0 < steps < 8
    assert totals(found.snn_operations) == {
        "accumulate": spikes * 4,
        "multiplication": spikes * 4,  # a weight by the middle of a segment
        "shift": spikes * 4 + X.numel(),  # fewer than one a step for each output
        "subtraction": spikes,
        # thresholds; 8 segments by 3 and the sign; the largest value of the code; the dead zone
        "comparison": X.numel() * (steps + 3 + 1 + 1 + 1),
        "addition": ROWS * 4,
    }


@pytest.mark.parametrize("bases", [4, 16])
def test_events_of_each_amplitude_are_summed_apart_where_that_is_fewer_operations(bases: int) -> None:
    """A wide layer: N / 2 sums for each output, doubled once a step, put together by twice as many additions."""
    x = torch.randn(2, 200, generator=torch.Generator().manual_seed(3))
    config = MBEConfig(time_steps=6, identity_bases=bases, code="first_spike")
    snn = convert(nn.Sequential(nn.Linear(200, 3, bias=False)), [x], config)
    found = totals(energy(snn, x).snn_operations)
    [node] = [m for m in snn.modules() if isinstance(m, CalibratedNode)]
    magnitudes = x.abs() / 2.0 ** float(node.exponents)
    spikes = int((magnitudes >= 2.0**-6).sum())
    assert found["accumulate"] == spikes * 3
    assert found["addition"] == 2 * bases // 2 * 2 * 3
    assert found["shift"] == x.numel() + min(spikes * 3, 6 * (bases // 2 + 1) * 2 * 3)
    assert "multiplication" not in found
