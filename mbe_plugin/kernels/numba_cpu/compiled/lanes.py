"""Sixteen numbers at once, as a register of AVX-512 holds them: expressions in Python that build LLVM's instructions.

A compiler does not see that a table of 64 numbers fits into four registers, out of which one instruction fetches sixteen;
so the loops that look things up are spelled out with these. No fast-math, no contraction, as everywhere.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import config

from mbe_plugin.kernels.numba_cpu.compiled.machine import call_llvm, repeated

WIDTH = 16
NUMBER, INDEX, WORD = ir.FloatType(), ir.IntType(32), ir.IntType(64)
NUMBERS, INDICES = ir.VectorType(NUMBER, WIDTH), ir.VectorType(INDEX, WIDTH)


def available() -> bool:
    """Whether Numba compiles for a processor with AVX-512."""
    name, features = (getattr(config, setting) for setting in ("CPU_NAME", "CPU_FEATURES"))
    if name or features:
        return "+avx512f" in (features or "").split(",")
    try:
        found = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know such a processor's
        return False
    return bool(found.get("avx512f"))


class Lanes:
    """Sixteen float32, int32 or truth values."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _as_value(self, other: Lanes | float) -> Any:
        if isinstance(other, Lanes):
            return other.value
        kind = self.value.type
        return ir.Constant(kind, [ir.Constant(kind.element, other)] * WIDTH)

    def _by(self, instruction: str, other: Lanes | float) -> Lanes:
        return Lanes(self.builder, getattr(self.builder, instruction)(self.value, self._as_value(other)))

    def _float(self) -> bool:
        return self.value.type == NUMBERS

    def __add__(self, other: Lanes | float) -> Lanes:
        return self._by("fadd" if self._float() else "add", other)

    def __sub__(self, other: Lanes | float) -> Lanes:
        return self._by("fsub" if self._float() else "sub", other)

    def __mul__(self, other: Lanes | float) -> Lanes:
        return self._by("fmul", other)

    def __and__(self, other: Lanes | int) -> Lanes:
        return self._by("and_", other)

    def __or__(self, other: Lanes | int) -> Lanes:
        return self._by("or_", other)

    def __rshift__(self, other: Lanes | int) -> Lanes:
        """Bits moved in are 0."""
        return self._by("lshr", other)

    def __invert__(self) -> Lanes:
        return Lanes(self.builder, self.builder.not_(self.value))

    def _compared(self, sign: str, other: Lanes | float) -> Lanes:
        """By value; false where one is NaN."""
        compare = self.builder.fcmp_ordered if self._float() else self.builder.icmp_signed
        return Lanes(self.builder, compare(sign, self.value, self._as_value(other)))

    def __lt__(self, other: Lanes | float) -> Lanes:
        return self._compared("<", other)

    def __gt__(self, other: Lanes | float) -> Lanes:
        return self._compared(">", other)

    def __ge__(self, other: Lanes | float) -> Lanes:
        return self._compared(">=", other)

    def __le__(self, other: Lanes | float) -> Lanes:
        return self._compared("<=", other)

    def is_zero(self) -> Lanes:
        """Where whole numbers are 0."""
        return self._compared("==", 0)

    def is_nan(self) -> Lanes:
        """Where numbers are NaN."""
        return Lanes(self.builder, self.builder.fcmp_unordered("uno", self.value, self.value))

    def where(self, truth: Lanes, other: Lanes | float) -> Lanes:
        """These where it holds, the others elsewhere."""
        return Lanes(self.builder, self.builder.select(truth.value, self.value, self._as_value(other)))

    def at_least(self, low: Lanes | float) -> Lanes:
        """The larger of both; the other one where this is NaN."""
        return self.where(self > low, Lanes(self.builder, self._as_value(low)))

    def at_most(self, high: Lanes | float) -> Lanes:
        """The smaller of both; the other one where this is NaN."""
        return self.where(self < high, Lanes(self.builder, self._as_value(high)))

    def floor(self) -> Lanes:
        """The whole numbers at or below these."""
        return Lanes(self.builder, call_llvm(self.builder, "llvm.floor.v16f32", NUMBERS, self.value))

    def times_two_to(self, exponents: Lanes) -> Lanes:
        """These times 2^exponents, which are whole float32 numbers; rounded once."""
        every_lane, as_told = ir.Constant(ir.IntType(WIDTH), -1), ir.Constant(INDEX, 4)
        args = self.value, exponents.value, self.value, every_lane, as_told
        return Lanes(
            self.builder, call_llvm(self.builder, "llvm.x86.avx512.mask.scalef.ps.512", NUMBERS, *args)
        )

    def bits(self) -> Lanes:
        """The int32 numbers that have the same bits."""
        return Lanes(self.builder, self.builder.bitcast(self.value, INDICES))

    def numbers(self) -> Lanes:
        """The float32 numbers that have the same bits."""
        return Lanes(self.builder, self.builder.bitcast(self.value, NUMBERS))

    def whole(self) -> Lanes:
        """Whole float32 numbers as int32."""
        return Lanes(self.builder, self.builder.fptosi(self.value, INDICES))

    def any(self) -> Any:
        """Whether some truth value holds."""
        return self.builder.icmp_unsigned("!=", self._mask(), ir.Constant(ir.IntType(WIDTH), 0))

    def count(self) -> Any:
        """How many truth values hold."""
        return self.builder.zext(
            call_llvm(self.builder, "llvm.ctpop.i16", ir.IntType(WIDTH), self._mask()), WORD
        )

    def _mask(self) -> Any:
        return self.builder.bitcast(self.value, ir.IntType(WIDTH))

    def store(self, address: Any) -> None:
        """Write them to an address."""
        self.builder.store(self.value, self.builder.inttoptr(address, self.value.type.as_pointer()), align=4)


class Table:
    """Up to 64 numbers of a table at an address, in registers."""

    def __init__(self, builder: Any, address: Any, first: int, size: int) -> None:
        self.builder = builder
        at = [
            builder.add(address, ir.Constant(WORD, 4 * place)) for place in range(first, first + size, WIDTH)
        ]
        self.parts = [load(builder, place) for place in at]

    def __getitem__(self, index: Lanes) -> Lanes:
        """The numbers at these places, of which as many bits count as the table's size asks for."""
        parts = [part.value for part in self.parts]
        if len(parts) == 1:
            name, operands = "llvm.x86.avx512.permvar.sf.512", [[parts[0], index.value]]
        else:
            name = "llvm.x86.avx512.vpermi2var.ps.512"
            operands = [[a, index.value, b] for a, b in zip(parts[::2], parts[1::2], strict=True)]
        found = [Lanes(self.builder, call_llvm(self.builder, name, NUMBERS, *some)) for some in operands]
        return found[0] if len(found) == 1 else found[0].where((index & 2 * WIDTH).is_zero(), found[1])


def load(builder: Any, address: Any) -> Lanes:
    """The float32 numbers at an address."""
    return Lanes(builder, builder.load(builder.inttoptr(address, NUMBERS.as_pointer()), align=4))


def every(builder: Any, number: Any) -> Lanes:
    """The same number sixteen times; of Python's: an int32 constant."""
    if isinstance(number, int):
        return Lanes(builder, ir.Constant(INDICES, [number] * WIDTH))
    return Lanes(builder, repeated(builder, number, WIDTH))


def places(builder: Any) -> Lanes:
    """0 to 15."""
    return Lanes(builder, ir.Constant(INDICES, list(range(WIDTH))))
