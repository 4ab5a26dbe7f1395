"""Clients that know nothing of us read what we push: git with git-lfs, and the npm client; and ours read it by Xet."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import hub_environment
from finished_run import finished_run
from localhub import ALICE
from test_localhub_clients import NODE_MODULES, git

from svp_nlp import Selection, load_pool, load_selected
from svp_nlp.hub.push import push_bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.hub.sharing import bundle_of

FILE = "data/default/train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return finished_run(tmp_path_factory.mktemp("clients"), labeled_sizes=[40, 60])


@pytest.fixture
def pushed(hub, repo_id, run):
    """Two versions in a private repository: v1 has 40 rows, v2 has 60."""
    found = []
    for number in (1, 2):
        with bundle_of(run, "selection", round=number) as bundle:
            found.append(push_bundle(bundle, Remote(repo_id, "dataset"), private=True))
    return found


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed (apt-get install git-lfs)")
def test_git_with_lfs_clones_a_version_with_its_rows_and_finds_nothing_wrong(hub, repo_id, pushed, tmp_path):
    clone = tmp_path / "clone"
    cloned = git("clone", "--branch", "v1", f"{hub.endpoint}/datasets/{repo_id}", clone)
    assert cloned.returncode == 0, cloned.stderr
    pulled = git("-C", clone, "lfs", "pull")
    assert pulled.returncode == 0, pulled.stderr
    checked = git("-C", clone, "fsck", "--strict", "--full")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert git("-C", clone, "lfs", "fsck").returncode == 0
    for one in pushed:
        assert git("-C", clone, "rev-parse", f"{one.version}^{{commit}}").stdout.strip() == one.sha
        assert git("-C", clone, "cat-file", "-t", one.version).stdout.strip() == "tag"
    told = git("-C", clone, "tag", "-l", "v2", "--format=%(contents:subject)").stdout
    assert "60 rows by margin, round 2" in told
    assert git("-C", clone, "rev-list", "--count", "v2").stdout.strip() == "3"  # the Hub's own first, and two of ours
    rows = pq.read_table(clone / FILE)
    assert rows.to_pydict() == load_selected(repo_id, revision="v1").to_dict()
    lineage = json.loads((clone / "lineage.json").read_text())
    assert lineage["configs"]["default"]["files"][FILE]["sha256"] == sha256(clone / FILE)
    assert (clone / "README.md").read_text().startswith("---\n")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


NPM_CLIENT = """
import { createHash } from "node:crypto";
import { downloadFile, listFiles, datasetInfo } from "@huggingface/hub";
const [hubUrl, accessToken, name, revision, ...wanted] = process.argv.slice(2);
const repo = { type: "dataset", name };
const paths = [], hashes = {};
for await (const file of listFiles({ repo, revision, recursive: true, hubUrl, accessToken })) {
  if (file.type === "file") paths.push(file.path);
}
for (const path of wanted) {
  const blob = await downloadFile({ repo, revision, path, hubUrl, accessToken, xet: false });
  hashes[path] = createHash("sha256").update(Buffer.from(await blob.arrayBuffer())).digest("hex");
}
const info = await datasetInfo({ name, revision, hubUrl, accessToken, additionalFields: ["sha", "cardData"] });
console.log(JSON.stringify({ paths, hashes, sha: info.sha, card: info.cardData }));
"""


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE_MODULES / "@huggingface" / "hub").is_dir(),
    reason="node or the npm package @huggingface/hub is not installed (make .venv/js)",
)
def test_the_npm_client_finds_the_files_of_a_version_with_the_hashes_that_the_lineage_tells(
    hub, repo_id, pushed, tmp_path
):
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "client.mjs").write_text(NPM_CLIENT)
    command = ["node", str(tmp_path / "client.mjs"), hub.endpoint, ALICE, repo_id, "v1", FILE, "lineage.json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert set(found["paths"]) == {".gitattributes", "README.md", "lineage.json", FILE}
    assert found["sha"] == pushed[0].sha
    assert [one["config_name"] for one in found["card"]["configs"]] == ["default"]
    lineage = Remote(repo_id, "dataset").read("lineage.json", pushed[0].sha)
    assert found["hashes"]["lineage.json"] == hashlib.sha256(lineage).hexdigest()
    assert found["hashes"][FILE] == json.loads(lineage)["configs"]["default"]["files"][FILE]["sha256"]


XET_CLIENT = """
import json, sys
from huggingface_hub import constants
from svp_nlp import Selection, load_pool, load_selected
from svp_nlp.hub.push import push_bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.hub.sharing import bundle_of

assert not constants.HF_HUB_DISABLE_XET
repo_id, run = sys.argv[1:]
if run:
    for number in (1, 2):
        with bundle_of(run, "selection", round=number) as bundle:
            assert push_bundle(bundle, Remote(repo_id, "dataset")).new
        with bundle_of(run, "selection", round=number) as bundle:
            assert not push_bundle(bundle, Remote(repo_id, "dataset")).new
print(json.dumps([load_selected(repo_id, revision=version).to_dict() for version in ("v1", "v2", None)]))
"""


def test_xet_pushes_and_reads_the_very_rows(xet_hub, xet_env, run, tmp_path):
    reader = hub_environment(tmp_path / "reader", xet_hub.endpoint, xet=True)
    found = []
    for run_dir, environment in ((str(run), xet_env), ("", reader)):
        ran = subprocess.run(
            [sys.executable, "-c", XET_CLIENT, "alice/by-xet", run_dir],
            env=environment, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        found.append(json.loads(ran.stdout.splitlines()[-1]))
    pool = load_pool(run.parent / "pool")
    selections = run / "seed-0/proxy-margin"
    for first, second, whole in found:
        assert second == whole
        assert (len(first["text"]), len(second["text"])) == (40, 60)
        for number, rows in ((1, first), (2, second)):
            picked = Selection.load(selections / f"round-{number:03d}/selection")
            assert rows["svp_id"][-20:] == picked.ids_K.to_pylist()
            assert rows["text"][-20:] == pool.take(picked.positions_K)["text"].to_pylist()
    paths = [entry["path"] for entry in xet_hub.requests]
    assert "/v1/shards" in paths and any(path.startswith("/v1/reconstructions/") for path in paths)
    assert not any(path.endswith("/lfs/objects/batch") for path in paths)
    assert xet_hub.authorized_elsewhere() == []
