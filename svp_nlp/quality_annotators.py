"""Which rows another label would help most, where several people label: ActiveLab, by the extra `quality`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from svp_nlp.arrays import FloatNC
from svp_nlp.errors import RecipeError
from svp_nlp.quality import FloatL


def check_cleanlab() -> None:
    """Raises: RecipeError: cleanlab is not installed; says how to get it."""
    try:
        import cleanlab.multiannotator  # noqa: F401
    except ImportError:
        raise RecipeError(
            "ActiveLab comes with cleanlab, which is not installed: pip install 'svp_nlp[quality]'"
        ) from None


def active_label_scores(votes_L: Sequence[Mapping[str, str]], probs_LC: FloatNC, class_names: Sequence[str]) -> FloatL:
    """ActiveLab: how sure one can be of each row's consensus, by annotators and model, each weighed by how good it is.

    Args:
        votes_L: of each row annotator -> label, at least one.
        probs_LC: by models that were not trained on the row.
    Returns:
        float32 [L] in [0, 1]; the lower, the more another label is worth.
    Raises:
        RecipeError: see `check_cleanlab`.

    Source: Goh & Mueller 2023, "ActiveLab: active learning with re-labeling by multiple annotators", in its authors'
    cleanlab.
    """
    check_cleanlab()
    from cleanlab.multiannotator import get_active_learning_scores

    annotators = sorted({name for votes in votes_L for name in votes})
    at = {name: number for number, name in enumerate(class_names)}
    labels_LA = np.full((len(votes_L), len(annotators)), np.nan)
    for row, votes in enumerate(votes_L):
        for name, label in votes.items():
            labels_LA[row, annotators.index(name)] = at[label]
    scores_L, _ = get_active_learning_scores(labels_LA, probs_LC)
    return np.asarray(scores_L, dtype=np.float32)
