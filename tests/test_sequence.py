"""Step mode 'm' of converted networks: what each step of the sequence is, against slow computations of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models.zoo import scaled, transformers_zoo, vision_zoo
from networks import WIDTH, Calling, Inside, tokens, transformer
from sentences import CALIBRATION, EVALUATION
from spikingjelly.activation_based import base, functional, layer, neuron
from torch import Tensor, nn

from mbe_plugin import (
    ConversionError,
    MBEConfig,
    as_sequence,
    convert,
    count_spikes,
    load,
    locate_error,
    report,
    save,
)
from mbe_plugin.operators import CalibratedNode

T = 6
SMALL = MBEConfig(time_steps=T)


class Perceptron(nn.Module):
    """Linear, GELU, Linear, and the input added again if ``residual``."""

    def __init__(self, residual: bool = False) -> None:
        super().__init__()
        self.up, self.down, self.residual = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH), residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(x)))
        return x + y if self.residual else y


def stepping(model: nn.Module, batch: Any, config: MBEConfig = SMALL) -> nn.Module:
    """The network converted, in step mode 'm'."""
    snn = convert(model.eval(), [batch], config)
    functional.set_step_mode(snn, "m")
    return snn


def in_mode(snn: nn.Module, mode: str, *args: Any, **kwargs: Any) -> Any:
    functional.set_step_mode(snn, mode)
    with torch.no_grad():
        return snn(*args, **kwargs)


def neurons(snn: nn.Module, *words: str) -> list[CalibratedNode]:
    """The neurons whose site and role hold all words, in the order of the sites."""
    found = dict.fromkeys(m for m in snn.modules() if isinstance(m, CalibratedNode))
    return [node for node in found if all(word in f"{node.site} {node.role}" for word in words)]


def membranes(snn: nn.Module, nodes: Iterable[CalibratedNode], x: Any) -> list[Tensor]:
    """What each of these neurons, called once, gets in mode 's'."""
    seen: dict[CalibratedNode, Tensor] = {}
    hooks = [n.register_forward_pre_hook(lambda node, args: seen.__setitem__(node, args[0])) for n in nodes]
    in_mode(snn, "s", x)
    for hook in hooks:
        hook.remove()
    return [seen[node] for node in nodes]


def by_hand(snn: nn.Module, nodes: list[CalibratedNode], x: Any) -> list[Tensor]:
    """y^(1) ... y^(T): runs in mode 's' in which hooks give these neurons' first spikes in place of all."""
    inputs = dict(zip(nodes, membranes(snn, nodes, x), strict=True))
    outputs = []
    for steps in range(1, T + 1):

        def first(node: CalibratedNode, *_: Any, steps: int = steps) -> Tensor:
            return node.sequence(inputs[node])[:steps].sum(0)

        hooks = [node.register_forward_hook(first) for node in nodes]
        outputs.append(in_mode(snn, "s", x))
        for hook in hooks:
            hook.remove()
    return outputs


def assert_steps(sequence: Tensor, wanted: list[Tensor]) -> None:
    """The steps are the differences of what stands there after each, to rounding."""
    zero = torch.zeros_like(wanted[0])
    differences = [b - a for a, b in zip([zero, *wanted[:-1]], wanted, strict=True)]
    size = max(float(y.abs().max()) for y in wanted)
    torch.testing.assert_close(sequence, torch.stack(differences), rtol=0, atol=1e-6 * size)


def assert_same_sum(snn: nn.Module, single: tuple, sequences: tuple, **kwargs: Any) -> None:
    """The sum over the sequence is mode 's', to summation order; and mode 's' keeps its bits."""
    named = {name: as_sequence(v, snn.mbe_conversion.config.time_steps) for name, v in kwargs.items()}
    before = _first(in_mode(snn, "s", *single, **kwargs))
    sequence = _first(in_mode(snn, "m", *sequences, **named))
    after = _first(in_mode(snn, "s", *single, **kwargs))
    assert sequence.shape == (snn.mbe_conversion.config.time_steps, *before.shape)
    error = (sequence.double().sum(0) - before.double()).abs()
    additions = len(sequence) + 1
    assert (error <= additions * 2**-23 * (sequence.double().abs().sum(0) + before.abs())).all()
    assert torch.equal(before, after)
    assert not torch.allclose(sequence[0], before, rtol=1e-3), "all of it comes at step 0"


