"""Pool, labels, test and dev set of a recipe, opened and checked before any work."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from svp_nlp.arrays import BoolN, IntK, keyed_hash
from svp_nlp.columns import LabelColumn
from svp_nlp.errors import LabelError, PoolError
from svp_nlp.labeling.seeds import read_seeds
from svp_nlp.labels import LabelSet
from svp_nlp.metrics import check_metrics
from svp_nlp.models.base import Labeled
from svp_nlp.pool import Pool, PoolRef
from svp_nlp.pool_labels import conflicting_labels, overlap, read_labels
from svp_nlp.recipe import HeldOutSpec, PoolSpec, Recipe
from svp_nlp.sizes import resolve_size

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """What a recipe works on."""

    pool: Pool
    labels: LabelColumn | None  # None: people are asked
    class_names: tuple[str, ...]
    available_N: BoolN  # usable, with a label or somebody to ask, and not among those that people label as a test set
    test: Labeled | None
    test_positions: IntK | None  # rows that people label as a test set
    dev: Labeled | float | None
    pool_info: dict[str, Any]  # for the report
    test_info: dict[str, Any] | None
    warnings: tuple[str, ...]
    revisions: dict[str, str | None]  # of pool, test and dev: the commit on the Hub that was read; None: on this disk
    seeds: LabelSet = dataclasses.field(default_factory=LabelSet.empty)  # before people are asked


def pool_ref(spec: PoolSpec, *, revision: str | None = None) -> PoolRef:
    """The pool without its labels: all that proxies and strategies may see.

    Args:
        spec: of a recipe.
        revision: the commit that its branch or tag named when the run began; None: as the recipe says.
    """
    return PoolRef(
        path=spec.path,
        name=spec.name,
        split=spec.split,
        revision=revision or spec.revision,
        columns=spec.text_columns if spec.image_column is None else (spec.image_column,),
        id_column=spec.id_column,
        modality="text" if spec.image_column is None else "image",
        rows=spec.rows,
        streaming=spec.streaming,
    )


def open_data(
    recipe: Recipe,
    revisions: Mapping[str, str | None] | None = None,
    *,
    seeds: LabelSet | None = None,
    check_pool: Callable[[Pool], None] = lambda pool: None,
) -> Data:
    """Open everything that a recipe names, and check it.

    Args:
        recipe: a branch or tag in it is asked for once, also where pool, test and dev all name it.
        revisions: `Data.revisions` of an earlier call, which are then read again whatever the branches name now.
        seeds: `Data.seeds` of an earlier call, whatever their file holds now.
        check_pool: called before anything is made of the pool.
    Raises:
        PoolError: something cannot be opened or read, or test texts are in the pool as well.
        LabelError: wrong labels, or fewer than two classes.
    """
    commits = _Commits(revisions or {})
    pool = commits.open(recipe.pool, "pool")
    check_pool(pool)
    warnings = pool.check.lines()[1:]
    labels, counts, test_positions = None, None, None
    if recipe.by_people:
        class_names, available_N = _asked_classes(recipe, commits), pool.usable_N.copy()
        seeds = _seeds(recipe, pool, class_names) if seeds is None else seeds
        class_names = seeds.classes_after(class_names)
        if (wanted := recipe.oracle.test_rows) is not None:  # type: ignore[attr-defined]
            open_N = available_N.copy()
            open_N[seeds.positions_L] = False
            test_positions = _test_positions(pool, open_N, wanted, seed=recipe.seeds[0])
            available_N[test_positions] = False
    else:
        labels = read_labels(pool, recipe.pool.label_column)
        class_names, available_N = labels.class_names, available_rows(pool, labels)
        counts = np.bincount(labels.labels_N[available_N], minlength=len(class_names))
        warnings += _about_labels(pool, labels, counts)
    initial = recipe.resolve_initial(int(available_N.sum()))
    if 0 < initial < len(class_names):
        warnings.append(f"{initial:,} labels at the start for {len(class_names):,} classes: some have none")
    test, test_info = None, None
    if recipe.test is not None:
        check_metrics(recipe.metrics, num_classes=len(class_names))
        test_pool = commits.open(recipe.test, "test")
        test, left_out = labeled_rows(test_pool, recipe.test.label_column, class_names, source="test set")
        in_pool = range(len(class_names)) if counts is None else np.flatnonzero(counts).tolist()
        absent = sorted(set(in_pool) - set(np.unique(test.labels_L).tolist()))
        if absent:
            names = ", ".join(class_names[label] for label in absent[:10])
            warnings.append(f"{len(absent):,} classes of the pool are not in the test set: {names}")
        shared = overlap(pool, test_pool)
        if shared.count:
            shown = ", ".join(f"{row} = test {test_row}" for row, test_row in shared.first)
            message = (
                f"{shared.count:,} {pool.ref.modality}s of the test set are in the pool as well (pool position {shown})"
            )
            if not recipe.allow_overlap:
                raise PoolError(
                    f"{message}; the test error would flatter: remove them, or set allow_overlap: true to go on"
                )
            warnings.append(message)
        if left_out:
            warnings.append(
                f"{left_out:,} rows of the test set have no {pool.ref.modality} or no label and are left out"
            )
        test_info = {
            "path": recipe.test.path,
            "split": recipe.test.split,
            "revision": test_pool.ref.revision,
            "rows": len(test),
            "overlap": shared.count,
            "fingerprint": test_pool.fingerprint,
        }
    dev: Labeled | float | None
    if isinstance(recipe.dev, HeldOutSpec):
        dev_pool = commits.open(recipe.dev, "dev")
        dev = labeled_rows(dev_pool, recipe.dev.label_column, class_names, source="dev set")[0]
    else:
        dev = recipe.dev
    for warning in warnings:
        log.warning("%s", warning)
    pool_info = {
        **{k: v for k, v in dataclasses.asdict(pool.ref).items() if k in ("path", "name", "split", "revision")},
        "rows": len(pool),
        "usable": int(np.count_nonzero(available_N)),
        "blank": pool.check.blank,
        "duplicates": pool.check.duplicates,
        "unlabelled": None if labels is None else labels.unlabelled,
        "fingerprint": pool.fingerprint,
        "class_names": list(class_names),
        "class_counts": None
        if counts is None
        else {name: int(count) for name, count in zip(class_names, counts, strict=True)},
    }
    return Data(
        pool, labels, class_names, available_N, test, test_positions, dev, pool_info, test_info, tuple(warnings),
        commits.read, seeds or LabelSet.empty(),
    )  # fmt: skip


def _about_labels(pool: Pool, labels: LabelColumn, counts: IntK) -> list[str]:
    """What is odd about the labels of a pool; `counts` are those of the rows that can be picked."""
    found = []
    if labels.unlabelled:
        found.append(f"{labels.unlabelled:,} rows of the pool have no label and cannot be picked in a simulation")
    conflicts, pairs = conflicting_labels(pool, labels)
    if conflicts:
        shown = ", ".join(f"{row} and {first}" for row, first in pairs)
        found.append(f"{conflicts:,} duplicates have another label than the first row with their text: {shown}")
    empty = [name for name, count in zip(labels.class_names, counts, strict=True) if count == 0]
    if empty:
        found.append(f"{len(empty):,} classes have no row in the pool: {', '.join(empty[:10])}")
    return found


def _asked_classes(recipe: Recipe, commits: _Commits) -> tuple[str, ...]:
    """The classes that people are asked for: those of the recipe, and where more may come, of the test set."""
    oracle: Any = recipe.oracle
    names: tuple[str, ...] = oracle.labels
    if oracle.new_classes == "extend" and recipe.test is not None:
        found = read_labels(commits.open(recipe.test, "test"), recipe.test.label_column).class_names
        names = tuple(dict.fromkeys([*names, *found]))
    return names


def _seeds(recipe: Recipe, pool: Pool, class_names: tuple[str, ...]) -> LabelSet:
    oracle: Any = recipe.oracle
    if oracle.seed_labels is None:
        return LabelSet.empty()
    return read_seeds(oracle.seed_labels, pool, class_names=class_names, extend=oracle.new_classes == "extend")


def _test_positions(pool: Pool, available_N: BoolN, size: int | str, *, seed: int) -> IntK:
    """Random rows for a test set, the same ones always."""
    rows = np.flatnonzero(available_N)
    count = resolve_size(size, len(rows), "oracle.test_rows")
    order = np.argsort(keyed_hash(pool.keys_N[rows], seed, "test set"), kind="stable")
    return rows[order[:count]].astype(np.int64)


class _Commits:
    """Opens pools so that one branch or tag of a dataset is one commit, though somebody pushes in between."""

    def __init__(self, known: Mapping[str, str | None]) -> None:
        self.read: dict[str, str | None] = {}  # role -> commit
        self._known = known
        self._named: dict[tuple[str, str], str | None] = {}

    def open(self, spec: PoolSpec, role: str) -> Pool:
        name = (spec.path, spec.revision or "main")
        pool = pool_ref(spec, revision=self._known.get(role) or self._named.get(name)).open()
        self._named[name] = self.read[role] = pool.ref.revision
        return pool


def available_rows(pool: Pool, labels: LabelColumn) -> BoolN:
    """Rows that can be picked in a simulation: with a text that no earlier row has, and with a label.

    Raises:
        LabelError: fewer than two classes.
    """
    if len(labels.class_names) < 2:
        raise LabelError(f"{pool.ref.path}: found the one class {labels.class_names}; expected at least two")
    return pool.usable_N & (labels.labels_N >= 0)


def labeled_rows(
    pool: Pool, label_column: str, class_names: tuple[str, ...], *, source: str = "held-out set"
) -> tuple[Labeled, int]:
    """Rows of a test or dev set with a text and a label, and how many have not.

    Duplicates stay, for official test sets have some.

    Args:
        source: see `Labeled`.
    Raises:
        PoolError: no such row.
        LabelError: a label that is not among `class_names`.
    """
    labels = read_labels(pool, label_column, class_names=class_names)
    has_text_N = pool.usable_N.copy()
    has_text_N[pool.duplicates_D2[:, 0]] = True
    positions_T: IntK = np.flatnonzero(has_text_N & (labels.labels_N >= 0)).astype(np.int64)
    if not len(positions_T):
        raise PoolError(f"{pool.ref.path} [{pool.ref.split}] has no row with a {pool.ref.modality} and a label")
    labels_T = labels.labels_N[positions_T].astype(np.int64)
    return Labeled(pool.take(positions_T), labels_T, positions_T, class_names, source), len(pool) - len(positions_T)
