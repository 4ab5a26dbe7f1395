"""Likely label errors: the numbers against their definitions, planted errors, decisions that overwrite nothing."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_embedding import random_model  # noqa: F401  # a fixture
from test_people import TRUTH, answer, open_rows, people_recipe, run
from toy import CLASS_NAMES, toy_rows, write_toy
from typer.testing import CliRunner

from svp_nlp import files
from svp_nlp.agreement import agreement_of
from svp_nlp.cli import app
from svp_nlp.errors import LabelError, RecipeError, RunError, SignalError, WaitingForLabels
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.requests import Request, Row
from svp_nlp.models import make_learner
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.quality import class_thresholds, confident_joint, find_label_errors, normalized_margin, self_confidence
from svp_nlp.quality_decisions import read_table, write_decisions, write_review
from svp_nlp.quality_folds import assign_folds, out_of_fold, rows_of
from svp_nlp.quality_review import review_run


@st.composite
def labels_and_probs(draw, max_rows: int = 14):
    rows, classes = draw(st.integers(1, max_rows)), draw(st.integers(2, 4))
    weights = draw(st.lists(st.integers(0, 9), min_size=rows * classes, max_size=rows * classes))
    probs_LC = np.array(weights, np.float32).reshape(rows, classes) + 0.5
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    return np.array(labels, np.int64), probs_LC / probs_LC.sum(axis=1, keepdims=True)


def keys(rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2**63, size=rows).astype(np.uint64)


def reference(labels, probs):
    """(score by self-confidence, by margin, likely error, confident class) of each row, straight from the papers."""
    rows, classes = len(labels), len(probs[0])
    thresholds = []
    for c in range(classes):
        own = [probs[i][c] for i in range(rows) if labels[i] == c]
        thresholds.append(sum(own) / len(own) if own else float("inf"))
    found = []
    for i in range(rows):
        reached = [c for c in range(classes) if probs[i][c] >= thresholds[c] - 1e-6]
        confident = max(reached, key=lambda c: probs[i][c]) if reached else None
        given_ = probs[i][labels[i]]
        other = max(p for c, p in enumerate(probs[i]) if c != labels[i])
        alone = sum(label == labels[i] for label in labels) == 1
        is_likeliest = max(range(classes), key=lambda c: probs[i][c]) == labels[i]
        likely = confident not in (None, labels[i]) and not is_likeliest and not alone
        found.append((given_, (given_ - other + 1) / 2, likely, confident))
    return thresholds, found


@given(labels_and_probs())
@settings(max_examples=80, deadline=None)
def test_scores_thresholds_and_likely_errors_are_those_of_the_definitions(drawn):
    labels_L, probs_LC = drawn
    thresholds, expected = reference(labels_L.tolist(), probs_LC.astype(float).tolist())
    found = find_label_errors(labels_L, probs_LC, keys_L=keys(len(labels_L)))
    np.testing.assert_allclose(class_thresholds(labels_L, probs_LC), thresholds, rtol=1e-5)
    np.testing.assert_allclose(self_confidence(labels_L, probs_LC), [e[0] for e in expected], rtol=1e-5)
    np.testing.assert_allclose(normalized_margin(labels_L, probs_LC), [e[1] for e in expected], atol=1e-6)
    assert found.likely.tolist() == [e[2] for e in expected]
    joint = np.zeros((probs_LC.shape[1],) * 2, np.int64)
    for label, (*_, confident) in zip(labels_L, expected, strict=True):
        if confident is not None:
            joint[label, confident] += 1
    np.testing.assert_array_equal(confident_joint(labels_L, probs_LC), joint)
    for row in np.flatnonzero(found.likely):
        assert found.suggested[row] == expected[row][3]


@given(labels_and_probs(), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_ranking_is_complete_goes_up_and_does_not_depend_on_the_order_of_the_rows(drawn, random):
    labels_L, probs_LC = drawn
    keys_L, moved = keys(len(labels_L)), np.arange(len(labels_L))
    random.shuffle(moved)
    found = find_label_errors(labels_L, probs_LC, keys_L=keys_L)
    other = find_label_errors(labels_L[moved], probs_LC[moved], keys_L=keys_L[moved])
    assert moved[other.order].tolist() == found.order.tolist()
    assert sorted(found.order.tolist()) == list(range(len(labels_L)))
    judged = found.order[found.judged[found.order]]
    assert (np.diff(found.scores[judged]) >= 0).all() and judged.tolist() == found.order[: len(judged)].tolist()


def test_what_is_no_label_or_no_probability_is_refused():
    probs_LC = np.full((3, 2), 0.5, np.float32)
    for labels in ([0, 1], [0, 1, 2], [0, -1, 1]):
        with pytest.raises(LabelError, match="expected one label for each row"):
            find_label_errors(np.array(labels), probs_LC, keys_L=keys(3))
    with pytest.raises(SignalError, match="position 1"):
        find_label_errors(np.array([0, 1, 0]), probs_LC * [[1], [2], [1]], keys_L=keys(3))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(2, 6), st.randoms())
@settings(max_examples=40, deadline=None)
def test_folds_are_even_in_all_and_in_each_class_and_go_with_the_row(labels, folds, random):
    labels_L, keys_L = np.array(labels), keys(len(labels))
    folds_L = assign_folds(labels_L, keys_L, folds=folds, seed=0)
    for kept in (np.ones(len(labels), bool), *(labels_L == c for c in range(4))):
        sizes = np.bincount(folds_L[kept], minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    moved = np.arange(len(labels))
    random.shuffle(moved)
    assert assign_folds(labels_L[moved], keys_L[moved], folds=folds, seed=0).tolist() == folds_L[moved].tolist()


def labeled(texts, labels, class_names=CLASS_NAMES) -> Labeled:
    rows = pa.table({"text": pa.array(texts, pa.large_string())})
    return Labeled(rows, np.array(labels, np.int64), np.arange(len(labels)), class_names)


@pytest.mark.parametrize("kind", ["fasttext", "tfidf"])
def test_no_model_has_seen_the_row_that_it_judges(kind):
    # Each text is one word of its own: who has seen it knows its label, who has not knows nothing.
    texts, labels = [f"word{row}x" for row in range(24)], [row % 2 for row in range(24)]
    learner = make_learner(kind, **({"bucket": 1000, "epochs": 20} if kind == "fasttext" else {}))
    probs_LC = out_of_fold(learner, labeled(texts, labels, ("a", "b")), keys_L=keys(24), seed=0)
    assert abs(probs_LC - 0.5).max() < 0.2


@pytest.mark.parametrize("kind", ["fasttext", "tfidf"])
def test_a_class_with_one_row_neither_crashes_nor_is_judged(kind):
    texts, labels = toy_rows(30, classes=3)
    labels[4] = 3
    learner = make_learner(kind, **({"bucket": 1000, "epochs": 20} if kind == "fasttext" else {}))
    probs_LC = out_of_fold(learner, labeled(texts, labels), keys_L=keys(30), seed=0)
    found = find_label_errors(np.array(labels), probs_LC, keys_L=keys(30))
    assert not found.judged[4] and not found.likely[4] and found.order[-1] == 4


def test_a_frozen_encoder_reads_each_row_once_and_gives_what_whole_models_would(random_model, monkeypatch):  # noqa: F811
    from svp_nlp.models.embedding import EncoderPredictor

    learner, (texts, labels) = make_learner("embedding", model_name_or_path=str(random_model)), toy_rows(30)
    train, keys_L = labeled(texts, labels), keys(30)
    expected = np.empty((30, 4), np.float32)
    folds_L = assign_folds(train.labels_L, keys_L, folds=3, seed=0)
    for fold in range(3):
        kept = rows_of(train, np.flatnonzero(folds_L != fold))
        model = learner.fit(kept, dev=None, seed=0, context=FitContext())
        expected[folds_L == fold] = model.predict(rows_of(train, np.flatnonzero(folds_L == fold)).rows).probs_BC
    read, predict = [], EncoderPredictor.predict
    monkeypatch.setattr(
        EncoderPredictor,
        "predict",
        lambda self, rows, **options: read.append(len(rows)) or predict(self, rows, **options),
    )
    found = out_of_fold(learner, train, keys_L=keys_L, seed=0, folds=3)
    assert sum(read) == 30
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_labels_of_one_class_cannot_be_compared():
    with pytest.raises(LabelError, match="expected rows of at least two classes"):
        out_of_fold(make_learner("fasttext"), labeled(["x", "y"], [1, 1]), keys_L=keys(2), seed=0)


def test_folds_are_cut_to_the_rows_and_their_ends_are_told():
    done = []
    learner = make_learner("fasttext", bucket=1000, epochs=1)
    out_of_fold(learner, labeled(["x", "y", "z"], [0, 1, 1]), keys_L=keys(3), seed=0, on_fold=done.append)
    assert done == [1, 2, 3]


WRONG = 6
PROXY = {"kind": "tfidf", "classifier": "complement_nb", "word_ngrams": 1}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A run whose 100 start rows are labelled, six of them wrongly; and the ids of these six."""
    folder = tmp_path_factory.mktemp("quality")
    toy = write_toy(folder / "toy")
    recipe = people_recipe(toy, proxy=PROXY, test=None, target=None, initial=100, labeled_sizes=[110])
    with pytest.raises(WaitingForLabels):
        run(recipe, folder / "run")
    queue, rows = open_rows(folder / "run")
    wrong = {row.id for row in rows[:WRONG]}
    other = dict(zip(CLASS_NAMES, CLASS_NAMES[1:] + CLASS_NAMES[:1], strict=True))
    queue.add([answer(row, other[TRUTH[row.text]] if row.id in wrong else TRUTH[row.text]) for row in rows])
    return folder / "run", wrong


