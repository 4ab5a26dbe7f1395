"""The arms of a recipe: an *arm* is one way of choosing.

It is the proxy with one strategy, random, or the target choosing for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from svp_nlp.strategy_spec import StrategySpec, arm_name, as_spec


@dataclass(frozen=True)
class Arm:
    """One way of choosing."""

    selector: str  # proxy, random or target_selects
    strategy: StrategySpec

    def __hash__(self) -> int:  # a strategy may hold a dict
        return hash(self.name)

    @property
    def name(self) -> str:
        return arm_name(self.strategy, self.selector)

    @property
    def fields(self) -> dict[str, str]:
        """What rows of the results call it."""
        return {"selector": self.selector, "strategy": self.strategy.title}


def arms_of(recipe: Any) -> list[Arm]:
    """The arms of a recipe, proxies first."""
    arms = [Arm("proxy" if spec.strategy.needs_model else "random", spec) for spec in recipe.strategies]
    if "random" in recipe.baselines:
        arms.append(Arm("random", as_spec("random")))
    if "target_selects" in recipe.baselines:
        arms += [Arm("target_selects", arm.strategy) for arm in arms if arm.selector == "proxy"]
    return arms
