"""Writing: what the client asks before it uploads (preupload), and the commit."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from dulwich.ignore import IgnoreFilter

from .cards import validate_card
from .discussions import add_event, new_discussion
from .repository import STALE, Files, Repo, pointer
from .routing import REPO, REV, Call, HubError, route

_LARGEST_REGULAR_BYTES = 10 * 1000 * 1000  # larger files go to LFS whatever .gitattributes says


def check_path(path: str) -> str:
    if path.startswith("..") or "\0" in path or any(part in ("", ".", "..", ".git") for part in path.split("/")):
        raise HubError(422, f"Invalid path: {path!r}")
    return path


def repo_to_write(call: Call) -> Repo:
    """The repository, if the user may write to this revision: anybody who reads may open a pull request."""
    number = re.fullmatch(r"refs/pr/(\d+)", call.rev)
    own = number and any(
        str(found["num"]) == number[1] and call.user and found["author"]["name"] == call.user.name
        for found in call.repo().meta["discussions"]
    )
    if call.flag("create_pr") or own:
        call.must_sign_in()
        return call.repo()
    return call.repo("write")


@route("POST", REPO + "/preupload/" + REV)
def preupload(call: Call) -> dict[str, Any]:
    repo, asked = repo_to_write(call), call.json
    commit = repo.resolve(call.rev)[1]
    files, answers = repo.files(commit), []
    ignore = asked.get("gitIgnore")
    if ignore is None:
        ignore = repo.text(commit, ".gitignore") or ""
    rules = IgnoreFilter([line.encode() for line in ignore.splitlines() if line.strip()])
    for file in asked["files"]:
        path = check_path(file["path"])
        lfs = repo.is_lfs(commit, path) or file["size"] > _LARGEST_REGULAR_BYTES
        mode = "lfs" if lfs else "regular"
        answer = {"path": path, "uploadMode": mode, "shouldIgnore": bool(rules.is_ignored(path))}
        if path in files:
            # With it the client leaves out of its commit what the repository already has.
            entry = repo.entry(files[path][1])
            answer["oid"] = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        answers.append(answer)
    return {"files": answers, "commitOid": commit.decode()}


def apply(call: Call, repo: Repo, files: Files, *, key: str, value: dict[str, Any]) -> None:
    """One line of a commit, applied to `files` in place."""
    path = check_path(value["path"].rstrip("/"))
    if key == "file":
        content = value["content"]
        data = base64.b64decode(content) if value.get("encoding") == "base64" else content.encode()
        if path == "README.md" and (errors := validate_card(data.decode())[0]):
            raise HubError(400, "Invalid metadata in README.md: " + "; ".join(errors))
        files[path] = (0o100644, repo.add_blob(data))
    elif key == "lfsFile":
        if not call.hub.store.has(value["oid"]):
            raise HubError(
                400, f"Your push was rejected because an LFS pointer pointed to a file that does not exist: {path}"
            )
        size_bytes = call.hub.store.path(value["oid"]).stat().st_size
        files[path] = (0o100644, repo.add_blob(pointer(value["oid"], size_bytes)))
    elif key in ("deletedFile", "deletedFolder", "deletedEntry"):
        gone = [name for name in files if name == path or name.startswith(path + "/")]
        if not gone:
            raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        for name in gone:
            del files[name]
    else:
        raise HubError(400, f"Unknown operation: {key}")


def read_lines(body: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(header, operations) of a commit's body, JSON lines."""
    try:
        header, *operations = [json.loads(line) for line in body.splitlines() if line.strip()]
        if header["key"] == "header" and header["value"]["summary"] and operations:
            return header["value"], operations
    except (ValueError, KeyError):
        pass
    raise HubError(400, "Add a line with the key `lfsFile`, `file` or `deletedFile`")


@route("POST", REPO + "/commit/" + REV)
def commit(call: Call) -> dict[str, Any]:
    repo = repo_to_write(call)
    header, operations = read_lines(call.body)
    if not repo.lock.acquire(timeout=call.hub.commit_wait_s):
        raise HubError(409, "Another commit is in progress on this repository. Please try again.")
    try:
        ref, sha = write_commit(call, repo, header, operations=operations)
    finally:
        repo.lock.release()
    url, oid = call.hub.page_url(call.kind, repo.id), sha.decode()
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", "hookOutput": ""}
    if call.flag("create_pr"):
        answer["pullRequestUrl"] = f"{url}/discussions/{ref.decode().split('/')[2]}"
    return answer


def write_commit(
    call: Call, repo: Repo, header: dict[str, Any], *, operations: list[dict[str, Any]]
) -> tuple[bytes, bytes]:
    """(ref, sha) of a new commit; the caller holds the repository's lock.

    Raises:
        HubError: 412, the branch is not at the parent that the client named.
    """
    ref, head = repo.resolve(call.rev)
    if ref is None or not ref.startswith((b"refs/heads/", b"refs/pr/")):
        raise HubError(404, f"Invalid rev id: {call.rev}", "RevisionNotFound")
    parent, summary = header.get("parentCommit"), header["summary"]
    if parent and not head.startswith(parent.encode()):
        if not call.flag("create_pr"):
            raise HubError(412, STALE)
        head = repo.resolve(parent)[1]
    files = repo.files(head)
    for operation in operations:
        apply(call, repo, files, key=operation["key"], value=operation["value"])
    if call.flag("create_pr"):
        opened = new_discussion(
            call, repo, title=summary, text=header.get("description", ""), base=ref.decode(), head=head
        )
        ref = f"refs/pr/{opened['num']}".encode()
    message = "\n\n".join(text for text in (summary, header.get("description")) if text)
    sha = repo.commit(ref, head, files=files, message=message, author=call.author)
    if ref.startswith(b"refs/pr/"):
        number = int(ref.split(b"/")[2])
        found = next(found for found in repo.meta["discussions"] if found["num"] == number)
        add_event(found, "commit", call.author, {"subject": summary, "oid": sha.decode()})
        repo.save()
    return ref, sha
