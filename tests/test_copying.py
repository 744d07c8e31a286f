"""What convert copies, and what it refuses before it copies: kept tensors, converted parts, wrapped models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, tokens, transformer
from oracle import assert_same_bits
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import ConversionError, MBEConfig, calibrate, load, report

pytestmark = pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")

QUICK = MBEConfig(time_steps=4, bases=8, identity_bases=2)


def convert(model: nn.Module, **settings: Any) -> nn.Module:
    return mbe_plugin.convert(model, [tokens()], QUICK, **settings)


# --- tensors of the last forward


@dataclass
class Kept:
    tensor: Tensor
    name: str = "kept"


class Holder:
    def __init__(self, tensor: Tensor) -> None:
        self.deeper = {"inside": [tensor]}


def _model_output(a: Tensor) -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=a, hidden_states=(a,))


WAYS: dict[str, Callable[[Tensor], Any]] = {
    "attribute": lambda a: a,
    "list": lambda a: [a, a + 1],
    "dict": lambda a: {"a": a},
    "tuple": lambda a: (a, (a,)),
    "set": lambda a: {a},
    "object": Holder,
    "dataclass": Kept,
    "ModelOutput": _model_output,
}


class Keeping(nn.Module):
    """Keeps what its last forward computed, as models do for plots and losses."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.way = way
        self.kept: Any = None

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.up(x))
        self.kept = WAYS[self.way](hidden)
        return self.down(hidden)


def kept_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        return kept_tensor(next(iter(value.values())))
    if isinstance(value, (list, tuple, set)):
        return kept_tensor(next(iter(value)))
    return kept_tensor(value.tensor if isinstance(value, Kept) else value.deeper)


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_keeps_tensors_of_its_last_forward(way: str, copied: bool) -> None:
    torch.manual_seed(0)
    model = Keeping(way)
    fresh = convert(model)
    model(tokens(seed=2))
    before, state = model.kept, kept_tensor(model.kept).clone()
    snn = convert(model, copy=copied)
    assert_same_bits(snn(tokens()), fresh(tokens()))
    assert model.kept is before
    assert kept_tensor(before).grad_fn is not None
    assert_same_bits(kept_tensor(before), state)


@pytest.mark.parametrize("copied", [True, False])
def test_what_is_kept_is_a_constant_of_its_own_in_the_copy(copied: bool) -> None:
    class Remembering(nn.Module):
        """Adds what it computed last, and keeps it twice."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(WIDTH, WIDTH)
            self.last = self.twin = self.fc(tokens(seed=3))

        def forward(self, x: Tensor) -> Tensor:
            return F.gelu(self.fc(x)) + self.last

    torch.manual_seed(0)
    model = Remembering()
    wanted = model.last.clone()
    snn = convert(model, copy=copied)
    assert snn.last is snn.twin
    assert not snn.last.requires_grad
    assert_same_bits(snn.last, wanted)
    snn.last.zero_()
    assert_same_bits(model.last, wanted)


def test_old_weight_norm_after_a_forward() -> None:
    torch.manual_seed(0)
    with pytest.warns(FutureWarning, match="weight_norm"):
        normed = nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH))
    model = nn.Sequential(normed, nn.GELU(), nn.Linear(WIDTH, WIDTH))
    want = model(tokens())
    assert not normed.weight.is_leaf
    snn = mbe_plugin.convert(model, [tokens()], MBEConfig(time_steps=16))
    torch.testing.assert_close(snn(tokens()), want, atol=2e-3, rtol=0)
    with torch.no_grad():
        snn[0].weight_g.mul_(2)  # type: ignore[index, operator, union-attr]
    assert (snn(tokens()) - want).abs().max() > 0.1


# --- networks that hold a converted one


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"inner": inner})
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body["inner"](x))


def _small() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())


@pytest.mark.parametrize("verb", [mbe_plugin.convert, calibrate])
def test_a_network_that_holds_a_converted_one(verb: Callable) -> None:
    snn = convert(_small())
    before = copy.deepcopy(snn.state_dict())
    with pytest.raises(
        ConversionError,
        match=r"^body\.inner is a converted network already; put the ANN .*in its place, and convert",
    ):
        verb(Outer(snn), [tokens()])
    assert list(snn.state_dict()) == list(before)


def test_a_network_that_holds_a_part_of_a_converted_one() -> None:
    snn = convert(transformer())
    with pytest.raises(ConversionError, match=r"^0 is a part of a converted network already; put the ANN"):
        mbe_plugin.convert(nn.Sequential(snn.layers[0], nn.GELU()), [tokens()])
    with pytest.raises(ConversionError, match=r"^the model is a part of a converted network already"):
        mbe_plugin.convert(snn.layers[0], [tokens()])


def test_loading_around_a_network_that_holds_a_converted_one(tmp_path: Path) -> None:
    inner = _small()
    torch.manual_seed(0)
    outer = Outer(inner)
    mbe_plugin.save(convert(outer), tmp_path)
    outer.body["inner"] = convert(inner)
    with pytest.raises(ConversionError, match=r"^body\.inner is a converted network already"):
        load(tmp_path, outer)


# --- wrapped models


@pytest.mark.parametrize("kind", ["DataParallel"])
def test_parallel_wrappers_at_any_depth(kind: str) -> None:
    with pytest.raises(
        ConversionError, match=rf"^body\.inner is wrapped in {kind}; convert its .module and wrap"
    ):
        convert(Outer(getattr(nn, kind)(_small())))


def test_accelerate_hooks() -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    model = Outer(_small())
    hooks.add_hook_to_module(model.body["inner"][0], hooks.AlignDevicesHook())  # type: ignore[index]
    with pytest.raises(
        ConversionError,
        match=r"^body\.inner\.0 carries an accelerate hook \(AlignDevicesHook\).*dispatch the result",
    ):
        convert(model)
    hooks.remove_hook_from_submodules(model)
    assert len(report(convert(model)).sites) == 3


def test_offloaded_weights_are_refused_for_their_hooks_and_not_for_their_device() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(Outer(_small()), execution_device=torch.device("cpu"))
    assert model.head.weight.is_meta
    with pytest.raises(ConversionError, match=r"^.* carries an accelerate hook"):
        convert(model)


def test_what_accelerate_prepared_without_wrapping_converts() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.Accelerator(cpu=True).prepare(Outer(_small()))
    assert len(report(convert(model)).sites) == 3
