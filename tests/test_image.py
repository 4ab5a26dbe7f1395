"""Images as model inputs: every file that is one, the authors' transforms, and nothing random in evaluation."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_images import encode, image_rows, toy_images

from svp_nlp.errors import ModelError, PoolError
from svp_nlp.models import image as adapter
from svp_nlp.models.image import image_examples, images_of, log_resized, normalize
from svp_nlp.pictures import probe_image

RGB = np.random.default_rng(0).integers(0, 256, (24, 36, 3)).astype(np.uint8)
PICTURE = Image.fromarray(RGB)


def pixels_of(*images: bytes, size: int = 16, rng: np.random.Generator | None = None, **options: Any) -> np.ndarray:
    """uint8 [B, S, S, 3] of all of them."""
    examples = image_examples(image_rows(list(images)), size=size, **options)
    batch = examples.collate(np.arange(len(images)), rng=rng)["pixel_values"]
    return batch.permute(0, 2, 3, 1).numpy()


def smooth(width: int, height: int) -> Image.Image:
    """Large and without detail: any way to make it smaller gives about the same."""
    return Image.fromarray(RGB[:6, :8]).resize((width, height), Image.Resampling.BICUBIC)


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_an_image_of_the_right_size_keeps_its_levels_in_every_lossless_format(kind):
    grey = Image.fromarray(RGB[:16, :16, 0]) if kind == "GIF" else Image.fromarray(RGB[:16, :16])
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(pixels_of(encode(grey, kind, **options))[0], np.asarray(grey.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_modes_become_rgb_as_pil_converts_them(mode):
    picture = Image.fromarray(RGB[:16, :16]).convert(mode)
    data = encode(picture, "JPEG" if mode == "CMYK" else "PNG", **({"quality": 100} if mode == "CMYK" else {}))
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(pixels_of(data)[0], np.asarray(expected))


def test_a_palette_with_transparent_colours_keeps_its_colours_and_does_not_warn():
    picture = Image.fromarray(RGB[:16, :16]).quantize(64)
    data = encode(picture, transparency=bytes(range(0, 256, 4)))
    np.testing.assert_array_equal(pixels_of(data)[0], np.asarray(picture.convert("RGB")))


def test_sixteen_bits_are_scaled_not_clipped():
    levels = np.linspace(0, 0xFFFF, 256).astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels_of(encode(Image.fromarray(levels), kind))[0, ..., 1], levels >> 8)


def test_floats_are_refused_because_their_range_is_unknown():
    data = encode(Image.fromarray(RGB[..., 0].astype(np.float32)), "TIFF")
    with pytest.raises(PoolError, match=r"image 0 of this batch has floats for pixels"):
        pixels_of(data)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(orientation):
    turns = {number: turn for number, turn in adapter._TURNS.items() if number == orientation}
    expected = PICTURE.transpose(turns[orientation]) if turns else PICTURE
    np.testing.assert_array_equal(
        pixels_of(encode(PICTURE, exif=exif(orientation)))[0],
        np.asarray(expected.resize((16, 16), Image.Resampling.BILINEAR)),
    )


def test_a_badly_written_exif_is_ignored():
    plain = pixels_of(encode(smooth(64, 64), "JPEG"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's
        for bad in (b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0nothing"):
            np.testing.assert_array_equal(pixels_of(encode(smooth(64, 64), "JPEG", exif=bad)), plain)


def test_one_pixel_and_extreme_shapes_are_images():
    for width, height in ((1, 1), (1, 300), (300, 1)):
        data = encode(Image.new("RGB", (width, height), (10, 20, 30)))
        for options in ({}, {"evaluation": "center_crop"}, {"train": "random_resized_crop"}):
            for rng in (None, np.random.default_rng(0)):
                assert (pixels_of(data, rng=rng, **options) == [10, 20, 30]).all()


def test_sizes_may_be_mixed_and_only_others_are_counted_as_resized(caplog):
    images = [encode(smooth(width, height)) for width, height in ((16, 16), (16, 17), (40, 8))]
    with caplog.at_level("INFO", logger=adapter.__name__):
        examples = image_examples(image_rows(images), size=16)
        assert examples.resized == 2 and caplog.text == ""
        log_resized(examples)
    assert "2 of 3 images are not 16 x 16 pixels" in caplog.text
    assert image_examples(image_rows(images), size=16, cache_bytes=0).resized is None


def png_of(width: int, height: int) -> bytes:
    """The header of a PNG that says how large it is, without its pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "text": (b"no picture at all", "is not an image of a known format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image of a known format"),
    "truncated png": (encode(PICTURE)[:-900], "is damaged .*truncated"),
    "truncated jpeg": (encode(PICTURE, "JPEG")[:700], "is damaged .*truncated"),
    "truncated gif": (encode(PICTURE.convert("P"), "GIF")[:-600], "is damaged"),
    "no pixels": (png_of(5, 5), "is damaged"),
    "huge": (png_of(10_000, 10_000), r"100,?000,?000 pixels.* limit .*89,?478,?485"),
    "vast": (png_of(60_000, 60_000), r"3,600,000,000 pixels.* limit .*89,478,485"),
    "one letter": (b"P", "is not an image of a known format"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_image_is_refused_by_its_place_in_one_line(what):
    data, reason = BAD[what]
    rows = image_rows([encode(PICTURE), data])
    for positions_N, name in (
        (None, "image 1 of this batch"),
        (np.array([7, 4_000]), "the image at pool position 4000"),
    ):
        with pytest.raises(PoolError, match=f"^{name} .*{reason}") as caught:
            image_examples(rows, size=8, positions_N=positions_N)
        assert "\n" not in str(caught.value) and ("leave the row out" in str(caught.value))
    examples = image_examples(rows, size=8, cache_bytes=0)  # decoded batch by batch: only a batch with it fails
    examples.collate(np.array([0]))
    with pytest.raises(PoolError, match="image 1 of this batch"):
        examples.collate(np.array([0, 1]))


def test_the_limit_of_pixels_is_an_error_where_pil_only_warns():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(PoolError, match="has 100,000,000 pixels, the limit is 89,478,485"):
            probe_image(BAD["huge"][0])
    assert told == []


def test_the_first_of_several_bad_images_is_named_whatever_the_threads(monkeypatch):
    monkeypatch.setenv("SVP_NUM_THREADS", "4")
    images = toy_images(300)[0]
    images[150] = images[299] = b"bad"
    for _ in range(3):
        with pytest.raises(PoolError, match="image 150 "):
            image_examples(image_rows(images), size=16)


def test_a_header_is_probed_without_its_pixels():
    assert probe_image(encode(PICTURE)) == (36, 24, "RGB")
    assert probe_image(encode(PICTURE.convert("L"), "JPEG")[:400], name="x") == (36, 24, "L")
    assert probe_image(png_of(5, 6)) == (5, 6, "RGB")
    with pytest.raises(PoolError, match=r"^the picture is empty"):
        probe_image(b"", name="the picture")


def test_the_column_must_hold_bytes():
    assert len(images_of(pa.table({"image": pa.array([b"x"], pa.binary())}))) == 1
    with pytest.raises(ModelError, match=r"column 'image'; found \['text'\]"):
        images_of(pa.table({"text": ["a text"]}))
    with pytest.raises(ModelError, match="of type string; the model expects binary"):
        images_of(pa.table({"image": ["a path"]}))
    with pytest.raises(PoolError, match="image 1 of this batch is empty"):
        image_examples(pa.table({"image": pa.array([encode(PICTURE), None], pa.large_binary())}), size=8)


def test_options_that_do_not_fit_are_refused():
    rows = image_rows([encode(PICTURE)])
    with pytest.raises(ModelError, match="one of mean and std"):
        image_examples(rows, size=8, mean=(0, 0, 0))
    with pytest.raises(ModelError, match=r"resize_to is 4, the crop is 8 x 8"):
        image_examples(rows, size=8, evaluation="center_crop", resize_to=4)


@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (300, 300), (90, 40), (641, 333)])
def test_the_centre_crop_is_that_of_resizing_first_and_cropping_then(shape):
    picture = smooth(*shape)
    short = min(shape)
    width, height = (int(64 * side / short) if side != short else 64 for side in shape)
    whole = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 56) / 2), round((height - 56) / 2)
    expected = np.asarray(whole.crop((left, top, left + 56, top + 56)), np.int64)
    found = pixels_of(encode(picture), size=56, evaluation="center_crop")[0]
    assert np.abs(found - expected).max() <= 1
    np.testing.assert_array_equal(pixels_of(encode(picture), size=56, evaluation="center_crop", resize_to=64)[0], found)


