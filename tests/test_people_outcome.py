"""What a run that people label comes to, and how far it is: the rows that are shared, the model that counts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from small_run import FASTTEXT, small_recipe
from test_people import TRUTH, answer, label_all, people_recipe, play, run
from toy import CLASS_NAMES, toy_rows, write_toy
from typer.testing import CliRunner

from svp_nlp.cli import app
from svp_nlp.errors import PoolError, RunRefused, WaitingForLabels
from svp_nlp.files import write_json
from svp_nlp.hub.models import find_model, model_bundle
from svp_nlp.hub.source import find_source, open_source
from svp_nlp.labeling.answers import Answer
from svp_nlp.labeling.queue import LabelQueue, Project
from svp_nlp.labeling.requests import Request, Row
from svp_nlp.predict import open_model
from svp_nlp.report import summarize
from svp_nlp.results import collect, run_status
from svp_nlp.run import RECIPE_FILE


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("data") / "toy")


def test_seed_labels_are_among_the_rows_of_a_version(toy, tmp_path):
    texts, labels = toy_rows()
    seeds = [{"text": texts[row], "label": CLASS_NAMES[labels[row]]} for row in range(10)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
    oracle = {"seed_labels": str(tmp_path / "seeds.jsonl")}
    play(people_recipe(toy, target=None, test=None, labeled_sizes=[30], oracle=oracle), tmp_path / "run")
    for round, size in ((0, 20), (1, 30)):
        rows, selection = open_source(find_source(tmp_path / "run", round=round))
        assert (
            len(rows) == size and rows.labels.positions_L[-len(selection) :].tolist() == selection.positions_K.tolist()
        )
        first = rows.labels.table.slice(0, 10).to_pylist()
        assert [(row["position"], row["label"], row["source"]) for row in first] == [
            (row, CLASS_NAMES[labels[row]], "seed") for row in range(10)
        ]
        table = next(rows.tables())
        assert table["svp_score"].null_count == 20 and table.num_rows == size


def test_of_targets_on_as_many_labels_all_mean_the_one_that_learned_what_people_said_last(toy, tmp_path):
    def correct_and_take_it_back(queue, rows):
        if len(queue.requests) < 4:
            return label_all(queue, rows)
        names = {row.id: TRUTH[row.text] for row in queue.requests[1].rows}
        if len(queue.requests) == 4:
            names = {id: next(c for c in CLASS_NAMES if c != name) for id, name in names.items()}
        decisions = [Answer(id, "decision", name, "ann", "", "page") for id, name in names.items()]
        return queue.add([*decisions, *(answer(row, kind="skip") for row in rows)])

    sizes = {"initial": 20, "labeled_sizes": [40, 60, 80], "train_target_at": [40, 60, 80]}
    recipe = people_recipe(toy, test=None, target=FASTTEXT, oracle={"test_rows": 10}, **sizes)
    play(recipe, tmp_path / "run", label=correct_and_take_it_back)
    other = find_model(find_source(tmp_path / "run", round=2), role="target")
    last = find_model(find_source(tmp_path / "run"), role="target")
    assert other.labeled_size == last.labeled_size == 40 and other.fingerprint != last.fingerprint
    assert last.directory == find_model(find_source(tmp_path / "run", round=1), role="target").directory
    assert str(last.directory) in open_model(tmp_path / "run").name
    with model_bundle(tmp_path / "run", role="target") as bundle:
        assert bundle.entry["fingerprint"] == last.fingerprint
    metrics, others = (
        json.loads((model.directory.parent / "metrics/step.json").read_text())["output"]["metrics"]
        for model in (last, other)
    )
    assert metrics != others
    assert {key: run_status(tmp_path / "run")["targets"][-1][key] for key in metrics} == metrics
    [point] = summarize([collect(tmp_path / "run")]).points
    assert (point.error.mean, point.error.seeds) == (1 - metrics["accuracy"], 1)


def asked_run(run_dir: Path) -> LabelQueue:
    """What `svp run` leaves when it has asked for two test rows and three others."""
    queue = LabelQueue.begin(run_dir, Project(labels=CLASS_NAMES, planned=5))
    write_json(run_dir / RECIPE_FILE, {"mode": "active_learning"})
    queue.ask(Request(0, "test", (Row("t0", 0, "a"), Row("t1", 1, "b"))))
    queue.ask(Request(0, "train", (Row("r0", 2, "c"), Row("r1", 3, "d"), Row("r2", 4, "e"))))
    return queue


def status(run_dir: Path) -> tuple[str, str]:
    """The state, and what is shown to people."""
    shown = CliRunner().invoke(app, ["status", str(run_dir)])
    assert shown.exit_code == 0, shown.output
    return run_status(run_dir)["state"], shown.output


@pytest.mark.usefixtures("logging_as_before")
def test_a_status_says_whose_turn_it_is(tmp_path):
    queue = asked_run(tmp_path / "run")
    state, shown = status(tmp_path / "run")
    assert state == "waiting" and "5 rows wait for an answer: svp label serve" in shown
    queue.add([answer(row, "music", annotator="") for row in queue.rows.values()][1:])
    state, shown = status(tmp_path / "run")
    assert state == "waiting" and "1 rows wait for an answer" in shown and "call `svp run" not in shown
    assert re.search(r"\(no name\) +4 +-\n", shown) and "None" not in shown
    queue.add([answer(queue.rows["t0"], "music")])
    state, shown = status(tmp_path / "run")
    assert state == "ready" and "wait for" not in shown
    assert "all rows that were asked for have an answer: call `svp run RECIPE` again" in shown
    queue.add([answer(queue.rows["t0"], "weather", annotator="ben")])
    assert status(tmp_path / "run")[0] == "waiting"  # for somebody who decides


@pytest.mark.usefixtures("logging_as_before")
def test_after_a_finish_only_the_test_rows_are_waited_for(tmp_path):
    queue = asked_run(tmp_path / "run")
    queue.add([answer(queue.rows["r0"], "music")])
    queue.request_finish({})
    state, shown = status(tmp_path / "run")
    assert state == "waiting" and "2 rows wait for an answer" in shown
    queue.add([answer(queue.rows[id], "music") for id in ("t0", "t1")])
    state, shown = status(tmp_path / "run")
    assert state == "ready" and "wait for" not in shown and "all rows" not in shown
    assert "\ncall `svp run RECIPE` again" in shown
    write_json(tmp_path / "run/results.json", {"finished": True})
    state, shown = status(tmp_path / "run")
    assert state == "done" and "svp run" not in shown


@pytest.mark.usefixtures("logging_as_before")
def test_a_run_that_was_stopped_before_it_asked_has_a_status(tmp_path):
    LabelQueue.begin(tmp_path / "run", Project(labels=CLASS_NAMES))
    write_json(tmp_path / "run" / RECIPE_FILE, {"mode": "active_learning"})
    assert status(tmp_path / "run")[0] == "interrupted"


@pytest.mark.parametrize("by_people", [True, False])
def test_a_pool_that_changed_is_told_before_anything_else(tmp_path, by_people):
    pool = write_toy(tmp_path / "toy.csv")
    changes = {"test": None, "target": None, "labeled_sizes": [40]}
    made = people_recipe if by_people else small_recipe
    recipe = made(pool, **changes)
    if by_people:
        with pytest.raises(WaitingForLabels):
            run(recipe, tmp_path / "run")
    else:
        run(recipe, tmp_path / "run")
    lines = pool.read_text(encoding="utf-8").splitlines(keepends=True)
    pool.write_text("".join(lines[:31]), encoding="utf-8")  # too few rows for the recipe as well
    with pytest.raises(PoolError, match=r"toy.csv \[train\] is not the pool that .*run began with") as told:
        run(recipe, tmp_path / "run")
    assert told.value.exit_code == 2 and "found 30 rows" in str(told.value) and "expected 200" in str(told.value)
    assert ("svp label export" in str(told.value)) == by_people
    with pytest.raises(RunRefused, match=r"another recipe: pool\.path"):
        run(made(write_toy(tmp_path / "other.csv", rows=100), **changes), tmp_path / "run")
    pool.write_text("".join(lines), encoding="utf-8")
    if by_people:
        with pytest.raises(WaitingForLabels):
            run(recipe, tmp_path / "run")
    else:
        run(recipe, tmp_path / "run")
