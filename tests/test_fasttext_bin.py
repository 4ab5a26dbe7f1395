"""fastText's file format: what we write we read, and nothing that is damaged loads."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from svp_nlp.errors import ModelError
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.fasttext import FastTextLearner, FastTextPredictor, FastTextSpec
from svp_nlp.models.fasttext_bin import class_names_of, label_of, read_bin, write_bin

NAMES = ("two words", "100 %", "new\nline\x00", "", "日本", "__label__x", "%20")
TEXTS = ["cat dog", "saw drill nail", "é x", "a b c", "", "one", "two three"]


def fitted(**options: object) -> FastTextPredictor:
    rows = pa.table({"text": pa.array(TEXTS)})
    train = Labeled(rows, np.arange(7), np.arange(7), NAMES)
    spec = FastTextSpec(**{"bucket": 300, "dim": 3, "epochs": 5, "normalize": "none", **options})
    predictor = FastTextLearner(spec).fit(train, dev=None, seed=0, context=FitContext())
    assert isinstance(predictor, FastTextPredictor)
    return predictor


@given(st.lists(st.text(), unique=True, min_size=1, max_size=5))
@example(["%20", " ", "%2520", "%", "%41"])
def test_every_class_name_survives_as_a_label(names):
    labels = [label_of(name) for name in names]
    assert not any(set(label) & set(b" \t\n\v\f\r\0") for label in labels)
    assert class_names_of(labels, "here") == tuple(names)


def test_labels_of_others_stay_distinct():
    assert class_names_of([b"__label__a%20b", b"__label__c"], "") == ("a b", "c")
    assert class_names_of([b"__label__%25", b"__label__%"], "") == ("%25", "%")
    assert class_names_of([b"__label__%zz%41"], "") == ("%zz%41",)
    with pytest.raises(ModelError, match="UTF-8"):
        class_names_of([b"__label__\xff"], "here")


@pytest.mark.parametrize("word_ngrams", [1, 2, 3])
@pytest.mark.parametrize("bucket", [1, 300, 100_000])
def test_written_and_read_is_the_same_model(tmp_path, word_ngrams, bucket):
    ours = fitted(word_ngrams=word_ngrams, bucket=bucket)
    write_bin(ours, tmp_path / "m.bin")
    again = read_bin(tmp_path / "m.bin")
    assert again.class_names == NAMES
    batch = pa.table({"text": pa.array([*TEXTS, "cat saw", "unseen words"])})
    assert np.array_equal(again.predict(batch).probs_BC, ours.predict(batch).probs_BC)
    write_bin(again, tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "m.bin").read_bytes()


def test_a_large_bucket_is_mostly_a_hole(tmp_path):
    write_bin(fitted(bucket=10_000_000), tmp_path / "m.bin")
    status = (tmp_path / "m.bin").stat()
    assert status.st_size > 120_000_000
    if status.st_blocks * 512 > 60_000_000:
        pytest.skip("this file system has no holes")


def test_no_truncated_file_loads(tmp_path):
    write_bin(fitted(bucket=20), tmp_path / "m.bin")
    data = (tmp_path / "m.bin").read_bytes()
    cut = tmp_path / "cut.bin"
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        with pytest.raises(ModelError):
            read_bin(cut)
    cut.write_bytes(data + b"\0")
    with pytest.raises(ModelError, match="1 bytes too many"):
        read_bin(cut)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_changed_byte_never_crashes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "changed.bin"
    original = path.with_name("original.bin")
    if not original.exists():
        write_bin(fitted(bucket=20), original)
    content = bytearray(original.read_bytes())
    place = data.draw(st.integers(0, min(len(content), 300) - 1) | st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        predictor = read_bin(path)
    except ModelError:
        return
    assert predictor.predict(pa.table({"text": pa.array(TEXTS)})).probs_BC.shape == (7, 7)


def test_word_offsets_of_the_header_are_where_fasttext_has_them(tmp_path):
    write_bin(fitted(), tmp_path / "m.bin")
    header = struct.unpack_from("<14i", (tmp_path / "m.bin").read_bytes())
    assert header[:3] == (793712314, 12, 3) and header[7:9] == (2, 3) and header[9:11] == (3, 300)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(8 + 4 * 6, 1, "softmax"), (8 + 4 * 7, 1, "word vectors"), (8 + 4 * 10, 6, "subwords"), (4, 11, "version")],
)
def test_other_kinds_of_models_are_refused_by_name(tmp_path, place, value, message):
    path = tmp_path / "m.bin"
    write_bin(fitted(), path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<i", content, place, value)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_bin(path)


def test_quantised_models_of_the_package_are_refused(tmp_path):
    fasttext = pytest.importorskip("fasttext")
    train = tmp_path / "train.txt"
    train.write_text("".join(f"__label__{i % 2} w{i} w{i + 1} w{i + 2}\n" for i in range(600)), encoding="utf-8")
    model = fasttext.train_supervised(input=str(train), dim=10, wordNgrams=2, bucket=1000, thread=20, verbose=0)
    model.quantize(input=str(train), cutoff=400, retrain=False)
    model.save_model(str(tmp_path / "m.ftz"))
    with pytest.raises(ModelError, match="quantised"):
        read_bin(tmp_path / "m.ftz")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\0" * 1000])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "m.bin").write_bytes(content)
    with pytest.raises(ModelError):
        read_bin(tmp_path / "m.bin")
    with pytest.raises(ModelError, match="expected a fastText"):
        read_bin(tmp_path / "absent.bin")


def test_a_model_without_words_is_not_written(tmp_path):
    with pytest.raises(ModelError, match="no word"):
        write_bin(fitted(min_count=99), tmp_path / "m.bin")
    assert list(tmp_path.iterdir()) == []
