"""What a kernel is told of a neuron's call, number by number, and what a number among them stands for."""

from __future__ import annotations

ARGUMENTS = (
    "input output dtype where counts slots ends form kind power mirrored octaves one_sided kept_bits time_steps bases "
    "banks threshold reset intensity weight bias offset gain breakpoints shared exponents inner along scores "
    "calibrated accurate_low accurate_high seen outside beyond lost spikes tally table blocks"
).split()
(
    INPUT, OUTPUT, DTYPE, WHERE, COUNTS, SLOTS, ENDS, FORM, KIND, POWER, MIRRORED, OCTAVES, ONE_SIDED, KEPT_BITS,
    TIME_STEPS, BASES, BANKS, THRESHOLD, RESET, INTENSITY, WEIGHT, BIAS, OFFSET, GAIN, BREAKPOINTS, SHARED, EXPONENTS,
    INNER, ALONG, SCORES, CALIBRATED, ACCURATE_LOW, ACCURATE_HIGH, SEEN, OUTSIDE, BEYOND, LOST, SPIKES, TALLY,
    TABLE, BLOCKS,
) = range(len(ARGUMENTS))  # fmt: skip
WORDS = len(ARGUMENTS)

FLOAT32, BFLOAT16, FLOAT16 = range(3)
IDENTITY, FIRST_SPIKE, CLOSED, STEPS = range(4)
NONE, CLIP, FRACTION, EXPONENT, OCTAVE = range(5)
LINEAR, INVERSE, ROOT, INVERSE_ROOT = range(4)
OWN, TENSOR, CHANNEL, TOKEN = range(4)  # who has a scale in common
