"""The inner loops of the fastText model: tokenise, hash, count, look up, score, train. numba over plain arrays.

Texts come as Arrow lays them out: one byte array and offsets, text r being data[offsets[r] : offsets[r + 1]].
The features of a text are exactly those of fastText's supervised mode without subwords: its words, the end-of-text
word `</s>`, and its word n-grams hashed into buckets. Three differences, all for the good of the data: a line feed
is a separator like a blank and does not end the text; the tokens that fastText reserves (`</s>`, `__label__...`)
are left out of a text instead of ending or mislabelling it; a bucket that no training text touches has no row:
it counts in the mean as zeros.

No fastmath: the same program gives the same bits whatever the vector width of the processor. Every kernel releases
the GIL. Ids of input rows are uint32.

Arguments that go together travel as tuples: text = (data, offsets); words = (all words one after the other, their
offsets, hash table); lookup = (words, rank, bucket, word_ngrams); scratch = (hashes_T, heads_T, starts_T, ends_T),
room for the words of the longest text. Not so into inner functions, and no variable there stands for one array or
another: both would count references for every word, which doubled the time.

Shape legend: W words, V table slots, R rows of the input matrix, D width, C classes, T tokens of one text.

Source: Joulin et al. 2017, "Bag of tricks for efficient text classification"; fastText 0.9.2, src/dictionary.cc.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from svp_nlp.compiled import eight_bytes, inner, jit, popcount, prefetch, row_columns

EOS = b"</s>"
LABEL_PREFIX = b"__label__"
EOS_HASH = np.uint32(3617362777)  # fnv1a(EOS), asserted by a test

_FNV_OFFSET = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)
_NGRAM_FACTOR = np.uint64(116049371)

# What separates words in fastText's Dictionary::readWord.
_SEPARATOR = np.zeros(256, dtype=np.bool_)
_SEPARATOR[[0, 9, 10, 11, 12, 13, 32]] = True
_EOS_BYTES = np.frombuffer(EOS, dtype=np.uint8)
_EOS_HEAD = np.uint64(int.from_bytes(EOS, "little"))
_LABEL_HEAD = np.uint64(int.from_bytes(LABEL_PREFIX[:8], "little"))
_LABEL_REST = np.uint8(LABEL_PREFIX[8])


@inner
def _head(data: Any, start: int, end: int) -> Any:
    """The first eight bytes of a word as a number, zeros after its end. NUL separates words, so no word holds one."""
    if start + 8 <= len(data):
        head = eight_bytes(data, start)
    else:
        head = np.uint64(0)
        for k in range(min(end - start, 8)):
            head |= np.uint64(data[start + k]) << np.uint64(8 * k)
    if end - start < 8:
        head &= (np.uint64(1) << np.uint64(8 * (end - start))) - np.uint64(1)
    return head


@inner
def _hash_byte(h: Any, byte: Any) -> Any:
    """One step of FNV-1a; fastText hashes signed chars: bytes above 127 flip the upper 24 bits too."""
    return np.uint32(np.uint32(h ^ np.uint32(np.int32(np.int8(byte)))) * _FNV_PRIME)


@inner
def _tokens(data: Any, start: int, stop: int, hashes_T: Any, heads_T: Any, starts_T: Any, ends_T: Any) -> int:
    """Cut a text into words; fill their hashes, heads and places; the end-of-text word comes last, at place (0, 4).

    Its place is not in the text, but nobody looks: a word of less than eight bytes is all in its head.
    """
    end = np.uint64(stop)
    begin = j = np.uint64(start)  # unsigned: a signed place costs a test for negative indices at each byte
    count = 0
    h = _FNV_OFFSET
    while True:
        byte = data[j] if j < end else np.uint8(32)
        if not _SEPARATOR[byte]:
            h = _hash_byte(h, byte)
            j += np.uint64(1)
            continue
        if begin < j:
            head = _head(data, np.int64(begin), np.int64(j))
            hashes_T[count] = h
            heads_T[count] = head
            starts_T[count] = begin
            ends_T[count] = j
            label = head == _LABEL_HEAD and j - begin >= np.uint64(9) and data[begin + np.uint64(8)] == _LABEL_REST
            count += 0 if label or head == _EOS_HEAD else 1  # reserved tokens are left out
        if j >= end:
            break
        j += np.uint64(1)
        begin = j
        h = _FNV_OFFSET
    hashes_T[count] = EOS_HASH
    heads_T[count] = _EOS_HEAD
    starts_T[count] = 0
    ends_T[count] = len(_EOS_BYTES)
    return count + 1


@inner
def _slot(data: Any, h: Any, head: Any, start: int, end: int, word_bytes: Any, word_offsets: Any, table_V: Any) -> Any:
    """Where a word is in the hash table, or the empty slot where it would be. Exact: equal hashes are not enough."""
    mask = len(table_V) - 1
    s = np.int64(h) & mask
    while True:
        slot = table_V[s, 0]
        if slot == 0:
            return s
        if np.uint32(slot >> np.uint64(32)) == h and table_V[s, 1] == head:
            if end - start < 8:
                return s
            w = np.int64(slot & np.uint64(0xFFFFFFFF)) - 1
            if word_offsets[w + 1] - word_offsets[w] == end - start:
                k = 8
                while k < end - start and data[start + k] == word_bytes[word_offsets[w] + k]:
                    k += 1
                if k == end - start:
                    return s
        s = (s + 1) & mask


@inner
def _next_ngram(h: Any, hash_of_word: Any) -> Any:
    """Hash of an n-gram that is one word longer; the words' hashes enter as signed numbers."""
    return h * _NGRAM_FACTOR + np.uint64(np.int64(np.int32(hash_of_word)))


