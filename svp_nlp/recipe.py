"""The recipe: what a run does, as pydantic models. Hardware is never in it.

`load_recipe` reads a YAML file (recipe_yaml.py), applies overrides and reports all that is wrong at once. The options
of a learner or oracle are looked up by `kind` only when a recipe names it, so that a fastText recipe imports no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from svp_nlp.arrays import fingerprint_json
from svp_nlp.engines import ENGINES, EngineSpec, engine_spec_classes
from svp_nlp.errors import BudgetError, RecipeError
from svp_nlp.models import LEARNERS, learner_module, spec_classes
from svp_nlp.models.base import LearnerSpec, Spec
from svp_nlp.oracles import oracle_spec_classes
from svp_nlp.recipe_checks import contradictions
from svp_nlp.recipe_errors import explain
from svp_nlp.recipe_yaml import (
    Override,
    RecipeTree,
    did_you_mean,
    find_recipe,
    override,
    read_tree,
    scrub,
    write_yaml,
)
from svp_nlp.sizes import INITIAL, Size, TargetSize, resolve_size, wrong
from svp_nlp.stop_spec import StopSpec
from svp_nlp.strategies import STRATEGIES
from svp_nlp.strategy_spec import StartSpec, StrategySpec

TrackerName: TypeAlias = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Baseline: TypeAlias = Literal["random", "target_selects"]
_DEFAULT_INITIAL = "2%"
_DEFAULT_ORACLE = "column"
PEOPLE = "files"  # the kind of the oracle that waits for people
_DEFAULT_ENGINE = "local"
_HOW = ("engine", "report_to", "publish", "stop")  # how, and how far, it is run: a run may be resumed with others
_METRIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def _listed(values: tuple[Any, ...]) -> tuple[Any, ...]:
    # Not Field(min_length=1): of a list whose only entry is wrong, pydantic says that it is too short as well.
    if not values:
        raise wrong("the list is empty; expected at least one entry")
    return _distinct(values)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    repeated = sorted({_named(value) for number, value in enumerate(values) if value in values[:number]})
    if repeated:
        raise wrong(f"{', '.join(repeated)}: given twice; list each once")
    return values


def _named(value: Any) -> str:
    return value.title if isinstance(value, StrategySpec) else str(value)


def _metric(name: str) -> str:
    if not _METRIC.fullmatch(name):
        raise wrong(f"{name!r} is not the name of a metric; expected for example accuracy or macro_f1")
    return name


def _check_kind(value: Mapping[str, Any], kinds: Iterable[str], what: str) -> str:
    kind, kinds = value.get("kind"), list(kinds)
    if isinstance(kind, str) and kind in kinds:
        return kind
    found = "kind is missing" if kind is None else f"kind {kind!r} is not {what}"
    meant = did_you_mean(kind, kinds) if isinstance(kind, str) else ""
    raise wrong(f"{found}{meant or '; expected ' + ' or '.join(kinds)}")


def _picker(
    what: str, kinds: Iterable[str], spec_class: Callable[[str], type[Spec]], default: str | None = None
) -> Callable[[Any], Any]:
    # Classes are asked for once a recipe names a kind, so that the others stay unimported. Errors keep their path.
    def pick(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        value = {"kind": default, **value}
        return spec_class(_check_kind(value, kinds, what)).model_validate(value)

    return pick


_pick_learner = _picker("a learner", LEARNERS, lambda kind: learner_module(kind).spec_class)
_pick_engine = _picker("an engine", ENGINES, lambda kind: engine_spec_classes()[kind], _DEFAULT_ENGINE)
_pick_oracle = _picker("an oracle", oracle_spec_classes(), lambda kind: oracle_spec_classes()[kind], _DEFAULT_ORACLE)


Names: TypeAlias = Annotated[tuple[str, ...], AfterValidator(_listed)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]


class PoolSpec(Spec):
    """Where rows come from."""

    path: Text = Field(description="Hub id, folder, Parquet, CSV or JSONL file, builtin:docstrings or builtin:shapes")
    name: str | None = Field(None, description="configuration of a Hub dataset")
    split: Text = "train"
    revision: str | None = Field(None, description="branch, tag or commit of a Hub dataset; resolved to a commit")
    text_columns: Names = ("text",)
    image_column: Text | None = Field(None, description="of a pool of images, in place of text_columns")
    label_column: Text = "label"
    id_column: str | None = Field(None, description="stable names of the rows; null = hash of the text")
    rows: Annotated[int, Field(ge=1)] | None = Field(
        None, description="only so many rows, drawn at random, the same ones always: for trying out"
    )
    streaming: bool = Field(False, description="keep one Arrow file of a Hub dataset, not its own files as well")


class HeldOutSpec(PoolSpec):
    """A test or dev set. Columns that are left out are the pool's; without a path it is another split of the pool."""

    path: str = Field("", description="left out: the pool's path, name and revision")
    split: str = Field("", description="left out: test, or validation for a dev set")


