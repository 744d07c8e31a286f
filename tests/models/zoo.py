"""Small random networks of the libraries' own classes, and inputs for them.

Matrices are scaled up, so that attention and nonlinearities work in their curved parts: with the
libraries' own initialisation every softmax is flat and every GELU nearly linear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WEIGHT_SCALE = 3.0

Maker = Callable[[], nn.Module]
Batch = Callable[[int], Any]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def token_ids(seed: int, batch: int = 2, length: int = 10) -> Tensor:
    return torch.randint(3, 99, (batch, length), generator=generator(seed))


def padding(batch: int = 2, length: int = 10) -> Tensor:
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1:, length - 3 :] = 0
    return mask


def text(seed: int) -> dict[str, Tensor]:
    return {"input_ids": token_ids(seed), "attention_mask": padding()}


def image(size: int) -> Batch:
    return lambda seed: torch.randn(2, 3, size, size, generator=generator(seed))


def pixels(seed: int) -> dict[str, Tensor]:
    return {"pixel_values": image(32)(seed)}


def text_to_text(seed: int) -> dict[str, Tensor]:
    return {**text(seed), "decoder_input_ids": token_ids(seed + 100, length=6)}


def text_and_image(seed: int) -> dict[str, Tensor]:
    return {**text(seed), **pixels(seed)}


def speech(seed: int) -> dict[str, Tensor]:
    features = torch.randn(2, 8, 40, generator=generator(seed))
    return {"input_features": features, "decoder_input_ids": token_ids(seed + 100, length=6)}


def sequence(seed: int) -> Tensor:
    return torch.randn(3, 7, 32, generator=generator(seed))


def scaled(make: Maker, by: float = WEIGHT_SCALE) -> nn.Module:
    """The network in eval mode with weights from a fixed seed, matrices times ``by``."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                silent = parameter.abs().max() < 0.01  # a head that starts at or near zero
                parameter.normal_(0, 0.1) if silent else parameter.mul_(by)
    return model


def transformers_zoo() -> dict[str, tuple[Maker, Batch]]:
    import transformers as tf

    small: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 99,
        "max_position_embeddings": 64,
    }
    grouped = {**small, "num_key_value_heads": 2}
    vision = {k: v for k, v in small.items() if k not in ("vocab_size", "max_position_embeddings")}
    vision |= {"image_size": 32, "patch_size": 8}
    special: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    starts = {**special, "decoder_start_token_id": 1}
    return {
        "ViT": (lambda: tf.ViTForImageClassification(tf.ViTConfig(**vision)), pixels),
        "DeiT": (lambda: tf.DeiTForImageClassification(tf.DeiTConfig(**vision)), pixels),
        "BERT": (lambda: tf.BertForSequenceClassification(tf.BertConfig(**small)), text),
        "RoBERTa": (lambda: tf.RobertaForSequenceClassification(tf.RobertaConfig(**small)), text),
        "DistilBERT": (
            lambda: tf.DistilBertForSequenceClassification(
                tf.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=99)
            ),
            text,
        ),
        "ALBERT": (
            lambda: tf.AlbertForSequenceClassification(tf.AlbertConfig(**small, embedding_size=16)),
            text,
        ),
        "ELECTRA": (
            lambda: tf.ElectraForSequenceClassification(tf.ElectraConfig(**small, embedding_size=16)),
            text,
        ),
        "GPT-2": (
            lambda: tf.GPT2LMHeadModel(
                tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=99, n_positions=64, **special)
            ),
            text,
        ),
        "GPT-NeoX": (lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**small, **special)), text),
        "OPT": (
            lambda: tf.OPTForCausalLM(
                tf.OPTConfig(
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    ffn_dim=64,
                    vocab_size=99,
                    max_position_embeddings=64,
                    word_embed_proj_dim=32,
                    **special,
                )
            ),
            text,
        ),
        "Llama": (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**grouped, **special)), text),
        "Mistral": (
            lambda: tf.MistralForCausalLM(tf.MistralConfig(**grouped, sliding_window=4, **special)),
            text,
        ),
        "Qwen2": (lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**grouped, **special)), text),
        "Qwen3": (lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**grouped, head_dim=8, **special)), text),
        "Gemma": (lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**grouped, head_dim=8, **special)), text),
        "Phi": (lambda: tf.PhiForCausalLM(tf.PhiConfig(**small, **special)), text),
        "T5": (
            lambda: tf.T5ForConditionalGeneration(
                tf.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=99, **starts)
            ),
            text_to_text,
        ),
        "CLIP": (
            lambda: tf.CLIPModel(tf.CLIPConfig(text_config=small, vision_config=vision, projection_dim=16)),
            text_and_image,
        ),
        "Whisper": (
            lambda: tf.WhisperForConditionalGeneration(
                tf.WhisperConfig(
                    d_model=32,
                    encoder_layers=2,
                    decoder_layers=2,
                    encoder_attention_heads=4,
                    decoder_attention_heads=4,
                    encoder_ffn_dim=64,
                    decoder_ffn_dim=64,
                    vocab_size=99,
                    max_source_positions=20,
                    max_target_positions=32,
                    num_mel_bins=8,
                    suppress_tokens=None,
                    begin_suppress_tokens=None,
                    **starts,
                )
            ),
            speech,
        ),
    }


def vision_zoo() -> dict[str, tuple[Maker, Batch]]:
    import timm
    import torchvision

    def made(name: str, size: int = 64, **options: Any) -> tuple[Maker, Batch]:
        return (lambda: timm.create_model(name, num_classes=10, **options)), image(size)

    two_stages = {"depths": (1, 1), "num_heads": (2, 4), "embed_dim": 32}
    return {
        "ViT": made("vit_tiny_patch16_224", img_size=64, depth=2),
        "ViT-M reg4 gap": made("vit_medium_patch16_reg4_gap_256", img_size=64, depth=2),
        "DeiT": made("deit_tiny_distilled_patch16_224", img_size=64, depth=2),
        "BEiT": made("beit_base_patch16_224", img_size=64, depth=2, embed_dim=64, num_heads=4),
        "EVA": made("eva02_tiny_patch14_224", 56, img_size=56, depth=2),
        "CaiT": made("cait_xxs24_224", img_size=64, depth=2),
        "Swin": made("swin_tiny_patch4_window7_224", 56, img_size=56, window_size=7, **two_stages),
        "Swin-V2": made("swinv2_tiny_window8_256", img_size=64, **two_stages),
        "PVT-V2": made("pvt_v2_b0", depths=(1, 1, 1, 1)),
        "ConvNeXt": made("convnext_atto", depths=(1, 1, 1, 1)),
        "ResNet34": made("resnet34"),
        "torchvision ViT": (
            lambda: torchvision.models.VisionTransformer(
                image_size=32,
                patch_size=8,
                num_layers=2,
                num_heads=4,
                hidden_dim=32,
                mlp_dim=64,
                num_classes=10,
            ),
            image(32),
        ),
    }


def large_vision_zoo() -> dict[str, tuple[Maker, Batch]]:
    import timm

    def made(name: str, size: int = 64, **options: Any) -> tuple[Maker, Batch]:
        return (lambda: timm.create_model(name, num_classes=10, **options)), image(size)

    return {
        "MaxViT": made("maxvit_pico_rw_256", img_size=64),
        "CoAtNet": made("coatnet_0_rw_224", img_size=64),
        "VGG16": made("vgg16", 32),
    }
