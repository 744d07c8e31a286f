"""Composites that are rewritten in parts with spiking forms: exact rewriting, and close when spiking."""

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import MBEConfig, convert
from mbe_plugin.conversion.vocabulary import decompose


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def converted_error(function, *args):
    ann = Calls(function)
    wanted = ann(*args)
    return ((mbe_plugin.convert(ann, [(args, {})])(*args) - wanted).abs().max() / wanted.std()).item()


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_grid_sample_is_four_neighbours_times_their_weights(align, padding):
    image, grid = gaussian(2, 3, 5, 7), 2.6 * torch.rand(2, 4, 6, 2) - 1.3
    wanted = F.grid_sample(image, grid, "bilinear", padding, align)
    torch.testing.assert_close(decompose.grid_sample(image, grid, "bilinear", padding, align), wanted)
    assert converted_error(lambda i, g: F.grid_sample(i, g, "bilinear", padding, align), image, grid) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")  # the least value is on the edge of the range
@pytest.mark.parametrize(
    "power",
    [
        lambda x: torch.float_power(x, 2),
        lambda x: torch.float_power(input=x, exponent=0.5),
        lambda x: x.float_power(torch.tensor(3)),
        lambda x: torch.float_power(2.0, x),
        lambda x: x.double().clone().float_power_(2.5),
    ],
)
def test_a_power_in_float64_whatever_it_is_of(power, dtype):
    x = gaussian(4, 6).abs().to(dtype) + 0.5
    snn = mbe_plugin.convert(Calls(power), [x])
    assert snn(x).dtype == power(x).dtype == torch.float64
    torch.testing.assert_close(snn(x), power(x), rtol=1e-3, atol=1e-3)
    assert not torch.equal(snn(x), power(x)), "nothing was encoded"


@pytest.mark.parametrize("base", [2, 3.0, 0.25])
def test_a_power_with_the_activation_in_the_exponent(base):
    assert converted_error(lambda x: torch.pow(base, x) + x.sum() * 0, gaussian(4, 6)) < 1e-3
    assert converted_error(lambda x: base**x + x.sum() * 0, gaussian(4, 6)) < 1e-3


def test_a_module_that_returns_another_dtype_keeps_it():
    ann = nn.Sequential(nn.Linear(6, 6), Calls(lambda x: F.gelu(x.float()))).half()
    snn = mbe_plugin.convert(ann, [gaussian(4, 6).half()])
    assert snn(gaussian(4, 6).half()).dtype == torch.float32


def test_grid_sample_by_nearest_neighbours_is_refused_by_name():
    image, grid = gaussian(2, 3, 5, 7), 0.3 * gaussian(2, 4, 6, 2)
    with pytest.raises(mbe_plugin.UnsupportedOperatorError, match="grid_sample"):
        converted_error(
            lambda i, g: F.grid_sample(i, g, "nearest", align_corners=False) * i.mean(), image, grid
        )


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 33])
@pytest.mark.parametrize("upper", [True, False])
def test_a_triangular_system_with_unit_diagonal_is_solved_by_products(n, upper):
    system, right = gaussian(2, n, n) / n**0.5, gaussian(2, n, 4, seed=1)

    def solve(a, b):
        return torch.linalg.solve_triangular(a, b, upper=upper, unitriangular=True)

    torch.testing.assert_close(
        decompose.solve_triangular(system, right, upper=upper, unitriangular=True), solve(system, right)
    )
    assert converted_error(solve, system, right) < 1e-3


