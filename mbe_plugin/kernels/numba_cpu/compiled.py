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
    "banks threshold reset intensity weight bias offset gain breakpoints shared exponents inner along scores "
    "calibrated accurate_low accurate_high seen outside beyond lost spikes tally table"
).split()
(
    INPUT, OUTPUT, DTYPE, WHERE, COUNTS, SLOTS, ENDS, FORM, KIND, POWER, MIRRORED, OCTAVES, ONE_SIDED, KEPT_BITS,
    TIME_STEPS, BASES, BANKS, THRESHOLD, RESET, INTENSITY, WEIGHT, BIAS, OFFSET, GAIN, BREAKPOINTS, SHARED, EXPONENTS,
    INNER, ALONG, SCORES, CALIBRATED, ACCURATE_LOW, ACCURATE_HIGH, SEEN, OUTSIDE, BEYOND, LOST, SPIKES, TALLY,
    TABLE,
) = range(len(ARGUMENTS))  # fmt: skip

I32, U, F = np.int32, np.uint32, np.float32
ZERO, ONE, HALF, INFINITY, NAN = F(0), F(1), F(0.5), F(np.inf), F(np.nan)
LARGEST_INSIDE = F(1 - 2.0**-24)
LOG2_E, LOWEST, DEEPEST = (
    F(1.4426950408889634),
    F(-(2.0 - 2.0**-23) * 2.0**127),
    F(-125.0),
)  # operators.softmax's
LARGEST = F((2.0 - 2.0**-23) * 2.0**127)
LARGEST_BFLOAT16, LARGEST_FLOAT16 = F((2.0 - 2.0**-7) * 2.0**127), F(65504.0)
SQRT2, INVERSE_SQRT2 = F(2.0**0.5), F(2.0**-0.5)
MAGNITUDE, FIELD, MANTISSA = 0x7FFFFFFF, 0xFF, 0x7FFFFF

_SIGNATURE = types.void(types.CPointer(types.int64), types.int64, types.int64, types.int64)
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
def add_to(context: Any, address: Any, number: Any) -> Any:
    """Add to the integer at an address, which other threads may be adding to."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(types.int64).as_pointer()
        builder.atomic_rmw("add", builder.inttoptr(args[0], kind), args[1], "monotonic")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), build


@intrinsic
def call_thread_number(context: Any, function: Any) -> Any:
    """Call omp_get_thread_num, which is at an address."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(context.get_value_type(types.int32), [])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])

    return types.int32(types.int64), build


