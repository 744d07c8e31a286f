"""float16, bfloat16, float32, float64: converted in each, and moved to each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models.zoo import scaled, text, transformers_zoo, vision_zoo
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import MBENode

# one rounding of an output to the dtype, a few of them in a row; float32 and float64 keep the T = 16 bound
CLOSE = {torch.float64: 0.02, torch.float32: 0.02, torch.float16: 0.03, torch.bfloat16: 0.15}


def cast(batch: Any, dtype: torch.dtype) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(dtype) if batch.is_floating_point() else batch
    return {k: cast(v, dtype) for k, v in batch.items()}


def called(model: nn.Module, batch: Any) -> Tensor:
    with torch.no_grad():
        return model(batch) if isinstance(batch, Tensor) else model(**batch).logits


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("way", ["converted in it", "moved to it"])
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_close_in_every_dtype(dtype: torch.dtype, way: str) -> None:
    for make, batch in (transformers_zoo()["BERT"], vision_zoo()["ViT"]):
        ann = scaled(make)
        moved = copy.deepcopy(ann).to(dtype)
        if way == "moved to it":
            snn = mbe_plugin.convert(ann, [batch(0), batch(1)]).to(dtype)
        else:
            snn = mbe_plugin.convert(moved, [cast(batch(0), dtype), cast(batch(1), dtype)])
        wanted, found = called(moved, cast(batch(2), dtype)), called(snn, cast(batch(2), dtype))
        assert found.dtype == dtype
        assert float((found - wanted).abs().max() / wanted.double().std()) <= CLOSE[dtype]


def test_moving_the_network_leaves_the_tables_bits() -> None:
    make, batch = transformers_zoo()["BERT"]
    snn = mbe_plugin.convert(scaled(make), [batch(0)])
    before = {n: b.clone() for n, b in snn.mbe.named_buffers()}
    for step in (nn.Module.half, nn.Module.bfloat16, nn.Module.double, nn.Module.float):
        step(snn)
    for name, value in snn.mbe.named_buffers():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name])
    assert all(m.th.dtype == torch.float32 for m in snn.modules() if isinstance(m, MBENode))


def test_a_model_in_training_mode_converts_to_eval_and_stays_as_it_was() -> None:
    make, _ = transformers_zoo()["BERT"]
    ann = scaled(make).train()  # dropout is active
    snn = mbe_plugin.convert(ann, [text(0)])
    assert ann.training and all(m.training for m in ann.modules())
    assert not any(m.training for m in snn.modules())
    assert torch.equal(called(snn, text(0)), called(snn, text(0)))
    reference = called(copy.deepcopy(ann).eval(), text(0))
    assert float((called(snn, text(0)) - reference).abs().max() / reference.std()) <= CLOSE[torch.float32]
    snn.train()  # as for the ANN: dropout is drawn again; the neurons do not change
    torch.manual_seed(0)
    assert not torch.equal(called(snn, text(0)), called(snn, text(0)))


@pytest.mark.gpu
def test_a_model_on_the_gpu() -> None:
    make, _ = transformers_zoo()["BERT"]
    ann = scaled(make).cuda()
    batch = {k: v.cuda() for k, v in text(0).items()}
    snn = mbe_plugin.convert(ann, [text(0)])  # batches are moved to the model
    assert float((called(snn, batch) - called(ann, batch)).abs().max() / called(ann, batch).std()) <= 0.02
