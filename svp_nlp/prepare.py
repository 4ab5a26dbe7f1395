"""What is looked at before a run or a plan of it begins: whatever is wrong is found before anything is written."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svp_nlp.arms import arms_of
from svp_nlp.data import Data, open_data
from svp_nlp.engines import Engine
from svp_nlp.errors import ModelError, PoolError, RecipeError
from svp_nlp.files import read_json, sha256_file, write_json
from svp_nlp.hub.publish import Publisher
from svp_nlp.labeling.seeds import SEEDS, SEEDS_FILE, kept_seeds
from svp_nlp.labels import LabelSet
from svp_nlp.models.base import LearnerSpec
from svp_nlp.pool import Pool
from svp_nlp.ranks import current_launch
from svp_nlp.recipe import Recipe
from svp_nlp.run import RECIPE_FILE, STEP_FILE, Run
from svp_nlp.strategy_checks import check_start, check_strategy
from svp_nlp.strategy_spec import SEALSSpec, StrategySpec, arm_name
from svp_nlp.tracking import check_trackers

log = logging.getLogger(__name__)

_ROLES = ("proxy", "target")
_ENCODER, _START_ENCODER = "strategies.{}.reduce.encoder", "start.encoder"
_MODELS = "models"  # the step that keeps their commits
_POOLS = "pools"  # the same for pool, test and dev set
_CONTENT_FILE = "content.json"  # in that step: what the pool held when the run began


@dataclass(frozen=True)
class Prepared:
    """What a recipe was found to work with."""

    commits: dict[str, str | None]  # by `_models`, of the models of the Hub that it names
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
        PoolError: the pool is not the one that the run began with.
        SVPError: the data cannot be used, or a strategy has too few rows; see `open_data`, `Recipe.resolve_sizes` and
            `check_strategy`.
    """
    check_trackers(recipe.report_to)
    publisher = _publisher(recipe, run_dir)
    _check_engine(recipe, engine)
    commits = _commits(recipe, run_dir)
    data = open_data(
        recipe,
        _kept(run_dir, _POOLS),
        seeds=kept_seeds(run_dir),
        check_pool=lambda pool: _check_pool(pool, recipe, run_dir),
    )
    data = _warn_of_seeds(recipe, data, run_dir)
    available = int(data.available_N.sum())
    sizes = recipe.resolve_sizes(available)
    _check_refresh(recipe, sizes)
    _check_strategies(recipe, sizes, num_available=available)
    return Prepared(commits, data, sizes, publisher)


def pin(recipe: Recipe, run: Run, prepared: Prepared) -> tuple[Recipe, Prepared]:
    """Keep what was read for the whole run, whatever branches do meanwhile.

    Returns:
        the recipe with one commit of each model, and the data as all processes read them.
    """
    revisions = run.step(_POOLS, {}, lambda path: _keep_pools(prepared.data, path)).output
    if len(prepared.data.seeds):
        run.step(SEEDS, {}, lambda path: _keep_seeds(recipe, prepared.data.seeds, path))
    if revisions != prepared.data.revisions:  # somebody pushed between the looks of two processes of a launch
        prepared = replace(prepared, data=open_data(recipe, revisions, seeds=prepared.data.seeds))
    return _pin_models(recipe, run, prepared.commits), prepared


def _kept(run_dir: Path | None, step: str) -> dict[str, str | None] | None:
    if run_dir is None or not (run_dir / step / STEP_FILE).exists():
        return None
    found: dict[str, str | None] = read_json(run_dir / step / STEP_FILE)["output"]
    return found


def _keep_pools(data: Data, path: Path) -> dict[str, str | None]:
    write_json(path / _CONTENT_FILE, {"rows": len(data.pool), "fingerprint": data.pool.fingerprint})
    return data.revisions