def _first(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


# real networks


def test_minilm(minilm: nn.Module, minilm_tokenizer: Any) -> None:
    def batch(sentences: list[str]) -> dict[str, Tensor]:
        return dict(minilm_tokenizer(sentences, padding=True, return_tensors="pt"))

    snn = convert(minilm, [batch(list(CALIBRATION[:8]))])
    assert_same_sum(snn, (), (), **batch(list(EVALUATION[:2])))


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "T5"])
def test_language_models(family: str) -> None:
    make, batch = transformers_zoo()[family]
    snn = convert(scaled(make), [batch(0)], SMALL)
    assert_same_sum(snn, (), (), **batch(1))


@pytest.mark.parametrize("family", ["ViT"])
def test_image_models(family: str) -> None:
    make, batch = vision_zoo()[family]
    snn = convert(scaled(make), [batch(0)], SMALL)
    assert_same_sum(snn, (batch(1),), (as_sequence(batch(1), T),))


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")  # the published neurons' errors add up
@pytest.mark.parametrize(
    "config",
    [
        *(MBEConfig(time_steps=T, scale=scale) for scale in ("token", "channel", "tensor")),
        MBEConfig.published(time_steps=T),
        MBEConfig(time_steps=T, merge=False, simulate="steps"),
        MBEConfig(time_steps=T, linear_inputs="analogue"),
        MBEConfig(time_steps=T, code="first_spike", dead_zone=0.1),
    ],
    ids=lambda c: f"{c.family} {c.code} {c.scale} {c.linear_inputs} {c.simulate}",
)
def test_every_kind_of_neuron(config: MBEConfig) -> None:
    snn, x = convert(transformer(), [tokens()], config), tokens()
    assert_same_sum(snn, (x,), (as_sequence(x, T),))


# what a step is


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("merge", [True, False])
def test_a_step_is_what_the_last_weights_make_of_its_spikes(merge: bool, residual: bool) -> None:
    snn = convert(Perceptron(residual).eval(), [tokens()], MBEConfig(time_steps=T, merge=merge))
    x = tokens(seed=3)
    last = neurons(snn, "gelu") if merge else neurons(snn, "down")
    assert len(last) == 1
    spikes = last[0].weighted_spikes(membranes(snn, last, x)[0]).double()
    wanted = spikes @ snn.down.weight.double().T
    wanted[0] += snn.down.bias.double() + (x if residual else 0)
    found = in_mode(snn, "m", as_sequence(x, T)).double()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_the_input_may_come_in_any_steps() -> None:
    snn, x = stepping(Perceptron(), tokens()), tokens(seed=3)
    spread = torch.randn(T, *x.shape)
    spread[-1] = x - spread[:-1].sum(0)
    with torch.no_grad():
        assert torch.equal(snn(spread), snn(as_sequence(spread.sum(0), T)))


@pytest.mark.parametrize("scale", ["element", "token", "channel", "tensor"])
def test_the_steps_of_an_output_that_is_a_product(scale: Any) -> None:
    """Of two activations: both factors have sent t steps."""
    model = Inside(lambda m, x: m.fc(x) * torch.tanh(x))
    snn = convert(model.eval(), [tokens()], MBEConfig(time_steps=T, scale=scale))
    x = tokens(seed=3)
    last = [*neurons(snn, "mul"), *neurons(snn, "tanh")]
    assert len(last) == 2
    sums = [n.sequence(m).cumsum(0) for n, m in zip(last, membranes(snn, last, x), strict=True)]
    assert_steps(in_mode(snn, "m", as_sequence(x, T)), list(sums[0] * sums[1]))


def test_the_steps_of_a_network_with_residuals() -> None:
    """Every layer's contribution reaches the output by itself, and the later neurons do not see that it is partial."""

    def residuals(m: Calling, x: Tensor) -> Tensor:
        x = x + m.fc(torch.tanh(x))
        return x + m.fc(torch.sigmoid(x)).cos()

    snn, x = convert(Inside(residuals).eval(), [tokens()], SMALL), tokens(seed=3)
    last = [*neurons(snn, "tanh"), *neurons(snn, "cos")]
    assert len(last) == 2
    wanted = by_hand(snn, last, x)
    assert_steps(in_mode(snn, "m", as_sequence(x, T)), wanted)


def test_the_steps_of_a_normalisation() -> None:
    """Both of its neurons are last: the deviation and 1/sqrt."""
    snn, x = convert(nn.LayerNorm(WIDTH).eval(), [tokens()], SMALL), tokens(seed=3)
    last = neurons(snn)
    assert sorted(n.role for n in last) == ["deviation", "rsqrt"]
    assert_steps(in_mode(snn, "m", as_sequence(x, T)), by_hand(snn, last, x))


