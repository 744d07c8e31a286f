"""The networks whose speed is measured, in the sizes that issue and README speak of: real ones, and geometries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from examples._shared.networks import IMAGE_SIZE, load_dinov2, load_minilm, load_smollm2
from examples.sentences import calibration_sentences
from mbe_plugin.sources import padded_batches

Inputs = dict[str, Any]
ON_GPU = 2.0


@dataclass(frozen=True)
class Loaded:
    """An ANN, the batches that calibrate it (small, so that memory before the forward is low), inputs of any size."""

    ann: nn.Module
    calibration: list[Any]
    inputs: Callable[[int, int], Inputs]


@dataclass(frozen=True)
class Network:
    """How one is loaded, its usual batch and length, and the goal for its time as a multiple of the ANN's.

    on_gpu: batch and length on a GPU, where the goal is ON_GPU.
    """

    load: Callable[[], Loaded]
    batch: int
    length: int
    goal: float
    on_gpu: tuple[int, int] | None = None


def minilm() -> Loaded:
    """all-MiniLM-L6-v2."""
    tokenizer, ann = load_minilm()
    return Loaded(ann, padded_batches(tokenizer, calibration_sentences(16), size=2), _tokens(20000))


def dinov2() -> Loaded:
    """DINOv2 ViT-S/14; a batch of noise."""
    return Loaded(load_dinov2(), [_images("pixel_values")(1, 0)], _images("pixel_values"))


def smollm2() -> Loaded:
    """SmolLM2-135M, without the cache that generation needs."""
    _, ann = load_smollm2()
    ann.config.use_cache = False
    return Loaded(ann, [_tokens(40000)(1, 32)], _tokens(40000))


def smollm2_token() -> Loaded:
    """SmolLM2-135M, one token after a cached prompt of so many."""
    _, ann = load_smollm2()
    ann.config.use_cache = True
    prompt = _tokens(40000)
    with torch.no_grad():
        calibration = [
            prompt(1, 32),
            {**prompt(1, 1), "past_key_values": ann(**prompt(1, 32)).past_key_values},
        ]
        del calibration[1]["attention_mask"]

    def inputs(batch: int, length: int) -> Inputs:
        with torch.no_grad():
            cache = ann(**prompt(batch, length)).past_key_values
        return {"input_ids": prompt(batch, 1)["input_ids"], "past_key_values": cache}

    return Loaded(ann, calibration, inputs)


def vit_b16() -> Loaded:
    """timm's ViT-B/16 with random weights; a batch of noise."""
    import timm

    torch.manual_seed(0)
    ann = timm.create_model("vit_base_patch16_224", pretrained=False).eval()
    return Loaded(ann, [_images("x")(1, 0)], _images("x"))


def gpt2() -> Loaded:
    """GPT-2 small with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ann = GPT2LMHeadModel(GPT2Config(use_cache=False)).eval()
    return Loaded(ann, [_tokens(40000)(1, 32)], _tokens(40000))


def bert() -> Loaded:
    """BERT of two layers, width 384 and 12 heads with random weights, for 4,096 tokens."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    size = {"hidden_size": 384, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 1536}
    ann = BertModel(BertConfig(**size, max_position_embeddings=4096), add_pooling_layer=False).eval()
    return Loaded(ann, [_tokens(20000)(1, 64)], _tokens(20000))


def _tokens(vocabulary: int) -> Callable[[int, int], Inputs]:
    def inputs(batch: int, length: int) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(1000, vocabulary, (batch, length), generator=generator)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    return inputs


def _images(name: str) -> Callable[[int, int], Inputs]:
    def inputs(batch: int, length: int) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        return {name: torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)}

    return inputs


def output(out: Any) -> Tensor:
    """The first tensor of what a network returns."""
    return out if isinstance(out, Tensor) else next(v for v in out.values() if isinstance(v, Tensor))


NETWORKS = {
    "minilm": Network(minilm, 32, 128, 1.4),
    "minilm-sentence": Network(minilm, 1, 25, 2.0),
    "dinov2": Network(dinov2, 16, 0, 1.4),
    "smollm2": Network(smollm2, 4, 256, 1.3),
    "smollm2-token": Network(smollm2_token, 1, 64, 2.0),
    "vit-b16": Network(vit_b16, 4, 0, 1.3, on_gpu=(64, 0)),
    "gpt2": Network(gpt2, 1, 512, 1.4, on_gpu=(8, 1024)),
    "bert-long": Network(bert, 1, 4096, 2.5),
}
