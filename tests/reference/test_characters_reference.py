"""Encoding over Arrow buffers against a dictionary look-up for each character."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp_nlp.models.text import SYMBOLS, encode_characters

CODES = {symbol: code for code, symbol in enumerate(SYMBOLS, start=2)}

# Neighbours of U+02C6 in every byte, characters of 1 to 4 bytes, what the table leaves out, NUL, line separators.
NASTY = "aZz09 ^@\\\n\t\x00\x7f\x80\xa0é\u02c6\u02c5\u02c7\u0286\u0386\u00c6ˉ\u2028\u65e5\ud7ff\U0001f600\U00010ffff{~}"
TEXTS = st.lists(st.text(st.sampled_from(NASTY) | st.sampled_from(SYMBOLS), max_size=40) | st.text(), max_size=12)
TYPES = st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])


def reference(texts: list[str], max_length: int) -> list[bytes]:
    """As the paper has it, one character after the other."""
    return [
        bytes(CODES.get(character.lower() if character.isascii() else character, 1) for character in text[:max_length])
        for text in texts
    ]


@settings(deadline=None, max_examples=300)
@given(texts=TEXTS, max_length=st.integers(1, 30), value_type=TYPES)
def test_codes_equal_the_reference(texts: list[str], max_length: int, value_type: pa.DataType) -> None:
    codes = encode_characters(pa.array(texts, pa.string()).cast(value_type), max_length=max_length)
    assert codes.type == pa.large_binary()
    assert codes.to_pylist() == reference(texts, max_length)


@settings(deadline=None, max_examples=200)
@given(texts=TEXTS, cuts=st.lists(st.integers(0, 12), max_size=4), start=st.integers(0, 12), stop=st.integers(0, 12))
def test_chunks_and_slices_change_nothing(texts: list[str], cuts: list[int], start: int, stop: int) -> None:
    borders = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    whole = pa.array(["before", *texts], pa.string())[1:]
    chunked = pa.chunked_array([whole[low:high] for low, high in itertools.pairwise(borders)], type=pa.string())
    sliced = chunked.slice(start, max(0, stop - start))
    assert encode_characters(sliced, max_length=9).to_pylist() == reference(texts[start : max(start, stop)], 9)


@pytest.mark.parametrize("text", ["plain ascii ", "é\u02c6 日\U0001f600"])
def test_more_rows_than_a_block(text: str) -> None:
    texts = [text * (row % 7) for row in range(9_000)]
    assert encode_characters(pa.array(texts), max_length=25).to_pylist() == reference(texts, 25)
