"""Every family converts from its library's own class with strict=True, and keeps its outputs.

Bound (issue 4): at T = 16 the maximum error is at most 2 % of the outputs' standard deviation.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models.zoo import (
    WEIGHT_SCALE,
    Batch,
    Maker,
    large_vision_zoo,
    padding,
    scaled,
    token_ids,
    transformers_zoo,
    vision_zoo,
)
from torch import Tensor, nn

import mbe_plugin

CLOSE = 0.02
TRANSFORMERS, VISION, LARGE = transformers_zoo(), vision_zoo(), large_vision_zoo()
GENERATING = ("GPT-2", "GPT-NeoX", "OPT", "Llama", "Mistral", "Qwen3", "Gemma", "T5", "Whisper")


def called(model: nn.Module, batch: Any) -> Any:
    with torch.no_grad():
        return model(**batch) if isinstance(batch, dict) else model(batch)


def outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    out = called(model, batch)
    if isinstance(out, Tensor):
        return [out]
    named = out.items() if hasattr(out, "items") else enumerate(out)
    return [v for _, v in named if isinstance(v, Tensor)]


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.std())


def check_close(make: Maker, batch: Batch, by: float = WEIGHT_SCALE) -> nn.Module:
    ann = scaled(make, by)
    snn = mbe_plugin.convert(ann, [batch(0), batch(1)])
    wanted, found = outputs(ann, batch(2)), outputs(snn, batch(2))
    assert wanted and len(wanted) == len(found)
    assert wanted[0].std() > 1e-3  # a network that says nothing would be close to anything
    for w, f in zip(wanted, found, strict=True):
        assert distance(f, w) <= CLOSE
    assert not mbe_plugin.report(snn).unsupported
    return snn


@pytest.mark.parametrize("family", TRANSFORMERS)
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_transformers(family: str) -> None:
    check_close(*TRANSFORMERS[family])


@pytest.mark.parametrize("family", VISION)
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_vision(family: str) -> None:
    check_close(*VISION[family])


@pytest.mark.slow
@pytest.mark.parametrize("family", LARGE)
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_large_vision(family: str) -> None:
    # MaxViT as it is initialised: times three, its gates get inputs up to 4e5 from the random numbers of some machines
    check_close(*LARGE[family], by=1.0 if family == "MaxViT" else WEIGHT_SCALE)


@pytest.mark.parametrize("family", ["BERT", "GPT-2", "Llama", "T5"])
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_eager_attention_gives_its_weights_and_hidden_states(family: str) -> None:
    make, batch = TRANSFORMERS[family]
    ann = scaled(make)
    ann.set_attn_implementation("eager")
    asked = {"output_attentions": True, "output_hidden_states": True}
    snn = mbe_plugin.convert(ann, [{**batch(0), **asked}, {**batch(1), **asked}])
    wanted, found = called(ann, {**batch(2), **asked}), called(snn, {**batch(2), **asked})
    names = ("decoder_attentions", "encoder_attentions") if family == "T5" else ("attentions",)
    for name in names:
        for w, f in zip(wanted[name], found[name], strict=True):
            torch.testing.assert_close(f, w, atol=CLOSE, rtol=0)
            # the weights of a row are read-outs of a 2^x neuron times that of 1/sum: their sum is 1 to their error
            torch.testing.assert_close(f.sum(-1), torch.ones_like(f.sum(-1)), atol=1e-3, rtol=0)
    assert distance(found[0], wanted[0]) <= CLOSE


@pytest.mark.parametrize("implementation", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", GENERATING)
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.filterwarnings("ignore:.*(generation|max_length|attention mask|forced_decoder).*")
def test_generation(family: str, implementation: str) -> None:
    make, batch = TRANSFORMERS[family]
    ann = scaled(make)
    ann.set_attn_implementation(implementation)
    snn: Any = mbe_plugin.convert(ann, [batch(0), batch(1)])
    prompt = {
        k: v[:, :5] if "ids" in k or "mask" in k else v for k, v in batch(3).items() if "decoder" not in k
    }
    prompt.pop("attention_mask", None)
    greedy = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    cached = snn.generate(**prompt, **greedy, use_cache=True)
    assert torch.equal(cached, snn.generate(**prompt, **greedy, use_cache=False))
    assert snn.generate(**prompt, **greedy, num_beams=3).shape == cached.shape
    torch.manual_seed(1)
    sampled = snn.generate(**prompt, **{**greedy, "do_sample": True})
    assert sampled.shape == cached.shape
    if "input_ids" in prompt and family != "T5":
        assert torch.equal(cached, by_hand(snn, prompt["input_ids"], 5))


def by_hand(snn: nn.Module, ids: Tensor, steps: int) -> Tensor:
    """A plain loop over the converted model, without a cache."""
    for _ in range(steps):
        logits = called(snn, {"input_ids": ids, "use_cache": False}).logits[:, -1]
        logits[:, 2] = -torch.inf  # min_new_tokens bars the end-of-sequence token
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_other_batch_sizes_lengths_and_masks_than_in_calibration() -> None:
    make, _ = TRANSFORMERS["BERT"]
    ann = scaled(make)
    snn = mbe_plugin.convert(ann, [{"input_ids": token_ids(0)}])  # no mask in calibration
    longer = {"input_ids": token_ids(4, 5, 17), "attention_mask": padding(5, 17)}
    for w, f in zip(outputs(ann, longer), outputs(snn, longer), strict=True):
        assert distance(f, w) <= CLOSE


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
def test_cached_decoding_is_as_close_as_two_batch_sizes_are() -> None:
    make, _ = TRANSFORMERS["Llama"]
    ann = scaled(make)
    snn = mbe_plugin.convert(ann, [{"input_ids": token_ids(0)}, {"input_ids": token_ids(1)}])
    ids = token_ids(5)
    whole = called(snn, {"input_ids": ids, "use_cache": False}).logits
    start = called(snn, {"input_ids": ids[:, :6], "use_cache": True})
    rest = called(snn, {"input_ids": ids[:, 6:], "past_key_values": start.past_key_values}).logits
    alone = torch.cat([called(snn, {"input_ids": row[None], "use_cache": False}).logits for row in ids])
    noise = (alone - whole).abs().max()
    assert (rest - whole[:, 6:]).abs().max() <= max(10 * noise, 1e-4 * whole.std())


def test_massive_activations_keep_the_outputs() -> None:
    """GPT-2's LayerNorm inputs reach thousands where most are below one."""
    make, batch = TRANSFORMERS["GPT-2"]
    ann = scaled(make)
    with torch.no_grad():
        ann.transformer.wte.weight[:, 3] *= 4000 / ann.transformer.wte.weight[:, 3].abs().max()
    seen: list[float] = []
    handle = ann.transformer.h[0].ln_1.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].abs().max().item())
    )
    calibrating = copy.deepcopy(ann)
    handle.remove()
    called(calibrating, batch(0))
    assert max(seen) > 1000
    snn = mbe_plugin.convert(ann, [batch(0), batch(1)])
    for w, f in zip(outputs(ann, batch(2))[:1], outputs(snn, batch(2))[:1], strict=True):
        assert distance(f, w) <= CLOSE
    mbe_plugin.reset_counts(snn)
    with torch.no_grad():
        for model in (ann, snn):
            model.transformer.wte.weight[:, 3] *= 100
    wanted, found = (
        outputs(ann, batch(2))[0],
        outputs(snn, batch(2))[0],
    )  # no RangeWarning: warnings are errors
    assert distance(found, wanted) <= CLOSE
    neurons = [n for site in mbe_plugin.report(snn).sites for n in site.neurons]
    assert any(n.beyond > 0 for n in neurons)
    assert all(n.outside == 0 for n in neurons)


