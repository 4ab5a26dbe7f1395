"""Datasets of the Hub as pools: which commit is meant, and its rows, from the caches or from the Hub.

`load_dataset(repo, revision=...)` gives whatever commit was cached last when the Hub cannot be reached. Here a revision
becomes a commit first, and from then on only that commit is read.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import tempfile
from pathlib import Path
from typing import Any

from svp_nlp.errors import PoolError
from svp_nlp.hub_cache import SHA, offline_by, remember, remembered, repository_cache
from svp_nlp.hub_errors import dataset_errors, why
from svp_nlp.pool_source import (
    Source,
    builder_errors,
    check_split,
    is_csv_or_json,
    local_files,
    plain_files,
    prepared,
    quiet_libraries,
)
from svp_nlp.pool_stream import Wanted, is_read_by_datasets, keep_plain, kept, mark_read_by_datasets, stream

log = logging.getLogger(__name__)

_REVISION = re.compile(r"(?!.*\.\.)[\w.-]+(/[\w.-]+)*")
_HUB_TIMEOUT_S = 10.0


def open_hub(
    repo_id: str,
    name: str | None,
    *,
    split: str,
    revision: str | None,
    text_columns: tuple[str, ...],
    streaming: bool = False,
) -> Source:
    """Open a dataset of the Hub.

    A commit that is in a cache is opened without a request. A branch or tag is asked for each time, because it may
    have moved; offline it is the commit that the cache remembers, with a warning.

    Args:
        repo_id: as `user/dataset`.
        name: configuration; None: the default one.
        revision: branch, tag or commit; None: main.
        streaming: where the rows must come from the Hub, write them into one Arrow file as they arrive instead of
            downloading the files first.
    Raises:
        PoolError: no such dataset, revision, configuration or split, no right to read it, no network, a broken row.
    """
    _check_settings(repo_id, revision)
    exact = revision if revision is not None and SHA.fullmatch(revision) else None
    sha = exact or commit_of(repo_id, revision)
    wanted = Wanted(repo_id, name, split, sha, text_columns)
    with quiet_libraries():
        source = _cached(wanted)
        if source is None:
            if offline_by():
                what = f"configuration {name!r}, split {split!r}" if name else f"split {split!r}"
                raise PoolError(f"{repo_id}: offline, and {what} of commit {sha} is not in the cache; go online once")
            if exact is not None:
                commit_of(
                    repo_id, exact
                )  # tells apart what load_dataset would not: no such commit, no right to read it
            source = _fetched(wanted, streaming=streaming)
    return dataclasses.replace(source, revision=sha)


def commit_of(repo_id: str, revision: str | None) -> str:
    """The commit that a branch, a tag or a commit sha names now; offline, the one that the cache remembers.

    Raises:
        PoolError: there is none, it cannot be read, or the Hub cannot be reached.
    """
    import huggingface_hub

    if offline_by():
        return _remembered(repo_id, revision or "main")
    try:
        api = huggingface_hub.HfApi()
        info = api.dataset_info(repo_id, revision=revision, timeout=_HUB_TIMEOUT_S)
        if info.gated:  # everybody may ask about it, but not read it
            api.auth_check(repo_id, repo_type="dataset")
    except Exception as error:
        reason = why(error, repo_id, revision=revision) or f"the Hub cannot be asked ({type(error).__name__}: {error})"
        raise PoolError(f"{repo_id}: {reason}") from None
    remember(repo_id, "dataset", revision or "main", str(info.sha))
    return str(info.sha)


def _check_settings(repo_id: str, revision: str | None) -> None:
    import datasets

    endpoint = datasets.config.HF_ENDPOINT
    if endpoint.endswith("/"):
        raise PoolError(
            f"{repo_id}: HF_ENDPOINT is {endpoint}, and datasets cannot work with the slash at its end; set it to "
            f"{endpoint.rstrip('/')}"
        )
    if revision is not None and not _REVISION.fullmatch(revision):
        raise PoolError(f"{repo_id}: revision {revision!r} is not a name of a branch, a tag or a commit")


def _remembered(repo_id: str, revision: str) -> str:
    if (found := remembered(repo_id, "dataset", revision)) is not None:
        log.warning("%s: offline, so %s is commit %s, as it was on %s", repo_id, revision, *found)
        return found[0]
    folder = repository_cache(repo_id, "dataset") / "snapshots"
    commits = sorted(path.name for path in folder.glob("*") if SHA.fullmatch(path.name))
    there = f"it holds the commits {', '.join(commits[:5])}: give one as revision, or" if commits else "please"
    raise PoolError(f"{repo_id}: offline, and the cache does not know revision {revision!r}; {there} go online once")


def _cached(wanted: Wanted) -> Source | None:
    """The rows from a cache that holds exactly this commit."""
    with builder_errors(wanted.where):
        return kept(wanted) or _prepared_before(wanted) or _from_snapshot(wanted)


def _prepared_before(wanted: Wanted) -> Source | None:
    """From the cache of datasets. What it made of CSV and JSON counts only where our readers cannot read them."""
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    name = wanted.name or _default_name(wanted)
    owner = wanted.repo_id.split("/")
    owner[-1] = datasets.naming.camelcase_to_snakecase(owner[-1])
    place = Path(datasets.config.HF_DATASETS_CACHE).expanduser() / "___".join(owner) / name
    there = next(place.glob(f"*/{wanted.sha}/{datasets.config.DATASET_INFO_FILENAME}"), None)
    if there is None:
        return None
    builder = Cache(
        dataset_name=owner[-1],
        config_name=name,
        version=there.parents[1].name,
        hash=wanted.sha,
        repo_id=wanted.repo_id,
    )
    if builder.info.builder_name in ("csv", "json") and not is_read_by_datasets(wanted):
        return None
    check_split(wanted.split, list(builder.info.splits or []), wanted.repo_id)
    return prepared(builder, wanted.split)


def _default_name(wanted: Wanted) -> str:
    """The configuration that is meant when none is given, from the card of this commit where it is cached."""
    import huggingface_hub
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs

    card = huggingface_hub.try_to_load_from_cache(wanted.repo_id, "README.md", repo_type="dataset", revision=wanted.sha)
    if not isinstance(card, str):
        return "default"
    data = huggingface_hub.DatasetCard.load(card).data
    configs, infos = MetadataConfigs.from_dataset_card_data(data), DatasetInfosDict.from_dataset_card_data(data)
    single = next(iter(infos)) if len(infos) == 1 else "default"
    return configs.get_default_config_name() or str(single)


def _from_snapshot(wanted: Wanted) -> Source | None:
    """From files that `hf download` or snapshot_download has fetched, where all of them are there."""
    import datasets
    import huggingface_hub

    if not (repository_cache(wanted.repo_id, "dataset") / "trees" / f"{wanted.sha}.json").is_file():
        return None  # nobody knows which files there should be
    try:
        folder = huggingface_hub.snapshot_download(
            wanted.repo_id, repo_type="dataset", revision=wanted.sha, local_files_only=True
        )
    except huggingface_hub.errors.LocalEntryNotFoundError:
        return None
    builder = datasets.load_dataset_builder(folder, name=wanted.name)
    return _read(wanted, builder)


def _fetched(wanted: Wanted, *, streaming: bool) -> Source:
    with builder_errors(wanted.repo_id), dataset_errors(wanted.repo_id, wanted.sha):
        builder = _builder(wanted)
        if not streaming:
            return _read(wanted, builder)
        check_split(wanted.split, list(builder.config.data_files or builder.info.splits or []), wanted.repo_id)
        return stream(wanted, builder, plain_files(builder, wanted.split))


def _builder(wanted: Wanted) -> Any:
    import datasets

    builder = datasets.load_dataset_builder(wanted.repo_id, name=wanted.name, revision=wanted.sha)
    if builder.hash == wanted.sha:
        return builder
    # datasets hides that the Hub has failed behind another commit from its cache; without that cache it tells.
    with tempfile.TemporaryDirectory() as empty:
        datasets.load_dataset_builder(wanted.repo_id, name=wanted.name, revision=wanted.sha, cache_dir=empty)
    raise PoolError(f"{wanted.where}: the Hub failed while its files were listed; start again")


def _read(wanted: Wanted, builder: Any) -> Source:
    """The rows of a builder of this commit."""
    check_split(wanted.split, list(builder.config.data_files or builder.info.splits or []), wanted.repo_id)
    found = plain_files(builder, wanted.split)
    if found is not None and (files := local_files(found)) is not None:
        return keep_plain(wanted, builder, files)
    source = prepared(builder, wanted.split)
    if is_csv_or_json(builder):
        mark_read_by_datasets(wanted)
    return source
