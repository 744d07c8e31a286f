"""Baselines: the precision of the ANN that a converted network is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mbe_plugin.analysis.energy.costs import FLOAT16, FLOAT32, INT8, INTEGER_ADDITION, integer
from mbe_plugin.operators import CalibratedNode

INTEGER_WEIGHT_BITS = 8
MOST_BITS = 32  # of a whole number
# what each says of itself wherever a number is printed
BASELINES = {
    "float32": "the ANN in float32",
    "float16": "the ANN in float16, the SNN's sums in float32",
    "int8": "the ANN and its functions in 8 bits, the SNN's sums in float32",
    "integer": "the ANN and its functions in whole numbers, as precise as the SNN's codes",
}
_SUMS = ("accumulate", "subtraction", "read-out", "addition")
_STATIC = ("range", "tensor", "channel")


@dataclass(frozen=True)
class Baseline:
    """A precision. costs: of the ANN's operations; snn_costs: of the SNN's, in pJ. weight_bits: of both networks' weights.

    value_bits: of a number that the ANN sends. description: a few words.
    """

    costs: dict[str, float]
    snn_costs: dict[str, float]
    weight_bits: int
    value_bits: int
    description: str


def baseline_of(name: str, snn: nn.Module, costs: dict[str, float] | None) -> Baseline:
    """A baseline for a converted network; costs: the caller's, for the SNN and for the ANN in float32."""
    given = FLOAT32 if costs is None else costs
    fixed = {"float32": (given, 32), "float16": (FLOAT16, 16), "int8": (INT8, 8)}
    if name in fixed:
        of_ann, bits = fixed[name]
        return Baseline(of_ann, given, bits, bits, BASELINES[name])
    bits = code_bits(snn)
    whole = integer(INTEGER_WEIGHT_BITS, bits)
    description = f"{BASELINES[name]}: weights of {INTEGER_WEIGHT_BITS} bits, activations of {bits}"
    if costs is not None:
        return Baseline(whole, costs, INTEGER_WEIGHT_BITS, bits, description)
    if any(
        node.scale not in _STATIC for node in encoders(snn)
    ):  # a sum of 32 bits does not hold all that may come
        description = f"{description}; the SNN's sums in float32, since exponents are sent"
        return Baseline(whole, FLOAT32, INTEGER_WEIGHT_BITS, bits, description)
    of_snn = whole | dict.fromkeys(_SUMS, INTEGER_ADDITION)
    return Baseline(
        whole, of_snn, INTEGER_WEIGHT_BITS, bits, f"{description}; the SNN's sums of whole numbers, too"
    )


def code_bits(snn: nn.Module) -> int:
    """How many bits tell as many values apart as the finest code that an encoded activation has, 32 at most."""
    return min(max((levels(node) - 1).bit_length() for node in encoders(snn)), MOST_BITS)


def levels(node: CalibratedNode) -> int:
    """How many values a neuron's train can tell apart, signs included; an exponent beside it is not counted."""
    tables = node.tables()
    if node.code == "first_spike":
        return tables.banks * tables.time_steps + 1  # silence, too
    return tables.distinct_outputs


def encoders(snn: nn.Module) -> list[CalibratedNode]:
    """The neurons that encode activations; in a network without such, all."""
    nodes = [m for m in snn.modules() if isinstance(m, CalibratedNode)]
    return [node for node in nodes if node.function == "identity"] or nodes
