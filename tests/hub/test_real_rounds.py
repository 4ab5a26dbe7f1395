"""Real news texts: a pool on the Hub, three rounds published, read back by tag and by commit in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi

SHARED = Path(os.environ.get("SVP_SHARED", Path(__file__).parents[2] / "../shared/data")) / "ag_news"
RECIPE = """
mode: active_learning
pool: {{path: {pool}}}
test: null
proxy: {{kind: fasttext, bucket: 100000}}
strategies: [margin]
baselines: []
initial: 200
labeled_sizes: [400, 800, 1600]
publish: {{repo_id: {repo}, private: true}}
"""
READER = """
import json, sys
from datasets import load_dataset
from svp_nlp import Selection, load_selected
repo, shas = sys.argv[1], json.loads(sys.argv[2])
found = {}
for version, sha in shas.items():
    rows = load_selected(repo, revision=version)
    plain = load_dataset(repo, revision=version, split="train")
    assert rows.to_dict() == plain.to_dict() == load_selected(repo, revision=sha).to_dict()
    assert rows.features["label"].names == ["World", "Sports", "Business", "Sci/Tech"]
    found[version] = [len(rows), Selection.from_hub(repo, revision=sha).fingerprint]
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the AG News data of the developers")
def test_three_rounds_on_news_are_read_back_by_tag_and_by_commit_in_a_fresh_process(hub, hub_env, repo_id, tmp_path):
    pool = f"{repo_id}-pool"
    api = HfApi()
    api.create_repo(pool, repo_type="dataset")
    api.upload_folder(repo_id=pool, folder_path=SHARED, repo_type="dataset", allow_patterns="data/train*")
    (tmp_path / "news.yaml").write_text(RECIPE.format(pool=pool, repo=repo_id))
    command = [sys.executable, "-m", "svp_nlp", "run", "news.yaml", "--run-dir", "run", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["published"]["versions"] == ["v1", "v2", "v3"]
    tags = {t.name: t.target_commit for t in api.list_repo_refs(repo_id, repo_type="dataset").tags}
    made = json.loads((tmp_path / "run/published.json").read_text())["versions"]
    assert tags == {v["version"]: v["sha"] for v in made}
    reader = [sys.executable, "-c", READER, repo_id, json.dumps(tags)]
    read = subprocess.run(reader, env=hub_env, cwd=tmp_path, capture_output=True, text=True, check=True)
    steps = [
        json.loads((tmp_path / f"run/seed-0/proxy-margin/round-00{n}/selection/step.json").read_text())
        for n in (1, 2, 3)
    ]
    expected = [[size, step["output"]["fingerprint"]] for size, step in zip((400, 800, 1600), steps, strict=True)]
    assert list(json.loads(read.stdout).values()) == expected
