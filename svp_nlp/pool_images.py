"""Image columns of a pool: encoded bytes where the rows lie, or in files that they name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from svp_nlp.arrays import BoolN, IntK, IntN
from svp_nlp.content import HASH_BYTES, HashN
from svp_nlp.errors import PoolError
from svp_nlp.rows import Rows, runs

BLACK = b"P6 1 1 255\n\0\0\0"  # an image of one black pixel

_BYTES, _PATH = "bytes", "path"  # the fields of a `datasets.Image` in Arrow


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type can be images: that of `datasets.Image`, or encoded bytes."""
    if pa.types.is_struct(kind):
        return {_BYTES, _PATH} <= {kind.field(number).name for number in range(kind.num_fields)}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read_image(value: pa.Scalar) -> bytes:
    """The encoded bytes (PNG, JPEG, ...) of one value of an image column; empty where there is none.

    An image folder has a path in place of bytes; that file is read now.

    Raises:
        PoolError: the file cannot be read.
    """
    found = value.as_py()
    if not isinstance(found, dict):
        return found or b""
    data, path = found[_BYTES], found[_PATH]
    if data is not None or not path:
        return data or b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise PoolError(f"{path}: the image cannot be read ({error.strerror}); put the file back") from None


class Images:
    """The image column of a pool, taken apart without copying or reading an image: half of ImageNet is 70 GB."""

    def __init__(self, rows: Rows, column: str) -> None:
        self._rows = rows
        blocks = rows.column(column).chunks
        self.type: pa.DataType = blocks[0].type
        if any(_names_files(block) for block in blocks):
            black = pa.array([{_BYTES: BLACK, _PATH: None}], self.type)
        else:
            self.type, black = pa.large_binary(), pa.array([BLACK], pa.large_binary())
            blocks = [_bytes(block).cast(self.type) for block in blocks]  # from binary this copies the offsets
        self._blocks = [*blocks, black]

    def take(self, positions_K: IntK, blank: IntN) -> pa.ChunkedArray:
        """Images in the order given, a chunk for each run of consecutive positions.

        Args:
            positions_K: which.
            blank: positions without an image, which get `BLACK`.
        """
        block_K, row_K = self._rows.locate(positions_K)
        blank_K = np.isin(positions_K, blank)
        block_K[blank_K], row_K[blank_K] = len(self._blocks) - 1, 0
        chunks = [self._blocks[block].slice(start, rows) for block, start, rows in runs(block_K, row_K)]
        return pa.chunked_array(chunks, type=self.type)


def _bytes(column: pa.Array) -> pa.Array:
    return pc.struct_field(column, _BYTES) if pa.types.is_struct(column.type) else column


def _names_files(column: pa.Array) -> bool:
    if not pa.types.is_struct(column.type):
        return False
    missing = pc.is_null(_bytes(column))
    return bool(pc.any(pc.and_(missing, pc.is_valid(pc.struct_field(column, _PATH)))).as_py())


def image_file(value: pa.Scalar) -> str:
    """The file that a value of an image column names; empty where it holds the bytes."""
    found = value.as_py()
    return str(found[_PATH]) if isinstance(found, dict) and found[_BYTES] is None and found[_PATH] else ""


def unreadable(images_B: Sequence[bytes], *, pixels: bool) -> list[tuple[int, str]]:
    """Rows whose bytes cannot be read as an image, with what is wrong with them; empty ones are not looked at.

    Args:
        images_B: encoded.
        pixels: decode them, in threads; otherwise only headers are read (20 microseconds each), so that a file that
            is cut short is not noticed.
    """
    from svp_nlp.pictures import check_image, clear_image_errors  # PIL is not imported for texts

    def wrong(data: bytes) -> str:
        try:
            with clear_image_errors("the image"):
                if data:
                    check_image(data, pixels=pixels)
        except PoolError as error:
            return str(error)
        return ""

    if not pixels:
        reasons = [wrong(data) for data in images_B]
    else:
        with ThreadPoolExecutor(thread_name_prefix="check") as threads:
            reasons = list(threads.map(wrong, images_B))
    return [(row, reason) for row, reason in enumerate(reasons) if reason]


def hash_images(images_B: Iterable[bytes]) -> tuple[HashN, BoolN]:
    """blake2b-128 of the encoded bytes: two encodings of one picture are two images.

    Returns:
        uint8 [B, 16] and bool [B]: there is no image.
    """
    digests, blank = bytearray(), list[bool]()
    for data in images_B:
        digests += hashlib.blake2b(data, digest_size=HASH_BYTES).digest()
        blank.append(not data)
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, HASH_BYTES), np.array(blank, dtype=bool)
