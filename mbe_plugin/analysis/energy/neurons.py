"""What neurons do beside sending: comparisons, resets, and what is done to an input before the first step."""

from __future__ import annotations

import math
from collections import Counter

from torch import Tensor

from mbe_plugin.operators import CalibratedNode, SharedScaleNode
from mbe_plugin.recording import NeuronEvents


def of_neuron(node: CalibratedNode, sent: NeuronEvents) -> Counter[str]:
    """The operations of a neuron for all elements that came in."""
    elements, bases = sent.elements, sent.bases_per_element
    found: Counter[str] = Counter(
        {
            "comparison": elements * (sent.time_steps * bases + _routing(node) + (float(node.dead_zone) > 0)),
            "subtraction": sent.total,
            "table read": elements * _reads(node),
        }
    )
    for kind, count in (*_membrane(node), *_reduction(node)):
        found[kind] += count * elements
    return +found


def _routing(node: CalibratedNode) -> int:
    """Comparisons that find an element's bank: its sign, and half of the segments at a time."""
    segments = node.breakpoints.numel() + 1
    return math.ceil(math.log2(segments)) + node.mirrored


def _reads(node: CalibratedNode) -> int:
    """Reads of two numbers, of those that an element's bank has for itself; a sign is not one.

    What an identity's events are worth is a matter of the synapses that they reach (operations.of_amplitudes).
    """
    banks = node.bias.numel()
    at_read_out = () if node.function == "identity" else (node.w, node.bias)
    of_banks = [t.abs().reshape(banks, -1) for t in (node.offset, node.gain, *at_read_out)]
    return math.ceil(sum(t.shape[1] * bool((t != t[:1]).any()) for t in of_banks) / 2)


def _membrane(node: CalibratedNode) -> list[tuple[str, int]]:
    """gain * (x - offset), per basis that an element drives; powers of two shift, signs cost nothing."""
    bases, found = node.bases_per_element, []
    if bool((node.offset != 0).any()):
        found.append(("addition", bases))
    if bool((node.gain.abs() != 1).any()):
        found.append(("shift" if _powers_of_two(node.gain) else "multiplication", bases))
    return found


def _powers_of_two(values: Tensor) -> bool:
    mantissa, _ = values.abs().frexp()
    return bool(((mantissa == 0.5) | (values == 0)).all())


def _reduction(node: CalibratedNode) -> list[tuple[str, int]]:
    """Taking the exponent off, or the whole part of x; a scale per token is the exponent of its largest element."""
    if isinstance(node, SharedScaleNode):
        return [
            ("shift", 1),
            ("addition", int(node.centered)),
            ("comparison", (node.scale == "token") + (node.reduction.kind == "clip")),
        ]
    if node.reduction.kind == "fraction":
        return [("comparison", 1), ("addition", 1)]
    return [("shift", 1)] if node.reduction.kind != "none" else []
