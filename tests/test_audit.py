"""The audit's instrument is another than the router's: what hides from one is caught by the other."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling, Inside, tokens
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mbe_plugin import MBEConfig, UnsupportedOperatorError, convert, count_spikes, report

PATH = "body.inner"
Function = Callable[[Calling, Tensor], Tensor]

# torch announces the end of TorchScript; research code is full of it all the same
scripting = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


class HiddenExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.exp(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


@torch.library.custom_op(f"mbe_tests_{uuid.uuid4().hex}::exp", mutates_args=())
def custom_exp(x: Tensor) -> Tensor:
    return torch.exp(x)


def scripted_exp(x: Tensor) -> Tensor:
    def exponential(x: Tensor) -> Tensor:
        return torch.exp(x)

    return torch.jit.script(exponential)(x)


HIDDEN = {
    "scripted": scripted_exp,
    "autograd": HiddenExp.apply,
    "packet": torch.ops.aten.exp,
    "overload": torch.ops.aten.exp.default,
    "custom": custom_exp,
    "in place": lambda x: torch.ops.aten.exp_.default(x.clone()),
    "vmap": torch.vmap(torch.exp),
    "checkpoint": lambda x: torch.utils.checkpoint.checkpoint(torch.exp, x, use_reentrant=False),
}


def hidden_between_layers(exp: Callable[[Tensor], Tensor]) -> Inside:
    def function(m: Calling, x: Tensor) -> Tensor:
        return m.fc(exp(m.fc(x)))

    torch.manual_seed(0)
    return Inside(function)


@scripting
@pytest.mark.parametrize("way", HIDDEN)
def test_a_hidden_exp_is_routed_or_refused_by_path(way: str) -> None:
    model = hidden_between_layers(HIDDEN[way])
    try:
        snn = convert(model, [tokens()])
    except UnsupportedOperatorError as refused:
        assert re.search(rf"exp in {re.escape(PATH)} ", str(refused))
        snn = convert(model, [tokens()], MBEConfig(strict=False))
        assert any(
            re.fullmatch(rf"(\w+::)?exp in {re.escape(PATH)}", name) for name in report(snn).unsupported
        )
    else:
        assert f"{PATH}:exp" in [site.site for site in report(snn).sites]
        assert not report(snn).unsupported
        want = model(tokens())
        assert (snn(tokens()) - want).abs().max() < 1e-3 * want.abs().max()


def test_a_custom_operator_named_as_torch_names_one_is_not_taken_for_it() -> None:
    library = f"mbe_tests_{uuid.uuid4().hex}"

    @torch.library.custom_op(f"{library}::tanh", mutates_args=())
    def doubled(x: Tensor) -> Tensor:
        return 2 * x

    model = hidden_between_layers(getattr(torch.ops, library).tanh)
    with pytest.raises(UnsupportedOperatorError, match=f"{library}::tanh in {re.escape(PATH)}"):
        convert(model, [tokens()])


def test_the_ways_that_are_refused_and_those_that_are_routed() -> None:
    """Pinned, so that a way that goes over from one side to the other is noticed."""
    refused = set()
    for way in ("autograd", "packet", "overload", "custom", "vmap"):
        try:
            convert(hidden_between_layers(HIDDEN[way]), [tokens()])
        except UnsupportedOperatorError:
            refused.add(way)
    assert refused == {"packet", "overload", "custom", "vmap"}


@scripting
def test_a_layer_inside_a_scripted_function_is_not_left_unencoded() -> None:
    @torch.jit.script
    def project(x: Tensor, weight: Tensor) -> Tensor:
        return torch.matmul(x, weight)

    model = Inside(lambda m, x: project(m.fc(x), m.fc.weight))
    with pytest.raises(UnsupportedOperatorError, match=rf"mm on an input that no neuron encodes in {PATH} "):
        convert(model, [tokens()])


@scripting
def test_a_layer_behind_a_scripted_function_is_encoded() -> None:
    """The scripted addition hides from the walk that its result is an activation; that it differs shows it again."""

    @torch.jit.script
    def add(x: Tensor) -> Tensor:
        return x + 1

    snn = convert(hidden_between_layers(lambda x: add(x)), [tokens()])
    with count_spikes(snn) as counts:
        snn(tokens())
    (neuron,) = counts.neurons.values()  # one layer, called twice
    assert neuron.elements == 2 * tokens().numel()


@pytest.mark.parametrize(
    "product",
    [
        torch.ops.aten.mul.Tensor,
        lambda x, y: torch.ops.aten.mul_.Tensor(x.clone(), y),
        lambda x, y: torch.ops.aten.matmul.default(x, y.mT),
        lambda x, y: torch.ops.aten.bmm.default(x, y.mT),
        lambda x, y: torch.ops.aten.addcmul.default(x, x, y),
        lambda x, y: torch.ops.aten.div.Tensor(x, y),
    ],
    ids=["mul", "mul_", "matmul", "bmm", "addcmul", "div"],
)
def test_a_product_of_activations_by_an_aten_overload_is_caught(product: Callable) -> None:
    model = Inside(lambda m, x: product(m.fc(x), x))
    with pytest.raises(UnsupportedOperatorError, match=rf"(mul|bmm|addcmul|div)[\w ]* in {re.escape(PATH)} "):
        convert(model, [tokens()])


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.fc(x) + x - 0.5,
        lambda m, x: m.fc(x) * 3.0 / 7,
        lambda m, x: m.fc(x.sum(1) + x.mean(1)),
        lambda m, x: torch.where(x > 0, m.fc(x), x.amax(-1, keepdim=True)),
        lambda m, x: m.fc(x).clamp(-1, 1).sign(),
        lambda m, x: torch.cat([m.fc(x), x.flip(1)], 1).transpose(1, 2).reshape(4, -1)[:, ::2],
        lambda m, x: m.fc(x).gather(1, torch.zeros(4, 1, WIDTH, dtype=torch.int64)),
        lambda m, x: m.fc(x.masked_fill(x < 0, 0.0)).roll(1, -1),
        lambda m, x: F.avg_pool1d(m.fc(x), 2) + F.max_pool1d(x, 2),
        lambda m, x: F.interpolate(m.fc(x), scale_factor=2),
        lambda m, x: F.pad(m.fc(x), (1, 1)).unfold(-1, 3, 1).cumsum(-1),
        lambda m, x: m.fc(x).sort(-1).values + x.topk(WIDTH, -1).values,
        lambda m, x: F.dropout(m.fc(x), 0.5, training=False) + x,
        lambda m, x: torch.lerp(m.fc(x), x, 0.25),
        lambda m, x: torch.nan_to_num(m.fc(x)) + m.fc(x).nan_to_num_(0.0, 1.0, -1.0),
        lambda m, x: F.batch_norm(m.fc(x), torch.zeros(6), torch.ones(6)),
    ],
)
def test_linear_and_exact_operators_give_no_alarm(function: Function) -> None:
    torch.manual_seed(0)
    model = Inside(function)
    snn = convert(model, [tokens()])
    found = report(snn)
    assert not found.unsupported
    assert {site.operator for site in found.sites} == {"EncodedCall"}
    assert found.linear or found.exact


def rotary(x: Tensor, positions: Tensor) -> Tensor:
    angle = positions[:, None] * torch.arange(WIDTH // 2) * 0.1
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    half = torch.cat([-x[..., WIDTH // 2 :], x[..., : WIDTH // 2]], -1)
    return x * cos.to(x) + half * sin.type_as(x)


class Constants(Calling):
    """Calling, with everything that a product may be linear in."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self.layer_scale = nn.Parameter(torch.full((WIDTH,), 0.1))
        self.register_buffer("table", torch.linspace(0.5, 1.5, WIDTH))
        self.bias_table = nn.Parameter(torch.randn(11, 2))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.fc(x) * m.layer_scale,
        lambda m, x: m.fc(x) * m.table,
        lambda m, x: m.fc(x) * m.table.expand_as(x),
        lambda m, x: m.fc(x) * m.table.to(x.device, x.dtype).exp(),
        lambda m, x: m.fc(x) * torch.sigmoid(m.layer_scale),
        lambda m, x: rotary(m.fc(x), torch.arange(6)),
        lambda m, x: m.fc(x) + m.bias_table[torch.arange(6) + 1, 0][:, None],
        lambda m, x: m.fc(x) * (torch.arange(6) < 4)[:, None],
        lambda m, x: m.fc(x) * (torch.arange(6) < 4).to(x.dtype)[:, None],
        lambda m, x: m.fc(x) / x.shape[-1] ** 0.5,
        lambda m, x: m.fc(x) / m.table,
        lambda m, x: m.fc(x) * torch.ones_like(x),
        lambda m, x: m.fc(x) * x.new_full((1,), 2.0),
        lambda m, x: torch.einsum("blc,c->bl", m.fc(x), m.table),
        lambda m, x: m.fc(x) @ torch.outer(m.table, m.table),
    ],
)
def test_a_product_with_constants_is_linear(function: Function) -> None:
    model = nn.Sequential(Constants(function))
    found = report(convert(model, [tokens()]))
    assert not found.unsupported
    operators = {site.site.partition(":")[2].partition("(")[0] for site in found.sites}
    assert operators <= {"linear", "einsum", "matmul"}, operators
    assert all(len(site.neurons) == 1 for site in found.sites), "a constant was encoded"


