"""Repositories as a whole: create, delete, settings, who may, and what the Hub says about one."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from typing import Any

from .cards import as_list, card_data
from .repository import Repo, stamp
from .routing import REPO, REV, Call, HubError, route

_CARD_TAGS = (
    "task_categories",
    "task_ids",
    "annotations_creators",
    "language_creators",
    "multilinguality",
    "source_datasets",
    "size_categories",
    "language",
    "license",
)


def is_private(asked: dict[str, Any]) -> bool:
    return asked.get("visibility", "private" if asked.get("private") else "public") == "private"


@route("POST", "/api/repos/create")
def create_repo(call: Call) -> dict[str, str]:
    user, asked = call.must_sign_in(), call.json
    namespace, kind = asked.get("organization") or user.name, (asked.get("type") or "model") + "s"
    repo_id = f"{namespace}/{asked['name']}"
    url = call.hub.page_url(kind, repo_id)
    if user.role != "write" or not user.owns(namespace):
        message = f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{namespace}"'
        raise HubError(403, message)
    with call.hub.lock:
        if call.hub.find(kind, repo_id):
            # A client that says exist_ok reads the address from the refusal.
            message = f"You already created this {kind[:-1]} repo: {repo_id}"
            raise HubError(409, message, body={"error": message, "url": url})
        call.hub.add(kind, repo_id, creator=user.name, private=is_private(asked))
    return {"url": url, "name": repo_id, "id": uuid.uuid4().hex[:24]}


@route("DELETE", "/api/repos/delete")
def delete_repo(call: Call) -> dict[str, str]:
    asked = call.json
    namespace = asked.get("organization") or call.must_sign_in().name
    call.parts = {"kind": (asked.get("type") or "model") + "s", "id": f"{namespace}/{asked['name']}"}
    repo = call.repo("write")
    call.hub.repos.pop((call.kind, repo.id.lower()))
    shutil.rmtree(repo.path)
    return {}


@route("PUT", REPO + "/settings")
def settings(call: Call) -> dict[str, Any]:
    repo, asked = call.repo("write"), call.json
    if "gated" in asked:
        repo.meta["gated"] = asked["gated"]
    if "private" in asked or "visibility" in asked:
        repo.meta["private"] = is_private(asked)
    repo.save()
    return {"private": repo.meta["private"], "gated": repo.meta["gated"]}


@route("GET", REPO + "/auth-check(?P<write>/write)?")
def auth_check(call: Call) -> dict[str, str]:
    call.repo("write" if "write" in call.parts else "content")
    return {}


@route("POST", REPO + "/user-access-request/grant")
def grant_access(call: Call) -> dict[str, str]:
    repo = call.repo("write")
    repo.meta["granted"].append(call.json["user"])
    repo.save()
    return {}


def siblings(repo: Repo, commit: bytes, *, blobs: bool) -> list[dict[str, Any]]:
    """The files of a commit; with their sizes and ids if `blobs`."""
    listed = []
    for path, entry in repo.entries(commit).items():
        if entry["type"] != "file":
            continue
        listed.append({"rfilename": path})
        if blobs:
            listed[-1] |= {"size": entry["size"], "blobId": entry["oid"]}
            if lfs := entry.get("lfs"):
                listed[-1]["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return listed


@route("GET", REPO + "/revision/" + REV)
@route("GET", REPO)
def repo_info(call: Call) -> dict[str, Any]:
    repo = call.repo()
    commit = repo.resolve(call.parts.get("rev", "main"))[1]
    card, files = card_data(repo.text(commit, "README.md") or ""), siblings(repo, commit, blobs=call.flag("blobs"))
    tags = [str(tag) for tag in card.get("tags") or []]
    tags += [f"{key}:{value}" for key in _CARD_TAGS for value in as_list(card.get(key))]
    info = {
        "_id": hashlib.sha256(repo.id.encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.id.split("/")[0],
        "sha": commit.decode(),
        "lastModified": stamp(repo.git[commit].commit_time),
        "createdAt": stamp(repo.meta["created"]),
        "private": repo.meta["private"],
        "gated": repo.meta["gated"],
        "disabled": False,
        "likes": 0,
        "downloads": 0,
        "tags": [*tags, "region:us"],
        "siblings": files,
        "usedStorage": sum(file.get("size", 0) for file in files),
    }
    if card:
        info["cardData"] = card
    if call.kind == "models":
        info["modelId"] = repo.id
    expand = call.request.query_params.getlist("expand")
    return {key: value for key, value in info.items() if not expand or key in ("_id", "id", *expand)}


@route("GET", "/api/whoami-v2")
def whoami(call: Call) -> dict[str, Any]:
    user = call.must_sign_in()
    orgs = [{"type": "org", "id": name, "name": name, "fullname": name, "roleInOrg": "admin"} for name in user.orgs]
    return {
        "type": "user",
        "id": user.name,
        "name": user.name,
        "fullname": user.name,
        "email": f"{user.name}@example.org",
        "emailVerified": True,
        "canPay": False,
        "isPro": False,
        "periodEnd": None,
        "avatarUrl": "",
        "orgs": orgs,
        "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}},
    }


@route("GET", "/api/agent-harnesses")
def agent_harnesses(call: Call) -> dict[str, Any]:
    """A registry that huggingface_hub asks for once; empty."""
    return {"standardEnvVars": [], "harnesses": {}}