def test_one_step() -> None:
    snn, x = stepping(Perceptron(), tokens(), MBEConfig(time_steps=1)), tokens(seed=3)
    assert torch.equal(in_mode(snn, "m", x[None])[0], in_mode(snn, "s", x))


@pytest.mark.parametrize("own", [3, 9])
def test_a_last_neuron_with_time_steps_of_its_own(own: int) -> None:
    """With less it is complete early, with more its last step brings what is left."""
    config = MBEConfig(time_steps=T, sites=(("*gelu*", {"time_steps": own}),))
    snn, x = convert(Perceptron().eval(), [tokens()], config), tokens(seed=3)
    assert_same_sum(snn, (x,), (as_sequence(x, T),))
    late = in_mode(snn, "m", as_sequence(x, T))[own:]
    assert not late.any()


# what goes in and what comes out


class Nested(nn.Module):
    """Outputs in containers: tensors of every kind, numbers, words."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: dict[str, Any], add: float = 0.0, mask: Tensor | None = None) -> dict[str, Any]:
        y = torch.tanh(self.fc(x["values"])) + add
        y = y if mask is None else y.masked_fill(~mask, -torch.inf)
        return {"pair": (y, [y.argmax(-1), None]), "mean": y.mean(), "ids": x["ids"], "name": "y", "n": 3}


def test_nested_arguments_and_outputs() -> None:
    x = {"values": tokens(), "ids": torch.arange(4)}
    snn = stepping(Nested(), ((x,), {}))
    out = in_mode(snn, "m", as_sequence(x, T), add=0.5)
    want = in_mode(snn, "s", x, add=0.5)
    y, (best, nothing) = out["pair"]
    torch.testing.assert_close(y.sum(0), want["pair"][0])
    torch.testing.assert_close(out["mean"].sum(0), want["mean"])
    assert out["mean"].shape == (T,)
    assert torch.equal(best, want["pair"][1][0].expand(T, -1, -1))
    assert torch.equal(out["ids"], torch.arange(4).expand(T, -1))
    assert (nothing, out["name"], out["n"]) == (None, "y", 3)


def test_an_infinite_output_arrives_at_step_0() -> None:
    x, mask = {"values": tokens(), "ids": torch.arange(4)}, torch.rand(4, 6, WIDTH) > 0.5
    snn = stepping(Nested(), ((x,), {}))
    y = in_mode(snn, "m", as_sequence(x, T), mask=as_sequence(mask, T))["pair"][0]
    assert torch.equal(y.sum(0).isinf(), ~mask)
    assert not y[1:].isinf().any()


def test_a_mask_that_is_added() -> None:
    snn, x = stepping(transformer(), ((tokens(), torch.zeros(6, 6)), {})), tokens(seed=3)
    mask = torch.zeros(6, 6).masked_fill(torch.ones(6, 6).triu(1) > 0, -torch.inf)
    want = in_mode(snn, "s", x, mask)
    torch.testing.assert_close(in_mode(snn, "m", as_sequence(x, T), mask=as_sequence(mask, T)).sum(0), want)


@pytest.mark.parametrize("own", [2, T])
def test_a_forward_that_writes_into_its_input_and_into_what_neurons_send(own: int) -> None:
    def writing(m: Calling, x: Tensor) -> Tensor:
        membrane = m.fc(x)
        y = torch.tanh(membrane)
        y *= 2
        membrane.zero_()
        if hasattr(m, "negates"):
            x.neg_()
        return y.add_(x)

    config = MBEConfig(time_steps=T, sites=(("*tanh*", {"time_steps": own}),))
    snn, x = convert(Inside(writing).eval(), [tokens()], config), tokens(seed=3)
    snn.body["inner"].negates = True
    want, given = in_mode(snn, "s", x.clone()), as_sequence(x, T)
    found = in_mode(snn, "m", given)
    torch.testing.assert_close(found.sum(0), want)
    assert not found[own:].any(), "what was written in one run is not there in the next"
    assert torch.equal(given, as_sequence(x, T))


def test_every_public_method_takes_sequences() -> None:
    snn, x = convert(transformer(), [tokens()], SMALL), tokens(seed=3)
    with torch.no_grad():
        want = snn.forward_features(x)
        snn.step_mode = "m"
        found = snn.forward_features(as_sequence(x, T))
    torch.testing.assert_close(found.sum(0), want)


def test_a_method_without_tensors_is_called_as_it_is() -> None:
    make, batch = transformers_zoo()["Llama"]
    snn = stepping(scaled(make), batch(0))
    assert snn.get_input_embeddings() is snn.base_model.embed_tokens
    snn.set_input_embeddings(snn.get_input_embeddings())


def test_a_part_called_from_outside_stays_in_mode_s() -> None:
    snn, x = convert(transformer(), [tokens()], SMALL), tokens(seed=3)
    with torch.no_grad():
        want = snn.layers[0](x)
        snn.step_mode = "m"
        assert torch.equal(snn.layers[0](x), want)


def test_inference_mode() -> None:
    snn, x = stepping(transformer(), tokens()), as_sequence(tokens(seed=3), T)
    want = in_mode(snn, "m", x)
    with torch.inference_mode():
        assert torch.equal(snn(x.clone()), want)


def test_as_sequence() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    found = as_sequence({"x": (x, [torch.tensor([1, 2]), torch.tensor(True)]), "n": 5, "none": None}, 3)
    assert torch.equal(found["x"][0][0], x)
    assert found["x"][0].shape == (3, 2, 3)
    assert not found["x"][0][1:].any()
    assert torch.equal(found["x"][1][0], torch.tensor([[1, 2]] * 3))
    assert found["x"][1][1].tolist() == [True] * 3
    assert (found["n"], found["none"]) == (5, None)
    found["x"][0].sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 3))
    assert as_sequence(x.half(), 2).dtype == torch.float16


def test_as_sequence_of_what_a_tokenizer_gives(minilm_tokenizer: Any) -> None:
    batch = minilm_tokenizer(["a sentence"], return_tensors="pt")
    assert torch.equal(as_sequence(batch, 4)["input_ids"][3], batch["input_ids"])


# gradients


@pytest.mark.parametrize("gradient", ["surrogate", "slope"])
def test_gradients_of_the_sum_are_those_of_mode_s(gradient: Any) -> None:
    snn = convert(transformer(depth=1), [tokens()], MBEConfig(time_steps=T, gradient=gradient))
    x = tokens(seed=3).requires_grad_()
    found = []
    for mode in ("s", "m"):
        functional.set_step_mode(snn, mode)
        y = snn(x) if mode == "s" else snn(as_sequence(x, T)).sum(0)
        found.append(torch.autograd.grad(y.square().sum(), [x, *snn.parameters()]))
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_gradients_of_single_steps() -> None:
    """They go through the weighted spikes of the last neuron, here written out."""
    snn, x = stepping(Perceptron(), tokens()), tokens(seed=3).requires_grad_()
    weights = torch.rand(T, 1, 1, 1)
    inputs = [x, *snn.parameters()]
    found = torch.autograd.grad((snn(as_sequence(x, T)) * weights).sum(), inputs)

    (encoder,), (gelu,) = neurons(snn, "up"), neurons(snn, "gelu")
    sequence = gelu.weighted_spikes(snn.up.weight.mul(1) @ encoder(x).mT + snn.up.bias[:, None])
    steps = sequence.mT @ snn.down.weight.T
    steps = torch.cat([steps[:1] + snn.down.bias, steps[1:]])
    wanted = torch.autograd.grad((steps * weights).sum(), inputs)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_no_graph_where_no_gradient_is_asked_for() -> None:
    snn, x = stepping(transformer(), tokens()), as_sequence(tokens(seed=3), T)
    assert snn(x).requires_grad  # of the parameters
    with torch.no_grad():
        assert not snn(x).requires_grad
    assert not snn.requires_grad_(False)(x).requires_grad


# neurons are seen once


def test_counters_and_hooks_see_each_neuron_once() -> None:
    snn, x = convert(transformer(), [tokens()], SMALL), tokens(seed=3)
    seen = []
    for mode, given in (("s", x), ("m", as_sequence(x, T))):
        calls: list[Tensor] = []
        hooks = [n.register_forward_hook(lambda *a, c=calls: c.append(a[2])) for n in neurons(snn)]
        with count_spikes(snn) as counts:
            in_mode(snn, mode, given)
        for hook in hooks:
            hook.remove()
        counters = [int(n.seen) for n in neurons(snn)]
        seen.append((calls, {k: n.counts for k, n in counts.neurons.items()}, counters))
        for node in neurons(snn):
            node.reset_counts()
    (calls, counts, counters), (calls_m, counts_m, counters_m) = seen
    assert counters == counters_m
    assert all(torch.equal(a, b) for a, b in zip(calls, calls_m, strict=True))
    assert all(torch.equal(counts[k], counts_m[k]) for k in counts | counts_m)


def test_a_call_costs_one_forward_more_than_it_has_steps() -> None:
    """Hooks on modules that are no neurons see every one, and the last is not the complete one."""
    snn, calls = stepping(Perceptron(), tokens()), []
    snn.up.register_forward_hook(lambda *_: calls.append(1))
    in_mode(snn, "m", as_sequence(tokens(seed=3), T))
    assert len(calls) == T + 1


def test_instruments_run_a_network_in_single_steps() -> None:
    model, snn = transformer(), convert(transformer(), [tokens()], SMALL)
    want = locate_error(snn, model, tokens())
    functional.set_step_mode(snn, "m")
    assert locate_error(snn, model, tokens()) == want
    assert str(report(snn))


def test_random_numbers_are_the_same_in_all_runs() -> None:
    snn, x = convert(transformer(), [tokens()], SMALL).train(), tokens(seed=3)
    torch.manual_seed(5)
    want, following = in_mode(snn, "s", x), torch.rand(3)
    torch.manual_seed(5)
    sequence = in_mode(snn, "m", as_sequence(x, T))
    assert torch.equal(torch.rand(3), following)
    torch.testing.assert_close(sequence.sum(0), want)
    assert not sequence[:, want == 0].any(), "an element that is dropped is dropped in every run"


def test_neurons_of_the_host_inside_begin_every_run_with_the_same_membrane() -> None:
    """A model may hold LIF neurons, which stay as they are: one call is one of their steps in either mode."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), neuron.LIFNode(), nn.Linear(WIDTH, WIDTH), nn.GELU())
    snn, x = convert(model.eval(), [tokens()], SMALL), 4 * tokens()
    found = {}
    for mode, given in (("s", x), ("m", as_sequence(x, T))):
        functional.reset_net(snn)
        outputs = [in_mode(snn, mode, given) for _ in range(3)]
        found[mode] = [y if mode == "s" else y.sum(0) for y in outputs]
    for wanted, got in zip(*found.values(), strict=True):
        torch.testing.assert_close(got, wanted)
    assert not torch.equal(found["s"][0], found["s"][1])


