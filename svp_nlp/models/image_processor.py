"""What a model of transformers wants its images to be like: read from and written to its image processor's file.

Only the file is read. transformers' own classes need torchvision or warn without it, and each family has its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from svp_nlp.arrays import IntN
from svp_nlp.errors import ModelError
from svp_nlp.models.image import EvaluationTransform, ImageExamples, TrainTransform, image_examples

FILE = "preprocessor_config.json"
_COMBINED_FILE = "processor_config.json"  # of a model that reads texts as well, since transformers 5

_NO_CROP_FROM = 384  # ConvNext's processors warp from this size on, and crop below
_BILINEAR = 2  # PIL's number

Levels: TypeAlias = tuple[float, float, float]  # of red, green and blue


@dataclass(frozen=True)
class Pixels:
    """How an image becomes the input of a network. The defaults are those of ImageNet."""

    size: int = 224
    evaluation: EvaluationTransform = "center_crop"
    resize_to: int = 256  # the shorter side before a centre crop
    mean: Levels = (0.485, 0.456, 0.406)  # of levels in 0 to 1
    std: Levels = (0.229, 0.224, 0.225)

    def changed(
        self, *, size: int | None, evaluation: EvaluationTransform | None, mean: Levels | None, std: Levels | None
    ) -> Pixels:
        """The same but for what is not None; another size or evaluation has the usual shorter side, size / 0.875."""
        new = Pixels(
            size or self.size, evaluation or self.evaluation, self.resize_to, mean or self.mean, std or self.std
        )
        if (new.size, new.evaluation) == (self.size, self.evaluation):
            return new
        return replace(new, resize_to=round(new.size / 0.875) if new.evaluation == "center_crop" else new.size)

    def examples(
        self,
        rows: pa.Table,
        *,
        train: TrainTransform = "none",
        positions_N: IntN | None = None,
        source: str = "pool",
    ) -> ImageExamples:
        """Images as the network wants them; see `image_examples`."""
        return image_examples(
            rows, size=self.size, train=train, evaluation=self.evaluation, mean=self.mean, std=self.std,
            resize_to=self.resize_to, positions_N=positions_N, source=source,
        )  # fmt: skip


def load_pixels(name: str, *, revision: str | None = None) -> Pixels | None:
    """What the image processor of a model says; None where it has none. Resizing is bilinear, whatever it says.

    Args:
        name: a model of the Hub, or a folder.
        revision: branch, tag or commit.
    Raises:
        ModelError: out of reach, or a file that asks for what cannot be done here.
    """
    from transformers.utils.hub import cached_file

    from svp_nlp.models.pretrained import clear_loading_errors, is_folder

    where = str(Path(name).expanduser()) if is_folder(name) else name
    for file in (FILE, _COMBINED_FILE):
        with clear_loading_errors(name, revision):
            path = cached_file(where, file, revision=revision, _raise_exceptions_for_missing_entries=False)
            values = None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
        if file == _COMBINED_FILE and values is not None:
            values = values.get("image_processor")
        if values is not None:
            return _parse(values, f"{name}: {file}")
    return None


def _parse(values: Mapping[str, Any], where: str) -> Pixels:
    try:
        size, evaluation, resize_to = _size(values)
        mean, std = _levels(values)
        return Pixels(size, evaluation, resize_to, mean, std)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{where} is not understood ({type(error).__name__}: {error}); expected size, image_mean and image_std as "
            "transformers writes them: mend it, or name another model"
        ) from None


def _size(values: Mapping[str, Any]) -> tuple[int, EvaluationTransform, int]:
    """Size of a side, what is done in evaluation, and the shorter side before a crop."""
    size = values.get("size", {"height": 224, "width": 224})
    if isinstance(size, int):  # as transformers wrote it before 4.22
        size = {"shortest_edge": size} if values.get("do_center_crop") else {"height": size, "width": size}
    short = size.get("shortest_edge")
    if values.get("do_center_crop"):
        crop = values.get("crop_size", size)
        crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
        side = _square(crop)
        return side, "center_crop", max(side, int(_square(size) if short is None else short))
    if short is None:
        return _square(size), "resize", _square(size)
    if (share := values.get("crop_pct")) is None:
        return int(short), "center_crop", int(short)
    return (
        (int(short), "center_crop", int(short / share)) if short < _NO_CROP_FROM else (int(short), "resize", int(short))
    )


def _square(size: Mapping[str, Any]) -> int:
    if size["height"] != size["width"]:
        raise ValueError(f"images of {size['height']} x {size['width']} pixels are not square")
    return int(size["height"])


def _levels(values: Mapping[str, Any]) -> tuple[Levels, Levels]:
    """Mean and standard deviation of levels in 0 to 1."""
    # What white becomes before it is normalised: 1, but for few models.
    white = 255 * (float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0)
    if not values.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1 / white, 1 / white, 1 / white)
    mean, std = ([float(level) / white for level in values[key]] for key in ("image_mean", "image_std"))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"image_mean {values['image_mean']} and image_std {values['image_std']} are not for RGB")
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def save_pixels(pixels: Pixels, directory: Path) -> None:
    """Write the file from which `AutoImageProcessor` makes a processor that does the same."""
    square = {"height": pixels.size, "width": pixels.size}
    crops = pixels.evaluation == "center_crop"
    values = {
        "image_processor_type": "BitImageProcessor" if crops else "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": pixels.resize_to} if crops else square,
        "resample": _BILINEAR,
        "do_center_crop": crops,
        **({"crop_size": square} if crops else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
    }
    (directory / FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
