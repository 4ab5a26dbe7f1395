"""The inner loops of the fastText model: tokenise, hash, count, look up, score, train. numba over plain arrays.

Texts come as Arrow lays them out: one byte array and offsets, text r being data[offsets[r] : offsets[r + 1]].
The features of a text are exactly those of fastText's supervised mode without subwords: its words, the end-of-text
word `</s>`, and its word n-grams hashed into buckets. Three differences, all for the good of the data: a line feed
is a separator like a blank and does not end the text; the tokens that fastText reserves (`</s>`, `__label__...`)
are left out of a text instead of ending or mislabelling it; a bucket that no training text touches has no row:
it counts in the mean as zeros.

No fastmath: the same program gives the same bits whatever the vector width of the processor. Every kernel releases
the GIL. Types: rows of weights are int32 ids; -1 is "no row".

Shape legend: W words, V table slots, R rows of the input matrix, D width, C classes, T tokens of one text.

Source: Joulin et al. 2017, "Bag of tricks for efficient text classification"; fastText 0.9.2, src/dictionary.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils

_intrinsic: Any = extending.intrinsic  # numba's own types are too narrow for what they return
_njit: Any = nb.njit

EOS = b"</s>"
LABEL_PREFIX = b"__label__"
EOS_HASH = np.uint32(3617362777)  # fnv1a(EOS), asserted by a test

_FNV_OFFSET = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)
_NGRAM_FACTOR = np.uint64(116049371)

# What separates words in fastText's Dictionary::readWord.
_SEPARATOR = np.zeros(256, dtype=np.bool_)
_SEPARATOR[[0, 9, 10, 11, 12, 13, 32]] = True
_LABEL_BYTES = np.frombuffer(LABEL_PREFIX, dtype=np.uint8)
_EOS_BYTES = np.frombuffer(EOS, dtype=np.uint8)


def jit(function: Callable[..., Any]) -> Any:
    """Compile on first use; keep the machine code on disk where there is a place to keep it."""
    try:
        return _njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written: compile in each process
        return _njit(nogil=True, error_model="numpy")(function)


def _inner(function: Callable[..., Any]) -> Any:
    """Compile as a part of the kernels that call it; without an entry from Python that takes time to compile."""
    return _njit(nogil=True, error_model="numpy", no_cpython_wrapper=True)(function)


@_intrinsic
def _popcount(typing_context: Any, value: Any) -> Any:
    """Number of bits set in a uint64: one instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return nb.uint64(nb.uint64), generate


