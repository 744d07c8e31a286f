"""recording/: what a converted network sends, counted and as trains, against the reference spikes of what went in."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any

import pytest
import torch
from networks import WIDTH, Calling, tokens, transformer
from spikingjelly.activation_based import functional
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import ConversionError, MBEConfig, convert, count_spikes, record
from mbe_plugin.operators import CalibratedNode, SharedScaleNode
from mbe_plugin.recording.record import _listener

CONFIGS = {
    "routed": MBEConfig(time_steps=6),
    "steps": MBEConfig(time_steps=6, simulate="steps"),
    "published": MBEConfig.published(time_steps=6, bases=4),
    "token": MBEConfig(time_steps=6, scale="token"),
    "channel": MBEConfig(time_steps=6, scale="channel"),
    "tensor": MBEConfig(time_steps=6, scale="tensor"),
    "first spike": MBEConfig(time_steps=6, code="first_spike"),
    "first spike, channel": MBEConfig(time_steps=6, code="first_spike", scale="channel"),
}
MASK = torch.zeros(4, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)


class Heard:
    """One call of a neuron, overheard by a forward hook: input, mask, dimension and output."""

    def __init__(self, node: CalibratedNode, args: tuple, kwargs: dict[str, Any], out: Tensor) -> None:
        self.node, self.x, self.out = node, args[0].detach(), out.detach()
        self.dim = args[1] if len(args) > 1 else kwargs.get("dim", -1)
        self.where = kwargs.get("where")
        self.took_part = torch.ones_like(self.x, dtype=torch.bool) if self.where is None else self.where

    def spikes(self) -> Tensor:
        """The reference's spikes; a shared power of two is taken off with frexp."""
        x = self.x.float()
        if isinstance(self.node, SharedScaleNode):
            exponent = self.node.exponents
            if self.node.shared == "token":
                exponent = torch.frexp(x.abs().amax(self.dim, keepdim=True)).exponent
            elif self.node.shared == "channel":
                exponent = exponent.reshape([-1 if d == self.dim % x.dim() else 1 for d in range(x.dim())])
            x = torch.ldexp(x, -exponent)
        return self.node.spikes(x) * self.took_part


@contextmanager
def overheard(snn: nn.Module) -> Iterator[dict[tuple[str, str], list[Heard]]]:
    found: dict[tuple[str, str], list[Heard]] = {}

    def hear(node: Any, args: tuple, kwargs: dict[str, Any], out: Tensor) -> None:
        found.setdefault((node.site, node.role), []).append(Heard(node, args, kwargs, out))

    nodes = [m for m in snn.modules() if isinstance(m, CalibratedNode)]
    handles = [node.register_forward_hook(hear, with_kwargs=True) for node in nodes]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(scope="module")
def snn() -> nn.Module:
    return convert(transformer(), [tokens()], CONFIGS["routed"])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in CONFIGS),
        ("routed", torch.float64),
        ("routed", torch.bfloat16),
        ("token", torch.bfloat16),
    ],
)
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_counts_trains_and_weighted_spikes_are_those_of_what_went_in(name: str, dtype: torch.dtype) -> None:
    """Every kind of neuron, half of the scores masked, two calls."""
    snn = convert(transformer(depth=1), [((tokens(), MASK), {})], CONFIGS[name]).to(dtype)
    with torch.no_grad(), overheard(snn) as heard, record(snn, trains=True) as rec:
        snn(tokens().to(dtype), MASK.to(dtype))
        snn(tokens(seed=2).to(dtype), MASK.to(dtype))
    assert list(rec.neurons) == list(heard)
    assert any(h.where is not None for calls in heard.values() for h in calls)
    for key, neuron in rec.neurons.items():
        calls = heard[key]
        assert len(neuron.trains) == len(calls)
        assert torch.equal(neuron.counts, sum(h.spikes().flatten(2).sum(2) for h in calls).to(torch.int64))
        assert neuron.elements == neuron.sampled == sum(int(h.took_part.sum()) for h in calls)
        for train, h in zip(neuron.trains, calls, strict=True):
            assert torch.equal(train.spikes(), h.spikes().to(train.membrane.dtype))
            weighted = train.weighted()
            assert weighted.dtype == (torch.float64 if h.x.dtype == torch.float64 else torch.float32)
            assert weighted.shape == (6, *h.x.shape)
            want = torch.where(h.took_part, h.out, 0.0).to(weighted.dtype)
            close = 2.0**-7 if dtype == torch.bfloat16 else 1e-5  # bfloat16 rounds the decoded value
            torch.testing.assert_close(weighted.sum(0), want, rtol=close, atol=close * 1e-1)


