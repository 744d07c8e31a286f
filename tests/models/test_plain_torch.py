"""torch's own Transformer modules and hand-written blocks; at T = 16, within 2 % of the outputs' deviation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models.zoo import scaled, sequence
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mbe_plugin

CLOSE = 0.02


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[1:, -2:] = True
        return self.encoder(x, src_key_padding_mask=padding)[:, :-2]


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64, batch_first=True), 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.decoder(x, x.flip(1), tgt_mask=mask)


class Heads(nn.Module):
    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


class ByHand(nn.Module):
    """Attention by einsum, @ and baddbmm; gating, in-place activations, normalised queries."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.gate, self.out = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 32)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        scores = torch.einsum("bqd,bkd->bqk", q, k) * self.scale
        bias = torch.linspace(-1, 1, x.shape[1]).expand(x.shape[0], x.shape[1], x.shape[1])
        scores = torch.baddbmm(bias + scores, q, k.transpose(1, 2))
        mixed = scores.softmax(-1) @ v
        gate = self.gate(x)
        gate.sigmoid_()
        mixed *= gate
        hidden = F.relu(self.out(mixed), inplace=True)
        return x + hidden * torch.tanh(mixed)


MODELS: dict[str, Any] = {
    "TransformerEncoder": Encoder,
    "TransformerDecoder": Decoder,
    "MultiheadAttention with weights": lambda: Heads(True),
    "MultiheadAttention without": lambda: Heads(False),
    "by hand": ByHand,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_close(name: str) -> None:
    ann = scaled(MODELS[name])
    snn = mbe_plugin.convert(ann, [sequence(0), sequence(1)])
    with torch.no_grad():
        found = snn(sequence(2))
    wanted = ann(
        sequence(2)
    ).detach()  # with gradients, so that torch's fused path stays out of the reference
    assert float((found - wanted).abs().max() / wanted.std()) <= CLOSE
    kinds = {site.operator for site in mbe_plugin.report(snn).sites}
    assert "Softmax" in kinds or "Attention" in kinds


def test_the_fused_fast_path_neither_bypasses_the_conversion_nor_is_switched_off() -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    ann = scaled(Encoder)
    snn = mbe_plugin.convert(ann, [sequence(0)])
    with torch.inference_mode(), mbe_plugin.count_spikes(snn) as counts:
        snn(sequence(0))
    reached = {site for site, _ in counts.neurons}
    for index in range(2):  # attention, both norms, the activation and the feed-forward layer of each layer
        inside = [site for site in reached if site.startswith(f"encoder.layers.{index}")]
        assert any("self_attn" in s for s in inside) and any("gelu" in s for s in inside)
        assert sum("layer_norm" in s for s in inside) == 2
    assert torch.backends.mha.get_fastpath_enabled() == before


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 8)

    def block(self, x: Tensor, constant: Tensor) -> Tensor:
        return F.gelu(self.first(x)) * constant

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        constant = torch.linspace(0.5, 1.5, 32)
        if recompute:
            return self.second(checkpoint(self.block, x, constant, use_reentrant=False))
        return self.second(self.block(x, constant))


def test_activation_checkpointing_with_backward() -> None:
    """The block is run again in the backward, outside the forward's frames: same spikes, same gradients."""
    snn = mbe_plugin.convert(scaled(Checkpointed), [sequence(0)])
    gradients = []
    for recompute in (False, True):
        snn.zero_grad()
        snn(sequence(0), recompute=recompute).square().sum().backward()
        gradients.append([p.grad.clone() for p in snn.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(checkpointed, plain, rtol=0, atol=0)


def test_gradients_through_the_surrogate_follow_the_anns() -> None:
    ann = scaled(Checkpointed)
    snn = mbe_plugin.convert(ann, [sequence(0)], mbe_plugin.MBEConfig(time_steps=8))
    for model in (ann, snn):
        model(sequence(0)).square().sum().backward()
    for a, s in zip(ann.parameters(), snn.parameters(), strict=True):
        assert s.grad is not None and torch.isfinite(s.grad).all() and s.grad.abs().sum() > 0
        assert a.shape == s.grad.shape
    # the last layer's bias sees no surrogate: its gradient is the outputs' own
    torch.testing.assert_close(snn.second.bias.grad, ann.second.bias.grad, rtol=0.02, atol=1e-3)
