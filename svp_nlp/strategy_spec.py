"""A strategy as a recipe names it: alone, or with which rows it looks at and how it cuts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from svp_nlp.errors import RecipeError
from svp_nlp.models import LEARNERS, learner_module
from svp_nlp.models.base import LearnerSpec, Spec
from svp_nlp.sizes import Size, amount, wrong
from svp_nlp.strategies import STRATEGIES, Strategy, get_strategy

_PERCENT = re.compile(r"\d{1,2}(\.\d{1,6})?%")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def _known(name: str) -> str:
    try:
        return get_strategy(name).name
    except RecipeError as error:
        raise wrong(str(error)) from None


def _share(value: Any) -> Any:
    if not isinstance(value, str) or not _PERCENT.fullmatch(value.strip()) or amount(value.strip()) >= 100:
        raise wrong(f"found {value!r}; expected a share from 0% to below 100%, such as 10%")
    return value.strip()


class StrataSpec(Spec):
    """Coverage-centric selection: as many rows from each stratum of scores, without the hardest.

    Source: Zheng et al. 2023, Coverage-centric Coreset Selection for High Pruning Rates, algorithm 1.
    """

    count: Annotated[int, Field(ge=1)] = 50
    drop_hardest: Annotated[str, BeforeValidator(_share)] = Field("10%", description="rows that are never picked")

    @property
    def dropped(self) -> float:
        """`drop_hardest` in [0, 1)."""
        return float(amount(self.drop_hardest) / 100)


class UPSSpec(Spec):
    """Rows that looked certain when they were last scored are scored again rarely.

    Source: Tsvigun et al. 2022, Towards Computationally Feasible Deep Active Learning, section 3.3.
    """

    kind: Literal["ups"]
    gamma: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="the share that is always scored")
    temperature: Annotated[float, Field(gt=0)] = Field(0.01, description="how slowly the others fall out")


def _encoder(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind")
    if kind not in LEARNERS:
        raise wrong(f"kind {kind!r} is not a learner; expected embedding")
    return learner_module(kind).spec_class.model_validate(value)


def _check_frozen(encoder: LearnerSpec) -> None:
    if encoder.kind != "embedding":
        raise wrong(f"encoder.kind is {encoder.kind!r}; only embedding has features of its own")
    if getattr(encoder, "refresh", None) is not None:
        raise wrong("encoder.refresh: who is near is told by one encoder in all rounds; remove refresh")
    fields = type(encoder).model_fields
    heads = ("head", "C", "class_weights", "hidden_size", "head_training")
    if given := [
        name for name in heads if getattr(encoder, name) != fields[name].get_default(call_default_factory=True)
    ]:
        raise wrong(f"encoder.{', '.join(given)}: only features are asked for, and no head is trained; remove it")


class SEALSSpec(Spec):
    """Only the nearest neighbours of labelled rows are scored.

    A row has the neighbours that were nearest among the unlabelled rows when it was labelled; as these are labelled in
    turn, no others take their place.

    Source: Coleman et al. 2022, Similarity Search for Efficient Active Learning and Search of Rare Concepts.
    """

    kind: Literal["seals"]
    neighbours: Annotated[int, Field(ge=1)] = Field(100, description="of each labelled row")
    encoder: Annotated[SerializeAsAny[LearnerSpec], BeforeValidator(_encoder)] | None = Field(
        None, description="whose features tell who is near (kind: embedding); null: the proxy's, if it is one"
    )

    @model_validator(mode="after")
    def _is_frozen(self) -> SEALSSpec:
        if self.encoder is not None:
            _check_frozen(self.encoder)
        return self


Reduction: TypeAlias = Annotated[UPSSpec | SEALSSpec, Field(discriminator="kind")]


class StrategySpec(Spec):
    """A strategy with its options."""

    name: Annotated[str, AfterValidator(_known)]
    label: str | None = Field(None, description="what reports and directories call it; null: made from the options")
    candidates: Size | None = Field(
        None, description="a setwise strategy chooses among so many rows, or what is left of them; left out: among all"
    )
    prefilter: Annotated[str, AfterValidator(_known)] | None = Field(
        None, description="the candidates are those that this strategy scores highest; null: drawn at random"
    )
    reduce: Reduction | None = Field(None, description="score a part of the pool only")
    strata: StrataSpec | None = Field(None, description="cut a score into strata instead of taking its top")
    epochs: Annotated[int, Field(ge=1)] | None = Field(
        None, description="of training dynamics: the first so many; null: all"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _as_name(self, handler: SerializerFunctionWrapHandler) -> Any:
        # A strategy without options is its name, as most people write it.
        return self.name if self.is_plain else handler(self)

    @model_validator(mode="after")
    def _fits(self) -> StrategySpec:
        strategy = self.strategy
        if self.label is not None and not _LABEL.fullmatch(self.label):
            raise wrong(f"label {self.label!r}: expected letters, digits, dots, dashes and underscores")
        setwise = strategy.kind == "setwise"
        for option in ("candidates", "prefilter"):
            if getattr(self, option) is not None and not setwise:
                raise wrong(f"{option} is for strategies that pick a set, {self.name} scores rows; leave it out")
        if self.strata is not None and (setwise or not strategy.needs_model):
            raise wrong(f"strata needs a score, {self.name} gives none; leave it out")
        if self.prefilter is not None:
            first = STRATEGIES[self.prefilter]
            if first.kind != "pointwise" or not first.needs_model or first.uses_dynamics:
                raise wrong(f"prefilter {self.prefilter}: expected a score of probabilities, such as margin")
            if self.candidates is None and not isinstance(self.reduce, UPSSpec):  # which goes by its scores
                raise wrong("prefilter needs candidates: how many rows it lets through")
        if self.epochs is not None and not strategy.uses_dynamics:
            raise wrong(f"epochs is for strategies of training dynamics, {self.name} is none; leave it out")
        if self.reduce is not None:
            if not strategy.needs_model or strategy.uses_dynamics:
                raise wrong(f"reduce saves scoring, {self.name} scores no pool; leave it out")
            if self.strata is not None:
                raise wrong("strata cuts all scores, reduce leaves rows without; leave one of them out")
            if self.reduce.kind == "ups" and setwise and self.prefilter is None:
                raise wrong("reduce.kind ups goes by scores; name the prefilter that gives them")
        return self

    @property
    def strategy(self) -> Strategy:
        return STRATEGIES[self.name]

    @property
    def is_plain(self) -> bool:
        """No option is set."""
        return all(getattr(self, option) is None for option in type(self).model_fields if option != "name")

    @property
    def title(self) -> str:
        """What reports and directories call it: its label, or its name and options."""
        if self.label is not None:
            return self.label
        parts = [self.name]
        if self.reduce is not None:
            parts.append(self.reduce.kind)
        if self.candidates is not None:
            parts.append(f"of-{str(self.candidates).replace('%', 'pc')}")
        if self.prefilter is not None:
            parts.append(f"by-{self.prefilter}")
        if self.strata is not None:
            parts.append(f"strata-{self.strata.count}")
        if self.epochs is not None:
            parts.append(f"{self.epochs}-epochs")
        return "-".join(parts)

    @property
    def scored_by(self) -> str | None:
        """The pointwise strategy whose scores of the pool are needed: itself or its prefilter."""
        if self.strategy.uses_dynamics or not self.strategy.needs_model:
            return None
        return self.prefilter if self.strategy.kind == "setwise" else self.name

    @property
    def options(self) -> dict[str, Any]:
        """The options that are set, as JSON values, for the lineage; the label is none."""
        values: dict[str, Any] = {} if self.is_plain else self.model_dump(mode="json")
        return {key: value for key, value in values.items() if value is not None and key not in ("name", "label")}


def _starts(name: str) -> str:
    strategy = STRATEGIES[_known(name)]
    if strategy.needs_model and (strategy.kind != "setwise" or strategy.signals != ("embeddings",)):
        others = sorted(n for n, s in STRATEGIES.items() if s.kind == "setwise" and s.signals == ("embeddings",))
        raise wrong(f"{name} needs a model, and nothing is labelled yet; expected random, {', '.join(others)}")
    return strategy.name


class StartSpec(Spec):
    """How the first rows are chosen, before there is a label."""

    name: Annotated[str, AfterValidator(_starts)] = "random"
    candidates: Size | None = Field(None, description="choose among so many random rows; left out: among all")
    encoder: Annotated[SerializeAsAny[LearnerSpec], BeforeValidator(_encoder)] | None = Field(
        None, description="whose features tell who is near (kind: embedding); null: the proxy's, if it is one"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _as_name(self, handler: SerializerFunctionWrapHandler) -> Any:
        return self.name if self.candidates is None and self.encoder is None else handler(self)

    @model_validator(mode="after")
    def _fits(self) -> StartSpec:
        if self.name == "random" and (self.candidates is not None or self.encoder is not None):
            raise wrong("random looks at no features; remove candidates and encoder, or name another strategy")
        if self.encoder is not None:
            _check_frozen(self.encoder)
        return self

    @property
    def strategy(self) -> StrategySpec:
        """Its name and candidates, as strategies of later rounds have them."""
        return StrategySpec.model_validate({"name": self.name, "candidates": self.candidates})


def as_spec(strategy: str | StrategySpec) -> StrategySpec:
    """A strategy without options from its name.

    Raises:
        RecipeError: no strategy has this name; the message suggests the nearest.
    """
    return strategy if isinstance(strategy, StrategySpec) else StrategySpec.model_validate(get_strategy(strategy).name)


def as_start(start: str | StartSpec) -> StartSpec:
    """How a start set is chosen, from the name of a strategy.

    Raises:
        RecipeError: no strategy has this name, or it needs a model.
    """
    try:
        return StartSpec.model_validate(start)
    except ValidationError as error:
        raise RecipeError(f"start: {error.errors()[0]['msg']}") from None


def arm_name(strategy: StrategySpec, role: str) -> str:
    """What an arm is called where nobody named it, and its directory."""
    return f"{role}-{strategy.title}" if strategy.strategy.needs_model else strategy.title