@jit
def fill_table(word_bytes: Any, word_offsets: Any, table_V: Any) -> None:
    """Enter all words: open addressing, linear probing; [hash << 32 | word + 1, head], 0 = empty.

    table_V is uint64 [V, 2], V a power of two: one cache line settles a word of less than eight bytes.
    """
    mask = len(table_V) - 1
    for w in range(len(word_offsets) - 1):
        h = _FNV_OFFSET
        for j in range(word_offsets[w], word_offsets[w + 1]):
            h = _hash_byte(h, word_bytes[j])
        s = np.int64(h) & mask
        while table_V[s, 0] != 0:
            s = (s + 1) & mask
        table_V[s, 0] = (np.uint64(h) << np.uint64(32)) | np.uint64(w + 1)
        table_V[s, 1] = _head(word_bytes, word_offsets[w], word_offsets[w + 1])


@jit
def count_features(
    text: Any, row: int, words: Any, counts: Any, num_words: int, bits: Any, bucket: int, word_ngrams: int, scratch: Any
) -> Any:
    """Count the words of texts row, row + 1, ... and mark the buckets that their n-grams fall into.

    Stops before a text for which words, counts or the table (at most half full) may be too small; the caller makes
    them larger and calls again: growing arrays here would double the time to compile.
    Returns: the row to go on from, the number of words, and the number of features of the rows that were done.
    """
    data, offsets = text
    word_bytes, word_offsets, table_V = words
    hashes_T, heads_T, starts_T, ends_T = scratch
    features = 0
    while row < len(offsets) - 1:
        tokens = _tokens(data, offsets[row], offsets[row + 1], hashes_T, heads_T, starts_T, ends_T)
        if (
            num_words + tokens > len(counts)
            or 2 * (num_words + tokens) > len(table_V)
            or word_offsets[num_words] + offsets[row + 1] - offsets[row] + len(_EOS_BYTES) > len(word_bytes)
        ):
            break
        for t in range(tokens):
            s = _slot(data, hashes_T[t], heads_T[t], starts_T[t], ends_T[t], word_bytes, word_offsets, table_V)
            if table_V[s, 0] != 0:
                counts[np.int64(table_V[s, 0] & np.uint64(0xFFFFFFFF)) - 1] += 1
                continue
            table_V[s, 0] = (np.uint64(hashes_T[t]) << np.uint64(32)) | np.uint64(num_words + 1)
            table_V[s, 1] = heads_T[t]
            end = word_offsets[num_words]
            if t == tokens - 1:
                word_bytes[end : end + len(_EOS_BYTES)] = _EOS_BYTES
                end += len(_EOS_BYTES)
            else:
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
def _features(
    data: Any, start: int, stop: int, word_bytes: Any, word_offsets: Any, table_V: Any, rank: Any, bucket: int,
    word_ngrams: int, hashes_T: Any, heads_T: Any, starts_T: Any, ends_T: Any, ids: Any, place: Any,
) -> Any:  # fmt: skip
    """Write the input rows of a text to ids[place:]; returns where they end, and how many features it has in all.

    Done in passes so that the loads of one pass do not wait for each other: hash, find words, find buckets. rank holds,
    per 64 buckets, a bitmap of those that have a row and the row of the first of them: 2.5 MB for ten million buckets.
    """
    tokens = _tokens(data, start, stop, hashes_T, heads_T, starts_T, ends_T)
    begin = place
    for t in range(tokens):
        s = _slot(data, hashes_T[t], heads_T[t], starts_T[t], ends_T[t], word_bytes, word_offsets, table_V)
        slot = table_V[s, 0]
        if slot != 0:
            ids[place] = (slot & np.uint64(0xFFFFFFFF)) - np.uint64(1)
            place += 1
    total = place - begin
    ngrams_T = heads_T  # read by now; from here on the hash of the n-gram that begins at a word, longer each turn
    for t in range(tokens):
        ngrams_T[t] = _next_ngram(np.uint64(0), hashes_T[t])
    for more in range(1, word_ngrams):
        for t in range(tokens - more):
            h = _next_ngram(ngrams_T[t], hashes_T[t + more])
            ngrams_T[t] = h
            b = h % np.uint64(bucket)
            q = b >> np.uint64(6)
            bit = np.uint64(1) << (b & np.uint64(63))
            marked = rank[q, 0]
            # No branch: whether a bucket has a row is a coin toss, and ids has room for a value that is not kept.
            ids[place] = rank[q, 1] + popcount(marked & (bit - np.uint64(1)))
            place += np.int64(marked & bit != 0)
        total += max(tokens - more, 0)
    return place, total


