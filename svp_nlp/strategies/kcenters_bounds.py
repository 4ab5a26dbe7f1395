"""Bounds of the distances of rows to their nearest centre, and exact distances of those where it matters.

A row's bound comes from float32 products with a rigorous error; canonical distances are computed for the rows with the
highest bounds only. Bounds decide what is computed, canonical distances decide the picks.

Shapes: R rows of this process that may be picked, K centres, M some of the rows, D embedding width, B rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import BoolN, FloatN, FloatND, IntN, UIntN
from svp_nlp.strategies.kcenters_kernels import settle, smallest
from svp_nlp.strategies.kcenters_rows import Frame, chunks, squares, take

Doubles: TypeAlias = npt.NDArray[np.float64]

CENTRES_PER_PRODUCT = 512
_ROWS_PER_PRODUCT = 1024
_NO_HASH = np.uint64(2**64 - 1)


class Products(Protocol):
    """Where the products with all rows are made."""

    def smallest(self, centres_KD: FloatND, squares_K: FloatN, crosses_K: FloatN) -> FloatN:
        """min over k of x.centres_k + squares_k + |x| crosses_k for each framed row x; float32 [R].

        In float32, in any order of summation, but nothing narrower than float32.
        """
        ...


MakeProducts: TypeAlias = Callable[[npt.NDArray[Any], IntN, Frame, FloatN], Products]


@dataclass(frozen=True)
class NumpyProducts:
    """Products by the BLAS of numpy; reads the embeddings in chunks at each call."""

    embeddings_ND: npt.NDArray[Any]
    positions_R: IntN
    frame: Frame
    radii_R: FloatN

    def smallest(self, centres_KD: FloatND, squares_K: FloatN, crosses_K: FloatN) -> FloatN:
        """See `Products`."""
        nearest_R = np.full(len(self.positions_R), np.inf, dtype=np.float32)
        buffer = np.empty(min(CENTRES_PER_PRODUCT, len(centres_KD)) * _ROWS_PER_PRODUCT, dtype=np.float32)
        for part, positions_B in chunks(self.positions_R, _ROWS_PER_PRODUCT):
            rows_BD = self.frame.apply(take(self.embeddings_ND, positions_B))
            for start in range(0, len(centres_KD), CENTRES_PER_PRODUCT):
                some = slice(start, start + CENTRES_PER_PRODUCT)
                shape = (len(centres_KD[some]), len(rows_BD))
                products_KB = buffer[: shape[0] * shape[1]].reshape(shape)
                np.matmul(centres_KD[some], rows_BD.T, out=products_KB)
                smallest(products_KB, squares_K[some], crosses_K[some], self.radii_R[part], nearest_R[part])
        return nearest_R


@dataclass(frozen=True)
class Part:
    """The rows of this process. `upper_R` bounds the scaled squared distance to the nearest centre; -1 = picked.

    `exact_R` is that distance to the first `covered_R` centres.
    """

    embeddings_ND: npt.NDArray[Any]
    positions_R: IntN
    hash_R: UIntN
    frame: Frame
    squares_R: Doubles
    radii_R: FloatN
    products: Products
    upper_R: Doubles
    exact_R: Doubles
    covered_R: npt.NDArray[np.int64]


class Centres:
    """The centres so far, in order: positions where their rows are here, vectors where other ranks have rows too."""

    def __init__(self, embeddings_ND: npt.NDArray[Any], *, keep_vectors: bool) -> None:
        self.count = 0
        self._embeddings_ND = embeddings_ND
        self._kept: npt.NDArray[Any] = (
            np.empty((0, embeddings_ND.shape[1]), dtype=np.float32) if keep_vectors else np.empty(0, dtype=np.int64)
        )

    def add(self, raw_KD: FloatND, positions_K: IntN) -> None:
        """Append centres; their positions mean nothing where vectors are kept."""
        new = raw_KD if self._kept.ndim == 2 else positions_K
        if self.count + len(new) > len(self._kept):  # grows by doubling
            grown = np.empty((2 * (self.count + len(new)), *self._kept.shape[1:]), dtype=self._kept.dtype)
            grown[: self.count] = self._kept[: self.count]
            self._kept = grown
        self._kept[self.count : self.count + len(new)] = new
        self.count += len(new)

    def chunks(self, first: int) -> Iterator[tuple[int, FloatND]]:
        """(number of the first, raw vectors) of chunks of the centres from `first` on."""
        for start in range(first, self.count, CENTRES_PER_PRODUCT):
            some = self._kept[start : min(start + CENTRES_PER_PRODUCT, self.count)]
            yield start, some if some.ndim == 2 else take(self._embeddings_ND, some)


def make_part(
    embeddings_ND: npt.NDArray[Any], positions_R: IntN, *, hash_R: UIntN, frame: Frame, make_products: MakeProducts
) -> Part:
    """The rows of this process, before there is any centre: all of them infinitely far."""
    squares_R = np.empty(len(positions_R))
    for some, positions_B in chunks(positions_R):
        squares_R[some] = squares(frame.apply(take(embeddings_ND, positions_B)))
    radii_R = _up(np.sqrt(squares_R))
    return Part(
        embeddings_ND, positions_R, hash_R, frame, squares_R, radii_R,
        make_products(embeddings_ND, positions_R, frame, radii_R),
        np.full(len(positions_R), np.inf), np.full(len(positions_R), np.inf), np.zeros(len(positions_R), np.int64),
    )  # fmt: skip


def renew(part: Part, raw_KD: FloatND, before: int) -> None:
    """Lower the bounds by new centres, of which there were `before`; a value that they surely leave stays exact."""
    frame = part.frame
    framed_KD = frame.apply(raw_KD)
    squares_K = squares(framed_KD)
    radii_K = np.sqrt(squares_K)
    nearest_R = part.products.smallest(
        framed_KD * np.float32(-2),
        _up(squares_K * (1 + frame.square_factor) + frame.floor),
        _up(frame.cross_factor * radii_K),
    )
    upper_R = part.squares_R * (1 + frame.square_factor) + nearest_R
    longest = float(radii_K.max())
    # Twice the error lies between the bounds; a little more for the roundings of this very sum.
    slack_R = frame.square_factor * (part.squares_R + longest**2) + frame.floor
    slack_R += frame.cross_factor * longest * part.radii_R
    still_R = (part.covered_R == before) & (upper_R - 2.5 * slack_R > part.exact_R)
    part.covered_R[still_R] = before + len(raw_KD)
    np.maximum(upper_R, 0.0, out=upper_R)
    upper_R[still_R] = np.inf
    np.minimum(part.upper_R, upper_R, out=part.upper_R)


def _up(values_K: Doubles) -> FloatN:
    """float32 values not below these."""
    return np.nextafter(values_K.astype(np.float32), np.float32(np.inf))


def _farthest(part: Part, size: int) -> tuple[IntN, float, np.uint64]:
    """The `size` rows with the highest (bound, then smallest hash), and bound and hash of the best of the others."""
    left = int(np.count_nonzero(part.upper_R >= 0.0))
    if left <= size:
        return np.flatnonzero(part.upper_R >= 0.0), -1.0, _NO_HASH
    cut = float(np.partition(part.upper_R, len(part.upper_R) - size - 1)[-size - 1])
    above, tied = np.flatnonzero(part.upper_R > cut), np.flatnonzero(part.upper_R == cut)
    missing = size - len(above)
    tied = tied[np.argpartition(part.hash_R[tied], missing)]
    return np.concatenate([above, tied[:missing]]), cut, part.hash_R[tied[missing]]


def _make_exact(part: Part, centres: Centres, rows: IntN) -> None:
    """Replace the bounds of some rows by canonical distances to all centres."""
    rows = rows[part.covered_R[rows] != centres.count]
    rows = rows[np.argsort(part.covered_R[rows], kind="stable")]
    for _, rows_M in chunks(rows, CENTRES_PER_PRODUCT):
        raw_MD = take(part.embeddings_ND, part.positions_R[rows_M])
        framed_MD = part.frame.apply(raw_MD)
        covered_M, value_M = part.covered_R[rows_M], part.exact_R[rows_M]
        for first, raw_KD in centres.chunks(int(covered_M[0])):
            framed_KD = part.frame.apply(raw_KD)
            settle(
                (framed_KD * np.float32(-2)) @ framed_MD.T, raw_KD, raw_MD, squares(framed_KD), part.squares_R[rows_M],
                part.frame.bound_3, part.frame.unit, first, covered_M, part.upper_R[rows_M], value_M,
            )  # fmt: skip
        part.exact_R[rows_M] = part.upper_R[rows_M] = value_M
        part.covered_R[rows_M] = centres.count


def _ahead(value_M: Doubles, hash_M: UIntN, value: float, tie: np.uint64) -> BoolN:
    """Whether these are picked before a row with this value and hash."""
    ahead_M: BoolN = (value_M > value) | ((value_M == value) & (hash_M < tie))
    return ahead_M


def members(part: Part, centres: Centres, size: int) -> tuple[IntN, float, np.uint64]:
    """At most `size` rows of this rank with exact values, best first, all ahead of the rest; bound and hash of that."""
    looked_at = size
    while True:
        rows, value, tie = _farthest(part, looked_at)
        _make_exact(part, centres, rows)
        ahead = rows[_ahead(part.exact_R[rows], part.hash_R[rows], value, tie)]
        if len(ahead) or value < 0.0:
            break
        # Their exact values are all behind the bounds of others. It ends: at the latest all rows are exact.
        looked_at = min(4 * looked_at, len(part.upper_R))
    ahead = ahead[np.lexsort((part.hash_R[ahead], -part.exact_R[ahead]))]
    if len(ahead) > size:
        value, tie = float(part.exact_R[ahead[size]]), part.hash_R[ahead[size]]
    return ahead[:size], value, tie
