"""The fastText model in our own arrays: features of training texts, training, scoring on several threads.

Shape legend: W words, S touched buckets, R = W + S rows of the input matrix, D width, C classes, L labelled, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from svp_nlp.arrays import keyed_hash
from svp_nlp.errors import ModelError, TrainingError
from svp_nlp.models import fasttext_kernels as kernels
from svp_nlp.models.base import texts_of as texts_of
from svp_nlp.models.normalize import Normalization, normalize_buffers, text_buffers
from svp_nlp.models.threads import num_threads

_ROWS_PER_BLOCK = 1024  # milliseconds of work: threads end together, and a block stays in cache between passes
_ROWS_PER_PART = 16_384  # texts that are read again at once
_IDS_IN_MEMORY = 1 << 28  # 1 GB of uint32: 3 million short texts; longer training sets are read again in each epoch

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Features:
    """What the model knows: words, most frequent first, and the buckets that training n-grams fell into."""

    words: npt.NDArray[np.uint8]  # all words, one after the other
    word_offsets: npt.NDArray[np.int64]  # [W + 1]
    word_counts: npt.NDArray[np.int64]  # [W]
    bucket_ids: npt.NDArray[np.int64]  # [S] ascending; bucket_ids[s] has input row W + s
    bucket: int
    word_ngrams: int

    @property
    def arrays(self) -> dict[str, Array]:
        """What of it is stored, by name; `features_of` reads it back."""
        return {
            "words": self.words,
            "word_offsets": self.word_offsets,
            "word_counts": self.word_counts,
            "bucket_ids": self.bucket_ids,
        }

    @property
    def num_rows(self) -> int:
        """R, the rows of the input matrix."""
        return len(self.word_counts) + len(self.bucket_ids)

    @cached_property
    def table_V(self) -> npt.NDArray[np.uint64]:
        """Hash table of the words, at most half full."""
        return _word_table(self.words, self.word_offsets, room=len(self.word_counts))

    @cached_property
    def rank(self) -> npt.NDArray[np.uint64]:
        """[bucket / 64, 2]: which of 64 buckets have a row, and the row of the first of them."""
        rank = np.zeros((_bitmap_words(self.bucket), 2), dtype=np.uint64)
        bits = np.zeros(len(rank), dtype=np.uint64)
        kernels.set_bits(self.bucket_ids, bits)
        ones = np.bitwise_count(bits).astype(np.uint64)
        rank[:, 0] = bits
        rank[:, 1] = np.cumsum(ones) - ones + np.uint64(len(self.word_counts))
        return rank

    @property
    def lookup(self) -> tuple[Any, ...]:
        """What every kernel that finds rows takes."""
        return (self.words, self.word_offsets, self.table_V), self.rank, self.bucket, self.word_ngrams


def features_of(arrays: Mapping[str, Array], *, bucket: int, word_ngrams: int) -> Features:
    """The features among the arrays of a model; `check_arrays` says whether they fit together.

    Raises:
        KeyError: one is missing.
    """
    return Features(
        arrays["words"], arrays["word_offsets"], arrays["word_counts"], arrays["bucket_ids"], bucket, word_ngrams
    )


def check_arrays(features: Features, misfit: Callable[[], str], *, where: str, writer: str = "svp_nlp") -> None:
    """Refuse arrays that do not fit each other: the kernels read them without bounds checks.

    Args:
        misfit: what is wrong with the arrays that go with the features; called once those are found sound.
    Raises:
        ModelError: says which arrays.
    """
    problem = _problem_of(features) or misfit()
    if problem:
        raise ModelError(f"{where}: {problem}; the file was not written by {writer}: train it again")


def _problem_of(features: Features) -> str:
    words, offsets, counts, ids = features.words, features.word_offsets, features.word_counts, features.bucket_ids
    if [a.dtype for a in (words, offsets, counts, ids)] != [np.uint8, np.int64, np.int64, np.int64]:
        return "words, word_offsets, word_counts or bucket_ids have a wrong type"
    if [a.ndim for a in (words, offsets, counts, ids)] != [1, 1, 1, 1]:
        return "words, word_offsets, word_counts or bucket_ids are not vectors"
    if len(offsets) != len(counts) + 1 or offsets[0] != 0 or offsets[-1] != len(words):
        return "word_offsets do not cover the words"
    if (np.diff(offsets) < 0).any():
        return "word_offsets do not ascend"
    if len(ids) and (ids[0] < 0 or ids[-1] >= features.bucket or (np.diff(ids) <= 0).any()):
        return f"bucket_ids do not ascend within 0 to {features.bucket:,}"
    return ""


def _word_table(words: Array, word_offsets: Array, *, room: int) -> Array:
    table_V = np.zeros((max(16, 1 << (2 * room).bit_length()), 2), dtype=np.uint64)
    kernels.fill_table(words, word_offsets, table_V)
    return table_V


def _scratch(offsets: Array) -> tuple[Array, Array, Array, Array]:
    """Room for hashes, heads and places of the words of the longest text: a word and its blank take two bytes."""
    room = int(np.diff(offsets).max(initial=0)) // 2 + 2
    places = np.empty((2, room), dtype=np.int64)
    return np.empty(room, dtype=np.uint32), np.empty(room, dtype=np.uint64), places[0], places[1]


def _bitmap_words(bucket: int) -> int:
    return bucket // 64 + 1


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a column of texts."""

    start: int
    stop: int
    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    def buffers(self, normalize: Normalization) -> tuple[Array, Array]:
        """What the kernels read; called in the thread that needs it."""
        return normalize_buffers(self.data, self.offsets) if normalize == "svp" else (self.data, self.offsets)


