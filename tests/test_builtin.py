"""The built-in pools: real text, the same for the same installation; pictures, the same everywhere."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Image
from PIL import Image as Pictures

from svp_nlp import builtin, builtin_shapes
from svp_nlp.errors import PoolError
from svp_nlp.pool import PoolRef
from svp_nlp.pool_labels import overlap, read_labels

SOURCE = '''
"""Module text that is long enough to be a paragraph of the pool, by pandas and about arrays."""

raise SystemExit("nothing of a library may run")

class Thing:
    """Short summary.

    A second paragraph of running text with more than enough letters, {serial}.

    Parameters
    ----------
    name : str
        A description of a parameter that is long enough but belongs to a table of parameters.

    >>> doctest = "is not running text, however long the line happens to be in this place"
    """

    if True:
        def method(self):
            """A method inside a condition has a docstring with enough words in it as well, {serial}."""

def broken():
    "One line, too short."
'''


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """Three libraries of 30 modules; in each file four paragraphs, of which the first is the same everywhere."""
    monkeypatch.setenv("SVP_CACHE", str(tmp_path / "cache"))
    found = {}
    for name in ("alpha", "beta", "gamma"):
        found[name] = tmp_path / name
        (found[name] / "tests").mkdir(parents=True)
        for module in range(30):
            text = SOURCE.replace("{serial}", f"number {name} of module {module}")
            (found[name] / f"m{module}.py").write_text(text)
        (found[name] / "tests" / "test_it.py").write_text(SOURCE.replace("{serial}", "of a test that is left out"))
        (found[name] / "broken.py").write_text("def (")
        (found[name] / "latin.py").write_bytes(b'"""caf\xe9 ' + b"word " * 30 + b'"""')
    monkeypatch.setattr(builtin, "_installed", lambda: found)
    monkeypatch.setattr(builtin, "_FEWEST_ROWS", 5)
    return found


def _rows(split: str) -> list[tuple[str, str]]:
    pool = PoolRef("builtin:docstrings", split=split).open()
    column = read_labels(pool, "label")
    texts = pool.take(np.arange(len(pool)))["text"].to_pylist()
    return [(text, column.class_names[label]) for text, label in zip(texts, column.labels_N, strict=True)]


def test_prose_is_kept_and_tables_doctests_and_shared_text_are_not(libraries):
    rows = _rows("train") + _rows("test")
    expected = {
        (text, name)
        for name in libraries
        for module in range(30)
        for text in (
            f"A second paragraph of running text with more than enough letters, number {name} of module {module}.",
            "A method inside a condition has a docstring with enough words in it as well, "
            f"number {name} of module {module}.",
        )
    }
    assert set(rows) == expected
    assert len(rows) == len(expected)


def test_both_splits_have_rows_and_share_none(libraries):
    train, test = PoolRef("builtin:docstrings").open(), PoolRef("builtin:docstrings", split="test").open()
    assert 0.05 < len(test) / (len(train) + len(test)) < 0.3
    assert overlap(train, test).count == 0
    assert train.check.usable == len(train)
    assert read_labels(train, "label").class_names == ("alpha", "beta", "gamma")


def test_the_same_files_give_the_same_pool_wherever_they_lie(libraries, tmp_path, monkeypatch):
    first = PoolRef("builtin:docstrings").open()
    moved = {name: root.rename(tmp_path / f"moved-{name}") for name, root in reversed(libraries.items())}
    monkeypatch.setattr(builtin, "_installed", lambda: dict(sorted(moved.items())))
    monkeypatch.setenv("SVP_CACHE", str(tmp_path / "another-cache"))
    assert PoolRef("builtin:docstrings").open().fingerprint == first.fingerprint


def test_rows_per_library_are_capped(libraries, monkeypatch):
    monkeypatch.setattr(builtin, "_ROWS_PER_LIBRARY", 20)
    rows = _rows("train") + _rows("test")
    # Of the 20, one is the paragraph that all libraries share.
    assert [sum(name == library for _, name in rows) for library in libraries] == [19, 19, 19]


def test_names_of_the_libraries_are_masked():
    masked = {
        "Convert a NumPy array or pd.DataFrame to PyTorch.": "Convert a library array or library.DataFrame to library.",
        "As in scikit-learn, or a datasets.Dataset": "As in library, or a library.Dataset",
        "expand the input, npz": "expand the input, npz",
    }
    for text, expected in masked.items():
        assert builtin._GIVEAWAYS.sub("library", text) == expected


def test_the_second_call_builds_nothing(libraries, monkeypatch):
    first = builtin.build_builtin("builtin:docstrings")
    monkeypatch.setattr(builtin, "_write_docstrings", None)
    assert builtin.build_builtin("builtin:docstrings") == first


def test_another_version_of_a_library_builds_another_pool(libraries, monkeypatch):
    first = builtin.build_builtin("builtin:docstrings")
    monkeypatch.setattr(builtin, "_version", lambda name: "2")
    assert builtin.build_builtin("builtin:docstrings") != first


def test_an_unknown_name_is_refused_with_what_there_is():
    with pytest.raises(PoolError, match="did you mean 'builtin:docstrings'"):
        PoolRef("builtin:docstring").open()
    with pytest.raises(PoolError, match="there is builtin:docstrings, builtin:shapes"):
        PoolRef("builtin:shape").open()
    with pytest.raises(PoolError, match=r"no split 'dev'; it has 'train', 'test': .*--set test\.split=test"):
        PoolRef("builtin:docstrings", split="dev").open()
    with pytest.raises(PoolError, match="leave them out"):
        PoolRef("builtin:docstrings", revision="main").open()


def test_no_library_at_all_is_an_error(libraries, monkeypatch):
    monkeypatch.setattr(builtin, "_FEWEST_ROWS", 10_000)
    with pytest.raises(PoolError, match="no library with enough docstrings"):
        PoolRef("builtin:docstrings").open()


def test_every_library_is_looked_up_without_running_it():
    found = builtin._installed()
    assert len(found) >= 8
    for name, root in found.items():
        spec = importlib.util.find_spec(name)
        assert spec is not None and root == Path(next(iter(spec.submodule_search_locations or [])))
        assert builtin._version(name) != "unknown"


def test_this_installation_gives_a_pool_of_real_size():
    # Not in a private cache: built once per installation, about ten seconds.
    pool = PoolRef("builtin:docstrings").open()
    column = read_labels(pool, "label")
    assert len(pool) >= 10_000
    assert len(column.class_names) >= 8
    assert column.unlabelled == 0
    assert list(column.class_names) == sorted(column.class_names)


def test_shapes_are_the_same_bytes_on_every_machine():
    # Content ids hash the files: another hash here means another pool everywhere, and `_FORMAT` must be raised.
    files = b"".join(builtin_shapes.encode_png(image) for image in builtin_shapes.draw(np.arange(0, 7_000, 100)))
    assert hashlib.sha256(files).hexdigest() == "f00d230233bdf5260f3229d9ece2e6e84df644f62b5c89dc57697c60dff5b221"


def test_a_shape_depends_on_its_row_alone():
    rows = np.array([6_999, 3, 4, 0])
    together = builtin_shapes.draw(rows)
    for row, image in zip(rows, together, strict=True):
        assert (builtin_shapes.draw(np.array([row]))[0] == image).all()
    assert len(np.unique(builtin_shapes.draw(np.arange(300)).reshape(300, -1), axis=0)) == 300


def test_the_png_holds_the_picture():
    rng = np.random.default_rng(0)
    for height, width in ((32, 32), (1, 1), (3, 7)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        with Pictures.open(io.BytesIO(builtin_shapes.encode_png(image))) as opened:
            opened.verify()
        with Pictures.open(io.BytesIO(builtin_shapes.encode_png(image))) as opened:
            assert (opened.format, opened.mode) == ("PNG", "RGB")
            assert (np.asarray(opened) == image).all()


def test_shapes_open_as_a_dataset_of_images_with_eight_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("SVP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(builtin, "_SHAPES", {"train": (0, 300), "test": (300, 400)})
    files = builtin.build_builtin("builtin:shapes")
    sets = {split: Dataset.from_file(str(file)) for split, file in files.items()}
    assert {split: len(rows) for split, rows in sets.items()} == {"train": 300, "test": 100}
    assert sets["train"].features == {"image": Image(), "label": ClassLabel(names=list(builtin_shapes.CLASSES))}
    assert sets["test"][0]["image"].size == (32, 32)
    assert sets["test"]["label"][:] == builtin_shapes.labels_of(np.arange(300, 400)).tolist()
    assert np.bincount(sets["train"]["label"], minlength=8).min() > 20


def test_every_shape_stands_out_from_its_ground_in_most_rows():
    rows = np.arange(400)
    images = builtin_shapes.draw(rows).astype(float)
    middle, edge = images[:, 12:20, 12:20].mean((1, 2, 3)), images[:, :2].mean((1, 2, 3))
    labels = builtin_shapes.labels_of(rows)
    for number, name in enumerate(builtin_shapes.CLASSES):
        if name not in ("ring", "crescent"):  # whose middle is the ground
            assert np.mean((middle > edge)[labels == number]) > 0.8
