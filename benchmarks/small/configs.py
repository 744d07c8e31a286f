"""Shrinking a transformers configuration, by the names that its authors gave their sizes."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from transformers import PreTrainedConfig

WIDTH, LAYERS, HEADS, VOCABULARY, IMAGE, PATCH = 32, 2, 4, 128, 64, 16

_NAMES: tuple[tuple[int, str], ...] = (
    (
        WIDTH,
        """
        hidden_size d_model n_embd dim embed_dim encoder_embed_dim decoder_embed_dim embedding_size
        embedding_dim hidden_dim encoder_hidden_size decoder_hidden_size cross_attention_hidden_size
        projection_dim word_embed_proj_dim d_embed text_embed_dim vision_embed_dim output_hidden_size
        out_hidden_size model_dim width projector_hidden_size projection_hidden_size text_hidden_size
        hidden_channels decoder_hidden_dim fpn_hidden_size fusion_hidden_size output_dim encoder_hidden_dim
        decoder_hidden_dim qformer_hidden_size emb_dim text_projection_dim audio_hidden_size conv_dim
        speaker_embedding_dim hidden_width mlp_hidden_size mask_feature_size feature_size
                backbone_hidden_size neck_hidden_size decoder_hidden_size d_inner_hid lru_width
        conv_stem_channels upsample_groups
        out_channels proj_size output_channels vision_hidden_size bottleneck_features
        """,
    ),
    (
        LAYERS,
        """
        num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_encoder_layers
        num_decoder_layers num_blocks depth num_stacks encoder_num_layers decoder_num_layers e_layers
        d_layers num_hidden_groups num_local_layers text_layers decoder_num_hidden_layers
        encoder_num_hidden_layers num_adapter_layers num_resampler_layers
        """,
    ),
    (
        HEADS,
        """
        num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads
        encoder_num_attention_heads decoder_num_attention_heads linear_num_value_heads linear_num_key_heads
        num_experts num_local_experts n_routed_experts moe_num_experts num_routed_experts mamba_n_heads
        index_n_heads encoder_num_key_value_heads decoder_num_key_value_heads
        """,
    ),
    (
        2,
        """
        num_key_value_heads num_experts_per_tok moe_k moe_topk top_k_experts num_kv_heads n_kv_heads
        multi_query_group_num num_codebooks
        """,
    ),
    (
        1,
        """
        n_group topk_group first_k_dense_replace n_shared_experts num_shared_experts
        num_nextn_predict_layers num_mtp_modules
        """,
    ),
    (
        8,
        """
        head_dim d_kv attention_head_size kv_channels qk_nope_head_dim qk_rope_head_dim v_head_dim d_head
        linear_key_head_dim linear_value_head_dim index_head_dim attention_head_dim state_size mamba_d_state
        global_head_dim rotary_dim
        """,
    ),
    (
        16,
        """
                num_mel_bins num_pos_feats q_lora_rank kv_lora_rank mamba_d_head mamba_headdim index_topk
        num_queries num_query_tokens
        o_lora_rank
        """,
    ),
    (
        64,
        """
        intermediate_size ffn_dim d_ff n_inner encoder_ffn_dim decoder_ffn_dim dim_feedforward
        moe_intermediate_size shared_expert_intermediate_size ffn_hidden_size encoder_intermediate_size
        decoder_intermediate_size feed_forward_size expert_ffn_hidden_size dim_ff feedforward_dim
        max_position_embeddings n_positions max_seq_len max_sequence_length max_target_positions n_ctx
        seq_length mlp_dim encoder_feedforward_dim shared_intermediate_size dense_intermediate_size
        """,
    ),
    (
        20,
        """
        max_source_positions
        """,
    ),
    (
        VOCABULARY,
        """
        vocab_size text_vocab_size codebook_size audio_vocab_size decoder_vocab_size src_vocab_size
        tgt_vocab_size text_encoder_vocab_size char_vocab_size vocab_size_per_layer_input entity_vocab_size
        """,
    ),
    (
        IMAGE,
        """
        image_size img_size pretrain_image_size input_size
        """,
    ),
)
# name of a size -> the small value; a default that is smaller stays
SIZES = {name: value for value, names in _NAMES for name in names.split()}
IMAGES = tuple(
    name
    for name, value in SIZES.items()
    if value == IMAGE and name.endswith("size") and ("image" in name or "img" in name or name == "input_size")
)
LARGEST_WINDOW = 32  # in patches; what is larger counts pixels
MOST_STAGES = 4  # a list as long as this is one of stages, not of layers
PATCHES = ("patch_size", "spatial_patch_size")
STAGE_WIDTHS = (
    "embed_dim_per_stage",
    "hidden_sizes",
    "embed_dims",
    "encoder_hidden_sizes",
    "dims",
    "embedding_dims",
    "channels",
    "stage_dims",
)
STAGE_HEADS = ("num_heads", "num_attention_heads", "num_key_value_heads")

# what no rule of thumb finds: model type -> values to use as they are
SPECIAL: dict[str, dict[str, Any]] = {
    "fnet": {"tpu_short_seq_length": 10},
    "xlnet": {"d_model": 32, "n_head": 4, "d_inner": 64},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"], "hash_seed": 0},
    "funnel": {"block_sizes": [1, 1], "d_model": 32, "d_inner": 64, "n_head": 4, "d_head": 8},
    "transfo-xl": {"cutoffs": [], "div_val": 1},
    "bloom": {"hidden_size": 32, "n_head": 4},
    "canine": {"num_hash_buckets": 64, "local_transformer_stride": 8, "upsampling_kernel_size": 2},
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_blocks": 1, "num_self_attends_per_block": 2,
                  "num_self_attention_heads": 4, "num_cross_attention_heads": 4},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 1, "mask_token_id": 2},
    "mamba2": {"hidden_size": 32, "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1},
    "zamba2": {"n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1, "use_mem_rope": False},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "lilt": {"hidden_size": 96},
    "bridgetower_vision_model": {"hidden_size": 64},
    "autoformer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2], "num_time_features": 1,
                "feature_size": 5},
    "informer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2], "num_time_features": 1,
                "feature_size": 5},
    "time_series_transformer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2],
                                "num_time_features": 1, "feature_size": 5},
    "kosmos-2": {"latent_query_num": 4},
    "sam2_hiera_det_model": {"embed_dim_per_stage": [32, 64, 128, 256]},  # a stage pools where its width grows
    "sam2_vision_model": {"backbone_channel_list": [256, 128, 64, 32]},
    "gemma3n_text": {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
                     "num_kv_shared_layers": 2, "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
                     "intermediate_size": [64] * 4, "hidden_size_per_layer_input": 8},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4},
    "llama4_vision_model": {"intermediate_size": 128, "projector_input_dim": 32, "projector_output_dim": 32,
                            "vision_output_dim": 32},
    "mllama_vision_model": {"intermediate_layers_indices": [0, 1], "vision_output_dim": 96},
    "xmod": {"default_language": "en_XX"},
    "xclip_vision_model": {"num_frames": 2},
    "nemotron": {"num_key_value_heads": 2},
    "blip-2": {"image_token_id": VOCABULARY - 1},
    "instructblip": {"image_token_id": VOCABULARY - 1},
    "instructblipvideo": {"video_token_id": VOCABULARY - 1},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
             "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}},
    "longformer": {"attention_window": 4},
    "led": {"attention_window": 4},
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full"},
}  # fmt: skip
# attributes that the architecture reads and its own configuration lacks
LACKING: dict[str, dict[str, Any]] = {
    "t5gemma2_text": {"dropout_rate": 0.0},
    "t5gemma2_decoder": {"dropout_rate": 0.0},
    "pix2struct_text_model": {"initializer_range": 0.02},
}


class Shrink(IntEnum):
    """How much of a configuration shrinks; depth and vocabulary always do, but in UNCHANGED."""

    ALL = 0
    TEXT = 1  # widths and heads of configurations with a vocabulary only
    DEPTH = 2
    DEPTH_ONLY = 3  # images stay too
    UNCHANGED = 4


def small(config: PreTrainedConfig, shrink: Shrink = Shrink.ALL) -> PreTrainedConfig:
    """A small configuration of the same class."""
    if shrink == Shrink.UNCHANGED:
        return config
    values = _small_values(config, shrink)
    errors = []
    for attempt in (values, _as_dicts(values)):
        try:
            return type(config)(**attempt)
        except Exception as refused:  # any library's own check; the last resort below sets attributes
            errors.append(refused)
    for name, value in values.items():
        setattr(config, name, value)
    return config


def _small_values(config: PreTrainedConfig, shrink: Shrink) -> dict[str, Any]:
    given = {k: v for k, v in vars(config).items() if not k.startswith("_")}
    layers = _default_layers(config)
    usual = vars(type(config)())
    values = {k: v for k, v in given.items() if k not in usual or _differs(usual[k], v)}
    narrow = shrink == Shrink.ALL or (shrink == Shrink.TEXT and "vocab_size" in given)
    for name, value in given.items():
        if not isinstance(value, PreTrainedConfig) and not _shrinks(name, narrow, shrink):
            continue
        new = _small_value(name, value, layers, shrink)
        if new is not None:
            values[name] = new
    if narrow and given.get("head_dim", 0) is None:
        values["head_dim"] = SIZES["head_dim"]
    if "kv_lora_rank" in values and "num_key_value_heads" in values:  # latent attention: a key per head
        values["num_key_value_heads"] = values.get("num_attention_heads", HEADS)
    values |= _token_ids(given)
    values |= _backbone_stages(config) | LACKING.get(config.model_type, {})
    if not narrow:
        return values
    values |= {
        k: v for k, v in SPECIAL.get(config.model_type, {}).items() if k in given or hasattr(config, k)
    }
    return values


def _backbone_stages(config: PreTrainedConfig) -> dict[str, Any]:
    """A backbone that hands several stages on keeps doing so; one of layers alone has a layer for each."""
    wanted = list(getattr(config, "_out_features", None) or [])
    if len(wanted) < 2:
        return {}
    if len(config.stage_names) <= MOST_STAGES + 1:
        return {"out_features": wanted}
    return {"num_hidden_layers": len(wanted), "out_indices": [i + 1 for i in range(len(wanted))]}


def _shrinks(name: str, narrow: bool, shrink: Shrink) -> bool:
    if name in IMAGES:
        return shrink < Shrink.DEPTH_ONLY
    return narrow or name == "depths" or SIZES.get(name) in (LAYERS, VOCABULARY) or name.startswith("layer")


def _small_value(name: str, value: Any, layers: int, shrink: Shrink) -> Any:
    if isinstance(value, PreTrainedConfig):
        return small(value, shrink)
    if name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
        return _small_rope(value)
    if isinstance(value, (list, tuple)):
        return _small_list(name, value, layers)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    if name == "window_size":
        return min(value, 2) if value <= LARGEST_WINDOW else None  # no larger than the last of four stages
    if name in PATCHES:
        return PATCH if value > PATCH else None
    if name in SIZES:
        return min(value, SIZES[name])
    return None


def _small_list(name: str, value: Any, layers: int) -> Any:
    kind = type(value)
    if name == "depths":
        return kind(min(v, 1) if i else min(v, 2) for i, v in enumerate(value))
    if name in SIZES and SIZES[name] == IMAGE and value and isinstance(value[0], int):
        return kind(min(v, IMAGE) for v in value)
    if name in STAGE_HEADS and value and isinstance(value[0], int):
        return kind(1 if v == 1 else 2 for v in value)
    if name in STAGE_WIDTHS and value and isinstance(value[0], int):
        return kind(min(v, WIDTH * 2 ** min(i, 1)) for i, v in enumerate(value))
    if len(value) == layers > MOST_STAGES and name != "architectures":
        return kind(_varied(list(value)))
    return None


def _varied(values: list) -> list:
    """The first of each kind, so that a small model has every kind of layer."""
    last_other = next((v for v in values if v != values[0]), values[0])
    return [values[0], last_other]


def _default_layers(config: PreTrainedConfig) -> int:
    for name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "depth"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return -1


def _small_rope(rope: dict[str, Any]) -> dict[str, Any]:
    changed = {k: v for k, v in rope.items() if k != "mrope_section"}
    for name, value in rope.items():
        if isinstance(value, dict):
            changed[name] = _small_rope(value)
        elif name == "mrope_section":
            continue  # below
        elif name in ("short_factor", "long_factor"):
            changed[name] = list(value)[:4]
    if "mrope_section" not in changed and not any(isinstance(v, dict) for v in rope.values()):
        half = int(SIZES["head_dim"] * float(rope.get("partial_rotary_factor") or 1)) // 2
        changed["mrope_section"] = [half - half // 2, half // 4, half // 2 - half // 4]
    return changed


def _token_ids(given: dict[str, Any]) -> dict[str, int]:
    """Distinct ids inside the small vocabulary for special tokens beyond it."""
    changed: dict[str, int] = {}
    for name, value in given.items():
        special = name.endswith(("_token_id", "_token_index", "_token_idx")) or name in (
            "image_token",
            "audio_token",
        )
        if special and isinstance(value, int) and not isinstance(value, bool) and value >= VOCABULARY:
            changed[name] = VOCABULARY - 1 - len(changed)
    return changed


def _differs(a: Any, b: Any) -> bool:
    return type(a) is not type(b) or (not isinstance(a, PreTrainedConfig) and a != b)


def _as_dicts(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v.to_dict() if isinstance(v, PreTrainedConfig) else v for k, v in values.items()}
