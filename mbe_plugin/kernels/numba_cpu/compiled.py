"""The neuron's kernel, compiled by Numba: one read of the input and one write of the output, block by block in the cache.

Every operation is the torch path's own, in its order, in float32 and rounded once: no fast-math, no contraction. What
kind of neuron it is, is asked once per block and stage, so one compilation serves all of them. All of it is in this file,
because Numba's cache on the disk asks for the date of this one only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

BLOCK = 248  # elements, which a byte can count
MOST_COMPARED = (
    12  # break points that are compared with every element; more are found by cells, as in banks.py
)
MOST_PER_CELL = 4
SPREAD = np.array(
    [sum((n >> place & 1) << 8 * place for place in range(8)) for n in range(256)], dtype=np.uint64
)
UNTIL_SPREAD = 1 << 15  # elements, which 16 bits can count
CELLS, FEW_CELLS, MANY = 2048, 256, 1 << 14  # few for fewer than MANY elements: they are made in every call

# what a number among the arguments stands for
FLOAT32, BFLOAT16, FLOAT16 = range(3)
IDENTITY, FIRST_SPIKE, CLOSED, STEPS = range(4)
NONE, CLIP, FRACTION, EXPONENT, OCTAVE = range(5)
LINEAR, INVERSE, ROOT, INVERSE_ROOT = range(4)
OWN, TENSOR, CHANNEL, TOKEN = range(4)  # who has a scale in common
ARGUMENTS = (
    "input output dtype where counts slots ends form kind power mirrored octaves one_sided kept_bits time_steps bases "
    "banks threshold reset intensity weight bias offset gain breakpoints shared exponents inner along scores"
).split()
(
    INPUT, OUTPUT, DTYPE, WHERE, COUNTS, SLOTS, ENDS, FORM, KIND, POWER, MIRRORED, OCTAVES, ONE_SIDED, KEPT_BITS,
    TIME_STEPS, BASES, BANKS, THRESHOLD, RESET, INTENSITY, WEIGHT, BIAS, OFFSET, GAIN, BREAKPOINTS, SHARED, EXPONENTS,
    INNER, ALONG, SCORES,
) = range(len(ARGUMENTS))  # fmt: skip

I32, U, F = np.int32, np.uint32, np.float32
ZERO, ONE, HALF, INFINITY, NAN = F(0), F(1), F(0.5), F(np.inf), F(np.nan)
SMALLEST_NORMAL, LARGEST_INSIDE = F(2.0**-126), F(1 - 2.0**-24)
LOG2_E, LOWEST, DEEPEST = (
    F(1.4426950408889634),
    F(-(2.0 - 2.0**-23) * 2.0**127),
    F(-125.0),
)  # operators.softmax's
SQRT2, INVERSE_SQRT2 = F(2.0**0.5), F(2.0**-0.5)
MAGNITUDE, FIELD, MANTISSA = 0x7FFFFFFF, 0xFF, 0x7FFFFF

_UNWRAPPED: dict[str, Any] = {
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}  # nothing but kernels calls them
stage = njit(error_model="numpy", **_UNWRAPPED)


def _pointer_to(kind: Any) -> Any:
    """The intrinsic that takes an address as a pointer to numbers of this kind."""

    @intrinsic
    def pointer(context: Any, address: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), build

    return pointer


def _reread(kind: Any) -> Any:
    """The intrinsic that takes the 32 bits of a number as those of another kind."""

    @intrinsic
    def reread(context: Any, number: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(signature.return_type))

        return kind(number), build

    return reread


@intrinsic
def call_kernel(context: Any, kernel: Any, arguments: Any, first: Any, last: Any, thread: Any) -> Any:
    """Call the kernel at an address."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = context.get_value_type(types.int64)
        kind = ir.FunctionType(ir.VoidType(), [word.as_pointer(), word, word, word])
        called = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(called, [builder.inttoptr(args[1], word.as_pointer()), *args[2:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), build


@intrinsic
def call_thread_number(context: Any, function: Any) -> Any:
    """Call omp_get_thread_num, which is at an address."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(context.get_value_type(types.int32), [])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])

    return types.int32(types.int64), build


bits_of, float_of = _reread(types.int32), _reread(types.float32)
float32s, int32s, int64s = map(_pointer_to, (types.float32, types.int32, types.int64))
uint16s, bytes_at = map(_pointer_to, (types.uint16, types.uint8))


@stage
def clear(count, x):
    """0 in place."""
    for j in range(count):
        x[j] = 0


@stage
def read(a, first, count, x):
    """The block's input as float32."""
    if a[DTYPE] == FLOAT32:
        given = carray(float32s(a[INPUT] + 4 * first), (BLOCK,))
        for j in range(count):
            x[j] = given[j]
    else:
        short = carray(uint16s(a[INPUT] + 2 * first), (BLOCK,))
        if a[DTYPE] == BFLOAT16:
            for j in range(count):
                x[j] = float_of(U((short[j]) << 16))
        else:
            for j in range(count):
                x[j] = from_half(U(short[j]))


@stage
def from_half(bits):
    """A float16 number as float32, exactly."""
    magnitude = U((bits & 0x7FFF) << 13)
    if magnitude >= (0x1F << 23):  # infinity or NaN
        return float_of(U((U(bits & 0x8000) << 16) | (0x7F800000 | magnitude)))
    value = float_of(magnitude) * F(2.0**112)
    return -value if bits & 0x8000 else value


@stage
def write(a, first, count, y):
    """The block's output in the dtype of the input, rounded to nearest even."""
    if a[DTYPE] == FLOAT32:
        out = carray(float32s(a[OUTPUT] + 4 * first), (BLOCK,))
        for j in range(count):
            out[j] = y[j]
        return
    short = carray(uint16s(a[OUTPUT] + 2 * first), (BLOCK,))
    if a[DTYPE] == BFLOAT16:
        for j in range(count):
            bits = U(bits_of(y[j]))
            rounded = U((bits + 0x7FFF) + ((bits >> 16) & 1)) >> 16
            short[j] = np.uint16(rounded if y[j] == y[j] else 0x7FC0)
    else:
        for j in range(count):
            short[j] = np.uint16(to_half(U(bits_of(y[j]))))


@stage
def to_half(bits):
    """The float16 number nearest to a float32 number, of two the even one."""
    magnitude, sign = U(bits & 0x7FFFFFFF), U((bits >> 16) & 0x8000)
    if magnitude > 0x7F800000:
        return U(sign | 0x7E00)
    if magnitude >= 0x47800000:
        return U(sign | 0x7C00)
    if magnitude < 0x38800000:  # a subnormal number: the addition shifts and rounds
        return U(sign | U(U(bits_of(float_of(magnitude) + HALF)) - 0x3F000000))
    odd = U((magnitude >> 13) & 1)
    return U(sign | U(U((magnitude - (112 << 23)) + (0xFFF + odd)) >> 13))


@stage
def update_ends(x, count, ends):
    """ends [2]: the least and the largest float so far, as integers in the order of the floats; NaN is beyond infinity."""
    low, high = ends[0], ends[1]
    for j in range(count):
        bits = bits_of(x[j])
        ordered = I32(bits ^ ((bits >> 31) & MAGNITUDE))
        low, high = min(low, ordered), max(high, ordered)
    ends[0], ends[1] = low, high


@stage
def write_ends(ends, out):
    """The ends as floats, both NaN where one is."""
    low, high = in_order(ends[0]), in_order(ends[1])
    either = low != low or high != high
    out[0], out[1] = (NAN, NAN) if either else (low, high)


@stage
def in_order(ordered):
    """The float that update_ends has as this integer."""
    return float_of(I32(ordered ^ ((ordered >> 31) & MAGNITUDE)))


@stage
def power_of_two(exponent):
    """2^exponent; 0 below the normal range, infinity above."""
    return float_of(I32(min(max(I32(exponent + 127), 0), 255) << 23))


@stage
def shifted(y, exponent):
    """y * 2^exponent, as scaling.scale_by_power_of_two."""
    half = I32(exponent >> 1)
    return y * power_of_two(half) * power_of_two(I32(exponent - half))


@stage
def shared_exponents(a, first, count, exponents):
    """The exponent of each element's shared scale; the elements are [., along, inner]."""
    shared, inner, along = a[SHARED], a[INNER], a[ALONG]
    given = int32s(a[EXPONENTS])
    place, channel, row = first % inner, first // inner % along, first // inner // along
    for j in range(count):
        exponents[j] = given[0 if shared == TENSOR else channel if shared == CHANNEL else row * inner + place]
        place += 1
        if place == inner:
            place, channel = 0, channel + 1
            if channel == along:
                channel, row = 0, row + 1


@stage
def shift(count, x, exponents, sign):
    """x * 2^(sign * exponents), in place."""
    for j in range(count):
        x[j] = shifted(x[j], I32(sign * exponents[j]))


@stage
def split(a, count, x, reduced, exponent, active):
    """Reduction.split: the reduced input, the exponent and whether anything is sent."""
    kind, power = a[KIND], a[POWER]
    if kind == NONE:
        for j in range(count):
            reduced[j] = x[j]
            active[j] = True
    elif kind == CLIP:
        for j in range(count):
            v = LARGEST_INSIDE if x[j] > LARGEST_INSIDE else x[j]
            reduced[j] = -LARGEST_INSIDE if v < -LARGEST_INSIDE else v
            active[j] = True
    elif kind == FRACTION:
        for j in range(count):
            floor = np.floor(x[j])
            sends = floor >= F(-126) and x[j] < INFINITY
            exponent[j] = I32(min(floor if sends else ZERO, F(254)))
            reduced[j] = x[j] - floor if sends else ZERO
            active[j] = sends
    else:
        even = kind == EXPONENT and power >= ROOT
        positive = power >= ROOT or a[ONE_SIDED] != 0
        for j in range(count):
            bits = bits_of(x[j])
            field = I32((bits >> 23) & FIELD)
            e = I32(field - 126)
            odd = I32(e & 1) if even else 0
            exponent[j] = I32(e - odd)
            reduced[j] = float_of(I32((bits & ~(FIELD << 23)) | ((126 + odd) << 23)))
            active[j] = field != 0 and field != FIELD and (x[j] > ZERO or not positive)


@stage
def restore(a, count, y, x, exponent, active):
    """Reduction.restore, in place; a one-sided neuron reads NaN for negative inputs."""
    kind, power = a[KIND], a[POWER]
    if kind in (NONE, CLIP):
        for j in range(count):
            y[j] = y[j] + x[j] * ZERO
    elif kind == FRACTION:
        for j in range(count):
            limit = ZERO if x[j] < ZERO else x[j]
            y[j] = shifted(y[j], exponent[j]) if active[j] else limit
    else:
        scale(kind, power, count, y, exponent)
        for j in range(count):
            if not active[j]:
                y[j] = limit_of(power, x[j])
        if a[ONE_SIDED]:
            for j in range(count):
                y[j] = NAN if x[j] < ZERO else y[j]


@stage
def scale(kind, power, count, y, exponent):
    """Reduction.scale, in place."""
    if kind == OCTAVE:
        factor = SQRT2 if power == ROOT else INVERSE_SQRT2
        for j in range(count):
            y[j] = y[j] * factor if I32(exponent[j] & 1) == 1 else y[j]
    root, inverse = I32(power >= ROOT), power in (INVERSE, INVERSE_ROOT)
    for j in range(count):
        e = I32(exponent[j] >> root)
        y[j] = shifted(y[j], I32(-e) if inverse else e)


@stage
def limit_of(power, x):
    """What an element reads that sends nothing."""
    if power == LINEAR:
        return x * ZERO if abs(x) < INFINITY else x
    if power == INVERSE:
        return ONE / x
    root = np.sqrt(x)
    return root if power == ROOT else ONE / root


@stage
def cells_of(a, size, before):
    """How many break points lie in cells before each; and the cells' number, or 0 where they would not help."""
    breaks = breakpoints_of(a)
    count = breaks.size
    if count <= MOST_COMPARED:
        return 0, ZERO, 0
    cells = CELLS if size >= MANY else FEW_CELLS
    per_unit = F(cells) / (breaks[count - 1] - breaks[0])
    if not per_unit < INFINITY:
        return 0, ZERO, 0
    clear(cells + 1, before)
    for b in range(count):
        before[cell(breaks[b], breaks[0], per_unit, F(cells - 1)) + 1] += 1
    most = 0
    for c in range(1, cells + 1):
        most = max(most, before[c])
        before[c] += before[c - 1]
    return (cells if most <= MOST_PER_CELL else 0), per_unit, most


@stage
def cell(value, first, per_unit, last):
    """The cell of a value; NaN is in the first."""
    place = (value - first) * per_unit
    place = place if place > ZERO else ZERO
    return U(place if place < last else last)


@stage
def breakpoints_of(a):
    """The break points [.]."""
    segments = a[BANKS] // 2 if a[MIRRORED] else a[BANKS]
    return carray(float32s(a[BREAKPOINTS]), (segments - 1,))


@stage
def find_banks(a, count, reduced, compared, cells, per_unit, most, before, bank):
    """The bank that each reduced input drives."""
    breaks = breakpoints_of(a)
    if a[OCTAVES]:
        for j in range(count):
            bits = max(I32(bits_of(reduced[j]) & MAGNITUDE), (1 << 23))
            compared[j] = float_of(I32((bits & MANTISSA) | (126 << 23)))
    elif a[MIRRORED]:
        for j in range(count):
            compared[j] = abs(reduced[j])
    else:
        for j in range(count):
            compared[j] = reduced[j]
    if cells == 0:
        clear(count, bank)
        for b in range(breaks.size):
            for j in range(count):
                bank[j] += I32(compared[j] >= breaks[b])
    else:
        first, last = breaks[0], F(cells - 1)
        for j in range(count):
            bank[j] = cell(compared[j], first, per_unit, last)
        for j in range(count):
            segment = U(before[U(bank[j])])
            for _ in range(most):
                segment += U(segment < U(breaks.size) and compared[j] >= breaks[segment])
            bank[j] = segment
    if a[MIRRORED]:
        for j in range(count):
            bank[j] += I32(reduced[j] < ZERO) * I32(breaks.size + 1)


@stage
def decode_closed(a, count, reduced, bank, place, y, codes, o, g, w):
    """closed.decode of the basis at ``place`` of each bank, added to y; codes: its T spikes as a whole number's digits."""
    offset = carray(float32s(a[OFFSET]), (a[BASES],))
    gain = carray(float32s(a[GAIN]), (a[BASES],))
    weight = carray(float32s(a[WEIGHT]), (a[BASES],))
    per_bank = U(a[BASES] // a[BANKS])
    for j in range(count):
        row = U((U(bank[j]) * per_bank) + place)
        o[j], g[j], w[j] = offset[row], gain[row], weight[row]
    numbers, share = power_of_two(I32(a[TIME_STEPS])), power_of_two(I32(-a[TIME_STEPS]))
    top = numbers - ONE
    for j in range(count):
        code = np.floor((reduced[j] - o[j]) * g[j] * numbers)
        code = ZERO if code < ZERO else code
        code = top if code > top else code
        codes[j] = code
        y[j] += code * share * w[j]


@stage
def decode_steps(a, count, reduced, bank, place, y, membrane, output, taken, counts):
    """steps.decode of the basis at ``place`` of each bank, added to y; its spikes are counted if counts [T, N] has room."""
    steps, bases = a[TIME_STEPS], a[BASES]
    threshold = carray(float32s(a[THRESHOLD]), (steps * bases,))
    reset = carray(float32s(a[RESET]), (steps * bases,))
    intensity = carray(float32s(a[INTENSITY]), (steps * bases,))
    weight = carray(float32s(a[WEIGHT]), (bases,))
    offset = carray(float32s(a[OFFSET]), (bases,))
    gain = carray(float32s(a[GAIN]), (bases,))
    per_bank = U(bases // a[BANKS])
    for j in range(count):
        row = U((U(bank[j]) * per_bank) + place)
        membrane[j] = gain[row] * (reduced[j] - offset[row])
        output[j] = ZERO
    for t in range(steps):
        if a[BANKS] == 1:
            at = t * bases + place
            th, r, d = threshold[at], reset[at], intensity[at]
            for j in range(count):
                fires = membrane[j] - th >= ZERO
                output[j] += d if fires else ZERO
                if counts.size > 1:
                    counts[t * bases + place] += fires and taken[j]
                membrane[j] -= r if fires else ZERO
        else:
            for j in range(count):
                row = t * bases + U((U(bank[j]) * per_bank) + place)
                fires = membrane[j] - threshold[row] >= ZERO
                output[j] += intensity[row] if fires else ZERO
                if counts.size > 1:
                    counts[row] += fires and taken[j]
                membrane[j] -= reset[row] if fires else ZERO
    for j in range(count):
        y[j] += weight[U((U(bank[j]) * per_bank) + place)] * output[j]


@stage
def add_bias(a, count, bank, y):
    """The constant of each element's bank, added to y."""
    bias = carray(float32s(a[BIAS]), (a[BANKS],))
    for j in range(count):
        y[j] += bias[U(bank[j])]


@stage
def middle(bits, kept):
    """closed.middle_of_segment of a float's bits."""
    dropped = I32(23 - kept)
    return float_of(I32(I32(bits & ((-1) << dropped)) | (1 << I32(dropped - 1))))


@stage
def encode_identity(a, count, x, y):
    """closed.encode_identity."""
    kept = I32(a[KEPT_BITS])
    for j in range(count):
        bits = bits_of(x[j])
        field = I32((bits >> 23) & FIELD)
        normal = field != 0 and field != FIELD
        y[j] = middle(bits, kept) if normal else x[j] * SMALLEST_NORMAL


@stage
def find_normal(count, x, active):
    """Which inputs an identity sends: no zero, denormal, infinity or NaN."""
    for j in range(count):
        field = I32((bits_of(x[j]) >> 23) & FIELD)
        active[j] = field != 0 and field != FIELD


@stage
def decode_first_spike(a, count, reduced, y):
    """first_spike.decode."""
    kept, least = I32(a[KEPT_BITS]), power_of_two(I32(-a[TIME_STEPS]))
    for j in range(count):
        y[j] = middle(bits_of(reduced[j]), kept) if abs(reduced[j]) >= least else ZERO


@stage
def row_shift(a, first):
    """The whole number at or above a row's largest score in units of log 2, NaN where one is; operators.softmax's."""
    row = carray(float32s(a[INPUT] + 4 * first), (a[SCORES],))
    largest, magnitude = I32(-0x80000000), I32(0)
    for j in range(a[SCORES]):
        bits = bits_of(row[j])
        magnitude = max(magnitude, I32(bits & MAGNITUDE))
        largest = max(largest, I32(bits ^ ((bits >> 31) & MAGNITUDE)))
    return NAN if magnitude > 0x7F800000 else np.ceil(in_log2(in_order(largest)))


@stage
def in_log2(score):
    """A score in units of log 2; a mask that is finite stays finite."""
    power = score * LOG2_E
    return LOWEST if power < LOWEST else power


@stage
def below(count, x, shift, asked):
    """The scores in units of log 2 below the row's shift, in place, 0 for what is not sent; asked: what is."""
    for j in range(count):
        z = in_log2(x[j]) - shift
        asked[j] = z > DEEPEST and x[j] != -INFINITY
        x[j] = z if asked[j] or z != z else ZERO


@stage
def only(count, y, x, asked):
    """0 for what is not sent, in place; NaN stays."""
    for j in range(count):
        y[j] = y[j] if asked[j] or x[j] != x[j] else ZERO


@stage
def ask(a, first, count, asked):
    """Which elements the caller asks about."""
    if a[WHERE]:
        where = carray(bytes_at(a[WHERE] + first), (BLOCK,))
        for j in range(count):
            asked[j] = where[j] != 0


@stage
def take(a, count, active, asked, taken, sent):
    """Which elements are counted; and how many exponents they send, added to sent [1]."""
    for j in range(count):
        taken[j] = active[j] and asked[j]
    if a[KIND] >= FRACTION:
        for j in range(count):
            sent[0] += taken[j]


@stage
def digits_of_identity(a, count, x, taken, digits, row):
    """Rows and digits of an identity's spikes are bits of its input."""
    segments, dropped, steps = U(a[BASES] // 2), U(23 - a[KEPT_BITS]), U(a[TIME_STEPS])
    for j in range(count):
        bits = U(bits_of(x[j]))
        code = U((bits & 0x7FFFFFFF) >> dropped)
        segment = U((code >> steps) & (segments - 1))
        row[j] = U(segment + ((bits >> 31) * segments))
        digits[j] = U(code & ((1 << steps) - 1)) if taken[j] else 0


@stage
def digits_of_codes(a, count, codes, bank, place, taken, digits, row):
    """Those of decode_closed's codes, whose NaN sends nothing."""
    per_bank = U(a[BASES] // a[BANKS])
    for j in range(count):
        row[j] = U((U(bank[j]) * per_bank) + place)
        digits[j] = U(I32(codes[j])) if taken[j] and codes[j] > ZERO else 0


@stage
def count_digits(count, digits, row, groups, words, bytes_of_words, found):
    """The digits added up in found [N * groups * 8], the lowest first; words [N * groups] is empty before and after.

    A byte of a word counts one digit, so one addition counts eight.
    """
    for group in range(groups):
        shift, stride = U(8 * group), U(groups)
        for j in range(count):
            words[U(row[j] * stride + group)] += SPREAD[U(digits[j] >> shift) & 0xFF]
    for i in range(found.size):
        found[i] = np.uint16(found[i] + bytes_of_words[i])
    for i in range(words.size):
        words[i] = 0


@stage
def count_first_spike(a, count, reduced, taken, counts):
    """The time is the exponent, the basis the mantissa's leading bits."""
    segments = U(a[BASES] // 2)
    for j in range(count):
        bits = U(bits_of(reduced[j]))
        time = 126 - np.int64(U((bits >> 23) & 0xFF))
        if taken[j] and 0 <= time < a[TIME_STEPS]:
            segment = U((bits >> U(23 - a[KEPT_BITS])) & (segments - 1))
            counts[time * a[BASES] + U(segment + ((bits >> 31) * segments))] += 1


@stage
def spread(a, groups, found, counts):
    """What count_digits found as spikes per step and basis, added to counts [T, N]; the highest digit is step 0."""
    for digit in range(a[TIME_STEPS]):
        first = (a[TIME_STEPS] - 1 - digit) * a[BASES]
        for row in range(a[BASES]):
            counts[first + row] += np.int64(found[row * groups * 8 + digit])
    for i in range(found.size):
        found[i] = 0


@cfunc(
    types.void(types.CPointer(types.int64), types.int64, types.int64, types.int64),
    cache=True,
    error_model="numpy",
)
def neuron(arguments, first, last, thread):
    """Elements first .. last - 1 of a call, by one of its threads; ARGUMENTS says what each number stands for."""
    a = carray(arguments, (SCORES + 1,))
    x, reduced, compared, y = np.empty(BLOCK, F), np.empty(BLOCK, F), np.empty(BLOCK, F), np.empty(BLOCK, F)
    o, g, w, codes = np.empty(BLOCK, F), np.empty(BLOCK, F), np.empty(BLOCK, F), np.empty(BLOCK, F)
    exponent, exponents, bank = np.zeros(BLOCK, I32), np.zeros(BLOCK, I32), np.zeros(BLOCK, I32)
    active, asked, taken = np.ones(BLOCK, np.bool_), np.ones(BLOCK, np.bool_), np.ones(BLOCK, np.bool_)
    before = np.empty(CELLS + 1, I32)
    form, slots, shared, scores = a[FORM], a[SLOTS], a[SHARED], a[SCORES]
    counts = carray(int64s(a[COUNTS] + 8 * thread * slots), (slots,))
    by_digits = slots > 1 and form in (IDENTITY, CLOSED)
    digits, row = np.zeros(BLOCK, U), np.zeros(BLOCK, U)
    rows, groups = a[BASES] if by_digits else 0, (a[TIME_STEPS] + 7) // 8
    words, found = np.zeros(rows * groups, np.uint64), np.zeros(rows * groups * 8, np.uint16)
    bytes_of_words = words.view(np.uint8)
    ends = np.empty(2, I32)
    ends[0], ends[1] = 0x7FFFFFFF, -0x80000000
    cells, per_unit, most = cells_of(a, last - first, before) if form >= CLOSED else (0, ZERO, 0)
    start, end_of_row, shift_of_row, until_spread = first, last, ZERO, UNTIL_SPREAD
    while start < last:
        if scores and (start - first) % scores == 0:
            end_of_row, shift_of_row = start + scores, row_shift(a, start)
        count = min(end_of_row - start, BLOCK)
        read(a, start, count, x)
        if scores:
            below(count, x, shift_of_row, asked)
        else:
            ask(a, start, count, asked)
        if shared != CHANNEL:
            update_ends(x, count, ends)
        if shared != OWN:
            shared_exponents(a, start, count, exponents)
            shift(count, x, exponents, -1)
        if shared == CHANNEL:  # whose range is that of the scaled input
            update_ends(x, count, ends)
        if form != IDENTITY:
            split(a, count, x, reduced, exponent, active)
        elif slots:
            find_normal(count, x, active)
        if slots:
            take(a, count, active, asked, taken, counts[slots - 1 :])
        if form == IDENTITY:
            encode_identity(a, count, x, y)
            if by_digits:
                digits_of_identity(a, count, x, taken, digits, row)
                count_digits(count, digits, row, groups, words, bytes_of_words, found)
        elif form == FIRST_SPIKE:
            decode_first_spike(a, count, reduced, y)
            if slots > 1:
                count_first_spike(a, count, reduced, taken, counts)
        else:
            if a[BANKS] > 1:
                find_banks(a, count, reduced, compared, cells, per_unit, most, before, bank)
            clear(count, y)
            for place in range(a[BASES] // a[BANKS]):
                if form == STEPS:
                    decode_steps(a, count, reduced, bank, place, y, o, g, taken, counts)
                else:
                    decode_closed(a, count, reduced, bank, place, y, codes, o, g, w)
                    if by_digits:
                        digits_of_codes(a, count, codes, bank, place, taken, digits, row)
                        count_digits(count, digits, row, groups, words, bytes_of_words, found)
            add_bias(a, count, bank, y)
        if form != IDENTITY:
            restore(a, count, y, x, exponent, active)
        if shared != OWN:
            shift(count, y, exponents, 1)
        if scores:
            only(count, y, x, asked)
        write(a, start, count, y)
        start += count
        until_spread -= count
        if by_digits and (until_spread < BLOCK or start >= last):
            spread(a, groups, found, counts)
            until_spread = UNTIL_SPREAD
    write_ends(ends, carray(float32s(a[ENDS] + 8 * thread), (2,)))


@cfunc(types.void(types.CPointer(types.int64)), cache=True, error_model="numpy")
def share(task):
    """One OpenMP thread's part: of [kernel, its arguments, size, threads, elements together, omp_get_thread_num]."""
    a = carray(task, (6,))
    thread, parts = np.int64(call_thread_number(a[5])), (a[2] + a[4] - 1) // a[4]
    first = parts * thread // a[3] * a[4]
    last = min(parts * (thread + 1) // a[3] * a[4], a[2])
    if first < last:
        call_kernel(a[0], a[1], first, last, thread)
