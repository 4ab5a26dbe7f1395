"""Selections from the Hub, read back and verified: every file, every row, and the pool where it is joined."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from svp_nlp.arrays import fingerprint_json
from svp_nlp.cache import cached_directory
from svp_nlp.errors import HubRefused, LineageError, PoolError, RunError
from svp_nlp.files import atomic_directory, read_json
from svp_nlp.hub.document import FILE, dump, reading
from svp_nlp.hub.pull import Version, fetch
from svp_nlp.hub.selections import KIND, fingerprint_column, rows_fingerprint
from svp_nlp.hub.source import open_pool
from svp_nlp.hub_cache import using_token
from svp_nlp.hub_errors import disk_errors
from svp_nlp.labels import LabelSet
from svp_nlp.markdown import render
from svp_nlp.pool import TEXT, Pool
from svp_nlp.pool_labels import read_labels
from svp_nlp.pool_source import quiet_libraries
from svp_nlp.selected import SelectedRows, write_rows
from svp_nlp.selection import Lineage, Selection

if TYPE_CHECKING:
    from datasets import Dataset


def fetch_selection(
    repo_id: str, *, revision: str | None = None, config: str | None = None, token: str | None = None
) -> tuple[Version, Selection]:
    """Download a version and verify it: every file, all rows, and the selection that its lineage tells of.

    Raises:
        HubRefused, HubError: as `fetch`.
        LineageError: something is not what was pushed.
    """
    version = fetch(repo_id, repo_type="dataset", kind=KIND, revision=revision, config=config, token=token)
    with reading(version.where):
        return version, _selection(version)


def _selection(version: Version) -> Selection:
    entry = version.entry
    table = _columns(version, ["svp_position", "svp_id", "svp_round", "svp_label_source", "svp_score"])
    table = table.rename_columns(["position", "id", "round", "source", "score"])
    if table.num_rows != entry["rows"] or rows_fingerprint(table) != entry["rows_fingerprint"]:
        raise LineageError(
            f"{version.where}: its {table.num_rows:,} rows are not the {entry['rows']:,} that {FILE} tells of"
        )
    last = table.slice(table.num_rows - entry["selection"]["rows"]).combine_chunks()
    scores = last["score"]
    selection = Selection(
        positions_K=last["position"].to_numpy(),
        ids_K=pa.concat_arrays(last["id"].chunks) if len(last) else pa.array([], pa.string()),
        scores_K=None if scores.null_count == len(scores) else scores.to_numpy(),
        lineage=Lineage(**entry["lineage"]),
    )
    if selection.fingerprint != entry["selection"]["fingerprint"]:
        raise LineageError(
            f"{version.where}: the rows of its last round hash to {selection.fingerprint}, {FILE} says "
            f"{entry['selection']['fingerprint']}; it is not what was selected"
        )
    return selection


def _columns(version: Version, names: list[str]) -> pa.Table:
    return pa.concat_tables([pq.read_table(file, columns=names) for file in version.files])


def load_selected(
    repo_id: str,
    *,
    revision: str | None = None,
    config: str | None = None,
    pool: Pool | None = None,
    token: str | None = None,
) -> Dataset:
    """The rows of a version, verified, as a `datasets.Dataset`: the pool's columns and what svp_nlp added.

    Args:
        revision: a version such as v3, a branch, or a commit; None: the newest.
        config: None: `default`, or the only one.
        pool: the parent of a version that holds no texts or images; None: opened as the lineage says, from the Hub.
    Raises:
        HubRefused, HubError: it is not there, may not be read, or the Hub cannot be reached.
        LineageError: it is not what was pushed, or the pool is not the one it was made from; names the first row.
    """
    from datasets import Dataset

    version, selection = fetch_selection(repo_id, revision=revision, config=config, token=token)
    files = version.files
    with reading(version.where), disk_errors(version.where), quiet_libraries():
        if version.entry["index_only"]:
            pool = parent_pool(version, selection, token=token) if pool is None else pool
            key = fingerprint_json(["joined-2", version.sha, version.config, pool.source_key])
            rows = joined_rows(version, selection, pool)
            files = sorted(cached_directory("joined", key, lambda path: _write(path, rows)).glob("*.parquet"))
        if not version.entry["rows"]:
            return Dataset(pq.read_table(files[0]))  # datasets takes no file without a row
        return Dataset.from_parquet([str(file) for file in files])


def _write(directory: Path, rows: SelectedRows) -> None:
    write_rows(directory, rows)


def parent_pool(
    version: Version, selection: Selection, *, pool_path: str | None = None, token: str | None = None
) -> Pool:
    """The pool that a version without texts or images was made from.

    Args:
        pool_path: where it is on this disk, if it is on no Hub.
        token: None: the one that `hf auth login` or HF_TOKEN gives.
    Raises:
        LineageError: it is on no Hub, or not there any more.
    """
    ref = selection.lineage.pool
    things = f"{ref.get('modality', TEXT)}s"
    if pool_path is not None:
        return open_pool(selection, path=pool_path)
    if not ref.get("on_hub"):
        raise LineageError(
            f"{version.where}: it holds no {things}, and its pool {ref['path']} is on no Hub; give the same files as "
            "pool (svp pull --pool FILE)"
        )
    try:
        with using_token(token):
            return open_pool(selection)
    except PoolError as error:
        raise LineageError(f"{version.where}: it holds no {things}, and its parent cannot be opened: {error}") from None


def joined_rows(version: Version, selection: Selection, pool: Pool) -> SelectedRows:
    """The rows of a version without texts or images, with those of its pool.

    Raises:
        LineageError: the pool is another; names the first row whose id differs.
    """
    entry = version.entry
    table = _columns(version, ["svp_position", "svp_id", "svp_score", "svp_round", "svp_label_source", "svp_label"])
    positions = table["svp_position"].to_numpy()
    Selection(positions, table["svp_id"].combine_chunks(), None, selection.lineage).verify(pool)
    labels = _labels(version, table, pool)
    given = LabelSet.of(positions, table["svp_id"].combine_chunks(), labels, round=0, source="").table
    for name, place in (("round", 3), ("source", 4)):
        values = table["svp_round" if name == "round" else "svp_label_source"].cast(given.schema.field(name).type)
        given = given.set_column(place, given.schema.field(name), values)
    scores_L = table["svp_score"].to_numpy().astype(np.float32)  # nulls are NaN here
    return SelectedRows(pool, LabelSet(given), scores_L, entry["class_names"], entry["label_column"])


def _labels(version: Version, table: pa.Table, pool: Pool) -> pa.Array:
    """What was said about each row: the pool's own label where the version holds none.

    Raises:
        LineageError: the pool's own labels are others now.
    """
    labels, entry = table["svp_label"].combine_chunks(), version.entry
    column = entry["label_column"]
    if column is None:
        return labels
    positions = table["svp_position"].to_numpy()
    if labels.null_count:
        found = read_labels(pool, column)
        own = pa.array(found.labels_N[positions].astype(np.int64), mask=found.labels_N[positions] < 0)
        labels = pc.coalesce(labels, pa.array(found.class_names, pa.string()).take(own))
    if fingerprint_column(pa.chunked_array([labels])) == entry["labels_fingerprint"]:
        return labels
    where = f"{version.where}: the labels in column {column!r} of {pool.ref.path} are not what they were"
    known = pc.is_in(labels, pa.array(entry["class_names"], pa.string())).to_numpy(zero_copy_only=False)
    if not known.all():
        row = int(np.argmin(known))
        raise LineageError(
            f"{where}: position {positions[row]:,} has {labels[row]}, expected {entry['class_names'][:20]}"
        )
    # Which label a row had was not pushed, only how many rows each class had.
    counts = {name: pc.sum(pc.equal(labels, name)).as_py() or 0 for name in entry["class_names"]}
    told = entry["class_counts"]
    moved = [f"{n:,} of {name!r}, expected {told[name]:,}" for name, n in counts.items() if n != told[name]]
    raise LineageError(f"{where} ({'; '.join(moved[:5]) or 'but as many of each class'}); use the pool as it was then")


def pull_selection(
    repo_id: str,
    directory: Path | None = None,
    *,
    revision: str | None = None,
    config: str | None = None,
    pool_path: str | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    """Write a verified version into a directory that `load_dataset(directory)` reads.

    Args:
        directory: None: `<name>-<version>` in the working directory.
        pool_path: where the pool of a version without texts or images is here, if it is on no Hub.
    Returns:
        `directory, repo_id, version, sha, config, rows, fingerprint` (of the selection).
    Raises:
        HubRefused: the directory holds something else.
        LineageError, HubError, PoolError: as `load_selected`.
    """
    version, selection = fetch_selection(repo_id, revision=revision, config=config, token=token)
    entry = version.entry
    if directory is None:
        directory = Path(f"{version.repo_id.split('/')[-1]}-{version.name}")
    _check_free(directory, version)
    rows = None
    with reading(version.where):
        if entry["index_only"]:
            rows = joined_rows(version, selection, parent_pool(version, selection, pool_path=pool_path, token=token))
    try:
        with atomic_directory(directory) as tmp:
            (tmp / "data").mkdir()
            if rows is not None:
                write_rows(tmp / "data", rows)
            else:
                for file in version.files:
                    shutil.copyfile(file, tmp / "data" / file.name)
            readme = render(
                "pulled.md", repo_id=version.repo_id, version=version.name, sha=version.sha, rows=entry["rows"]
            )
            (tmp / "README.md").write_text(f"{readme}\n", encoding="utf-8")
            (tmp / FILE).write_bytes(dump({**version.document, "pulled": _pulled(version)}))
    except OSError as error:
        raise HubRefused(
            f"{directory}: {error.strerror or error}; nothing was written: mend that, or name another place (--output)"
        ) from None
    return {
        "directory": str(directory),
        "repo_id": version.repo_id,
        "version": version.name,
        "sha": version.sha,
        "config": version.config,
        "rows": entry["rows"],
        "fingerprint": selection.fingerprint,
    }


def _pulled(version: Version) -> Mapping[str, str]:
    return {"repo_id": version.repo_id, "sha": version.sha, "config": version.config}


def _check_free(directory: Path, version: Version) -> None:
    """Raises: HubRefused: there is something else; only a pull of this very version is replaced."""
    if directory.exists() and not directory.is_dir():
        raise HubRefused(f"{directory} is a file; name a directory with --output")
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    known = None
    with contextlib.suppress(RunError, OSError):
        known = read_json(directory / FILE)
    pulled = known.get("pulled") if isinstance(known, dict) else None
    if pulled != _pulled(version):
        held = " @ ".join(map(str, pulled.values())) if isinstance(pulled, dict) else "other files"
        raise HubRefused(f"{directory} holds {held}; name another directory with --output, or remove it")
