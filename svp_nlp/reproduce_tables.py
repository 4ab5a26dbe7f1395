"""Tables of the paper as files: which recipes are their rows, and what each scale changes in them.

`recipes/paper/tables/<table>.yaml` is the one place where scales are. A scale changes the same keys in all rows of a
table, so that what is compared within one stays comparable; what a row needs for itself stands under `only`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field, ValidationError

from svp_nlp.errors import RecipeError
from svp_nlp.models.base import Spec
from svp_nlp.recipe import Recipe, load_recipe
from svp_nlp.recipe_errors import explain
from svp_nlp.recipe_yaml import did_you_mean, read_tree, recipes_directory

ScaleName: TypeAlias = Literal["paper", "gpu", "cpu"]
_WHERE = ("pool.", "test.", "engine.")  # what --set may change: where the data are, and who scores them


class ScaleSpec(Spec):
    """What one scale changes in the recipes of a table."""

    says: str = Field(min_length=1, description="what is not as published, for the title of the table")
    set: dict[str, Any] = Field(default_factory=dict, description="dotted key -> value, in all rows")
    only: dict[str, dict[str, Any]] = Field(default_factory=dict, description="the same for one row, by recipe")


class TableSpec(Spec):
    """A table of the paper."""

    title: str = Field(min_length=1)
    rows: tuple[str, ...] = Field(min_length=1, description="recipe files, relative to this one; first the one that "
                                  "also runs random and target_selects for the others")  # fmt: skip
    everything: str | None = Field(None, description="recipe that trains the target on all data, for a core-set")
    scales: dict[ScaleName, ScaleSpec] = Field(min_length=1)


@dataclass(frozen=True)
class Row:
    """One recipe of a table at a scale."""

    name: str  # of the recipe file, and of its run directory
    recipe: Recipe
    role: Literal["row", "everything"] = "row"


@dataclass(frozen=True)
class Plan:
    """All that a table runs at a scale."""

    table: str
    title: str
    scale: str
    says: str
    rows: tuple[Row, ...]


def tables_directory() -> Path:
    """Where the tables of the paper are."""
    return recipes_directory() / "paper" / "tables"


def table_names() -> list[str]:
    """Names of the shipped tables, sorted."""
    return sorted(path.stem for path in tables_directory().glob("*.yaml"))


def find_table(name: str) -> Path:
    """The file behind the name of a shipped table, or a path.

    Raises:
        RecipeError: neither.
    """
    if name in table_names():
        return tables_directory() / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    if Path(name).suffix in (".yaml", ".yml") or len(Path(name).parts) > 1:
        what = "is a directory" if Path(name).is_dir() else "does not exist"
        raise RecipeError(f"{name} {what}; expected the file of a table, or one of {', '.join(table_names())}")
    for table in table_names():
        spec = read_table(tables_directory() / f"{table}.yaml")
        if name in {Path(row).stem for row in (*spec.rows, spec.everything) if row is not None}:
            raise RecipeError(
                f"{name} is a row of the table {table}: svp reproduce {table} runs all of its rows, svp run "
                f"paper/{name} this one alone"
            )
    hint = did_you_mean(name, table_names()) or f"; expected {', '.join(table_names())}, or a file like theirs"
    raise RecipeError(f"{name}: no table of this name{hint}")


def read_table(path: Path) -> TableSpec:
    """Read a table file.

    Raises:
        RecipeError: not strict YAML, or wrong values; all of these are named at once.
    """
    tree = read_tree(path)
    try:
        spec = TableSpec.model_validate(tree.values)
    except ValidationError as error:
        raise RecipeError(explain(error, TableSpec, tree)) from None
    names = [Path(row).stem for row in spec.rows]
    for scale, values in spec.scales.items():
        for name in values.only:
            if name not in names:
                raise RecipeError(
                    f"{path}: scales.{scale}.only.{name} is no row of this table{did_you_mean(name, names)}; it has "
                    f"{', '.join(names)}"
                )
    return spec


def plan_table(
    name: str,
    scale: str,
    *,
    data: str | None = None,
    seeds: Sequence[int] | None = None,
    settings: Sequence[str] = (),
) -> Plan:
    """The recipes of a table at a scale.

    Random and target-selects are run with the first row alone where the others differ from it in the proxy only: they
    would do the same work again.

    Args:
        name: of a shipped table, or a file.
        scale: paper, gpu or cpu.
        data: a copy of the data in place of pool.path; the test set comes from it too.
        seeds: in place of those of the recipes.
        settings: `key=value` of pool, test and engine: names of columns, and the like.
    Raises:
        RecipeError: no such table or scale, a setting that would change the protocol, or recipes that are wrong.
    """
    path = find_table(name)
    spec = read_table(path)
    if scale not in spec.scales:
        raise RecipeError(f"{path} has no scale {scale!r}; it has {', '.join(spec.scales)}")
    for setting in settings:
        if not setting.lstrip().startswith(_WHERE):
            raise RecipeError(
                f"--set {setting}: only pool.*, test.* and engine.* can be set here, for a table keeps to its "
                "protocol; write another table file, or use svp run"
            )
    chosen = spec.scales[scale]
    # The place of the data is changed before the scale says how many rows of them are drawn.
    common = [] if data is None else _elsewhere(data)
    where = f"{path}: scales.{scale}"
    common += [_assignment(key, value, f"{where}.set.{key}") for key, value in chosen.set.items()]
    common += [] if seeds is None else [_assignment("seeds", list(seeds), "--seed")]
    rows: list[Row] = []
    for file in spec.rows:
        stem = Path(file).stem
        only = chosen.only.get(stem, {})
        own = [_assignment(key, value, f"{where}.only.{stem}.{key}") for key, value in only.items()]
        recipe = load_recipe(path.parent / file, [*common, *own, *settings])
        if rows and _same_baselines(rows[0].recipe, recipe):
            recipe = load_recipe(path.parent / file, [*common, *own, *settings, "baselines=[]"])
        rows.append(Row(stem, recipe))
    if spec.everything is not None:
        keys = [one for one in common if not one[0].startswith(("proxy.", "baselines"))]
        rows.append(Row(Path(spec.everything).stem, load_recipe(path.parent / spec.everything, [*keys, *settings]),
                        "everything"))  # fmt: skip
    for row in rows:
        if row.recipe.target is None or row.recipe.test is None:
            raise RecipeError(f"{row.name}: a table needs a target and a test set; add them to the recipe")
    return Plan(path.stem, spec.title, scale, chosen.says, tuple(rows))


def _assignment(key: str, value: Any, place: str) -> tuple[str, str]:
    return f"{key}={json.dumps(value)}", place


def _elsewhere(data: str) -> list[tuple[str, str]]:
    found = str(Path(data).expanduser()) if Path(data).expanduser().exists() else data
    return [
        _assignment(f"pool.{key}", value, f"--data {data}")
        for key, value in (("path", found), ("name", None), ("revision", None))
    ]


def _same_baselines(first: Recipe, other: Recipe) -> bool:
    """Whether random and the target selecting for itself would do the same in both."""
    keys = first.meaning.keys() - {"proxy"}
    return all(first.meaning[key] == other.meaning[key] for key in keys)
