"""Tags and branches."""

from __future__ import annotations

import time
from typing import Any

from dulwich.objects import Commit, Tag
from dulwich.refs import check_ref_format

from .repository import Repo, signature
from .routing import REPO, REV, Call, HubError, route

_GROUPS = {
    "refs/heads/": "branches",
    "refs/convert/": "converts",
    "refs/tags/": "tags",
    "refs/pr/": "pullRequests",
}


@route("GET", REPO + "/refs")
def refs(call: Call) -> dict[str, list[dict[str, str]]]:
    repo = call.repo()
    answer: dict[str, list[dict[str, str]]] = {group: [] for group in _GROUPS.values()}
    for raw, sha in sorted(repo.git.get_refs().items()):
        ref = raw.decode()
        for prefix, group in _GROUPS.items():
            if ref.startswith(prefix):
                target = repo.peel(sha).decode()
                answer[group].append({"name": ref[len(prefix) :], "ref": ref, "targetCommit": target})
    if not call.flag("include_prs"):
        del answer["pullRequests"]
    return answer


def annotated(repo: Repo, commit: bytes, *, name: str, message: str, author: str) -> bytes:
    """The id of a new tag object."""
    tag = Tag()
    tag.name, tag.object, tag.message = name.encode(), (Commit, commit), message.encode() + b"\n"
    tag.tagger = signature(author)
    tag.tag_time, tag.tag_timezone = int(time.time()), 0
    repo.git.object_store.add_object(tag)
    return tag.id


@route("POST", REPO + "/tag/" + REV)
def create_tag(call: Call) -> dict[str, Any]:
    repo, asked = call.repo("write"), call.json
    target, ref = repo.resolve(call.rev)[1], f"refs/tags/{asked['tag']}".encode()
    if not check_ref_format(ref):
        raise HubError(400, f"Invalid tag name: {asked['tag']}")
    if asked.get("message"):
        target = annotated(repo, target, name=asked["tag"], message=asked["message"], author=call.author)
    return add(repo, ref, target)


@route("POST", REPO + "/branch/" + REV)
def create_branch(call: Call) -> dict[str, Any]:
    repo, ref = call.repo("write"), f"refs/heads/{call.rev}".encode()
    if call.rev.startswith("refs/") or not check_ref_format(ref):
        raise HubError(400, f"Invalid reference for a branch: {call.rev}")
    return add(repo, ref, repo.resolve(call.json.get("startingPoint", "main"))[1])


def add(repo: Repo, ref: bytes, target: bytes) -> dict[str, Any]:
    """Make a ref; one that is there does not move."""
    if not repo.git.refs.add_if_new(ref, target):
        raise HubError(409, f"Reference {ref.decode()} already exists")
    return {}


@route("DELETE", REPO + "/(?P<what>tag|branch)/" + REV)
def delete_ref(call: Call) -> dict[str, Any]:
    repo, what = call.repo("write"), call.parts["what"]
    ref = f"refs/{'tags' if what == 'tag' else 'heads'}/{call.rev}".encode()
    if ref == b"refs/heads/main":
        raise HubError(403, "Cannot delete refs/heads/main")
    if ref not in repo.git.refs:
        raise HubError(404, f"Invalid rev id: {call.rev}", "RevisionNotFound")
    repo.git.refs.remove_if_equals(ref, None)
    return {}