@jit
def feature_ids(text: Any, lookup: Any, ends: Any, ids: Any, place: int, scratch: Any) -> int:
    """Input rows of training texts, one after the other in ids[place:]; ends[r] is where text r ends.

    ids has room for one more than all features: see `_features`.
    """
    data, offsets = text
    (word_bytes, word_offsets, table_V), rank, bucket, word_ngrams = lookup
    hashes_T, heads_T, starts_T, ends_T = scratch
    for r in range(len(offsets) - 1):
        place, _ = _features(
            data, offsets[r], offsets[r + 1], word_bytes, word_offsets, table_V, rank, bucket, word_ngrams,
            hashes_T, heads_T, starts_T, ends_T, ids, place,
        )  # fmt: skip
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
    data, offsets = text
    (word_bytes, word_offsets, table_V), rank, bucket, word_ngrams = lookup
    hashes_T, heads_T, starts_T, ends_T = scratch
    first = np.int64(0)  # a literal 0 would make numba compile _features and _sum_rows again for it
    for r in range(len(offsets) - 1):
        count, total = _features(
            data, offsets[r], offsets[r + 1], word_bytes, word_offsets, table_V, rank, bucket, word_ngrams,
            hashes_T, heads_T, starts_T, ends_T, ids, first,
        )  # fmt: skip
        hidden_D = hidden_BD[r]
        _sum_rows(input_RD, ids, first, count, hidden_D)
        scale = np.float32(1) / np.float32(max(total, 1))
        for k in range(len(hidden_D)):
            hidden_D[k] *= scale
        _softmax(output_CD, hidden_D, probs_BC[r])


@jit
def train(
    ends: Any, ids: Any, labels_L: Any, order: Any, weights_C: Any, input_RD: Any, output_CD: Any, rate: float,
    done: int, total: int,
) -> float:  # fmt: skip
    """One step of SGD for each text in `order`, at weight x rate (1 - done/total); returns the summed, weighted loss.

    Sequential on purpose: Hogwild threads gain nothing here (they share the few rows of the output matrix) and
    would make the result depend on chance.
    """
    classes, width = output_CD.shape
    hidden_D, gradient_D = np.empty(width, np.float32), np.empty(width, np.float32)
    probs_C = np.empty(classes, np.float32)
    loss = 0.0
    for q in range(len(order)):
        r = order[q]
        label = labels_L[r]
        start = ends[r - 1] if r > 0 else 0
        count = ends[r] - start
        rate_now = weights_C[label] * np.float32(rate * (1.0 - (done + q) / total))
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
        # As fastText: a probability of exactly 0 costs log(1e-5), not infinity. NaN stays NaN.
        loss -= weights_C[label] * np.log(probs_C[label] + 1e-5)
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
