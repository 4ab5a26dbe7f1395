"""Labelled texts whose class shows in their words, and what all probabilities must be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from svp_nlp.models.base import Labeled

ANIMALS, TOOLS = ["cat", "dog", "horse", "mouse", "cow"], ["hammer", "saw", "drill", "pliers", "nail"]


def rows(texts: list[str]) -> pa.Table:
    """Texts as a learner gets them."""
    return pa.table({"text": pa.array(texts, pa.large_string())})


def labeled(texts: list[str], labels: list[int], class_names: tuple[str, ...] = ("animals", "tools")) -> Labeled:
    """Texts and the index of the class of each."""
    return Labeled(rows(texts), np.asarray(labels, dtype=np.int64), np.arange(len(labels)), class_names)


def planted(size: int, seed: int = 0, *, wrong: float = 0.0, filler: int = 1) -> Labeled:
    """Texts whose class shows in three of their words, but for a share of labels that are wrong."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size)
    words = [[*rng.choice([ANIMALS, TOOLS][y], 3), "and", *map(str, rng.integers(0, 50, filler))] for y in labels]
    texts = list(map(" ".join, words))
    return labeled(texts, np.where(rng.random(size) < wrong, 1 - labels, labels).tolist())


def check_probs(probs_BC: np.ndarray, rows: int, classes: int, *, tolerance: float = 1e-6) -> None:
    """Assert the shape, the type, and that each row is a distribution."""
    assert probs_BC.shape == (rows, classes) and probs_BC.dtype == np.float32
    assert np.isfinite(probs_BC).all() and (probs_BC >= 0).all()
    assert abs(probs_BC.astype(np.float64).sum(axis=1) - 1).max(initial=0) < tolerance
