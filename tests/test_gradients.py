"""Gradients without the step loop's graph: the sweep is autograd through the loop, the slope that of the staircase."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, tokens, transformer
from oracle import FAMILIES, HALVING_FAMILIES, assert_same_bits, make_tables
from spikingjelly.activation_based import surrogate
from test_node import FUNCTION, NODES, inputs, nodes, ordinary, reduced_node
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import MBEConfig, MBENode, convert, fit
from mbe_plugin.fitting.segments import identity_tables, shared_scale_tables
from mbe_plugin.kernels import gradients, prepare, steps
from mbe_plugin.neuron import Tables, halving_table
from mbe_plugin.operators import CalibratedNode, SharedScaleNode

SURROGATES: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "Sigmoid": surrogate.Sigmoid,
    "sharp Sigmoid": lambda: surrogate.Sigmoid(alpha=20.0),
    "ATan": surrogate.ATan,
    "PiecewiseQuadratic": surrogate.PiecewiseQuadratic,
    "SoftSign": surrogate.SoftSign,
    "LeakyKReLU": surrogate.LeakyKReLU,
    "our own": lambda: Bell.apply,
}
DTYPES = [torch.float32, torch.float64]


class Bell(torch.autograd.Function):
    """A step with the derivative of a bell, written by hand."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v >= 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 0.7 * torch.exp(-ctx.saved_tensors[0].square() * 5)


def gradient_of(node: nn.Module, x: Tensor, weight: Tensor | None = None) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    y = node(leaf)
    return torch.autograd.grad(y, leaf, torch.ones_like(y) if weight is None else weight)[0]


def by_steps(node: MBENode, x: Tensor, weight: Tensor | None = None) -> Tensor:
    node.simulate = "steps"
    try:
        return gradient_of(node, x, weight)
    finally:
        node.simulate = "closed"


def assert_close_to_rounding(got: Tensor, want: Tensor) -> None:
    """Relative to the largest derivative: a derivative may be a small difference of large terms."""
    assert got.dtype == want.dtype
    rtol = 1e-4 if got.dtype == torch.float32 else 1e-11
    torch.testing.assert_close(got, want, rtol=rtol, atol=rtol * want.abs().max().item(), equal_nan=True)


# surrogate


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("time_steps", [1, 2, 8, 16, 20])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_sweep_is_autograd_through_the_step_loop(
    family: str, time_steps: int, dtype: torch.dtype
) -> None:
    tables = make_tables(family, time_steps, seed=4)
    x = (torch.rand(7, 301, dtype=dtype) * 8 - 4).t()
    kinds = {"mirrored": tables.mirrored, "halving": tables.halving, "octaves": tables.octaves}
    p = prepare(tables.as_dict(), x, **kinds)
    for name, make in SURROGATES.items():
        fire, leaf = make(), x.detach().clone().requires_grad_()
        (want,) = torch.autograd.grad(steps.decode(leaf, p, fire).sum(), leaf)
        got = gradients.surrogate_slope(x, p, fire)
        assert want.abs().max() > 0, name
        assert_close_to_rounding(got, want)


@pytest.mark.parametrize("family", ["routed mirrored", "banks of free bases"])
def test_pieces_give_what_the_whole_gives(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    node, x = MBENode(make_tables(family, 9)), torch.randn(3, 5, 7)
    whole = gradient_of(node, x)
    monkeypatch.setitem(gradients.CHUNK, "cpu", 11)
    assert torch.equal(gradient_of(node, x), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, *DTYPES])
@pytest.mark.parametrize("name", NODES)
def test_a_neurons_gradient_is_that_of_its_step_loop(name: str, dtype: torch.dtype) -> None:
    node = nodes()[name]
    x = ordinary(node, dtype)
    weight = torch.randn(x.shape).to(dtype)
    got, want = gradient_of(node, x, weight), by_steps(node, x, weight)
    rtol = 2 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 1e-4 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(got, want, rtol=rtol, atol=rtol * want.abs().max().item())