def _check_pool(pool: Pool, recipe: Recipe, run_dir: Path | None) -> None:
    """Raises: PoolError: the files of the pool, to whose rows the run refers by position, hold others by now."""
    if run_dir is None or not (run_dir / _POOLS / _CONTENT_FILE).exists():
        return
    if read_json(run_dir / RECIPE_FILE)["pool"] != recipe.meaning["pool"]:
        return  # another recipe: `open_run` tells
    before = read_json(run_dir / _POOLS / _CONTENT_FILE)
    if pool.fingerprint == before["fingerprint"]:
        return
    keep = (
        f", with what is labelled as oracle.seed_labels: svp label export {run_dir} --to csv --all"
        if recipe.by_people
        else ""
    )
    raise PoolError(
        f"{pool.ref.path} [{pool.ref.split}] is not the pool that {run_dir} began with: found {len(pool):,} rows that "
        f"hash to {pool.fingerprint[:12]}..., expected {before['rows']:,} that hash to {before['fingerprint'][:12]}...;"
        f" restore it, or begin in a new run directory (--run-dir){keep}"
    )


def _keep_seeds(recipe: Recipe, seeds: LabelSet, path: Path) -> dict[str, Any]:
    seeds.save(path / SEEDS_FILE)
    return {"labels": len(seeds), "sha256": sha256_file(Path(_seed_file(recipe)))}


def _warn_of_seeds(recipe: Recipe, data: Data, run_dir: Path | None) -> Data:
    """Say so where the file of seed labels is another one than when the run began."""
    if run_dir is None or not (run_dir / SEEDS / STEP_FILE).exists():
        return data
    path = Path(_seed_file(recipe))
    if not path.exists() or sha256_file(path) == read_json(run_dir / SEEDS / STEP_FILE)["output"]["sha256"]:
        return data
    warning = (
        f"{path} has changed since the run began, which goes on with the {len(data.seeds):,} seed labels that it had: "
        "to use the new ones, begin in another run directory"
    )
    log.warning("%s", warning)
    return replace(data, warnings=(*data.warnings, warning))


def _seed_file(recipe: Recipe) -> str:
    path: str = recipe.oracle.seed_labels  # type: ignore[attr-defined]
    return path


def _pin_models(recipe: Recipe, run: Run, commits: dict[str, str | None]) -> Recipe:
    models = _models(recipe)
    output = run.step(_MODELS, {key: spec.fingerprint for key, spec in models.items()}, lambda path: commits).output
    pinned = {key: models[key].at(commit) for key, commit in output.items() if commit is not None}  # type: ignore[attr-defined]

    def with_encoder(number: int, strategy: StrategySpec) -> StrategySpec:
        encoder = pinned.get(_ENCODER.format(number))
        if encoder is None or strategy.reduce is None:
            return strategy
        return strategy.model_copy(update={"reduce": strategy.reduce.model_copy(update={"encoder": encoder})})

    start = recipe.start
    if _START_ENCODER in pinned:
        start = start.model_copy(update={"encoder": pinned[_START_ENCODER]})
    strategies = tuple(with_encoder(number, strategy) for number, strategy in enumerate(recipe.strategies))
    roles = {role: pinned[role] for role in _ROLES if role in pinned}
    return recipe.model_copy(update={**roles, "strategies": strategies, "start": start})


def _models(recipe: Recipe) -> dict[str, LearnerSpec]:
    """All that a recipe names, by where it does."""
    found = {role: spec for role in _ROLES if (spec := getattr(recipe, role)) is not None}
    for number, strategy in enumerate(recipe.strategies):
        if isinstance(strategy.reduce, SEALSSpec) and strategy.reduce.encoder is not None:
            found[_ENCODER.format(number)] = strategy.reduce.encoder
    if recipe.start.encoder is not None:
        found[_START_ENCODER] = recipe.start.encoder
    return found


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
    """The commits of the models: as the run began, else as they are now."""
    if (kept := _kept(run_dir, _MODELS)) is not None:
        return kept
    commits: dict[str, str | None] = {}
    for key, spec in _models(recipe).items():
        try:
            commits[key] = spec.commit() if hasattr(spec, "commit") else None
        except ModelError as error:
            raise RecipeError(f"{key}: {error}") from None
    return commits


def _check_strategies(recipe: Recipe, sizes: list[int], *, num_available: int) -> None:
    grows = recipe.mode == "active_learning"
    if grows:
        sizes = [recipe.resolve_initial(num_available), *sizes]
        check_start(recipe.start, recipe.proxy, num_available=num_available, size=sizes[0], grows=True)
    for arm in arms_of(recipe):
        learner = recipe.target if arm.selector == "target_selects" else recipe.proxy
        assert learner is not None
        check_strategy(arm.strategy, learner, num_available=num_available, sizes=sizes, grows=grows, dev=recipe.dev)


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
