"""How much a row of each class counts in a training: the one place where class weights are worked out. numpy only.

Letters in shapes: L labelled, C classes.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

ClassWeights: TypeAlias = Literal["none", "balanced"]

DESCRIPTION = "balanced: a row counts more the fewer rows its class has, at most ten times as much as on average"
_MOST = 10.0


def class_weights(
    labels_L: npt.NDArray[np.int64], kind: ClassWeights, *, num_classes: int
) -> npt.NDArray[np.float64] | None:
    """The weight of a row of each class, or None where all count the same.

    `balanced` is L / (K n_c) for a class with n_c of the rows, K being the classes that have any, but at most 10: a
    single row of a class must not throw away what was learned from thousands. Weights are then scaled so that their
    mean over the rows is 1, and a loss, its learning rate and its penalty mean what they mean without weights.

    Args:
        labels_L: in [0, num_classes), at least one.
    Returns:
        float64 [C]; 0 for a class without a row, exactly 1 for all others where they have equally many.
    Source: King & Zeng 2001, "Logistic regression in rare events data", section 4.2, as scikit-learn's
        `class_weight="balanced"` has it for any number of classes; there without a limit.
    """
    if kind == "none":
        return None
    counts_C = np.bincount(labels_L, minlength=num_classes)
    present_C = counts_C > 0
    weights_C = np.zeros(num_classes)
    weights_C[present_C] = np.minimum(len(labels_L) / (present_C.sum() * counts_C[present_C]), _MOST)
    weights_C *= len(labels_L) / (weights_C @ counts_C)
    return weights_C
