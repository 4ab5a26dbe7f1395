"""What makes two rows the same: normalisation, content hashes, duplicates. numpy and pyarrow only.

Shape legend: N pool rows, B rows of one block, K picked, D duplicates.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from svp_nlp.arrays import BoolN, IntN, UIntN
from svp_nlp.errors import PoolError

HASH_BYTES = 16
HashN = npt.NDArray[np.uint8]  # [N, 16]

# What normalise() would change in an ASCII text: white space other than single spaces between words.
_UNCLEAN_ASCII = r"[\t\n\v\f\r\x1c-\x1f]|  |^ | $"
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), dtype=np.uint16)


def normalise(text: str) -> str:
    """NFC, runs of white space to one space, no white space at the ends. Idempotent."""
    # NFC first: it maps some code points to white space (U+2000 to U+2002).
    return " ".join(unicodedata.normalize("NFC", text).split())


def hash_texts(texts_B: pa.LargeStringArray) -> tuple[HashN, BoolN]:
    """blake2b-128 of each normalised text. About 2 microseconds per row, most of it the hash itself.

    Args:
        texts_B: large_string without nulls; a block, because its digests are Python objects for a moment.
    Returns:
        uint8 [B, 16] and bool [B]: nothing is left of the text after normalisation.
    Raises:
        PoolError: bytes that are not UTF-8 (a Parquet file can hold them); names the row in the block.
    """
    # Most rows of most pools need no normalisation: their bytes are hashed where they lie.
    clean_B = pc.and_(
        pc.string_is_ascii(texts_B), pc.invert(pc.match_substring_regex(texts_B, pattern=_UNCLEAN_ASCII))
    ).to_pylist()
    offsets, values = texts_B.buffers()[1:]
    bounds = np.frombuffer(offsets, dtype=np.int64)[texts_B.offset : texts_B.offset + len(texts_B) + 1].tolist()
    data = memoryview(values if values is not None else b"")
    digests: list[bytes] = []
    blank_B = np.zeros(len(texts_B), dtype=bool)
    for row, clean in enumerate(clean_B):
        content: Any = data[bounds[row] : bounds[row + 1]]
        if not clean:
            try:
                content = normalise(str(content, "utf-8")).encode()
            except UnicodeDecodeError as error:
                raise PoolError(f"row {row}: the text is not UTF-8 (byte {error.start} of it)") from None
        blank_B[row] = len(content) == 0
        digests.append(hashlib.blake2b(content, digest_size=HASH_BYTES).digest())
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, HASH_BYTES), blank_B


def hash_strings(strings_B: pa.LargeStringArray) -> HashN:
    """blake2b-128 of each string as it is: the ids of a user's id column. uint8 [B, 16]."""
    digests = [hashlib.blake2b(s.encode(), digest_size=HASH_BYTES).digest() for s in strings_B.to_pylist()]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, HASH_BYTES)


def keys_of(hashes_N: HashN) -> UIntN:
    """The first 8 bytes of each hash as uint64 (little-endian on every machine); a view, nothing is copied."""
    return hashes_N.view("<u8")[:, 0]


def hex_ids(hashes_K: HashN) -> pa.LargeStringArray:
    """Hashes as 32 hex characters each. Built as one Arrow buffer: a million ids take about 0.1 s."""
    rows = len(hashes_K)
    characters = np.ascontiguousarray(_HEX[hashes_K])
    offsets = np.arange(rows + 1, dtype=np.int64) * (2 * HASH_BYTES)
    return pa.LargeStringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(characters))


def find_duplicates(hashes_N: HashN, ignore_N: BoolN) -> IntN:
    """Rows whose content occurs at an earlier row. O(N log N) time, about 30 bytes per row.

    Args:
        hashes_N: uint8 [N, 16].
        ignore_N: rows that take no part (blank ones).
    Returns:
        int64 [D, 2]: (position, position of the first row with this content), sorted by position.
    """
    halves_N = hashes_N.view("<u8")
    rows = np.flatnonzero(~ignore_N)
    order = rows[np.argsort(halves_N[rows, 0], kind="stable")]
    same = halves_N[order[1:], 0] == halves_N[order[:-1], 0]
    touched = np.zeros(len(order), dtype=bool)
    touched[1:] |= same
    touched[:-1] |= same
    # Only rows that share their first half are looked at in full; those are few.
    order = order[touched]
    order = order[np.lexsort((order, halves_N[order, 1], halves_N[order, 0]))]
    if len(order) == 0:
        return np.empty((0, 2), dtype=np.int64)
    starts_run = np.ones(len(order), dtype=bool)
    starts_run[1:] = (halves_N[order[1:]] != halves_N[order[:-1]]).any(axis=1)
    first = order[np.flatnonzero(starts_run)[np.cumsum(starts_run) - 1]]
    pairs = np.stack([order, first], axis=1)[~starts_run].astype(np.int64)
    return np.asarray(pairs[np.argsort(pairs[:, 0], kind="stable")])