@intrinsic
def columns_of(context: Any, table: Any, rows: Any, columns: Any) -> Any:
    """Eight rows of four floats, by the int32 numbers at ``rows``, into four columns that are BLOCK floats apart.

    Four loads of one float each would be four times as many; a compiler does not see that they are neighbours.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table, rows, columns = args
        word, index, number = ir.IntType(64), ir.IntType(32), ir.FloatType()
        four, eight = ir.VectorType(number, 4), ir.VectorType(number, 8)

        def mixed(a: Any, b: Any, *order: int) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(index, len(order)), list(order)))

        def row(k: int) -> Any:
            at = builder.add(rows, ir.Constant(word, 4 * k))
            number_of = builder.zext(builder.load(builder.inttoptr(at, index.as_pointer())), word)
            at = builder.add(table, builder.shl(number_of, ir.Constant(word, 4)))
            return builder.load(builder.inttoptr(at, four.as_pointer()), align=4)

        # rows k and k + 4 side by side; then a transposition in either half
        pairs = [mixed(row(k), row(k + 4), *range(8)) for k in range(4)]
        low = [mixed(a, b, 0, 8, 1, 9, 4, 12, 5, 13) for a, b in (pairs[:2], pairs[2:])]
        high = [mixed(a, b, 2, 10, 3, 11, 6, 14, 7, 15) for a, b in (pairs[:2], pairs[2:])]
        for k, (a, b) in enumerate((low, low, high, high)):
            order = (0, 1, 8, 9, 4, 5, 12, 13) if k % 2 == 0 else (2, 3, 10, 11, 6, 7, 14, 15)
            at = builder.add(columns, ir.Constant(word, 4 * BLOCK * k))
            builder.store(mixed(a, b, *order), builder.inttoptr(at, eight.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), build


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
            short[j] = np.uint16(to_bfloat(U(bits_of(y[j]))) if y[j] == y[j] else 0x7FC0)
    else:
        for j in range(count):
            short[j] = np.uint16(to_half(U(bits_of(y[j]))))


@stage
def to_bfloat(bits):
    """The bfloat16 number nearest to a float32 number that is no NaN, of two the even one."""
    return U(U((bits + 0x7FFF) + ((bits >> 16) & 1)) >> 16)


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
def ends_of_16_bits(a, count, given, x):
    """The least and the largest of numbers of 16 bits, as float32 in x [0] and x [1]; NaN is beyond infinity."""
    low, high = np.int16(0x7FFF), np.int16(-0x8000)
    for j in range(count):
        bits = np.int16(given[j])
        ordered = np.int16(bits ^ np.int16(np.int16(bits >> 15) & np.int16(0x7FFF)))
        low, high = min(low, ordered), max(high, ordered)
    x[0], x[1] = of_order(a, low), of_order(a, high)


@stage
def of_order(a, ordered):
    """The number of 16 bits that has this place in the order of such numbers, as float32."""
    bits = U(np.uint16(ordered ^ np.int16(np.int16(ordered >> 15) & np.int16(0x7FFF))))
    return float_of(U(bits << 16)) if a[DTYPE] == BFLOAT16 else from_half(bits)


@stage
def clear_ends(ends):
    """No float so far."""
    ends[0], ends[1] = 0x7FFFFFFF, -0x80000000


@stage
def as_compared(a, limit):
    """A limit of a range as torch compares it with inputs of their dtype: no larger than those are, and rounded to it."""
    if a[DTYPE] == FLOAT32:
        return min(max(limit, -LARGEST), LARGEST)
    most = LARGEST_BFLOAT16 if a[DTYPE] == BFLOAT16 else LARGEST_FLOAT16
    bits = U(bits_of(min(max(limit, -most), most)))
    return float_of(U(to_bfloat(bits) << 16)) if a[DTYPE] == BFLOAT16 else from_half(to_half(bits))


@stage
def limits_of(a, limits):
    """The calibrated range, and that in which accuracy is kept, which holds it; [4]."""
    given = carray(float32s(a[CALIBRATED]), (2,))
    low, high = float_of(I32(a[ACCURATE_LOW])), float_of(I32(a[ACCURATE_HIGH]))
    limits[0], limits[1] = as_compared(a, given[0]), as_compared(a, given[1])
    limits[2], limits[3] = min(limits[0], as_compared(a, low)), max(limits[1], as_compared(a, high))


@stage
def is_inside(ends, limits):
    """Whether inputs between these ends are within the calibrated range."""
    return (in_order(ends[0]) >= limits[0]) & (in_order(ends[1]) <= limits[1])


@stage
def count_range(count, x, asked, ends, limits, found):
    """Those asked about, how many leave the calibrated range, and how many are decoded worse; added to found [3]."""
    low, high, least, most = limits
    for j in range(count):
        found[0] += asked[j]
    if is_inside(ends, limits):
        return
    for j in range(count):
        found[1] += I32(not ((x[j] >= low) & (x[j] <= high))) & asked[j]
        found[2] += I32(not ((x[j] >= least) & (x[j] <= most))) & asked[j]


@stage
def note_range(a, found):
    """What count_range found, added to the neuron's counters; the third to LOST, too."""
    add_to(a[SEEN], found[0])
    if found[1]:
        add_to(a[OUTSIDE], found[2])
        add_to(a[BEYOND], found[1] - found[2])
        add_to(a.ctypes.data + 8 * LOST, found[2])


