"""Images as the input of a torch model: encoded bytes decoded in threads, augmented for training only.

A set that fits the cache is decoded once, as it is made, so that epochs cost no decoding and a bad image is told
before the first step. A larger one is decoded batch by batch: on a GPU while it works on the step before.

Letters in shapes: B batch, N rows, S size (pixels of a side), H = W = S.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import ExifTags, Image
from torch import Tensor

from svp_nlp.arrays import IntK, IntN
from svp_nlp.errors import ModelError
from svp_nlp.models.threads import num_threads
from svp_nlp.pictures import as_rgb, clear_image_errors, open_image
from svp_nlp.pool import IMAGE
from svp_nlp.pool_images import holds_images, read_image

logger = logging.getLogger(__name__)

TrainTransform: TypeAlias = Literal["none", "pad_crop_flip", "random_resized_crop"]
EvaluationTransform: TypeAlias = Literal["resize", "center_crop"]
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
Pixels: TypeAlias = npt.NDArray[np.uint8]

CACHE_BYTES = 1 << 30  # decoded: CIFAR's 50,000 images are 150 MB, 7,000 images of 224 x 224 are 1 GiB

_PADDING = 4
_CROP_AREA, _CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
_CROP_ATTEMPTS = 10
_DRAFT_GAP = 2  # a JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves twice the pixels that are wanted
_ROWS_PER_BLOCK = 64  # of one thread at a time
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS_ON_SIDE = (5, 6, 7, 8)


def images_of(rows: pa.Table) -> pa.ChunkedArray:
    """The image column of a table: what `pool_images.read_image` reads, value by value.

    Raises:
        ModelError: there is none, or it does not hold bytes.
    """
    if IMAGE not in rows.column_names:
        raise ModelError(f"the model reads images, the column {IMAGE!r}; found {rows.column_names}")
    images = rows.column(IMAGE)
    if not holds_images(images.type):
        raise ModelError(
            f"column {IMAGE!r} is of type {images.type}; the model expects binary or large_binary: encoded images"
        )
    return images


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # what a camera wrote badly says nothing about the pixels
        return 1


def _decode(data: bytes, *, size: int, region: Callable[[int, int], Box]) -> tuple[Pixels, bool]:
    """The part `region(width, height)` of an upright image as uint8 [S, S, 3], and whether pixels are as stored."""
    with open_image(data) as image:
        if image.format != "JPEG":
            image.load()  # reading EXIF would, and leave damaged pixels as they are without a word
        orientation = _orientation(image)
        width, height = image.size[::-1] if orientation in _TURNS_ON_SIDE else image.size
        box = region(width, height)
        shrink = 1.0
        reduction = int(min(box[2] - box[0], box[3] - box[1]) / (_DRAFT_GAP * size))
        if reduction >= 2:
            stored_width = image.width
            drafted = image.draft(None, (max(1, image.width // reduction), max(1, image.height // reduction)))
            shrink = drafted[1][2] / stored_width if drafted is not None else 1.0
        picture = as_rgb(image)
        if orientation in _TURNS:
            picture = picture.transpose(_TURNS[orientation])
        as_stored = (box[2] - box[0], box[3] - box[1]) == (size, size)
        right, bottom = min(box[2] * shrink, picture.width), min(box[3] * shrink, picture.height)  # but for roundings
        scaled = (box[0] * shrink, box[1] * shrink, right, bottom)
        # PIL's bilinear filter widens as it shrinks (antialias), and looks beyond the box as if cropped afterwards.
        return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=scaled)), as_stored


def _whole(width: int, height: int) -> Box:
    return 0, 0, width, height


def _center(width: int, height: int, *, size: int, resize_to: int) -> Box:
    """What a centre crop of `size` shows after the shorter side was resized to `resize_to`, in pixels before that."""
    short, long = min(width, height), max(width, height)
    resized_long = int(resize_to * long / short)
    new_width, new_height = (resize_to, resized_long) if width <= height else (resized_long, resize_to)
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    across, down = width / new_width, height / new_height
    return left * across, top * down, (left + size) * across, (top + size) * down


def _random_box(width: int, height: int, draws_A4: npt.NDArray[np.float64]) -> Box:
    """A part of 8 to 100 % of the area and 3:4 to 4:3 in shape, at random; the centre where none of A draws fits.

    Source: Szegedy et al. 2015 (arXiv 1409.4842, section 6), with torchvision's ten attempts and fall-back.
    """
    least, most = _CROP_AREA
    narrow, wide = _CROP_RATIO
    for share, shape, across, down in draws_A4.tolist():
        area = width * height * (least + (most - least) * share)
        ratio = math.exp(math.log(narrow) + (math.log(wide) - math.log(narrow)) * shape)
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = int(across * (width - box_width + 1)), int(down * (height - box_height + 1))
            return left, top, left + box_width, top + box_height
    box_width = min(width, max(1, round(height * wide)))
    box_height = min(height, max(1, round(width / narrow)))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def _pad_crop_flip(pixels_BHWC: Pixels, rng: np.random.Generator) -> Pixels:
    """Four black pixels around, a crop of the old size anywhere, and half of the images mirrored.

    Source: He et al. 2015 (arXiv 1512.03385, section 4.2). As in the SVP authors' code, the border is black, zero
    before normalisation, not after.
    """
    size = pixels_BHWC.shape[1]
    whole_BHW = pixels_BHWC.view("V3")[..., 0]  # a pixel as one item: copied in one piece, 1.4 times as fast
    padded = np.zeros((len(whole_BHW), size + 2 * _PADDING, size + 2 * _PADDING), dtype="V3")
    padded[:, _PADDING:-_PADDING, _PADDING:-_PADDING] = whole_BHW
    corners_B2 = rng.integers(0, 2 * _PADDING + 1, size=(len(whole_BHW), 2))
    flips_B = rng.random(len(whole_BHW)) < 0.5
    out_BHW = np.empty_like(whole_BHW)
    for row, ((top, left), flip) in enumerate(zip(corners_B2.tolist(), flips_B.tolist(), strict=True)):
        crop = padded[row, top : top + size, left : left + size]
        out_BHW[row] = crop[:, ::-1] if flip else crop
    return out_BHW.view(np.uint8).reshape(pixels_BHWC.shape)


def normalize(pixels_BCHW: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [B, 3, H, W] to float32: (level / 255 - mean) / std of each channel, where and as the pixels lie."""

    # Spread out once in the layout of the pixels: on a CPU, over channels that lie innermost, 7 times as fast.
    def spread(levels: Sequence[float]) -> Tensor:
        values_1CHW = 255 * torch.tensor(levels).view(1, 3, 1, 1).expand(1, 3, *pixels_BCHW.shape[2:])
        return values_1CHW.contiguous(memory_format=torch.channels_last).to(pixels_BCHW.device)

    return pixels_BCHW.float().sub_(spread(mean)).div_(spread(std))


