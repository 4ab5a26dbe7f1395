"""A run on two processes: the selections of one process, and nothing lost when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from distributed.launched import TORCHRUN, finish, run, start
from engine_cases import KINDS, make_case
from small_run import outcome
from toy import write_toy

from svp_nlp.experiment import run_recipe
from svp_nlp.recipe import load_recipe

TESTS = Path(__file__).parents[1]

SCORE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import engine_cases
from svp_nlp import open_workspace
from svp_nlp.models.devices import process_state

assert process_state().num_processes == 2
for kind, (pool, run_dir) in {cases!r}.items():
    case = engine_cases.Case(kind, Path(pool), Path(run_dir), {{}})
    with open_workspace(case.pool, run_dir=run_dir) as work:
        assert work.engine.workers == work.run.ranks.world_size == 2
    found = engine_cases.outcome(case, Path(run_dir))
    (Path(run_dir) / f"outcome-{{process_state().process_index}}").write_text(repr(found))
"""


@pytest.mark.slow
def test_two_processes_of_a_launch_give_the_selection_and_the_scores_of_one(tmp_path: Path) -> None:
    cases = {kind: make_case(kind, tmp_path / kind) for kind in KINDS}
    copies = {kind: case.unscored(tmp_path / f"{kind}-2") for kind, case in cases.items()}
    script = tmp_path / "score.py"
    paths = {kind: (str(case.pool), str(copies[kind])) for kind, case in cases.items()}
    script.write_text(SCORE.format(tests=str(TESTS), cases=paths))
    code, _, err = run([*TORCHRUN, str(script)])
    assert code == 0, err[-3000:]
    for kind, case in cases.items():
        assert case.expected["tied"] > 5
        for rank in range(2):
            assert (copies[kind] / f"outcome-{rank}").read_text() == repr(case.expected), (kind, rank)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    tiny = {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    transformer = {"kind": "transformer", "config": tiny, "vocab_size": 400, "max_length": 16}
    training = {"num_train_epochs": 2, "global_batch_size": 8, "learning_rate": 0.001, "checkpoint_every_s": 0}
    values: dict[str, Any] = {
        "mode": "active_learning",
        "pool": {"path": str(write_toy(tmp_path / "pool"))},
        "test": {},
        "proxy": {**transformer, "training": training},
        "target": {**transformer, "training": training},
        "strategies": ["margin"],
        "initial": 20,
        "labeled_sizes": [40, 61],
        "train_target_at": [61],
        "baselines": [],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(values))  # YAML, without its aliases
    return path


def selections(run_dir: Path) -> dict[str, Any]:
    found = outcome(run_dir)
    return {name: found[name] for name in found if name.endswith("/selection")}


def command(recipe: Path, run_dir: Path) -> list[str]:
    return ["-m", "svp_nlp", "run", str(recipe), "--run-dir", str(run_dir), "--format", "json"]


@pytest.mark.slow
def test_a_launched_run_selects_as_one_process_does_and_goes_on_after_kill_9(recipe: Path, tmp_path: Path) -> None:
    # k-centers are picked by both together, each with a half of the rows.
    strategies = ["margin", {"name": "greedy_k_centers", "prefilter": "margin", "candidates": 90}]
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), "strategies": strategies}))
    run_recipe(load_recipe(recipe), tmp_path / "one", stop_requested=lambda: False)
    expected = selections(tmp_path / "one")
    two = tmp_path / "two"

    # Rank 1 is killed while it scores for the first time; rank 0 must end too, and say which rank it was.
    process = start([*TORCHRUN, *command(recipe, two)])
    until = time.monotonic() + 100
    while not (claims := list(two.glob(".ranks/*/claim-*"))) and time.monotonic() < until:
        time.sleep(0.02)
    assert claims
    pid = int(next(two.glob(".ranks/*/alive-1")).read_text().split()[1])
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    code, out, err = finish(process)
    assert time.monotonic() - killed < 60
    assert code == 1
    assert f"error: rank 1 failed: process {pid}" in err  # ours, beside the launcher's own table
    assert not (two / "results.json").exists()

    code, out, err = run([*TORCHRUN, *command(recipe, two)])
    assert code == 0, err[-3000:]
    assert json.loads(out)["selected"]  # one object, of one process
    assert selections(two) == expected
    assert not list(two.glob(".ranks/*"))
    lineage = json.loads(next(two.glob("seed-0/proxy-margin/round-001/selection/lineage.json")).read_text())
    assert lineage["scoring"]["world_size"] == 2
    assert lineage["proxy"]["processes"] == 1
    target = json.loads(next(two.glob("seed-0/proxy-margin/target-*/model/step.json")).read_text())["output"]
    assert target["processes"] == 2


@pytest.mark.slow
def test_the_starter_keeps_the_exit_code_and_passes_a_stop_on(recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start([*command(recipe, run_dir), "--accelerate", "cpu_2proc"])
    until = time.monotonic() + 100
    while not (sessions := list(run_dir.glob(".ranks/*/main-000002"))) and time.monotonic() < until:
        time.sleep(0.02)
    assert sessions
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 4, err[-3000:]
    assert json.loads(out)["exit_code"] == 4
    assert "the same command goes on" in err

    code, out, err = run([*command(recipe, run_dir), "--accelerate", "cpu_2proc"])
    assert code == 0, err[-3000:]
    assert json.loads(out)["selected"]
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), "seeds": [1]}))
    code, out, err = run([*command(recipe, run_dir), "--accelerate", "cpu_2proc"])
    assert code == 2
    assert err.count("was started with another recipe") == 1
