"""The local Hub is a Hub where upstream's own tests do not look, by the real client."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_hf_file_metadata,
    get_session,
    get_token,
    hf_hub_url,
)
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from localhub import ALICE_READ, BOB, LocalHub, calls
from localhub.record import spellings


def push(repo_id, files, **options):
    """One commit of text files; returns its sha."""
    api = HfApi()
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
    operations = [CommitOperationAdd(path, text.encode()) for path, text in files.items()]
    options = {"commit_message": "push", "repo_type": "dataset"} | options
    return api.create_commit(repo_id, operations, **options).oid


def listed(repo_id, revision="main"):
    return set(HfApi().list_repo_files(repo_id, revision=revision, repo_type="dataset")) - {".gitattributes"}


def status_of(refused):
    return refused.value.response.status_code


def test_a_large_file_has_its_sha256_as_linked_etag_and_its_bytes_elsewhere(hub, repo_id):
    push(repo_id, {"rows.parquet": "not really"})
    answer = get_hf_file_metadata(hf_hub_url(repo_id, "rows.parquet", repo_type="dataset"))
    assert answer.etag == hashlib.sha256(b"not really").hexdigest()
    assert answer.size == len(b"not really")
    assert answer.location.startswith(hub.storage) and hub.storage != hub.endpoint


def test_the_bytes_of_a_large_file_are_refused_without_their_signature(hub, repo_id):
    push(repo_id, {"rows.parquet": "not really"})
    address = get_hf_file_metadata(hf_hub_url(repo_id, "rows.parquet", repo_type="dataset")).location
    session = get_session()
    assert session.get(address).content == b"not really"
    assert session.get(address.partition("?")[0]).status_code == 403
    assert session.get(address.replace("signature=", "signature=0")).status_code == 403


def test_a_folder_is_deleted_without_what_only_starts_like_it(hub, repo_id):
    push(repo_id, {"data/a.txt": "a", "data-old/b.txt": "b", "data.txt": "c"})
    HfApi().create_commit(
        repo_id, [CommitOperationDelete("data/", is_folder=True)], commit_message="delete", repo_type="dataset"
    )
    assert listed(repo_id) == {"data-old/b.txt", "data.txt"}


def test_a_tag_does_not_move(hub, repo_id):
    first, api = push(repo_id, {"a.txt": "1"}), HfApi()
    api.create_tag(repo_id, tag="v1", revision=first, tag_message="the first", repo_type="dataset")
    second = push(repo_id, {"a.txt": "2"})
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_tag(repo_id, tag="v1", revision=second, repo_type="dataset")
    assert status_of(refused) == 409
    assert api.dataset_info(repo_id, revision="v1").sha == first


def test_a_commit_on_a_parent_that_is_not_the_head_is_refused(hub, repo_id):
    first = push(repo_id, {"a.txt": "1"})
    push(repo_id, {"a.txt": "2"}, parent_commit=first)
    with pytest.raises(HfHubHTTPError) as refused:
        push(repo_id, {"a.txt": "3"}, parent_commit=first)
    assert status_of(refused) == 412
    assert len(HfApi().list_repo_commits(repo_id, repo_type="dataset")) == 3


def test_a_private_repository_is_not_there_for_others(hub, repo_id):
    HfApi().create_repo(repo_id, repo_type="dataset", private=True)
    push(repo_id, {"a.txt": "1", "rows.parquet": "2"})
    for token in (BOB, False):
        stranger = HfApi(token=token)
        for ask in (
            lambda api: api.dataset_info(repo_id),
            lambda api: api.list_repo_refs(repo_id, repo_type="dataset"),
            lambda api: list(api.list_repo_tree(repo_id, repo_type="dataset")),
            lambda api: api.hf_hub_download(repo_id, "rows.parquet", repo_type="dataset"),
        ):
            with pytest.raises(RepositoryNotFoundError):
                ask(stranger)


def test_a_gated_repository_shows_itself_but_not_its_files(hub, repo_id):
    push(repo_id, {"a.txt": "1"})
    HfApi().update_repo_settings(repo_id, gated="auto", repo_type="dataset")
    bob = HfApi(token=BOB)
    assert bob.dataset_info(repo_id).gated == "auto"
    with pytest.raises(GatedRepoError):
        bob.hf_hub_download(repo_id, "a.txt", repo_type="dataset")


@pytest.mark.parametrize("token", [ALICE_READ, BOB])
def test_who_may_only_read_neither_commits_nor_tags(hub, repo_id, token):
    push(repo_id, {"a.txt": "1"})
    reader, add = HfApi(token=token), [CommitOperationAdd("a.txt", b"2")]
    for write in (
        lambda: reader.create_commit(repo_id, add, commit_message="push", repo_type="dataset"),
        lambda: reader.create_tag(repo_id, tag="v1", repo_type="dataset"),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            write()
        assert status_of(refused) == 403


def test_lists_come_in_pages(hub, repo_id, monkeypatch):
    push(repo_id, {f"{number}.txt": "x" for number in range(7)})
    monkeypatch.setattr(hub, "page_size", 3)
    assert len(listed(repo_id)) == 7
    assert len([line for line in calls(hub.requests) if "cursor" in line]) == 2


def test_a_pull_request_is_merged(hub, repo_id):
    push(repo_id, {"a.txt": "1"})
    made = HfApi(token=BOB).create_commit(
        repo_id, [CommitOperationAdd("b.txt", b"2")], commit_message="add", create_pr=True, repo_type="dataset"
    )
    assert listed(repo_id) == {"a.txt"} and listed(repo_id, made.pr_revision) == {"a.txt", "b.txt"}
    HfApi().merge_pull_request(repo_id, made.pr_num, repo_type="dataset")
    assert listed(repo_id) == {"a.txt", "b.txt"}


def test_repositories_files_and_tags_survive_a_restart(hub, repo_id, tmp_path):
    with LocalHub(tmp_path / "hub") as first:
        api = HfApi(endpoint=first.endpoint)
        api.create_repo(repo_id, repo_type="dataset", private=True)
        made = api.create_commit(
            repo_id, [CommitOperationAdd("rows.parquet", b"rows")], commit_message="push", repo_type="dataset"
        )
        api.create_tag(repo_id, tag="v1", revision=made.oid, repo_type="dataset")
    with LocalHub(tmp_path / "hub") as second:
        api = HfApi(endpoint=second.endpoint)
        info = api.dataset_info(repo_id, revision="v1")
        assert (info.sha, info.private) == (made.oid, True)
        path = api.hf_hub_download(repo_id, "rows.parquet", revision="v1", repo_type="dataset")
        assert Path(path).read_bytes() == b"rows"
        with pytest.raises(RevisionNotFoundError):
            api.dataset_info(repo_id, revision="v2")


def test_git_finds_nothing_wrong_with_a_repository(hub, repo_id):
    first = push(repo_id, {"data/a.txt": "1", "rows.parquet": "2", "README.md": "---\nlicense: mit\n---\n"})
    HfApi().create_tag(repo_id, tag="v1", revision=first, tag_message="the first", repo_type="dataset")
    push(repo_id, {"data/b.txt": "1"})
    path = hub.find("datasets", repo_id).path
    checked = subprocess.run(["git", "-C", path, "fsck", "--strict"], capture_output=True, text=True, check=True)
    assert "error" not in checked.stderr


def test_a_broken_card_is_refused(hub, repo_id):
    with pytest.raises(ValueError, match="license"):
        push(repo_id, {"README.md": "---\nlicense: mine\n---\n"})


def test_what_was_received_can_be_searched(hub, repo_id):
    push(repo_id, {"card.txt": "a canary-in-a-commit here", "rows.parquet": "a canary-in-a-file here"})
    # The client also shows the beginning of each file in its question before the commit.
    assert [line.split("/")[5] for line in hub.saw("canary-in-a-commit")] == ["preupload", "commit"]
    assert any("/_storage/" in line for line in hub.saw("canary-in-a-file"))
    assert hub.saw("canary-in-the-sky") == []
    assert hub.saw(get_token()) == []
    assert hub.authorized_elsewhere() == []


def test_a_token_at_the_storage_is_noticed(hub):
    get_session().get(f"{hub.storage}/_storage/{'0' * 64}", headers={"Authorization": f"Bearer {get_token()}"})
    get_session().get(f"{hub.endpoint}/api/whoami-v2?token={get_token()}")
    assert hub.authorized_elsewhere() == [f"GET /_storage/{'0' * 64}"]
    assert hub.saw(get_token()) == ["GET /api/whoami-v2 (query)"]


def test_what_was_received_can_be_searched_in_compressed_rows(hub, repo_id, tmp_path):
    texts = [f"row {position}" for position in range(1000)] + ["row 5, a canary-in-a-row"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet", compression="zstd", use_dictionary=False)
    assert b"canary-in-a-row" not in (tmp_path / "rows.parquet").read_bytes()
    HfApi().create_repo(repo_id, repo_type="dataset")
    HfApi().upload_file(
        path_or_fileobj=tmp_path / "rows.parquet", path_in_repo="rows.parquet", repo_id=repo_id, repo_type="dataset"
    )
    assert [line.split(" ")[-1] for line in hub.saw("canary-in-a-row")] == ["(rows)"]


@pytest.mark.parametrize("lead", ["", "a", "ab", "abc"])
def test_a_text_is_found_in_base64_wherever_it_starts(lead):
    encoded = base64.b64encode(f"{lead}canary-0123456789 and more".encode())
    assert any(spelling in encoded for spelling in spellings("canary-0123456789"))