def test_side_events_are_the_exponents_sent() -> None:
    x = torch.tensor([[0.0, 1.0, -3.0, 0.25]])
    sent = {"element": 3, "token": 1, "channel": 0, "tensor": 0}
    for scale, wanted in sent.items():
        snn = convert(nn.Sequential(nn.Linear(4, 4)), [x + 1], MBEConfig(scale=scale, margin=3.0))
        with record(snn) as rec:
            snn(x)
        [neuron] = rec.neurons.values()
        assert (neuron.exponents, rec.exponents) == (wanted, wanted), scale
        assert (neuron.events, rec.events) == (rec.total + wanted, rec.total + wanted)


def test_the_three_rates_and_their_denominators() -> None:
    """A routed neuron drives one of its banks, the published one all its N bases."""
    x = torch.linspace(-3, 3, 60)
    for config, driven in ((MBEConfig(time_steps=4, bases=8), 1), (MBEConfig.published(time_steps=4), 8)):
        snn = convert(nn.Sequential(nn.GELU()), [x], config)
        with record(snn) as rec:
            snn(x)
        [neuron] = rec.neurons.values()
        assert (neuron.time_steps, neuron.bases, neuron.bases_per_element) == (4, 8, driven)
        for one in (neuron, rec):
            assert one.rate_per_step == pytest.approx(rec.total / (60 * 4))
            assert one.rate_per_slot == pytest.approx(rec.total / (60 * 4 * 8))
            assert one.firing_rate == pytest.approx(rec.total / (60 * 4 * driven))


def test_totals_by_site(snn: nn.Module) -> None:
    with record(snn) as rec:
        snn(tokens())
    sites = rec.by_site()
    assert list(sites) == list(dict.fromkeys(site for site, _ in rec.neurons))
    assert sum(part.total for part in sites.values()) == rec.total > 0
    assert sum(part.exponents for part in sites.values()) == rec.exponents > 0
    softmax = sites["layers.0.attention:softmax"]
    assert set(softmax.neurons) == {(s, r) for s, r in rec.neurons if s == "layers.0.attention:softmax"}


def test_sites_are_chosen_by_name_and_by_pattern(snn: nn.Module) -> None:
    with record(snn) as every, record(snn, sites=["layers.0:gelu", "*.attention:softmax"]) as some:
        snn(tokens())
    names = {"layers.0:gelu", "layers.0.attention:softmax", "layers.1.attention:softmax"}
    assert {site for site, _ in some.neurons} == names
    for key, neuron in some.neurons.items():
        assert torch.equal(neuron.counts, every.neurons[key].counts)
    with record(snn, sites="layers.1:gelu") as one:
        snn(tokens())
    assert list(one.neurons) == [("layers.1:gelu", "neuron")]


def test_a_site_that_shares_a_train_is_recorded_by_its_first_name() -> None:
    snn = convert(transformer(depth=1), [tokens()], MBEConfig(merge=False))
    with record(snn, sites="layers.0.attention.v:linear") as rec:
        snn(tokens())
    assert list(rec.neurons) == [("layers.0.attention.q:linear", "encoders.0")]


def test_a_pattern_without_a_site_names_the_near_ones(snn: nn.Module) -> None:
    near = "no site of this network matches 'layer.0:gelu'; near it: layers.0:gelu, layers.1:gelu"
    with pytest.raises(ValueError, match=near), record(snn, sites=["layers.1:gelu", "layer.0:gelu"]):
        pass
    with pytest.raises(ValueError, match="matches '%'; near it: embed:linear, "), record(snn, sites="%"):
        pass
    fed = "layers.0.down:linear has no neuron of its own, it reads the trains of others"
    with pytest.raises(ValueError, match=fed), record(snn, sites="layers.0.down:linear"):
        pass