def _by_people(data: Mapping[str, Any]) -> bool:
    return getattr(data.get("oracle"), "kind", _DEFAULT_ORACLE) == PEOPLE


def _held_out(value: Any, info: ValidationInfo, split: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    for key in ("path", "split"):
        if value.get(key) == "":
            raise wrong(f"{key} is an empty text; remove the key to take the default")
    inherited = ["text_columns", "image_column", "label_column"]
    if "path" not in value:
        inherited += ["path", "name", "revision", "id_column", "streaming"]
    pool = info.data.get("pool")  # absent when the pool itself is wrong: then only the keys given here are checked
    base = {key: getattr(pool, key) for key in inherited} if pool is not None else {}
    return HeldOutSpec.model_validate({"split": split, **base, **value})


class PublishSpec(Spec):
    """Each round becomes a version of a dataset on the Hub; a push that fails never fails the run."""

    repo_id: Text = Field(description="namespace/name; made where it is missing")
    private: bool | None = Field(None, description="for a new repository; null = as the account's default says")
    index_only: bool = Field(False, description="positions and ids, but no column of the pool")


class Recipe(Spec):
    """What a run does. Sizes are numbers of labelled rows, or shares of the usable rows of the pool."""

    mode: Literal["active_learning", "core_set"]
    pool: PoolSpec
    test: HeldOutSpec | None = Field(None, description="null = only select")
    dev: float | HeldOutSpec | None = Field(
        None, description="for choosing among epochs: the share of the labelled rows that is held out, or a dataset"
    )
    allow_overlap: bool = Field(False, description="accept texts that are in the pool and in the test set")
    oracle: Annotated[SerializeAsAny[Spec], BeforeValidator(_pick_oracle)] = Field(
        default_factory=lambda: _pick_oracle({})
    )
    proxy: Annotated[SerializeAsAny[LearnerSpec], BeforeValidator(_pick_learner)]
    target: Annotated[SerializeAsAny[LearnerSpec], BeforeValidator(_pick_learner)] | None = Field(
        None, description="null = only select"
    )
    strategies: Annotated[tuple[StrategySpec, ...], AfterValidator(_listed)] = Field(
        description="names, or names with options: {name: greedy_k_centers, prefilter: margin, candidates: 20000}"
    )
    initial: Size | None = Field(
        None, description=f"size of the random start set of active learning; left out: {_DEFAULT_INITIAL}"
    )
    start: StartSpec = Field(
        StartSpec.model_validate("random"),
        description="how the start set is chosen: random, or a strategy that needs no label: typiclust, "
        "greedy_k_centers, {name: typiclust, candidates: 20000, encoder: {kind: embedding}}",
    )
    labeled_sizes: Annotated[tuple[Size, ...], AfterValidator(_listed)] = Field(
        description="active learning: labelled rows after each round; core-set: rows kept. Strictly increasing"
    )
    train_target_at: Literal["all"] | tuple[TargetSize, ...] = Field(
        None,  # type: ignore[arg-type]  # filled in below
        description="at which of labeled_sizes (and initial) the target is trained; left out: all, where people label "
        "the last",
    )
    baselines: Annotated[tuple[Baseline, ...], AfterValidator(_distinct)] = Field(
        None,  # type: ignore[arg-type]  # filled in below
        description="what to compare with; left out: random, where people label nothing",
    )
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], AfterValidator(_listed)] = (0,)
    metrics: Annotated[tuple[Annotated[str, AfterValidator(_metric)], ...], AfterValidator(_listed)] = (
        "accuracy",
        "macro_f1",
    )
    engine: Annotated[SerializeAsAny[EngineSpec], BeforeValidator(_pick_engine)] = Field(
        default_factory=lambda: _pick_engine({}),
        description="who scores the pool; changes no result, and a run may be resumed with another",
    )
    report_to: Annotated[tuple[TrackerName, ...], AfterValidator(_distinct)] = Field(
        (), description="trackers that rounds, errors and times are logged to; changes no result"
    )
    publish: PublishSpec | None = Field(
        None, description="push each round to the Hub; changes no result, and a run may be resumed with another"
    )
    stop: StopSpec | None = Field(None, description="when to ask for no more labels; a run may be resumed without it")

    @field_validator("test", mode="before")
    @classmethod
    def _test(cls, value: Any, info: ValidationInfo) -> Any:
        return _held_out(value, info, "test")

    @field_validator("dev", mode="before")
    @classmethod
    def _dev(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Mapping):
            return _held_out(value, info, "validation")
        is_share = isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < 1
        if value is None or isinstance(value, HeldOutSpec) or is_share:
            return value
        raise wrong(f"found {value!r}; expected a share such as 0.05, a dataset (path, split, ...), or null")

    @field_validator("initial", mode="before")
    @classmethod
    def _initial(cls, value: Any, info: ValidationInfo) -> Any:
        # Filled in here, not as the default, so that a core-set recipe dumps null and can be read back.
        return _DEFAULT_INITIAL if value is None and info.data.get("mode") == "active_learning" else value

    @field_validator("train_target_at", mode="before")
    @classmethod
    def _train_target_at(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None:  # people wait for the next rows: what a target costs is spent once
            sizes = info.data.get("labeled_sizes")
            return (sizes[-1],) if _by_people(info.data) and sizes and info.data.get("target") else "all"
        if value == "all":
            return value
        if not isinstance(value, list | tuple) or not value:
            raise wrong(f"found {value!r}; expected all, or a list of some of labeled_sizes (and initial)")
        return TypeAdapter(Annotated[tuple[TargetSize, ...], AfterValidator(_distinct)]).validate_python(value)

    @field_validator("baselines", mode="before")
    @classmethod
    def _baselines(cls, value: Any, info: ValidationInfo) -> Any:
        return (() if _by_people(info.data) else ("random",)) if value is None else value

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        errors = [
            InitErrorDetails(type=wrong(message), loc=(key,), input=getattr(self, key))
            for key, message in contradictions(self)
        ]
        if errors:
            raise ValidationError.from_exception_data("Recipe", errors)
        return self

    @property
    def by_people(self) -> bool:
        """Labels come from people, over days."""
        return self.oracle.kind == PEOPLE  # type: ignore[attr-defined, no-any-return]

    @property
    def meaning(self) -> dict[str, Any]:
        """All that decides what rounds find, as JSON values; without `engine`, `report_to`, `publish` and `stop`."""
        return self.model_dump(mode="json", exclude=set(_HOW))

    @property
    def fingerprint(self) -> str:
        """Hash of `meaning`; the order of keys does not count."""
        return fingerprint_json(self.meaning)

    def resolve_initial(self, num_usable: int) -> int:
        """Size of the start set; 0 for a core-set.

        Raises:
            BudgetError: more than `num_usable` rows, or none after rounding.
        """
        return 0 if self.initial is None else resolve_size(self.initial, num_usable, "initial")

    def resolve_sizes(self, num_usable: int) -> list[int]:
        """`labeled_sizes` as numbers of rows (the start set is not among them), strictly increasing.

        Raises:
            BudgetError: a size above `num_usable`, none after rounding, or not above the size before it.
        """
        sizes = []
        before, what_before = self.resolve_initial(num_usable), f"initial ({self.initial})"
        for number, size in enumerate(self.labeled_sizes):
            what = f"labeled_sizes.{number}"
            rows = resolve_size(size, num_usable, what)
            if rows <= before:
                raise BudgetError(
                    f"{what} ({size}) is {rows:,} rows of {num_usable:,}, not more than {what_before}, which is "
                    f"{before:,}; make the sizes strictly increasing"
                )
            sizes.append(rows)
            before, what_before = rows, f"{what} ({size})"
        return sizes

    def resolve_target_sizes(self, num_usable: int) -> list[int]:
        """The labelled sizes at which the target is trained, ascending; empty without a target.

        Raises:
            BudgetError: as `resolve_sizes`.
        """
        if self.target is None:
            return []
        rows = dict(zip(self.labeled_sizes, self.resolve_sizes(num_usable), strict=True))
        if self.train_target_at == "all":
            return list(rows.values())
        initial = {INITIAL: self.resolve_initial(num_usable)}
        return sorted((rows | initial)[size] for size in self.train_target_at)


def load_recipe(path_or_name: str | Path, overrides: Iterable[Override] = ()) -> Recipe:
    """Read a recipe file, or a shipped recipe by name.

    Args:
        path_or_name: a file, or a name such as `smoke/active_fasttext_vdcnn`.
        overrides: `a.b=value` each, applied in order; values are YAML. With a text that says where it stands, messages
            name that in place of --set.

    Raises:
        RecipeError: no such recipe, not strict YAML, or values that are wrong; all of these are named at once.
    """
    tree = read_tree(find_recipe(path_or_name))
    for assignment in overrides:
        text, place = (assignment, None) if isinstance(assignment, str) else assignment
        override(tree, text, place=place)
    return _validated(tree)


def make_recipe(values: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """A recipe from a dict; `source` is what messages call it.

    Raises:
        RecipeError: as `load_recipe`.
    """
    return _validated(RecipeTree(source, dict(values)))


def _validated(tree: RecipeTree) -> Recipe:
    try:
        text = json.dumps(tree.values, ensure_ascii=False, default=str)
        if scrub(text) != text:
            raise RecipeError(f"{tree.source} holds a Hub token; remove it (and revoke it), then log in: hf auth login")
        return Recipe.model_validate(tree.values)
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe, tree)) from None