def test_many_threads_one_of_them_in_steps() -> None:
    """Another network's calls, and this one's in mode 's', are never stood in for."""
    snn, other = stepping(transformer(), tokens()), convert(transformer(), [tokens()], SMALL)
    x = tokens(seed=7)
    want = {True: snn(as_sequence(x, T)), False: other(x)}

    def run(steps: bool) -> bool:
        return torch.equal(snn(as_sequence(x, T)) if steps else other(x), want[steps])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(run, [True, False] * 9))


# the step mode itself


def test_it_is_a_step_module() -> None:
    model = transformer()
    snn = convert(model, [tokens()])
    assert isinstance(snn, base.StepModule)
    assert isinstance(snn, type(model))
    assert snn.step_mode == "s"
    assert snn.supported_step_mode() == ("s", "m")
    assert not isinstance(model, base.StepModule)
    assert not any(isinstance(m, base.StepModule) for m in snn.layers.modules())
    with pytest.raises(ValueError, match="step_mode can only be .*'x'"):
        snn.step_mode = "x"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda snn: pickle.loads(pickle.dumps(snn))])
def test_a_copy_keeps_it(copied: Callable) -> None:
    snn, x = stepping(Perceptron(), tokens()), as_sequence(tokens(seed=3), T)
    again = copied(snn)
    assert (again.step_mode, type(again)) == ("m", type(snn))
    assert torch.equal(again(x), snn(x))
    functional.set_step_mode(again, "s")
    assert snn.step_mode == "m"


