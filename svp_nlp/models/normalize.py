"""Text normalisation of the paper's scripts, as one pass over bytes.

fastText's classification scripts, which SVP uses for all its text data, run each line through `tr` and `sed`:
ASCII letters become lower-case; double quotes are deleted; `'`, `.`, `,`, `(`, `)`, `!`, `?` get a blank on both sides;
`<br />`, `;` and `:` become a blank; runs of blanks become one. All else stays: accents, digits, `-`, `/`, `&`, tabs,
line feeds. Deleting a quote may complete a `<br />`, because sed deletes first.

Source: classification-results.sh in facebookresearch/fastText, function normalize_text; Coleman et al. 2020, appendix.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from svp_nlp.compiled import jit

Normalization: TypeAlias = Literal["none", "svp"]

_COPY, _SPACED, _BLANK, _DELETED = range(4)
_ACTION = np.zeros(256, dtype=np.uint8)
_ACTION[list(b"'.,()!?")] = _SPACED
_ACTION[list(b" ;:")] = _BLANK
_ACTION[list(b'"')] = _DELETED
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[65:91] += 32
_BREAK = np.frombuffer(b"<br />", dtype=np.uint8)


@jit
def _normalize(data: Any, offsets: Any, out: Any, out_offsets: Any) -> int:
    """Write the normalised texts to out, with room for three times as many bytes; returns how many there are."""
    end = 0
    out_offsets[0] = 0
    for r in range(len(offsets) - 1):
        begin = end
        matched = 0  # characters of `<br />` that were just seen, deleted ones not counted
        for j in range(offsets[r], offsets[r + 1]):
            byte = _LOWER[data[j]]
            action = _ACTION[byte]
            if action == _COPY and matched == 0 and byte != _BREAK[0]:  # nearly all bytes
                out[end] = byte
                end += 1
                continue
            if action == _DELETED:
                continue
            if byte == _BREAK[matched]:
                matched += 1
            else:
                matched = 1 if byte == _BREAK[0] else 0
            if matched == len(_BREAK):
                matched = 0
                end -= len(_BREAK) - 1  # nothing in `<br /` was changed or squeezed, so this is where it began
                action = _BLANK
            if action != _COPY and (end == begin or out[end - 1] != 32):
                out[end] = 32
                end += 1
            if action == _BLANK:
                continue
            out[end] = byte
            end += 1
            if action == _SPACED:
                out[end] = 32
                end += 1
        out_offsets[r + 1] = end
    return end


def normalize_buffers(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Normalise texts that lie in an Arrow buffer, text r being data[offsets[r] : offsets[r + 1]].

    Returns:
        uint8 data and int64 offsets, both read-only as Arrow's are (numba compiles once for both).
    """
    out = np.empty(3 * int(offsets[-1] - offsets[0]), dtype=np.uint8)
    out_offsets = np.empty(len(offsets), dtype=np.int64)
    out = out[: _normalize(data, offsets, out, out_offsets)]
    out.flags.writeable = out_offsets.flags.writeable = False
    return out, out_offsets


def text_buffers(chunk: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes and the int64 offsets of an Arrow array of texts; nothing is copied but int32 offsets.

    Offsets do not start at 0 when the array is a slice. A null, which no pool holds, reads as an empty text.
    """
    if not pa.types.is_string(chunk.type) and not pa.types.is_large_string(chunk.type):
        chunk = chunk.cast(pa.large_string())
    if len(chunk) == 0:
        data, offsets = np.zeros(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    else:
        _, where, bytes_ = chunk.buffers()
        width = np.dtype(np.int64 if pa.types.is_large_string(chunk.type) else np.int32)
        offsets = np.frombuffer(where, dtype=width, count=len(chunk) + 1, offset=chunk.offset * width.itemsize)
        offsets = offsets.astype(np.int64, copy=False)
        data = np.frombuffer(bytes_, dtype=np.uint8) if bytes_ is not None else np.zeros(0, dtype=np.uint8)
    data.flags.writeable = offsets.flags.writeable = False
    return data, offsets


def normalize_texts(texts: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
    """The normalisation of the paper's scripts over a column of texts; large_string, chunks as they were."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    done = []
    for chunk in chunks:
        data, offsets = normalize_buffers(*text_buffers(chunk))
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        done.append(pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers))
    return pa.chunked_array(done, type=pa.large_string())
