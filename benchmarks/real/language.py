"""SmolLM2 on WikiText-2: perplexity over windows of 256 and of 1,024 tokens."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from benchmarks.real.workload import Part, Row, Tensors, Workload
from examples._shared.language import perplexity_figures, token_losses, tokens_of, windows
from examples._shared.networks import load_smollm2

NETWORK = "SmolLM2-135M"
TASKS = {
    "WikiText-2, windows of 256": (256, 16),
    "WikiText-2, windows of 1,024": (1024, 4),
}  # tokens, windows
CALIBRATION = (256, 256, 256, 1024)  # tokens of the windows of the validation text
# where in it the windows of 256 begin that mbe_plugin.tune checks its choice on, and how many
HELD_OUT = (8192, 6)


def wikitext(data: Path, fitted: bool = True) -> list[Workload]:
    """One conversion serves both tasks: its calibration is one list of windows. Its own head is pretrained."""
    tokenizer, ann = load_smollm2()
    texts = [(data / "wikitext-2" / f"{name}.txt").read_text(encoding="utf-8") for name in ("valid", "test")]
    valid, test = (tokens_of(tokenizer, text[:200_000]) for text in texts)
    calibration = [{"input_ids": w[None]} for w in valid[: sum(CALIBRATION)].split(CALIBRATION)]
    start, count = HELD_OUT
    held_out = [{"input_ids": w[None]} for w in windows(valid[start:], 256)[:count]]
    return [_workload(ann, calibration, held_out, test, task) for task in TASKS]


def _workload(
    ann: nn.Module,
    calibration: list[dict[str, Tensor]],
    held_out: list[dict[str, Tensor]],
    test: Tensor,
    task: str,
) -> Workload:
    length, count = TASKS[task]
    chosen = windows(test, length)[:count]
    evaluation = chosen.split(max(1, 512 // length))
    counted = chosen[:1, :256]
    parts, spikes_on = [Part(calibration, evaluation)], [(counted, counted.numel())]
    # the derivatives of 1,024 tokens at once take some 20 GB
    tuned_on = {"tuning": [b for b in calibration if b["input_ids"].numel() <= 256], "held_out": held_out}
    return Workload(NETWORK, task, "perplexity", ann, parts, outputs, figures, spikes_on, few=1, **tuned_on)


def outputs(network: nn.Module, window: Tensor) -> Tensors:
    """What the language head reads of every token but a window's last, and the loss and likeliest token there."""
    seen: list[Tensor] = []
    hook = network.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits = network(input_ids=window).logits
    hook.remove()
    return seen[0][:, :-1].flatten(0, 1), *token_losses(logits, window)


def figures(exact: Tensors, spiking: Tensors) -> Row:
    row = perplexity_figures(exact[1:], spiking[1:])
    return {**row, "flipped": int((exact[2] != spiking[2]).sum())}
