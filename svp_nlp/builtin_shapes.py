"""Generated pictures of shapes, 32 x 32 RGB, for the pool `builtin:shapes`: the same bytes on every machine.

A picture is a pure function of its row. Only integers and what IEEE 754 rounds exactly (+ - * /) are used: a sine or a
drawing library may differ in the last bit from one processor or version to the next, and with it the content ids.

Letters in shapes: B pictures of one block, H = W = 32 pixels, S = 2 W points that a row of pixels is computed from.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import IntN, keyed_hash

SIDE = 32
CLASSES = ("circle", "crescent", "cross", "ring", "semicircle", "square", "star", "triangle")

_SEED = 5
_ROWS_PER_BLOCK = 250  # 12 MB for each array of points
_OCCLUDED_FROM = 0.4  # difficulty in [0, 1) from which a bar lies on the shape

_Floats: TypeAlias = npt.NDArray[np.float32]
_Mask: TypeAlias = npt.NDArray[np.bool_]


def labels_of(rows_B: IntN) -> IntN:
    """The class of each row, int64 in [0, 8)."""
    return (keyed_hash(rows_B, _SEED, "class") % np.uint64(len(CLASSES))).astype(np.int64)


def draw(rows_B: IntN) -> npt.NDArray[np.uint8]:
    """Pictures, uint8 [B, 32, 32, 3]; about 0.2 ms each.

    Place, size, rotation and colours are random. Each row has a difficulty: the harder, the less contrast, the more
    noise and stripes, and the wider a bar that lies on the shape. In most rows it is low.
    """
    return np.concatenate(
        [_draw_block(rows_B[start : start + _ROWS_PER_BLOCK]) for start in range(0, len(rows_B), _ROWS_PER_BLOCK)]
    )


def _draw_block(rows_B: IntN) -> npt.NDArray[np.uint8]:
    def uniform(name: str, low: float = 0.0, high: float = 1.0) -> _Floats:
        """One number a row, float32 [B, 1, 1]."""
        return _uniform(rows_B, name, low, high)[:, None, None]

    hard = uniform("difficulty")
    hard = hard * hard * hard
    axis_S = ((np.arange(2 * SIDE) + 0.5) / SIDE - 1).astype(np.float32)
    x, y = axis_S[None, None, :], axis_S[None, :, None]  # each pixel is the mean of 2 x 2 points

    u, v = _turned(rows_B, "shape", x - uniform("x", -0.2, 0.2), y - uniform("y", -0.2, 0.2))
    size = uniform("size", 0.55, 0.95)
    inside = _inside(labels_of(rows_B), u / size, v / size)

    across, _ = _turned(rows_B, "bar", x - uniform("bar x", -0.5, 0.5), y - uniform("bar y", -0.5, 0.5))
    barred = (hard > _OCCLUDED_FROM) & (np.abs(across) < 0.1 + 0.1 * hard)

    shape_share, bar_share = _mean_of_points(inside & ~barred), _mean_of_points(barred)
    waves = _mean_of_points(_stripes(rows_B, x, y)) * (0.02 + 0.5 * hard)
    channels = []
    for channel in "red", "green", "blue":
        ground = uniform(f"ground {channel}", 0, 0.5)
        shape = ground + uniform(f"contrast {channel}", 0.1, 0.5) * (1 - 0.6 * hard)
        color = ground * (1 - shape_share - bar_share) + shape * shape_share + uniform(f"bar {channel}") * bar_share
        pixels = rows_B[:, None] * (SIDE * SIDE) + np.arange(SIDE * SIDE)
        noise = _uniform(pixels, f"noise {channel}", -1, 1).reshape(-1, SIDE, SIDE) * (0.02 + 0.4 * hard)
        channels.append(color + waves + noise)
    image_BHW3 = np.clip(np.stack(channels, axis=3), 0, 1) * np.float32(255) + np.float32(0.5)
    return np.asarray(image_BHW3.astype(np.uint8))


def _uniform(keys: IntN, name: str, low: float, high: float) -> _Floats:
    bits = keyed_hash(keys, _SEED, name) >> np.uint64(40)  # 24 bits: float32 holds them exactly
    return bits.astype(np.float32) * np.float32(2.0**-24 * (high - low)) + np.float32(low)


def _turned(rows_B: IntN, name: str, x: _Floats, y: _Floats) -> tuple[_Floats, _Floats]:
    """Coordinates turned by a random angle, without a sine: a point of the unit circle has rational coordinates."""
    t = _uniform(rows_B, f"{name} angle", -1, 1)[:, None, None]
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)  # the right half circle
    flip = np.where(_uniform(rows_B, f"{name} side", 0, 1) < 0.5, np.float32(1), np.float32(-1))[:, None, None]
    along, across = flip * (cosine * x + sine * y), flip * (cosine * y - sine * x)
    return np.asarray(along, np.float32), np.asarray(across, np.float32)


def _inside(labels_B: IntN, u: _Floats, v: _Floats) -> _Mask:
    """Which points [B, S, S] lie in the shape of the row; all shapes have about the same area."""
    found = np.zeros(np.broadcast_shapes(u.shape, v.shape), dtype=bool)
    for number, name in enumerate(CLASSES):
        rows = np.flatnonzero(labels_B == number)
        found[rows] = _shape(name, u[rows], v[rows])
    return found


def _shape(name: str, u: _Floats, v: _Floats) -> Any:
    wide, high = np.abs(u), np.abs(v)
    square_of_radius = u * u + v * v
    if name == "circle":
        return square_of_radius < 0.55
    if name == "crescent":
        aside = u - 0.4
        return (square_of_radius < 0.9) & (aside * aside + v * v > 0.5)
    if name == "cross":
        return (np.minimum(wide, high) < 0.3) & (np.maximum(wide, high) < 0.9)
    if name == "ring":
        return (square_of_radius < 0.8) & (square_of_radius > 0.25)
    if name == "semicircle":
        below = v + 0.4
        return (below > 0) & (u * u + below * below < 0.95)
    if name == "square":
        return np.maximum(wide, high) < 0.65
    if name == "triangle":
        return (v > -0.5) & (0.8660254 * wide + 0.5 * v < 0.5)
    # A pentagram: what lies on the inner side of four of its five lines. Cosines and sines of 18 and 54 degrees.
    lines = [
        v > -0.36,
        0.58778525 * u + 0.80901699 * v < 0.36, -0.58778525 * u + 0.80901699 * v < 0.36,
        0.95105652 * u - 0.30901699 * v < 0.36, -0.95105652 * u - 0.30901699 * v < 0.36,
    ]  # fmt: skip
    return np.sum(lines, axis=0, dtype=np.int8) >= 4


def _stripes(rows_B: IntN, x: _Floats, y: _Floats) -> _Floats:
    """A wave of straight flanks, in [-0.25, 0.25], over the whole picture."""
    across, _ = _turned(rows_B, "stripes", x, y)
    place = across * _uniform(rows_B, "stripes per side", 0.5, 4)[:, None, None] + 8
    return np.asarray(np.abs(place - np.floor(place) - 0.5) - 0.25, np.float32)


def _mean_of_points(points: npt.NDArray[np.generic]) -> _Floats:
    """[B, S, S] -> float32 [B, H, W]: the mean of 2 x 2 points, added in a fixed order."""
    p = points.astype(np.float32, copy=False)
    return np.asarray((p[:, ::2, ::2] + p[:, ::2, 1::2] + (p[:, 1::2, ::2] + p[:, 1::2, 1::2])) * np.float32(0.25))


def encode_png(image_HW3: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of one stored, uncompressed block: compressed bytes would depend on the version of zlib.

    Args:
        image_HW3: uint8 [H, W, 3], H * (3 W + 1) < 65,536 (what one block holds).
    """
    height, width, _ = image_HW3.shape
    # Each line begins with the number of its filter: 0, none.
    data = np.concatenate([np.zeros((height, 1), np.uint8), image_HW3.reshape(height, -1)], axis=1).tobytes()
    assert len(data) < 2**16
    stored = struct.pack("<BBBHH", 0x78, 0x01, 1, len(data), len(data) ^ 0xFFFF)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunks(
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", stored + data + struct.pack(">I", zlib.adler32(data))),
            (b"IEND", b""),
        )
    )


def _chunks(*parts: tuple[bytes, bytes]) -> Iterator[bytes]:
    for name, content in parts:
        yield struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
