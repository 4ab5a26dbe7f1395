"""Characters as the input of a torch model."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp.errors import PoolError
from svp_nlp.models.text import (
    SYMBOLS,
    VOCABULARY_SIZE,
    CharacterExamples,
    bucket_width,
    character_examples,
    encode_characters,
)


def test_the_table_is_the_papers() -> None:
    assert VOCABULARY_SIZE == 69 and len(set(SYMBOLS)) == 67
    codes = encode_characters(pa.array([SYMBOLS, SYMBOLS.upper()]), max_length=100).to_pylist()
    assert codes == [bytes(range(2, 69))] * 2


@pytest.mark.parametrize("text", ["^", "@", "\\", "\n", "\t", "\x00", "é", "\u2028", "\u65e5", "\U0001f600", "\u212a"])
def test_characters_outside_the_table_are_one_unknown(text: str) -> None:
    assert encode_characters(pa.array([text]), max_length=10).to_pylist() == [b"\x01"]


def test_a_huge_text_costs_no_more_than_a_long_one() -> None:
    texts = pa.array(["\u65e5" * 10_000_000, "x" * 10_000_000, "", "end"], pa.large_string())
    started = time.process_time()
    codes = encode_characters(texts, max_length=1014)
    assert time.process_time() - started < 0.1
    assert [len(code) for code in codes.to_pylist()] == [1014, 1014, 0, 3]


@pytest.mark.parametrize("value_type", [pa.string(), pa.large_string()])
def test_no_text_at_all(value_type: pa.DataType) -> None:
    assert encode_characters(pa.array([], value_type), max_length=10).to_pylist() == []
    assert encode_characters(pa.chunked_array([], value_type), max_length=10).to_pylist() == []
    assert encode_characters(pa.array(["", ""], value_type), max_length=10).to_pylist() == [b"", b""]


def test_null_is_refused_with_its_row() -> None:
    with pytest.raises(PoolError, match="text 2 of this batch is null"):
        encode_characters(pa.chunked_array([["a", "b"], [None, None]]), max_length=10)


def test_numbers_are_refused() -> None:
    with pytest.raises(PoolError, match="int64; expected strings"):
        encode_characters(pa.array([1, 2]), max_length=10)


def naive_batch(codes: list[bytes], width: int) -> list[list[int]]:
    return [list(code) + [0] * (width - len(code)) for code in codes]


@settings(deadline=None)
@given(
    texts=st.lists(st.text(SYMBOLS, max_size=50), min_size=1, max_size=8),
    data=st.data(),
    max_length=st.integers(20, 60),
)
def test_a_batch_holds_its_rows_filled_up_with_zero(texts: list[str], data: st.DataObject, max_length: int) -> None:
    rows_B = np.array(data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=10)), dtype=np.int64)
    codes = encode_characters(pa.array(texts), max_length=max_length)
    for padding in ("fixed", "bucket"):
        examples = CharacterExamples(codes, max_length=max_length, padding=padding, min_length=17)
        batch_BL = examples.collate(rows_B, rng=None)["codes_BL"].numpy()
        width = batch_BL.shape[1]
        longest = max((len(codes[int(row)].as_py()) for row in rows_B), default=0)
        assert width == max_length if padding == "fixed" else max(longest, 17) <= width <= max_length
        assert batch_BL.tolist() == naive_batch([codes[int(row)].as_py() for row in rows_B], width)


def test_examples_of_a_slice_are_its_rows() -> None:
    codes = encode_characters(pa.array(["abc", "de", "f", ""]), max_length=4)
    examples = CharacterExamples(codes[1:3], max_length=4, padding="fixed")
    assert len(examples) == 2
    assert examples.collate(np.array([0, 1]), rng=None)["codes_BL"].tolist() == [[5, 6, 0, 0], [7, 0, 0, 0]]


def test_only_buckets_ask_for_batches_of_like_length() -> None:
    texts = pa.array(["abc", "", "x" * 99])
    bucket = character_examples(texts, max_length=20, padding="bucket")
    assert bucket.lengths_N is not None and bucket.lengths_N.tolist() == [3, 0, 20]
    assert character_examples(texts, max_length=20, padding="fixed").lengths_N is None


def test_bucket_widths_hold_their_text_with_at_most_an_eighth_of_filling() -> None:
    widths = [bucket_width(length) for length in range(1025)]
    assert all(width >= length for length, width in enumerate(widths))
    assert all(width - length < max(16, width / 8) for length, width in enumerate(widths))
    assert widths == sorted(widths) and len(set(widths[64:])) <= 30


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 300), max_size=20), padding=st.sampled_from(["fixed", "bucket"]))
def test_by_width_gives_every_row_once_in_the_width_it_has_alone(lengths: list[int], padding: str) -> None:
    texts = pa.array(["x" * length for length in lengths], pa.string())
    examples = character_examples(texts, max_length=200, padding=padding, min_length=64)  # type: ignore[arg-type]
    seen = []
    for rows_K, part in examples.by_width():
        batch_BL = part.collate(np.arange(len(part)), rng=None)["codes_BL"]
        for place, row in enumerate(rows_K.tolist()):
            alone_BL = examples.collate(np.array([row]), rng=None)["codes_BL"]
            assert batch_BL[place].tolist() == alone_BL[0].tolist()
            seen.append(row)
    assert sorted(seen) == list(range(len(lengths)))
