"""Agreement between annotators against its definitions, and what people did in a run."""

from __future__ import annotations

import html
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_demo import demo_run

from svp_nlp.agreement import (
    agreement_of,
    agreement_of_votes,
    alpha_interval,
    class_agreement,
    cohens_kappa,
    counts_of,
    krippendorffs_alpha,
    observed_agreement,
)
from svp_nlp.labeling.answers import Answer
from svp_nlp.labeling.queue import LabelQueue, Project
from svp_nlp.labeling.requests import Request, Row
from svp_nlp.report import markdown, report_json, summarize
from svp_nlp.report_html import render_page

# Krippendorff 2011, section C: four observers, twelve units, with gaps; its printed result is 0.743.
PUBLISHED = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
CLASSES = ("a", "b", "c")
VOTES = st.lists(st.dictionaries(st.sampled_from("ABCD"), st.sampled_from(CLASSES)), max_size=12)


def alpha_by_definition(votes):
    """1 - observed / expected disagreement over a coincidence matrix that is filled pair by pair."""
    coincidences: dict[tuple[str, str], float] = {}
    for row in votes:
        for a, b in itertools.permutations(row, 2):
            pair = (row[a], row[b])
            coincidences[pair] = coincidences.get(pair, 0) + 1 / (len(row) - 1)
    totals = {v: sum(w for (a, _), w in coincidences.items() if a == v) for v, _ in coincidences}
    n = sum(totals.values())
    observed = sum(w for (a, b), w in coincidences.items() if a != b)
    expected = sum(totals[a] * totals[b] for a in totals for b in totals if a != b)
    return None if expected == 0 else 1 - (n - 1) * observed / expected


def test_alpha_is_the_published_one():
    rows = zip(*(line.split() for line in PUBLISHED), strict=True)
    votes = [{str(k): v for k, v in enumerate(row) if v != "."} for row in rows]
    assert krippendorffs_alpha(counts_of(votes, "12345")) == pytest.approx(0.743, abs=5e-4)


@given(VOTES)
@settings(max_examples=60, deadline=None)
def test_alpha_is_that_of_the_definition_whoever_labelled_what(votes):
    expected = alpha_by_definition(votes)
    assert krippendorffs_alpha(counts_of(votes, CLASSES)) == (None if expected is None else pytest.approx(expected))


@given(VOTES)
@settings(max_examples=40, deadline=None)
def test_observed_agreement_and_that_of_classes_are_what_a_count_of_pairs_gives(votes):
    pairs = [(row[a], row[b], 1 / (len(row) - 1)) for row in votes for a, b in itertools.permutations(row, 2)]
    counts_UC = counts_of(votes, CLASSES)
    if not pairs:
        assert observed_agreement(counts_UC) is None
        return
    share = sum(w for a, b, w in pairs if a == b) / sum(w for _, _, w in pairs)
    assert observed_agreement(counts_UC) == pytest.approx(share)
    for name, (labels, agreeing, alpha) in zip(CLASSES, class_agreement(counts_UC), strict=True):
        own = [(b, w) for a, b, w in pairs if a == name]
        assert labels == pytest.approx(sum(w for _, w in own))
        assert agreeing == (pytest.approx(sum(w for b, w in own if b == name) / labels) if own else None)
        one_or_other = [{who: str(label == name) for who, label in row.items()} for row in votes]
        expected = alpha_by_definition(one_or_other)
        assert alpha == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), max_size=20))
@settings(max_examples=40, deadline=None)
def test_kappa_compares_with_annotators_who_draw_from_their_own_labels(pairs):
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    by_chance = np.mean([a == b for a, b in itertools.product(first, second)]) if pairs else 1
    observed = np.mean([a == b for a, b in pairs]) if pairs else 1
    expected = None if by_chance == 1 else pytest.approx((observed - by_chance) / (1 - by_chance))
    assert cohens_kappa(first, second) == expected


def test_the_interval_of_alpha_holds_the_truth_about_as_often_as_it_says():
    # Two annotators who are right with probability 0.8, else say one of the other two classes: alpha in the limit is
    # 1 - (1 - (0.64 + 0.02)) / (2 / 3) = 0.49.
    rng, held = np.random.default_rng(0), 0
    for draw in range(15):
        truth = rng.integers(3, size=150)
        said = [np.where(rng.random(150) < 0.8, truth, (truth + rng.integers(1, 3, size=150)) % 3) for _ in range(2)]
        low, high = alpha_interval(np.eye(3)[said[0]] + np.eye(3)[said[1]], seed=draw)
        assert high - low < 0.3
        held += low <= 0.49 <= high
    assert held >= 12