@pytest.mark.parametrize("name", FUNCTION)
def test_what_sends_no_spikes_has_the_loops_gradient_too(name: str) -> None:
    node = reduced_node(name)
    x = torch.tensor([0.0, -0.0, 1e-40, -1e-40, math.inf, -1.5, 2.0**-60, 2.0**60])
    got, want = gradient_of(node, x), by_steps(node, x)
    finite = want.isfinite()  # 2^x overflows at 2^60, where the loop's graph multiplies infinity by zero
    assert bool(finite.all()) or (name == "exp2" and bool(got[-1] == math.inf))
    assert_close_to_rounding(got[finite], want[finite])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,)])
@pytest.mark.parametrize("gradient", ["surrogate", "slope"])
def test_any_shape(shape: tuple[int, ...], gradient: str) -> None:
    node = MBENode(make_tables("routed mirrored", 8), gradient=gradient)  # type: ignore[arg-type]
    assert gradient_of(node, torch.randn(shape)).shape == shape


@pytest.mark.parametrize("gradient", ["surrogate", "slope"])
@pytest.mark.parametrize("name", [n for n in NODES if nodes()[n].halving])
def test_the_forward_takes_the_closed_form_and_changes_no_bit(
    name: str, gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = nodes()[name]
    node.gradient = gradient  # type: ignore[assignment]
    x = inputs(node).requires_grad_()
    want = node(x.detach())

    def refuse(*_: Any) -> None:
        raise AssertionError("the step loop ran")

    monkeypatch.setattr(steps, "decode", refuse)
    y = node(x)
    assert_same_bits(y.detach(), want)
    y.sum().backward()
    assert x.grad is not None


def test_where_nothing_needs_a_gradient_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    node, x = nodes()["identity"], torch.randn(5)
    monkeypatch.setattr(gradients, "Detour", None)
    node(x)
    with torch.no_grad():
        node(x.requires_grad_())
    with torch.inference_mode():
        node(x)


def test_backward_keeps_the_input_and_nothing_per_step() -> None:
    node, x = fit("gelu", bases=64).node(), torch.randn(1000, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        node(x)
    assert [t.shape for t in kept] == [x.shape]


@pytest.mark.parametrize("name", ["published", "routed mirrored", "identity", "rsqrt"])
def test_twice_differentiated_it_is_the_step_loop(name: str) -> None:
    node, x = nodes()[name], ordinary(nodes()[name], torch.float64)
    found = []
    for simulate in ("closed", "steps"):
        node.simulate = simulate
        leaf = x.detach().clone().requires_grad_()
        (first,) = torch.autograd.grad(node(leaf).square().sum(), leaf, create_graph=True)
        found.append((first.detach(), torch.autograd.grad(first.sum(), leaf)[0]))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


class Learning(nn.Module):
    """A surrogate whose steepness is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(2.0))

    def forward(self, v: Tensor) -> Tensor:
        soft = torch.sigmoid(self.alpha * v)
        return soft + ((v >= 0).to(v.dtype) - soft).detach()


def test_a_surrogate_that_learns_gets_its_gradient() -> None:
    node = MBENode(make_tables("routed", 6), surrogate_function=Learning())
    node(torch.randn(20, requires_grad=True)).sum().backward()
    assert node.surrogate_function.alpha.grad.abs() > 0


def test_a_surrogate_that_sends_no_spikes_is_followed() -> None:
    """SpikingJelly's spiking=False is the soft function itself, in the forward pass as well."""
    node = MBENode(make_tables("routed", 6), surrogate_function=surrogate.Sigmoid(spiking=False))
    x = torch.randn(20, requires_grad=True)
    soft = node(x)
    node.simulate = "steps"
    assert torch.equal(soft, node(x))
    assert not torch.equal(soft, node(x.detach()))


# slope


def test_with_the_step_loop_forward_the_slope_is_the_same() -> None:
    node, x = slope_node(make_tables("routed mirrored", 8)), torch.randn(50)
    assert torch.equal(by_steps(node, x), gradient_of(node, x))


def slope_node(tables: Tables, reduction: str = "none") -> MBENode:
    return MBENode(tables, reduction, gradient="slope")


@pytest.mark.parametrize("family", HALVING_FAMILIES)
def test_the_slope_is_that_of_the_decoded_function_between_whole_codes(family: str) -> None:
    """Over a difference of 2^12 codes of every basis the staircase rises as the line does."""
    tables = make_tables(family, 20, seed=2)
    gain = tables.gain.double()
    banks = tables.bases_per_bank
    if banks > 1:  # several bases: one gain, so that one difference is whole codes of all
        tables = dataclasses.replace(tables, gain=torch.where(gain == 0, 0.0, 1.0).float())
    node = slope_node(tables)
    x = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    width = 2.0**-8 / tables.gain.abs().max().double().clamp_min(1)
    ends = [node(x + side * width / 2) for side in (1, -1)]
    got, want = gradient_of(node, x), (ends[0] - ends[1]) / width
    steepest = (tables.weight * tables.gain).abs().max()
    kinks = ((got - want).abs() > 1e-2 * steepest).double().mean()
    assert kinks < 0.05, "only where the difference reaches over a break point or an end"
    assert got.abs().max() > 0


def test_the_slope_of_a_fitted_function_is_its_derivative() -> None:
    node = fit("gelu", bases=64).node()
    node.gradient = "slope"
    x = torch.linspace(-7, 7, 5001)
    exact = torch.autograd.functional.jacobian(lambda v: F.gelu(v).sum(), x)
    error = (gradient_of(node, x) - exact).abs()
    assert error.square().mean().sqrt() < 0.02
    assert error.quantile(0.995) < 0.05, "but for the flat ends of some ramps"
    assert torch.equal(gradient_of(node, torch.tensor([9.0, -9.0, 1e30])), torch.zeros(3)), (
        "it saturates there"
    )


@pytest.mark.parametrize(("name", "low", "high"), [(n, 0.3, 5.0) for n in FUNCTION if n != "identity"])
def test_a_range_reduction_carries_the_slope_over_the_octaves(name: str, low: float, high: float) -> None:
    found = fit(name, bases=64, time_steps=16)
    node = MBENode(found.tables, found.reduction, gradient="slope")
    x = torch.linspace(low, high, 4001, dtype=torch.float64)
    exact = torch.autograd.functional.jacobian(lambda v: FUNCTION[name](v).sum(), x)
    assert ((gradient_of(node, x) - exact) / exact).abs().max() < 0.02


@pytest.mark.parametrize(("time_steps", "bases"), [(1, 2), (8, 8), (20, 32)])
def test_the_slope_of_an_identity_is_one_everywhere(time_steps: int, bases: int) -> None:
    node = slope_node(identity_tables(time_steps, bases), "identity")
    x = torch.tensor([0.0, -0.0, 1e-40, 1e-30, -3.0, 7.5, 1e30])
    weight = torch.randn(7)
    assert torch.equal(gradient_of(node, x, weight), weight)


@pytest.mark.parametrize(("scale", "slopes"), [("token", [1.0, 1.0, 1.0]), ("tensor", [1.0, 1.0, 0.0])])
def test_a_shared_scale_has_slope_one_and_zero_where_it_saturates(scale: str, slopes: list[float]) -> None:
    node = SharedScaleNode(shared_scale_tables(8, 8), scale, torch.tensor(2), -4.0, 4.0)
    node.notice.given, node.gradient = True, "slope"
    got = gradient_of(node, torch.tensor([[-3.0, 0.0, 8.0]]))
    assert got.tolist() == [slopes]


@pytest.mark.parametrize("name", [n for n in NODES if nodes()[n].halving])
def test_in_mode_m_the_slope_is_shared_by_the_steps(name: str) -> None:
    """Each weighted spike has its intensity's share, so that their sum has the decoded value's slope."""
    node = nodes()[name]
    node.gradient = "slope"
    x = ordinary(node)
    weight = torch.randn(x.shape)
    sequence = node.weighted_spikes(x.requires_grad_())
    assert_same_bits(sequence.detach(), node.weighted_spikes(x.detach()))
    (summed,) = torch.autograd.grad(sequence, x, weight.expand_as(sequence), retain_graph=True)
    torch.testing.assert_close(summed, gradient_of(node, x, weight))
    (first,) = torch.autograd.grad(sequence[0].sum(), x)
    share = 0.5 / (1 - 2.0**-node.time_steps)
    torch.testing.assert_close(first, share * gradient_of(node, x))


def test_the_slope_differentiated_twice_is_zero_and_linear_in_the_gradient() -> None:
    node, x = slope_node(make_tables("routed", 8)), torch.randn(9, requires_grad=True)
    (first,) = torch.autograd.grad(node(x).square().sum(), x, create_graph=True)  # 2 y slope
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 2 * gradient_of(node, x).square())


def test_tables_that_do_not_halve_have_no_slope() -> None:
    free, halving = (
        make_tables("published", 8),
        dict.fromkeys(("threshold", "reset", "intensity"), halving_table(8, 4)),
    )
    message = "gradient='slope' needs halving tables"
    with pytest.raises(ValueError, match=message):
        MBENode(free, gradient="slope")
    node = MBENode(dataclasses.replace(free, **halving), gradient="slope")
    node.load_state_dict(MBENode(free).state_dict())
    with pytest.raises(ValueError, match=message):
        gradient_of(node, torch.randn(3))
    with pytest.raises(ValueError, match="gradient must be one of .*'surrogate', 'slope'.*, got 'ste'"):
        node.gradient = "ste"  # type: ignore[assignment]


# networks


def test_the_configuration_reaches_every_neuron_and_comes_back_from_disk(tmp_path: Any) -> None:
    ann = transformer()
    snn = convert(ann, [tokens()], MBEConfig(gradient="slope"))
    mbe_plugin.save(snn, tmp_path)
    for model in (snn, mbe_plugin.load(tmp_path, ann)):
        assert {m.gradient for m in model.modules() if isinstance(m, CalibratedNode)} == {"slope"}
    plain = convert(ann, [tokens()])
    assert {m.gradient for m in plain.modules() if isinstance(m, CalibratedNode)} == {"surrogate"}
    assert torch.equal(plain(tokens()), snn(tokens())), "the forward pass is the same"


def test_a_network_trains_as_by_the_step_loop() -> None:
    networks = [
        convert(transformer(), [tokens()], MBEConfig(simulate=s, time_steps=8)) for s in ("closed", "steps")
    ]
    for snn in networks:
        snn(tokens()).square().sum().backward()
    for one, other in zip(*(snn.parameters() for snn in networks), strict=True):
        assert other.grad.abs().max() > 0
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4 * other.grad.abs().max().item())


def cosines(ann: nn.Module, snn: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Per parameter, the cosine of the gradients of a classification loss."""
    for model in (ann, snn):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
    pairs = zip(ann.parameters(), snn.parameters(), strict=True)
    return torch.stack(
        [torch.cosine_similarity(a.grad.reshape(-1), s.grad.reshape(-1), dim=0) for a, s in pairs]
    )


def test_the_slope_gives_a_vision_transformer_the_anns_gradients() -> None:
    timm = pytest.importorskip("timm")
    ann = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=10).eval()
    x, y = torch.randn(8, 3, 64, 64), torch.arange(8)
    snn = convert(ann, [x], MBEConfig(time_steps=8, gradient="slope"))
    found = cosines(ann, snn, x, y)
    assert found.mean() > 0.999
    assert found.min() > 0.998


def test_a_head_learns_on_a_converted_backbone() -> None:
    """Only the head's parameters change, and the loss falls."""
    snn = nn.Sequential(convert(transformer(), [tokens()]), nn.Flatten(1), nn.Linear(6 * WIDTH, 3))
    optimizer = torch.optim.Adam(snn[2].parameters(), 0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(snn(tokens()), torch.tensor([0, 1, 2, 0]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