def test_a_mask_made_from_integer_inputs_is_constant() -> None:
    def masked(m: Calling, x: Tensor, keep: Tensor) -> Tensor:
        return m.fc(x) * keep[..., None].float() + (1.0 - keep[..., None].float()) * -1.0

    keep = torch.ones(4, 6, dtype=torch.int64)
    found = report(convert(Inside(masked), [((tokens(), keep), {})]))
    assert [site.site for site in found.sites] == [f"{PATH}.fc:linear"]


def test_an_embedding_look_up_is_an_activation_though_its_input_is_integer() -> None:
    def looked_up(m: Calling, ids: Tensor) -> Tensor:
        return m.fc(F.embedding(ids, torch.randn(10, WIDTH)))

    found = report(convert(Inside(looked_up), [torch.arange(10).reshape(2, 5)]))
    assert [site.site for site in found.sites] == [f"{PATH}.fc:linear"]


@pytest.mark.parametrize(
    ("function", "site"),
    [
        (lambda m, x: F.normalize(m.fc(x), dim=-1), "mul(a,a)"),
        (lambda m, x: m.fc(x) * torch.sigmoid(x), "mul(a,a)"),
        (lambda m, x: m.fc(x) @ x.transpose(1, 2), "matmul(a,a)"),
        (lambda m, x: torch.einsum("blc,bmc->blm", m.fc(x), x), "einsum(a,a)"),
        (lambda m, x: m.fc(x) * x.mean(-1, keepdim=True), "mul(a,a)"),
        (lambda m, x: m.fc(x).mul_(x), "mul(a,a)"),
        (lambda m, x: F.glu(m.fc(x)), "mul(a,a)"),
        (lambda m, x: m.fc(x) / (x * x).sum(-1, keepdim=True), "div(a,a)"),
        (lambda m, x: torch.addcmul(x, m.fc(x), x), "addcmul(a,a)"),
        (lambda m, x: torch.baddbmm(x[:, :, :6], m.fc(x), x.mT), "baddbmm(a,a)"),
        (lambda m, x: F.conv1d(x[:1], m.fc(x)), "conv1d(a,a)"),
    ],
)
def test_a_product_of_activations_is_a_site(function: Function, site: str) -> None:
    torch.manual_seed(0)
    model = Inside(function)
    snn = convert(model, [tokens()])
    assert f"{PATH}:{site}" in [s.site for s in report(snn).sites]
    assert not report(snn).unsupported
    want = model(tokens())
    assert (snn(tokens()) - want).abs().max() < 1e-3 * want.abs().max()