@stage
def note_events(a, counts, elements):
    """Counts of spikes and, the last, of exponents, added to a recording's; TALLY is [elements, exponents, elements]."""
    for slot in range(counts.size - 1):
        if counts[slot]:
            add_to(a[SPIKES] + 8 * slot, counts[slot])
    add_to(a[TALLY], elements)
    add_to(a[TALLY] + 8, counts[counts.size - 1])
    add_to(a[TALLY] + 16, elements)


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
    """Reduction.split, but for 'none': the reduced input, the exponent and whether anything is sent (1 or 0)."""
    kind, power = a[KIND], a[POWER]
    if kind == CLIP:
        for j in range(count):
            v = LARGEST_INSIDE if x[j] > LARGEST_INSIDE else x[j]
            reduced[j] = -LARGEST_INSIDE if v < -LARGEST_INSIDE else v
    elif kind == FRACTION:
        for j in range(count):
            floor = np.floor(x[j])
            sends = (floor >= F(-126)) & (x[j] < INFINITY)
            least = floor if floor < F(254) else F(254)
            exponent[j] = I32(least if sends else ZERO)
            reduced[j] = x[j] - floor if sends else ZERO
            active[j] = I32(sends)
    else:
        even = kind == EXPONENT and power >= ROOT
        least = ZERO if power >= ROOT or a[ONE_SIDED] else LOWEST  # of what sends anything, but for 0
        for j in range(count):
            bits = bits_of(x[j])
            field = I32(I32(bits >> 23) & I32(FIELD))
            e = I32(field - 126)
            odd = I32(e & 1) if even else I32(0)
            exponent[j] = I32(e - odd)
            reduced[j] = float_of(I32(I32(bits & I32(~(FIELD << 23))) | I32(I32(126 + odd) << 23)))
            active[j] = is_normal(bits) & I32(x[j] >= least)


@stage
def is_normal(bits):
    """1 for a float that is no zero, denormal, infinity or NaN, else 0."""
    return I32(I32(I32(bits + I32(1 << 23)) & I32(0x7F000000)) != 0)


@stage
def restore(a, count, y, x, exponent, active):
    """Reduction.restore, in place; a one-sided neuron reads NaN for negative inputs."""
    kind, power = a[KIND], a[POWER]
    if kind in (NONE, CLIP):
        for j in range(count):
            y[j] = y[j] + x[j] * ZERO
        return
    if kind == FRACTION:
        for j in range(count):
            y[j] = shifted(y[j], exponent[j])
    else:
        scale(kind, power, count, y, exponent)
    senders = 0
    for j in range(count):
        senders += active[j]
    if senders < count:
        for j in range(count):
            if active[j] == 0:
                y[j] = limit_of(kind, power, x[j])
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
def limit_of(kind, power, x):
    """What an element reads that sends nothing."""
    if kind == FRACTION:
        return ZERO if x < ZERO else x
    if power == LINEAR:
        return x * ZERO if abs(x) < INFINITY else x
    if power == INVERSE:
        return ONE / x
    root = np.sqrt(x)
    return root if power == ROOT else ONE / root


@stage
def cells_of(a, size, before, limits):
    """How many break points lie in cells before each; and the cells' number, or 0 where they would not help.

    limits [B]: the break points, then a NaN, which no value reaches.
    """
    breaks = breakpoints_of(a)
    count = breaks.size
    for b in range(count):
        limits[b] = breaks[b]
    limits[count] = NAN
    if count <= MOST_COMPARED:
        return 0, ZERO, 0
    cells, per_unit, most = 0, ZERO, 0
    for wanted in (FEW_CELLS, CELLS):
        if wanted == FEW_CELLS or (most > 1 and size >= MANY):
            cells, per_unit, most = fill_cells(limits, count, wanted, before)
    return (cells if most <= MOST_PER_CELL else 0), per_unit, most


@stage
def fill_cells(limits, count, cells, before):
    """So many cells between the first and the last break point: their number, how many a unit has, most in one cell."""
    per_unit = F(cells) / (limits[count - 1] - limits[0])
    if not per_unit < INFINITY:
        return 0, ZERO, 0
    clear(cells + 1, before)
    for b in range(count):
        before[cell(limits[b], limits[0], per_unit, F(cells - 1)) + 1] += 1
    most = 0
    for c in range(1, cells + 1):
        most = max(most, before[c])
        before[c] += before[c - 1]
    return cells, per_unit, most


