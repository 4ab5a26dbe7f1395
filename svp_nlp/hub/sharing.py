"""The way in: what a run or a selection becomes on the Hub, pushed or only looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from svp_nlp.errors import HubRefused, LineageError
from svp_nlp.hub import document as lineage
from svp_nlp.hub.load import fetch_selection, ids_of
from svp_nlp.hub.push import Bundle, Draft, Pushed, draft_commit, push_bundle, read_document
from svp_nlp.hub.remote import Remote, check_version
from svp_nlp.hub.selections import DEFAULT_CONFIG, KIND, selection_bundle
from svp_nlp.hub.source import bare_rows, find_source, open_source
from svp_nlp.labels import LabelSet
from svp_nlp.pool import Pool
from svp_nlp.selected import SelectedRows
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
) -> Iterator[Bundle]:
    """What `svp push` pushes of a run directory, or of the directory of one selection.

    Args:
        what: selection, target, proxy or signals.
    Raises:
        HubRefused: there is no such thing in it, or an option does not go with it.
    """
    if what != KIND:
        from svp_nlp.hub.models import model_bundle
        from svp_nlp.hub.signals import signals_bundle

        if config is not None or index_only:
            raise HubRefused(f"--config and --index-only are for selections, not for --what {what}; leave them out")
        options: dict[str, Any] = {"arm": arm, "seed": seed, "round": round}
        if what == "signals":
            context = signals_bundle(Path(path), **options)
        else:
            context = model_bundle(Path(path), role="proxy" if what == "proxy" else "target", **options)
        with context as bundle:
            yield bundle
        return
    source = find_source(path, arm=arm, seed=seed, round=round)
    rows, selection = open_source(source, pool=pool)
    with selection_bundle(
        rows, selection, config=config or DEFAULT_CONFIG, index_only=index_only, source=source
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
            f"{selection.lineage.pool.get('path')} @ {selection.lineage.pool.get('revision')}"
        )
    rows = bare_rows(selection, pool)
    if labels is not None:
        names = tuple(class_names) if class_names is not None else tuple(sorted(set(labels.table["label"].to_pylist())))
        given = labels.of_positions(selection.positions_K)
        rows = SelectedRows(pool, given, rows.scores_L, names, label_column)
    remote = Remote(repo_id, "dataset", token=token)
    with selection_bundle(rows, selection, config=config, index_only=index_only) as bundle:
        return push_bundle(bundle, remote, version=version, private=private, create_pr=create_pr, message=message)


def preview(bundle: Bundle, remote: Remote, *, version: str | None = None) -> dict[str, Any]:
    """What a push would do; changes nothing, and needs no token for what is public.

    Returns:
        `lines` for people; `repo_id, version, exists, known, files` (path -> bytes), `deleted`, `added`, `removed`
        (rows against the version before; None for what is no selection) and `card`.
    """
    if version is not None:
        check_version(version)
    if "/" not in remote.repo_id:
        remote.sign_in()
    head = remote.head()
    document = lineage.parse(None, where=remote.where, kind=bundle.kind)
    tags: dict[str, str] = {}
    if head is not None:
        document, tags = read_document(remote, head, bundle.kind), remote.tags()
    known = lineage.version_of(document, bundle.key, bundle.config)
    draft = draft_commit(bundle, remote, document, head=head, tags=tags, version=version)
    added, removed = _difference(bundle, remote, document, head)
    found = {
        "repo_id": remote.repo_id,
        "version": draft.version if known is None else known["version"],
        "exists": head is not None,
        "known": known is not None,
        "files": draft.sizes,
        "deleted": list(draft.deletions),
        "added": added,
        "removed": removed,
        "card": _card(draft),
    }
    return {"lines": _lines(found, remote, bundle), **found}


def _card(draft: Draft) -> str:
    card = draft.uploads["README.md"]
    assert isinstance(card, bytes)
    return card.decode()


def _difference(
    bundle: Bundle, remote: Remote, document: dict[str, Any], head: str | None
) -> tuple[int | None, int | None]:
    if bundle.kind != KIND:
        return None, None
    now = set(ids_of(list(bundle.files.values())))
    if head is None or bundle.config not in document["configs"]:
        return len(now), 0
    token = remote.api.token if isinstance(remote.api.token, str) else None
    before, _ = fetch_selection(remote.repo_id, revision=head, config=bundle.config, token=token)
    then = set(ids_of(before.files))
    return len(now - then), len(then - now)


def _lines(found: dict[str, Any], remote: Remote, bundle: Bundle) -> list[str]:
    where = f"{remote.repo_type} {found['repo_id']}" + ("" if found["exists"] else " (does not exist yet: it is made)")
    if found["known"]:
        first = f"nothing to push: this content is version {found['version']} of {where}"
    else:
        first = f"would push {bundle.title} as {found['version']} of {where}, configuration {bundle.config}"
    width = max(map(len, found["files"]))
    lines = [first, *(f"  {path:<{width}}  {size:>13,} bytes" for path, size in sorted(found["files"].items()))]
    lines += [f"  {path:<{width}}  deleted" for path in found["deleted"]]
    if found["added"] is not None:
        lines.append(f"  rows: {found['added']:,} added, {found['removed']:,} removed against the version before")
    return [*lines, "", *found["card"].splitlines(), "", "nothing was pushed"]
