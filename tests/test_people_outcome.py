"""What a run that people label comes to: the rows that are shared, and the model that counts."""

from __future__ import annotations

import json

import pytest
from small_run import FASTTEXT
from test_people import TRUTH, answer, label_all, people_recipe, play
from toy import CLASS_NAMES, toy_rows, write_toy

from svp_nlp.hub.models import find_model, model_bundle
from svp_nlp.hub.source import find_source, open_source
from svp_nlp.labeling.answers import Answer
from svp_nlp.predict import open_model
from svp_nlp.report import summarize
from svp_nlp.results import collect, run_status


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