def test_a_large_jpeg_is_decoded_small_to_about_the_same_pixels(monkeypatch):
    data = encode(smooth(1600, 1200), "JPEG", quality=95, exif=exif(6))
    for options in ({}, {"evaluation": "center_crop"}):
        small = pixels_of(data, size=56, **options).astype(np.int64)
        with monkeypatch.context() as patched:
            patched.setattr(adapter, "_DRAFT_GAP", 10_000)
            whole = pixels_of(data, size=56, **options)
        assert 0 < np.abs(small - whole).max() <= 6  # that is, it did happen


def test_pad_crop_flip_is_a_crop_of_the_black_framed_image_or_its_mirror():
    images, _ = toy_images(64, size=12)
    plain, augmented = pixels_of(*images, size=12), pixels_of(*images, size=12, train="pad_crop_flip",
                                                              rng=np.random.default_rng(3))  # fmt: skip
    seen = []
    for pixels, found in zip(plain, augmented, strict=True):
        framed = np.pad(pixels, ((4, 4), (4, 4), (0, 0)))
        (match,) = {
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (1, -1)
            if (framed[top : top + 12, left : left + 12][:, ::flip] == found).all()
        }
        seen.append(match)
    assert len(set(seen)) > 40 and {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))
    assert 20 < sum(flip == -1 for _, _, flip in seen) < 45


