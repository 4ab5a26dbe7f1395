"""The table of strategies. Adding one is a function in a file here, its name below, and a row in the contract test."""

from __future__ import annotations

from svp_nlp.errors import RecipeError, did_you_mean
from svp_nlp.strategies.badge import badge
from svp_nlp.strategies.balance import class_balanced, rare_classes
from svp_nlp.strategies.base import Picks, Strategy, pointwise, select, setwise
from svp_nlp.strategies.clusters import cluster_margin, typiclust
from svp_nlp.strategies.coverage import facility_location, prob_cover
from svp_nlp.strategies.dynamics import ambiguous, aum, el2n, forgetting_events, hard_to_learn
from svp_nlp.strategies.kcenters import greedy_k_centers
from svp_nlp.strategies.sampling import random
from svp_nlp.strategies.topk import top_k
from svp_nlp.strategies.uncertainty import entropy, least_confidence, margin

_ALL = (
    random, least_confidence, margin, entropy,
    forgetting_events, aum, el2n, hard_to_learn, ambiguous,
    greedy_k_centers, facility_location, badge, cluster_margin, typiclust, prob_cover,
    class_balanced, rare_classes,
)  # fmt: skip
STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in _ALL}


def get_strategy(name: str) -> Strategy:
    """Look a strategy up.

    Raises:
        RecipeError: names the nearest and all strategies.
    """
    try:
        return STRATEGIES[name]
    except KeyError:
        hint = did_you_mean(name, STRATEGIES) or f"; expected one of {', '.join(sorted(STRATEGIES))}"
        raise RecipeError(f"{name!r} is not a strategy{hint}") from None


__all__ = ["STRATEGIES", "Picks", "Strategy", "get_strategy", "pointwise", "select", "setwise", "top_k"]