@pytest.fixture
def run_dir(asked, tmp_path):
    """A copy without pool and models: the queue, and what the recipe was."""
    shutil.copytree(asked[0], tmp_path / "moved")
    return tmp_path / "moved"


def test_planted_errors_are_found_first_with_the_right_label_also_where_the_run_was_moved(asked, run_dir):
    found = review_run(run_dir, top=WRONG)
    assert {doubt.id for doubt in found.doubts} == asked[1]
    assert all(doubt.suggested == TRUTH[doubt.text] for doubt in found.doubts)
    assert (found.labelled, found.conflicts, found.proxy, found.folds) == (100, 0, "tfidf", 10)
    assert review_run(run_dir, top=WRONG) == found
    likely = review_run(run_dir).doubts
    assert likely == tuple(doubt for doubt in found.doubts if doubt.is_likely) and len(likely) == found.likely >= 5


def test_other_models_than_the_recipe_s_may_be_asked_if_they_can_read_the_rows(run_dir):
    found = review_run(run_dir, top=5, proxy="fasttext", folds=3)
    assert (found.proxy, found.folds, len(found.doubts)) == ("fasttext", 3, 5)
    with pytest.raises(RecipeError, match="resnet reads images, but the rows of this run are texts"):
        review_run(run_dir, proxy="resnet")