def test_an_error_is_located() -> None:
    make, batch = TRANSFORMERS["BERT"]
    ann = scaled(make)
    config = mbe_plugin.MBEConfig(sites=(("*layer.1.intermediate*gelu", {"time_steps": 1, "bases": 2}),))
    snn = mbe_plugin.convert(ann, [batch(0), batch(1)], config)
    ranked = mbe_plugin.locate_error(snn, ann, batch(2))
    assert ranked[0].site == "bert.encoder.layer.1.intermediate.intermediate_act_fn:gelu"
    assert ranked[0].output > 10 * ranked[1].output
    assert max(ranked, key=lambda e: e.added).site == ranked[0].site
    with pytest.raises(mbe_plugin.ConversionError, match="is not the network that was converted"):
        other = copy.deepcopy(ann)
        with torch.no_grad():
            other.classifier.weight += 1
        mbe_plugin.locate_error(snn, other, batch(2))


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention"])
def test_attention_kernels_are_refused_by_name(kernel: str) -> None:
    make, batch = TRANSFORMERS["BERT"]
    ann = scaled(make)
    ann.config._attn_implementation = kernel
    with pytest.raises(
        mbe_plugin.ConversionError, match=rf"the model uses {kernel}.*set_attn_implementation"
    ):
        mbe_plugin.convert(ann, [batch(0)])


def test_quantised_modules_are_refused_by_name() -> None:
    make, batch = TRANSFORMERS["BERT"]
    ann = scaled(make)
    foreign = type("Linear8bitLt", (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    ann.classifier = foreign(32, 2)
    with pytest.raises(mbe_plugin.ConversionError, match=r"classifier is a Linear8bitLt of bitsandbytes"):
        mbe_plugin.convert(ann, [batch(0)])