@pytest.mark.parametrize("recorder", [record, count_spikes])
def test_no_neurons(recorder: Any) -> None:
    with (
        pytest.raises(ConversionError, match="this Linear has no neurons to record"),
        recorder(nn.Linear(2, 2)),
    ):
        pass


def test_trains_are_whole_and_asked_for(snn: nn.Module) -> None:
    with pytest.raises(ValueError, match="leave out most=8"), record(snn, trains=True, most=8):
        pass
    with (
        pytest.raises(ValueError, match="most must be 1 or more elements of a call, got 0"),
        record(snn, most=0),
    ):
        pass
    with record(snn) as rec:
        snn(tokens())
    with pytest.raises(ValueError, match="no trains were recorded"):
        rec.neurons["layers.0:gelu", "neuron"].trains  # noqa: B018


def test_a_train_is_what_it_was_although_the_network_writes_on_and_changes() -> None:
    def writing(m: Calling, x: Tensor) -> Tensor:
        y = m.fc(x)
        x.zero_()
        return y

    snn = convert(Calling(writing), [tokens()])
    with torch.no_grad(), record(snn, trains=True) as rec:
        snn(tokens())
    [neuron] = rec.neurons.values()
    [train] = neuron.trains
    for node in (m for m in snn.modules() if isinstance(m, CalibratedNode)):
        node.th.mul_(2)
    assert torch.equal(train.spikes().flatten(2).sum(2).to(torch.int64), neuron.counts)
    assert neuron.total > 0


def test_estimates_hold_with_a_mask() -> None:
    x, dead = torch.randn(64, 64), torch.zeros(64, 64).masked_fill(torch.arange(64) % 2 == 0, -torch.inf)
    snn = convert(nn.Sequential(nn.Softmax(-1)), [x])
    with record(snn) as every, record(snn, most=700) as some:
        snn(x + dead)
    exact, estimate = (r.neurons["0:softmax", "exp2"] for r in (every, some))
    assert exact.elements == estimate.elements == exact.sampled <= 64 * 32
    assert 0 < estimate.sampled < 700
    assert estimate.total == pytest.approx(exact.total, rel=0.15)
    assert estimate.exponents == pytest.approx(exact.exponents, rel=0.15)
    assert some.estimated
    assert not every.estimated


def test_nothing_comes_in() -> None:
    snn = convert(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()), [tokens()])
    with torch.no_grad(), record(snn, trains=True) as rec:
        snn(torch.empty(0, WIDTH))
    assert (rec.total, rec.exponents, rec.firing_rate, rec.rate_per_step, rec.rate_per_slot) == (
        0,
        0,
        0,
        0,
        0,
    )
    for neuron in rec.neurons.values():
        assert neuron.elements == 0
        assert neuron.trains[0].spikes().shape[2:] == neuron.trains[0].weighted().shape[1:] == (0, WIDTH)
    with record(snn) as rec:
        pass
    assert (rec.neurons, rec.total, rec.firing_rate) == ({}, 0, 0)


def test_blocks_that_overlap_and_end_in_any_order(snn: nn.Module) -> None:
    """As two threads' blocks do: the first to begin ended first and took the second's listener along."""
    first, second = record(snn), record(snn)
    one = first.__enter__()
    two = second.__enter__()
    snn(tokens())
    first.__exit__(None, None, None)
    snn(tokens())
    second.__exit__(None, None, None)
    snn(tokens())
    assert two.total == 2 * one.total > 0
    assert all(m.spike_listener is None for m in snn.modules() if isinstance(m, CalibratedNode))


def test_forwards_of_several_threads_are_all_counted(snn: nn.Module) -> None:
    with torch.no_grad(), record(snn, trains=True) as once:
        snn(tokens())
        calls = {key: len(n.trains) for key, n in once.neurons.items()}
    with torch.no_grad(), record(snn, trains=True) as rec, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: snn(tokens()), range(8)))
    assert rec.total == 8 * once.total
    assert {key: len(n.trains) for key, n in rec.neurons.items()} == {k: 8 * n for k, n in calls.items()}