def test_rows_where_annotators_differ_come_first_and_all_labels_can_be_ranked(run_dir):
    queue = LabelQueue.open(run_dir)
    row = queue.requests[0].rows[50]
    queue.add([answer(row, next(c for c in CLASS_NAMES if c != TRUTH[row.text]), annotator="bob")])
    found = review_run(run_dir, top=20)
    assert [doubt.id for doubt in found.doubts if doubt.given is None] == [found.doubts[0].id] == [row.id]
    assert "bob says" in found.doubts[0].reason and "ann says" in found.doubts[0].reason
    assert len(found.doubts) == 21 and found.labelled == 99 and found.conflicts == 1


def test_rows_of_the_test_set_where_annotators_differ_are_listed_but_nobody_ranks_them(run_dir):
    tested = [Row(f"tested {n}", 500 + n, f"text {n}") for n in range(2)]
    queue = LabelQueue.open(run_dir)
    queue.ask(Request(0, "test", tuple(tested)))
    queue.add([answer(row, CLASS_NAMES[0]) for row in tested])
    queue.add([answer(tested[1], CLASS_NAMES[1], annotator="bob")])
    found = review_run(run_dir, top=0)
    assert [(doubt.id, doubt.reason.split(",")[0]) for doubt in found.doubts] == [(tested[1].id, "of the test set")]
    assert found.labelled == 100 and found.conflicts == 1


