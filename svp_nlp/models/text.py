"""Characters as the input of a torch model: the table of the VDCNN paper, encoded once over Arrow buffers.

Encoding is `bytes.translate` over the UTF-8 of a whole block of texts: one table look-up per byte in C, no Python
object per character. Codes stay in Arrow (one uint8 per character), so an epoch costs one copy per batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from svp_nlp.arrays import IntN
from svp_nlp.errors import PoolError

Padding: TypeAlias = Literal["fixed", "bucket"]

UNKNOWN = 1  # 0 fills texts up
# The circumflex of this table is U+02C6, as in the authors' code, so ASCII `^` is unknown; so are `@` and `\`.
SYMBOLS = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/|_#$%\u02c6&*~`+=<>()[]{} "
VOCABULARY_SIZE = 2 + len(SYMBOLS)
PAPER_LENGTH = 1014

_CIRCUMFLEX = "\u02c6".encode()
_CIRCUMFLEX_CODE = 2 + SYMBOLS.index("\u02c6")
_CONTINUATION = bytes(range(0x80, 0xC0))  # every UTF-8 character is one byte outside of this range, then 0 to 3 inside
_LONGEST_CHARACTER = 4
_ROWS_PER_BLOCK = 4096  # about 4 MB of reviews: the block and its codes stay in the cache


def _byte_table() -> bytes:
    table = bytearray([UNKNOWN]) * 256
    for code, symbol in enumerate(SYMBOLS, start=2):
        if symbol.isascii():
            table[ord(symbol)] = code
            table[ord(symbol.upper())] = code
    return bytes(table)


_TABLE = _byte_table()


def _blocks(texts: pa.ChunkedArray | pa.Array) -> Iterator[pa.Array]:
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        if not (pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type)):
            chunk = chunk.cast(pa.large_string())  # dictionary, string_view
        for start in range(0, len(chunk), _ROWS_PER_BLOCK):
            yield chunk.slice(start, _ROWS_PER_BLOCK)


def _check(texts: pa.ChunkedArray | pa.Array) -> None:
    value_type = texts.type.value_type if pa.types.is_dictionary(texts.type) else texts.type
    if not (
        pa.types.is_string(value_type) or pa.types.is_large_string(value_type) or pa.types.is_string_view(value_type)
    ):
        raise PoolError(f"texts are {texts.type}; expected strings: name a text column in the recipe")
    if texts.null_count:
        row = int(np.argmax(np.asarray(texts.is_null())))
        raise PoolError(f"text {row} of this batch is null ({texts.null_count:,} in all); leave such rows out")


def _text_buffers(block: pa.Array) -> tuple[memoryview, IntN]:
    """The bytes of all rows and the offsets [rows + 1] into them, with the array's own offset taken into account."""
    _, offsets, data = block.buffers()
    dtype = np.int64 if pa.types.is_large_string(block.type) else np.int32
    offsets_N = np.frombuffer(
        offsets, dtype=dtype, count=len(block) + 1, offset=block.offset * np.dtype(dtype).itemsize
    )
    return memoryview(data if data is not None else b""), offsets_N.astype(np.int64)


def _cut(data: memoryview, offsets_N: IntN, limit: int) -> tuple[memoryview, IntN]:
    """Keep at most `limit` bytes of each row; rows end up back to back, starting at 0. No copy when none is longer."""
    starts_N, sizes_N = offsets_N[:-1], np.diff(offsets_N)
    if sizes_N.max(initial=0) <= limit:
        return data[offsets_N[0] : offsets_N[-1]], offsets_N - offsets_N[0]
    sizes_N = np.minimum(sizes_N, limit)
    rows = zip(starts_N.tolist(), (starts_N + sizes_N).tolist(), strict=True)
    cut = b"".join([data[start:stop] for start, stop in rows])
    return memoryview(cut), np.concatenate(([0], np.cumsum(sizes_N)))


def _encode_block(block: pa.Array, max_length: int) -> tuple[memoryview, IntN]:
    # A character is at most 4 bytes, so this cut keeps `max_length` whole characters, and a 10 MB text costs what a
    # long one does. It may split the character after those: that one is cut off below.
    view, offsets_N = _cut(*_text_buffers(block), _LONGEST_CHARACTER * max_length)
    text = bytes(view)
    if text.isascii():
        return _cut(memoryview(text.translate(_TABLE)), offsets_N, max_length)
    codes = bytearray(text.translate(_TABLE, _CONTINUATION))
    bytes_ = np.frombuffer(text, dtype=np.uint8)
    deleted = np.flatnonzero((bytes_ & 0xC0) == 0x80)
    if _CIRCUMFLEX in text:
        lead = np.flatnonzero((bytes_[:-1] == _CIRCUMFLEX[0]) & (bytes_[1:] == _CIRCUMFLEX[1]))
        np.frombuffer(codes, dtype=np.uint8)[lead - np.searchsorted(deleted, lead)] = _CIRCUMFLEX_CODE
    return _cut(memoryview(codes), offsets_N - np.searchsorted(deleted, offsets_N), max_length)


