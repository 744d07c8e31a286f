"""Loops over sixteen elements at a time in registers, for the neurons that nearly all elements of a network come to.

They are the identity, a closed form of up to 64 banks of one basis as it is, and that of 2^x on a softmax's scores.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mbe_plugin.kernels.numba_cpu.compiled.lanes import (
    INDEX,
    NUMBER,
    WIDTH,
    WORD,
    Lanes,
    Table,
    every,
    load,
    places,
)
from mbe_plugin.kernels.numba_cpu.compiled.numbers import LARGEST
from mbe_plugin.kernels.numba_cpu.compiled.scores import DEEPEST, LOG2_E

# a neuron's table: break points by level of a search by halves, 16 or more for each; offsets, gains, weights and
# constants of each bank; what each level adds to a bank's place; and single numbers
LEVELS, MOST_BANKS = 6, 64
LIMITS = (0, 16, 32, 48, 64, 80)
COLUMNS = 112
LEVEL_STEPS = COLUMNS + 4 * MOST_BANKS
TOP, LOW, HIGH, LEAST, MOST, SHIFT, KEPT, MIDDLE, SEGMENTS, DROPPED, STEPS_SENT, DIGITS = range(
    LEVEL_STEPS + LEVELS, LEVEL_STEPS + LEVELS + 12
)
TABLE_SIZE = DIGITS + 1
# what is found out of a call: int64
ASKED, UNCALIBRATED, INACCURATE, NANS = range(4)
EXPONENT_FIELD = 0x7F800000


class Loop:
    """A block's elements, WIDTH at a time: their inputs, and what is done with them besides."""

    def __init__(self, builder: Any, args: Any) -> None:
        self.builder = builder
        names = "count valid x y table digits rows found sent ends counted ranged".split()
        self.told = dict(zip(names, args, strict=True))
        numbers = {"low": LOW, "high": HIGH, "least": LEAST, "most": MOST}
        self.limits = {name: self.number(place) for name, place in numbers.items()}
        self.valid = every(builder, builder.trunc(self.told["valid"], INDEX))

    def number(self, place: int, kind: Any = NUMBER) -> Lanes:
        """One of the table's single numbers."""
        at = self.builder.add(self.told["table"], ir.Constant(WORD, 4 * place))
        return every(self.builder, self.builder.load(self.builder.inttoptr(at, kind.as_pointer()), align=4))

    @contextmanager
    def inputs(self) -> Any:
        """Its body, given sixteen inputs."""
        zero, step = ir.Constant(WORD, 0), ir.Constant(WORD, WIDTH)
        with cgutils.for_range_slice(self.builder, zero, self.told["count"], step, WORD) as (j, _):
            self.first = j
            yield load(self.builder, self._at("x"))

    def _at(self, name: str) -> Any:
        return self.builder.add(self.told[name], self.builder.shl(self.first, ir.Constant(WORD, 2)))

    def write(self, y: Lanes) -> None:
        """Their outputs."""
        y.store(self._at("y"))

    @contextmanager
    def if_counted(self) -> Any:
        """What is done only where events are counted."""
        with self.builder.if_then(cgutils.is_not_null(self.builder, self.told["counted"])):
            yield

    def count(self, digits: Lanes, rows: Lanes) -> None:
        """Their spikes."""
        digits.store(self._at("digits"))
        rows.store(self._at("rows"))

    def count_sent(self, taken: Lanes) -> None:
        """Which of them send one."""
        self._add(self.told["sent"], (taken & self._are_there()).count())

    def _are_there(self) -> Lanes:
        place = every(self.builder, self.builder.trunc(self.first, INDEX)) + places(self.builder)
        return place < self.valid

    def _add(self, address: Any, number: Any) -> None:
        at = self.builder.inttoptr(address, WORD.as_pointer())
        self.builder.store(self.builder.add(self.builder.load(at), number), at)

    def note_ends(self, x: Lanes) -> None:
        """The least and the largest so far, where no range is known."""
        with self.builder.if_then(cgutils.is_null(self.builder, self.told["ranged"])):
            low, high = self.told["ends"], self.builder.add(self.told["ends"], ir.Constant(WORD, 4 * WIDTH))
            x.at_most(load(self.builder, low)).store(low)
            x.at_least(load(self.builder, high)).store(high)

    @contextmanager
    def if_any_outside(self, x: Lanes, asked: Lanes | None = None) -> Any:
        """Count those beyond the range, of those asked about; and what else is to be done if there are some."""
        outside = ~((x >= self.limits["low"]) & (x <= self.limits["high"]))
        outside = outside if asked is None else outside & asked
        with self.builder.if_then(outside.any(), likely=False):
            there = self._are_there() if asked is None else self._are_there() & asked
            worse = ~((x >= self.limits["least"]) & (x <= self.limits["most"]))
            for place, truth in ((UNCALIBRATED, outside), (INACCURATE, worse), (NANS, x.is_nan())):
                at = self.builder.add(self.told["found"], ir.Constant(WORD, 8 * place))
                self._add(at, (truth & there).count())
            yield


