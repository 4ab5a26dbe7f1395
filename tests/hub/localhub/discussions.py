"""Discussions and pull requests, with their merge; kept in hub.json."""

from __future__ import annotations

import time
import uuid
from typing import Any

from .repository import Repo, stamp
from .routing import REPO, Call, HubError, route

Discussion = dict[str, Any]


def add_event(discussion: Discussion, kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
    event = {
        "id": uuid.uuid4().hex[:24],
        "type": kind,
        "createdAt": stamp(time.time()),
        "author": {"name": author},
        "data": data,
    }
    discussion["events"].append(event)
    return event


def comment(discussion: Discussion, author: str, text: str) -> dict[str, Any]:
    return add_event(discussion, "comment", author, {"edited": False, "hidden": False, "latest": {"raw": text}})


def new_discussion(
    call: Call, repo: Repo, *, title: str, text: str, base: str | None = None, head: bytes | None = None
) -> Discussion:
    """A discussion; a pull request to the ref `base` if it starts at the commit `head`."""
    discussion: Discussion = {
        "num": len(repo.meta["discussions"]) + 1,
        "title": title,
        "status": "open",
        "isPullRequest": head is not None,
        "author": {"name": call.author},
        "createdAt": stamp(time.time()),
        "repo": {"name": repo.id, "type": call.kind[:-1]},
        "events": [],
        "filesWithConflicts": [],
        "diff": "",
        "changes": {"base": base},
    }
    if head is not None:
        repo.git.refs.add_if_new(f"refs/pr/{discussion['num']}".encode(), head)
        discussion["forkedFrom"] = head.decode()
    comment(discussion, call.author, text)
    repo.meta["discussions"].append(discussion)
    repo.save()
    return discussion


@route("POST", REPO + "/discussions")
def create_discussion(call: Call) -> dict[str, Any]:
    call.must_sign_in()
    repo, asked = call.repo(), call.json
    with repo.lock:
        head = repo.resolve("main")[1] if asked.get("pullRequest") else None
        base = "refs/heads/main" if head else None
        made = new_discussion(call, repo, title=asked["title"], text=asked.get("description", ""), base=base, head=head)
    return {"num": made["num"], "pullRequest": made["isPullRequest"]}


@route("GET", REPO + "/discussions")
def list_discussions(call: Call) -> dict[str, Any]:
    asked, found = call.request.query_params, call.repo().meta["discussions"][::-1]
    if asked.get("type", "all") != "all":
        found = [one for one in found if one["isPullRequest"] == (asked["type"] == "pull_request")]
    if asked.get("status", "all") != "all":
        found = [one for one in found if (one["status"] in ("open", "draft")) == (asked["status"] == "open")]
    found = [one for one in found if one["author"]["name"] == asked.get("author", one["author"]["name"])]
    start = int(asked.get("p", 0)) * 50
    return {"discussions": found[start : start + 50], "count": len(found), "start": start}


@route("GET", REPO + r"/discussions/(?P<num>\d+)")
def discussion_details(call: Call) -> Discussion:
    return find_discussion(call, call.repo())


def find_discussion(call: Call, repo: Repo) -> Discussion:
    for discussion in repo.meta["discussions"]:
        if discussion["num"] == int(call.parts["num"]):
            return discussion
    raise HubError(404, "Discussion not found")


@route("POST", REPO + r"/discussions/(?P<num>\d+)/(?P<what>comment|status)")
def change_discussion(call: Call) -> dict[str, Any]:
    call.must_sign_in()
    repo, asked = call.repo(), call.json
    discussion = find_discussion(call, repo)
    if call.parts["what"] == "comment":
        answer = {"newMessage": comment(discussion, call.author, asked["comment"])}
    else:
        discussion["status"] = asked["status"]
        answer = {"newStatus": add_event(discussion, "status-change", call.author, {"status": asked["status"]})}
    repo.save()
    return answer


@route("POST", REPO + r"/discussions/(?P<num>\d+)/merge")
def merge(call: Call) -> dict[str, Any]:
    """Bring what a pull request changed to its base; 409 where the base changed the same files since."""
    repo = call.repo("write")
    discussion = find_discussion(call, repo)
    with repo.lock:
        target, ref = discussion["changes"]["base"].encode(), f"refs/pr/{discussion['num']}".encode()
        head, asked = repo.git.refs[target], repo.git.refs[ref]
        before, files, after = repo.files(discussion["forkedFrom"].encode()), repo.files(head), repo.files(asked)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        conflicts = [path for path in sorted(changed) if files.get(path) not in (before.get(path), after.get(path))]
        if conflicts:
            discussion["filesWithConflicts"] = conflicts
            repo.save()
            raise HubError(409, f"Merge conflict: {', '.join(conflicts)}")
        files = {path: file for path, file in files.items() if path not in changed}
        files |= {path: after[path] for path in changed if path in after}
        title = f"{discussion['title']} (#{discussion['num']})"
        sha = repo.commit(target, head, files=files, message=title, author=call.author, parents=[head, asked])
        discussion["status"], discussion["changes"]["mergeCommitId"] = "merged", sha.decode()
        add_event(discussion, "status-change", call.author, {"status": "merged"})
        repo.save()
    return {}
