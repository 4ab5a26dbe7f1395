"""Tokens as the input of a transformer: encoded once, batches padded to their longest text; tokenizers from texts.

Letters in shapes: N rows, B batch, L tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from svp_nlp.arrays import IntN
from svp_nlp.errors import PoolError
from svp_nlp.pool import TEXT, Pool

_ROWS_PER_BLOCK = 1_024  # of Python lists at a time, about 3 MB of AG News
_ROWS_MEASURED = 2_000
_TOKENIZER_TEXTS = 20_000  # of AG News: 3 CPU seconds for 8,000 tokens; all 35,457 take 5 and change little
_TOKENIZER_CHARACTERS = 2_000
_tokenizers: dict[tuple[str, int], Any] = {}  # (pool, vocabulary size) -> tokenizer
_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
}


class TokenExamples:
    """Token ids of some rows, back to back in one array; satisfies `batches.Examples`."""

    def __init__(
        self,
        ids: npt.NDArray[np.int32],
        offsets_N: IntN,
        *,
        pad_id: int,
        type_ids: npt.NDArray[np.int32] | None = None,
        group_by_length: bool = True,
        pad_to_multiple_of: int = 1,
    ) -> None:
        """Arrays are kept as they are.

        Args:
            ids: token ids of all rows.
            offsets_N: int64 [N + 1]; row i has ids[offsets_N[i] : offsets_N[i + 1]], at least one.
            pad_id: fills up shorter rows.
            type_ids: as `ids`, for the few tokenizers that use others than 0.
            group_by_length: whether batches are to be of rows of like lengths; their padding never matters.
            pad_to_multiple_of: batch widths; 8 suits tensor cores.
        """
        self._ids, self._offsets_N, self._type_ids = ids, offsets_N, type_ids
        self._pad_id, self._multiple = pad_id, pad_to_multiple_of
        self.lengths_N: IntN | None = np.diff(offsets_N) if group_by_length else None

    def __len__(self) -> int:
        return len(self._offsets_N) - 1

    def collate(
        self, rows_B: npt.NDArray[np.integer[Any]], *, rng: np.random.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Some rows, padded on the right to the longest of them.

        Args:
            rows_B: positions in these examples, in any order, repetitions allowed, at least one.
            rng: not used: tokens are not augmented.
        Returns:
            input_ids and attention_mask (1 = token), int64 [B, L]; token_type_ids where the tokenizer has any.
        """
        starts_B, stops_B = self._offsets_N[rows_B], self._offsets_N[np.asarray(rows_B) + 1]
        lengths_B = stops_B - starts_B
        width = -(-int(lengths_B.max()) // self._multiple) * self._multiple
        mask_BL = np.arange(width) < lengths_B[:, None]
        slices = [slice(*ends) for ends in zip(starts_B.tolist(), stops_B.tolist(), strict=True)]

        def filled(values: npt.NDArray[np.int32], fill: int) -> torch.Tensor:
            array_BL = np.full(mask_BL.shape, fill, dtype=np.int64)
            array_BL[mask_BL] = np.concatenate([values[part] for part in slices])
            return torch.from_numpy(array_BL)

        inputs = {"input_ids": filled(self._ids, self._pad_id)}
        inputs["attention_mask"] = torch.from_numpy(mask_BL.astype(np.int64))
        if self._type_ids is not None:
            inputs["token_type_ids"] = filled(self._type_ids, 0)
        return inputs


def token_examples(
    texts: pa.ChunkedArray | pa.Array,
    tokenizer: Any,
    *,
    max_length: int,
    group_by_length: bool = True,
    pad_to_multiple_of: int = 1,
) -> TokenExamples:
    """Tokenise texts, cut to `max_length` tokens, the special ones included.

    Args:
        texts: strings without nulls. One that gives no token at all (empty, for GPT-2) gets a padding token to read.
        tokenizer: as `pretrained.load_tokenizer` gives it.
        max_length: tokens kept of each text.
        group_by_length: see TokenExamples.
        pad_to_multiple_of: see TokenExamples.
    Raises:
        PoolError: a null; names the first such row.
    """
    pad_id = int(tokenizer.pad_token_id)
    # Only XLNet and its like number segments otherwise than 0, which is what models take when nothing is given.
    typed = "token_type_ids" in tokenizer.model_input_names and any(tokenizer("a")["token_type_ids"])
    ids: list[npt.NDArray[np.int32]] = []
    type_ids: list[npt.NDArray[np.int32]] = []
    lengths: list[int] = []
    for block in _blocks(texts):
        encoded = tokenizer(
            block, truncation=True, max_length=max_length, padding=False,
            return_attention_mask=False, return_token_type_ids=typed,
        )  # fmt: skip
        rows = [row or [pad_id] for row in encoded["input_ids"]]
        lengths.extend(map(len, rows))
        ids.append(_flat(rows))
        if typed:
            type_ids.append(_flat([row or [0] for row in encoded["token_type_ids"]]))
    return TokenExamples(
        np.concatenate([np.zeros(0, np.int32), *ids]),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
        pad_id=pad_id,
        type_ids=np.concatenate([np.zeros(0, np.int32), *type_ids]) if typed else None,
        group_by_length=group_by_length,
        pad_to_multiple_of=pad_to_multiple_of,
    )


def _flat(rows: list[list[int]]) -> npt.NDArray[np.int32]:
    return np.fromiter((number for row in rows for number in row), dtype=np.int32, count=sum(map(len, rows)))


def _blocks(texts: pa.ChunkedArray | pa.Array) -> Iterator[list[str]]:
    if texts.null_count:
        row = int(np.argmax(np.asarray(texts.is_null())))
        raise PoolError(f"text {row} of this batch is null ({texts.null_count:,} in all); leave such rows out")
    for start in range(0, len(texts), _ROWS_PER_BLOCK):
        yield texts.slice(start, _ROWS_PER_BLOCK).to_pylist()


@dataclass(frozen=True)
class TokenLengths:
    """Tokens of a text, special tokens included, before anything is cut off."""

    mean: float
    p95: float
    truncated: float  # share of the texts that are longer than max_length, 0 to 1


def token_lengths(texts: pa.ChunkedArray | pa.Array, tokenizer: Any, *, max_length: int) -> TokenLengths:
    """Measure how long texts are, on at most 2,000 of them, evenly spaced.

    Raises:
        PoolError: a null; names the first such row.
    """
    step = max(1, -(-len(texts) // _ROWS_MEASURED))
    lengths: list[int] = []
    for block in _blocks(texts.take(pa.array(range(0, len(texts), step), pa.int64()))):
        # verbose=False: without truncation it would warn that texts are too long, which is what is asked here.
        rows = tokenizer(block, truncation=False, padding=False, return_attention_mask=False, verbose=False)
        lengths.extend(map(len, rows["input_ids"]))
    if not lengths:
        return TokenLengths(0.0, 0.0, 0.0)
    lengths_N = np.array(lengths)
    return TokenLengths(
        mean=float(lengths_N.mean()),
        p95=float(np.quantile(lengths_N, 0.95)),
        truncated=float((lengths_N > max_length).mean()),
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, max_length: int = 512) -> Any:
    """A lower-casing byte-level BPE tokenizer; the same texts in the same order give the same one.

    WordPiece would do as well, but its trainer numbers tokens by the order of a hash table, which differs from run to
    run. Bytes spell every character, so nothing is unknown.

    Args:
        texts: 20,000 are enough (see `evenly`); the first 2,000 characters of each are used.
        vocab_size: at least 261 (256 bytes and 5 special tokens); fewer come out when the texts hold no more.
        max_length: tokens of a text that the model takes.
    Returns:
        PreTrainedTokenizerFast with [PAD] [UNK] [CLS] [SEP] [MASK]; texts become `[CLS] text [SEP]`.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(dict.fromkeys(_SPECIAL_TOKENS.values())),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text[:_TOKENIZER_CHARACTERS] for text in texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **_SPECIAL_TOKENS,
    )


def pool_tokenizer(texts: pa.ChunkedArray, pool: Pool | None, *, vocab_size: int, max_length: int = 512) -> Any:
    """`train_tokenizer` on a pool, once a process; without a pool on `texts`. Each call gives a tokenizer of its own.

    Args:
        texts: the labelled ones, for want of a pool.
        pool: its texts are used whether labelled or not, so that all rounds of a run share one tokenizer.
        vocab_size: see `train_tokenizer`.
        max_length: see `train_tokenizer`.
    """
    if pool is None:
        rows = texts.take(pa.array(evenly(len(texts)), pa.int64()))
        return train_tokenizer(rows.to_pylist(), vocab_size, max_length=max_length)
    key = (pool.fingerprint, vocab_size)
    if key not in _tokenizers:
        usable_K = np.flatnonzero(pool.usable_N)
        rows = pool.take(usable_K[evenly(len(usable_K))]).column(TEXT)
        _tokenizers.clear()  # one pool at a time: a process works on one run
        _tokenizers[key] = train_tokenizer(rows.to_pylist(), vocab_size)
    tokenizer = copy.deepcopy(_tokenizers[key])
    tokenizer.model_max_length = max_length
    return tokenizer


def evenly(rows: int) -> range:
    """At most 20,000 of so many rows, evenly spaced: enough to train a tokenizer on."""
    return range(0, rows, max(1, -(-rows // _TOKENIZER_TEXTS)))