@pytest.mark.parametrize("rows", [5, 40])
@pytest.mark.parametrize("mode", ["_if_necessary", "", "donot"])
@pytest.mark.parametrize("p", [1, 2.0])
def test_distances_by_products_or_by_differences(rows, mode, p):
    mode = "donot_use_mm_for_euclid_dist" if mode == "donot" else f"use_mm_for_euclid_dist{mode}"
    a, b = gaussian(2, 30, 7), gaussian(rows, 7, seed=1)
    torch.testing.assert_close(decompose.cdist(a, b, p, mode), torch.cdist(a, b, p=p, compute_mode=mode))
    assert converted_error(lambda a, b: torch.cdist(a, b, p=p, compute_mode=mode), a, b) < 1e-3


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_distances_to_a_codebook_of_another_number_of_rows_than_in_calibration():
    codebook = gaussian(30, 7, seed=1)
    ann = Calls(lambda x: torch.cdist(x, codebook))
    snn = mbe_plugin.convert(ann, [3 * gaussian(40, 7)])
    names = [site.site.partition(":")[2] for site in mbe_plugin.report(snn).sites]
    assert names == ["mul(a,a)", "matmul(a,w)", "sqrt"]
    few = gaussian(5, 7, seed=2)
    torch.testing.assert_close(snn(few), ann(few), rtol=0, atol=1e-3)
    near = snn(codebook.clone())
    assert (near.diagonal() < 1e-2).all(), "what is near stays near: both products see one encoding"
    assert torch.equal(near.argmin(-1), torch.arange(30))


def test_a_triangular_system_with_its_own_diagonal_is_refused_by_name():
    system, right = gaussian(2, 3, 3) + 3 * torch.eye(3), gaussian(2, 3, 4)
    with pytest.raises(mbe_plugin.UnsupportedOperatorError, match="solve_triangular"):
        converted_error(
            lambda a, b: torch.linalg.solve_triangular(a, b @ b.mT @ b, upper=False), system, right
        )


def test_grouped_products_of_sorted_rows():
    ends = torch.tensor([3, 3, 8], dtype=torch.int32)
    experts = gaussian(3, 16, 16)

    def mixture(x):
        return F.grouped_mm(x, experts, offs=ends)

    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    assert converted_error(mixture, gaussian(8, 16)) < 1e-3


def test_masked_inputs_of_a_gate_read_the_limit():
    x = gaussian(4, 6)

    def gate(x):
        return torch.sigmoid(x.masked_fill(x < -1, -torch.inf)) * x

    assert converted_error(gate, x) < 1e-2


def test_attention_with_fewer_keys_than_values():
    q, k, v = gaussian(2, 4, 5, 8), gaussian(2, 2, 5, 8, seed=1), gaussian(2, 4, 5, 8, seed=2)
    repeated = F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v)
    snn = mbe_plugin.convert(
        Calls(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)),
        [((q, k, k), {})],
    )
    assert (snn(q, k, v) - repeated).abs().max() < 1e-2


def test_rotation_by_complex_numbers_keeps_the_mark():
    angles = torch.polar(torch.ones(5, 4), gaussian(5, 4))

    def rotate(x):
        turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * angles
        return torch.view_as_real(turned).flatten(-2).square()

    snn = mbe_plugin.convert(Calls(rotate), [gaussian(2, 5, 8)])
    assert [site.operator for site in mbe_plugin.report(snn).sites] == ["Power"]


def test_what_follows_an_excluded_unit_is_still_a_site():
    class Swish(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(x) * 0.5

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.gate, self.act = nn.Linear(4, 4), nn.Linear(4, 4), Swish()

        def forward(self, x):
            return self.act(self.gate(x)) * self.up(x)

    config = mbe_plugin.MBEConfig(exclude=("act:*",))
    snn = mbe_plugin.convert(Gated(), [gaussian(3, 4)], config)
    report = mbe_plugin.report(snn)
    assert "act:Swish" in report.kept_exact
    assert "(root):mul(a,a)" in [site.site for site in report.sites]


def test_attention_with_separate_projections_and_an_empty_joint_one() -> None:
    """WavLM's call: in_proj_weight is torch.empty([0])."""

    def attend(m: Calling, x: Tensor) -> Tensor:
        w = m.fc.weight
        return F.multi_head_attention_forward(
            x, x, x, WIDTH, 2, torch.empty([0]), torch.zeros(3 * WIDTH), None, None, False, 0.0, w, None,
            training=False, use_separate_proj_weight=True, q_proj_weight=w, k_proj_weight=w, v_proj_weight=w,
        )[0]  # fmt: skip

    model = Calling(attend).eval()
    x = torch.randn(5, 2, WIDTH, generator=torch.Generator().manual_seed(0))
    snn = convert(model, [x], MBEConfig(time_steps=16))
    torch.testing.assert_close(snn(x), model(x), atol=1e-3, rtol=0)