@_intrinsic
def _prefetch(typing_context: Any, array: Any, offset: Any) -> Any:
    """Ask for the cache line of array.flat[offset] ahead of its use; never faults."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        struct = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(struct.data, [arguments[1]]), ir.PointerType(ir.IntType(8)))
        i32 = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer.type], ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        )
        builder.call(function, [pointer, ir.Constant(i32, 0), ir.Constant(i32, 3), ir.Constant(i32, 1)])
        return context.get_dummy_value()

    return nb.void(array, nb.int64), generate


@_inner
def _reserved(data: Any, start: int, end: int) -> bool:
    """Whether a token is `</s>` or begins with `__label__`."""
    first = data[start]
    if first == _LABEL_BYTES[0] and end - start >= len(_LABEL_BYTES):
        prefix = _LABEL_BYTES
    elif first == _EOS_BYTES[0] and end - start == len(_EOS_BYTES):
        prefix = _EOS_BYTES
    else:
        return False
    for k in range(len(prefix)):  # noqa: SIM110 numba compiles the loop, not the generator
        if data[start + np.uint64(k)] != prefix[k]:
            return False
    return True


@_inner
def _tokens(data: Any, start: int, end: int, hashes_T: Any, starts_T: Any, ends_T: Any) -> int:
    """Cut one text into words; fill their hashes and places; the end-of-text word comes last, at place (0, -1)."""
    count = 0
    begin = j = np.uint64(start)  # unsigned: a signed place costs a test for negative indices at each byte
    h = _FNV_OFFSET
    while True:
        byte = data[j] if j < np.uint64(end) else np.uint8(32)
        if not _SEPARATOR[byte]:
            # fastText hashes signed chars: bytes above 127 flip the upper 24 bits too.
            h = np.uint32(np.uint32(h ^ np.uint32(np.int32(np.int8(byte)))) * _FNV_PRIME)
            j += np.uint64(1)
            continue
        if begin < j and not _reserved(data, begin, j):
            hashes_T[count] = h
            starts_T[count] = begin
            ends_T[count] = j
            count += 1
        if j >= np.uint64(end):
            break
        j += np.uint64(1)
        begin = j
        h = _FNV_OFFSET
    hashes_T[count] = EOS_HASH
    starts_T[count] = 0
    ends_T[count] = -1
    return count + 1


@_inner
def _same_word(data: Any, start: int, end: int, words: Any, word_start: int, word_end: int) -> bool:
    if end < 0:  # the end-of-text word is in no text
        data = _EOS_BYTES
        start = 0
        end = 4
    if end - start != word_end - word_start:
        return False
    for k in range(end - start):  # noqa: SIM110
        if data[start + k] != words[word_start + k]:
            return False
    return True


@jit
def fill_table(hashes_W: Any, table_V: Any) -> None:
    """Open addressing, linear probing: slot = hash << 32 | word + 1, 0 = empty. len(table_V) is a power of two."""
    mask = len(table_V) - 1
    for w in range(len(hashes_W)):
        s = np.int64(hashes_W[w]) & mask
        while table_V[s] != 0:
            s = (s + 1) & mask
        table_V[s] = (np.uint64(hashes_W[w]) << np.uint64(32)) | np.uint64(w + 1)


@jit
def hash_words(words: Any, offsets: Any, hashes_W: Any) -> None:
    """FNV-1a of each word, as fastText computes it."""
    for w in range(len(hashes_W)):
        h = _FNV_OFFSET
        for j in range(offsets[w], offsets[w + 1]):
            h = np.uint32(np.uint32(h ^ np.uint32(np.int32(np.int8(words[j])))) * _FNV_PRIME)
        hashes_W[w] = h


@jit
def count_features(
    data: Any,
    offsets: Any,
    row: int,
    words: Any,
    word_offsets: Any,
    counts: Any,
    table_V: Any,
    num_words: int,
    bits: Any,
    bucket: int,
    word_ngrams: int,
    hashes_T: Any,
    starts_T: Any,
    ends_T: Any,
) -> Any:
    """Count the words of texts row, row + 1, ... and mark the buckets that their n-grams fall into.

    Stops before a text for which words, word_offsets, counts or table_V (at most half full) may be too small; the
    caller makes them larger and calls again: growing arrays here would double the time to compile.

    Returns:
        the row to go on from, the number of words, and the number of features of the rows that were done.
    """
    mask = len(table_V) - 1
    features = 0
    while row < len(offsets) - 1:
        tokens = _tokens(data, offsets[row], offsets[row + 1], hashes_T, starts_T, ends_T)
        if (
            num_words + tokens > len(counts)
            or 2 * (num_words + tokens) > len(table_V)
            or word_offsets[num_words] + offsets[row + 1] - offsets[row] + 4 > len(words)
        ):
            break
        for t in range(tokens):
            h = hashes_T[t]
            s = np.int64(h) & mask
            w = np.int64(-1)
            while table_V[s] != 0:
                if np.uint32(table_V[s] >> np.uint64(32)) == h:
                    w = np.int64(table_V[s] & np.uint64(0xFFFFFFFF)) - 1
                    if _same_word(data, starts_T[t], ends_T[t], words, word_offsets[w], word_offsets[w + 1]):
                        break
                s = (s + 1) & mask
            if table_V[s] != 0:
                counts[w] += 1
                continue
            table_V[s] = (np.uint64(h) << np.uint64(32)) | np.uint64(num_words + 1)
            end = word_offsets[num_words]
            if ends_T[t] < 0:
                for byte in _EOS_BYTES:
                    words[end] = byte
                    end += 1
            for j in range(starts_T[t], ends_T[t]):
                words[end] = data[j]
                end += 1
            word_offsets[num_words + 1] = end
            counts[num_words] = 1
            num_words += 1
        features += tokens
        for t in range(tokens):
            h = np.uint64(np.int64(np.int32(hashes_T[t])))
            for u in range(t + 1, min(t + word_ngrams, tokens)):
                h = h * _NGRAM_FACTOR + np.uint64(np.int64(np.int32(hashes_T[u])))
                b = h % np.uint64(bucket)
                bits[b >> np.uint64(6)] |= np.uint64(1) << (b & np.uint64(63))
                features += 1
        row += 1
    return row, num_words, features


@jit
def set_bits(ids: Any, bits: Any) -> None:
    """Mark buckets."""
    for i in ids:
        bits[i >> 6] |= np.uint64(1) << np.uint64(i & 63)


@jit
def list_bits(bits: Any, ids: Any) -> None:
    """The marked buckets, ascending; ids must have room for all of them."""
    count = 0
    for q in range(len(bits)):
        word = bits[q]
        while word != 0:
            low = word & (~word + np.uint64(1))
            ids[count] = q * 64 + np.int64(_popcount(low - np.uint64(1)))
            count += 1
            word ^= low


@_inner
def _features(
    data: Any,
    start: int,
    end: int,
    words: Any,
    word_offsets: Any,
    table_V: Any,
    rank: Any,
    bucket: int,
    word_ngrams: int,
    hashes_T: Any,
    starts_T: Any,
    ends_T: Any,
    ids: Any,
    place: int,
) -> Any:
    """Write the input rows of one text to ids[place:]; returns where they end, and how many features it has in all.

    Done in passes so that the loads of one pass do not wait for each other: hash, find words, find buckets.
    rank holds, per 64 buckets, a bitmap of those that have a row and the row of the first of them: 2.5 MB for ten
    million buckets, so most n-grams of a pool text, which have no row, are settled without a cache miss.
    """
    tokens = _tokens(data, start, end, hashes_T, starts_T, ends_T)
    mask = len(table_V) - 1
    begin = place
    for t in range(tokens):
        h = hashes_T[t]
        s = np.int64(h) & mask
        while True:
            slot = table_V[s]
            if slot == 0:
                break
            if np.uint32(slot >> np.uint64(32)) == h:
                w = np.int64(slot & np.uint64(0xFFFFFFFF)) - 1
                if _same_word(data, starts_T[t], ends_T[t], words, word_offsets[w], word_offsets[w + 1]):
                    ids[place] = w
                    place += 1
                    break
            s = (s + 1) & mask
    total = place - begin
    for t in range(tokens):
        h = np.uint64(np.int64(np.int32(hashes_T[t])))
        for u in range(t + 1, min(t + word_ngrams, tokens)):
            h = h * _NGRAM_FACTOR + np.uint64(np.int64(np.int32(hashes_T[u])))
            b = h % np.uint64(bucket)
            q = b >> np.uint64(6)
            bit = np.uint64(1) << (b & np.uint64(63))
            marked = rank[q, 0]
            total += 1
            # No branch: whether a bucket has a row is a coin toss, and ids has room for a value that is not kept.
            ids[place] = rank[q, 1] + _popcount(marked & (bit - np.uint64(1)))
            place += np.int64(marked & bit != 0)
    return place, total


@jit
def feature_ids(
    data: Any,
    offsets: Any,
    words: Any,
    word_offsets: Any,
    table_V: Any,
    rank: Any,
    bucket: int,
    word_ngrams: int,
    ends: Any,
    ids: Any,
    place: int,
    hashes_T: Any,
    starts_T: Any,
    ends_T: Any,
) -> int:
    """Input rows of training texts, one after the other in ids[place:]; ends[r] is where text r ends.

    ids has room for one more than all features: see `_features`.
    """
    for r in range(len(offsets) - 1):
        place, _ = _features(
            data, offsets[r], offsets[r + 1], words, word_offsets, table_V, rank, bucket, word_ngrams,
            hashes_T, starts_T, ends_T, ids, place,
        )  # fmt: skip
        ends[r] = place
    return place


def _row_columns(lanes: int, update: bool) -> Any:
    """Make the intrinsic (input_RD, column, ids, start, end, vector_D): one vector register over all rows of a text.

    update False: vector_D[column:] = sum of the rows input_RD[ids[start:end], column:], `lanes` columns of them.
    update True: those columns of each row += vector_D[column:]; an id that occurs twice is added to twice.
    Written in LLVM because the compiler, left alone, keeps a sum over rows in memory: 3 to 4 times the instructions,
    hence fewer loads in flight.
    """

    @_intrinsic
    def rows(typing_context: Any, matrix: Any, column: Any, ids: Any, start: Any, end: Any, vector: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def base(k: int) -> Any:
                return context.make_array(signature.args[k])(context, builder, arguments[k])

            def columns(pointer: Any) -> Any:
                return builder.bitcast(builder.gep(pointer, [arguments[1]]), register.as_pointer())

            register = ir.VectorType(ir.FloatType(), lanes)
            matrix_, ids_, vector_ = base(0), base(2), base(5)
            width = builder.extract_value(matrix_.shape, 1)
            place = columns(vector_.data)
            total = cgutils.alloca_once(builder, register)
            builder.store(builder.load(place, align=4) if update else ir.Constant(register, [0.0] * lanes), total)
            count = builder.sub(arguments[4], arguments[3])
            with cgutils.for_range(builder, count) as loop:
                row = builder.load(builder.gep(ids_.data, [builder.add(arguments[3], loop.index)]))
                row = builder.mul(builder.zext(row, width.type), width)
                cell = columns(builder.gep(matrix_.data, [row]))
                added = builder.fadd(builder.load(cell, align=4), builder.load(total))
                if update:
                    builder.store(added, cell, align=4)
                else:
                    builder.store(added, total)
            if not update:
                builder.store(builder.load(total), place, align=4)
            return context.get_dummy_value()

        return nb.void(matrix, nb.int64, ids, nb.int64, nb.int64, vector), generate

    return rows


_sum8, _sum2, _sum1 = (_row_columns(lanes, False) for lanes in (8, 2, 1))
_add8, _add2, _add1 = (_row_columns(lanes, True) for lanes in (8, 2, 1))


@_inner
def _sum_rows(input_RD: Any, ids: Any, start: int, end: int, hidden_D: Any) -> None:
    """hidden_D = sum of input_RD[ids[start:end]]; ids are uint32."""
    k = 0
    while k + 8 <= input_RD.shape[1]:
        _sum8(input_RD, k, ids, start, end, hidden_D)
        k += 8
    while k + 2 <= input_RD.shape[1]:
        _sum2(input_RD, k, ids, start, end, hidden_D)
        k += 2
    if k < input_RD.shape[1]:
        _sum1(input_RD, k, ids, start, end, hidden_D)


@_inner
def _add_to_rows(input_RD: Any, ids: Any, start: int, end: int, step_D: Any) -> None:
    """input_RD[ids[start:end]] += step_D, once for each id."""
    k = 0
    while k + 8 <= input_RD.shape[1]:
        _add8(input_RD, k, ids, start, end, step_D)
        k += 8
    while k + 2 <= input_RD.shape[1]:
        _add2(input_RD, k, ids, start, end, step_D)
        k += 2
    if k < input_RD.shape[1]:
        _add1(input_RD, k, ids, start, end, step_D)


@_inner
def _softmax(output_CD: Any, hidden_D: Any, probs_C: Any) -> None:
    most = np.float32(-np.inf)
    for c in range(output_CD.shape[0]):
        z = np.float32(0)
        for k in range(output_CD.shape[1]):
            z += output_CD[c, k] * hidden_D[k]
        probs_C[c] = z
        most = max(most, z)
    total = 0.0  # float64: a float32 sum over thousands of classes would not be 1 within 1e-6
    for c in range(output_CD.shape[0]):
        probs_C[c] = np.exp(probs_C[c] - most)
        total += probs_C[c]
    for c in range(output_CD.shape[0]):
        probs_C[c] = probs_C[c] / total


@jit
def score(
    data: Any,
    offsets: Any,
    words: Any,
    word_offsets: Any,
    table_V: Any,
    rank: Any,
    bucket: int,
    word_ngrams: int,
    input_RD: Any,
    output_CD: Any,
    probs_BC: Any,
    hidden_BD: Any,
    ids: Any,
    hashes_T: Any,
    starts_T: Any,
    ends_T: Any,
) -> None:
    """Probabilities and hidden vectors of texts. A text without any known feature has hidden vector zero."""
    width = input_RD.shape[1]
    first = np.int64(0)  # a literal 0 would make numba compile _features and _sum_rows again for it
    for r in range(len(offsets) - 1):
        count, total = _features(
            data, offsets[r], offsets[r + 1], words, word_offsets, table_V, rank, bucket, word_ngrams,
            hashes_T, starts_T, ends_T, ids, first,
        )  # fmt: skip
        hidden_D = hidden_BD[r]
        _sum_rows(input_RD, ids, first, count, hidden_D)
        scale = np.float32(1) / np.float32(max(total, 1))
        for k in range(width):
            hidden_D[k] *= scale
        _softmax(output_CD, hidden_D, probs_BC[r])


@jit
def train(
    ends: Any,
    ids: Any,
    labels_L: Any,
    order: Any,
    input_RD: Any,
    output_CD: Any,
    learning_rate: float,
    done: int,
    total: int,
) -> float:
    """One step of SGD for each text in `order`, the rate falling linearly from done/total on; returns the summed loss.

    Sequential on purpose: Hogwild threads gain nothing here (they share the few rows of the output matrix) and
    would make the result depend on chance.
    """
    classes, width = output_CD.shape
    hidden_D = np.empty(width, np.float32)
    gradient_D = np.empty(width, np.float32)
    probs_C = np.empty(classes, np.float32)
    loss = 0.0
    for q in range(len(order)):
        r = order[q]
        start = ends[r - 1] if r > 0 else 0
        count = ends[r] - start
        rate = np.float32(learning_rate * (1.0 - (done + q) / total))
        if q + 1 < len(order):
            ahead = order[q + 1]
            for p in range(ends[ahead - 1] if ahead > 0 else 0, ends[ahead]):
                _prefetch(input_RD, np.int64(ids[p]) * width)
        gradient_D[:] = 0
        _sum_rows(input_RD, ids, start, start + count, hidden_D)
        scale = np.float32(1) / np.float32(max(count, 1))
        for k in range(width):
            hidden_D[k] *= scale
        _softmax(output_CD, hidden_D, probs_C)
        label = labels_L[r]
        # As fastText: a probability of exactly 0 costs log(1e-5), not infinity. NaN stays NaN.
        loss -= np.log(probs_C[label] + 1e-5)
        for c in range(classes):
            step = rate * (np.float32(c == label) - probs_C[c])
            for k in range(width):
                gradient_D[k] += step * output_CD[c, k]
                output_CD[c, k] += step * hidden_D[k]
        for k in range(width):
            gradient_D[k] *= scale
        _add_to_rows(input_RD, ids, start, start + count, gradient_D)
    return loss


@jit
def fill_uniform(input_RD: Any, key: Any, bound: float) -> None:
    """Uniform in [-bound, bound), element j being splitmix64(key + j): the same on any machine."""
    flat = input_RD.reshape(-1)
    for j in range(len(flat)):
        z = key + np.uint64(j) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        flat[j] = np.float32((np.float64(z >> np.uint64(11)) * 2.0**-52 - 1.0) * bound)
