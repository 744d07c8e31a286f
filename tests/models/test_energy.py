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


# windows before, in each layer, and behind; without merge also the encoders on the path, in each layer and behind
WINDOWS = {
    # LayerNorm's two; query, 2^x, 1/sum, LayerNorm's two, GELU, LayerNorm's two; the pooler's tanh
    # q, output, up, down; pooler and classifier
    "BERT": (2, 8, 1, 4, 2),
    # RMSNorm's two, query, 2^x, 1/sum, RMSNorm's two, SiLU (up's encoder beside it); the last norm
    # q, o, gate, SiLU's value for the product with up's, down; the head
    "Llama": (0, 8, 2, 5, 1),
}


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("family", WINDOWS)
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_windows_on_the_longest_path(family: str, merge: bool) -> None:
    make, batch = FAMILIES[family]
    model = scaled(make)
    snn = convert(model, [batch(1), batch(2)], MBEConfig(time_steps=4, merge=merge))
    found = energy(snn, batch(3)).latency
    before, each, behind, encoders, at_the_end = WINDOWS[family]
    layers = model.config.num_hidden_layers
    assert found.windows == before + layers * (each + (0 if merge else encoders)) + behind + (
        0 if merge else at_the_end
    )
