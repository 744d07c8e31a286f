"""energy() on the libraries' own classes: nothing is missed, and the ANN's products are those that torch itself counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.zoo import scaled, transformers_zoo, vision_zoo
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mbe_plugin import MBEConfig, convert, energy, record

FAMILIES: dict[str, Any] = {**vision_zoo(), **transformers_zoo()}


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("family", ["BERT", "GPT-2", "Llama", "T5", "Swin"])
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_the_products_are_those_that_torch_counts(family: str, merge: bool) -> None:
    """Of matrices; those element by element are no matter of torch's counter."""
    make, batch = FAMILIES[family]
    model, inputs = scaled(make), batch(3)
    snn = convert(model, [batch(1), batch(2)], MBEConfig(time_steps=4, merge=merge))
    with torch.no_grad():
        # attention in parts, since torch's counter does not know the CPU's kernel
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
            model(**inputs) if isinstance(inputs, dict) else model(inputs)
        with record(snn, deliveries=True) as rec:
            snn(**inputs) if isinstance(inputs, dict) else snn(inputs)
    assert rec.deliveries is not None
    products = sum(found.products for (_, function), found in rec.deliveries.items() if function != "mul")
    assert products == flops.get_total_flops() // 2
    found = energy(snn, inputs)
    assert found.uncounted == {}
    assert found.ann == pytest.approx(4.6 * products, rel=0.3)
    assert found.snn > 0.9 * rec.synaptic_operations
