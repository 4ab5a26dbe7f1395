"""Signals that tell when more labels stop helping. Pure functions of what successive proxies say about a *stop set*.

The stop set is a fixed random part of the pool, so rounds can be compared with each other and nobody has to label it.
Shape legend: S rows of the stop set, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import FloatNC, IntN, UIntN, check_probs, keyed_hash

STOP_ROWS = 2_000  # as in Bloodgood & Vijay-Shanker 2009


@dataclass(frozen=True)
class Watched:
    """What the proxies up to a round say about when to stop (`stopping_step.py`).

    Attributes:
        directory: of the last one's step.
        model: its fingerprint.
        rows: the signals of each, in order.
        holds: the recipe's rule does, after the last.
        ends: and so no more rows were asked for.
    """

    directory: Path
    model: str
    rows: tuple[Mapping[str, Any], ...]
    holds: bool = False
    ends: bool = False


def stop_set(keys_N: UIntN, available_N: npt.NDArray[np.bool_], *, seed: int, rows: int = STOP_ROWS) -> IntN:
    """Positions of the stop set: random available rows, the same for the whole run, ascending.

    Args:
        keys_N: uint64, of the ids: the pool's order does not count.
        available_N: rows that may be picked at the start of the run. Those that are labelled later stay in, which the
            source found to make no difference.
    Source: Bloodgood & Vijay-Shanker 2009, section 3.
    """
    among = np.flatnonzero(available_N)
    order = np.argsort(keyed_hash(keys_N[among], seed, "stop set"), kind="stable")
    return np.sort(among[order[:rows]]).astype(np.int64)


def overall_uncertainty(probs_SC: FloatNC) -> float:
    """Mean entropy of the predicted probabilities, divided by the largest there can be; in [0, 1], 1 = knows nothing.

    Raises:
        SignalError: a row is not a row of probabilities; see `check_probs`.
    Source: Zhu, Wang & Hovy 2008, Multi-Criteria-based Strategy to Stop Active Learning for Data Annotation (COLING).
    There: over all unlabelled rows, and entropy as it is; divided by log C, a threshold means the same whatever
    the number of classes.
    """
    check_probs(probs_SC)
    probs = np.clip(probs_SC.astype(np.float64), 1e-12, 1.0)
    entropy_S = -(probs * np.log(probs)).sum(axis=1)
    return float(np.clip(entropy_S.mean() / np.log(probs.shape[1]), 0.0, 1.0))


def kappa(before_S: npt.ArrayLike, after_S: npt.ArrayLike) -> float:
    """Agreement of two predictions of the same rows beyond what their class frequencies give by chance; in [-1, 1].

    1 = they are equal, also where both give one class only; 0 = as by chance.

    Source: Cohen 1960; as a signal to stop: Bloodgood & Vijay-Shanker 2009, A Method for Stopping Active Learning Based
    on Stabilizing Predictions and the Need for User-Adjustable Stopping, section 3.
    """
    before, after = _pair(before_S, after_S)
    agreed = float(np.mean(before == after))
    if agreed == 1.0:
        return 1.0
    classes = int(max(before.max(), after.max())) + 1
    shares = [np.bincount(side, minlength=classes) / len(side) for side in (before, after)]
    chance = float(shares[0] @ shares[1])
    return (agreed - chance) / (1.0 - chance)


def classification_change(before_S: npt.ArrayLike, after_S: npt.ArrayLike) -> float:
    """Share of the rows whose predicted class is not that of the round before; in [0, 1].

    Source: Zhu, Wang & Hovy 2008, Learning a Stopping Criterion for Active Learning for Word Sense Disambiguation and
    Text Classification (IJCNLP). There: stop when no unlabelled row changes; here a share, of a fixed set.
    """
    before, after = _pair(before_S, after_S)
    return float(np.mean(before != after))


def _pair(before_S: npt.ArrayLike, after_S: npt.ArrayLike) -> tuple[IntN, IntN]:
    before, after = np.asarray(before_S, dtype=np.int64), np.asarray(after_S, dtype=np.int64)
    assert before.shape == after.shape and before.ndim == 1 and len(before)
    return before, after
