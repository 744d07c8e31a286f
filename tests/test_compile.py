"""torch.compile: the converted network is one graph, with the same values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.zoo import scaled, text, transformers_zoo, vision_zoo
from networks import Calling, Inside, tokens, transformer
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import MBENode, fit
from mbe_plugin.errors import ConversionError


def one_layer() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    small = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}
    return BertForSequenceClassification(BertConfig(num_hidden_layers=1, **small))


FAMILIES = {
    "one layer of BERT": (one_layer, text),
    **{name: transformers_zoo()[name] for name in ("BERT", "GPT-2", "Llama")},
    "timm ViT": vision_zoo()["ViT"],
}

# torch's own code under compilation
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


def first(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out.logits


def arguments(batch: Any) -> tuple[tuple, dict[str, Any]]:
    if isinstance(batch, Tensor):
        return (batch,), {}
    return (), {**batch, **({"use_cache": False} if "input_ids" in batch else {})}


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("family", FAMILIES)
def test_one_graph_and_the_same_values(family: str) -> None:
    make, batch = FAMILIES[family]
    snn = mbe_plugin.convert(scaled(make), [batch(0), batch(1)])
    args, kwargs = arguments(batch(0))
    torch._dynamo.reset()
    with torch.no_grad():
        explained = torch._dynamo.explain(snn)(*args, **kwargs)
        assert explained.graph_break_count == 0, explained.break_reasons
        torch._dynamo.reset()
        whole = torch.compile(snn, fullgraph=True, backend="aot_eager")
        found, wanted = first(whole(*args, **kwargs)), first(snn(*args, **kwargs))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", ["gelu", "identity", "exp2", "rsqrt_octave"])
def test_a_compiled_neuron_gives_the_same_bits(function: str) -> None:
    found = fit(function, time_steps=8, bases=8)
    node: MBENode = found.node()
    x = torch.randn(3, 1000).abs() * 3
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(node, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), node(x))


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_dynamic_shapes(backend: str) -> None:
    """Numbers that a module holds are symbols there, so no operator may ask Python's math about them."""
    snn = mbe_plugin.convert(transformer(depth=1), [tokens()])
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(snn, fullgraph=True, dynamic=True, backend=backend)
        for x in (tokens(), tokens(3, 9, seed=2)):
            torch.testing.assert_close(compiled(x), snn(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.compiled
def test_step_mode_m_breaks_the_graph_and_gives_the_same_sequence() -> None:
    snn = mbe_plugin.convert(transformer(depth=1), [tokens()], mbe_plugin.MBEConfig(time_steps=4))
    snn.step_mode = "m"
    x_seq = mbe_plugin.as_sequence(tokens(seed=2), 4)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(snn, backend="eager")
        assert torch.equal(compiled(x_seq), snn(x_seq))
        snn.step_mode = "s"
        torch.testing.assert_close(compiled(x_seq[0]), snn(x_seq[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_training_with_dynamic_shapes() -> None:
    """The host's surrogate is an autograd.Function, which dynamo cannot trace with a symbol for its slope."""
    snn = mbe_plugin.convert(transformer(depth=1), [tokens()], mbe_plugin.MBEConfig(time_steps=2))
    torch._dynamo.reset()
    found = []
    for call in (snn, torch.compile(snn, dynamic=True, backend="eager")):
        snn.zero_grad()
        call(tokens(3, 9, seed=2)).square().sum().backward()
        found.append([p.grad.clone() for p in snn.parameters() if p.grad is not None])
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("name", ["Sigmoid", "ATan", "LogTailedReLU"])
def test_surrogates_of_either_host(name: str) -> None:
    node = fit("gelu", time_steps=4, bases=8).node()
    node.surrogate_function = getattr(surrogate, name)()
    x = torch.randn(30).requires_grad_()
    torch._dynamo.reset()
    # with everything dynamic the slope is a symbol, which not every surrogate of the hosts stands
    y = torch.compile(node, backend="eager", dynamic=True if name != "LogTailedReLU" else None)(x)
    assert torch.equal(y, node(x))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.autograd.grad(node(x).sum(), x)[0])


@pytest.mark.compiled
def test_a_graph_break_inside_is_an_error() -> None:
    """Its pieces would run under the walk, which would look for sites in them again."""

    def breaking(m: Calling, x: Tensor) -> Tensor:
        y = m.fc(x)
        torch._dynamo.graph_break()
        return m.fc(torch.tanh(y))

    snn = mbe_plugin.convert(Inside(breaking), [tokens()])
    torch._dynamo.reset()
    with torch.no_grad(), pytest.raises(torch._dynamo.exc.Unsupported, match="graph_break"):
        torch.compile(snn, backend="eager")(tokens())


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_torch_that_does_not_know_such_an_error_is_refused(step_mode: str, inside: bool) -> None:
    """Torch 2.6 is one: there a compiled network in step mode 'm' went on after a break, with wrong steps."""
    if hasattr(torch._dynamo, "error_on_graph_break"):  # newer ones are compiled, in the tests above
        pytest.skip("this torch can be told that a break is an error")
    snn = mbe_plugin.convert(
        nn.Sequential(nn.Linear(4, 4), nn.GELU()), [torch.randn(3, 4)], mbe_plugin.MBEConfig(time_steps=2)
    )
    snn.step_mode = step_mode
    x = torch.randn(3, 4) if step_mode == "s" else torch.randn(2, 3, 4)
    torch._dynamo.reset()
    compiled = torch.compile((lambda x: snn(x) + 1) if inside else snn, backend="eager")
    with (
        torch.no_grad(),
        pytest.raises(ConversionError, match="cannot compile or export .*error_on_graph_break"),
    ):
        compiled(x)
    snn(x)


@pytest.mark.compiled
@pytest.mark.parametrize("gradient", ["slope", "surrogate"])
@pytest.mark.parametrize("function", ["gelu", "identity", "rsqrt_octave"])
def test_a_compiled_neuron_gives_the_same_gradients_in_one_graph(function: str, gradient: Any) -> None:
    node = fit(function, time_steps=4, bases=8).node()
    node.gradient = gradient
    x = (torch.randn(300).abs() * 3).requires_grad_()
    torch._dynamo.reset()
    found = []
    for call in (node, torch.compile(node, fullgraph=True, backend="aot_eager")):
        y = call(x)
        found.append((y.detach(), torch.autograd.grad(y.sum(), x)[0]))
    (y, wanted), (compiled, got) = found
    assert torch.equal(compiled, y)
    torch.testing.assert_close(got, wanted)


@pytest.mark.slow
def test_a_compiled_network_trains_by_the_slope() -> None:
    config = mbe_plugin.MBEConfig(time_steps=8, gradient="slope")
    snn = mbe_plugin.convert(scaled(one_layer), [text(0)], config)
    torch._dynamo.reset()
    found = []
    for call in (snn, torch.compile(snn, fullgraph=True, backend="aot_eager")):
        snn.zero_grad()
        call(**text(0)).logits.square().sum().backward()
        found.append([p.grad.clone() for p in snn.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 10
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())
