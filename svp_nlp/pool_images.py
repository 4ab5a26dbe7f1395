"""Image columns of a pool: encoded bytes where the rows lie, or in files that they name. Nothing is decoded here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from svp_nlp.arrays import BoolN
from svp_nlp.content import HASH_BYTES, HashN
from svp_nlp.errors import PoolError

_BYTES, _PATH = "bytes", "path"  # the fields of a `datasets.Image` in Arrow


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type can be images: that of `datasets.Image`, or encoded bytes."""
    if pa.types.is_struct(kind):
        return {_BYTES, _PATH} <= {kind.field(number).name for number in range(kind.num_fields)}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def encoded(column: pa.Array) -> pa.LargeBinaryArray:
    """The encoded bytes of each image (PNG, JPEG, ...); empty where there is none.

    An image folder has paths in place of bytes; those files are read now.

    Raises:
        PoolError: such a file cannot be read.
    """
    if not pa.types.is_struct(column.type):
        return column.cast(pa.large_binary()).fill_null(b"")
    data = pc.struct_field(column, _BYTES).cast(pa.large_binary())
    if data.null_count == 0:
        return data
    paths = pc.struct_field(column, _PATH).to_pylist()
    values = data.to_pylist()
    return pa.array(
        [_read(path) if value is None else value for value, path in zip(values, paths, strict=True)], pa.large_binary()
    )


def _read(path: str | None) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise PoolError(f"{path}: the image cannot be read ({error.strerror}); put the file back") from None


def unreadable(images_B: pa.LargeBinaryArray) -> list[tuple[int, str]]:
    """Rows whose bytes have not the header of an image, or of one beyond PIL's limit, with what is wrong with them.

    About 20 microseconds a row: pixels are not decoded, so a file that is cut short is not noticed.
    """
    from svp_nlp.pictures import probe_image  # PIL is not imported for texts

    found = []
    for row, data in enumerate(images_B):
        if len(content := data.as_py()):
            try:
                probe_image(content, name="the image")
            except PoolError as error:
                found.append((row, str(error)))
    return found


def hash_images(images_B: pa.LargeBinaryArray) -> tuple[HashN, BoolN]:
    """blake2b-128 of the encoded bytes: two encodings of one picture are two images.

    Args:
        images_B: large_binary without nulls.
    Returns:
        uint8 [B, 16] and bool [B]: there is no image.
    """
    offsets, values = images_B.buffers()[1:]
    bounds = np.frombuffer(offsets, dtype=np.int64)[images_B.offset : images_B.offset + len(images_B) + 1]
    data, edges = memoryview(values if values is not None else b""), bounds.tolist()
    digests = [
        hashlib.blake2b(data[edges[row] : edges[row + 1]], digest_size=HASH_BYTES).digest()
        for row in range(len(images_B))
    ]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, HASH_BYTES), np.diff(bounds) == 0
