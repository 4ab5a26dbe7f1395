"""Small pictures that every test can use: the class shows in the colour of a square somewhere on grey noise."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

_COLOURS = np.array([[230, 30, 30], [30, 230, 30], [30, 30, 230], [230, 230, 30]])


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as the bytes of a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def toy_images(rows: int = 60, *, size: int = 16, seed: int = 0, classes: int = 4) -> tuple[list[bytes], list[int]]:
    """PNGs of `size` x `size` pixels and the index of the class of each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows).tolist()
    images = []
    for label in labels:
        pixels_HWC = np.repeat(rng.integers(60, 180, size=(size, size, 1)), 3, axis=2)
        top, left = rng.integers(0, size // 2, size=2)
        pixels_HWC[top : top + size // 2, left : left + size // 2] = _COLOURS[label]
        images.append(encode(Image.fromarray(pixels_HWC.astype(np.uint8))))
    return images, labels


def image_rows(images: list[bytes]) -> pa.Table:
    """Encoded images as a learner gets them."""
    return pa.table({"image": pa.array(images, pa.large_binary())})


def write_images(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[int] | None = None,
    *,
    names: Sequence[str] = ("cat", "dog"),
) -> str:
    """A Parquet file of images, as `datasets` writes it, and where it is; None: a row without an image."""
    labels = [number % 2 for number in range(len(images))] if labels is None else labels
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(names))})
    rows = {"image": [None if data is None else {"bytes": data, "path": None} for data in images], "label": labels}
    Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return str(path)
