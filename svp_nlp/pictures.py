"""Encoded images as PIL sees them: which it may open, and what is said of one that it cannot."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from svp_nlp.errors import ImageError, SVPError

# Only what reads pixels: PIL would hand EPS to another program, for one.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_SHOWN_BY_BROWSERS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif"}
_ADVICE = "replace it or leave the row out"
_BOMB_ADVICE = "make it smaller, leave the row out, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the pool"


class BadImageError(Exception):
    """What is wrong with an image, to be said after its name."""


def probe_image(data: bytes, *, name: str = "the image") -> tuple[int, int, str]:
    """Width, height (as stored, before its EXIF orientation) and PIL mode of an encoded image, from its header alone.

    Raises:
        ImageError: empty, not an image of one of `FORMATS`, or more pixels than PIL's limit.
    """
    with clear_image_errors(name), open_image(data) as image:
        return image.width, image.height, image.mode


@contextlib.contextmanager
def clear_image_errors(name: str, *, row: int = -1) -> Iterator[None]:
    """What PIL says of an encoded image, in one line after its name.

    Args:
        name: of the image.
        row: see `ImageError`.
    Raises:
        ImageError: in place of whatever PIL or its decoders raise.
    """
    try:
        yield
        return
    except (SVPError, MemoryError):
        raise
    except BadImageError as error:
        reason = str(error)
    except UnidentifiedImageError:
        reason = f"is not an image of a known format ({', '.join(FORMATS)}); {_ADVICE}"
    except Exception as error:  # decoders of damaged bytes raise almost anything
        reason = f"is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__}); {_ADVICE}"
    raise ImageError(f"{name} {reason}", reason=reason, row=row)


def open_image(data: bytes) -> Image.Image:
    """The header of an encoded image; its pixels are read when they are asked for. Within `clear_image_errors`."""
    if not data:
        raise BadImageError(f"is empty (0 bytes); {_ADVICE}")
    image = _identify(data)
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise BadImageError(f"has {pixels:,} pixels, the limit is {limit:,}; {_BOMB_ADVICE}")
    return image


def _identify(data: bytes) -> Image.Image:
    """As `Image.open`, which also warns of what has too many pixels, and in one thread no warning can be held back."""
    Image.init()
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # how plugins say: not mine
            if accepts is None or accepts(data[:16]) is True:  # in place of True, a str says what PIL was built without
                return factory(io.BytesIO(data), "")
    raise UnidentifiedImageError


def as_rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel. Transparency is dropped, not shown over a colour, as `convert` and other loaders have it."""
    if image.mode.startswith("I"):  # one channel of 16 bits, which PIL would clip at 255
        levels_HW = np.clip(np.asarray(image).astype(np.int64), 0, 0xFFFF) >> 8
        return Image.fromarray(levels_HW.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadImageError("has floats for pixels, whose range is unknown; convert it to 8 or 16 bits")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB warns when colours of the palette are transparent
    return image if image.mode == "RGB" else image.convert("RGB")


def check_image(data: bytes, *, pixels: bool) -> None:
    """Read an encoded image for what is wrong with it; within `clear_image_errors`.

    Args:
        data: not empty.
        pixels: decode it, not only its header: about 150 microseconds for a small JPEG.
    """
    with open_image(data) as image:
        if pixels:
            image.load()
            as_rgb(image)


def displayable(data: bytes) -> tuple[bytes, str]:
    """An encoded image as browsers show it, and the suffix of its file: as it is, or as PNG.

    Raises:
        ImageError: it cannot be decoded.
    """
    with clear_image_errors("the image"), open_image(data) as image:
        if image.format in _SHOWN_BY_BROWSERS:
            return data, _SHOWN_BY_BROWSERS[image.format]
        file = io.BytesIO()
        as_rgb(image).save(file, "PNG")
        return file.getvalue(), ".png"