@stage
def cell(value, first, per_unit, last):
    """The cell of a value; NaN is in the first."""
    place = (value - first) * per_unit
    place = place if place > ZERO else ZERO
    return I32(place if place < last else last)


@stage
def breakpoints_of(a):
    """The break points [.]."""
    segments = a[BANKS] // 2 if a[MIRRORED] else a[BANKS]
    return carray(float32s(a[BREAKPOINTS]), (segments - 1,))


@stage
def magnitudes(a, count, reduced, compared):
    """What is compared with the break points, if not the reduced input itself."""
    if a[OCTAVES]:
        for j in range(count):
            bits = max(I32(bits_of(reduced[j]) & I32(MAGNITUDE)), I32(1 << 23))
            compared[j] = float_of(I32(I32(bits & I32(MANTISSA)) | I32(126 << 23)))
    else:
        for j in range(count):
            compared[j] = abs(reduced[j])


@stage
def find_banks(count, compared, cells, per_unit, most, before, limits, bank):
    """The bank that each input drives, but for the sign."""
    if cells == 0:
        clear(count, bank)
        for b in range(limits.size - 1):
            for j in range(count):
                bank[j] += I32(compared[j] >= limits[b])
        return
    first, last = limits[0], F(cells - 1)
    for j in range(count):
        bank[j] = cell(compared[j], first, per_unit, last)
    if most == 1:
        for j in range(count):
            segment = before[U(bank[j])]
            bank[j] = segment + I32(compared[j] >= limits[U(segment)])
        return
    for j in range(count):
        segment = before[U(bank[j])]
        for _ in range(most):
            segment += I32(compared[j] >= limits[U(segment)])
        bank[j] = segment


@stage
def mirror(count, reduced, segments, bank):
    """Negative inputs drive the second half of the banks."""
    for j in range(count):
        bank[j] += segments if reduced[j] < ZERO else I32(0)


