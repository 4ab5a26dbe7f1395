"""Small versions of images, as data URIs, so that a page that shows them is still one file."""

from __future__ import annotations

import base64
import io
import re

from PIL import Image, ImageOps

from svp_nlp.pictures import FORMATS, as_rgb

_LONGEST = 96  # pixels; a page shows them 64 high
_PIXEL_ART = 64  # up to this size an image is kept as it is, without loss
_URI = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*")


def thumbnail(data: bytes) -> str:
    """An encoded image as a data URI: a PNG of all its pixels where it is tiny, else a JPEG of at most 96 x 96.

    Turned as its EXIF orientation says; of several frames the first; transparency is dropped, as learners see it.

    Args:
        data: of any size and mode.
    Returns:
        About 3 kB; "" for bytes that cannot be decoded: a report of a finished run is not the place to fail.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.draft("RGB", (2 * _LONGEST, 2 * _LONGEST))  # JPEG: decoded at a part of its size
            shown = as_rgb(ImageOps.exif_transpose(image))
            tiny = max(shown.size) <= _PIXEL_ART
            shown.thumbnail((_LONGEST, _LONGEST))
    except Exception:  # decoders of damaged bytes raise almost anything
        return ""
    file = io.BytesIO()
    shown.info.clear()  # comments and profiles
    if tiny:
        shown.save(file, "PNG", optimize=True)
    else:
        shown.save(file, "JPEG", quality=80)
    return f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def is_thumbnail(uri: object) -> bool:
    """Whether this is what `thumbnail` gives, and so safe to put into a page."""
    return isinstance(uri, str) and _URI.fullmatch(uri) is not None


def is_pixel_art(uri: str) -> bool:
    """Whether the thumbnail is to be enlarged without smoothing."""
    return uri.startswith("data:image/png")