@pytest.mark.usefixtures("logging_as_before")
def test_a_run_whose_proxy_has_been_trained_is_reviewed(run_dir):
    """What its trainings took is read from them: made by the very recipe."""
    toy = write_toy(run_dir.parent / "toy")
    recipe = people_recipe(toy, proxy=PROXY, test=None, target=None, initial=30, labeled_sizes=[40])
    for _ in range(2):
        with pytest.raises(WaitingForLabels):
            run(recipe, run_dir.parent / "trained")
        queue, rows = open_rows(run_dir.parent / "trained")
        queue.add([answer(row, TRUTH[row.text]) for row in rows])
    result = invoke("review", str(run_dir.parent / "trained"))
    assert result.exit_code == 0 and "40 labels" in result.output


@pytest.mark.usefixtures("logging_as_before")
def test_seed_labels_are_learned_from_and_doubted_apart_for_nobody_can_decide_on_them(tmp_path):
    toy, file = write_toy(tmp_path / "toy"), tmp_path / "seeds.jsonl"
    texts, labels = toy_rows()
    given = {text: CLASS_NAMES[(labels[row] + (row < 3)) % 4] for row, text in enumerate(texts[:90])}
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in given.items()))
    recipe = people_recipe(
        toy, proxy=PROXY, test=None, target=None, initial=100, labeled_sizes=[110], oracle={"seed_labels": str(file)}
    )
    with pytest.raises(WaitingForLabels):
        run(recipe, tmp_path / "run")
    queue, rows = open_rows(tmp_path / "run")
    queue.add([answer(row, TRUTH[row.text]) for row in rows])
    assert len(rows) == 10
    found = review_run(tmp_path / "run")
    assert found.labelled == 100 and not {doubt.id for doubt in found.doubts} - set(queue.rows)
    wrong = {doubt.text: doubt.suggested for doubt in found.seeds}
    assert set(texts[:3]) & set(wrong) and all(wrong[text] == TRUTH[text] for text in set(texts[:3]) & set(wrong))
    shown = invoke("review", str(tmp_path / "run"), "--write")
    assert shown.exit_code == 0 and f"{len(wrong)} of the seed labels are likely wrong" in shown.output
    page = json.loads((tmp_path / "run/labeling/review.json").read_text())["rows"]
    assert {row["id"] for row in page} <= set(queue.rows)


@pytest.mark.parametrize("is_installed", [False, True])
def test_activelab_asks_for_another_label_where_annotators_differ(run_dir, monkeypatch, is_installed):
    if not is_installed:
        monkeypatch.setitem(sys.modules, "cleanlab", None)
        with pytest.raises(RecipeError, match=r"pip install 'svp_nlp\[quality\]'"):
            review_run(run_dir, score="activelab")
        return
    pytest.importorskip("cleanlab", reason="comes with the extra `quality`")
    queue = LabelQueue.open(run_dir)
    rows = queue.requests[0].rows[40:70]
    wrong = {row.id: next(c for c in CLASS_NAMES if c != TRUTH[row.text]) for row in rows[:3]}
    queue.add([answer(row, wrong.get(row.id, TRUTH[row.text]), annotator="bob") for row in rows])
    found = review_run(run_dir, score="activelab", top=100)
    place = {doubt.id: number for number, doubt in enumerate(found.doubts)}
    assert len(found.doubts) == 100 and found.conflicts == 3
    # Two who agree on a row leave less to ask there than one alone, and these less than two who differ.
    assert np.mean([place[id] for id in wrong]) < 20 < np.mean([place[row.id] for row in rows[3:]])
    assert all(found.doubts[place[id]].given is None for id in wrong)


