"""What Numba's own language lacks: numbers at an address, the bits of a number, additions that threads share, calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import CellType, FunctionType
from typing import Any
from zlib import crc32

from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

SOURCES = crc32(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))))
SIGNATURE = types.void(types.CPointer(types.int64), types.int64, types.int64, types.int64)
_UNWRAPPED: dict[str, Any] = {
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}  # nothing but kernels calls them
LINE = 64  # bytes that a cache fetches together
stage = njit(error_model="numpy", **_UNWRAPPED)


def kernel(signature: Any = SIGNATURE) -> Callable[[Any], Any]:
    """What compiles a function that others call at its address, kept on the disk until one of these files changes.

    Numba asks for the date of the function's own file only, but also for what the function has closed over: for SOURCES.
    """

    def compiled(function: Any) -> Any:
        code = function.__code__.replace(co_freevars=("sources",))
        closed = FunctionType(code, function.__globals__, function.__name__, None, (CellType(SOURCES),))
        return cfunc(signature, cache=True, error_model="numpy")(closed)

    return compiled


def call_llvm(builder: Any, name: str, result: Any, *args: Any) -> Any:
    """The result of a function of LLVM's."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def repeated(builder: Any, number: Any, times: int) -> Any:
    """A vector of the same number so many times."""
    nothing = ir.Constant(ir.VectorType(number.type, times), ir.Undefined)
    first = ir.Constant(ir.VectorType(ir.IntType(32), times), [0] * times)
    one = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, nothing, first)


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
def address_of(context: Any, numbers: Any) -> Any:
    """Where numbers lie."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], context.get_value_type(types.int64))

    return types.int64(numbers), build


@intrinsic
def clear(context: Any, numbers: Any, count: Any) -> Any:
    """So many zeros."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        bytes_ = builder.mul(args[1], ir.Constant(args[1].type, size))
        cgutils.memset(builder, args[0], bytes_, 0)
        return context.get_dummy_value()

    return types.void(numbers, types.int64), build


@intrinsic
def allocate(context: Any, size: Any) -> Any:
    """The address of room for so many bytes, until ``free``."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(context.nrt.allocate(builder, args[0]), args[0].type)

    return types.int64(types.int64), build


@intrinsic
def free(context: Any, address: Any) -> Any:
    """No more need of what was allocated."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        context.nrt.free(builder, builder.inttoptr(args[0], cgutils.voidptr_t))
        return context.get_dummy_value()

    return types.void(types.int64), build


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


bits_of, float_of = _reread(types.int32), _reread(types.float32)
float32s, int32s, int64s = map(_pointer_to, (types.float32, types.int32, types.int64))
uint32s, uint16s, bytes_at = map(_pointer_to, (types.uint32, types.uint16, types.uint8))
