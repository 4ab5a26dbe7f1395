"""What a run directory, or the directory of one selection, holds to share."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svp_nlp.arrays import FloatN
from svp_nlp.columns import LabelColumn, closest
from svp_nlp.errors import HubRefused, LineageError, scrub
from svp_nlp.files import read_json
from svp_nlp.labels import LabelSet
from svp_nlp.oracles.column import ColumnOracle, ColumnOracleSpec
from svp_nlp.pool import Pool, PoolRef, read_labels
from svp_nlp.run import RECIPE_FILE, STEP_FILE
from svp_nlp.selected import SelectedRows
from svp_nlp.selection import Selection

_DATA_FILE = "selection.parquet"


@dataclass(frozen=True)
class Source:
    """A selection in a run, and those before it.

    Attributes:
        run_dir: None: the selection lies by itself.
        arm: as its directory is called: proxy-margin, random.
        selections: directories; the last is the one to share, those before it are what was labelled already.
    """

    run_dir: Path | None
    seed: int
    arm: str
    selections: tuple[Path, ...]

    @property
    def recipe(self) -> dict[str, Any]:
        """What the run was started with; empty for a selection by itself."""
        found: dict[str, Any] = {} if self.run_dir is None else read_json(self.run_dir / RECIPE_FILE)
        return found


def find_source(
    path: str | Path, *, arm: str | None = None, seed: int | None = None, round: int | None = None
) -> Source:
    """Find a selection in a run directory, or take the directory of one.

    Args:
        path: a run directory, or one that holds selection.parquet.
        arm: proxy-margin, random, ...; None: what the recipe's first strategy chose.
        seed: None: the first.
        round: number of the round (of the size, for core-sets); None: the last that is finished.
    Raises:
        HubRefused: there is no such thing here; says what there is.
    """
    path = Path(path)
    if (path / _DATA_FILE).is_file():
        return _selection_directory(path)
    if not (path / RECIPE_FILE).is_file():
        what = "is neither a run directory nor a selection" if path.exists() else "does not exist"
        raise HubRefused(f"{path} {what}; expected what `svp run` made, or a directory with {_DATA_FILE}")
    seeds = sorted(int(p.name.removeprefix("seed-")) for p in path.glob("seed-*") if _arms(p))
    if not seeds:
        raise HubRefused(f"{path} has no finished round yet; `svp status {path}` tells how far it is")
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise HubRefused(f"{path} has no finished round for seed {seed}; it has {', '.join(map(str, seeds))}")
    arms = _arms(path / f"seed-{seed}")
    arm = _first_arm(read_json(path / RECIPE_FILE), arms) if arm is None else arm
    if arm not in arms:
        raise HubRefused(f"{path} has no arm {arm!r}{closest(arm, list(arms))}; it has {', '.join(arms)}")
    rounds = arms[arm]
    chosen = max(rounds) if round is None else round
    if chosen not in rounds:
        raise HubRefused(
            f"{path}, {arm}: no finished round {chosen}; finished are {', '.join(map(str, sorted(rounds)))}"
        )
    if rounds[chosen].parent.name.startswith("keep-"):  # a core-set is picked anew for each size
        return Source(path, seed, arm, (rounds[chosen],))
    return Source(path, seed, arm, tuple(rounds[number] for number in sorted(rounds) if number <= chosen))


def _selection_directory(path: Path) -> Source:
    path = path.resolve()
    parents = [p for p in path.parents if (p / RECIPE_FILE).is_file()]
    lineage = Selection.load(path).lineage
    if not parents:
        return Source(None, lineage.seed, lineage.strategy, (path,))
    run_dir = parents[0]
    arm = path.relative_to(run_dir).parts[1]
    if arm == "start":
        return Source(run_dir, lineage.seed, arm, (path,))
    return find_source(run_dir, arm=arm, seed=lineage.seed, round=lineage.round)


def _arms(seed_dir: Path) -> dict[str, dict[int, Path]]:
    """Arm -> round -> directory of its selection, for finished rounds; the start set is round 0 of each arm."""
    found: dict[str, dict[int, Path]] = {}
    start = seed_dir / "start" / "selection"
    for pattern, needs in (("round-*", "labels"), ("keep-*", "selection")):
        for directory in sorted(seed_dir.glob(f"*/{pattern}")):
            if (directory / "selection" / STEP_FILE).exists() and (directory / needs / STEP_FILE).exists():
                rounds = found.setdefault(directory.parent.name, {})
                if (start / STEP_FILE).exists():
                    rounds[0] = start
                rounds[_round(directory)] = directory / "selection"
    return dict(sorted(found.items()))


def finished_rounds(run_dir: Path) -> list[tuple[str, int, int]]:
    """(arm, seed, round) of all that a run has picked and labelled, without the start set."""
    return [
        (arm, int(seed_dir.name.removeprefix("seed-")), round)
        for seed_dir in sorted(run_dir.glob("seed-*"), key=lambda p: int(p.name.removeprefix("seed-")))
        for arm, rounds in _arms(seed_dir).items()
        for round in sorted(rounds)
        if round > 0
    ]


def _round(directory: Path) -> int:
    if directory.name.startswith("round-"):
        return int(directory.name.removeprefix("round-"))
    return int(read_json(directory / "selection" / "lineage.json")["round"])


def _first_arm(recipe: dict[str, Any], arms: dict[str, dict[int, Path]]) -> str:
    wanted = [name for s in recipe.get("strategies", []) for name in (f"proxy-{s}", s)]
    return next(
        name for name in [*wanted, *sorted(arms, key=lambda a: (not a.startswith("proxy-"), a))] if name in arms
    )


def open_source(source: Source, *, pool: Pool | None = None) -> tuple[SelectedRows, Selection]:
    """Read what was picked and labelled up to a round, and open the pool that it was picked from.

    Args:
        pool: None: opened as the lineage says.
    Raises:
        PoolError: the pool cannot be opened.
        LineageError: the pool is not what it was.
    """
    selections = [Selection.load(path) for path in source.selections]
    last = selections[-1]
    pool = open_pool(last) if pool is None else pool
    if pool.fingerprint != last.lineage.pool["fingerprint"]:
        last.verify(pool)
        raise LineageError(
            f"{pool.ref.path} [{pool.ref.split}] was changed since {source.selections[-1]} was made (its rows hash to "
            f"{pool.fingerprint[:12]}..., expected {last.lineage.pool['fingerprint'][:12]}...); restore it"
        )
    recipe = source.recipe
    label_column = recipe.get("label_column") or recipe.get("pool", {}).get("label_column")
    if label_column is None:
        return bare_rows(last, pool), last
    column = read_labels(pool, label_column)
    labels = LabelSet.empty()
    for path, selection in zip(source.selections, selections, strict=True):
        labels = labels.append(_labels(path, selection, recipe, column, pool))
    return SelectedRows(pool, labels, scores_of(selections), column.class_names, label_column), last


def _labels(path: Path, selection: Selection, recipe: dict[str, Any], column: LabelColumn, pool: Pool) -> LabelSet:
    file = path.parent / "labels" / "labels.parquet"
    if file.exists():
        return LabelSet.load(file)
    # A core-set keeps no labels: they were all there from the start.
    noise = float(recipe.get("noise", recipe.get("oracle", {}).get("noise", 0.0)))
    return ColumnOracle(ColumnOracleSpec(noise=noise), column, pool.keys_N, selection.lineage.seed).collect(selection)


def bare_rows(selection: Selection, pool: Pool, labels: LabelSet | None = None) -> SelectedRows:
    """A selection without labels, or with some that were given for it."""
    import pyarrow as pa

    if labels is not None:
        return SelectedRows(pool, labels, scores_of([selection]), None, None)
    nothing = pa.nulls(len(selection), pa.string())
    unlabelled = LabelSet.of(selection.positions_K, selection.ids_K, nothing, round=selection.lineage.round, source="")
    table = unlabelled.table.set_column(4, "source", nothing)
    return SelectedRows(pool, LabelSet(table), scores_of([selection]), None, None)


def scores_of(selections: list[Selection]) -> FloatN:
    """float32 per row, NaN where no model ranked it."""
    return np.concatenate(
        [
            np.full(len(s), np.nan, np.float32) if s.scores_K is None or s.lineage.proxy is None else s.scores_K
            for s in selections
        ]
    )


def open_pool(selection: Selection, *, path: str | None = None) -> Pool:
    """The pool that a selection was made from, as its lineage names it; `path`: where it lies now."""
    names = {field.name for field in dataclasses.fields(PoolRef)}
    ref = {name: value for name, value in selection.lineage.pool.items() if name in names}
    return PoolRef(**(ref if path is None else ref | {"path": path, "revision": None, "streaming": False})).open()


def shareable(value: Any) -> Any:
    """JSON values without what concerns this machine: of an absolute path only its last part; no tokens."""
    if isinstance(value, dict):
        return {key: shareable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(inner) for inner in value]
    if isinstance(value, str):
        return scrub(Path(value).name if os.path.isabs(value) or value.startswith("~") else value)  # noqa: PTH117
    return value


def pool_of(selection: Selection) -> dict[str, Any]:
    """The pool of a selection as others may know it."""
    pool = json.loads(json.dumps(dict(selection.lineage.pool)))
    on_hub = pool.get("revision") is not None
    return {**shareable(pool), "on_hub": on_hub}
