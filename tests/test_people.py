"""Labels that people give: the same selections and models as a simulation, whatever the order and however slowly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import FASTTEXT, outcome, small_recipe
from toy import CLASS_NAMES, toy_rows, write_toy
from typer.testing import CliRunner

from svp_nlp.cli import app
from svp_nlp.errors import LabelError, RecipeError, RunRefused, WaitingForLabels
from svp_nlp.experiment import run_recipe
from svp_nlp.hub.models import find_model
from svp_nlp.hub.source import find_source, open_source
from svp_nlp.labeling.answers import Answer
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labels import LabelSet
from svp_nlp.plan import plan
from svp_nlp.recipe import load_recipe
from svp_nlp.report_format import binomial_interval
from svp_nlp.results import run_status


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("data") / "toy")


TRUTH = {text: CLASS_NAMES[label] for text, label in zip(*toy_rows(), strict=True)}


def people_recipe(pool: Path, **changes):
    oracle = {"kind": "files", "labels": list(CLASS_NAMES), **changes.pop("oracle", {})}
    return small_recipe(pool, **{"oracle": oracle, "labeled_sizes": [40, 60], "baselines": None, **changes})


def simulated(pool: Path, **changes):
    return small_recipe(pool, **{"labeled_sizes": [40, 60], "train_target_at": [60], **changes})


def answer(row, label="", *, kind="label", annotator="ann", source="page", **more) -> Answer:
    return Answer(row.id, kind, label or None, annotator, "2026-01-01T00:00:00+00:00", source, **more)


def open_rows(run_dir: Path):
    queue = LabelQueue.open(run_dir)
    return queue, [row for r in queue.requests for row in r.rows if queue.resolution(row.id).status == "open"]


def run(recipe, run_dir: Path) -> dict:
    return run_recipe(recipe, run_dir, stop_requested=lambda: False)


def play(recipe, run_dir: Path, *, label=lambda queue, rows: label_all(queue, rows), calls: int = 9) -> dict:
    """The whole loop: run, label what is asked for, run again."""
    for _ in range(calls):
        try:
            return run(recipe, run_dir)
        except WaitingForLabels:
            queue, rows = open_rows(run_dir)
            assert rows
            label(queue, rows)
    raise AssertionError("never done")


def label_all(queue: LabelQueue, rows) -> None:
    queue.add([answer(row, TRUTH[row.text]) for row in rows])


def label_by_two(queue: LabelQueue, rows) -> None:
    queue.add([answer(row, TRUTH[row.text], annotator=name) for row in rows for name in ("ann", "ben")])


def found(run_dir: Path) -> dict:
    """The outcome of a run without how people's labels are told apart from a column's."""
    return {k: v for k, v in outcome(run_dir).items() if not k.endswith("/test/labels")}


def test_people_who_know_the_truth_give_the_run_of_a_simulation_in_whatever_order_they_answer(toy, tmp_path):
    run(simulated(toy), tmp_path / "column")

    def backwards(queue, rows):
        for row in reversed(rows):
            queue.add([answer(row, TRUTH[row.text])])

    play(people_recipe(toy), tmp_path / "people", label=backwards)
    assert found(tmp_path / "people") == found(tmp_path / "column")


def test_a_plan_says_how_many_rows_people_will_label(toy, tmp_path):
    recipe = people_recipe(toy, test=None, oracle={"test_rows": 10, "answers_per_row": 2})
    lines = plan(recipe)["lines"]
    play(recipe, tmp_path / "run", label=label_by_two)
    labelled = run_status(tmp_path / "run")["people"]["labelled"]
    assert f"people  label {labelled:,} rows, 2 people each row" in lines
    assert any(line.startswith("test    10 random rows of the pool") for line in lines)


def test_a_run_waits_says_what_to_do_and_asks_the_same_rows_again(toy, tmp_path):
    with pytest.raises(WaitingForLabels, match=r"0 of 20 answers of round 0 have come in.*svp label serve"):
        run(people_recipe(toy), tmp_path / "run")
    before = (tmp_path / "run/labeling/requests/0000-train.jsonl").read_bytes()
    with pytest.raises(WaitingForLabels):
        run(people_recipe(toy), tmp_path / "run")
    assert (tmp_path / "run/labeling/requests/0000-train.jsonl").read_bytes() == before
    assert (tmp_path / "run/report.html").exists()


def test_rows_of_later_rounds_come_with_suggestions_of_the_proxy(toy, tmp_path):
    recipe = people_recipe(toy, target=None, test=None)
    with pytest.raises(WaitingForLabels):
        run(recipe, tmp_path / "run")
    queue, rows = open_rows(tmp_path / "run")
    assert not any(row.suggestions or row.score for row in rows)
    label_all(queue, rows)
    with pytest.raises(WaitingForLabels):
        run(recipe, tmp_path / "run")
    _, rows = open_rows(tmp_path / "run")
    for row in rows:
        shares = [share for _, share in row.suggestions]
        assert {label for label, _ in row.suggestions} == set(CLASS_NAMES)
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=0.01)
        assert row.score is not None


def test_skipped_and_flagged_rows_have_no_label_and_are_not_asked_for_again(toy, tmp_path):
    asked = []

    def some(queue, rows):
        asked.extend(row.id for row in rows)
        queue.add([answer(row, kind="skip") for row in rows[:3]])
        queue.add([answer(row, kind="flag", note="what is this?") for row in rows[3:4]])
        label_all(queue, rows[4:])

    result = play(people_recipe(toy), tmp_path / "run", label=some)
    assert len(set(asked)) == len(asked)
    rounds = result["report"]
    queue = LabelQueue.open(tmp_path / "run")
    statuses = [queue.resolution(id).status for id in asked]
    assert statuses.count("skipped") == 9 and statuses.count("flagged") == 3
    assert rounds is not None


def test_enough_answers_close_a_round_and_late_ones_count_in_the_next(toy, tmp_path):
    recipe = people_recipe(toy, oracle={"min_returned": "80%"})

    def most(queue, rows):
        newest = queue.requests[-1].name
        late = [row for row in rows if queue.request_of[row.id].name != newest]
        new = [row for row in rows if queue.request_of[row.id].name == newest]
        label_all(queue, [*late, *new[: round(0.8 * len(new))]])

    play(recipe, tmp_path / "run", label=most)
    steps = outcome(tmp_path / "run")
    given = {name.split("/", 1)[1]: step["labels"] for name, step in steps.items() if name.endswith("/labels")}
    # 16 of 20; then 24 are asked for, 19 come with the 4 of before; then 21, 17 and 5.
    assert given == {"start/labels": 16, "proxy-margin/round-001/labels": 23, "proxy-margin/round-002/labels": 22}


def test_who_finishes_early_gets_the_target_on_what_there_is(toy, tmp_path):
    recipe = people_recipe(toy)

    def finish(queue, rows):
        label_all(queue, rows)
        queue.request_finish({"by": "ann"})

    play(recipe, tmp_path / "run", label=finish)
    [target] = [name for name in outcome(tmp_path / "run") if "/target-" in name and name.endswith("/metrics")]
    assert "target-0000000020" in target


def test_who_finishes_is_not_held_up_by_test_rows_on_which_annotators_differ(toy, tmp_path):
    recipe = people_recipe(toy, test=None, target=FASTTEXT, oracle={"test_rows": 10})

    def differ(queue, rows):
        label_all(queue, rows)
        tested = [row for row in rows if queue.request_of[row.id].part == "test"]
        others = dict(zip(CLASS_NAMES, CLASS_NAMES[1:] + CLASS_NAMES[:1], strict=True))
        queue.add([answer(row, others[TRUTH[row.text]], annotator="ben") for row in tested[:3]])

    with pytest.raises(WaitingForLabels):
        run(recipe, tmp_path / "run")
    queue, rows = open_rows(tmp_path / "run")
    differ(queue, rows[1:])  # one of them is still to be labelled
    told = CliRunner().invoke(app, ["label", "finish", str(tmp_path / "run")]).output
    assert "20 rows are labelled" in told and "annotators differ on 3 rows of the test set" in told
    assert "1 rows of the test set are still to be labelled" in told
    with pytest.raises(WaitingForLabels, match="6 of 10 answers of the test set"):
        run(recipe, tmp_path / "run")
    label_all(queue, rows[:1])
    run(recipe, tmp_path / "run")
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["test"]["rows"] == 7
    assert [w for w in results["warnings"] if "3 of the 10 rows of the test set have no label" in w]


def test_a_run_that_is_done_goes_on_where_more_labels_are_planned_and_learns_what_was_corrected(toy, tmp_path):
    options = {"test": None, "target": FASTTEXT, "oracle": {"test_rows": 10}}
    straight = people_recipe(toy, **options, labeled_sizes=[40, 60, 70], train_target_at=[60, 70])
    play(straight, tmp_path / "straight")
    play(people_recipe(toy, **options, labeled_sizes=[40, 60]), tmp_path / "run")
    before = outcome(tmp_path / "run")
    play(straight, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight") != before
    results = [json.loads((tmp_path / f"{name}/results.json").read_text()) for name in ("run", "straight")]
    assert [len(r["rows"]) for r in results] == [2, 2] and results[0]["recipe"] == results[1]["recipe"]
    assert (tmp_path / "run/recipe.yaml").read_bytes() == (tmp_path / "straight/recipe.yaml").read_bytes()
    # Finished early by people who then want one round more; meanwhile one label has been corrected.
    queue = LabelQueue.open(tmp_path / "run")
    first = queue.requests[1].rows[0]
    wrong = next(name for name in CLASS_NAMES if name != TRUTH[first.text])
    queue.add([answer(first, wrong, kind="decision")])
    queue.request_finish({})
    longer = people_recipe(toy, **options, labeled_sizes=[40, 60, 70, 80])
    with pytest.raises(WaitingForLabels, match="of round 4"):
        run(longer, tmp_path / "run")
    LabelQueue.open(tmp_path / "run").request_finish({})
    run(longer, tmp_path / "run")  # the correction alone
    changes = LabelSet.load(tmp_path / "run/seed-0/proxy-margin/round-004/labels/labels.parquet").table
    assert changes.select(["id", "label"]).to_pylist() == [{"id": first.id, "label": wrong}]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert [row["labeled_size"] for row in results["rows"]] == [70] and results["finished"]
    assert results["rounds"][-1]["labeled"] == 0
    for sizes in ([40], [30, 60, 80]):
        with pytest.raises(RunRefused, match="labeled_sizes"):
            run(people_recipe(toy, **options, labeled_sizes=sizes), tmp_path / "run")


def test_the_page_calls_the_recipe_with_all_that_it_says(toy, tmp_path):
    recipe = people_recipe(toy, stop={"rule": "kappa", "patience": 1}, engine={"kind": "processes", "workers": 1})
    with pytest.raises(WaitingForLabels):
        run(recipe, tmp_path / "run")
    assert load_recipe(tmp_path / "run/labeling/recipe.yaml") == recipe != load_recipe(tmp_path / "run/recipe.yaml")


def test_classes_that_appear_later_are_learned_from_then_on(toy, tmp_path):
    recipe = people_recipe(toy, test=None, target=None, oracle={"labels": [], "new_classes": "extend"})
    play(recipe, tmp_path / "run")
    queue = LabelQueue.open(tmp_path / "run")
    assert set(queue.classes) == set(CLASS_NAMES)


def test_people_label_a_test_set_that_is_never_trained_on(toy, tmp_path):
    recipe = people_recipe(toy, test=None, oracle={"test_rows": 30})
    play(recipe, tmp_path / "run")
    queue = LabelQueue.open(tmp_path / "run")
    parts = {request.name: {row.id for row in request.rows} for request in queue.requests}
    test = parts.pop("0000-test")
    assert len(test) == 30
    assert not any(test & rows for rows in parts.values())
    [metrics] = [v for k, v in outcome(tmp_path / "run").items() if k.endswith("/metrics")]
    assert 0 <= metrics["metrics"]["accuracy"] <= 1


def test_the_report_says_how_little_a_small_test_set_tells(toy, tmp_path):
    recipe = people_recipe(toy, test=None, oracle={"test_rows": 30})
    with pytest.raises(WaitingForLabels):
        run(recipe, tmp_path / "run")
    told = [json.loads((tmp_path / "run/report.json").read_text())["headline"]]
    result = play(recipe, tmp_path / "run")
    told.append(json.loads(Path(result["report_json"]).read_text())["headline"])
    assert "nothing is labelled yet" in told[0]
    assert "People have labelled 60 of 170 rows, chosen by fastText with margin" in told[1]
    assert "30 test rows; so few rows tell that it is between" in told[1]
    page = Path(result["report_html"]).read_text()
    assert "Who labelled" in page and "ann" in page
    assert "Recall by class" in page and "Rows in the pool" not in page  # which has no labels
    # Wilson 1927, by its definition: the shares at which the part that was found is 1.96 deviations away.
    for part, rows in ((0.8, 15), (0.0, 30), (0.5, 1000)):
        for end in binomial_interval(part, rows):
            assert abs(part - end) == pytest.approx(1.96 * (end * (1 - end) / rows) ** 0.5, abs=1e-6)


def test_a_corrected_label_counts_from_the_next_round_on(toy, tmp_path):
    recipe, said = people_recipe(toy, test=None, target=None), {}

    def correct(queue, rows):
        if not said:
            said["row"] = rows[0]
        elif "corrected" not in said:
            other = next(name for name in CLASS_NAMES if name != TRUTH[said["row"].text])
            queue.add([answer(said["row"], other, kind="decision", source="review")])
            said["corrected"] = other
        label_all(queue, rows)

    play(recipe, tmp_path / "run", label=correct)
    final = LabelSet.load(tmp_path / "run/seed-0/proxy-margin/round-001/labels/labels.parquet")
    given = dict(zip(final.table["id"].to_pylist(), final.table["label"].to_pylist(), strict=True))
    assert given[said["row"].id] == said["corrected"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "core_set", "initial": None}, "a core-set needs the labels of all rows"),
        ({"strategies": ["margin", "entropy"]}, "people label for one strategy"),
        ({"baselines": ["random"]}, "people label for one strategy"),
        ({"seeds": [0, 1]}, "people label for one seed"),
        ({"oracle": {"labels": ["a"]}}, "at least two classes"),
        ({"oracle": {"labels": ["a", "a"]}}, "given twice"),
        ({"oracle": {"labels": ["a", " b"]}}, "white space"),
        ({"oracle": {"test_rows": 5}}, "keep one of them"),
        ({"test": None}, "or oracle.test_rows"),
        ({"oracle": {"min_returned": 0}}, "at least 1"),
    ],
)
def test_what_cannot_be_asked_of_people_is_refused_before_any_work(toy, changes, message):
    with pytest.raises(RecipeError, match=message):
        people_recipe(toy, **changes)


def test_answers_that_cannot_be_are_refused_together_and_nothing_is_written(toy, tmp_path):
    with pytest.raises(WaitingForLabels):
        run(people_recipe(toy), tmp_path / "run")
    queue, rows = open_rows(tmp_path / "run")
    with pytest.raises(LabelError, match=rf"'{CLASS_NAMES[0]}x' \(did you mean '{CLASS_NAMES[0]}'"):
        queue.add([answer(rows[0], CLASS_NAMES[0]), answer(rows[1], f"{CLASS_NAMES[0]}x")])
    assert not queue.journal.path.exists() or not queue.journal.path.read_bytes()


def test_the_status_tells_who_waits_for_whom_and_the_pace_is_one_person_s_work(toy, tmp_path):
    with pytest.raises(WaitingForLabels):
        run(people_recipe(toy), tmp_path / "run")
    status = run_status(tmp_path / "run")
    assert status["state"] == "waiting" and status["people"]["open"] == 20
    assert status["people"]["seconds_left"] is None
    queue, rows = open_rows(tmp_path / "run")
    # Three seconds each, a night, a clock that is set back, and a tool with times of its own.
    times = ["2026-01-01T20:00:00Z", "2026-01-01T20:00:03Z", "2026-01-02T08:00:00+00:00", "2026-01-01T07:00:00", "noon"]
    given = [(row, time) for row, time in zip(rows, times, strict=False)]
    queue.add([Answer(row.id, "label", TRUTH[row.text], "ann", time, "page") for row, time in given])
    queue.add([answer(rows[5], kind="skip", annotator="ben")])
    # Two files a minute apart tell nothing of the pace at which they were filled in.
    sheets = [(rows[6], "2026-01-01T09:00:00Z"), (rows[7], "2026-01-01T09:00:00Z")]
    sheets += [(row, "2026-01-01T09:01:00Z") for row in rows[8:10]]
    queue.add([Answer(row.id, "label", TRUTH[row.text], "cem", time, "csv") for row, time in sheets])
    people = run_status(tmp_path / "run")["people"]
    assert people["requests"] == [
        {"round": 0, "part": "train", "requested": 20, "labelled": 9, "skipped": 1, "flagged": 0, "conflicts": 0,
         "open": 10}
    ]  # fmt: skip
    assert people["annotators"] == [
        {"name": "ann", "answers": 5, "seconds_per_answer": 3.0},
        {"name": "ben", "answers": 1, "seconds_per_answer": None},
        {"name": "cem", "answers": 4, "seconds_per_answer": None},
    ]
    assert people["planned"] == 60 and people["seconds_left"] == 3.0 * 51
    shown = CliRunner().invoke(app, ["status", str(tmp_path / "run")])
    assert "waiting" in shown.output and "10 rows wait for an answer: svp label serve" in shown.output


def test_what_people_have_labelled_becomes_a_version_also_where_rows_came_late_or_were_skipped(toy, tmp_path):
    def some(queue, rows):
        queue.add([answer(row, kind="skip") for row in rows[:2]])
        label_all(queue, rows[2:])

    play(people_recipe(toy), tmp_path / "run", label=some)
    source = find_source(tmp_path / "run")
    rows, selection = open_source(source)
    assert len(rows) == 58  # 18, then 22 - 2, then 22 - 2
    assert rows.labels.positions_L[-len(selection) :].tolist() == selection.positions_K.tolist()
    names = dict(zip(rows.labels.table["position"].to_pylist(), rows.labels.table["label"].to_pylist(), strict=True))
    texts = rows.pool.take(rows.labels.positions_L).column(0).to_pylist()
    assert [names[p] for p in rows.labels.positions_L.tolist()] == [TRUTH[text] for text in texts]
    model = find_model(source, role="target")
    assert model.labeled_size == len(rows)


@pytest.mark.parametrize("how", ["retract", "conflict", "skip"])
def test_a_label_that_is_taken_back_after_its_round_is_learned_no_more(toy, tmp_path, how):
    recipe, said = people_recipe(toy, test=None, target=None), {}

    def take_back(queue, rows):
        if len(queue.requests) == 1:
            said["row"] = row = rows[0]
        elif len(queue.requests) == 2:
            row, other = said["row"], next(name for name in CLASS_NAMES if name != TRUTH[said["row"].text])
            queue.add([answer(row, other, annotator="ben") if how == "conflict" else answer(row, kind=how)])
        label_all(queue, rows)

    play(recipe, tmp_path / "run", label=take_back)
    path = tmp_path / "run/seed-0/proxy-margin/round-001/labels/labels.parquet"
    given = LabelSet.load(path).table.to_pylist()
    assert [row["label"] for row in given if row["id"] == said["row"].id] == [None]
    assert json.loads((path.parent / "step.json").read_text())["output"]["labels"] == 20


@pytest.mark.parametrize(("wanted", "sizes"), [(10, [25, 60]), ("10%", [22, 60])])
def test_a_round_of_fewer_rows_than_must_come_waits_for_what_it_has(toy, tmp_path, wanted, sizes):
    play(
        people_recipe(toy, test=None, target=None, labeled_sizes=sizes, oracle={"min_returned": wanted}),
        tmp_path / "run",
    )


def test_a_request_that_was_removed_is_written_anew_also_of_a_round_that_is_over(toy, tmp_path):
    recipe, file = people_recipe(toy, test=None, target=None), tmp_path / "run/labeling/requests/0000-train.jsonl"
    with pytest.raises(WaitingForLabels):
        run(recipe, tmp_path / "run")
    before = file.read_bytes()
    label_all(*open_rows(tmp_path / "run"))
    with pytest.raises(WaitingForLabels):
        run(recipe, tmp_path / "run")
    file.unlink()
    with pytest.raises(WaitingForLabels):
        run(recipe, tmp_path / "run")
    assert file.read_bytes() == before


def test_rounds_with_as_many_but_other_labels_have_a_model_each(toy, tmp_path):
    def skip_a_round_and_correct(queue, rows):
        if len(queue.requests) != 3:
            return label_all(queue, rows)
        first = queue.requests[0].rows[0]
        other = next(name for name in CLASS_NAMES if name != TRUTH[first.text])
        return queue.add([*(answer(row, kind="skip") for row in rows), answer(first, other, kind="decision")])

    recipe = people_recipe(toy, test=None, target=None, labeled_sizes=[40, 60, 80])
    play(recipe, tmp_path / "run", label=skip_a_round_and_correct)
    before = outcome(tmp_path / "run")
    run(recipe, tmp_path / "run")
    assert outcome(tmp_path / "run") == before


@pytest.mark.parametrize("what", ["nothing", "one class"])
def test_where_there_is_nothing_to_learn_yet_the_next_rows_are_random(toy, tmp_path, what):
    def late(queue, rows):
        if len(queue.requests) > 1:
            label_all(queue, rows)
        elif what == "nothing":
            queue.add([answer(row, kind="skip") for row in rows])
        else:
            queue.add([answer(row, "music") for row in rows])

    play(
        people_recipe(toy, test=None, target=None, oracle={"labels": [], "new_classes": "extend"}),
        tmp_path / "run",
        label=late,
    )
    step = json.loads((tmp_path / "run/seed-0/proxy-margin/round-001/selection/step.json").read_text())
    assert step["inputs"]["strategy"] == "random"
    step = json.loads((tmp_path / "run/seed-0/proxy-margin/round-002/selection/step.json").read_text())
    assert step["inputs"]["strategy"] == "margin"
