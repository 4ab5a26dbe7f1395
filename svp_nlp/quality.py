"""Which labels are likely wrong, from what a model says of rows that it was not trained on. numpy only.

Shape legend: L labelled rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from svp_nlp.arrays import BoolN, FloatNC, IntN, UIntN, check_probs
from svp_nlp.errors import LabelError

Score: TypeAlias = Literal["self_confidence", "normalized_margin"]
FloatL: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LabelErrors:
    """What is found about L labels.

    Attributes:
        order: int64 [L], rows from the most suspicious to the least; those that cannot be judged come last.
        scores: float32 [L] in [0, 1]; lower is more suspicious.
        likely: bool [L], the confident joint says that the label is wrong.
        suggested: int64 [L], the class that the row more likely has; the label itself where it is the likeliest.
        judged: bool [L], False for the only row of its class: whoever predicts it has never seen that class.
    """

    order: IntN
    scores: FloatL
    likely: BoolN
    suggested: IntN
    judged: BoolN


def self_confidence(labels_L: IntN, probs_LC: FloatNC) -> FloatL:
    """Probability of the given label; 0 = surely wrong.

    Source: Northcutt et al. 2021, section 3; Kuan & Mueller 2022, section 2.
    """
    found: FloatL = probs_LC[np.arange(len(labels_L)), labels_L].astype(np.float32)
    return found


def normalized_margin(labels_L: IntN, probs_LC: FloatNC) -> FloatL:
    """Probability of the given label minus that of the likeliest other one, brought from [-1, 1] to [0, 1].

    Source: Northcutt et al. 2021, section 3.3; Kuan & Mueller 2022, section 2.
    """
    given_L = self_confidence(labels_L, probs_LC)
    others_LC = np.array(probs_LC, dtype=np.float32)
    others_LC[np.arange(len(labels_L)), labels_L] = -np.inf
    found: FloatL = (given_L - others_LC.max(axis=1) + 1) / 2
    return found


def class_thresholds(labels_L: IntN, probs_LC: FloatNC) -> npt.NDArray[np.float64]:
    """Mean self-confidence of the rows that have a label, float64 [C]; infinite for a class without rows.

    Source: Northcutt et al. 2021, equation 2.
    """
    num_classes = probs_LC.shape[1]
    rows_C = np.bincount(labels_L, minlength=num_classes)
    sums_C = np.bincount(labels_L, weights=self_confidence(labels_L, probs_LC), minlength=num_classes)
    return np.where(rows_C > 0, sums_C / np.maximum(rows_C, 1), np.inf)


def confident_classes(probs_LC: FloatNC, thresholds_C: npt.NDArray[np.float64]) -> IntN:
    """The likeliest of the classes whose probability reaches their threshold, int64 [L]; -1: none does.

    A class that the model is seldom sure of needs less to be believed: that is what tells errors from hard classes.

    Source: Northcutt et al. 2021, equation 1.
    """
    # float32 like the probabilities: a threshold that is the mean of equal values must be reached by each of them.
    reached_LC = probs_LC >= thresholds_C.astype(np.float32) - np.float32(1e-6)
    best_L = np.where(reached_LC, probs_LC, -1).argmax(axis=1)
    return np.where(reached_LC.any(axis=1), best_L, -1).astype(np.int64)


def confident_joint(labels_L: IntN, probs_LC: FloatNC) -> IntN:
    """Counts of (given label, class that the row confidently has), int64 [C, C]; rows without one are not counted.

    Source: Northcutt et al. 2021, equation 1.
    """
    num_classes = probs_LC.shape[1]
    confident_L = confident_classes(probs_LC, class_thresholds(labels_L, probs_LC))
    kept_L = confident_L >= 0
    pairs = labels_L[kept_L] * num_classes + confident_L[kept_L]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def find_label_errors(
    labels_L: IntN, probs_LC: FloatNC, *, keys_L: UIntN, score: Score = "self_confidence"
) -> LabelErrors:
    """Rank labels by how likely they are wrong.

    Args:
        labels_L: int64 in [0, C).
        probs_LC: of models that were not trained on the row itself: `quality_folds.out_of_fold`.
        keys_L: order rows of equal scores, so that the order of the rows does not count.
        score: what they are ranked by.
    Raises:
        LabelError: a label outside the classes, or not one for each row.
        SignalError: no probabilities; see `check_probs`.

    Source: Northcutt et al. 2021, section 3, the off-diagonal of the confident joint. As in the authors' code, a row
    whose label is the likeliest class is no likely error.
    """
    check_probs(probs_LC)
    labels_L = np.asarray(labels_L, dtype=np.int64)
    num_classes = probs_LC.shape[1]
    if len(labels_L) != len(probs_LC) or ((labels_L < 0) | (labels_L >= num_classes)).any():
        raise LabelError(
            f"{len(labels_L):,} labels in {labels_L.min(initial=0)} to {labels_L.max(initial=0)} for probabilities of "
            f"shape {list(probs_LC.shape)}; expected one label for each row, below the number of classes"
        )
    scorer: dict[Score, Any] = {"self_confidence": self_confidence, "normalized_margin": normalized_margin}
    scores_L = scorer[score](labels_L, probs_LC)
    judged_L = np.bincount(labels_L, minlength=num_classes)[labels_L] > 1
    likeliest_L = probs_LC.argmax(axis=1)
    confident_L = confident_classes(probs_LC, class_thresholds(labels_L, probs_LC))
    likely_L = judged_L & (confident_L >= 0) & (confident_L != labels_L) & (likeliest_L != labels_L)
    suggested_L = np.where(likely_L, confident_L, likeliest_L)
    order = np.lexsort((keys_L, scores_L, ~judged_L))
    return LabelErrors(order, scores_L, likely_L, suggested_L, judged_L)
