"""Embeddings as greedy k-centers reads them: checked, taken in chunks, brought into the range of float32 products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import FloatND, IntN
from svp_nlp.errors import SignalError

CHUNK_ROWS = 4096
_UNIT = 2.0**-24  # of float32
_SPREAD_ROWS = 4096
_COMFORTABLE = 2.0**30  # squares of such values, and sums of them, are far from the limits of float32


def take(embeddings_ND: npt.NDArray[Any], positions_B: IntN) -> FloatND:
    """The rows as a contiguous float32 array; without a copy where they are neighbours and are float32 already."""
    first = int(positions_B[0]) if len(positions_B) else 0
    if len(positions_B) and (np.diff(positions_B) == 1).all():
        rows_BD = embeddings_ND[first : first + len(positions_B)]
    else:
        rows_BD = embeddings_ND[positions_B]
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and that is looked for
        return np.ascontiguousarray(rows_BD, dtype=np.float32)


def chunks(positions_R: IntN, rows: int = CHUNK_ROWS) -> Iterator[tuple[slice, IntN]]:
    """Slices of the rows, in order, with their positions."""
    for start in range(0, len(positions_R), rows):
        part = slice(start, min(start + rows, len(positions_R)))
        yield part, positions_R[part]


def check_embeddings(embeddings_ND: npt.NDArray[Any]) -> None:
    """Refuse what is not a matrix of floats.

    Raises:
        SignalError: says the shape and type that were found.
    """
    if embeddings_ND.ndim != 2 or embeddings_ND.shape[1] < 1 or not np.issubdtype(embeddings_ND.dtype, np.floating):
        raise SignalError(
            f"embeddings: expected floats of shape [rows, width >= 1], found {embeddings_ND.dtype} "
            f"{list(embeddings_ND.shape)}; give one vector for each row"
        )


def largest_value(embeddings_ND: npt.NDArray[Any], positions_R: IntN) -> float:
    """The largest absolute value of these rows; reads them once.

    Raises:
        SignalError: a row holds NaN or infinity (in float32); names the first position.
    """
    largest = 0.0
    for _, positions_B in chunks(np.sort(positions_R)):
        rows_BD = take(embeddings_ND, positions_B)
        found = max(float(rows_BD.max()), -float(rows_BD.min()))  # NaN if there is one
        if not np.isfinite(found):
            row = int(np.argmin(np.isfinite(rows_BD).all(axis=1)))
            raise SignalError(
                f"embeddings: position {int(positions_B[row])} holds NaN or infinity (as float32); expected finite "
                "values: look at the proxy that made them, or leave the row out"
            )
        largest = max(largest, found)
    return largest


@dataclass(frozen=True)
class Moments:
    """What the frame depends on, over some of the rows; adds up over ranks.

    Args:
        count: number of rows looked at.
        sum_D: float64 [D], sum of the scaled rows.
        squares: sum of their squared lengths.
    """

    count: float
    sum_D: npt.NDArray[np.float64]
    squares: float


def scale_of(largest: float) -> float:
    """A power of two that brings the largest absolute value into the comfortable range of float32."""
    if largest == 0.0 or 1 / _COMFORTABLE <= largest <= _COMFORTABLE:
        return 1.0
    return float(2.0 ** np.clip(-int(np.frexp(largest)[1]), -126, 126))  # what float32 can hold


def moments(embeddings_ND: npt.NDArray[Any], positions_R: IntN, *, scale: float) -> Moments:
    """Moments of a few thousand rows, evenly spaced; any would do, they decide how tight the bounds are."""
    step = max(1, len(positions_R) // _SPREAD_ROWS)
    rows_BD = take(embeddings_ND, positions_R[::step]).astype(np.float64) * scale
    return Moments(float(len(rows_BD)), rows_BD.sum(axis=0), float(np.einsum("ij,ij->", rows_BD, rows_BD)))


@dataclass(frozen=True)
class Frame:
    """How vectors are scaled and shifted before products, and how far a product can then be off.

    The squared distance d of two raw vectors, times scale**2, and its value v = |x|^2 + |y|^2 - 2 x.y from framed ones
    in float32 differ by at most `square_factor (|x|^2 + |y|^2) + cross_factor |x| |y| + floor`, whatever the order of
    summation: D products and sums of relative error 2**-24 each (Source: Higham 2002, section 3.1), the rounding of the
    frame itself, of the canonical distance, and of what is added to the product; `floor` is for what underflows.
    Norms are those of framed vectors, in float64.
    """

    scale: float
    shift_D: npt.NDArray[np.float32] | None
    square_factor: float
    cross_factor: float
    floor: float

    @property
    def unit(self) -> float:
        """What a raw squared distance is multiplied by: a power of two, so nothing is rounded."""
        return self.scale * self.scale

    @property
    def bound_3(self) -> npt.NDArray[np.float64]:
        """The three numbers of the bound, as the kernels take them."""
        return np.array([self.cross_factor, self.square_factor, self.floor])

    def apply(self, raw_BD: FloatND) -> FloatND:
        """Framed float32 vectors; the raw ones themselves where there is nothing to do."""
        if self.shift_D is None:
            return raw_BD if self.scale == 1.0 else raw_BD * np.float32(self.scale)
        framed_BD: FloatND = raw_BD * np.float32(self.scale) if self.scale != 1.0 else raw_BD
        return np.subtract(framed_BD, self.shift_D, out=None if framed_BD is raw_BD else framed_BD)


def make_frame(found: Moments, *, largest: float, scale: float) -> Frame:
    """Choose the frame: shifted by the mean where this makes the vectors clearly shorter, hence the bounds tighter."""
    width = len(found.sum_D)
    count = max(found.count, 1.0)
    mean_D = found.sum_D / count
    of_mean = float(mean_D @ mean_D)
    spread = max(found.squares / count - of_mean, 0.0)
    shift_D = mean_D.astype(np.float32) if of_mean > 4 * spread else None
    longest = 2.0 * np.sqrt(width) * largest * scale
    return Frame(
        scale, shift_D, square_factor=12 * _UNIT, cross_factor=2.1 * (width + 6) * _UNIT,
        floor=width * 2.0**-118 * (1.0 + longest),
    )  # fmt: skip


def squares(framed_BD: FloatND) -> npt.NDArray[np.float64]:
    """Squared lengths, summed in float64."""
    squares_B: npt.NDArray[np.float64] = np.einsum("ij,ij->i", framed_BD, framed_BD, dtype=np.float64)
    return squares_B