def test_what_somebody_decided_counts_is_not_doubted_again_and_nothing_is_overwritten(run_dir):
    queue = LabelQueue.open(run_dir)
    journal = queue.journal.path.read_bytes()
    doubts = review_run(run_dir).doubts
    decisions = [(doubts[0].id, doubts[0].suggested), (doubts[1].id, doubts[1].given)]
    assert write_decisions(queue, decisions, annotator="eve") == {"decided": 2, "kept": 1, "known": 0}
    assert queue.journal.path.read_bytes().startswith(journal)
    queue = LabelQueue.open(run_dir)
    for id, label in decisions:
        resolution = queue.resolution(id)
        assert (resolution.label, resolution.annotators, resolution.source) == (label, "eve", "review")
    assert write_decisions(queue, decisions, annotator="eve")["known"] == 2
    again = review_run(run_dir)
    assert again.reviewed == 2 and not {id for id, _ in decisions} & {doubt.id for doubt in again.doubts}


def test_decisions_are_all_taken_or_none(run_dir):
    queue = LabelQueue.open(run_dir)
    before, id = queue.journal.path.read_bytes(), queue.requests[0].rows[0].id
    for wrong in ([(id, CLASS_NAMES[0]), ("nobody", CLASS_NAMES[0])], [(id, "kitchn")], [(id, "[Flag]")]):
        with pytest.raises(LabelError, match=r"not asked for: nobody$|did you mean 'kitchen'|\[Flag\] is no label"):
            write_decisions(queue, wrong, annotator="eve")
    assert queue.journal.path.read_bytes() == before


def cells_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["label", *arguments])


