"""The native fastText against a few lines of plain Python, and against the official package where it is installed."""

from __future__ import annotations

import math
import string

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp.models import fasttext_kernels as kernels
from svp_nlp.models import fasttext_native as native
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.fasttext import FastTextLearner, FastTextSpec
from svp_nlp.models.fasttext_bin import read_bin, write_bin

WORDS = st.sampled_from(["a", "b", "é", "naïve", "word", "</s>", "__label__0", "__label__", "_", "<", "日本", "x" * 40])
GAPS = st.sampled_from([" ", "  ", "\n", "\t", "\x00", "\r\n", "\u2028 "])
TEXTS = st.lists(st.tuples(WORDS | st.text(max_size=5), GAPS), max_size=12).map(lambda p: "".join(map("".join, p)))


def fnv1a(word: bytes) -> int:
    h = 2166136261
    for byte in word:
        h = ((h ^ ((byte - 256 if byte > 127 else byte) % 2**32)) * 16777619) % 2**32
    return h


def tokens(text: str) -> list[bytes]:
    found = [t for t in text.encode().translate(bytes.maketrans(b"\0\t\n\v\f\r", b" " * 6)).split(b" ") if t]
    return [t for t in found if t != b"</s>" and not t.startswith(b"__label__")] + [b"</s>"]


def buckets(text: str, word_ngrams: int, bucket: int) -> list[int]:
    hashes = [h - 2**32 if h >= 2**31 else h for h in map(fnv1a, tokens(text))]
    found = []
    for i in range(len(hashes)):
        h = hashes[i] % 2**64
        for j in range(i + 1, min(i + word_ngrams, len(hashes))):
            h = (h * 116049371 + hashes[j]) % 2**64
            found.append((j - i, i, h % bucket))
    return [b for _, _, b in sorted(found)]  # bigrams first, then trigrams: the order of a sum, no part of the model


