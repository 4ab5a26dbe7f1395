"""The inner loops of greedy k-centers, compiled by numba.

Shapes: R rows that may be picked, L labelled rows, K centres, M members of a block, D embedding width.
Machine code is kept on disk and renewed when this file changes.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils as _cgutils

from svp_nlp.compiled import jit

_intrinsic: Any = extending.intrinsic  # numba's own types are too narrow for what they return
cgutils: Any = _cgutils
_LANES = 8
_AHEAD = 8  # rows that are on their way from memory while one is worked on

FREE, PICKED, BEHIND = 0, 1, 2  # what has become of a member of a block


def _distance(typing_context: Any, one: Any, row: Any, other: Any, place: Any) -> Any:
    """The canonical squared distance of one[row] and other[place], rows of float32 matrices of one width; float64.

    It decides all picks, so it must give the same bits everywhere: dimension d is added to lane d mod 8 in the order
    of d, then the lanes are halved by adding the upper half to the lower. No other order, no fused multiply-add. It is
    written in LLVM because numba vectorises no sum without leave to re-order it (6 times slower). Symmetric; relative
    error at most (D + 3) 2**-53.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        narrow, wide = ir.VectorType(ir.FloatType(), _LANES), ir.VectorType(ir.DoubleType(), _LANES)
        arrays = [context.make_array(signature.args[k])(context, builder, arguments[k]) for k in (0, 2)]
        width = builder.extract_value(arrays[0].shape, 1)
        rows = [
            builder.gep(array.data, [builder.mul(arguments[k], width)]) for array, k in zip(arrays, (1, 3), strict=True)
        ]

        def lanes(pointer: Any, column: Any) -> Any:
            place = builder.bitcast(builder.gep(pointer, [column]), narrow.as_pointer())
            return builder.fpext(builder.load(place, align=4), wide)

        def single(pointer: Any, column: Any) -> Any:
            return builder.fpext(builder.load(builder.gep(pointer, [column])), ir.DoubleType())

        total = cgutils.alloca_once(builder, wide)
        builder.store(ir.Constant(wide, [0.0] * _LANES), total)
        shift = ir.Constant(width.type, _LANES.bit_length() - 1)
        whole = builder.lshr(width, shift)
        with cgutils.for_range(builder, whole) as loop:
            column = builder.shl(loop.index, shift)
            gap = builder.fsub(lanes(rows[0], column), lanes(rows[1], column))
            builder.store(builder.fadd(builder.load(total), builder.fmul(gap, gap)), total)
        start = builder.shl(whole, shift)
        with cgutils.for_range(builder, builder.sub(width, start)) as loop:
            column = builder.add(start, loop.index)
            gap = builder.fsub(single(rows[0], column), single(rows[1], column))
            lane, vector = builder.trunc(loop.index, ir.IntType(32)), builder.load(total)
            grown = builder.fadd(builder.extract_element(vector, lane), builder.fmul(gap, gap))
            builder.store(builder.insert_element(vector, grown, lane), total)
        vector = builder.load(total)
        parts = [builder.extract_element(vector, ir.Constant(ir.IntType(32), k)) for k in range(_LANES)]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [builder.fadd(parts[k], parts[k + half]) for k in range(half)]
        return parts[0]

    return nb.float64(one, nb.int64, other, nb.int64), generate


distance: Any = _intrinsic(_distance)