def _blocks(texts: pa.ChunkedArray) -> Iterator[Block]:
    row = 0
    for chunk in texts.chunks:
        data, offsets = text_buffers(chunk)
        for start in range(0, len(chunk), _ROWS_PER_BLOCK):
            part = offsets[start : start + _ROWS_PER_BLOCK + 1]
            yield Block(row, row + len(part) - 1, data, part)
            row += len(part) - 1


def for_each_block(texts: pa.ChunkedArray, run: Callable[[Block], None]) -> None:
    """Call `run` with each block of texts, on as many threads as `num_threads` says."""
    blocks = list(_blocks(texts))
    threads = min(num_threads(), len(blocks))
    if threads <= 1:
        for block in blocks:
            run(block)
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="score") as pool:
            list(pool.map(run, blocks))


def _gather_words(words: Array, offsets: Array, order: Array) -> tuple[Array, Array]:
    """The words `order`, one after the other, and their offsets."""
    lengths = np.diff(offsets)[order]
    gathered = np.zeros(len(order) + 1, dtype=np.int64)
    np.cumsum(lengths, out=gathered[1:])
    shift = np.repeat(offsets[order] - gathered[:-1], lengths)
    return words[np.arange(gathered[-1]) + shift], gathered


def find_features(
    texts: pa.ChunkedArray, *, word_ngrams: int, bucket: int, min_count: int, normalize: Normalization
) -> tuple[Features, int]:
    """One pass over training texts.

    Returns:
        the features, and an upper bound of how many ids the texts have in all.
    """
    words, word_offsets = np.zeros(1 << 12, dtype=np.uint8), np.zeros((1 << 10) + 1, dtype=np.int64)
    counts, table_V = np.zeros(1 << 10, dtype=np.int64), np.zeros((1 << 11, 2), dtype=np.uint64)
    bits = np.zeros(_bitmap_words(bucket), dtype=np.uint64)
    num_words, num_ids = 0, 0
    for block in _blocks(texts):
        text = block.buffers(normalize)
        offsets, scratch = text[1], _scratch(text[1])
        row = 0
        while True:
            vocabulary = (words, word_offsets, table_V)
            row, num_words, more = kernels.count_features(
                text, row, vocabulary, counts, num_words, bits, bucket, word_ngrams, scratch
            )
            num_ids += more
            if row == len(offsets) - 1:
                break
            longest = int(offsets[row + 1] - offsets[row])
            words = np.resize(words, 2 * len(words) + longest + 4)
            counts = np.concatenate([counts, np.zeros(len(counts) + longest, dtype=np.int64)])
            word_offsets = np.concatenate([word_offsets, np.zeros(len(counts) + 1 - len(word_offsets), dtype=np.int64)])
            table_V = _word_table(words, word_offsets[: num_words + 1], room=len(counts))
    counts, word_offsets = counts[:num_words], word_offsets[: num_words + 1]
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= min_count]
    bucket_ids = np.empty(int(np.bitwise_count(bits).sum()), dtype=np.int64)
    kernels.list_bits(bits, bucket_ids)
    kept, kept_offsets = _gather_words(words, word_offsets, order)
    return Features(kept, kept_offsets, counts[order], bucket_ids, bucket, word_ngrams), num_ids


def ids_of(texts: pa.ChunkedArray, features: Features, num_ids: int, normalize: Normalization) -> tuple[Array, Array]:
    """The features of texts as rows of the input matrix, one text after the other.

    Args:
        num_ids: upper bound of how many there are.
    Returns:
        ends, int64 [L], where text r ends, and ids, uint32 [num_ids + 1]; those from ends[-1] on mean nothing.
    """
    ends, ids = np.empty(len(texts), dtype=np.int64), np.empty(num_ids + 1, dtype=np.uint32)
    place = 0
    for block in _blocks(texts):
        text = block.buffers(normalize)
        rows = slice(block.start, block.stop)
        place = kernels.feature_ids(text, features.lookup, ends[rows], ids, place, _scratch(text[1]))
    return ends, ids


