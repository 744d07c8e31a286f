"""Latency: windows and steps on the longest path of networks small enough to count by hand."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling, tokens, transformer
from test_recording import overheard
from torch import Tensor, nn

from mbe_plugin import MBEConfig, as_sequence, convert, energy, load, report, save
from mbe_plugin.recording import Latency, NeuronCall, latency_of

T = 5


def latency(model: nn.Module, x: Tensor, **settings: Any) -> Latency:
    snn = convert(model, [x], MBEConfig(**{"time_steps": T, **settings}))
    found = energy(snn, x).latency
    reported = report(snn).latency
    assert reported == found, "the report measures it on the first calibration batch"
    assert (found.steps, found.interval) == (T * found.windows, T)
    return found


def calling(function: Callable[..., Any], *args: Tensor) -> Latency:
    return latency(Calling(function), *args or (tokens(3),))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 6), nn.GELU(), nn.Linear(6, WIDTH))


@pytest.mark.parametrize("merge", [True, False])
def test_an_mlp(merge: bool) -> None:
    """The first encoder, the GELU, and the second encoder where the GELU's own train does not serve the layer."""
    found = latency(mlp(), tokens(3), merge=merge)
    again = () if merge else ("2:linear encoders.0",)
    assert found.path == ("0:linear encoders.0", "1:gelu neuron", *again)
    assert found.windows == len(found.path)


class Residual(nn.Module):
    """Two branches beside a connection that skips them, and a layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.short, self.head = mlp(), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.long(x) + self.short(x))


@pytest.mark.parametrize("merge", [True, False])
def test_branches_run_beside_each_other(merge: bool) -> None:
    """A residual connection and a shorter branch wait for the longer one: its windows, and the last encoder."""
    found = latency(Residual(), tokens(3), merge=merge)
    again = () if merge else ("long.2:linear encoders.0",)
    assert found.path == ("long.0:linear encoders.0", "long.1:gelu neuron", *again, "head:linear encoders.0")


@pytest.mark.parametrize("merge", [True, False])
def test_layer_norm(merge: bool) -> None:
    """1/sqrt waits for the deviation's train; their pairs feed the weights, or are encoded once more."""
    found = latency(nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)), tokens(3), merge=merge)
    again = () if merge else ("1:linear encoders.0",)
    assert found.path == ("0:layer_norm deviation", "0:layer_norm rsqrt", *again)


