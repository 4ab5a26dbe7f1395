"""The inner loops of the fastText model: tokenise, hash, count, look up, score, train. numba over plain arrays.

Texts come as Arrow lays them out: one byte array and offsets, text r being data[offsets[r] : offsets[r + 1]].
The features of a text are exactly those of fastText's supervised mode without subwords: its words, the end-of-text
word `</s>`, and its word n-grams hashed into buckets. Three differences, all for the good of the data: a line feed
is a separator like a blank and does not end the text; the tokens that fastText reserves (`</s>`, `__label__...`)
are left out of a text instead of ending or mislabelling it; a bucket that no training text touches has no row:
it counts in the mean as zeros.

No fastmath: the same program gives the same bits whatever the vector width of the processor. Every kernel releases
the GIL. Types: rows of weights are int32 ids; -1 is "no row".

Arguments that go together travel as tuples: text = (data, offsets); words = (all words one after the other, their
offsets, hash table); lookup = (words, rank, bucket, word_ngrams); scratch = (hashes_T, starts_T, ends_T), room for
the words of the longest text.

Shape legend: W words, V table slots, R rows of the input matrix, D width, C classes, T tokens of one text.

Source: Joulin et al. 2017, "Bag of tricks for efficient text classification"; fastText 0.9.2, src/dictionary.cc.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from svp_nlp.models.compiled import inner, jit, popcount, prefetch, row_columns

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


@inner
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


@inner
def _hash_byte(h: Any, byte: Any) -> Any:
    """One step of FNV-1a; fastText hashes signed chars: bytes above 127 flip the upper 24 bits too."""
    return np.uint32(np.uint32(h ^ np.uint32(np.int32(np.int8(byte)))) * _FNV_PRIME)


@inner
def _tokens(text: Any, r: int, scratch: Any) -> int:
    """Cut text r into words; fill their hashes and places; the end-of-text word comes last, at place (0, -1)."""
    data, offsets = text
    hashes_T, starts_T, ends_T = scratch
    end = np.uint64(offsets[r + 1])
    begin = j = np.uint64(offsets[r])  # unsigned: a signed place costs a test for negative indices at each byte
    count = 0
    h = _FNV_OFFSET
    while True:
        byte = data[j] if j < end else np.uint8(32)
        if not _SEPARATOR[byte]:
            h = _hash_byte(h, byte)
            j += np.uint64(1)
            continue
        if begin < j and not _reserved(data, begin, j):
            hashes_T[count] = h
            starts_T[count] = begin
            ends_T[count] = j
            count += 1
        if j >= end:
            break
        j += np.uint64(1)
        begin = j
        h = _FNV_OFFSET
    hashes_T[count] = EOS_HASH
    starts_T[count] = 0
    ends_T[count] = -1
    return count + 1


@inner
def _slot(data: Any, t: int, scratch: Any, words: Any) -> Any:
    """Where word t of a text is in the hash table, or the empty slot where it would be."""
    word_bytes, word_offsets, table_V = words
    hashes_T, starts_T, ends_T = scratch
    h, start, end = hashes_T[t], starts_T[t], ends_T[t]
    if end < 0:  # the end-of-text word is in no text
        data = _EOS_BYTES
        end = np.int64(len(_EOS_BYTES))
    mask = len(table_V) - 1
    s = np.int64(h) & mask
    while table_V[s] != 0:
        if np.uint32(table_V[s] >> np.uint64(32)) == h:
            w = np.int64(table_V[s] & np.uint64(0xFFFFFFFF)) - 1
            if word_offsets[w + 1] - word_offsets[w] == end - start:
                k = np.int64(0)
                while k < end - start and data[start + k] == word_bytes[word_offsets[w] + k]:
                    k += 1
                if k == end - start:
                    break
        s = (s + 1) & mask
    return s


@inner
def _next_ngram(h: Any, hash_of_word: Any) -> Any:
    """Hash of an n-gram that is one word longer; the words' hashes enter as signed numbers."""
    return h * _NGRAM_FACTOR + np.uint64(np.int64(np.int32(hash_of_word)))


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
            h = _hash_byte(h, words[j])
        hashes_W[w] = h