def ids_of_block(block: Block, features: Features, normalize: Normalization) -> tuple[Array, Array]:
    """As `ids_of`, of one block; called in the thread that needs it."""
    text = block.buffers(normalize)
    data_bytes, rows = int(text[1][-1] - text[1][0]), block.stop - block.start
    ids = np.empty((data_bytes // 2 + 2 * rows) * features.word_ngrams + 1, dtype=np.uint32)  # as in _scratch
    ends = np.empty(rows, dtype=np.int64)
    kernels.feature_ids(text, features.lookup, ends, ids, 0, _scratch(text[1]))
    return ends, ids


def _most_ids(texts: pa.ChunkedArray, word_ngrams: int) -> int:
    """Upper bound of the ids of texts from their bytes: normalisation may make a word of each, `</s>` comes on top."""
    num_bytes = sum(int(offsets[-1] - offsets[0]) for _, offsets in map(text_buffers, texts.chunks))
    return (num_bytes + len(texts)) * word_ngrams


def train(
    texts: pa.ChunkedArray,
    labels_L: npt.NDArray[np.int64],
    features: Features,
    *,
    num_ids: int,
    num_classes: int,
    dim: int,
    learning_rate: float,
    epochs: int,
    seed: int,
    normalize: Normalization,
    weights_C: npt.NDArray[np.float64] | None = None,
    on_epoch: Callable[[int, float], None],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Fit by SGD, one text at a time, in an order drawn anew for each epoch; the rate falls linearly to 0.

    Args:
        num_ids: upper bound of the ids of all texts, from `find_features`.
        weights_C: how much a text of each class counts; None: all the same.
        on_epoch: gets the epochs done (0 before the first) and the mean loss of the last; may raise to stop.
    Returns:
        input_RD and output_CD, float32.
    Raises:
        TrainingError: the loss is no longer a number.
    Source: Joulin et al. 2017. Differs from fastText in that texts are shuffled and that one thread trains.
    """
    size = len(labels_L)
    input_RD = np.empty((features.num_rows, dim), dtype=np.float32)
    kernels.fill_uniform(input_RD, keyed_hash([0], seed, "fasttext-weights")[0], 1.0 / dim)
    output_CD = np.zeros((num_classes, dim), dtype=np.float32)
    ones_C = np.ones(num_classes, dtype=np.float32)
    scales_C = ones_C if weights_C is None else weights_C.astype(np.float32)
    in_memory = num_ids <= _IDS_IN_MEMORY
    if in_memory:
        ends, ids = ids_of(texts, features, num_ids, normalize)
    on_epoch(0, math.nan)
    for epoch in range(epochs):
        order = np.argsort(keyed_hash(np.arange(size), seed, f"fasttext-epoch-{epoch}"))
        done, loss = epoch * size, 0.0
        for start in range(0, size, size if in_memory else _ROWS_PER_PART):
            part = order if in_memory else order[start : start + _ROWS_PER_PART]
            rows, labels = part, labels_L
            if not in_memory:
                taken = texts.take(pa.array(part))
                ends, ids = ids_of(taken, features, _most_ids(taken, features.word_ngrams), normalize)
                rows, labels = np.arange(len(part)), labels_L[part]
            loss += kernels.train(
                ends, ids, labels, rows, scales_C, input_RD, output_CD, learning_rate, done + start, epochs * size
            )
        if not math.isfinite(loss):
            raise TrainingError(
                f"fastText: the loss is {loss} in epoch {epoch + 1} of {epochs} at learning rate {learning_rate:g}; "
                "use a smaller learning_rate"
            )
        on_epoch(epoch + 1, loss / size)
    return input_RD, output_CD


def score(
    texts: pa.ChunkedArray, features: Features, input_RD: Array, output_CD: Array, normalize: Normalization
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Probabilities and hidden vectors of texts; blocks of rows are shared out among threads.

    Returns:
        probs_BC, float32, rows sum to 1 within 1e-6, and hidden_BD, float32, the mean of a text's input rows.
    """
    probs_BC = np.empty((len(texts), len(output_CD)), dtype=np.float32)
    hidden_BD = np.empty((len(texts), input_RD.shape[1]), dtype=np.float32)
    lookup = features.lookup  # built here, so that threads do not build it twice

    def run(block: Block) -> None:
        text = block.buffers(normalize)
        rows, scratch = slice(block.start, block.stop), _scratch(text[1])
        ids = np.empty(len(scratch[0]) * features.word_ngrams + 1, dtype=np.uint32)
        kernels.score(text, lookup, input_RD, output_CD, probs_BC[rows], hidden_BD[rows], ids, scratch)

    for_each_block(texts, run)
    return probs_BC, hidden_BD