@functools.cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="decode")


@dataclass(eq=False)
class ImageExamples:
    """Encoded images as model inputs. Made by `image_examples`; satisfies `batches.Examples`."""

    images: pa.ChunkedArray
    size: int
    train: TrainTransform
    region: Callable[[int, int], Box]  # of an image, in evaluation
    normalization: dict[str, Any] | None
    positions_N: IntN | None
    source: str = "pool"
    cache_NHWC: Pixels | None = None
    resized: int | None = None  # images that were not of this size; None: not decoded ahead
    lengths_N: IntN | None = None

    def __len__(self) -> int:
        return len(self.images)

    def collate(self, rows_B: IntK, *, rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """`pixel_values` [B, 3, S, S], channels innermost in memory; `rng` augments, None = evaluation.

        A pure function of its arguments: all of `rng` is drawn before threads decode.

        Returns:
            float32, normalised; uint8 where `image_examples` was given no mean and std.
        Raises:
            PoolError: an image cannot be decoded; names it.
        """
        flips_B = np.zeros(len(rows_B), dtype=bool)
        if rng is not None and self.train == "random_resized_crop":
            draws_BA4 = rng.random((len(rows_B), _CROP_ATTEMPTS, 4))
            flips_B = rng.random(len(rows_B)) < 0.5
            pixels_BHWC, _ = self._decode(rows_B, lambda row, width, height: _random_box(width, height, draws_BA4[row]))
            pixels_BHWC[flips_B] = pixels_BHWC[flips_B, :, ::-1]
        else:
            pixels_BHWC = self._decode(rows_B)[0] if self.cache_NHWC is None else self.cache_NHWC[rows_B]
            if rng is not None and self.train == "pad_crop_flip":
                pixels_BHWC = _pad_crop_flip(pixels_BHWC, rng)
        pixels_BCHW = torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2)
        if self.normalization is not None:
            pixels_BCHW = normalize(pixels_BCHW, **self.normalization)
        return {"pixel_values": pixels_BCHW}

    def _decode(self, rows_B: IntK, region: Callable[[int, int, int], Box] | None = None) -> tuple[Pixels, int]:
        """uint8 [B, S, S, 3], and how many images were not of this size."""
        out = np.empty((len(rows_B), self.size, self.size, 3), dtype=np.uint8)

        def work(start: int) -> int:
            resized = 0
            for row in range(start, min(start + block, len(rows_B))):
                of_row = self.region if region is None else functools.partial(region, row)
                given = int(rows_B[row])
                with clear_image_errors(self._name(given), row=given):
                    data = read_image(self.images[given])
                    out[row], as_stored = _decode(data, size=self.size, region=of_row)
                resized += not as_stored
            return resized

        threads = num_threads()
        block = max(1, min(_ROWS_PER_BLOCK, len(rows_B) // (2 * threads)))
        starts = range(0, len(rows_B), block)
        counts = map(work, starts) if threads == 1 else _threads(os.getpid(), threads).map(work, starts)
        return out, sum(counts)

    def _name(self, row: int) -> str:
        return f"image {row} of this batch" if self.positions_N is None else (
            f"the image at {self.source} position {self.positions_N[row]}"
        )  # fmt: skip


def image_examples(
    rows: pa.Table,
    *,
    size: int,
    train: TrainTransform = "none",
    evaluation: EvaluationTransform = "resize",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize_to: int | None = None,
    positions_N: IntN | None = None,
    source: str = "pool",
    cache_bytes: int = CACHE_BYTES,
) -> ImageExamples:
    """Images for a model that sees `size` x `size` pixels. Of several frames, the first.

    Args:
        rows: column `image`, encoded bytes (see `FORMATS`), of any sizes and modes; EXIF orientation is applied.
        size: pixels of a side.
        train: what collating with an `rng` does. pad_crop_flip: the authors' for CIFAR; random_resized_crop: that of
            ImageNet; none: as in evaluation.
        evaluation: resize: the whole image, whatever its shape; center_crop: the shorter side to `resize_to`, then
            the middle. Never random.
        mean: of each channel, levels being 0 to 1; with `std`. None: pixels stay uint8, for a model that does this
            itself, where four times fewer bytes go to the device.
        std: see `mean`.
        resize_to: for center_crop; None: `size` / 0.875, that is 256 for 224.
        positions_N: positions of the rows in the pool, which errors then name.
        source: what the positions count in, see `Labeled`.
        cache_bytes: sets that take no more than this when decoded are decoded now and kept, unless they are to be
            cropped from the whole at random.
    Raises:
        ModelError: no image column, or options that do not fit each other.
        PoolError: an image cannot be decoded; names the first one.
    """
    images = images_of(rows)
    if (mean is None) != (std is None):
        raise ModelError("image_examples was given one of mean and std; give both or none")
    short = round(size / 0.875) if resize_to is None else resize_to
    if short < size:
        raise ModelError(f"resize_to is {short}, the crop is {size} x {size}; expected at least {size}")
    region = _whole if evaluation == "resize" else functools.partial(_center, size=size, resize_to=short)
    examples = ImageExamples(
        images, size, train, region, {"mean": mean, "std": std} if mean is not None else None, positions_N, source
    )
    if train != "random_resized_crop" and len(images) * size * size * 3 <= cache_bytes:
        cache_NHWC, resized = examples._decode(np.arange(len(images)))
        return replace(examples, cache_NHWC=cache_NHWC, resized=resized)
    return examples


def log_resized(examples: ImageExamples) -> None:
    """Say of a training set that its images are of another size than the model sees."""
    if examples.resized:
        logger.info(
            "%s of %s images are not %s x %s pixels: their parts are resized",
            f"{examples.resized:,}", f"{len(examples):,}", examples.size, examples.size,
        )  # fmt: skip
