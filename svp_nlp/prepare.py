"""What is looked at before a run or a plan of it begins: whatever is wrong is found before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from svp_nlp.data import Data, open_data
from svp_nlp.engines import Engine
from svp_nlp.errors import ModelError, RecipeError
from svp_nlp.files import read_json
from svp_nlp.hub.publish import Publisher
from svp_nlp.ranks import current_launch
from svp_nlp.recipe import Recipe
from svp_nlp.run import STEP_FILE, Run
from svp_nlp.strategy_spec import arm_name
from svp_nlp.tracking import check_trackers

_ROLES = ("proxy", "target")
_MODELS = "models"  # the step that keeps their commits
_POOLS = "pools"  # the same for pool, test and dev set


@dataclass(frozen=True)
class Prepared:
    """What a recipe was found to work with."""

    commits: dict[str, str | None]  # by role, of the models of the Hub that it names
    data: Data
    sizes: list[int]  # labelled sizes, without the start set
    publisher: Publisher | None  # on the main process, where the recipe says `publish`


def prepare(recipe: Recipe, engine: Engine, *, run_dir: Path | None) -> Prepared:
    """Look for what a recipe needs, trackers, workers and models first, and open its data.

    Args:
        run_dir: where the recipe may have begun already, with the commits of data and models that it keeps to; None:
            nowhere.
    Raises:
        HubRefused: what is to be published cannot be: no token, no right, another kind of repository.
        RecipeError: a package is missing, a cluster or a model cannot be reached or does not exist, or an encoder
            would be refreshed at more labels than there ever are.
        SVPError: the data cannot be used; see `open_data` and `Recipe.resolve_sizes`.
    """
    check_trackers(recipe.report_to)
    publisher = _publisher(recipe, run_dir)
    _check_engine(recipe, engine)
    commits = _commits(recipe, run_dir)
    data = open_data(recipe, _kept(run_dir, _POOLS))
    sizes = recipe.resolve_sizes(int(data.available_N.sum()))
    _check_refresh(recipe, sizes)
    return Prepared(commits, data, sizes, publisher)


def pin(recipe: Recipe, run: Run, prepared: Prepared) -> tuple[Recipe, Prepared]:
    """Keep what was read for the whole run, whatever branches do meanwhile.

    Returns:
        the recipe with one commit of each model, and the data as all processes read them.
    """
    revisions = run.step(_POOLS, {}, lambda path: prepared.data.revisions).output
    if revisions != prepared.data.revisions:  # somebody pushed between the looks of two processes of a launch
        prepared = replace(prepared, data=open_data(recipe, revisions))
    return _pin_models(recipe, run, prepared.commits), prepared


def _kept(run_dir: Path | None, step: str) -> dict[str, str | None] | None:
    if run_dir is None or not (run_dir / step / STEP_FILE).exists():
        return None
    found: dict[str, str | None] = read_json(run_dir / step / STEP_FILE)["output"]
    return found


def _pin_models(recipe: Recipe, run: Run, commits: dict[str, str | None]) -> Recipe:
    inputs = {role: spec.fingerprint for role in _ROLES if (spec := getattr(recipe, role)) is not None}
    output = run.step(_MODELS, inputs, lambda path: commits).output
    pinned = {role: getattr(recipe, role).at(commit) for role, commit in output.items() if commit is not None}
    return recipe.model_copy(update=pinned)


def _publisher(recipe: Recipe, run_dir: Path | None) -> Publisher | None:
    if recipe.publish is None or current_launch().rank > 0:
        return None
    settings = {
        **recipe.publish.model_dump(),
        "arms": [arm_name(strategy, "proxy") for strategy in recipe.strategies],
        "by_arm": len(recipe.strategies) > 1,
        "by_seed": len(recipe.seeds) > 1,
    }
    publisher = Publisher(run_dir or Path(), settings)
    publisher.check()
    return publisher


def _check_engine(recipe: Recipe, engine: Engine) -> None:
    """Raises: RecipeError: the engine cannot work here."""
    launch = current_launch()
    if recipe.engine.kind == "processes" and launch.world_size > 1:
        raise RecipeError(
            f"engine.kind: processes would start more processes beside the {launch.world_size} of this launch; leave "
            "engine out, for all processes of a launch score anyway"
        )
    if launch.rank == 0:
        engine.check()


def _commits(recipe: Recipe, run_dir: Path | None) -> dict[str, str | None]:
    """The commits of the models, by role: as the run began, else as they are now."""
    if (kept := _kept(run_dir, _MODELS)) is not None:
        return kept
    commits: dict[str, str | None] = {}
    for role in _ROLES:
        spec = getattr(recipe, role)
        try:
            commits[role] = spec.commit() if hasattr(spec, "commit") else None
        except ModelError as error:
            raise RecipeError(f"{role}: {error}") from None
    return commits


def _check_refresh(recipe: Recipe, sizes: list[int]) -> None:
    """Raises: RecipeError: there are never as many labels as an encoder waits for."""
    if recipe.mode != "active_learning":
        return
    for role in _ROLES:
        refresh = getattr(getattr(recipe, role), "refresh", None)
        if refresh is not None and refresh.at > sizes[-1]:
            raise RecipeError(
                f"{role}.refresh.at is {refresh.at:,}, but there are never more than {sizes[-1]:,} labels; lower it"
            )
