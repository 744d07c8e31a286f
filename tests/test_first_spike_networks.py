"""Networks whose activations are encoded by the first-spike code: what they send, lose, report and store."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from networks import tokens, transformer
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import MBEConfig, convert, record, report
from mbe_plugin.operators import CalibratedNode, SharedScaleNode

FIRST_SPIKE = MBEConfig(code="first_spike", identity_bases=64)


def identities(snn: nn.Module) -> list[SharedScaleNode]:
    return [m for m in snn.modules() if isinstance(m, SharedScaleNode)]


def linear(config: MBEConfig, x: Tensor) -> nn.Module:
    """One linear layer that hands on what it is given, calibrated on x."""
    layer = nn.Linear(x.shape[-1], x.shape[-1], bias=False)
    nn.init.eye_(layer.weight)
    return convert(nn.Sequential(layer), [x], config)


@pytest.mark.parametrize("scale", ["auto", "tensor", "channel"])
def test_every_identity_sends_at_most_one_spike_and_nothing_beside_it(scale: str) -> None:
    model = transformer()
    config = MBEConfig(code="first_spike", identity_bases=64, scale=scale)  # type: ignore[arg-type]
    snn = convert(model, [tokens()], config)
    assert {n.code for n in identities(snn)} == {"first_spike"}
    assert all(n.function != "identity" or isinstance(n, SharedScaleNode) for n in _neurons(snn))
    with record(snn) as found:
        got = snn(tokens())
    want = model(tokens())
    assert (got - want).abs().max() < 0.05 * want.abs().max()
    for node in identities(snn):
        sent = found.neurons[node.site, node.role]
        assert sent.exponents == 0
        assert 0 < sent.total <= sent.elements
    functions = [n for n in _neurons(snn) if n.function != "identity"]
    assert functions and all(n.code == "binary" for n in functions), "functions keep their tables"


def _neurons(snn: nn.Module) -> list[CalibratedNode]:
    return [m for m in snn.modules() if isinstance(m, CalibratedNode)]


@pytest.mark.parametrize("scale", ["tensor", "channel"])
def test_the_value_is_the_middle_of_a_segment_of_the_octave(scale: str) -> None:
    """Against plain arithmetic: 4 segments of the octave, T = 3 octaves below the scale, 8."""
    x = torch.tensor([[7.9, 4.0, 0.9, -1.1, 0.99, 0.0]])
    config = MBEConfig(code="first_spike", identity_bases=8, time_steps=3, scale=scale, margin=0.0)  # type: ignore[arg-type]
    calibrated = torch.tensor([[5.0, -7.9, 6.0, 5.0, 7.0, 5.0]])
    snn = linear(config, calibrated)
    assert snn(x).tolist() == [[7.5, 4.5, 0.0, -1.125, 0.0, 0.0]]


@pytest.mark.parametrize("scale", ["tensor", "channel"])
def test_what_leaves_the_range_saturates_is_counted_and_warned_of(scale: str) -> None:
    config = MBEConfig(code="first_spike", identity_bases=8, scale=scale, margin=0.0)  # type: ignore[arg-type]
    snn = linear(config, torch.tensor([[3.0, -3.5]]))
    with pytest.warns(mbe_plugin.RangeWarning, match="0:linear"):
        y = snn(torch.tensor([[4.5, -100.0]]))
    assert y.tolist() == [[3.75, -3.75]]
    [node] = identities(snn)
    assert (int(node.seen), int(node.outside)) == (2, 2)


def test_small_values_are_silent_and_within_the_range() -> None:
    snn = linear(MBEConfig(code="first_spike", time_steps=4), torch.tensor([[1.0, -1.0]]))
    assert snn(torch.tensor([[1e-3, -1e-9]])).tolist() == [[0.0, 0.0]]
    [node] = identities(snn)
    assert (int(node.seen), int(node.outside), int(node.beyond)) == (2, 0, 0)


@pytest.mark.parametrize("scale", ["tensor", "channel"])
def test_both_simulations_give_the_same_bits(scale: str) -> None:
    outputs = []
    for simulate in ("closed", "steps"):
        config = MBEConfig(code="first_spike", time_steps=6, scale=scale, simulate=simulate)  # type: ignore[arg-type]
        snn = convert(transformer(), [tokens()], config)
        with record(snn) as found:
            outputs.append((snn(tokens()), found))
    (closed, counted), (steps, counted_too) = outputs
    assert torch.equal(closed, steps)
    assert all(torch.equal(n.counts, counted_too.neurons[k].counts) for k, n in counted.neurons.items())


def test_trains_spell_the_decoded_values() -> None:
    snn = linear(MBEConfig(code="first_spike", scale="channel"), torch.randn(50, 4))
    x = torch.randn(5, 4)
    with record(snn, trains=True) as found:
        y = snn(x)
    [neuron] = found.neurons.values()
    [train] = neuron.trains
    assert torch.equal(train.weighted().sum(0), y)
    assert train.spikes().sum((0, 1)).max() == 1
    assert torch.equal(train.spikes().sum((2, 3)).long(), neuron.counts)


def test_the_code_of_some_sites_and_roles() -> None:
    config = MBEConfig(
        merge=False,
        sites=(("layers.0*:linear", {"code": "first_spike"}), ("*|deviation", {"code": "first_spike"})),
    )
    found = report(convert(transformer(), [tokens()], config))
    codes = {
        (s.site, n.role): (n.code, n.scale)
        for s in found.sites
        for n in s.neurons
        if n.function == "identity"
    }
    assert len(codes) > 10
    for (site, role), sent in codes.items():
        spikes = role == "deviation" or (site.startswith("layers.0") and site.endswith(":linear"))
        assert sent == (("first_spike", "tensor") if spikes else ("binary", "element")), (site, role)


def test_a_conflict_of_two_patterns_is_named_with_its_site() -> None:
    config = MBEConfig(sites=(("*", {"code": "first_spike"}), ("head*", {"scale": "element"})))
    with pytest.raises(ValueError, match="head:linear: code 'first_spike' sends no exponent"):
        convert(transformer(), [tokens()], config)


def test_layers_that_read_one_tensor_share_a_train_only_in_one_code() -> None:
    for code, shared in (("first_spike", True), ("binary", False)):
        config = MBEConfig(code="first_spike", merge=False, sites=(("*attention.k:linear", {"code": code}),))
        snn = convert(transformer(), [tokens()], config)
        q, k = (snn.mbe[f"layers~0~attention~{n}:linear"].encoders["0"] for n in "qk")
        assert (q is k) == shared
        assert k.code == code


def test_the_report_says_what_is_sent() -> None:
    found = report(convert(transformer(), [tokens()], FIRST_SPIKE))
    text = "at most one spike, its time the exponent and its basis the mantissa, nothing beside"
    assert text in found.summary()
    assert "first spike" in str(found)
    other = report(convert(transformer(), [tokens()], MBEConfig()))
    assert "binary digits, an exponent beside each element" in other.summary()


def test_gradients_go_straight_through() -> None:
    model = transformer()
    snn = convert(model, [tokens()], MBEConfig(code="first_spike", identity_bases=256, gradient="slope"))
    x = tokens().requires_grad_()
    (want,) = torch.autograd.grad(model(x).square().sum(), x)
    (got,) = torch.autograd.grad(snn(x).square().sum(), x)
    assert nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.99


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_it_compiles_to_one_graph_with_the_same_bits() -> None:
    x = torch.randn(50, 4)
    snn = linear(MBEConfig(code="first_spike", scale="channel", dead_zone=0.05), x)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(snn, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), snn(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_in_other_dtypes_it_is_the_same_code(dtype: torch.dtype) -> None:
    snn = linear(
        MBEConfig(code="first_spike", identity_bases=8, margin=0.0), torch.tensor([[7.0, -7.9, 1.0]])
    )
    y = snn.to(dtype)(torch.tensor([[7.9, -4.0, 1.1]], dtype=dtype))
    assert y.dtype == dtype
    assert y.tolist() == [[7.5, -4.5, 1.125]]


def test_it_comes_back_from_its_files(tmp_path: Path) -> None:
    model = transformer()
    snn = convert(model, [tokens()], MBEConfig(code="first_spike", sites=(("head*", {"scale": "channel"}),)))
    mbe_plugin.save(snn, tmp_path)
    loaded = mbe_plugin.load(tmp_path, model)
    assert torch.equal(loaded(tokens()), snn(tokens()))
    assert [n.code for n in identities(loaded)] == [n.code for n in identities(snn)]
    assert all(n.first_spike for n in identities(loaded))


def test_attention_weights_are_sent_once_more_by_first_spikes(tmp_path: Path) -> None:
    """Against softmax in plain arithmetic: 2^z rounded to the code, its sum, the product; and so it is saved."""
    q, k, v = (tokens(2, 5, seed=seed)[:, None] for seed in (1, 2, 3))

    class Attend(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.7)

    only_weights = (("*|weights", {"code": "first_spike", "identity_bases": 16, "time_steps": 8}),)
    snn = convert(Attend(), [((q, k, v), {})], MBEConfig(sites=only_weights))
    [node] = [n for n in _neurons(snn) if n.role == "weights"]
    with record(snn) as found, torch.no_grad():
        got = snn(q, k, v)
    scores = (0.7 * q.double() @ k.double().mT) / math.log(2)
    weights = 2 ** (scores - scores.amax(-1, keepdim=True).ceil())
    mantissa, exponent = torch.frexp(weights)
    middle = 0.5 + ((mantissa - 0.5) * 16).floor() / 16 + 1 / 32  # 8 segments of the octave
    coded = torch.where(exponent > -8, middle * 2.0**exponent, 0.0)
    want = coded @ v.double() / coded.sum(-1, keepdim=True)
    assert (got - want).abs().max() < 2e-4 * want.abs().max()  # the other neurons are precise
    sent = found.neurons[node.site, "weights"]
    assert sent.total == int((exponent > -8).sum()) and sent.exponents == 0
    mbe_plugin.save(snn, tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(mbe_plugin.load(tmp_path / "saved", Attend())(q, k, v), got)
