"""The way in: what a run or a selection becomes on the Hub, pushed or only looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from svp_nlp.errors import HubRefused, LabelError, LineageError
from svp_nlp.hub.history import State, proposal_of, state_of
from svp_nlp.hub.push import Bundle, Draft, Pushed, draft_card, draft_commit, push_bundle
from svp_nlp.hub.remote import Remote, check_version
from svp_nlp.hub.selections import DEFAULT_CONFIG, KIND, selection_bundle
from svp_nlp.hub.source import bare_rows, find_source, open_pool, open_source
from svp_nlp.hub_cache import using_token
from svp_nlp.hub_errors import first_line
from svp_nlp.labels import LabelSet
from svp_nlp.pool import Pool
from svp_nlp.selected import SelectedRows, own_labels
from svp_nlp.selection import Selection


@contextlib.contextmanager
def bundle_of(
    path: str | Path,
    what: str,
    *,
    arm: str | None = None,
    seed: int | None = None,
    round: int | None = None,
    config: str | None = None,
    index_only: bool = False,
    pool: Pool | None = None,
    pool_path: str | None = None,
) -> Iterator[Bundle]:
    """What `svp push` pushes of a run directory, or of the directory of one selection.

    Args:
        what: selection, target, proxy or signals.
        pool: the pool of the run, where it is open already.
        pool_path: where it lies now; None: where it lay when the run was made.
    Raises:
        HubRefused: there is no such thing in it, or an option does not go with it.
    """
    if pool_path is not None:
        made_by = find_source(path, arm=arm, seed=seed, round=round)
        pool = open_pool(Selection.load(made_by.selections[-1]), path=pool_path, of_part=made_by.of_part)
    if what != KIND:
        from svp_nlp.hub.models import model_bundle
        from svp_nlp.hub.signals import signals_bundle

        if config is not None or index_only:
            raise HubRefused(f"--config and --index-only are for selections, not for --what {what}; leave them out")
        options: dict[str, Any] = {"arm": arm, "seed": seed, "round": round}
        if what == "signals":
            context = signals_bundle(Path(path), pool=pool, **options)
        else:
            context = model_bundle(Path(path), role="proxy" if what == "proxy" else "target", **options)
        with context as bundle:
            yield bundle
        return
    source = find_source(path, arm=arm, seed=seed, round=round)
    rows, selection = open_source(source, pool=pool)
    with selection_bundle(
        rows, selection, config=DEFAULT_CONFIG if config is None else config, index_only=index_only, source=source
    ) as bundle:
        yield bundle


def push_selection(
    selection: Selection,
    repo_id: str,
    *,
    pool: Pool,
    labels: LabelSet | None = None,
    class_names: Sequence[str] | None = None,
    label_column: str = "label",
    version: str | None = None,
    config: str = DEFAULT_CONFIG,
    index_only: bool = False,
    private: bool | None = None,
    create_pr: bool = False,
    message: str | None = None,
    token: str | None = None,
) -> Pushed:
    """See `Selection.push_to_hub`."""
    selection.verify(pool)
    if pool.fingerprint != selection.lineage.pool.get("fingerprint"):
        raise LineageError(
            f"{pool.ref.path} [{pool.ref.split}] is not the pool that this selection was made from; expected "
            f"{selection.lineage.pool_name}"
        )
    rows = bare_rows(selection, pool)
    if labels is not None:
        given = _labels_of(selection, labels, pool, label_column)
        names = _class_names(given, pool, label_column) if class_names is None else tuple(class_names)
        rows = SelectedRows(pool, given, rows.scores_L, names, label_column)
    remote = Remote(repo_id, "dataset", token=token)
    with using_token(token), selection_bundle(rows, selection, config=config, index_only=index_only) as bundle:
        return push_bundle(bundle, remote, version=version, private=private, create_pr=create_pr, message=message)


def _labels_of(selection: Selection, labels: LabelSet, pool: Pool, label_column: str) -> LabelSet:
    if label_column in (*pool.ref.columns, pool.ref.id_column) or label_column.startswith("svp_"):
        raise HubRefused(
            f"label_column is {label_column!r}, which holds the {pool.ref.modality}s or the ids of {pool.ref.path}, or "
            "is a name that svp_nlp gives; name another column for the labels"
        )
    given = labels.of_positions(selection.positions_K)
    if given.table["label"].null_count:
        missing = given.positions_L[given.table["label"].is_null().to_numpy()]
        raise LabelError(
            f"position {missing[0]:,} has a label that is null ({len(missing):,} such rows); expected a class for each "
            "row of the selection, or no labels at all"
        )
    return given


def _class_names(given: LabelSet, pool: Pool, label_column: str) -> tuple[str, ...]:
    """In the order of the pool's own column; classes that it does not have follow, sorted."""
    found = own_labels(pool, label_column)
    own = () if found is None else found.class_names
    return (*own, *sorted(set(given.table["label"].to_pylist()) - set(own)))


