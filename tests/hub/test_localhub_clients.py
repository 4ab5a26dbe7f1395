"""Other clients read what was pushed: git with git-lfs, the npm package @huggingface/hub, and the client with Xet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from localhub import ALICE, BOB

NODE_MODULES = Path(__file__).parents[2] / ".venv" / "js" / "node_modules"

ROWS = b"rows " * 1000
CARD = "---\nlicense: mit\n---\n# A card\n"


@pytest.fixture
def pushed(hub, repo_id):
    """A private repository with a small and a large file, and a tag."""
    api = HfApi()
    api.create_repo(repo_id, repo_type="dataset", private=True)
    operations = [CommitOperationAdd("README.md", CARD.encode()), CommitOperationAdd("rows.parquet", ROWS)]
    made = api.create_commit(repo_id, operations, commit_message="push", repo_type="dataset")
    api.create_tag(repo_id, tag="v1", revision=made.oid, tag_message="the first", repo_type="dataset")
    return repo_id, made.oid


def git(*arguments, token=ALICE):
    """Run git without this machine's settings, as a token's user."""
    askpass = f"!f() {{ echo username=user; echo password={token}; }}; f"
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
    command = ["git", "-c", "credential.helper=", "-c", f"credential.helper={askpass}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_git_clones_a_private_repository_at_a_tag(hub, pushed, tmp_path):
    repo_id, sha = pushed
    cloned = git("clone", "--branch", "v1", f"{hub.endpoint}/datasets/{repo_id}", tmp_path / "clone")
    assert cloned.returncode == 0, cloned.stderr
    assert (tmp_path / "clone" / "README.md").read_text() == CARD
    assert git("-C", tmp_path / "clone", "rev-parse", "HEAD").stdout.strip() == sha
    assert git("-C", tmp_path / "clone", "fsck", "--strict").returncode == 0


def test_git_clones_nothing_for_a_stranger(hub, pushed, tmp_path):
    refused = git("clone", f"{hub.endpoint}/datasets/{pushed[0]}", tmp_path / "clone", token=BOB)
    assert refused.returncode != 0 and not (tmp_path / "clone").exists()


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed (apt-get install git-lfs)")
def test_git_lfs_brings_the_bytes_of_a_large_file(hub, pushed, tmp_path):
    git("clone", f"{hub.endpoint}/datasets/{pushed[0]}", tmp_path / "clone")
    pulled = git("-C", tmp_path / "clone", "lfs", "pull")
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "clone" / "rows.parquet").read_bytes() == ROWS
    assert hub.authorized_elsewhere() == []


NPM_CLIENT = """
import { downloadFile, listFiles, datasetInfo } from "@huggingface/hub";
const [hubUrl, accessToken, name, revision] = process.argv.slice(2);
const repo = { type: "dataset", name };
const paths = [];
for await (const file of listFiles({ repo, revision, hubUrl, accessToken })) paths.push(file.path);
const blob = await downloadFile({ repo, revision, path: "rows.parquet", hubUrl, accessToken, xet: false });
const text = Buffer.from(await blob.arrayBuffer()).toString();
const info = await datasetInfo({ name, revision, hubUrl, accessToken, additionalFields: ["sha"] });
console.log(JSON.stringify({ paths, text, sha: info.sha }));
"""


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE_MODULES / "@huggingface" / "hub").is_dir(),
    reason="node or the npm package @huggingface/hub is not installed (make .venv/js)",
)
def test_the_npm_client_reads_files_at_a_tag(hub, pushed, tmp_path):
    repo_id, sha = pushed
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "client.mjs").write_text(NPM_CLIENT)
    command = ["node", str(tmp_path / "client.mjs"), hub.endpoint, ALICE, repo_id, "v1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert set(found["paths"]) == {".gitattributes", "README.md", "rows.parquet"}
    assert found["text"] == ROWS.decode()
    assert found["sha"] == sha


XET_CLIENT = """
import sys
from pathlib import Path
from huggingface_hub import HfApi, constants
assert not constants.HF_HUB_DISABLE_XET
source, repo_id = Path(sys.argv[1]), "alice/xet"
api = HfApi()
api.create_repo(repo_id, repo_type="dataset")
api.upload_file(path_or_fileobj=source, path_in_repo="rows.parquet", repo_id=repo_id, repo_type="dataset")
got = api.hf_hub_download(repo_id, "rows.parquet", repo_type="dataset")
assert Path(got).read_bytes() == source.read_bytes()
"""


def test_a_file_goes_up_and_comes_down_by_xet(xet_hub, xet_env, tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"".join(bytes([number % 251]) * 700 for number in range(1000)))
    command = [sys.executable, "-c", XET_CLIENT, str(tmp_path / "rows.parquet")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, env=xet_env, check=False)
    assert ran.returncode == 0, ran.stderr
    paths = [entry["path"] for entry in xet_hub.requests]
    assert "/v1/shards" in paths and any(path.startswith("/v1/reconstructions/") for path in paths)
    assert not any(path.endswith("/lfs/objects/batch") for path in paths)
    assert xet_hub.authorized_elsewhere() == []
