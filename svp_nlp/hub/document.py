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
from svp_nlp.hub.remote import check_version
from svp_nlp.hub_errors import first_line

FILE = "lineage.json"
_FORMAT = 1
_DAMAGE = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, NotImplementedError, RecursionError, OSError,
)  # fmt: skip


def _named(kind: object) -> str:
    return "signals" if kind == "signals" else f"a {kind}"


def parse(data: bytes | None, *, where: str, kind: str | None = None) -> dict[str, Any]:
    """Read lineage.json; an empty document where there is none yet.

    What all kinds have in common is as it should be in what is returned: readers and writers need not look again.

    Raises:
        HubRefused: it is not ours, is damaged, is newer than this version of svp_nlp, or holds another kind of thing.
    """
    if data is None:
        return {"format": _FORMAT, "kind": kind, "configs": {}, "versions": []}
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    number = document.get("format") if isinstance(document, dict) else None
    if isinstance(number, int) and number > _FORMAT:
        raise HubRefused(f"{where}: its {FILE} has format {number}, this svp_nlp reads {_FORMAT}; upgrade svp_nlp")
    if not isinstance(number, int) or not _is_whole(document):
        raise HubRefused(f"{where}: its {FILE} was not written by svp_nlp, or is damaged; name another repository")
    if kind is not None and document["kind"] != kind:
        raise HubRefused(f"{where} holds {_named(document['kind'])}, not {_named(kind)}; name another repository")
    return dict(document)


def _is_whole(document: dict[str, Any]) -> bool:
    kind, configs, versions = (document.get(name) for name in ("kind", "configs", "versions"))
    return (
        isinstance(kind, str)
        and isinstance(configs, dict)
        and isinstance(versions, list)
        and bool(versions) >= bool(configs)
        and all(map(_is_entry, configs.values()))
        and all(map(_is_version, versions))
    )


def _is_entry(entry: Any) -> bool:
    files = entry.get("files") if isinstance(entry, dict) else None
    return (
        isinstance(files, dict)
        and all(isinstance(facts, dict) and isinstance(facts.get("sha256"), str) for facts in files.values())
        and _is_name(entry.get("version"))
    )


def _is_version(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(name), str) for name in ("config", "key", "created", "title"))
        and isinstance(row.get("commit", ""), str)
        and _is_name(row.get("version"))
    )


def _is_name(version: Any) -> bool:
    """Whether it names a version: folders are called like it."""
    with contextlib.suppress(HubRefused):
        return isinstance(version, str) and bool(check_version(version))
    return False


def dump(document: Mapping[str, Any]) -> bytes:
    """The bytes of lineage.json."""
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def version_of(document: Mapping[str, Any], key: str, config: str, version: str | None = None) -> dict[str, Any] | None:
    """The version in which this content was pushed, if it was: the one of this name, or else the newest."""
    found = [v for v in reversed(document["versions"]) if (v["key"], v["config"]) == (key, config)]
    return next((v for v in found if v["version"] == version), found[0] if found else None)


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
    if not names:
        raise HubRefused(f"{where} holds no version yet")
    if config is None or config not in names:
        wanted = "several configurations" if config is None else f"no configuration {config!r}"
        raise HubRefused(f"{where} has {wanted}; choose one of {', '.join(names)} with config (--config)")
    entry = document["configs"][config]
    if not all(map(_is_inside, entry["files"])):
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
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # of this machine; Parquet's own have no number
            raise
        raise LineageError(
            f"{where}: its {FILE} is damaged, or of a newer svp_nlp ({first_line(error)}); upgrade "
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
                f"{where}: {name} is missing, but {FILE} names it: somebody removed it; give a version as revision"
            )
        found = sha256_file(folder / name)
        if found != expected["sha256"]:
            raise LineageError(
                f"{where}: {name} has the sha256 {found[:12]}..., {FILE} says {expected['sha256'][:12]}...; it was "
                f"changed after it was pushed, or the cached copy is damaged: delete {folder} and pull again"
            )
