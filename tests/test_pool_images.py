"""Pools whose rows are images, and pools of a part of the rows."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value
from PIL import Image as Picture
from toy_images import write_images

from svp_nlp import load_pool
from svp_nlp.data import labeled_rows
from svp_nlp.errors import PoolError, RecipeError
from svp_nlp.models.image import image_examples
from svp_nlp.pool_images import BLACK, read_image
from svp_nlp.pool_labels import overlap, read_labels
from svp_nlp.recipe import make_recipe


def picture(number: int, *, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), np.uint8)
    Picture.fromarray(pixels).save(file, kind)
    return file.getvalue()


def contents(rows: pa.Table) -> list[bytes]:
    return [read_image(value) for value in rows["image"]]


def test_rows_are_the_encoded_bytes_and_ids_their_hash(tmp_path):
    images = [picture(number) for number in range(5)]
    pool = load_pool(write_images(tmp_path / "a.parquet", images), image_column="image")
    assert pool.take([3, 0, 3])["image"].to_pylist() == [images[3], images[0], images[3]]
    batch = next(iter(pool.batches(pool.shards()[0], 4)))
    assert batch.column_names == ["image"] and batch["image"].to_pylist() == images[:4]
    moved = load_pool(write_images(tmp_path / "b.parquet", images[::-1]), image_column="image")
    assert pool.ids(range(5)).to_pylist() == moved.ids([4, 3, 2, 1, 0]).to_pylist()
    assert pool.fingerprint != moved.fingerprint
    assert read_labels(pool, "label").class_names == ("cat", "dog")


def test_missing_and_repeated_images_cannot_be_picked(tmp_path):
    images = [picture(0), None, picture(1), picture(0), b""]
    pool = load_pool(write_images(tmp_path / "a.parquet", images), image_column="image")
    assert pool.usable_N.tolist() == [True, False, True, False, False]
    assert pool.check.first_duplicates == ((3, 0),)
    assert contents(pool.take([4, 2, 1, 0])) == [BLACK, images[2], BLACK, images[0]]  # scored, never picked
    assert contents(next(pool.batches(pool.shards()[0], 9))) == [images[0], BLACK, images[2], images[0], BLACK]
    test = load_pool(write_images(tmp_path / "t.parquet", [picture(9), picture(1)]), image_column="image")
    assert overlap(pool, test).first == ((2, 1),)


def test_a_folder_of_image_files_has_the_same_rows_as_a_table_of_them(tmp_path):
    images = {name: [picture(10 * row + number, kind="JPEG") for number in range(3)]
              for row, name in enumerate(("cat", "dog"))}  # fmt: skip
    for name, files in images.items():
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        for number, data in enumerate(files):
            (tmp_path / "photos" / "train" / name / f"{number}.jpeg").write_bytes(data)
    folder = load_pool(tmp_path / "photos", image_column="image")
    assert contents(folder.take([5, 1, 2])) == [images["dog"][2], *images["cat"][1:]]
    labels = [0, 0, 0, 1, 1, 1]
    table = load_pool(write_images(tmp_path / "a.parquet", images["cat"] + images["dog"], labels), image_column="image")
    assert folder.fingerprint == table.fingerprint
    sets = [labeled_rows(pool, "label", ("cat", "dog"))[0] for pool in (folder, table)]
    assert sets[0].fingerprint == sets[1].fingerprint
    assert read_labels(folder, "label").labels_N.tolist() == labels
    (tmp_path / "photos" / "train" / "dog" / "1.jpeg").unlink()
    examples = image_examples(folder.take(range(6)), size=4, cache_bytes=0)  # a file is read when it is decoded
    examples.collate(np.array([3, 5]))
    with pytest.raises(PoolError, match=r"1\.jpeg: the image cannot be read"):
        examples.collate(np.array([3, 4]))


@pytest.mark.parametrize("rows", [None, 30])
def test_no_image_is_copied_into_memory_before_it_is_decoded(tmp_path, rows):
    images = [picture(number) + bytes(20_000) for number in range(40)]  # PIL stops where the picture ends
    pool = load_pool(write_images(tmp_path / "a.parquet", [*images, None]), image_column="image", rows=rows)
    before = pa.total_allocated_bytes()
    train = labeled_rows(pool, "label", ("cat", "dog"))[0]
    batch = next(pool.batches(pool.shards()[0], 25))
    table = pool.dataset(np.arange(len(pool))[::-1])
    assert len(train.fingerprint) == 32 and train.fingerprint is train.fingerprint
    shuffled = pool.take(np.random.default_rng(0).permutation(len(pool)))
    assert pa.total_allocated_bytes() - before < 30_000  # not two images
    assert len(set(contents(shuffled))) == len(shuffled) and len(table) == len(pool)
    assert contents(batch) == contents(pool.take(range(25)))
    assert all(image in images for image in contents(train.rows)) and len(train) == pool.check.usable


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "for images, name 'image' as image_column"),
        ({"text_columns": "image"}, "expected texts; name it as image_column"),
        ({"image_column": "label"}, "'label' is of type int64; expected images"),
        ({"image_column": "imag"}, "did you mean 'image'"),
        ({"image_column": "image", "rows": 3}, "rows is 3; expected at most the 2"),
        ({"image_column": "image", "id_column": "image"}, "expected text"),
    ],
)
def test_a_wrong_column_is_told_what_to_write(tmp_path, options, said):
    path = write_images(tmp_path / "a.parquet", [picture(0), picture(1)])
    with pytest.raises(PoolError, match=said):
        load_pool(path, **options)


def test_what_is_no_image_is_refused_when_the_pool_is_opened_with_its_positions(tmp_path, monkeypatch):
    path = write_images(tmp_path / "a.parquet", [picture(0), b"GIF8 but no more", None, picture(1), b"text"])
    with pytest.raises(PoolError, match=r"2 images cannot be read: position 1: .*not an image.*; position 4: "):
        load_pool(path, image_column="image")
    monkeypatch.setattr(Picture, "MAX_IMAGE_PIXELS", 29)
    path = write_images(tmp_path / "b.parquet", [picture(2), picture(3)])
    with pytest.raises(PoolError, match=r"2 images cannot be read.*30 pixels"):
        load_pool(path, image_column="image")


def flipped(data: bytes) -> bytes:
    """One bit of the pixels of a PNG, which PIL passes over if its EXIF is read first."""
    damaged = bytearray(data)
    damaged[data.index(b"IDAT") + 12] ^= 16
    return bytes(damaged)


def test_what_decodes_to_no_whole_picture_is_refused_when_the_pool_is_opened_with_its_file(tmp_path, monkeypatch):
    damaged = {"a": picture(1, kind="JPEG")[:-40], "b": flipped(picture(2)), "c": picture(3)}
    for name, data in damaged.items():
        path = tmp_path / "photos" / "train" / ("cat" if name == "a" else "dog") / f"{name}.img"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".jpg" if name == "a" else ".png").write_bytes(data)
    with pytest.raises(PoolError, match=r"2 images cannot be read: position 0 \(.*a\.jpg\): .*damaged.*b\.png\): "):
        load_pool(tmp_path / "photos", image_column="image")
    # Of a pool beyond the limit only headers are read; the pixels are refused by whoever decodes them.
    monkeypatch.setattr("svp_nlp.pool._DECODED_BYTES", 0)
    pool = load_pool(write_images(tmp_path / "b.parquet", [*damaged.values(), picture(4)]), image_column="image")
    for row in range(2):
        with pytest.raises(PoolError, match="image 0 of this batch is damaged"):
            image_examples(pool.take([row]), size=8)
    assert len(image_examples(pool.take([2, 3]), size=8)) == 2


def test_no_image_at_all_is_refused(tmp_path):
    path = write_images(tmp_path / "a.parquet", [None, None])
    with pytest.raises(PoolError, match=r"all 2 rows are blank .* expected images"):
        load_pool(path, image_column="image")


def test_a_part_of_the_rows_is_the_same_one_always_and_not_the_first(tmp_path):
    features = Features({"text": Value("string"), "label": Value("int64")})
    rows = {"text": [f"text {number}" for number in range(400)], "label": [number // 200 for number in range(400)]}
    path = tmp_path / "sorted.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(str(path))
    whole, part = load_pool(path), load_pool(path, rows=100)
    assert len(part) == 100 and 30 < sum(part.column("label").to_pylist()) < 70
    assert part.ids(range(100)).to_pylist() == load_pool(path, rows=100).ids(range(100)).to_pylist()
    kept = [int(text.split()[1]) for text in part.take(range(100))["text"].to_pylist()]
    assert kept == sorted(kept)
    assert part.fingerprint != whole.fingerprint and load_pool(path, rows=400).fingerprint == whole.fingerprint
    more = [int(text.split()[1]) for text in load_pool(path, rows=150).take(range(150))["text"].to_pylist()]
    assert set(kept) < set(more)


@pytest.mark.parametrize(
    ("image_column", "proxy", "said"),
    [("image", "fasttext", "fasttext reads texts, the pool has images"), (None, "fasttext", None)],
)
def test_a_learner_of_another_modality_is_refused_before_any_work(image_column, proxy, said):
    values = {
        "mode": "core_set",
        "pool": {"path": "x.parquet", "image_column": image_column},
        "proxy": {"kind": proxy},
        "strategies": ["random"],
        "labeled_sizes": ["10%"],
        "baselines": [],
    }
    if said is None:
        assert make_recipe(values).pool.image_column is None
        return
    with pytest.raises(RecipeError, match=said):
        make_recipe(values)