def column(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def labeled(texts: list[str], labels: list[int], num_classes: int = 2) -> Labeled:
    rows = pa.table({"text": pa.array(texts, pa.large_string())})
    names = tuple(f"class {c}" for c in range(num_classes))
    return Labeled(rows, np.asarray(labels, dtype=np.int64), np.arange(len(labels)), names)


def some_texts(rows: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    vocabulary = [*string.ascii_lowercase, "né", "日本", "don't", "3.5"]
    return [" ".join(rng.choice(vocabulary, rng.integers(0, 15))) for _ in range(rows)]


def test_hash_of_the_end_of_text_word():
    assert fnv1a(kernels.EOS) == kernels.EOS_HASH


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.integers(1, 5), st.sampled_from([1, 7, 64, 1000, 10_000_000]))
def test_features_are_those_of_fasttext(texts, word_ngrams, bucket):
    features, num_ids = native.find_features(
        column(texts), word_ngrams=word_ngrams, bucket=bucket, min_count=1, normalize="none"
    )
    ends = features.word_offsets
    words = [features.words[ends[w] : ends[w + 1]].tobytes() for w in range(len(features.word_counts))]
    expected_words = [word for text in texts for word in tokens(text)]
    expected_buckets = [buckets(text, word_ngrams, bucket) for text in texts]
    assert dict(zip(words, features.word_counts.tolist(), strict=True)) == {
        word: expected_words.count(word) for word in expected_words
    }
    assert features.word_counts.tolist() == sorted(features.word_counts.tolist(), reverse=True)
    assert features.bucket_ids.tolist() == sorted({b for row in expected_buckets for b in row})
    text_ends, ids = native.ids_of(column(texts), features, num_ids, "none")
    bucket_ids = features.bucket_ids.tolist()
    for r, text in enumerate(texts):
        row_ids = ids[text_ends[r - 1] if r else 0 : text_ends[r]].tolist()
        expected = [words.index(word) for word in tokens(text)]
        expected += [len(words) + bucket_ids.index(b) for b in expected_buckets[r]]
        assert row_ids == expected
    assert num_ids == text_ends[-1]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(TEXTS, min_size=1, max_size=6),
    st.integers(0, 99),
    st.sampled_from([1, 2, 3, 8, 10, 17]),
    st.integers(1, 3),
)
def test_training_is_the_sgd_of_the_paper(texts, seed, dim, word_ngrams):
    labels_L = np.arange(len(texts)) % 3
    features, num_ids = native.find_features(
        column(texts), word_ngrams=word_ngrams, bucket=50, min_count=1, normalize="none"
    )
    rng = np.random.default_rng(seed)
    start_RD = rng.standard_normal((features.num_rows, dim)).astype(np.float32)
    start_CD = rng.standard_normal((3, dim)).astype(np.float32)
    ends, ids = native.ids_of(column(texts), features, num_ids, "none")
    order = rng.permutation(len(texts))
    weights_C = rng.random(3).astype(np.float32) * 2
    input_RD, output_CD = start_RD.copy(), start_CD.copy()
    loss = kernels.train(ends, ids, labels_L, order, weights_C, input_RD, output_CD, 0.3, 5, 50)

    expected_loss, expected_RD, expected_CD = 0.0, start_RD.astype(float), start_CD.astype(float)
    for q, r in enumerate(order):
        rows = ids[ends[r - 1] if r else 0 : ends[r]]
        hidden_D = expected_RD[rows].mean(axis=0)
        z_C = np.exp(expected_CD @ hidden_D)
        probs_C = z_C / z_C.sum()
        weight = weights_C[labels_L[r]]
        expected_loss -= weight * math.log(probs_C[labels_L[r]] + 1e-5)
        step_C = weight * 0.3 * (1 - (5 + q) / 50) * ((np.arange(3) == labels_L[r]) - probs_C)
        gradient_D = step_C @ expected_CD
        expected_CD += np.outer(step_C, hidden_D)
        np.add.at(expected_RD, rows, gradient_D / len(rows))
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    np.testing.assert_allclose(input_RD, expected_RD, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output_CD, expected_CD, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.sampled_from([1, 2, 5, 10, 16, 19]), st.integers(1, 3))
def test_scores_are_the_softmax_of_the_mean_with_zeros_for_unseen_buckets(texts, dim, word_ngrams):
    train = ["a b word", "é naïve 日本 x", "a"]
    features, _ = native.find_features(column(train), word_ngrams=word_ngrams, bucket=97, min_count=1, normalize="none")
    rng = np.random.default_rng(0)
    input_RD = rng.standard_normal((features.num_rows, dim)).astype(np.float32)
    output_CD = rng.standard_normal((3, dim)).astype(np.float32)
    probs_BC, hidden_BD = native.score(column(texts), features, input_RD, output_CD, "none")
    ends = features.word_offsets
    words = [features.words[ends[w] : ends[w + 1]].tobytes() for w in range(len(features.word_counts))]
    table = np.zeros((len(words) + 97, dim))
    table[: len(words)] = input_RD[: len(words)]
    table[len(words) + features.bucket_ids] = input_RD[len(words) :]
    for r, text in enumerate(texts):
        ids = [words.index(word) for word in tokens(text) if word in words]
        ids += [len(words) + b for b in buckets(text, word_ngrams, 97)]
        hidden_D = table[ids].mean(axis=0)
        z_C = np.exp(output_CD @ hidden_D - max(output_CD @ hidden_D))
        np.testing.assert_allclose(hidden_BD[r], hidden_D, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(probs_BC[r], z_C / z_C.sum(), rtol=1e-4, atol=1e-5)
    assert abs(probs_BC.astype(float).sum(axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize("word_ngrams", [1, 2, 3])
def test_the_official_package_opens_our_file_and_predicts_the_same(tmp_path, word_ngrams):
    fasttext = pytest.importorskip("fasttext")
    texts, pool = some_texts(80, 0), [text or "a" for text in some_texts(200, 1)]
    spec = FastTextSpec(word_ngrams=word_ngrams, bucket=5000, normalize="none", epochs=5)
    ours = FastTextLearner(spec).fit(
        labeled(texts, [len(text) % 3 for text in texts], 3), dev=None, seed=0, context=FitContext()
    )
    write_bin(ours, tmp_path / "model.bin")
    fasttext.FastText.eprint = lambda *_: None
    theirs = fasttext.load_model(str(tmp_path / "model.bin"))
    labels, values = theirs.predict(pool, k=-1)
    probs_BC = ours.predict(labeled(pool, [0] * len(pool)).rows).probs_BC
    for r in range(len(pool)):
        for label, value in zip(labels[r], values[r], strict=True):
            assert probs_BC[r, int(label[-1])] + 1e-5 == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("word_ngrams", [1, 2, 4])
def test_we_open_the_official_files_and_predict_the_same(tmp_path, word_ngrams):
    fasttext = pytest.importorskip("fasttext")
    texts, pool = some_texts(80, 0), [text or "a" for text in some_texts(200, 1)]
    lines = "".join(f"__label__{len(text) % 3} {text}\n" for text in texts)
    (tmp_path / "train.txt").write_text(lines, encoding="utf-8")
    theirs = fasttext.train_supervised(
        input=str(tmp_path / "train.txt"), dim=7, wordNgrams=word_ngrams, bucket=3000, lr=0.5, thread=20, verbose=0
    )
    theirs.save_model(str(tmp_path / "model.bin"))
    ours = read_bin(tmp_path / "model.bin")
    prediction = ours.predict(labeled(pool, [0] * len(pool)).rows, embeddings=True)
    labels, values = theirs.predict(pool, k=-1)
    for r in range(len(pool)):
        for label, value in zip(labels[r], values[r], strict=True):
            c = ours.class_names.index(label.removeprefix("__label__"))
            assert prediction.probs_BC[r, c] + 1e-5 == pytest.approx(value, abs=1e-6)
        np.testing.assert_allclose(prediction.embeddings_BD[r], theirs.get_sentence_vector(pool[r]), atol=1e-5)
