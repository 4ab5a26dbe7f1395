"""How numba compiles our inner loops, and the instructions that it does not offer.

Machine code is kept on disk and renewed when the file of a kernel changes. It is not renewed when this file
changes: whoever edits it deletes the `__pycache__` beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
from llvmlite import ir
from numba import extending
from numba.core import cgutils

_intrinsic: Any = extending.intrinsic  # numba's own types are too narrow for what they return
_njit: Any = nb.njit


def jit(function: Callable[..., Any]) -> Any:
    """Compile on first use; keep the machine code on disk where there is a place to keep it."""
    return _compiled(function, fastmath=False)


def bound(function: Callable[..., Any]) -> Any:
    """As `jit`, for what only bounds a result: its sums may be taken in any order, which is faster."""
    return _compiled(function, fastmath=True)


def _compiled(function: Callable[..., Any], *, fastmath: bool) -> Any:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return _njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written: compile in each process
        return _njit(**options)(function)


def inner(function: Callable[..., Any]) -> Any:
    """Compile as a part of the kernels that call it; without an entry from Python that takes time to compile."""
    return _njit(nogil=True, error_model="numpy", no_cpython_wrapper=True)(function)


@_intrinsic
def popcount(typing_context: Any, value: Any) -> Any:
    """Number of bits set in a uint64: one instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return nb.uint64(nb.uint64), generate


@_intrinsic
def eight_bytes(typing_context: Any, array: Any, offset: Any) -> Any:
    """The bytes array[offset : offset + 8] of a uint8 array as one uint64, unaligned and unchecked; little-endian."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        struct = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(struct.data, [arguments[1]])
        return builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)

    return nb.uint64(array, nb.int64), generate


@_intrinsic
def prefetch(typing_context: Any, array: Any, offset: Any) -> Any:
    """Ask for the cache line of array.flat[offset] ahead of its use; never faults."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        struct = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(struct.data, [arguments[1]]), ir.PointerType(ir.IntType(8)))
        i32 = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer.type], ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        )
        builder.call(function, [pointer, ir.Constant(i32, 0), ir.Constant(i32, 3), ir.Constant(i32, 1)])
        return context.get_dummy_value()

    return nb.void(array, nb.int64), generate


def row_columns(lanes: int, update: bool) -> Any:
    """Make the intrinsic (input_RD, column, ids, start, end, vector_D): one vector register over all rows of a text.

    update False: vector_D[column:] = sum of the rows input_RD[ids[start:end], column:], `lanes` columns of them.
    update True: those columns of each row += vector_D[column:]; an id that occurs twice is added to twice.
    Written in LLVM because the compiler, left alone, keeps a sum over rows in memory: 3 to 4 times the instructions,
    hence fewer loads in flight.
    """

    @_intrinsic
    def rows(typing_context: Any, matrix: Any, column: Any, ids: Any, start: Any, end: Any, vector: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def base(k: int) -> Any:
                return context.make_array(signature.args[k])(context, builder, arguments[k])

            def columns(pointer: Any) -> Any:
                return builder.bitcast(builder.gep(pointer, [arguments[1]]), register.as_pointer())

            register = ir.VectorType(ir.FloatType(), lanes)
            matrix_, ids_, vector_ = base(0), base(2), base(5)
            width = builder.extract_value(matrix_.shape, 1)
            place = columns(vector_.data)
            total = cgutils.alloca_once(builder, register)
            builder.store(builder.load(place, align=4) if update else ir.Constant(register, [0.0] * lanes), total)
            count = builder.sub(arguments[4], arguments[3])
            with cgutils.for_range(builder, count) as loop:
                row = builder.load(builder.gep(ids_.data, [builder.add(arguments[3], loop.index)]))
                row = builder.mul(builder.zext(row, width.type), width)
                cell = columns(builder.gep(matrix_.data, [row]))
                added = builder.fadd(builder.load(cell, align=4), builder.load(total))
                if update:
                    builder.store(added, cell, align=4)
                else:
                    builder.store(added, total)
            if not update:
                builder.store(builder.load(total), place, align=4)
            return context.get_dummy_value()

        return nb.void(matrix, nb.int64, ids, nb.int64, nb.int64, vector), generate

    return rows
