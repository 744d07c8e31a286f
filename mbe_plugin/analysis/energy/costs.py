"""What an operation costs: kinds of operations, and tables of energies for them."""

from __future__ import annotations

import math
from collections.abc import Mapping

# kind -> what it is
KINDS = {
    "multiply-accumulate": "a product added to a sum",
    "multiplication": "a product alone",
    "small multiplication": "of two numbers of at most 8 bits",
    "addition": "a sum or a difference, of numbers that no event carries",
    "comparison": "with a threshold, a break point or another number",
    "shift": "by an exponent: a whole number of 8 bits added to the exponent's field",
    "accumulate": "a stored number added to a sum because an event has come",
    "subtraction": "of the reset from a membrane, after a spike",
    "read-out": "a stored number added to a neuron's own output, after an event",
    "table read": "64 bits from a memory of 8 KiB, where an element's bank keeps its numbers",
}

SOURCE = "45 nm, M. Horowitz, ISSCC 2014"

# picojoules; a comparison is a difference of whole numbers
FLOAT32 = {
    "multiply-accumulate": 4.6,
    "multiplication": 3.7,
    "small multiplication": 0.2,
    "addition": 0.9,
    "comparison": 0.1,
    "shift": 0.03,
    "accumulate": 0.9,
    "subtraction": 0.9,
    "read-out": 0.9,
    "table read": 10.0,
}

# what the ANN's operations cost in each precision, its functions' too
FLOAT16 = FLOAT32 | {"multiply-accumulate": 1.5, "multiplication": 1.1, "addition": 0.4}
INT8 = FLOAT32 | {"multiply-accumulate": 0.3, "multiplication": 0.2, "addition": 0.1}
INTEGER_ADDITION = 0.1  # of 32 bits


def integer(weight_bits: int, value_bits: int) -> dict[str, float]:
    """Whole numbers: products of so many bits, added to sums of 32.

    A product's energy is a power of the product of the bits that goes through both whole-number products of the source,
    0.2 pJ for 8 x 8 and 3.1 for 32 x 32 bits: nearly proportional to it, as the area of an array multiplier is.
    """
    product = 0.2 * (weight_bits * value_bits / 64) ** (math.log(3.1 / 0.2) / math.log(16))
    return FLOAT32 | {
        "multiply-accumulate": product + INTEGER_ADDITION,
        "multiplication": product,
        "addition": INTEGER_ADDITION,
    }


def checked(costs: Mapping[str, float]) -> dict[str, float]:
    """A table of the caller's; ValueError for kinds that are missing or unknown, and for costs below 0."""
    unknown, missing = sorted(set(costs) - set(KINDS)), sorted(set(KINDS) - set(costs))
    if unknown:
        raise ValueError(f"costs has unknown kinds of operations {unknown}; the kinds are {sorted(KINDS)}")
    if missing:
        raise ValueError(
            f"costs says nothing of {missing}; give every kind a cost in pJ, for instance "
            "{**mbe_plugin.analysis.energy.FLOAT32, ...}"
        )
    wrong = {kind: cost for kind, cost in costs.items() if not 0 <= cost < float("inf")}
    if wrong:
        raise ValueError(f"costs must be 0 or more pJ, got {wrong}")
    return dict(costs)
