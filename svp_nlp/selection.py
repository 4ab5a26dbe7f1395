"""The artifact of a round: which rows were picked, with the lineage that tells how."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from svp_nlp.arrays import FloatK, FloatN, IntK, fingerprint_array
from svp_nlp.errors import LineageError
from svp_nlp.files import atomic_file, read_json, write_json

if TYPE_CHECKING:
    import datasets

    from svp_nlp.hub.push import Pushed
    from svp_nlp.labels import LabelSet
    from svp_nlp.pool import Pool

_LINEAGE_FILE = "lineage.json"
_DATA_FILE = "selection.parquet"
_ROWS_PER_BLOCK = 65_536


@dataclass(frozen=True)
class Lineage:
    """Where a selection comes from; JSON values only."""

    pool: Mapping[str, Any]  # path, name, split, revision, columns, rows, fingerprint
    strategy: str
    budget: int
    round: int
    seed: int
    labeled_size: int  # labels in all, once this selection is labelled
    parent: str | None = None  # fingerprint of the selection before
    proxy: Mapping[str, Any] | None = None  # kind, spec, fingerprint, reproducible; None where no model chose
    scoring: Mapping[str, Any] = field(default_factory=dict)  # dtype, world_size, rows
    recipe_sha256: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # of the strategy, and how many rows they left

    @property
    def pool_name(self) -> str:
        """The pool for messages: its path, with the commit where it is on the Hub."""
        revision = self.pool.get("revision")
        return str(self.pool.get("path")) + (f" @ {revision}" if revision else "")


@dataclass(frozen=True)
class Selection:
    """Picked rows, best first.

    Attributes:
        positions_K: int64 [K], absolute positions in the pool, unique.
        ids_K: string array [K], the ids of these rows.
        scores_K: float32 [K], descending; None where the strategy gives none.
        lineage: how they were picked.
    """

    positions_K: IntK
    ids_K: pa.Array
    scores_K: FloatK | None
    lineage: Lineage

    def __len__(self) -> int:
        return len(self.positions_K)

    @property
    def fingerprint(self) -> str:
        """Hash of positions and ids in order. Scores stay out: another machine may round them differently."""
        ids = pa.concat_arrays([self.ids_K.cast(pa.large_string())])
        _, offsets, data = ids.buffers()
        content = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        start, stop = np.frombuffer(offsets, np.int64)[[ids.offset, ids.offset + len(ids)]] if len(ids) else (0, 0)
        return fingerprint_array(np.concatenate([self.positions_K.astype("<i8").view(np.uint8), content[start:stop]]))

    def verify(self, pool: Pool) -> None:
        """Check that `pool` is the one that this selection was made from.

        Raises:
            LineageError: names the first position whose id differs.
        """
        whose = f"expected the pool {self.lineage.pool_name} as it was when the selection was made"
        last = int(self.positions_K.max(initial=-1))
        if last >= len(pool):
            raise LineageError(f"the selection holds position {last:,}, the pool has {len(pool):,} rows; {whose}")
        for start in range(0, len(self), _ROWS_PER_BLOCK):
            positions_B = self.positions_K[start : start + _ROWS_PER_BLOCK]
            expected = self.ids_K.slice(start, len(positions_B)).cast(pa.string())
            found = pool.ids(positions_B).cast(pa.string())
            if not found.equals(expected):
                row = int(np.argmax(pc.not_equal(found, expected).fill_null(True).to_numpy(zero_copy_only=False)))
                raise LineageError(
                    f"position {positions_B[row]:,} has the id {found[row]} in this pool, {expected[row]} in the "
                    f"selection; {whose}"
                )

    def to_dataset(self, pool: Pool, labels: LabelSet | None = None) -> datasets.Dataset:
        """The picked rows of the pool with all their columns, in the order of the selection.

        Adds `svp_position, svp_id, svp_score` and, when `labels` cover the selection, `svp_label, svp_round,
        svp_label_source`, in place of any that the pool has under these names. Rows that labels do not cover are left
        out.

        Raises:
            LineageError: the pool is another one.
        """
        self.verify(pool)
        scores_K = np.full(len(self), np.nan, np.float32) if self.scores_K is None else self.scores_K
        extra = pa.table({"svp_position": self.positions_K, "svp_id": self.ids_K, "svp_score": scores_K})
        if labels is not None:
            given = labels.table.select(["position", "label", "round", "source"])
            order = np.argsort(given["position"].to_numpy())
            at = np.searchsorted(given["position"].to_numpy()[order], self.positions_K)
            covered = np.isin(self.positions_K, given["position"].to_numpy())
            rows = given.take(pa.array(order[at[covered]]))
            extra = extra.filter(pa.array(covered))
            for name, column in (("svp_label", "label"), ("svp_round", "round"), ("svp_label_source", "source")):
                extra = extra.append_column(name, rows[column])
        dataset = pool.dataset(extra["svp_position"].to_numpy())
        dataset = dataset.remove_columns([name for name in extra.column_names if name in dataset.column_names])
        for name in extra.column_names:
            dataset = dataset.add_column(name, extra[name].combine_chunks())
        return dataset

    def push_to_hub(self, repo_id: str, *, pool: Pool, labels: LabelSet | None = None, **options: Any) -> Pushed:
        """Make the picked rows a version of a dataset on the Hub: one commit, one tag that never moves.

        Args:
            repo_id: `namespace/name`; made where it is missing.
            pool: the one that it was made from.
            labels: what was given for all of its rows; None: the rows are pushed as they are in the pool.
            options: `class_names` (their order; None: the pool's, others sorted), `label_column` ("label"), `version`
                (None: the next of v1, v2, ...), `config` ("default"), `index_only` (no column of the pool), `private`
                (for a new repository), `create_pr`, `message`, `token`.
        Returns:
            its `version`, `sha`, `url`, and whether it is `new`: the same content is not pushed twice.
        Raises:
            LineageError: the pool is another one.
            HubRefused: no token, no right, not a repository for this; nothing was changed.
            HubError: the Hub failed for too long; the same call finishes it later.
            RemoteConflict: the version's name stands for other content.
        """
        from svp_nlp.hub.sharing import push_selection

        return push_selection(self, repo_id, pool=pool, labels=labels, **options)

    @classmethod
    def from_hub(
        cls, repo_id: str, *, revision: str | None = None, config: str | None = None, token: str | None = None
    ) -> Selection:
        """The selection of a version: of its last round, where a version holds all that is labelled so far.

        Its scores are those of a model: what rows were drawn by at random is not pushed, and `scores_K` then None.

        Args:
            revision: a version such as v3, a branch, or a commit; None: the newest.
            config: None: `default`, or the only one.
        Raises:
            HubRefused, HubError: it is not there, may not be read, or the Hub cannot be reached.
            LineageError: it is not what was pushed.
        """
        from svp_nlp.hub.load import fetch_selection

        return fetch_selection(repo_id, revision=revision, config=config, token=token)[1]

    def save(self, directory: Path) -> None:
        """Write selection.parquet and lineage.json into `directory`, the lineage last."""
        scores = pa.nulls(len(self), pa.float32()) if self.scores_K is None else pa.array(self.scores_K, pa.float32())
        table = pa.table({"svp_position": self.positions_K, "svp_id": self.ids_K, "svp_score": scores})
        with atomic_file(directory / _DATA_FILE) as tmp:
            pq.write_table(table, tmp, compression="zstd", use_dictionary=False)
        write_json(directory / _LINEAGE_FILE, dataclasses.asdict(self.lineage) | {"fingerprint": self.fingerprint})

    @classmethod
    def load(cls, directory: str | Path) -> Selection:
        """Read what `save` wrote.

        Raises:
            LineageError: the rows are not those that the lineage was written for.
            RunError: a file is missing or damaged.
        """
        directory = Path(directory)
        stored = read_json(directory / _LINEAGE_FILE)
        expected = stored.pop("fingerprint")
        table = pq.read_table(directory / _DATA_FILE)
        scores = table["svp_score"]
        selection = cls(
            positions_K=table["svp_position"].to_numpy(),
            ids_K=table["svp_id"].combine_chunks(),
            scores_K=None if len(table) and scores.null_count == len(scores) else scores.to_numpy(),
            lineage=Lineage(**stored),
        )
        if selection.fingerprint != expected:
            raise LineageError(
                f"{directory / _DATA_FILE}: its rows hash to {selection.fingerprint}, the lineage says {expected}; "
                "the file was changed: make the selection again"
            )
        return selection


def scores_at(positions_L: IntK, selections: Sequence[Selection]) -> FloatN:
    """What ranked each row, float32; NaN where no model did: what random drew rows by is not told."""
    ranked = [s for s in selections if s.scores_K is not None and s.lineage.proxy is not None]
    positions = np.concatenate([np.empty(0, np.int64), *(s.positions_K for s in ranked)])
    scores = np.concatenate([np.empty(0, np.float32), *(np.asarray(s.scores_K) for s in ranked)])
    order = np.argsort(positions, kind="stable")
    at_L = np.searchsorted(positions, positions_L, sorter=order)
    found_L = np.full(len(positions_L), np.nan, dtype=np.float32)
    if len(positions):
        row_L = order[np.minimum(at_L, len(positions) - 1)]
        known_L = positions[row_L] == positions_L
        found_L[known_L] = scores[row_L[known_L]]
    return found_L