class SelfAttention(nn.Module):
    """q, k and v from one input."""

    def __init__(self, deep: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.deep = deep

    def forward(self, x: Tensor) -> Tensor:
        v = self.v(x)
        if self.deep:
            for _ in range(4):
                v = F.gelu(v)
        return F.scaled_dot_product_attention(self.q(x), self.k(x), v)


def test_attention_has_q_k_and_v_in_parallel() -> None:
    """x; then q, k and v at once; 2^x of the scores; then 1/sum, which waits for 2^x, beside the mixed values."""
    found = latency(SelfAttention(), tokens(2, 4))
    assert found.windows == 4
    first, operand, weight, last = (neuron.split()[1] for neuron in found.path)
    assert (first, weight) == ("encoders.0", "softmax.exp2")
    assert operand in ("query", "key")
    assert last in ("softmax.reciprocal", "mixed")


def test_attention_waits_for_the_deepest_of_its_operands() -> None:
    """Four neurons on v's way: x, four of them, whose last train is v's own, and the mixed values."""
    found = latency(SelfAttention(deep=True), tokens(2, 4))
    assert [neuron.split()[1] for neuron in found.path] == ["encoders.0", *["neuron"] * 4, "mixed"]


OTHERS: dict[str, tuple[Callable[..., Any], int]] = {
    "a shape is no wait": (lambda m, x: F.gelu(x + torch.zeros_like(F.gelu(x))), 1),
    "an index is one": (lambda m, x: F.gelu(x + F.gelu(x).argmax(-1, keepdim=True)), 2),
    "written in place": (lambda m, x: F.gelu(x.clone().add_(F.gelu(x))), 2),
    "written into a part": (lambda m, x: _written(x.clone()), 2),
    "written into a view": (lambda m, x: _viewed(x.clone()), 2),
    "joined": (lambda m, x: F.gelu(torch.cat([x, F.gelu(x)])), 2),
    "split": (lambda m, x: F.gelu(F.gelu(F.gelu(x)).chunk(2)[1]), 3),
    "a sum of sums": (lambda m, x: F.gelu(x + sum([F.gelu(x), F.gelu(F.gelu(x))])), 3),
    "one neuron twice": (lambda m, x: x + F.gelu(x) + F.gelu(x), 1),
    "a product": (lambda m, x: F.gelu(x) * torch.tanh(x), 1),
    "a product of three": (lambda m, x: F.gelu(x) * torch.tanh(x) * torch.sigmoid(x), 2),
}


def _written(x: Tensor) -> Tensor:
    x[:1] = F.gelu(x[:1])
    x[1:2].mul_(1.5)
    return F.gelu(x)


def _viewed(x: Tensor) -> Tensor:
    x[:1].copy_(F.gelu(x[1:2]))
    return F.gelu(x)


@pytest.mark.parametrize("name", OTHERS)
def test_the_path_follows_the_data(name: str) -> None:
    function, windows = OTHERS[name]
    assert calling(function).windows == windows


def test_what_the_output_does_not_need_is_on_no_path() -> None:
    def forward(m: Calling, x: Tensor) -> Tensor:
        F.gelu(F.gelu(F.gelu(x)))
        return F.gelu(x)

    assert calling(forward).windows == 1


def test_steps_and_not_windows_decide_the_longest_path() -> None:
    """One branch of two short windows, one of a long one."""
    config = MBEConfig(time_steps=3, sites=(("*:tanh", {"time_steps": 10}),))

    def forward(m: Calling, x: Tensor) -> Tensor:
        return F.gelu(F.gelu(x)) + torch.tanh(x)

    x = tokens(3)
    found = energy(convert(Calling(forward), [x], config), x).latency
    assert (found.windows, found.steps, found.interval) == (1, 10, 10)
    assert found.path == ("(root):tanh neuron",)


def test_windows_that_end_with_their_last_spike() -> None:
    """Numbers in [.5, 1), of scale 1: a first spike at the first step. A number in [.125, .25): at the third."""
    config = MBEConfig(time_steps=T, code="first_spike", identity_bases=8, margin=0.0, merge=False)
    layer = nn.Linear(4, 4, bias=False)
    nn.init.eye_(layer.weight)
    x = torch.tensor([[0.6, 0.7, -0.8, 0.9]])
    snn = convert(nn.Sequential(layer, nn.Identity()), [x], config)
    found = energy(snn, x).latency
    assert (found.windows, found.steps, found.until_last_spike, found.mean_step) == (1, T, 1, 1.0)
    found = energy(snn, torch.tensor([[0.6, 0.7, -0.2, 0.9]])).latency
    assert (found.steps, found.until_last_spike, found.mean_step) == (T, 3, 1.5)
    found = energy(snn, torch.zeros(1, 4)).latency
    assert (found.steps, found.until_last_spike, found.mean_step) == (T, 1, 0.0)


def test_last_spikes_are_those_of_the_explicit_trains() -> None:
    snn = convert(mlp(), [tokens(3)], MBEConfig(time_steps=T))
    small = tokens(3) * 1e-9  # whose encoder sends as ever, and whose GELU sends little
    with torch.no_grad(), overheard(snn) as heard:
        snn(small)
    found = energy(snn, small).latency
    trains = [call.spikes().flatten(2).sum((1, 2)) for [call] in heard.values()]
    lasts = [max(int(train.nonzero().max()) + 1 if train.any() else 1, 1) for train in trains]
    assert found.until_last_spike == sum(lasts)
    times = torch.arange(1, T + 1)
    total = sum(trains)
    assert found.mean_step == pytest.approx(float((total * times).sum() / total.sum()))


def every_path(calls: list[NeuronCall], to: int) -> list[tuple[int, ...]]:
    before = calls[to].waits_for
    return [(to,)] if not before else [(*p, to) for b in before for p in every_path(calls, b)]


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_of_all_paths(seed: int) -> None:
    """Against every path of a random graph, one by one."""
    draw = random.Random(seed)
    calls = [
        NeuronCall(
            f"site {i}",
            "neuron",
            draw.randint(1, 9),
            frozenset(draw.sample(range(i), min(i, draw.randint(0, 3)))),
        )
        for i in range(9)
    ]
    ends = draw.sample(range(9), 3)
    found = latency_of(calls, ends, {})
    paths = list(itertools.chain.from_iterable(every_path(calls, end) for end in ends))
    assert found.steps == found.until_last_spike == max(sum(calls[i].time_steps for i in p) for p in paths)
    assert found.interval == max(c.time_steps for c in calls)
    assert len(found.path) == found.windows


def test_a_network_without_a_neuron_on_the_way_takes_no_step() -> None:
    assert latency_of([], [], {}) == Latency(0, 0, 0, 0, 0.0, ())


def test_it_is_the_same_in_step_mode_m() -> None:
    snn = convert(transformer(depth=1), [tokens()], MBEConfig(time_steps=T))
    found = energy(snn, tokens()).latency
    snn.step_mode = "m"
    assert energy(snn, as_sequence(tokens(), T)).latency == found


def test_it_is_written_printed_and_stored(tmp_path: Path) -> None:
    model = transformer(depth=1)
    snn = convert(model, [tokens()], MBEConfig(time_steps=T))
    found = energy(snn, tokens())
    line = (
        f"{found.latency.windows} windows on the longest path, {found.latency.steps} steps from input to output, {T} "
        "between two inputs in a pipeline"
    )
    for text in (str(found), found.to_markdown(), str(report(snn)), report(snn).to_markdown()):
        assert line in text
    assert json.loads(json.dumps(found.to_dict()))["latency"]["path"] == list(found.latency.path)
    save(snn, tmp_path)
    assert report(load(tmp_path, model)).latency == report(snn).latency
    stored = json.loads((tmp_path / "mbe.json").read_text())
    assert stored.pop("latency")["steps"] == asdict(found.latency)["steps"]
    (tmp_path / "mbe.json").write_text(json.dumps(stored))
    assert report(load(tmp_path, model)).latency is None
    assert "latency: not measured when this network was made" in str(report(load(tmp_path, model)))


def test_nothing_stays_on_tensors() -> None:
    kept = []
    snn = convert(Calling(lambda m, x: F.gelu(m.fc(x))), [tokens(3)], MBEConfig(time_steps=T))
    snn.register_forward_hook(lambda module, args, out: kept.append(out))
    x = tokens(3)
    energy(snn, x)
    assert not any("_mbe_waits" in vars(tensor) for tensor in (x, *kept))