def test_what_was_saved_loads_in_mode_s(tmp_path: Path) -> None:
    model = Perceptron().eval()
    snn, x = stepping(model, tokens()), as_sequence(tokens(seed=3), T)
    save(snn, tmp_path)
    again = load(tmp_path, model)
    assert again.step_mode == "s"
    functional.set_step_mode(again, "m")
    assert torch.equal(again(x), snn(x))


def test_save_pretrained_in_mode_m(tmp_path: Path) -> None:
    make, batch = transformers_zoo()["Llama"]
    snn = stepping(scaled(make), batch(0))
    snn.save_pretrained(tmp_path)
    again = load(tmp_path)
    with torch.no_grad():
        wanted = in_mode(snn, "s", **batch(1))[0]
        assert torch.equal(again(**batch(1))[0], wanted)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_host_step_modules_inside_keep_the_mode_they_were_converted_in(mode: str) -> None:
    """A Linear of the host computes the same in both; its Conv2d and its BatchNorm take other shapes."""
    model = nn.Sequential(layer.Conv2d(3, 4, 3), layer.BatchNorm2d(4), nn.GELU(), layer.Flatten()).eval()
    functional.set_step_mode(model, mode)
    x = torch.randn(2, 3, 8, 8) if mode == "s" else torch.randn(5, 2, 3, 8, 8)
    snn = convert(model, [x], SMALL)
    want = in_mode(snn, "s", x)
    torch.testing.assert_close(in_mode(snn, "m", as_sequence(x, T)).sum(0), want)
    assert torch.equal(in_mode(snn, "s", x), want)
    assert [m.step_mode for m in (snn[0], snn[1], snn[3])] == [mode] * 3
    assert model[0].step_mode == mode


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_root_that_is_a_step_module_of_the_host(mode: str) -> None:
    model = layer.Conv2d(3, 4, 3).eval()
    model.step_mode = mode
    x = torch.randn(2, 3, 8, 8) if mode == "s" else torch.randn(5, 2, 3, 8, 8)
    snn = convert(model, [x], SMALL)
    assert snn.step_mode == "s"
    want = snn(x)
    torch.testing.assert_close(want, model(x), rtol=1e-2, atol=5e-2)
    snn.step_mode = "m"
    torch.testing.assert_close(snn(as_sequence(x, T)).sum(0), want)


