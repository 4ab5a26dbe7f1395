"""When a run asks for no more labels, as a recipe says it: `stop: {rule: kappa, ...}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from svp_nlp.models.base import Spec
from svp_nlp.sizes import Size, wrong
from svp_nlp.stopping_curve import LEAST_POINTS

MORE = 500  # labels that a gain is told for where nobody says otherwise


@dataclass(frozen=True)
class _Rule:
    """What a rule looks at.

    Attributes:
        signal: key of a row of the signals.
        above: it holds at or above the threshold, else at or below.
        threshold, patience: the defaults, chosen by benchmarks/stopping.py.
        needs: proxies that must have been trained before the signal is known.
        says: what the signal is called in a sentence.
    """

    signal: str
    above: bool
    threshold: float
    patience: int
    needs: int
    says: str


RULES: Mapping[str, _Rule] = {
    "kappa": _Rule("kappa", True, 0.99, 3, 2, "agreement with the proxy before (kappa)"),
    "change": _Rule("changed", False, 0.01, 3, 2, "share of rows whose class changed"),
    "uncertainty": _Rule("uncertainty", False, 0.05, 3, 1, "overall uncertainty"),
    "gain": _Rule("gain_high", False, 0.01, 2, LEAST_POINTS, "upper end of the gain of more labels"),
}


class StopSpec(Spec):
    """When no more rows are asked for: the rule holds in so many rounds in a row."""

    rule: Literal["kappa", "change", "uncertainty", "gain"] = Field(
        description="kappa: successive proxies agree; change: few rows change their class; uncertainty: the proxy is "
        "sure of most rows; gain: more labels bring little (needs a dev set)"
    )
    threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        None,  # type: ignore[assignment]  # filled in below
        description="kappa: at least; the others: at most, as a share (0.01 = a point of error); left out: "
        + ", ".join(f"{name} {rule.threshold}" for name, rule in RULES.items()),
    )
    patience: Annotated[int, Field(ge=1)] = Field(
        None,  # type: ignore[assignment]  # filled in below
        description="rounds in a row; left out: " + ", ".join(f"{n} {rule.patience}" for n, rule in RULES.items()),
    )
    min_labels: Size | None = Field(None, description="no stop before so many rows are labelled; null: no such limit")
    more: Annotated[int, Field(ge=1)] | None = Field(
        None, description=f"of rule gain: so many labels more; left out: {MORE}"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.get("rule") not in RULES:
            return value
        rule = RULES[value["rule"]]
        filled = {"threshold": rule.threshold, "patience": rule.patience}
        if value["rule"] == "gain":
            filled["more"] = MORE
        return {**value, **{key: default for key, default in filled.items() if value.get(key) is None}}

    @model_validator(mode="after")
    def _fits(self) -> StopSpec:
        if self.more is not None and self.rule != "gain":
            raise wrong(f"more is for rule gain, this is {self.rule}; leave it out")
        return self

    @property
    def title(self) -> str:
        """The rule in words."""
        rule = RULES[self.rule]
        rounds = "" if self.patience == 1 else f" in {self.patience} rounds in a row"
        more = f" ({self.more:,} labels)" if self.more else ""
        return f"{rule.says}{more} {'at least' if rule.above else 'at most'} {self.threshold:g}{rounds}"

    def holds(self, rows: Sequence[Mapping[str, Any]], *, min_labels: int = 0) -> bool:
        """Whether the rule holds after the last of these rounds.

        Args:
            rows: signals of each proxy so far, in order: labeled_size, classes_predicted, and the rule's own (None:
                not known).
            min_labels: `min_labels` in rows.
        """
        last = rows[-self.patience :]
        return len(last) == self.patience and last[-1]["labeled_size"] >= min_labels and all(map(self._meets, last))

    def sentence(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Why a run asks for no more rows, and how to overrule it."""
        found = ", ".join(f"{row[RULES[self.rule].signal]:.4f}" for row in rows[-self.patience :])
        return (
            f"stopped after {rows[-1]['labeled_size']:,} labels: {self.title} (found {found}). No more rows are asked "
            "for; to go on, run the same recipe with --set stop=null, or with another rule"
        )

    def _meets(self, row: Mapping[str, Any]) -> bool:
        rule = RULES[self.rule]
        value = row.get(rule.signal)
        if value is None or row["classes_predicted"] < 2:  # who gives one class for all agrees with itself, and is sure
            return False
        return bool(value >= self.threshold if rule.above else value <= self.threshold)


def stop_contradictions(recipe: Any) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) where a recipe's `stop` cannot work."""
    stop = recipe.stop
    if stop is None:
        return
    if recipe.mode == "core_set":
        yield "stop", "a core-set is picked once, there are no rounds to stop after; remove stop"
        return
    if not any(spec.strategy.needs_model for spec in recipe.strategies):
        yield "stop", "the rules look at what proxies say, and no strategy here trains one; remove stop"
    proxies, needed = len(recipe.labeled_sizes), RULES[stop.rule].needs + stop.patience - 1
    if proxies < needed:
        yield (
            "stop",
            f"rule {stop.rule} with patience {stop.patience} needs {needed} proxies, labeled_sizes has {proxies}: it "
            "could never stop anything; give more sizes, or lower patience",
        )
    if stop.rule == "gain" and (recipe.dev is None or isinstance(recipe.dev, float)):
        yield "stop", "rule gain reads errors on rows that nobody chose; set dev to a dataset (path, split, ...)"