def test_a_copy_made_inside_the_block_is_not_recorded(snn: nn.Module) -> None:
    with record(snn) as rec:
        copies = copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))
    for one in copies:
        assert all(m.spike_listener is None for m in one.modules() if isinstance(m, CalibratedNode))
    with record(snn) as rec:
        copy.deepcopy(snn)(tokens())
    assert rec.neurons == {}


def test_a_recording_outlives_inference_mode(snn: nn.Module) -> None:
    """Its counts were inference tensors, to which a later forward outside could not add."""
    with record(snn, trains=True) as rec:
        with torch.inference_mode():
            snn(tokens())
        once = rec.total
        snn(tokens()).sum().backward()
    assert rec.total == 2 * once


def test_recording_changes_no_bit_and_no_gradient(snn: nn.Module) -> None:
    found = []
    for _ in range(2):
        x = tokens(seed=3).requires_grad_()
        y = snn(x)
        found.append((y.detach(), torch.autograd.grad(y.square().sum(), x)[0]))
        if len(found) == 1:
            block = record(snn, trains=True)
            block.__enter__()
    block.__exit__(None, None, None)
    (y, gradient), (recorded, of_recorded) = found
    assert torch.equal(recorded, y)
    assert torch.equal(of_recorded, gradient)


@pytest.mark.compiled
@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # torch's own
def test_a_compiled_forward_is_refused() -> None:
    snn = convert(nn.Sequential(nn.GELU()), [tokens()])
    torch._dynamo.reset()
    compiled = torch.compile(snn, backend="eager")
    with (
        torch.no_grad(),
        record(snn),
        pytest.raises(torch._dynamo.exc.Unsupported, match="a compiled forward cannot be recorded"),
    ):
        compiled(tokens())


def test_counting_waits_for_no_device() -> None:
    """On the meta device a look at a value, a boolean index or a bincount raises, as it would wait elsewhere."""
    for config in (CONFIGS["routed"], CONFIGS["steps"], CONFIGS["published"], CONFIGS["token"]):
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Softmax(-1))
        snn = convert(model, [tokens()], dataclasses.replace(config, merge=False))
        for node in (m for m in snn.modules() if isinstance(m, CalibratedNode)):
            node.to("meta")
            x = torch.empty(4, WIDTH, device="meta")
            shared = torch.empty(4, 1, device="meta") if isinstance(node, SharedScaleNode) else None
            for most in (None, 8):
                rec = mbe_plugin.Recording()
                _listener(rec, Lock(), node, False, most)(x, x > 0, shared)
                assert rec.neurons[node.site, node.role].counts.device.type == "meta"


def test_step_mode_m_sends_the_same_events() -> None:
    snn = convert(transformer(depth=1), [tokens()], CONFIGS["routed"])
    with torch.no_grad(), record(snn, trains=True) as wanted:
        snn(tokens())
    functional.set_step_mode(snn, "m")
    with torch.no_grad(), record(snn, trains=True) as rec:
        snn(mbe_plugin.as_sequence(tokens(), 6))
    assert list(rec.neurons) == list(wanted.neurons)
    for key, neuron in rec.neurons.items():
        assert torch.equal(neuron.counts, wanted.neurons[key].counts)
        assert torch.equal(neuron.trains[0].weighted(), wanted.neurons[key].trains[0].weighted())


def test_a_part_of_a_larger_network_is_recorded_too(snn: nn.Module) -> None:
    larger = nn.Sequential(nn.Linear(WIDTH, WIDTH), snn)
    with record(larger, sites="layers.0:gelu") as rec:
        larger(tokens())
    assert list(rec.neurons) == [("layers.0:gelu", "neuron")]


def test_count_spikes_is_a_recording(snn: nn.Module) -> None:
    with count_spikes(snn) as counts, record(snn) as rec:
        snn(tokens())
    assert isinstance(counts, mbe_plugin.SpikeCounts)
    assert mbe_plugin.SpikeCounts is mbe_plugin.Recording
    assert counts.total == rec.total
