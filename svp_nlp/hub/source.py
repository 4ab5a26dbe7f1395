"""What a run directory, or the directory of one selection, holds to share."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from svp_nlp.columns import LabelColumn, closest
from svp_nlp.errors import HubRefused, LineageError, PoolError, scrub
from svp_nlp.files import read_json
from svp_nlp.labeling.seeds import kept_seeds
from svp_nlp.labels import LabelSet
from svp_nlp.oracles.column import ColumnOracle, ColumnOracleSpec
from svp_nlp.pool import Pool, PoolRef
from svp_nlp.pool_labels import read_labels
from svp_nlp.pool_source import is_hub_id
from svp_nlp.run import RECIPE_FILE, STEP_FILE
from svp_nlp.selected import SelectedRows
from svp_nlp.selection import Selection, scores_at
from svp_nlp.strategy_spec import StrategySpec

_DATA_FILE = "selection.parquet"
_SEED = re.compile(r"seed-(\d+)")
_ROUND = re.compile(r"(?:round|keep)-(\d+)")  # whatever else lies beside them, such as copies, is not the run's
_LABELS_FILE = "labels.parquet"
PART = "part"  # among the facts of a pool: its rows are a part of those at its path, drawn at random
_PATHS = frozenset({"path", "model_name_or_path", "name_or_path", "_name_or_path"})


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

    @property
    def of_part(self) -> bool:
        """Whether the pool of the run is a part of the rows at its path."""
        return (self.recipe.get("pool") or {}).get("rows") is not None


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
        if (arm, seed, round) != (None, None, None):
            raise HubRefused(
                f"{path} is one selection; --arm, --seed and --round choose among those of a run: leave them out, or "
                "name the run directory"
            )
        return _selection_directory(path)
    if not (path / RECIPE_FILE).is_file():
        what = "is neither a run directory nor a selection" if path.exists() else "does not exist"
        raise HubRefused(f"{path} {what}; expected what `svp run` made, or a directory with {_DATA_FILE}")
    seeds = [number for number, directory in _seeds(path).items() if _arms(directory)]
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
    run_dir = next((p for p in path.parents if (p / RECIPE_FILE).is_file()), None)
    lineage = Selection.load(path).lineage
    parts = () if run_dir is None else path.relative_to(run_dir).parts
    if run_dir is not None and len(parts) in (3, 4) and _SEED.fullmatch(parts[0]) and parts[-1] == "selection":
        if parts[1:-1] == ("start",):
            return Source(run_dir, lineage.seed, "start", (path,))
        if len(parts) == 4 and _ROUND.fullmatch(parts[2]):
            return find_source(run_dir, arm=parts[1], seed=lineage.seed, round=lineage.round)
    return Source(None, lineage.seed, lineage.strategy, (path,))  # also one that somebody saved below a run


def _seeds(run_dir: Path) -> dict[int, Path]:
    """Seed -> its directory, in order."""
    found = {int(name[1]): p for p in run_dir.glob("seed-*") if (name := _SEED.fullmatch(p.name))}
    return dict(sorted(found.items()))


def _arms(seed_dir: Path) -> dict[str, dict[int, Path]]:
    """Arm -> round -> directory of its selection, for finished rounds; the start set is round 0 of each arm."""
    found: dict[str, dict[int, Path]] = {}
    start = seed_dir / "start" / "selection"
    for pattern, needs in (("round-*", "labels"), ("keep-*", "selection")):
        for directory in sorted(seed_dir.glob(f"*/{pattern}")):
            finished = (directory / "selection" / STEP_FILE).exists() and (directory / needs / STEP_FILE).exists()
            if finished and (name := _ROUND.fullmatch(directory.name)):
                rounds = found.setdefault(directory.parent.name, {})
                if (start / STEP_FILE).exists():
                    rounds[0] = start
                lineage = directory / "selection" / "lineage.json"
                number = int(name[1]) if pattern == "round-*" else int(read_json(lineage)["round"])
                rounds[number] = directory / "selection"
    return dict(sorted(found.items()))


def finished_rounds(run_dir: Path) -> list[tuple[str, int, int]]:
    """(arm, seed, round) of all that a run has picked and labelled, without the start set."""
    return [
        (arm, seed, round)
        for seed, seed_dir in _seeds(run_dir).items()
        for arm, rounds in _arms(seed_dir).items()
        for round in sorted(rounds)
        if round > 0
    ]


def _first_arm(recipe: dict[str, Any], arms: dict[str, dict[int, Path]]) -> str:
    titles = [StrategySpec.model_validate(entry).title for entry in recipe.get("strategies", [])]
    wanted = [name for title in titles for name in (f"proxy-{title}", title)]
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
    if pool is None:
        try:
            pool = open_pool(last, of_part=source.of_part)
        except PoolError as error:
            raise PoolError(f"the pool of this run: {error}; give where it is now (--pool)") from None
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
    if is_by_people(recipe):
        labels, last = _with_last_at_end(given_labels(source.run_dir, source.selections), last)
        names = labels.classes_after(tuple(recipe["oracle"]["labels"]))
    else:
        column, labels = read_labels(pool, label_column), LabelSet.empty()
        for path, selection in zip(source.selections, selections, strict=True):
            labels = labels.updated(_labels(path, selection, recipe, column, pool))
        names = column.class_names
    return SelectedRows(pool, labels, scores_at(labels.positions_L, selections), names, label_column), last


def is_by_people(recipe: Mapping[str, Any]) -> bool:
    """Whether the labels of a run came from people, who answer late, in part, or again."""
    return bool(recipe.get("oracle", {}).get("kind") == "files")


def given_labels(run_dir: Path | None, selections: Sequence[Path]) -> LabelSet:
    """What people had said when the last of these selections of a run was closed, after the seeds it began with."""
    labels = kept_seeds(run_dir) or LabelSet.empty()
    for path in selections:
        labels = labels.updated(LabelSet.load(path.parent / "labels" / _LABELS_FILE))
    return labels


def _with_last_at_end(labels: LabelSet, last: Selection) -> tuple[LabelSet, Selection]:
    """The labels with those of the last selection at their end, in its order, and what of it has a label."""
    labelled_K = np.isin(last.positions_K, labels.positions_L)
    kept = pa.array(np.flatnonzero(labelled_K))
    part = dataclasses.replace(
        last,
        positions_K=last.positions_K[labelled_K],
        ids_K=last.ids_K.take(kept),
        scores_K=None if last.scores_K is None else last.scores_K[labelled_K],
    )
    others = LabelSet(labels.table.filter(~np.isin(labels.positions_L, part.positions_K)))
    return others.updated(labels.of_positions(part.positions_K)), part


def _labels(path: Path, selection: Selection, recipe: dict[str, Any], column: LabelColumn, pool: Pool) -> LabelSet:
    file = path.parent / "labels" / _LABELS_FILE
    if file.exists():
        return LabelSet.load(file)
    # A core-set keeps no labels: they were all there from the start.
    noise = float(recipe.get("noise", recipe.get("oracle", {}).get("noise", 0.0)))
    return ColumnOracle(ColumnOracleSpec(noise=noise), column, pool.keys_N, selection.lineage.seed).labels_of(selection)


def bare_rows(selection: Selection, pool: Pool) -> SelectedRows:
    """A selection without labels."""
    nothing = pa.nulls(len(selection), pa.string())
    unlabelled = LabelSet.of(selection.positions_K, selection.ids_K, nothing, round=selection.lineage.round, source="")
    table = unlabelled.table.set_column(4, "source", nothing)
    return SelectedRows(pool, LabelSet(table), scores_at(selection.positions_K, [selection]), None, None)


def open_pool(selection: Selection, *, path: str | None = None, of_part: bool = False) -> Pool:
    """The pool that a selection was made from, as its lineage names it.

    Args:
        path: where it lies now; None: where it lay.
        of_part: it is a part of the rows that lie there, which not every lineage tells.
    """
    pool = {**selection.lineage.pool, **({PART: True} if of_part else {})}
    if path is not None:
        pool |= {"path": path, "revision": None, "streaming": False}
    return pool_ref(pool).open()


def pool_ref(pool: Mapping[str, Any]) -> PoolRef:
    """Where a pool lives, from its facts in a lineage."""
    # Its rows are asked for only where they are a part: they are copied into memory.
    names = {field.name for field in dataclasses.fields(PoolRef)} - ({"rows"} if not pool.get(PART) else set())
    return PoolRef(**{name: value for name, value in pool.items() if name in names})


def shareable(value: Any, *, name: str = "") -> Any:
    """JSON values without what concerns this machine: of a local path only its last part; no tokens.

    A relative path looks like other text, and like the id of a repository: it is looked for where paths stand.

    Args:
        name: under which the value stands.
    """
    if isinstance(value, dict):
        return {key: shareable(inner, name=key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(inner, name=name) for inner in value]
    if isinstance(value, str):
        is_local = os.path.isabs(value) or value.startswith("~") or (name in _PATHS and not is_hub_id(value))  # noqa: PTH117
        return scrub(Path(value).name if is_local else value)
    return value


def pool_of(selection: Selection, pool: Pool | None = None) -> dict[str, Any]:
    """The pool of a selection as others may know it.

    Args:
        pool: it, to tell whether it is a part of the rows at its path.
    """
    facts = json.loads(json.dumps(dict(selection.lineage.pool)))
    on_hub = facts.get("revision") is not None
    # A folder of the same name may lie here by now, or the pool's own not any more: the revision tells what it was.
    path = facts["path"] if on_hub else scrub(Path(facts["path"]).name)
    part = {PART: True} if pool is not None and pool.ref.rows is not None else {}
    return {**shareable(facts), "path": path, "on_hub": on_hub, **part}


def kept_lineage(selection: Selection, pool: Pool | None = None) -> dict[str, Any]:
    """The lineage of a selection as others may know it: JSON values, `options` only where there are any."""
    lineage = dataclasses.asdict(selection.lineage)
    options = lineage.pop("options")
    kept = {**lineage, "pool": pool_of(selection, pool), "proxy": shareable(lineage["proxy"])}
    return kept if not options else {**kept, "options": shareable(options)}