def dump_recipe(recipe: Recipe) -> str:
    """What a recipe means as YAML, every default written out; `load_recipe` reads it back as the same recipe."""
    return write_yaml(recipe.meaning)


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors. Imports every learner."""
    schema = Recipe.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    unions: dict[str, Mapping[str, type[Spec]]] = {"proxy": spec_classes(), "oracle": oracle_spec_classes()}
    unions["target"], unions["engine"] = unions["proxy"], engine_spec_classes()
    for key, classes in unions.items():
        options = []
        for spec_class in classes.values():
            part = spec_class.model_json_schema()
            definitions.update(part.pop("$defs", {}))
            # Pydantic gives `kind` a default; in a recipe it is what tells the options apart.
            part["required"] = sorted({"kind", *part.get("required", [])})
            definitions[spec_class.__name__] = part
            options.append({"$ref": f"#/$defs/{spec_class.__name__}"})
        if key == "target":
            options.append({"type": "null"})
        old = schema["properties"][key]
        kept = {name: old[name] for name in ("description", "title") if name in old}
        schema["properties"][key] = {"oneOf": options, **kept}
    for name in ("SEALSSpec", "StartSpec"):
        definitions[name]["properties"]["encoder"]["anyOf"] = [{"$ref": "#/$defs/EmbeddingSpec"}, {"type": "null"}]
    # A name alone is a strategy without options.
    strategy = definitions.pop("StrategySpec")
    definitions["StrategySpec"] = {"anyOf": [{"enum": sorted(STRATEGIES)}, strategy]}
    definitions["StartSpec"] = {"anyOf": [{"enum": sorted(STRATEGIES)}, definitions["StartSpec"]]}
    for placeholder in ("LearnerSpec", "EngineSpec", "Spec"):
        definitions.pop(placeholder, None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
