"""Encoded images as PIL sees them: which it may open, and what is said of one that it cannot."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from svp_nlp.errors import PoolError, SVPError

# Only what reads pixels: PIL would hand EPS to another program, for one.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_ADVICE = "replace it or leave the row out"
_BOMB_ADVICE = "make it smaller, leave the row out, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the pool"


class BadImageError(Exception):
    """What is wrong with an image, to be said after its name."""


def probe_image(data: bytes, *, name: str = "the image") -> tuple[int, int, str]:
    """Width, height (as stored, before its EXIF orientation) and PIL mode of an encoded image, from its header alone.

    Raises:
        PoolError: empty, not an image of one of `FORMATS`, or more pixels than PIL's limit.
    """
    with clear_image_errors(name), open_image(data) as image:
        return image.width, image.height, image.mode


@contextlib.contextmanager
def clear_image_errors(name: str) -> Iterator[None]:
    """What PIL says of an encoded image, in one line after its name.

    Raises:
        PoolError: in place of whatever PIL or its decoders raise.
    """
    try:
        yield
    except (SVPError, MemoryError):
        raise
    except BadImageError as error:
        raise PoolError(f"{name} {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PoolError(f"{name} is too large: {error}; {_BOMB_ADVICE}") from None
    except UnidentifiedImageError:
        raise PoolError(f"{name} is not an image of a known format ({', '.join(FORMATS)}); {_ADVICE}") from None
    except Exception as error:  # decoders of damaged bytes raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PoolError(f"{name} is damaged ({reason}); {_ADVICE}") from None


def open_image(data: bytes) -> Image.Image:
    """The header of an encoded image; its pixels are read when they are asked for. Within `clear_image_errors`."""
    if not data:
        raise BadImageError(f"is empty (0 bytes); {_ADVICE}")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:  # PIL warns here, and refuses twice as many
        raise BadImageError(f"has {pixels:,} pixels, the limit is {limit:,}; {_BOMB_ADVICE}")
    return image