@stage
def rows_of_bases(a, rows):
    """Offset, gain, weight and the bank's constant of every basis, [N, 4]."""
    offset = carray(float32s(a[OFFSET]), (a[BASES],))
    gain = carray(float32s(a[GAIN]), (a[BASES],))
    weight = carray(float32s(a[WEIGHT]), (a[BASES],))
    bias = carray(float32s(a[BIAS]), (a[BANKS],))
    per_bank = a[BASES] // a[BANKS]
    for row in range(a[BASES]):
        rows[row, 0], rows[row, 1], rows[row, 2] = offset[row], gain[row], weight[row]
        rows[row, 3] = bias[row // per_bank]


@stage
def at_place(count, bank, per_bank, place, row):
    """Which basis is at ``place`` of each bank."""
    for j in range(count):
        row[j] = I32(I32(bank[j] * per_bank) + place)


@stage
def look_up(count, table, row, columns):
    """Rows of the table at an address, [., 4], as columns [4, BLOCK]."""
    index, out = row.ctypes.data, columns.ctypes.data
    for j in range(0, count, 8):
        columns_of(table, index + 4 * j, out + 4 * j)


@stage
def decode_closed(a, count, reduced, columns, y, codes):
    """closed.decode of the bases that were looked up, added to y; codes: their T spikes as a whole number's digits."""
    o, g, w = columns[0], columns[1], columns[2]
    numbers, share = power_of_two(I32(a[TIME_STEPS])), power_of_two(I32(-a[TIME_STEPS]))
    top = numbers - ONE
    for j in range(count):
        code = np.floor((reduced[j] - o[j]) * g[j] * numbers)
        code = ZERO if code < ZERO else code
        code = top if code > top else code
        codes[j] = code
        y[j] += code * share * w[j]


@stage
def rows_of_steps(a, rows):
    """Threshold, reset and intensity of every step and basis, [T, N, 4]."""
    steps, bases = a[TIME_STEPS], a[BASES]
    threshold = carray(float32s(a[THRESHOLD]), (steps, bases))
    reset = carray(float32s(a[RESET]), (steps, bases))
    intensity = carray(float32s(a[INTENSITY]), (steps, bases))
    for t in range(steps):
        for row in range(bases):
            rows[t, row, 0], rows[t, row, 1] = threshold[t, row], reset[t, row]
            rows[t, row, 2], rows[t, row, 3] = intensity[t, row], ZERO


@stage
def decode_steps(a, count, reduced, row, columns, of_steps, at_step, y, membrane, output, taken, counts):
    """steps.decode of the bases that were looked up, added to y; spikes are counted if counts [T, N] has room."""
    steps, bases = a[TIME_STEPS], a[BASES]
    o, g, w = columns[0], columns[1], columns[2]
    th, r, d = at_step[0], at_step[1], at_step[2]
    for j in range(count):
        membrane[j] = g[j] * (reduced[j] - o[j])
        output[j] = ZERO
    for t in range(steps):
        look_up(count, of_steps.ctypes.data + 16 * t * bases, row, at_step)
        if counts.size > 1:
            for j in range(count):
                counts[t * bases + row[j]] += I32(membrane[j] - th[j] >= ZERO) & taken[j]
        for j in range(count):
            fires = membrane[j] - th[j] >= ZERO
            output[j] += d[j] if fires else ZERO
            membrane[j] -= r[j] if fires else ZERO
    for j in range(count):
        y[j] += w[j] * output[j]


@stage
def add(count, x, y):
    """x added to y."""
    for j in range(count):
        y[j] += x[j]


@stage
def middle(bits, kept):
    """closed.middle_of_segment of a float's bits."""
    dropped = I32(23 - kept)
    return float_of(I32(I32(bits & I32(I32(-1) << dropped)) | I32(I32(1) << I32(dropped - 1))))


@stage
def encode_identity(a, count, x, y):
    """closed.encode_identity."""
    kept = I32(a[KEPT_BITS])
    for j in range(count):
        bits = bits_of(x[j])
        field = I32(bits & I32(0x7F800000))
        coded = bits_of(middle(bits, kept))
        coded = (
            I32(bits & I32(-0x80000000)) if field == 0 else coded
        )  # no product, whose result would be denormal
        y[j] = float_of(bits if field == I32(0x7F800000) else coded)


@stage
def find_normal(count, x, active):
    """Which inputs an identity sends: no zero, denormal, infinity or NaN."""
    for j in range(count):
        active[j] = is_normal(bits_of(x[j]))


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
def row_shifts(a, first, start, count, shifts):
    """row_shift of each element's row, for a block that begins at ``start``; shifts [BLOCK + 1] keeps the last one's."""
    latest, place, stop = shifts[BLOCK], start, start + count
    while place < stop:
        past = (place - first) % a[SCORES]
        if past == 0:
            latest = row_shift(a, place)
        end = min(place - past + a[SCORES], stop)
        for j in range(place - start, end - start):
            shifts[j] = latest
        place = end
    shifts[BLOCK] = latest


@stage
def in_log2(score):
    """A score in units of log 2; a mask that is finite stays finite."""
    power = score * LOG2_E
    return LOWEST if power < LOWEST else power


@stage
def below(count, x, shifts, asked):
    """The scores in units of log 2 below their rows' shifts, in place, 0 for what is not sent; asked: what is."""
    for j in range(count):
        z = in_log2(x[j]) - shifts[j]
        sent = (z > DEEPEST) & (x[j] != -INFINITY)
        asked[j] = I32(sent)
        x[j] = z if sent | (z != z) else ZERO


@stage
def only(count, y, x, asked):
    """0 for what is not sent, in place; NaN stays."""
    for j in range(count):
        y[j] = y[j] if (asked[j] != 0) | (x[j] != x[j]) else ZERO


@stage
def ask(a, first, count, asked):
    """Which elements the caller asks about."""
    if a[WHERE]:
        where = carray(bytes_at(a[WHERE] + first), (BLOCK,))
        for j in range(count):
            asked[j] = I32(where[j] != 0)


@stage
def take(a, count, active, asked, taken, sent):
    """Which elements are counted; and how many exponents they send, added to sent [1]."""
    for j in range(count):
        taken[j] = active[j] & asked[j]
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
        row[j] = I32(segment + ((bits >> 31) * segments))
        digits[j] = U(code & ((1 << steps) - 1)) if taken[j] != 0 else 0


@stage
def digits_of_codes(count, codes, taken, digits):
    """Those of decode_closed's codes, whose NaN sends nothing."""
    for j in range(count):
        digits[j] = U(I32(codes[j])) if (taken[j] != 0) & (codes[j] > ZERO) else 0


@stage
def count_digits(count, digits, row, groups, words, bytes_of_words, found):
    """The digits added up in found [N * groups * 8], the lowest first; words [N * groups] is empty before and after.

    A byte of a word counts one digit, so one addition counts eight.
    """
    if groups == 2:  # both at once, for the two are neighbours
        for j in range(count):
            place = U(U(row[j]) << 1)
            low, high = SPREAD[digits[j] & 0xFF], SPREAD[U(digits[j] >> 8) & 0xFF]
            words[place] += low
            words[U(place + 1)] += high
    else:
        for group in range(groups):
            shift, stride = U(8 * group), U(groups)
            for j in range(count):
                words[U(U(row[j]) * stride + group)] += SPREAD[U(digits[j] >> shift) & 0xFF]
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
        if taken[j] != 0 and 0 <= time < a[TIME_STEPS]:
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


# Numba compiles an array's making anew for every number that stands in the call, so it stands here


@stage
def floats(count):
    """Room for numbers."""
    return np.empty(count, F)


@stage
def integers(count, value):
    """The same number so many times."""
    made = np.empty(count, I32)
    for i in range(count):
        made[i] = value
    return made


@stage
def longs(count):
    """So many zeros."""
    return np.zeros(count, np.int64)


@cfunc(_SIGNATURE, cache=True, error_model="numpy")
def neuron(arguments, first, last, thread):
    """Elements first .. last - 1 of a call, by one of its threads; ARGUMENTS says what each number stands for."""
    a = carray(arguments, (TABLE + 1,))
    x, y = floats(BLOCK), floats(BLOCK)
    reduced = x if a[KIND] == NONE else floats(BLOCK)
    compared = floats(BLOCK) if a[OCTAVES] or a[MIRRORED] else reduced
    codes, membrane = floats(BLOCK), floats(BLOCK)
    exponent, exponents, bank = integers(BLOCK, 0), integers(BLOCK, 0), integers(BLOCK, 0)
    active, asked, taken = integers(BLOCK, 1), integers(BLOCK, 1), integers(BLOCK, 1)
    form, shared, scores, recorded = a[FORM], a[SHARED], a[SCORES], a[SPIKES] != 0
    slots = a[TIME_STEPS] * a[BASES] + 1 if recorded else a[SLOTS]
    before, limits = integers(CELLS + 1, 0), floats(breakpoints_of(a).size + 1)
    per_bank = I32(a[BASES] // a[BANKS])
    row = bank if per_bank == 1 and form == CLOSED else integers(BLOCK, 0)
    columns, at_step = floats(4 * BLOCK).reshape(4, BLOCK), floats(4 * BLOCK).reshape(4, BLOCK)
    rows = floats(4 * a[BASES]).reshape(a[BASES], 4)
    steps = a[TIME_STEPS] if form == STEPS else 0
    of_steps = floats(4 * steps * a[BASES]).reshape(steps, a[BASES], 4)
    counts = longs(slots) if recorded else carray(int64s(a[COUNTS] + 8 * thread * slots), (slots,))
    by_digits = slots > 1 and form in (IDENTITY, CLOSED)
    digits, slots_of_digits, groups = (
        np.zeros(BLOCK, U),
        a[BASES] if by_digits else 0,
        (a[TIME_STEPS] + 7) // 8,
    )
    words = np.zeros(slots_of_digits * groups, np.uint64)
    found = np.zeros(slots_of_digits * groups * 8, np.uint16)
    bytes_of_words = words.view(np.uint8)
    ends, ends_of_block = integers(2, 0), integers(2, 0)
    clear_ends(ends)
    ranged, limits_of_range, beyond_range = a[CALIBRATED] != 0, floats(4), longs(3)
    if ranged:
        limits_of(a, limits_of_range)
    cells, per_unit, most = 0, ZERO, 0
    if form >= CLOSED:
        cells, per_unit, most = cells_of(a, last - first, before, limits)
        rows_of_bases(a, rows)
    if form == STEPS:
        rows_of_steps(a, of_steps)
    start, until_spread, shifts = first, UNTIL_SPREAD, floats(BLOCK + 1)
    while start < last:
        count = min(last - start, BLOCK)
        read(a, start, count, x)
        if scores:
            row_shifts(a, first, start, count, shifts)
            below(count, x, shifts, asked)
        else:
            ask(a, start, count, asked)
        if ranged:
            clear_ends(ends_of_block)
            update_ends(x, count, ends_of_block)
            count_range(count, x, asked, ends_of_block, limits_of_range, beyond_range)
        elif shared != CHANNEL:
            update_ends(x, count, ends)
        if shared != OWN:
            shared_exponents(a, start, count, exponents)
            shift(count, x, exponents, -1)
        if shared == CHANNEL:  # whose range is that of the scaled input
            update_ends(x, count, ends)
        if form != IDENTITY and a[KIND] != NONE:
            split(a, count, x, reduced, exponent, active)
        elif form == IDENTITY and slots:
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
                if a[OCTAVES] or a[MIRRORED]:
                    magnitudes(a, count, reduced, compared)
                find_banks(count, compared, cells, per_unit, most, before, limits, bank)
                if a[MIRRORED]:
                    mirror(count, reduced, I32(limits.size), bank)
            clear(count, y)
            for place in range(per_bank):
                if per_bank > 1 or form == STEPS:
                    at_place(count, bank, per_bank, I32(place), row)
                look_up(count, rows.ctypes.data, row, columns)
                if form == STEPS:
                    decode_steps(
                        a, count, reduced, row, columns, of_steps, at_step, y, membrane, codes, taken, counts
                    )
                else:
                    decode_closed(a, count, reduced, columns, y, codes)
                    if by_digits:
                        digits_of_codes(count, codes, taken, digits)
                        count_digits(count, digits, row, groups, words, bytes_of_words, found)
            add(count, columns[3], y)
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
    if ranged:
        note_range(a, beyond_range)
        if recorded:
            note_events(a, counts, beyond_range[0])
    else:
        write_ends(ends, carray(float32s(a[ENDS] + 8 * thread), (2,)))


@cfunc(_SIGNATURE, cache=True, error_model="numpy")
def looked_up(arguments, first, last, thread):
    """The same for inputs of 16 bits, all of them asked about, by what ``neuron`` has made of every one, TABLE [2^16]."""
    a = carray(arguments, (TABLE + 1,))
    table = carray(uint16s(a[TABLE]), (1 << 16,))
    x, asked, limits, beyond_range = floats(BLOCK), integers(BLOCK, 1), floats(4), longs(3)
    ends, ends_of_block, ranged = integers(2, 0), integers(2, 0), a[CALIBRATED] != 0
    clear_ends(ends)
    if ranged:
        limits_of(a, limits)
    start = first
    while start < last:
        count = min(last - start, BLOCK)
        given = carray(uint16s(a[INPUT] + 2 * start), (BLOCK,))
        out = carray(uint16s(a[OUTPUT] + 2 * start), (BLOCK,))
        for j in range(count):
            out[j] = table[given[j]]
        ends_of_16_bits(a, count, given, x)
        if ranged:
            clear_ends(ends_of_block)
            update_ends(x, 2, ends_of_block)
            if not is_inside(ends_of_block, limits):
                read(a, start, count, x)
            count_range(count, x, asked, ends_of_block, limits, beyond_range)
        else:
            update_ends(x, 2, ends)
        start += count
    if ranged:
        note_range(a, beyond_range)
    else:
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
