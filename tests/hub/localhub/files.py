"""Reading: the tree of a revision, single files, the history of commits."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.responses import Response

from .repository import stamp
from .routing import PAGE, REPO, REV, Call, HubError, paged, route


def with_xet(call: Call, entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with its Xet hash, where the Hub speaks Xet and the file came by it."""
    xet_hash = call.hub.xet.hash_of(entry["lfs"]["oid"]) if call.hub.xet and "lfs" in entry else None
    return entry | {"xetHash": xet_hash} if xet_hash else entry


@route("GET", REPO + "/tree/" + REV + "(?:/(?P<path>.*?))?")
def tree(call: Call) -> Response:
    repo, folder = call.repo(), call.parts.get("path", "").strip("/")
    commit = repo.resolve(call.rev)[1]
    entries = repo.entries(commit)
    if folder and entries.get(folder, {}).get("type") != "directory":
        raise HubError(404, f'{folder} does not exist on "{call.rev}"', "EntryNotFound")
    prefix = folder + "/" if folder else ""
    inside = [
        with_xet(call, entry)
        for path, entry in entries.items()
        if path.startswith(prefix) and (call.flag("recursive") or "/" not in path[len(prefix) :])
    ]
    if call.flag("expand"):
        last = repo.last_commits(commit, [entry["path"] for entry in inside])
        inside = [entry | {"lastCommit": last.get(entry["path"])} for entry in inside]
    return paged(call, inside, 50 if call.flag("expand") else 1000)


@route("POST", REPO + "/paths-info/" + REV)
def paths_info(call: Call) -> list[dict[str, Any]]:
    if "json" in call.request.headers.get("content-type", ""):
        paths, expand = call.json["paths"], call.json.get("expand")
    else:
        form = parse_qs(call.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    repo = call.repo()
    commit = repo.resolve(call.rev)[1]
    entries = repo.entries(commit)
    found = [with_xet(call, entries[path.strip("/")]) for path in paths if path.strip("/") in entries]
    if expand:
        last = repo.last_commits(commit, [entry["path"] for entry in found])
        found = [entry | {"lastCommit": last.get(entry["path"])} for entry in found]
    return found


@route("GET|HEAD", PAGE + "/(?P<how>resolve|raw)/" + REV + "/(?P<path>.+)")
def resolve_file(call: Call) -> Response:
    """A file: its bytes, or for a large one where they are, which is another origin, as on the Hub."""
    repo, path = call.repo("content"), call.parts["path"]
    commit = repo.resolve(call.rev)[1]
    headers = {"X-Repo-Commit": commit.decode(), "Accept-Ranges": "bytes"}
    blob = repo.files(commit).get(path)
    if blob is None:
        raise HubError(404, "Entry not found", "EntryNotFound", headers=headers)
    entry, name = repo.entry(blob[1]), quote(path.split("/")[-1])
    headers["Content-Disposition"] = f"inline; filename*=UTF-8''{name}; filename=\"{name}\";"
    if "lfs" in entry and call.parts["how"] == "resolve":
        oid = entry["lfs"]["oid"]
        headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-ETag": f'"{oid}"'}
        headers["Location"] = call.hub.store.url("GET", oid)
        if call.hub.xet:
            headers |= call.hub.xet.headers(call, commit, oid)
        return Response(status_code=302, headers=headers)
    headers["ETag"] = f'"{entry["oid"]}"'
    return with_range(repo.read(blob[1]), call.request.headers.get("range", ""), headers)


def with_range(data: bytes, asked: str, headers: dict[str, str]) -> Response:
    """All of a small file, or the part that a Range header asks for."""
    media_type = "text/plain; charset=utf-8"
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
    if not wanted:
        return Response(data, 200, headers, media_type)
    first, last = wanted.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if start >= len(data):
        raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, headers, media_type)


@route("GET", REPO + "/commits/" + REV)
def commits(call: Call) -> Response:
    repo = call.repo()
    formatted, listed = call.request.query_params.get("expand[]") == "formatted", []
    for commit in repo.log(repo.resolve(call.rev)[1]):
        title, _, rest = commit.message.decode().partition("\n")
        text = {"title": title, "message": rest.strip()}
        author = commit.author.decode().split(" <")[0]
        listed.append(
            {
                "id": commit.id.decode(),
                **text,
                "date": stamp(commit.commit_time),
                "authors": [{"user": author, "avatar": ""}],
                **({"formatted": text} if formatted else {}),
            }
        )
    return paged(call, listed, 50)