def _fetch(typing_context: Any, matrix: Any, row: Any) -> Any:
    """Ask for matrix[row] of a float32 matrix ahead of its use; never faults."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        width = builder.extract_value(array.shape, 1)
        start = builder.gep(array.data, [builder.mul(arguments[1], width)])
        byte, flag = ir.PointerType(ir.IntType(8)), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        )
        line = ir.Constant(width.type, 16)  # floats of a cache line
        with cgutils.for_range_slice(builder, ir.Constant(width.type, 0), width, line) as (column, _):
            place = builder.bitcast(builder.gep(start, [column]), byte)
            builder.call(function, [place, ir.Constant(flag, 0), ir.Constant(flag, 3), ir.Constant(flag, 1)])
        return context.get_dummy_value()

    return nb.void(matrix, nb.int64), generate


fetch: Any = _intrinsic(_fetch)


@jit
def smallest(products_KB: Any, squares_K: Any, crosses_K: Any, radii_B: Any, out_B: Any) -> None:
    """out_B = min(out_B, min over k of products_KB + squares_K + crosses_K radii_B), all float32."""
    for k in range(len(squares_K)):
        square, cross = squares_K[k], crosses_K[k]
        for i in range(len(out_B)):
            value = products_KB[k, i] + (square + cross * radii_B[i])
            out_B[i] = value if value < out_B[i] else out_B[i]


@jit
def settle(
    products_KM: Any, centres_KD: Any, members_MD: Any, centre_squares_K: Any, member_squares_M: Any, bound_3: Any,
    unit: float, first: int, covered_M: Any, upper_M: Any, value_M: Any,
) -> None:  # fmt: skip
    """Lower value_M to the smallest canonical distance, times `unit`, to some centres, numbered from `first` on.

    Centres whose number is below covered_M are in value_M already; those that are surely farther than what is known
    (the lesser of value_M and upper_M, a bound of the final value) are passed over.
    """
    cross_factor, square_factor, floor = bound_3[0], bound_3[1], bound_3[2]
    for k in range(len(centres_KD)):
        centre_square = centre_squares_K[k]
        centre_radius = np.sqrt(centre_square)
        for i in range(len(members_MD)):
            squares = centre_square + member_squares_M[i]
            slack = square_factor * squares + cross_factor * centre_radius * np.sqrt(member_squares_M[i]) + floor
            known = min(value_M[i], upper_M[i])
            if squares + products_KM[k, i] - slack <= known and first + k >= covered_M[i]:
                value = unit * distance(centres_KD, k, members_MD, i)
                if value < value_M[i]:
                    value_M[i] = value


@jit
def pick_members(
    products_MM: Any, members_MD: Any, squares_M: Any, hash_M: Any, bound_3: Any, unit: float, rest_value: float,
    rest_hash: int, value_M: Any, state_M: Any, covered_M: Any, order_K: Any,
) -> int:  # fmt: skip
    """Greedy k-centers among the members, as long as they are ahead of the best that any other row can be.

    value_M holds exact canonical distances to all centres and stays exact for the FREE ones. A member that has surely
    fallen behind the others (BEHIND) is looked at no more; covered_M says how many of the new centres its value knows.
    Returns the number of picks; their members are in order_K.
    """
    cross_factor, square_factor, floor = bound_3[0], bound_3[1], bound_3[2]
    count = 0
    while count < len(order_K):
        best = -1
        for i in range(len(value_M)):
            if state_M[i] == FREE and (
                best < 0 or value_M[i] > value_M[best] or (value_M[i] == value_M[best] and hash_M[i] < hash_M[best])
            ):
                best = i
        if best < 0 or value_M[best] < rest_value or (value_M[best] == rest_value and hash_M[best] > rest_hash):
            break
        state_M[best] = PICKED
        order_K[count] = best
        radius = np.sqrt(squares_M[best])
        for i in range(len(value_M)):
            if state_M[i] != FREE or value_M[i] == 0.0:
                continue
            squares = squares_M[best] + squares_M[i]
            slack = square_factor * squares + cross_factor * radius * np.sqrt(squares_M[i]) + floor
            about = squares + products_MM[best, i]
            if about - slack > value_M[i]:
                continue
            if about + slack < rest_value:
                state_M[i] = BEHIND
                covered_M[i] = count
                continue
            value_M[i] = min(value_M[i], unit * distance(members_MD, best, members_MD, i))
        count += 1
    for i in range(len(value_M)):
        if state_M[i] == FREE:
            covered_M[i] = count
    return count


@jit
def pick_pruned(
    source_ND: Any, rows_R: Any, hash_R: Any, start_L: Any, budget: int, margin: float, picks_K: Any, pairs_K: Any
) -> int:
    """Greedy k-centers by canonical distances, of which the triangle inequality spares many.

    The rows are kept in the list of their nearest centre with their distance; a list whose farthest row is within half
    of the distance to a new centre cannot change (Source: Elkan 2003, lemma 1), nor can single rows.

    Args:
        start_L: positions of the centres to start from, at least one.
        margin: relative error that the comparison of squared distances allows for.
        picks_K: receives indices into rows_R.
        pairs_K: receives the number of distances computed up to each pick, those between centres left out.
    Returns:
        the number of picks; fewer than `budget` where all others are at distance zero.
    """
    num_rows, num_start = len(rows_R), len(start_L)
    row_P, value_P = np.empty(2 * num_rows, np.int64), np.empty(2 * num_rows, np.float64)
    most = num_start + budget
    centre_C, begin_C, size_C = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    radius_C, farthest_C = np.empty(most, np.float64), np.empty(most, np.int64)
    lists, end, pairs, picked = 0, 0, 0, 0
    for step in range(most):
        if step < num_start:
            centre = start_L[step]
        else:
            best = -1
            for c in range(lists):
                if best < 0 or radius_C[c] > radius_C[best] or (
                    radius_C[c] == radius_C[best] and hash_R[farthest_C[c]] < hash_R[farthest_C[best]]
                ):  # fmt: skip
                    best = c
            if best < 0:
                break
            picks_K[picked] = farthest_C[best]
            pairs_K[picked] = pairs
            picked += 1
            centre = rows_R[farthest_C[best]]
            if picked == budget:
                break
        if end > num_rows:  # what is appended now may be all rows
            end = 0
            for c in range(lists):
                # Lists are in the order of their beginnings: nothing is overwritten before it is read.
                for k in range(size_C[c]):
                    row_P[end + k], value_P[end + k] = row_P[begin_C[c] + k], value_P[begin_C[c] + k]
                begin_C[c] = end
                end += size_C[c]
        begin, radius, farthest = end, -1.0, -1
        kept_lists = 0
        for c in range(lists):
            apart = distance(source_ND, centre, source_ND, centre_C[c])
            size = size_C[c]
            if apart < 4.0 * radius_C[c] * margin:
                kept = begin_C[c]
                new_radius, new_farthest = -1.0, -1
                last = begin_C[c] + size
                for p in range(begin_C[c], last):
                    row, value = row_P[p], value_P[p]
                    ahead = p + _AHEAD
                    if ahead < last and apart < 4.0 * value_P[ahead] * margin:
                        fetch(source_ND, rows_R[row_P[ahead]])
                    if apart < 4.0 * value * margin:
                        pairs += 1
                        other = distance(source_ND, rows_R[row], source_ND, centre)
                        if other < value:
                            if other > 0.0:  # at zero it can be picked by hash only
                                row_P[end], value_P[end] = row, other
                                end += 1
                                if other > radius or (other == radius and hash_R[row] < hash_R[farthest]):
                                    radius, farthest = other, row
                            continue
                    row_P[kept], value_P[kept] = row, value
                    kept += 1
                    if value > new_radius or (value == new_radius and hash_R[row] < hash_R[new_farthest]):
                        new_radius, new_farthest = value, row
                size = kept - begin_C[c]
                radius_C[c], farthest_C[c] = new_radius, new_farthest
            if size > 0:
                centre_C[kept_lists], begin_C[kept_lists], size_C[kept_lists] = centre_C[c], begin_C[c], size
                radius_C[kept_lists], farthest_C[kept_lists] = radius_C[c], farthest_C[c]
                kept_lists += 1
        lists = kept_lists
        if step == 0:
            for row in range(num_rows):
                pairs += 1
                value = distance(source_ND, rows_R[row], source_ND, centre)
                if value > 0.0:
                    row_P[end], value_P[end] = row, value
                    end += 1
                    if value > radius or (value == radius and hash_R[row] < hash_R[farthest]):
                        radius, farthest = value, row
        if end > begin:
            centre_C[lists], begin_C[lists], size_C[lists] = centre, begin, end - begin
            radius_C[lists], farthest_C[lists] = radius, farthest
            lists += 1
    return picked
