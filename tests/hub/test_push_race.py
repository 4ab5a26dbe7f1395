"""Several processes push into one repository at the same time, and nothing is lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import hub_environment
from finished_run import finished_run
from huggingface_hub import HfApi
from localhub import Fault

from svp_nlp import load_selected

pytestmark = pytest.mark.slow
WRITERS, VERSIONS = 3, 8

WRITER = """
import dataclasses, sys
from svp_nlp import Selection, load_pool
import numpy as np

writer, repo_id, pool, seed = int(sys.argv[1]), sys.argv[2], load_pool(sys.argv[3]), Selection.load(sys.argv[4])
import huggingface_hub.hf_api
print("ready", flush=True)
sys.stdin.readline()
for number in range(VERSIONS):
    positions = np.arange(writer, 200, WRITERS)[: number + 1]
    lineage = dataclasses.replace(seed.lineage, round=number + 1, seed=writer)
    selection = Selection(positions, pool.ids(positions), None, lineage)
    done = selection.push_to_hub(repo_id, pool=pool)
    assert done.new
    print(number, done.version, done.sha, flush=True)
"""

COMMAND = """
import sys
import huggingface_hub.hf_api, svp_nlp.hub.sharing
from svp_nlp.cli import main
print("ready", flush=True)
sys.stdin.readline()
main()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return finished_run(tmp_path_factory.mktemp("race"), labeled_sizes=[40, 60])


def run_together(commands, environments):
    """Run Python commands that all wait until each is ready; (exit code, stdout, stderr) of each."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", *map(str, command)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for command, environment in zip(commands, environments, strict=True)
    ]  # fmt: skip
    for process in started:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=200) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def test_what_three_writers_push_at_once_is_all_there(hub, repo_id, run, tmp_path):
    script = WRITER.replace("VERSIONS", str(VERSIONS)).replace("WRITERS", str(WRITERS))
    selection = run / "seed-0/proxy-margin/round-001/selection"
    ended = run_together(
        [[script, writer, repo_id, run.parent / "pool", selection] for writer in range(WRITERS)],
        [hub_environment(tmp_path / f"writer-{writer}", hub.endpoint) for writer in range(WRITERS)],
    )
    assert [code for code, _, _ in ended] == [0] * WRITERS, ended
    pushed = {
        version: (writer, int(number), sha)
        for writer, (_, out, _) in enumerate(ended)
        for number, version, sha in map(str.split, out.splitlines())
    }
    names = {f"v{number}" for number in range(1, WRITERS * VERSIONS + 1)}
    assert pushed.keys() == names
    tags = HfApi().list_repo_refs(repo_id, repo_type="dataset").tags
    assert {tag.name: tag.target_commit for tag in tags} == {name: sha for name, (_, _, sha) in pushed.items()}
    repo = hub.find("datasets", repo_id)
    history = repo.log(repo.resolve("main")[1])
    assert all(len(commit.parents) == 1 for commit in history[:-1])
    oldest_first = [commit.id.decode() for commit in reversed(history[:-1])]
    assert oldest_first == [pushed[f"v{number}"][2] for number in range(1, len(names) + 1)]
    document = json.loads(repo.text(history[0].id, "lineage.json"))
    assert [version["version"] for version in document["versions"]] == sorted(names, key=lambda name: int(name[1:]))
    assert [version["commit"] for version in document["versions"][:-1]] == oldest_first[:-1]
    refused = [entry["status"] for entry in hub.requests if "/commit/main" in entry["path"] and entry["status"] != 200]
    assert refused and set(refused) <= {409, 412}, "they did not meet: this tested nothing"
    for name in ("v2", "v11", "v24"):
        writer, number, _ = pushed[name]
        assert load_selected(repo_id, revision=name)["svp_position"][:] == (
            np.arange(writer, 200, WRITERS)[: number + 1].tolist()
        )


def test_of_two_who_want_the_same_version_one_gets_it_and_the_other_ends_with_5_and_both_commits(
    hub, repo_id, run, tmp_path
):
    # Both have read the head before either commits.
    hub.faults = [Fault("POST .*/commit/main", delay=1.5, proceed=True, times=2)]
    ended = run_together(
        [[COMMAND, "push", run, repo_id, "--version", "v1", "--round", number] for number in (1, 2)],
        [hub_environment(tmp_path / f"pusher-{number}", hub.endpoint) for number in (1, 2)],
    )
    said = {code: (out, err) for code, out, err in ended}
    assert said.keys() == {0, 5}, said
    head = HfApi().dataset_info(repo_id).sha
    assert head in said[0][0]
    [line] = said[5][1].splitlines()
    assert "version v1 exists with other content" in line and "leave --version out" in line
    assert re.findall("[0-9a-f]{40}", line) == [head, head]
    assert sum("/commit/main" in entry["path"] for entry in hub.requests) == 2
    winner = 1 + [code for code, _, _ in ended].index(0)
    assert len(load_selected(repo_id, revision="v1")) == 20 + 20 * winner
