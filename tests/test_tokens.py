"""Tokens: the same as the tokenizer gives one text at a time, padded as it pads; tokenizers that repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_rows, write_toy

from svp_nlp.errors import PoolError
from svp_nlp.models.tokens import evenly, pool_tokenizer, token_examples, token_lengths, train_tokenizer
from svp_nlp.pool import PoolRef

TEXTS, _ = toy_rows(100)
MAX_LENGTH = 12


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 400)


def column(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def one_by_one(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [tokenizer(text, truncation=True, max_length=MAX_LENGTH)["input_ids"] for text in texts]


@settings(deadline=None, max_examples=40)
@given(texts=st.lists(st.one_of(st.sampled_from(TEXTS), st.text(max_size=40)), min_size=1, max_size=8), data=st.data())
def test_a_batch_holds_what_the_tokenizer_gives_padded_to_its_longest_row(tokenizer, texts, data):
    examples = token_examples(column(texts), tokenizer, max_length=MAX_LENGTH)
    expected = one_by_one(tokenizer, texts)
    assert len(examples) == len(texts)
    assert examples.lengths_N.tolist() == [len(row) for row in expected]
    rows_B = np.array(data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=6)))
    batch = examples.collate(rows_B)
    padded = tokenizer.pad({"input_ids": [expected[row] for row in rows_B]}, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    for name, values in batch.items():
        assert values.dtype == padded[name].dtype
        assert values.tolist() == padded[name].tolist()


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=60))
def test_nothing_is_unknown_to_a_trained_tokenizer(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids[1:-1] or "[UNK]" in text
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_the_same_texts_give_the_same_tokenizer(tokenizer):
    again, other = train_tokenizer(iter(TEXTS), 400), train_tokenizer(TEXTS[:10], 400)
    assert again.backend_tokenizer.to_str() == train_tokenizer(TEXTS, 400).backend_tokenizer.to_str()
    assert again.get_vocab() == tokenizer.get_vocab() != other.get_vocab()
    assert len(again) <= 400
    assert again("A Cat")["input_ids"] == again("a cat")["input_ids"]


def test_widths_are_multiples(tokenizer):
    examples = token_examples(column(["a", TEXTS[0]]), tokenizer, max_length=64, pad_to_multiple_of=8)
    assert examples.collate(np.array([0]))["input_ids"].shape == (1, 8)
    assert examples.collate(np.array([0, 1]))["input_ids"].shape[1] % 8 == 0


def test_lengths_are_for_grouping_only(tokenizer):
    assert token_examples(column(TEXTS), tokenizer, max_length=8, group_by_length=False).lengths_N is None


def test_no_row_and_blocks(tokenizer):
    assert len(token_examples(column([]), tokenizer, max_length=8)) == 0
    many = [TEXTS[row % 100] for row in range(2_500)]
    examples = token_examples(pa.chunked_array([many[:1_000], many[1_000:]]), tokenizer, max_length=MAX_LENGTH)
    expected = one_by_one(tokenizer, TEXTS)
    for row in (0, 999, 1_023, 1_024, 2_499):
        assert examples.collate(np.array([row]))["input_ids"][0].tolist() == expected[row % 100]


def test_a_null_is_named(tokenizer):
    with pytest.raises(PoolError, match="text 1 of this batch is null"):
        token_examples(pa.chunked_array([["a", None]]), tokenizer, max_length=8)


def bare(**processor: Any) -> Any:
    """A tokenizer of another kind: no special token of its own, or segments."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = train_tokenizer(TEXTS, 400).backend_tokenizer
    special = [("[CLS]", backend.token_to_id("[CLS]"))]
    backend.post_processor = TemplateProcessing(special_tokens=special, **processor)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", model_input_names=names)


def test_a_text_without_any_token_becomes_one_padding_token_to_read():
    tokenizer = bare(single="$A")
    assert tokenizer("")["input_ids"] == []
    batch = token_examples(column(["", "cat"]), tokenizer, max_length=8).collate(np.array([0, 1]))
    assert batch["input_ids"][0].unique().tolist() == [tokenizer.pad_token_id]
    assert batch["attention_mask"][0].tolist() == [1] + [0] * (batch["input_ids"].shape[1] - 1)


def test_segments_that_are_not_all_zero_are_kept():
    tokenizer = bare(single="$A:0 [CLS]:2")
    batch = token_examples(column(["a cat", "rain"]), tokenizer, max_length=8).collate(np.array([0, 1]))
    width = batch["input_ids"].shape[1]
    for row, text in enumerate(["a cat", "rain"]):
        expected = tokenizer(text)["token_type_ids"]
        assert batch["token_type_ids"][row].tolist() == expected + [0] * (width - len(expected))


@settings(deadline=None, max_examples=20)
@given(rows=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=30))
def test_lengths_are_measured_before_anything_is_cut(tokenizer, rows):
    sizes = [len(tokenizer(text)["input_ids"]) for text in rows]
    found = token_lengths(column(rows), tokenizer, max_length=20)
    assert found.mean == pytest.approx(np.mean(sizes))
    assert found.p95 == pytest.approx(np.quantile(sizes, 0.95))
    assert found.truncated == pytest.approx(np.mean([size > 20 for size in sizes]))


def test_lengths_of_nothing_are_zero(tokenizer):
    assert token_lengths(column([]), tokenizer, max_length=20).mean == 0


@pytest.mark.parametrize("rows", [0, 1, 19_999, 20_000, 20_001, 3_600_000])
def test_evenly_spaced_rows_are_at_most_twenty_thousand(rows):
    chosen = evenly(rows)
    assert len(chosen) == (rows if rows <= 20_000 else len(chosen)) <= 20_000
    assert not rows or (chosen[0] == 0 and rows - chosen[-1] <= chosen.step)


def test_all_rounds_of_a_pool_share_a_tokenizer(tmp_path: Path):
    pool = PoolRef(str(write_toy(tmp_path / "toy.parquet"))).open()
    first = pool_tokenizer(column(TEXTS[:5]), pool, vocab_size=350)
    second = pool_tokenizer(column(TEXTS[5:]), pool, vocab_size=350, max_length=9)
    assert first.get_vocab() == second.get_vocab() == train_tokenizer(toy_rows(200)[0], 350).get_vocab()
    assert (first.model_max_length, second.model_max_length) == (512, 9)
    without = pool_tokenizer(column(TEXTS[:5]), None, vocab_size=350)
    assert without.get_vocab() == train_tokenizer(TEXTS[:5], 350).get_vocab()