def preview(bundle: Bundle, remote: Remote, *, version: str | None = None, create_pr: bool = False) -> dict[str, Any]:
    """What a push would do; changes nothing, and needs no token for what is public.

    Returns:
        `lines` for people; `repo_id, version, exists, known` (nothing is to be pushed but perhaps a better card),
        `files` (path -> bytes), `deleted`, `added`, `removed` (rows against the version before; None for what is no
        selection, or cannot be compared) and `card` (empty where it stays as it is).
    Raises:
        SVPError: what the push would raise, as far as it can be known before.
    """
    if version is not None:
        check_version(version)
    if "/" not in remote.repo_id or create_pr:
        remote.sign_in()
    state = state_of(bundle, remote, version=version)
    proposed = None
    if create_pr and state.head is not None and state.known is None:
        proposed = proposal_of(bundle, remote, state.head, version=version)
    draft: Draft | None = None
    if state.known is not None:
        name, draft = state.known["version"], None if create_pr else draft_card(bundle, remote, state)
    elif proposed is not None:
        name = proposed[2]
    else:
        draft = draft_commit(bundle, remote, state, version=version)
        name = draft.version
    found = {
        "repo_id": remote.repo_id,
        "version": name,
        "exists": state.head is not None,
        "known": state.known is not None,
        "files": {} if draft is None else draft.sizes,
        "deleted": [] if draft is None else list(draft.deletions),
        "added": None,
        "removed": None,
        "card": "" if draft is None else _card(draft),
    }
    lines = _first_lines(found, remote, bundle, pull_request=create_pr, proposed=proposed)
    if state.known is None and proposed is None and bundle.kind == KIND:
        changes, compared = _difference(bundle, remote, state)
        found |= changes
        lines.append(compared)
    ending = ["", *found["card"].splitlines()] if draft is not None else []
    return {"lines": [*lines, *ending, "", "nothing was pushed"], **found}


def _card(draft: Draft) -> str:
    card = draft.uploads["README.md"]
    assert isinstance(card, bytes)
    return card.decode()


def _difference(bundle: Bundle, remote: Remote, state: State) -> tuple[dict[str, int | None], str]:
    """Rows added and removed against the last version, of which nothing but the ids is read; and that in words."""
    now = pa.chunked_array([chunk for file in bundle.files.values() for chunk in _ids(file).chunks], pa.string())
    before = state.document["configs"].get(bundle.config)
    try:
        then = _ids_there(remote, str(state.head), [] if before is None else list(before["files"]))
    except Exception as error:  # a push does not read them, so it may well succeed
        told = f"  rows: {len(now):,}; those of the version before cannot be read ({first_line(error)})"
        return {"added": None, "removed": None}, told
    kept = pc.sum(pc.is_in(now, value_set=then)).as_py() or 0
    added, removed = len(now) - kept, len(then) - kept
    told = f"  rows: {added:,} added, {removed:,} removed against the version before"
    return {"added": added, "removed": removed}, told


def _ids(file: Any) -> pa.ChunkedArray:
    return pq.read_table(file, columns=["svp_id"])["svp_id"].cast(pa.string())


def _ids_there(remote: Remote, sha: str, files: list[str]) -> pa.ChunkedArray:
    from huggingface_hub import HfFileSystem

    folder = HfFileSystem(token=remote.api.token, skip_instance_cache=True)
    chunks: list[pa.Array] = []
    for name in files:
        with folder.open(f"datasets/{remote.repo_id}@{sha}/{name}", "rb") as file:
            chunks += _ids(file).chunks
    return pa.chunked_array(chunks, pa.string())


def _first_lines(
    found: dict[str, Any],
    remote: Remote,
    bundle: Bundle,
    *,
    pull_request: bool,
    proposed: tuple[int, str, str] | None,
) -> list[str]:
    where = f"{remote.repo_type} {found['repo_id']}" + ("" if found["exists"] else " (does not exist yet: it is made)")
    if found["known"]:
        first = f"nothing to push: this content is version {found['version']} of {where}"
        first += "; its card would be brought up to date" if found["files"] else ""
    elif proposed is not None:
        first = f"nothing to push: {remote.url}/discussions/{proposed[0]} proposes this content as {proposed[2]}"
    else:
        verb = "propose" if pull_request else "push"
        first = f"would {verb} {bundle.title} as {found['version']} of {where}, configuration {bundle.config}"
    width = max(map(len, found["files"]), default=0)
    lines = [first, *(f"  {path:<{width}}  {size:>13,} bytes" for path, size in sorted(found["files"].items()))]
    return lines + [f"  {path:<{width}}  deleted" for path in found["deleted"]]