@pytest.mark.usefixtures("logging_as_before")
def test_a_table_goes_to_people_and_comes_back_by_the_command_line(run_dir):
    result = invoke("review", str(run_dir), "--write", "--format", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    page = json.loads((run_dir / "labeling/review.json").read_text())["rows"]
    assert page == found["rows"] and {"id", "given", "suggested", "score", "reason"} <= set(page[0])
    table = run_dir / "labeling/review.csv"
    rows = cells_of(table)
    assert [row["svp_id"] for row in rows] == [row["id"] for row in page]
    assert len(rows) >= 5
    for row in rows:
        row["decision"] = row["suggested"]
    with table.open("w", encoding="cp1252", newline="") as file:  # as a spreadsheet saves it: semicolons, no BOM
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    # Who ranks anew does not lose what was filled in.
    refused = invoke("review", str(run_dir), "--write")
    assert refused.exit_code == 2 and f"holds {len(rows)} decisions" in refused.output
    given = table.read_text("cp1252")
    table.write_text(given.replace(f";{rows[2]['decision']}\n", ";kitchn\n", 1), encoding="cp1252")
    wrong = invoke("decide", str(run_dir), "--file", str(table))
    assert wrong.exit_code == 2 and "'kitchn' (did you mean 'kitchen'?)" in wrong.output, wrong.output
    [line] = [number for number, text in enumerate(table.read_text("cp1252").splitlines(), 1) if "kitchn" in text]
    assert f"{table}, line {line}: " in wrong.output.replace("\n", "")
    table.write_text(given, encoding="cp1252")
    taken = invoke("decide", str(run_dir), "--file", str(table), "--annotator", "eve")
    assert taken.exit_code == 0 and f"{len(rows)} decisions written, {len(rows)} of them" in taken.output
    queue = LabelQueue.open(run_dir)
    assert all(queue.resolution(row["id"]).label == TRUTH[row["text"]] for row in page)
    assert invoke("review", str(run_dir), "--write").exit_code == 0


@pytest.mark.usefixtures("logging_as_before")
def test_a_single_decision_needs_a_row_and_a_label(run_dir):
    id = LabelQueue.open(run_dir).requests[0].rows[0].id
    done = invoke("decide", str(run_dir), id, CLASS_NAMES[2])
    assert done.exit_code == 0 and LabelQueue.open(run_dir).resolution(id).label == CLASS_NAMES[2]
    assert "test set" not in done.output
    LabelQueue.open(run_dir).ask(Request(0, "test", (Row("tested", 500, "a text"),)))
    (run_dir / "seed-0/test/labels").mkdir(parents=True)
    (run_dir / "seed-0/test/labels/step.json").write_text("{}")
    assert "test set count as they were" in invoke("decide", str(run_dir), "tested", CLASS_NAMES[2]).output
    for arguments in ([], [id], [id, CLASS_NAMES[0], "--file", "x.csv"]):
        assert invoke("decide", str(run_dir), *arguments).exit_code == 2


@pytest.mark.usefixtures("logging_as_before")
def test_a_row_that_nobody_can_tell_is_closed_and_doubted_no_more(run_dir):
    queue = LabelQueue.open(run_dir)
    rows = queue.requests[0].rows
    given = {row: queue.resolution(row.id).label for row in rows[:2]}
    queue.add([answer(row, next(c for c in CLASS_NAMES if c != given[row]), annotator="ben") for row in given])
    assert queue.counts(queue.requests[0]).conflicts == 2
    assert invoke("decide", str(run_dir), rows[0].id, "[skip]").exit_code == 0
    table = run_dir / "labeling/review.csv"
    table.write_text(f"svp_id,decision\n{rows[1].id},[Skip]\n", encoding="utf-8")
    for known in ("1 decisions written", "1 were known"):
        assert known in invoke("decide", str(run_dir), "--file", str(table)).output
    queue = LabelQueue.open(run_dir)
    assert [queue.resolution(row.id).status for row in rows[:2]] == ["skipped", "skipped"]
    assert queue.counts(queue.requests[0]).conflicts == 0 and "[skip]" not in queue.classes
    found = agreement_of(queue)
    assert (found["rows"]["skipped"], found["review"]["adjudicated"]) == (2, 2)
    known = review_run(run_dir)
    assert known.conflicts == 0 and not {row.id for row in rows[:2]} & {doubt.id for doubt in known.doubts}


@pytest.mark.parametrize("write", [1, 2])
def test_a_full_disk_leaves_each_file_as_it_was(run_dir, monkeypatch, write):
    queue = LabelQueue.open(run_dir)
    row = {"id": "x", "text": "t", "given": "a", "suggested": "b", "score": 0.1, "reason": "why"}
    paths = write_review(queue, {"rows": [row]})
    before = {kind: path.read_bytes() for kind, path in paths.items()}
    monkeypatch.setenv("SVP_ENOSPC_AT", str(files._writes + write))
    with pytest.raises(RunError, match="No space left"):
        write_review(queue, {"rows": []})
    kept = [kind for kind, path in paths.items() if path.read_bytes() == before[kind]]
    assert kept == (["json", "csv"] if write == 1 else ["csv"])
    journal = queue.journal.path.read_bytes()
    with pytest.raises(RunError, match="not saved"):
        monkeypatch.setenv("SVP_ENOSPC_AT", str(files._writes + 1))
        write_decisions(queue, [(queue.requests[0].rows[0].id, CLASS_NAMES[0])], annotator="eve")
    assert queue.journal.path.read_bytes() == journal


def test_texts_that_spreadsheets_would_run_are_written_as_text(run_dir):
    queue = LabelQueue.open(run_dir)
    row = {"id": "=1+2", "text": "=HYPERLINK(1)", "given": "a", "suggested": "+b", "score": 0.1, "reason": "why"}
    path = write_review(queue, {"rows": [row]})["csv"]
    [cells] = cells_of(path)
    assert not any(cell[:1] in "=+-@" for cell in cells.values() if cell)
    path.write_text(path.read_text("utf-8-sig").replace("why,", "why,'+b"), encoding="utf-8")
    assert read_table(path) == [("=1+2", "+b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("svp_id,text\nx,y\n", "column decision is missing"),
        ("svp_id,decision\nx,a\nx,b\n", "line 3 decides 'b' for row x, an earlier line 'a'"),
        (b"svp_id,decision\nx,\xff\n", "it is not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "review.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LabelError, match=message):
        read_table(path)
