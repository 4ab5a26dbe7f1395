"""Images in a report: any image becomes a small data URI, and nothing else gets into the page."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from report_demo import demo_run, image_run

from svp_nlp.report import summarize
from svp_nlp.report_html import render_page
from svp_nlp.report_thumbnails import is_pixel_art, is_thumbnail, thumbnail


def encoded(mode: str, size: tuple[int, int], file_format: str, **options) -> bytes:
    width, height = size
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    image = Image.fromarray(ramp)
    if mode == "I;16":
        image = Image.fromarray(ramp[:, :, 0].astype(np.uint16) << 8)
    elif mode != "RGB":
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def page(*runs) -> str:
    return render_page(runs, summarize(runs))


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        ("RGB", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("1", "PNG"), ("I;16", "PNG"),
        ("CMYK", "JPEG"), ("L", "JPEG"), ("CMYK", "TIFF"), ("RGB", "WEBP"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [(1, 1), (64, 20), (97, 300), (500, 2)])
def test_every_kind_of_image_has_a_thumbnail(mode, file_format, size):
    uri = thumbnail(encoded(mode, size, file_format))
    assert is_thumbnail(uri)
    assert is_pixel_art(uri) == (max(size) <= 64)
    shown = decoded(uri)
    assert shown.mode == "RGB"
    assert max(shown.size) == (max(size) if max(size) <= 64 else 96)


def test_a_tiny_image_loses_nothing_and_a_large_one_loses_its_comments():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert (np.asarray(decoded(thumbnail(file.getvalue()))) == pixels).all()
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "where it was taken", 6
    turned = thumbnail(encoded("RGB", (200, 100), "JPEG", exif=exif, comment=b"by whom"))
    assert decoded(turned).size == (48, 96)
    data = base64.b64decode(turned.split(",")[1])
    assert b"where it was" not in data and b"by whom" not in data


def test_16_bits_are_scaled_and_not_clipped():
    levels = np.asarray(decoded(thumbnail(encoded("I;16", (64, 20), "PNG"))))
    assert 100 < levels.mean() < 155


@pytest.mark.parametrize("data", [b"", b"no image", encoded("RGB", (80, 80), "PNG")[:60]])
def test_what_cannot_be_decoded_has_none(data):
    assert thumbnail(data) == ""


def test_picks_of_images_are_shown_with_label_score_and_alternative_text():
    run = image_run(seeds=(0,), strategies=("entropy",), sizes=(100, 200))
    source = page(run)
    pictures = re.findall(r'<img src="(data:image/png;base64,[^"]+)" class="pixels" alt="(\w+), id (\w+)">', source)
    picks = [*run["picks"][0]["highest"], *run["picks"][0]["lowest"]]
    assert pictures == [(pick["image"], pick["label"], pick["id"]) for pick in picks]
    assert 'class="picks pictures"' in source
    assert "with score, label and image." in source


def test_what_is_no_thumbnail_is_not_put_into_the_page():
    run = image_run(seeds=(0,), strategies=("entropy",), sizes=(100, 200))
    bad = ["https://example.com/a.png", "javascript:alert(1)", 'data:image/png;base64,x" onerror="alert(1)',
           "data:image/svg+xml;base64,PHN2Zz4=", "", None, 7]  # fmt: skip
    for pick, uri in zip(run["picks"][0]["highest"], bad, strict=False):
        pick["image"] = uri
    source = page(run)
    assert source.count("<img") == 40 - len(bad) == source.count('src="data:image/png;base64,')
    assert source.count("cannot be shown") == len(bad)
    assert "onerror" not in source and "javascript" not in source


def test_a_page_of_texts_has_no_image():
    source = page(demo_run(seeds=(0,), strategies=("entropy",), sizes=(100, 200)))
    assert "<img" not in source and 'class="picks"' in source
    assert "with score, label and text." in source
