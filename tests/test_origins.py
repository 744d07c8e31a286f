"""Activations that are no floats from the start: integers, truth values, arrays, numbers, what left torch and came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling, Inside
from torch import Tensor, nn

from mbe_plugin import MBEConfig, calibrate, convert, load, report, save
from mbe_plugin.conversion.following.origins import perturbed

CODES = torch.randint(0, 256, (4, WIDTH), generator=torch.Generator().manual_seed(3))


def sites(snn: nn.Module) -> set[str]:
    return {site.site for site in report(snn).sites}


def values_of(codes: Tensor) -> Tensor:
    return codes.float() / 255


class Pixels(nn.Module):
    """uint8 images, divided by 255 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 3), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.stem(x.float() / 255)).mean((2, 3)))


class Features(nn.Module):
    """An embedding, and integer features beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.numbers, self.head = (
            nn.Embedding(10, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        return self.head(self.embed(ids).mean(1) + F.gelu(self.numbers(values_of(numbers))))


class Diffusing(nn.Module):
    """A diffusion model's time embedding, made of sines of whole steps."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, step: Any) -> Tensor:
        frequencies = torch.exp(-torch.arange(WIDTH // 2) / 4.0)
        angles = torch.as_tensor(step).float().reshape(-1, 1) * frequencies
        table = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return self.outer(x + F.silu(self.inner(table)))


IMAGES = torch.randint(0, 256, (4, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
IDS = torch.randint(0, 10, (4, 5), generator=torch.Generator().manual_seed(2))
FLOATS = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(4))

CASES: dict[str, tuple[Callable[[], nn.Module], tuple, set[str]]] = {
    "pixels": (Pixels, (IMAGES,), {"stem:conv2d", "(root):gelu", "head:linear"}),
    "features": (Features, (IDS, CODES), {"numbers:linear", "(root):gelu", "head:linear"}),
    "steps": (
        Diffusing,
        (FLOATS, torch.tensor([3, 9, 9, 4])),
        {"inner:linear", "(root):silu", "outer:linear"},
    ),
    "one step": (Diffusing, (FLOATS, torch.tensor([7])), {"inner:linear", "(root):silu", "outer:linear"}),
    "the first step": (
        Diffusing,
        (FLOATS, torch.tensor([1])),
        {"inner:linear", "(root):silu", "outer:linear"},
    ),
    "a number": (Diffusing, (FLOATS, 7), {"inner:linear", "(root):silu", "outer:linear"}),
    "a float": (Diffusing, (FLOATS, 0.7), {"inner:linear", "(root):silu", "outer:linear"}),
    "a list": (Diffusing, (FLOATS, [1, 2, 3, 4]), {"inner:linear", "(root):silu", "outer:linear"}),
    "an array": (
        lambda: Inside(lambda m, a: torch.tanh(m.fc(torch.from_numpy(a)))),
        (FLOATS.numpy(),),
        {"body.inner.fc:linear", "body.inner:tanh"},
    ),
    "back from numpy": (
        lambda: Inside(lambda m, x: torch.tanh(m.fc(torch.from_numpy(np.sin(x.detach().numpy()))))),
        (FLOATS,),
        {"body.inner.fc:linear", "body.inner:tanh"},
    ),
    "back from a list": (
        lambda: Inside(lambda m, x: torch.tanh(m.fc(torch.tensor(x.tolist())))),
        (FLOATS,),
        {"body.inner.fc:linear", "body.inner:tanh"},
    ),
    "truth values": (
        lambda: Inside(lambda m, x: torch.tanh(m.fc((x > 0).float()))),
        (FLOATS,),
        {"body.inner.fc:linear", "body.inner:tanh"},
    ),
    "a table indexed by hand": (
        lambda: Inside(lambda m, i: torch.tanh(m.fc(m.fc.weight[i]))),
        (IDS % WIDTH,),
        {"body.inner.fc:linear", "body.inner:tanh"},
    ),
    "a normalisation first": (
        lambda: Inside(lambda m, i: F.layer_norm(values_of(i), (WIDTH,), m.fc.bias)),
        (CODES,),
        {"body.inner:layer_norm"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_integers_and_what_came_from_elsewhere_spike_from_their_first_weight_on(case: str) -> None:
    make, args, wanted = CASES[case]
    torch.manual_seed(0)
    ann = make().eval()
    snn = convert(ann, [(args, {})])
    assert sites(snn) == wanted
    assert report(snn).unchecked == ()
    out, exact = snn(*args), ann(*args)
    assert not torch.equal(out, exact)  # it is spikes that are read
    assert torch.allclose(out, exact, atol=1e-3)
    assert {s.site for s in report(convert(ann, [(args, {})], MBEConfig(time_steps=1))).sites} == wanted


@pytest.mark.parametrize("case", ["pixels", "features", "steps"])
def test_an_input_that_was_not_calibrated_with_spikes_too(case: str) -> None:
    make, args, _ = CASES[case]
    ann = make().eval()
    snn = convert(ann, [(args, {})])
    other = perturbed(args, bold=False)
    out = snn(*other)
    assert not torch.equal(out, ann(*other))
    assert torch.allclose(out, ann(*other), atol=1e-3)


def test_an_attention_of_torch_on_integers() -> None:
    """A composite that is decomposed when, and only when, an activation is among its arguments."""
    snn = convert(_Attending().eval(), [torch.randint(0, 256, (2, 5, WIDTH))])
    assert any("softmax" in site for site in sites(snn))


class _Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = values_of(x)
        return self.attention(y, y, y)[0]


# --- what stays a constant


class Rotary(nn.Module):
    """Positions become rotary tables; a mask is added; a table of relative positions goes through an MLP of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.q, self.k = nn.Embedding(10, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
        self.register_buffer("frequencies", torch.exp(-torch.arange(WIDTH // 2) / 4.0))

    def forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        angles = positions[:, :, None].float() @ self.frequencies[None]
        cos, sin = (torch.cat([t, t], -1) for t in (angles.cos(), angles.sin()))

        def turned(t: Tensor) -> Tensor:
            half = WIDTH // 2
            return t * cos + torch.cat([-t[..., half:], t[..., :half]], -1) * sin

        x = self.embed(ids)
        near = torch.arange(ids.shape[1], dtype=torch.float32)
        relative = self.bias((near[:, None] - near[None])[..., None]).squeeze(-1)
        scores = turned(self.q(x)) @ turned(self.k(x)).transpose(-2, -1) + relative
        scores = scores + (1 - mask[:, None].float()) * torch.finfo(torch.float32).min
        return torch.softmax(scores, -1) @ x


def _rotary_batch() -> dict[str, Tensor]:
    mask = torch.ones(4, 5, dtype=torch.long)
    mask[0, :2] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    return {"ids": IDS, "mask": mask, "positions": positions}


def test_positions_masks_and_relative_tables_stay_constants() -> None:
    snn = convert(Rotary().eval(), [_rotary_batch()])
    assert sites(snn) == {
        "q:linear",
        "k:linear",
        "(root):matmul(a,a)",
        "(root):softmax",
        "(root):matmul(a,a)#1",
    }
    found = report(snn)
    assert found.unchecked == ()
    assert found.without_activation == {"cos": 1, "sin": 1, "relu": 1}
    assert "cos 1" in found.summary()


def test_a_table_that_could_not_be_compared_is_said_to_be_unchecked() -> None:
    """The model refuses every perturbed batch, and no second one of the same shape was given."""

    def picky(m: Calling, x: Tensor, length: Tensor) -> Tensor:
        if not torch.equal(length, torch.tensor([5, 3])):
            raise ValueError("no such lengths")
        return x + m.fc(torch.full((2, WIDTH), 0.5) * length[:, None])

    batch = ((FLOATS[:2], torch.tensor([5, 3])), {})
    assert calibrate(Inside(picky), [batch]).unchecked == ["linear in body.inner.fc"]


def test_a_later_batch_shows_an_activation_that_the_first_could_not() -> None:
    """All steps are 0 in the first batch, and its model refuses others than 0 and 6."""

    class Choosy(Diffusing):
        def forward(self, x: Tensor, step: Tensor) -> Tensor:
            if int(step) not in (0, 6):
                raise ValueError(f"no step {int(step)}")
            return super().forward(x, step)

    batches = [((FLOATS, torch.tensor([step])), {}) for step in (0, 6)]
    snn = convert(Choosy().eval(), batches)
    assert "inner:linear" in sites(snn)
    assert "(root):silu" in sites(snn)


def test_where_activations_begin_is_saved(tmp_path: Any) -> None:
    ann = Features().eval()
    snn = convert(ann, [((IDS, CODES), {})])
    save(snn, tmp_path)
    again = load(tmp_path, ann)
    assert torch.equal(again(IDS, CODES), snn(IDS, CODES))
    assert report(again).as_dict()["without_activation"] == report(snn).as_dict()["without_activation"]


def test_perturbed_values_keep_shapes_and_types_and_stay_valid_indices() -> None:
    args = (IDS, IMAGES, FLOATS, [1, 2], {"a": 0.5}, "name", True, None, torch.tensor([4, 4]), FLOATS.numpy())
    other = perturbed(args, bold=False)
    for before, after in zip(args, other, strict=True):
        assert type(before) is type(after)
        if isinstance(before, Tensor):
            assert after.shape == before.shape
            assert after.dtype == before.dtype
            assert not torch.equal(before, after)
            assert after.min() >= 0 or before.is_floating_point()
            assert after.max() <= before.max()
    assert other[3:8] == ([2, 1], {"a": 0.45}, "name", True, None)
    assert torch.equal(args[0], IDS)  # the caller's are as they were
