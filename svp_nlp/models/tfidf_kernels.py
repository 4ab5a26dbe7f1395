"""The inner loop of the TF-IDF model: from the features of a text to class scores and probabilities.

Shape legend: W rows of weights, D = 1 + C, C classes, B texts, V slots of a hash table.

A linear model over l2-normalised tf-idf needs no merged counts for its sum: tf x idf x coefficient can be added up
occurrence by occurrence. Only the norm does: the k-th occurrence of a feature adds idf^2 (k^2 - (k-1)^2) to its square.
So one pass over the features does, with a small table of the text's own features that stays in the first-level cache.

No fastmath, and each sum in the order of the text: the same program gives the same bits on any processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from svp_nlp.compiled import jit, prefetch

_AHEAD = 12  # features; a row of weights comes from memory in the time that these take
_MIX = np.uint64(0x9E3779B97F4A7C15)


@jit
def score(ends: Any, ids: Any, weights_WD: Any, bias_C: Any, table_V: Any, scores_BC: Any, probs_BC: Any) -> None:
    """Class scores and their softmax; text r has the features ids[ends[r - 1] : ends[r]], repeated as they occur.

    Args:
        ids: uint32, all below W, at least one longer than ends[-1].
        weights_WD: float32; column 0 is idf, column 1 + c is idf x the coefficient of class c.
        table_V: uint64 scratch, V a power of two, at least twice the features of the longest text.
    """
    classes = len(bias_C)
    width = weights_WD.shape[1]
    sums_C = np.empty(classes, np.float64)  # float32 would lose the fifth digit in texts of ten thousand words
    start = np.int64(0)
    for r in range(len(ends)):
        end = ends[r]
        slots = np.int64(16)
        shift = np.uint64(60)
        while slots < 2 * (end - start):
            slots *= 2
            shift -= np.uint64(1)
        table_V[:slots] = 0
        mask = slots - 1
        sums_C[:] = 0
        square = 0.0
        for p in range(start, end):
            prefetch(weights_WD, np.int64(ids[min(p + _AHEAD, end - 1)]) * width)
            w = np.int64(ids[p])
            key = np.uint64(w + 1) << np.uint64(32)  # the count is in the lower half; an empty slot is 0
            s = np.int64((key * _MIX) >> shift)
            while table_V[s] != 0 and (table_V[s] ^ key) >> np.uint64(32) != 0:
                s = (s + 1) & mask
            seen = np.int64(table_V[s] & np.uint64(0xFFFFFFFF))
            table_V[s] = key | np.uint64(seen + 1)
            idf = np.float64(weights_WD[w, 0])
            square += idf * idf * np.float64(2 * seen + 1)
            for c in range(classes):
                sums_C[c] += weights_WD[w, c + 1]
        scale = 1.0 / np.sqrt(square) if square > 0 else 0.0
        most = np.float32(-np.inf)
        for c in range(classes):
            scores_BC[r, c] = sums_C[c] * scale + bias_C[c]
            most = max(most, scores_BC[r, c])
        total = 0.0  # float64: a float32 sum over thousands of classes would not be 1 within 1e-6
        for c in range(classes):
            probs_BC[r, c] = np.exp(scores_BC[r, c] - most)
            total += probs_BC[r, c]
        for c in range(classes):
            probs_BC[r, c] = probs_BC[r, c] / total
        start = end
