"""lineage.json: what a repository says about each of its configurations, and about its versions so far.

    {"format": 1, "kind": "selection", "svp_nlp": "0.1.0",
     "configs": {"default": {"version": "v2", "key": ..., "created": ..., "files": {path: {"sha256", "bytes"}}, ...}},
     "versions": [{"version": "v1", "config": "default", "key": ..., "created": ..., "title": ..., "commit": sha}, ...]}

A version is one commit and holds all configurations: one is new in it, the others are as they were. `commit` of a
version is known from the next one on. What else an entry of `configs` holds depends on the kind.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from svp_nlp.errors import HubRefused, LineageError
from svp_nlp.files import sha256_file

FILE = "lineage.json"
_FORMAT = 1


def parse(data: bytes | None, *, where: str, kind: str | None = None) -> dict[str, Any]:
    """Read lineage.json; an empty document where there is none yet.

    Raises:
        HubRefused: it is not ours, is newer than this version of svp_nlp, or holds another kind of thing.
    """
    if data is None:
        return {"format": _FORMAT, "kind": kind, "configs": {}, "versions": []}
    try:
        document: dict[str, Any] = json.loads(data)
        found, number = document["kind"], int(document["format"])
        ok = isinstance(document["configs"], dict) and isinstance(document["versions"], list)
    except (ValueError, KeyError, TypeError):
        ok = False
    if not ok:
        raise HubRefused(f"{where}: its {FILE} was not written by svp_nlp; name another repository")
    if number > _FORMAT:
        raise HubRefused(f"{where}: its {FILE} has format {number}, this svp_nlp reads {_FORMAT}; upgrade svp_nlp")
    if kind is not None and found != kind:
        raise HubRefused(f"{where} holds a {found}, not a {kind}; name another repository")
    return document


def dump(document: Mapping[str, Any]) -> bytes:
    """The bytes of lineage.json."""
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def version_of(document: Mapping[str, Any], key: str, config: str) -> dict[str, Any] | None:
    """The version in which this content was pushed, if it was."""
    return next((v for v in reversed(document["versions"]) if (v["key"], v["config"]) == (key, config)), None)


def next_version(document: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """`v` and the number after the highest that a version or a tag has."""
    names = [*tags, *(version["version"] for version in document["versions"])]
    numbers = [int(found[1]) for name in names if (found := re.fullmatch(r"v(\d{1,9})", name))]
    return f"v{max(numbers, default=0) + 1}"


def with_version(
    document: Mapping[str, Any],
    *,
    config: str,
    entry: Mapping[str, Any],
    version: str,
    title: str,
    tags: Mapping[str, str],
    writer: str,
) -> dict[str, Any]:
    """The document as the next commit holds it: `entry` for `config`, and one more version.

    Args:
        entry: has `key`, `created` and `files`.
        tags: tag -> commit, for the commits of the versions before.
    """
    after = copy.deepcopy(dict(document)) | {"svp_nlp": writer}
    for before in after["versions"]:
        if before["version"] in tags:
            before["commit"] = tags[before["version"]]
    after["configs"] = {**after["configs"], config: {**entry, "version": version}}
    row = {"version": version, "config": config, "title": title, "key": entry["key"], "created": entry["created"]}
    after["versions"].append(row)
    return after


def entry_of(document: Mapping[str, Any], config: str | None, *, where: str) -> tuple[str, dict[str, Any]]:
    """(name, entry) of a configuration; of the only one where no name is given.

    Raises:
        HubRefused: none of this name, or several and no name; lists them.
    """
    names = list(document["configs"])
    if config is None and "default" in names:
        config = "default"
    if config is None and len(names) == 1:
        config = names[0]
    if config is None or config not in names:
        wanted = "several configurations" if config is None else f"no configuration {config!r}"
        raise HubRefused(f"{where} has {wanted}; choose one of {', '.join(names)} with config (--config)")
    entry = document["configs"][config]
    if not all(_is_inside(name) for name in entry.get("files", {"": None})):
        raise LineageError(f"{where}: the files in its {FILE} are none of a repository; it was not written by svp_nlp")
    return config, entry


def _is_inside(name: str) -> bool:
    """Whether a file name of somebody else's lineage.json stays in the folder that it is looked for in."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Raises: LineageError: what is read inside misses a part, or has one of another kind."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LineageError(
            f"{where}: its {FILE} is damaged, or of a newer svp_nlp ({type(error).__name__}: {error}); upgrade "
            "svp_nlp, or ask who pushed it"
        ) from error


def verify_files(folder: Path, files: Mapping[str, Mapping[str, Any]], *, where: str) -> None:
    """Compare each file with the hash that was written when it was pushed.

    Raises:
        LineageError: one is missing or differs; names the first.
    """
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise LineageError(
                f"{where}: {name} is missing in the download; delete the cached copy, {folder}, and pull again"
            )
        found = sha256_file(folder / name)
        if found != expected["sha256"]:
            raise LineageError(
                f"{where}: {name} has the sha256 {found[:12]}..., {FILE} says {expected['sha256'][:12]}...; it was "
                f"changed after it was pushed, or the cached copy is damaged: delete {folder} and pull again"
            )