@jit
def count_features(
    text: Any, row: int, words: Any, counts: Any, num_words: int, bits: Any, bucket: int, word_ngrams: int, scratch: Any
) -> Any:
    """Count the words of texts row, row + 1, ... and mark the buckets that their n-grams fall into.

    Stops before a text for which words, counts or the table (at most half full) may be too small; the caller makes
    them larger and calls again: growing arrays here would double the time to compile.

    Returns:
        the row to go on from, the number of words, and the number of features of the rows that were done.
    """
    data, offsets = text
    word_bytes, word_offsets, table_V = words
    hashes_T, starts_T, ends_T = scratch
    features = 0
    while row < len(offsets) - 1:
        tokens = _tokens(text, row, scratch)
        if (
            num_words + tokens > len(counts)
            or 2 * (num_words + tokens) > len(table_V)
            or word_offsets[num_words] + offsets[row + 1] - offsets[row] + len(_EOS_BYTES) > len(word_bytes)
        ):
            break
        for t in range(tokens):
            s = _slot(data, t, scratch, words)
            if table_V[s] != 0:
                counts[np.int64(table_V[s] & np.uint64(0xFFFFFFFF)) - 1] += 1
                continue
            table_V[s] = (np.uint64(hashes_T[t]) << np.uint64(32)) | np.uint64(num_words + 1)
            end = word_offsets[num_words]
            if ends_T[t] < 0:
                for byte in _EOS_BYTES:
                    word_bytes[end] = byte
                    end += 1
            for j in range(starts_T[t], ends_T[t]):
                word_bytes[end] = data[j]
                end += 1
            word_offsets[num_words + 1] = end
            counts[num_words] = 1
            num_words += 1
        features += tokens
        for t in range(tokens):
            h = _next_ngram(np.uint64(0), hashes_T[t])
            for u in range(t + 1, min(t + word_ngrams, tokens)):
                h = _next_ngram(h, hashes_T[u])
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
            ids[count] = q * 64 + np.int64(popcount(low - np.uint64(1)))
            count += 1
            word ^= low


@inner
def _features(text: Any, r: int, lookup: Any, scratch: Any, ids: Any, place: Any) -> Any:
    """Write the input rows of text r to ids[place:]; returns where they end, and how many features it has in all.

    Done in passes so that the loads of one pass do not wait for each other: hash, find words, find buckets.
    rank holds, per 64 buckets, a bitmap of those that have a row and the row of the first of them: 2.5 MB for ten
    million buckets, so most n-grams of a pool text, which have no row, are settled without a cache miss.
    """
    words, rank, bucket, word_ngrams = lookup
    hashes_T = scratch[0]
    tokens = _tokens(text, r, scratch)
    begin = place
    for t in range(tokens):
        slot = words[2][_slot(text[0], t, scratch, words)]
        if slot != 0:
            ids[place] = (slot & np.uint64(0xFFFFFFFF)) - np.uint64(1)
            place += 1
    total = place - begin
    for t in range(tokens):
        h = _next_ngram(np.uint64(0), hashes_T[t])
        for u in range(t + 1, min(t + word_ngrams, tokens)):
            h = _next_ngram(h, hashes_T[u])
            b = h % np.uint64(bucket)
            q = b >> np.uint64(6)
            bit = np.uint64(1) << (b & np.uint64(63))
            marked = rank[q, 0]
            total += 1
            # No branch: whether a bucket has a row is a coin toss, and ids has room for a value that is not kept.
            ids[place] = rank[q, 1] + popcount(marked & (bit - np.uint64(1)))
            place += np.int64(marked & bit != 0)
    return place, total


@jit
def feature_ids(text: Any, lookup: Any, ends: Any, ids: Any, place: int, scratch: Any) -> int:
    """Input rows of training texts, one after the other in ids[place:]; ends[r] is where text r ends.

    ids has room for one more than all features: see `_features`.
    """
    for r in range(len(text[1]) - 1):
        place, _ = _features(text, r, lookup, scratch, ids, place)
        ends[r] = place
    return place


_sum8, _sum2, _sum1 = (row_columns(lanes, False) for lanes in (8, 2, 1))
_add8, _add2, _add1 = (row_columns(lanes, True) for lanes in (8, 2, 1))


@inner
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


@inner
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


@inner
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
    text: Any, lookup: Any, input_RD: Any, output_CD: Any, probs_BC: Any, hidden_BD: Any, ids: Any, scratch: Any
) -> None:
    """Probabilities and hidden vectors of texts. A text without any known feature has hidden vector zero."""
    first = np.int64(0)  # a literal 0 would make numba compile _features and _sum_rows again for it
    for r in range(len(text[1]) - 1):
        count, total = _features(text, r, lookup, scratch, ids, first)
        hidden_D = hidden_BD[r]
        _sum_rows(input_RD, ids, first, count, hidden_D)
        scale = np.float32(1) / np.float32(max(total, 1))
        for k in range(len(hidden_D)):
            hidden_D[k] *= scale
        _softmax(output_CD, hidden_D, probs_BC[r])


@jit
def train(
    ends: Any, ids: Any, labels_L: Any, order: Any, input_RD: Any, output_CD: Any, rate: float, done: int, total: int
) -> float:
    """One step of SGD for each text in `order`, at rate (1 - done/total); returns the summed loss.

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
        rate_now = np.float32(rate * (1.0 - (done + q) / total))
        if q + 1 < len(order):
            ahead = order[q + 1]
            for p in range(ends[ahead - 1] if ahead > 0 else 0, ends[ahead]):
                prefetch(input_RD, np.int64(ids[p]) * width)
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
            step = rate_now * (np.float32(c == label) - probs_C[c])
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
