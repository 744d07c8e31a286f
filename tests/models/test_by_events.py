"""simulate="events" on the libraries' own classes: equal outputs, and every addition is billed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.zoo import scaled, transformers_zoo, vision_zoo
from torch import Tensor

from mbe_plugin import MBEConfig, calibrate, convert, record
from mbe_plugin.conversion.marks import tensors_of

FAMILIES: dict[str, Any] = {**vision_zoo(), **transformers_zoo()}


def wide(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {name: wide(value) for name, value in batch.items()}
    return batch.double() if isinstance(batch, Tensor) and batch.is_floating_point() else batch


@pytest.mark.parametrize("family", ["BERT", "GPT-2", "Llama", "T5", "Swin", "ViT"])
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_the_same_outputs_by_the_additions_that_are_billed(family: str) -> None:
    make, batch = FAMILIES[family]
    model, inputs = scaled(make).double(), wide(batch(3))
    calibration = calibrate(model, [wide(batch(1)), wide(batch(2))])
    outputs, deliveries = [], []
    for simulate in ("closed", "events"):
        snn = convert(model, calibration, MBEConfig(time_steps=3, simulate=simulate))  # type: ignore[arg-type]
        with torch.no_grad(), record(snn, deliveries=True) as rec:
            out = snn(**inputs) if isinstance(inputs, dict) else snn(inputs)
        outputs.append([t for _, t in tensors_of(out) if t.is_floating_point()])
        deliveries.append({key: found.total for key, found in (rec.deliveries or {}).items()})
    assert {key: found.additions for key, found in (rec.deliveries or {}).items()} == deliveries[1]
    assert deliveries[0] == deliveries[1]
    assert outputs[0]
    for want, got in zip(*outputs, strict=True):
        assert (got - want).abs().max() <= 1e-12 * want.abs().max()