class Banks:
    """A neuron's banks of one basis, in registers."""

    def __init__(self, loop: Loop) -> None:
        builder, table = loop.builder, loop.told["table"]
        self.builder = builder
        self.limits = [Table(builder, table, at, max(WIDTH, 1 << level)) for level, at in enumerate(LIMITS)]
        self.columns = [Table(builder, table, COLUMNS + MOST_BANKS * at, MOST_BANKS) for at in range(4)]
        # numbers that the compiler does not know, so that it adds them under a mask
        self.steps = [loop.number(LEVEL_STEPS + level, INDEX) for level in range(LEVELS)]
        self.top = loop.number(TOP)

    def decode(self, x: Lanes) -> tuple[Lanes, Lanes, Lanes]:
        """closed.decode: the value, and the code and the place of the basis that sends it."""
        place = every(self.builder, 0)
        for level, (limits, step) in enumerate(zip(self.limits, self.steps, strict=True)):
            limit = limits[place] if level else limits.parts[0]
            place = (place + step).where(x >= limit, place)
        offset, gain, weight, bias = (column[place] for column in self.columns)
        code = ((x - offset) * gain).floor().at_least(0.0).at_most(self.top)
        return code * weight + bias, code, place


def _kernel(build: Callable[[Loop], None]) -> Any:
    """The intrinsic whose instructions are these."""

    @intrinsic
    def run(
        context: Any, count: Any, valid: Any, x: Any, y: Any, table: Any, digits: Any, rows: Any, found: Any,
        sent: Any, ends: Any, counted: Any, ranged: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            build(Loop(builder, args))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), generate

    return run


def _as_it_is(loop: Loop) -> None:
    """A closed form of its inputs."""
    banks = Banks(loop)
    with loop.inputs() as x:
        y, code, place = banks.decode(x)
        loop.write(y)
        loop.note_ends(x)
        with loop.if_counted():
            loop.count(code.whole(), place)
        with loop.if_any_outside(x):
            loop.write(y + x * 0.0)  # infinity and NaN read NaN


def _scores(loop: Loop) -> None:
    """2^x of a row's scores: 0 for what is masked or too small; operators.softmax's numerators."""
    banks = Banks(loop)
    shift = loop.number(SHIFT)
    with loop.inputs() as x:
        z = (x * float(LOG2_E)).at_least(float(-LARGEST)) - shift
        sent = (z > float(DEEPEST)) & (x > float("-inf"))
        z = z.where(sent, 0.0)
        whole = z.floor()
        y, code, place = banks.decode(z - whole)
        loop.write(y.times_two_to(whole).where(sent, 0.0))
        loop.count_sent(sent)
        with loop.if_counted():
            loop.count(code.whole().where(sent, 0), place)
        with loop.if_any_outside(z, sent):
            pass


def _identity(loop: Loop) -> None:
    """closed.encode_identity."""
    kept, middle, segments = (loop.number(at, INDEX) for at in (KEPT, MIDDLE, SEGMENTS))
    dropped, steps, digits = (loop.number(at, INDEX) for at in (DROPPED, STEPS_SENT, DIGITS))
    with loop.inputs() as x:
        bits = x.bits()
        field = bits & EXPONENT_FIELD
        coded = ((bits & kept) | middle).where(~field.is_zero(), bits & -(1 << 31))
        loop.write(coded.numbers())
        loop.note_ends(x)
        with loop.if_counted():
            sent = ~field.is_zero() & (field < EXPONENT_FIELD)
            code = (bits & 0x7FFFFFFF) >> dropped
            sign = every(loop.builder, 0).where(bits >= 0, segments)
            loop.count((code & digits).where(sent, 0), ((code >> steps) & (segments - 1)) + sign)
            loop.count_sent(sent)
        with loop.if_any_outside(x):
            loop.write(coded.where(field < EXPONENT_FIELD, bits).numbers())


run_as_it_is, run_scores, run_identity = map(_kernel, (_as_it_is, _scores, _identity))


@intrinsic
def largest_of(context: Any, x: Any, count: Any, partial: Any) -> Any:
    """Whether there is a NaN among so many numbers, a multiple of WIDTH; partial [WIDTH] has the largest of each lane."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, count, partial = args
        largest = cgutils.alloca_once_value(builder, load(builder, partial).value)
        no = ir.Constant(ir.VectorType(ir.IntType(1), WIDTH), [0] * WIDTH)
        nan = cgutils.alloca_once_value(builder, no)
        zero, step = ir.Constant(WORD, 0), ir.Constant(WORD, WIDTH)
        with cgutils.for_range_slice(builder, zero, count, step, WORD) as (j, _):
            found = load(builder, builder.add(x, builder.shl(j, ir.Constant(WORD, 2))))
            builder.store(found.at_least(Lanes(builder, builder.load(largest))).value, largest)
            builder.store(builder.or_(builder.load(nan), found.is_nan().value), nan)
        Lanes(builder, builder.load(largest)).store(partial)
        return Lanes(builder, builder.load(nan)).any()

    return types.boolean(*[types.int64] * 3), build