def test_one_label_in_all_rows_says_nothing_about_agreement():
    found = agreement_of_votes([{"A": "a", "B": "a"}] * 3, CLASSES)
    assert found["observed"] == 1 and found["alpha"] is None
    assert [entry["name"] for entry in found["classes"]] == ["a"]
    assert agreement_of_votes([{"A": "a"}, {}], CLASSES) is None


def queue_of(run_dir, rows: int = 6, **options) -> LabelQueue:
    queue = LabelQueue.begin(run_dir, Project(CLASSES, **options))
    queue.ask(Request(0, "train", tuple(Row(f"r{row}", row, f"text {row}") for row in range(rows))))
    return queue


def say(id, label=None, *, by="A", kind=None, at=0, source="page") -> Answer:
    return Answer(id, kind or "label", label, by, f"2026-01-01T00:{at // 60:02d}:{at % 60:02d}+00:00", source)


def test_what_people_did_in_a_run_is_counted_from_what_stands(tmp_path):
    queue = queue_of(tmp_path, answers_per_row=2)
    queue.add(
        [
            *(say(f"r{row}", "a", at=10 * row) for row in range(4)),
            *(say(f"r{row}", "a", by="B") for row in range(3)),
            say("r3", "b", by="B"),
            say("r0", "b", at=35),  # changed his mind, and back
            say("r0", "a", at=40),
            say("r4", kind="skip", at=44),
            say("r4", kind="skip", by="B"),
            say("r1", "b", kind="decision", by="C", source="review"),
            say("r2", "a", kind="decision", by="C", source="review"),
            say("r5", "a"),
            say("r5", kind="retract"),
        ]
    )
    found = agreement_of(queue)
    assert found["annotators"][0] == {
        "name": "A", "labels": 4, "skips": 1, "flags": 0, "decisions": 0, "seconds_per_answer": 7.5
    }  # fmt: skip
    assert [(entry["name"], entry["labels"], entry["decisions"]) for entry in found["annotators"][1:]] == [
        ("B", 4, 0),
        ("C", 0, 2),
    ]
    assert found["rows"] == {
        "asked": 6, "answered": 5, "by_several": 5, "conflicts": 1, "skipped": 1, "flagged": 0
    }  # fmt: skip
    assert found["review"] == {"reviewed": 2, "changed": 1, "adjudicated": 0}
    # Decisions are no votes: they were made by somebody who had seen the labels.
    assert found["agreement"]["rows"] == 4 and found["agreement"]["observed"] == 0.75
    assert found["agreement"]["pairs"] == [{"annotators": ["A", "B"], "rows": 4, "observed": 0.75, "kappa": 0.0}]
    assert agreement_of(LabelQueue.open(tmp_path)) == found


def test_a_run_that_nobody_has_answered_has_nothing_to_tell(tmp_path):
    found = agreement_of(queue_of(tmp_path))
    assert found["annotators"] == [] and found["agreement"] is None and found["rows"]["answered"] == 0


def test_a_report_tells_who_labelled_and_how_far_they_agree_and_no_name_becomes_markup(tmp_path):
    evil = "<script>alert(1)</script>|`x`"
    queue = queue_of(tmp_path, answers_per_row=2)
    queue.add(
        answer
        for row in range(6)
        for answer in (
            say(f"r{row}", "ab"[row % 2], by="A", at=8 * row),
            say(f"r{row}", "ab"[row % 2 > row % 3], by=evil),
        )
    )
    run = {**demo_run(seeds=(0,), sizes=(400,)), "annotators": agreement_of(queue)}
    page, source = render_page([run], summarize([run])), markdown([run], summarize([run]))
    for text in (page, source):
        assert "2 people answered" in html.unescape(text).replace("\N{NO-BREAK SPACE}", " ")
        assert "Krippendorff’s alpha" in text and "Cohen’s kappa" in text and "8.0 s" in text
        assert "<script>alert" not in text
    other = {**demo_run(name="other", seeds=(0,), sizes=(400,)), "annotators": None}
    assert 'id="people"' in page and 'id="people"' not in render_page([other], summarize([other]))
    assert report_json([run], summarize([run]))["runs"][0]["annotators"]["agreement"]["rows"] == 6