@settings(deadline=None, max_examples=200)
@given(width=st.integers(1, 700), height=st.integers(1, 700), seed=st.integers(0, 2**32))
def test_random_boxes_lie_inside_and_are_of_the_stated_shapes(width, height, seed):
    draws_A4 = np.random.default_rng(seed).random((10, 4))
    left, top, right, bottom = adapter._random_box(width, height, draws_A4)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    if min(width, height) > 100 and max(width, height) < 2 * min(width, height):
        assert 0.074 < (right - left) * (bottom - top) / (width * height) <= 1
        assert 0.72 < (right - left) / (bottom - top) < 1.39


def test_random_crops_spread_over_areas_and_places():
    boxes = [adapter._random_box(400, 400, draws_A4) for draws_A4 in np.random.default_rng(0).random((2_000, 10, 4))]
    areas = np.array([(right - left) * (bottom - top) / 160_000 for left, top, right, bottom in boxes])
    assert abs(areas.mean() - 0.52) < 0.05  # a little below the middle of 8 and 100 %: the largest do not fit
    assert areas.min() < 0.1 and areas.max() > 0.9
    centres = np.array([(left + right) / 2 for left, _, right, _ in boxes])
    assert abs(centres.mean() - 200) < 5


@pytest.mark.parametrize("train", ["pad_crop_flip", "random_resized_crop"])
@pytest.mark.parametrize("cache_bytes", [0, adapter.CACHE_BYTES])
def test_evaluation_is_never_augmented_and_training_is_a_function_of_its_generator(train, cache_bytes):
    images, _ = toy_images(30, size=24)
    rows = image_rows(images)
    examples = image_examples(rows, size=16, train=train, cache_bytes=cache_bytes)
    plain = image_examples(rows, size=16).collate(np.arange(30))["pixel_values"]
    batches = [examples.collate(np.arange(30), rng=np.random.default_rng(seed))["pixel_values"] for seed in (1, 1, 2)]
    assert batches[0].equal(batches[1]) and not batches[0].equal(batches[2])
    assert not batches[0].equal(plain)
    assert examples.collate(np.arange(30), rng=None)["pixel_values"].equal(plain)
    assert examples.collate(np.array([7, 7, 3]), rng=None)["pixel_values"].equal(plain[[7, 7, 3]])


@pytest.mark.parametrize("train", ["none", "pad_crop_flip", "random_resized_crop"])
def test_neither_threads_nor_the_cache_change_a_pixel(train, monkeypatch):
    rows = image_rows([encode(smooth(60 + k, 50), "JPEG") for k in range(20)])
    found = []
    for threads, cache_bytes in (("1", 0), ("5", 0), ("2", adapter.CACHE_BYTES)):
        monkeypatch.setenv("SVP_NUM_THREADS", threads)
        examples = image_examples(rows, size=16, train=train, cache_bytes=cache_bytes)
        found.append(examples.collate(np.arange(20)[::-1].copy(), rng=np.random.default_rng(0))["pixel_values"])
    assert found[0].equal(found[1]) and found[0].equal(found[2])


def test_levels_are_normalised_by_channel_and_lie_channels_innermost():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    rows = image_rows(toy_images(5)[0])
    levels = image_examples(rows, size=16).collate(np.arange(5))["pixel_values"]
    values = image_examples(rows, size=16, mean=mean, std=std).collate(np.arange(5))["pixel_values"]
    assert (str(levels.dtype), str(values.dtype)) == ("torch.uint8", "torch.float32")
    expected = (levels.permute(0, 2, 3, 1).numpy() / 255 - mean) / std
    np.testing.assert_allclose(values.permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=1e-6)
    assert values.permute(0, 2, 3, 1).is_contiguous() and levels.permute(0, 2, 3, 1).is_contiguous()
    assert normalize(levels, mean=mean, std=std).equal(values)


def test_augmenting_does_not_change_what_is_kept():
    examples = image_examples(image_rows(toy_images(8)[0]), size=16, train="pad_crop_flip")
    before = examples.collate(np.arange(8))["pixel_values"].clone()
    batch = examples.collate(np.arange(8), rng=np.random.default_rng(0))["pixel_values"]
    batch.zero_()
    examples.collate(np.arange(8))["pixel_values"].zero_()
    assert examples.collate(np.arange(8))["pixel_values"].equal(before)


def test_no_image_is_an_empty_batch():
    examples = image_examples(image_rows([]), size=8)
    assert len(examples) == 0
    assert examples.collate(np.arange(0))["pixel_values"].shape == (0, 3, 8, 8)