def encode_characters(texts: pa.ChunkedArray | pa.Array, *, max_length: int) -> pa.LargeBinaryArray:
    """One uint8 code per character: 1 = unknown, 2 to 68 = `SYMBOLS`; ASCII letters are lower-cased first.

    Only the first 4 * max_length bytes of a text are touched.

    Args:
        texts: strings without nulls, of any Arrow string type, any chunks and offsets.
        max_length: characters (Unicode code points) kept of each text, from its start.
    Returns:
        large_binary [N]; row i holds min(characters, max_length) bytes.
    Raises:
        PoolError: not strings, or a null; names the first such row.
    Source: Zhang et al. 2015, section 2.2, as coded by Coleman et al. 2020, which lower-cases all of Unicode.
    """
    _check(texts)
    offsets_N = np.zeros(len(texts) + 1, dtype=np.int64)
    pieces, row, end = [], 0, 0
    for block in _blocks(texts):
        codes, block_offsets_N = _encode_block(block, max_length)
        pieces.append(codes)
        offsets_N[row + 1 : row + len(block) + 1] = block_offsets_N[1:] + end
        row += len(block)
        end += len(codes)
    buffers = [None, pa.py_buffer(offsets_N), pa.py_buffer(b"".join(pieces))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(texts), buffers)


def bucket_width(length: int) -> int:
    """`length` rounded up to a multiple of 16, above 256 of an eighth of the power of two below.

    At most an eighth is filling, and there are only 30 widths up to 1024: kernels are prepared once for each.
    """
    step = 1 << max(4, max(length - 1, 0).bit_length() - 4)
    return -(-length // step) * step


class CharacterExamples:
    """Encoded texts as batches of codes; satisfies `training.Examples`.

    `padding="fixed"` fills every text up to `max_length`, as the paper does. `"bucket"` fills a batch up to the width
    (`bucket_width`) of its longest text, and `lengths_N` asks for batches of rows of similar length. The two are not
    the same to a network that does not mask: it sees the filling as text. In a fixed batch the statistics of batch
    norm are mostly those of filling where texts are short, and a k-max pooling finds 8 places in it that look alike;
    in a bucket batch hardly any is left, but the rows of one step are alike in length.
    """

    def __init__(
        self,
        codes: pa.LargeBinaryArray,
        *,
        max_length: int,
        padding: Padding,
        min_length: int = 1,
    ) -> None:
        """Codes are kept as they are, in Arrow.

        Args:
            codes: what `encode_characters` returned for the same `max_length`.
            max_length: width of a fixed batch and the widest of a bucket batch.
            padding: see the class.
            min_length: narrowest batch that the network can take.
        """
        assert pa.types.is_large_binary(codes.type) and codes.null_count == 0 and 1 <= min_length <= max_length
        _, offsets, data = codes.buffers()
        self._data = np.frombuffer(data if data is not None else b"", dtype=np.uint8)
        self._offsets_N = np.frombuffer(offsets, dtype=np.int64, count=len(codes) + 1, offset=8 * codes.offset)
        self._codes = codes  # owns the memory of the two views
        self._max_length, self._min_length, self._padding = max_length, min_length, padding
        self.lengths_N: IntN | None = np.diff(self._offsets_N) if padding == "bucket" else None

    def __len__(self) -> int:
        return len(self._codes)

    def width(self, longest: int) -> int:
        """How wide a batch is whose longest text has `longest` characters."""
        if self._padding == "fixed":
            return self._max_length
        return min(max(bucket_width(longest), self._min_length), self._max_length)

    def by_width(self) -> Iterator[tuple[IntN, CharacterExamples]]:
        """Rows of one width at a time, as (their positions, examples of them), narrowest first.

        Batches of such examples are as wide as each of their rows would be alone, so what a network makes of a text
        does not depend on the texts beside it.
        """
        widths_N = np.array([self.width(length) for length in np.diff(self._offsets_N).tolist()], dtype=np.int64)
        for width in np.unique(widths_N):
            rows_K = np.flatnonzero(widths_N == width)
            yield (
                rows_K,
                CharacterExamples(
                    self._codes.take(pa.array(rows_K)),
                    max_length=self._max_length,
                    padding=self._padding,
                    min_length=self._min_length,
                ),
            )

    def collate(
        self, rows_B: npt.NDArray[np.integer[Any]], *, rng: np.random.Generator | None
    ) -> dict[str, torch.Tensor]:
        """Codes of some rows, filled up with 0.

        Args:
            rows_B: positions in these examples, in any order, repetitions allowed.
            rng: not used: characters are not augmented.
        Returns:
            {"codes_BL": uint8 [B, width]}.
        """
        rows_B = np.asarray(rows_B)
        starts_B, stops_B = self._offsets_N[rows_B], self._offsets_N[rows_B + 1]
        codes_BL = np.zeros((len(rows_B), self.width(int((stops_B - starts_B).max(initial=0)))), dtype=np.uint8)
        # A slice per row is a memcpy; one fancy index over all characters took 2.5 times as long on reviews.
        for row, (start, stop) in enumerate(zip(starts_B.tolist(), stops_B.tolist(), strict=True)):
            codes_BL[row, : stop - start] = self._data[start:stop]
        return {"codes_BL": torch.from_numpy(codes_BL)}


def character_examples(
    texts: pa.ChunkedArray | pa.Array, *, max_length: int, padding: Padding, min_length: int = 1
) -> CharacterExamples:
    """`encode_characters`, then `CharacterExamples`; the arguments are theirs."""
    codes = encode_characters(texts, max_length=max_length)
    return CharacterExamples(codes, max_length=max_length, padding=padding, min_length=min_length)
