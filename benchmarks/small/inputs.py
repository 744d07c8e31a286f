"""Inputs for a model from the signature of its forward."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.small.configs import IMAGE, VOCABULARY

BATCH, LENGTH = 2, 12
TEXT = ("input_ids", "attention_mask", "decoder_input_ids", "bbox")
VISION = ("pixel_values", "pixel_values_videos", "pixel_mask", "image_grid_thw", "grid_thw", "image_sizes")
AUDIO = ("input_features", "input_values", "audio_values")
AUDIO_KINDS = (
    ("input_features", "pixel_values"),
    ("input_values", "pixel_values"),
    (*AUDIO, "pixel_values"),
    VISION,
)
OPTIONAL = (
    "states", "actions", "rewards", "returns_to_go", "timesteps", "visual_feats", "visual_pos", "task_inputs",
    "flattened_patches", "encoder_hidden_states", "image_embeds_position_mask", "qformer_input_ids",
    "context_input_ids", "context_attention_mask", "doc_scores", "input_features_mask", "aspect_ratio_ids",
    "aspect_ratio_mask", "prompt_depth", "target_sizes", "cross_attention_states",
    "pixel_attention_mask", "spatial_shapes", "pixel_position_ids", "latents", "image_attention_mask",
    "decoder_input_values",
)  # fmt: skip
IMAGE_TOKENS = 0  # the variant that has them, where all is given that is known
RESERVED = 20  # ids of special tokens are among the first and the last of the vocabulary

# name -> where the configuration has the width of its vectors (or the number of its ids)
NOISE = {
    "states": "state_dim", "actions": "act_dim", "rewards": "", "returns_to_go": "",
    "visual_feats": "visual_feat_dim", "context": "hidden_size", "patch_embeds": "hidden_size",
    "context_hidden_states": "hidden_size", "noise_embeds": "hidden_size", "image_features": "hidden_size",
    "audio_mel": "input_feat_size", "text_features": "hidden_size", "action_embeds": "hidden_size",
    "decoder_queries": "hidden_size", "decoder_input_values": "hidden_size",
}  # fmt: skip
LONGS = {"audio_input_ids": "", "classes_input_ids": "", "tasks_input_ids": ""}
ONES = ("context_attention_mask", "classes_attention_mask", "tasks_attention_mask")
IMAGES_LIKE = ("prompt_pixel_values", "prompt_masks", "prompt_depth")

Batch = dict[str, Any]


def batches(model: nn.Module, config: Any, seeds: tuple[int, ...]) -> Iterator[tuple[str, list[Batch]]]:
    """Ways to call the model, the fullest first: (what is given, one batch per seed)."""
    parameters = inspect.signature(model.forward).parameters
    required = [
        n
        for n, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n != "self"
    ]
    main = getattr(model, "main_input_name", "input_ids")
    needed = [n for n in parameters if n in required or n == main]
    known = [n for n in parameters if n in needed or n in (*TEXT, *VISION, *AUDIO, *OPTIONAL)]
    tried: set[tuple] = set()
    ways: list[tuple[list[str], list[str]]] = []
    for group in ((*TEXT, *VISION, *AUDIO), TEXT, VISION, AUDIO, (main,), ()):
        ways.append(([n for n in parameters if n in group or n in required], required))
    given = [n for n in known if n != main or n in (*TEXT, *VISION, *AUDIO, *OPTIONAL)]
    for group in (known, needed, *([n for n in given if n not in a] for a in AUDIO_KINDS)):
        ways.append((group, known))
    for names, wanted in ways:
        for variant in range(6):
            made = [_batch(names, wanted, parameters, config, s, variant) for s in seeds]
            if (names, wanted) == (known, known) and variant == IMAGE_TOKENS:
                made = [with_image_tokens(b, config) for b in made]
            key = tuple((n, tuple(v.shape)) for n, v in made[0].items() if isinstance(v, Tensor))
            if key and key not in tried:
                tried.add(key)
                yield ", ".join(n for n, v in made[0].items() if isinstance(v, Tensor)), made


def with_image_tokens(batch: Batch, config: Any, count: int | None = None) -> Batch:
    """The text with as many image tokens before it as the image has features."""
    names = ("image_token_id", "image_token_index", "video_token_id")
    token = next((v for n in names if (v := _find(config, n, None)) is not None), None)
    counts = ("num_query_tokens", "mm_tokens_per_image", "image_seq_length", "num_image_tokens")
    count = count or next((v for n in counts if (v := _find(config, n, None))), None)
    if token is None or count is None or "input_ids" not in batch:
        return batch
    added = torch.full((BATCH, count), token)
    batch = dict(batch)
    batch["input_ids"] = torch.cat([added, batch["input_ids"]], dim=1)
    if "attention_mask" in batch:
        batch["attention_mask"] = torch.cat([torch.ones_like(added), batch["attention_mask"]], dim=1)
    return batch


def _batch(names: list, required: list, parameters: Any, config: Any, seed: int, variant: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    batch: Batch = {}
    for name in names:
        value = _value(name, config, generator, variant, name in required, parameters)
        if value is not None:
            batch[name] = value
    if "use_cache" in parameters:
        batch["use_cache"] = False
    return batch


def _value(
    name: str, config: Any, generator: torch.Generator, variant: int, required: bool, parameters: Any
) -> Tensor | None:
    if name in ("input_ids", "decoder_input_ids", "text_input_ids", "qformer_input_ids", "context_input_ids"):
        shape = (BATCH, LENGTH, _find(config, "num_codebooks", 2)) if variant == 5 else (BATCH, LENGTH)
        highest = min(VOCABULARY - RESERVED, (_find(config, "vocab_size", VOCABULARY) or VOCABULARY) - 1)
        return torch.randint(min(RESERVED, highest // 4), highest, shape, generator=generator)
    if name == "attention_mask":
        return _mask(name, parameters)
    if name == "bbox":
        corner = torch.randint(0, 30, (BATCH, LENGTH, 2), generator=generator)
        return torch.cat([corner, corner + 5], dim=-1)
    if name in ("pixel_values", "pixel_values_videos", "images", "image", "x"):
        return _pixels(name, config, generator, variant, required, parameters)
    if name in ("image_grid_thw", "grid_thw"):
        return torch.tensor([[1, 4, 4]] * BATCH) if required or variant else None
    if name in ("input_features", "audio_features", "mel_spec", "spectrogram"):
        return _features(config, generator, variant)
    if name in ("input_values", "audio_values", "waveform"):
        shapes = [(BATCH, 4000), (BATCH, 1, 4000), _spectrogram(config), (BATCH, 2, 4000)]
        shapes += [(BATCH, LENGTH, _find(config, "hidden_size", 32)), (BATCH, 3840)]
        return torch.randn(shapes[variant % len(shapes)], generator=generator)
    return _required(name, config, generator, variant) if required else None


def _mask(name: str, parameters: Any) -> Tensor | None:
    if "input_ids" not in parameters:
        return None
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    mask[1:, LENGTH - 3 :] = 0
    return mask


def _pixels(
    name: str, config: Any, generator: torch.Generator, variant: int, required: bool, parameters: Any
) -> Tensor | None:
    if name == "pixel_values_videos" and not required:
        return None
    size = _find(config, "image_size", IMAGE) or IMAGE
    size = size if isinstance(size, int) else size[0]
    channels = next(
        (c for n in ("num_channels", "in_channels", "in_chans") if (c := _find(config, n, None))), 3
    )
    channels = channels if isinstance(channels, int) else channels[0]
    if "aspect_ratio_ids" in parameters and required:
        return torch.randn(
            BATCH, 1, _find(config, "max_num_tiles", 4), channels, size, size, generator=generator
        )
    if "spatial_shapes" in parameters and "pixel_attention_mask" in parameters:
        variant = 5
    if variant == 1 or name == "pixel_values_videos":
        return torch.randn(
            BATCH, _find(config, "num_frames", 2) or 2, channels, size, size, generator=generator
        )
    if variant == 2:
        patch = _find(config, "patch_size", 16)
        per_patch = (
            channels * _find(config, "temporal_patch_size", 1) * patch * patch
            if isinstance(patch, int)
            else 1
        )
        return torch.randn(16 * BATCH, per_patch, generator=generator)
    if variant == 5:
        patch = _find(config, "patch_size", 16)
        per_patch = channels * patch * patch if isinstance(patch, int) else channels
        return torch.randn(BATCH, 12, per_patch, generator=generator)
    if variant == 3:
        return torch.randn(BATCH, channels, 128, 128, generator=generator)
    if variant == 4:
        return torch.randn(BATCH, channels, 224, 224, generator=generator)
    return torch.randn(BATCH, channels, size, size, generator=generator)


def _features(config: Any, generator: torch.Generator, variant: int) -> Tensor:
    names = (
        "num_mel_bins",
        "input_feat_per_channel",
        "feature_projection_input_dim",
        "input_dim",
        "feat_dim",
        "mel_bins",
    )
    width = next((v for n in names if (v := _find(config, n, None))), 80)
    frames = 2 * (_find(config, "max_source_positions", None) or 20)
    shapes = [(BATCH, width, frames), (BATCH, frames, width), (BATCH, 1, frames, width), (BATCH, frames, 80)]
    return torch.randn(shapes[variant % len(shapes)], generator=generator)


def _spectrogram(config: Any) -> tuple[int, ...]:
    return BATCH, _find(config, "max_length", 64) or 64, _find(config, "num_mel_bins", 8) or 8


def _required(name: str, config: Any, generator: torch.Generator, variant: int) -> Tensor | None:
    """A guess at a required argument that has no entry above."""
    width = next(
        (v for n in ("hidden_size", "d_model", "dim", "n_embd") if (v := _find(config, n, None))), 32
    )
    width = width if isinstance(width, int) else width[0]
    if name in (
        "hidden_states",
        "inputs_embeds",
        "encoder_hidden_states",
        "query_embeds",
        "inputs",
        "embeddings",
    ):
        if variant == 2:
            patch = _find(config, "patch_size", 16)
            patch = patch if isinstance(patch, int) else patch[0]
            channels = next(
                (c for n in ("in_channels", "in_chans", "num_channels") if (c := _find(config, n, None))), 3
            )
            return torch.randn(
                16 * BATCH, channels * _find(config, "temporal_patch_size", 1) * patch**2, generator=generator
            )
        return torch.randn(BATCH, LENGTH, width, generator=generator)
    if name in ("past_values", "past_observed_mask", "context_values"):
        channels = _find(config, "num_input_channels", None) or _find(config, "input_size", 1)
        length = next(
            (v for n in ("context_length", "prompt_length", "seq_length") if (v := _find(config, n, None))),
            32,
        )
        length += max(_find(config, "lags_sequence", None) or [0])
        shape = (BATCH, length) if channels == 1 and variant else (BATCH, length, channels)
        return torch.ones(shape) if name.endswith("mask") else torch.randn(shape, generator=generator)
    if name == "pixel_attention_mask":
        return torch.ones(BATCH, 12, dtype=torch.long)
    if name == "spatial_shapes":
        return torch.tensor([[3, 4]] * BATCH)
    if name in ("past_time_features", "future_time_features"):
        length = _find(config, "context_length", 32) + max(_find(config, "lags_sequence", None) or [0])
        length = length if name.startswith("past") else _find(config, "prediction_length", 1)
        return torch.randn(BATCH, length, _find(config, "num_time_features", 1), generator=generator)
    return _known(name, config, generator, variant, width)


def _known(name: str, config: Any, generator: torch.Generator, variant: int, width: int) -> Any:
    """Inputs of single architectures or parts, by their names."""

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if name == "task_inputs":
        return torch.randint(
            0, VOCABULARY, (BATCH, _find(config, "task_seq_len", 77)), generator=generator
        ).float()
    if name in NOISE:
        return noise(BATCH, LENGTH, _find(config, NOISE[name], width) if NOISE[name] else 1)
    if name in IMAGES_LIKE:
        size = _find(config, "image_size", IMAGE)
        height, across = (size, size) if isinstance(size, int) else size
        return noise(BATCH, 1 if "depth" in name else 3, height, across)
    if name in LONGS:
        highest = _find(config, LONGS[name], VOCABULARY) if LONGS[name] else VOCABULARY - RESERVED
        return torch.randint(0, highest, (BATCH, LENGTH), generator=generator)
    if name in ONES:
        return torch.ones(BATCH, LENGTH, dtype=torch.long if variant % 2 else torch.bool)
    if name in ("visual_pos",):
        return torch.rand(BATCH, LENGTH, 4, generator=generator)
    if name == "timesteps":
        return torch.arange(LENGTH).repeat(BATCH, 1)
    if name == "flattened_patches":
        places = torch.stack([torch.arange(LENGTH) // 4 + 1, torch.arange(LENGTH) % 4 + 1], dim=-1)
        patches = noise(BATCH, LENGTH, _find(config, "patch_embed_hidden_size", width))
        return torch.cat([places.float().expand(BATCH, -1, -1), patches], dim=-1)
    if name == "image_embeds_position_mask":
        mask = torch.zeros(BATCH, LENGTH, dtype=torch.long)
        mask[:, 1 : 1 + _find(config, "latent_query_num", 4)] = 1
        return mask
    if name in ("input_features_mask", "audio_mel_mask", "mask"):
        frames = 2 * (_find(config, "max_source_positions", None) or 20)
        return torch.ones(BATCH, frames, dtype=torch.bool if variant % 2 else torch.long)
    if name == "aspect_ratio_ids":
        return torch.ones(BATCH, 1, dtype=torch.long)
    if name == "aspect_ratio_mask":
        return torch.ones(BATCH, 1, _find(config, "max_num_tiles", 4), dtype=torch.long)
    if name == "merge_sizes":
        return torch.ones(BATCH, dtype=torch.long)
    if name == "pixel_position_ids":
        places = torch.stack([torch.arange(LENGTH) % 4, torch.arange(LENGTH) // 4], dim=-1)
        return places.repeat(BATCH, 1, 1)
    if name == "image_attention_mask":
        return torch.ones(BATCH, LENGTH, _find(config, "num_frames", 2) or 2, dtype=torch.long)
    if name in ("image_embeddings", "image_positional_embeddings", "dense_prompt_embeddings"):
        return noise(BATCH, width, 4, 4)
    if name == "sparse_prompt_embeddings":
        return noise(BATCH, 1, 2, width)
    if name == "multimask_output":
        return False
    if name == "doc_scores":
        return noise(BATCH, 1)
    if name == "latents":
        return noise(BATCH, width, LENGTH) if variant % 2 else noise(BATCH, LENGTH, width)
    return None


def _find(config: Any, name: str, default: Any) -> Any:
    """An attribute of the configuration or of its first sub-configuration that has it."""
    value = getattr(config, name, None)
    if value is not None:
        return value
    for sub in vars(config).values() if hasattr(config, "__dict__") else ():
        if type(sub).__name__.endswith("Config") and sub is not config:
            found = _find(sub, name, None)
            if found is not None:
                return found
    return default