def test_a_function_that_the_lists_do_not_know_counts_as_unsupported() -> None:
    with pytest.raises(UnsupportedOperatorError, match=rf"special_airy_ai in {re.escape(PATH)} \(2x\)"):
        convert(Inside(lambda m, x: torch.special.airy_ai(torch.special.airy_ai(m.fc(x)))), [tokens()])


def test_a_nonlinear_hook_of_the_root_is_not_overlooked() -> None:
    """It runs around the forward, where nothing is routed."""
    model = Inside(lambda m, x: m.fc(x))
    model.register_forward_hook(lambda module, args, out: torch.exp(out))
    with pytest.raises(UnsupportedOperatorError, match=r"exp in \(hooks of the root\)"):
        convert(model, [tokens()])


def test_a_hook_inside_is_part_of_the_network() -> None:
    model = Inside(lambda m, x: m.fc(x))
    model.body["inner"].fc.register_forward_hook(lambda module, args, out: torch.exp(out))
    snn = convert(model, [tokens()])
    assert f"{PATH}:exp" in [site.site for site in report(snn).sites]


def test_a_loss_stays_exact() -> None:
    def trained(m: Calling, x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(m.fc(x).flatten(0, 1), labels.flatten())

    labels = torch.zeros(4, 6, dtype=torch.int64)
    snn = convert(Inside(trained), [((tokens(), labels), {})])
    assert [site.site for site in report(snn).sites] == [f"{PATH}.fc:linear"]


class Seeing(TorchFunctionMode):
    """What runs outside our own mode, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("excluded", ["*gelu*", "*softmax*"])
def test_what_the_configuration_keeps_exact_is_no_finding(excluded: str) -> None:
    model = Inside(lambda m, x: m.fc(torch.softmax(F.gelu(m.fc(x)), -1)))
    snn = convert(model, [tokens()], MBEConfig(exclude=(excluded,)))
    kept = f"{PATH}:{excluded.strip('*')}"
    assert report(snn).kept_exact == {kept: "excluded by the configuration"}
    assert not report(snn).unsupported
    assert kept not in [site.site for site in report(snn).sites]
    with Seeing() as seen:
        snn(tokens())
    assert excluded.strip("*") in seen.names
    other = {"*gelu*": "softmax", "*softmax*": "gelu"}[excluded]
    assert other not in seen.names, "an operator that was converted ran the exact function"


# --- names with several meanings: what they are called with decides


def labels(model: nn.Module, x: Tensor) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    found = report(convert(model, [x], MBEConfig(strict=False)))
    return found.linear, found.exact, found.unsupported


@pytest.mark.parametrize("mode", ["floor", "trunc"])
def test_a_rounded_quotient_is_no_linear_function(mode: Any) -> None:
    linear, exact, unsupported = labels(
        Inside(lambda m, x: torch.div(m.fc(x), 0.5, rounding_mode=mode)), tokens()
    )
    assert "div" not in linear
    assert exact[mode] == 1
    assert not unsupported


def test_a_division_by_a_constant_is_linear() -> None:
    linear, _, unsupported = labels(Inside(lambda m, x: m.fc(x) / 0.5), tokens())
    assert linear["div"] == 1
    assert not unsupported


def test_a_batch_norm_that_writes_running_statistics_is_refused_by_name() -> None:
    def normalised(m: Calling, x: Tensor) -> Tensor:
        return F.batch_norm(m.fc(x).mT, torch.zeros(WIDTH), torch.ones(WIDTH), training=True)

    linear, _, unsupported = labels(Inside(normalised), tokens())
    assert not any("batch_norm" in name for name in linear)
    assert any("batch_norm" in name and PATH in name for name in unsupported)


def test_a_batch_norm_with_running_statistics_is_linear() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)).eval()
    linear, _, unsupported = labels(model, tokens(6))
    assert any("batch_norm" in name for name in linear)
    assert not unsupported


@pytest.mark.parametrize("shape", [(6,), (6, 5), (3, 4, 5)], ids=str)
def test_a_batch_norm_by_the_batchs_own_statistics_spikes(shape: tuple[int, ...]) -> None:
    make = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(shape)]
    norm = make(WIDTH, track_running_stats=False).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, WIDTH))
        norm.bias.copy_(torch.linspace(-1, 1, WIDTH))
    x = torch.randn(shape[0], WIDTH, *shape[1:], generator=torch.Generator().manual_seed(0)) * 3 + 1
    snn = convert(nn.Sequential(norm), [x])
    assert [site.site for site in report(snn).sites] == ["0:batch_norm"]
    dims = [d for d in range(x.dim()) if d != 1]
    deviation = x.double() - x.double().mean(dims, keepdim=True)
    normal = deviation / (deviation.square().mean(dims, keepdim=True) + norm.eps).sqrt()
    gain, offset = (p.double().reshape(1, -1, *[1] * (x.dim() - 2)) for p in (norm.weight, norm.bias))
    torch.testing.assert_close(snn(x).double(), normal * gain + offset, rtol=1e-3, atol=1e-3)


def test_a_scatter_that_multiplies_is_a_product() -> None:
    def scattered(m: Calling, x: Tensor, how: str) -> Tensor:
        index = torch.zeros_like(x, dtype=torch.long)
        return m.fc(x).scatter_reduce(-1, index, x, reduce=how)

    _, exact, unsupported = labels(Inside(lambda m, x: scattered(m, x, "sum")), tokens())
    assert "scatter_reduce" in exact
    assert not unsupported
    _, exact, unsupported = labels(Inside(lambda m, x: scattered(m, x, "prod")), tokens())
    assert f"scatter_reduce in {PATH}" in unsupported


def test_an_interpolation_by_an_activation_is_a_product() -> None:
    lerp = torch.ops.aten.lerp.Tensor  # under the walk, which would take torch.lerp apart
    linear, _, unsupported = labels(Inside(lambda m, x: lerp(m.fc(x), x, torch.tensor(0.5))), tokens())
    assert "lerp" in linear
    _, _, unsupported = labels(Inside(lambda m, x: lerp(x, m.fc(x), x)), tokens())
    assert f"lerp in {PATH}" in unsupported


# --- sparse matrices


def adjacency() -> Tensor:
    return torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.0, 1.0], [0.25, 0.0, 0.0]])


LAYOUTS = {"coo": Tensor.to_sparse, "csr": Tensor.to_sparse_csr}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "product",
    [
        torch.matmul,
        torch.mm,
        torch.sparse.mm,
        lambda a, x: a @ x,
        lambda a, x: torch.sparse.addmm(torch.zeros(3, WIDTH), a, x),
    ],
    ids=["matmul", "mm", "sparse.mm", "@", "sparse.addmm"],
)
def test_a_constant_sparse_matrix_is_a_layer_with_constant_weights(layout: str, product: Callable) -> None:
    sparse = LAYOUTS[layout](adjacency())
    x = tokens(3)
    snn = convert(Inside(lambda m, x: torch.tanh(product(sparse, m.fc(x)))), [x])
    exact = Inside(lambda m, x: torch.tanh(adjacency() @ m.fc(x)))
    exact.load_state_dict({k: v for k, v in snn.state_dict().items() if not k.startswith("mbe.")})
    names = [site.site for site in report(snn).sites]
    assert names[0] == f"{PATH}.fc:linear"
    assert names[-1] == f"{PATH}:tanh"
    assert len(names) == 3
    torch.testing.assert_close(snn(x), exact(x), rtol=1e-3, atol=1e-3)


def test_a_sparse_matrix_as_an_input_is_no_fault() -> None:
    sparse, x = adjacency().to_sparse(), tokens(3)
    snn = convert(Inside(lambda m, x, a: torch.tanh(torch.sparse.mm(a, m.fc(x)))), [((x, sparse), {})])
    assert len(report(snn).sites) >= 2


def test_a_sparse_activation_that_meets_weights_is_refused_with_its_place() -> None:
    model = Inside(lambda m, x: torch.sparse.mm(x, m.fc.weight))
    with pytest.raises(UnsupportedOperatorError, match=rf"mm in {PATH} multiplies weights with a sparse"):
        convert(model, [tokens(3).to_sparse()])


def test_an_activation_made_sparse_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedOperatorError, match=rf"_to_sparse in {PATH} "):
        convert(Inside(lambda m, x: torch.sparse.mm(m.fc(x).to_sparse(), torch.eye(WIDTH))), [tokens(3)])