# errors


def test_a_wrong_leading_dimension() -> None:
    snn = stepping(transformer(), ((tokens(), torch.zeros(6, 6)), {}))
    x = tokens()
    with pytest.raises(
        ValueError, match=rf"x must be \[T, ...\] with T = {T}, got \[4, 6, {WIDTH}\]; mbe_plu"
    ):
        snn(x)
    with pytest.raises(ValueError, match=rf"mask must be \[T, ...\] with T = {T}, got \[7, 6\]"):
        snn(as_sequence(x, T), mask=torch.zeros(7, 6))


def test_ids_without_time() -> None:
    make, batch = transformers_zoo()["Llama"]
    snn = stepping(scaled(make), batch(0))
    with pytest.raises(ValueError, match=r"input_ids must be \[T, ...\] with T = 6, got \[2, 10\]"):
        snn(**batch(0))


def test_an_argument_that_a_run_may_change() -> None:
    from transformers import DynamicCache

    make, batch = transformers_zoo()["Llama"]
    snn = stepping(scaled(make), batch(0))
    with pytest.raises(
        TypeError, match="runs several times .* so past_key_values cannot hold a DynamicCache"
    ):
        snn(**as_sequence(batch(0), T), past_key_values=DynamicCache())
    with pytest.raises(TypeError, match="so x cannot hold a DynamicCache"):
        as_sequence(DynamicCache(), T)


def test_no_time_steps() -> None:
    with pytest.raises(ValueError, match="time_steps must be at least 1, got 0"):
        as_sequence(torch.zeros(2), 0)


def test_a_forward_without_gradients_has_no_sequence() -> None:
    def blind(m: Calling, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.tanh(m.fc(x)) * 2

    snn = stepping(Inside(blind), tokens())
    with pytest.raises(ConversionError, match="no neuron's spikes can be followed .* torch.no_grad"):
        snn(as_sequence(tokens(), T))


def test_a_forward_that_takes_another_way_by_its_last_spikes() -> None:
    def choosing(m: Calling, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        return torch.cat([y[y == y], m.fc(torch.sigmoid(x[y.mean(-1) > shift]))[:, 0]])

    x = tokens()
    shift = float(torch.tanh(x).mean(-1).flatten().sort().values[3])
    snn = stepping(Inside(choosing), x)
    with pytest.raises(ConversionError, match="takes another way when not all spikes have arrived"):
        for seed in range(5):
            snn(as_sequence(tokens(seed=seed), T))


class Opaque:
    def __init__(self, y: Tensor) -> None:
        self.y = y


def test_an_output_without_tensors_that_can_be_found() -> None:
    snn = stepping(Inside(lambda m, x: Opaque(torch.tanh(m.fc(x)))), tokens())
    with pytest.raises(ConversionError, match="returns a Opaque, in which no tensor is found"):
        snn(as_sequence(tokens(), T))
