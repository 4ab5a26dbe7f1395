"""Labels that are there before people are asked: they fill the start, stay what they were, and are rows of the pool."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import VDCNN, small_recipe
from toy import CLASS_NAMES, toy_rows, write_toy

from svp_nlp.data import open_data
from svp_nlp.errors import LabelError, WaitingForLabels
from svp_nlp.experiment import run_recipe
from svp_nlp.labeling.answers import Answer
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.seeds import read_seeds
from svp_nlp.labels import LabelSet
from svp_nlp.pool import PoolRef

TEXTS, LABELS = toy_rows()
NAMES = [CLASS_NAMES[label] for label in LABELS]
TRUTH = dict(zip(TEXTS, NAMES, strict=True))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="module")
def pool(toy):
    return PoolRef(str(toy), columns=("text",)).open()


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def seeds_of(path: Path, pool, *, extend: bool = False) -> LabelSet:
    return read_seeds(str(path), pool, class_names=CLASS_NAMES, extend=extend)


def by_text(positions) -> list[dict]:
    return [{"text": f"  {TEXTS[p]} ", "label": NAMES[p]} for p in positions]


def recipe_with(toy: Path, file: Path, **changes):
    oracle = {"kind": "files", "labels": list(CLASS_NAMES), "seed_labels": str(file), **changes.pop("oracle", {})}
    values = {"oracle": oracle, "labeled_sizes": [30], "baselines": None, "test": None, "target": None}
    return small_recipe(toy, **{**values, **changes})


def run(recipe, run_dir: Path) -> dict:
    return run_recipe(recipe, run_dir, stop_requested=lambda: False)


def asked(run_dir: Path) -> dict[str, list]:
    return {request.name: list(request.rows) for request in LabelQueue.open(run_dir).requests}


def label_open(run_dir: Path) -> None:
    queue = LabelQueue.open(run_dir)
    rows = [row for row in queue.rows.values() if queue.resolution(row.id).status == "open"]
    time = "2026-01-01T00:00:00+00:00"
    queue.add([Answer(row.id, "label", TRUTH[row.text], "ann", time, "page") for row in rows])


def test_rows_are_known_by_id_or_text_and_their_order_does_not_matter(pool, tmp_path):
    ids = pool.ids(range(len(pool))).to_pylist()
    known = [{"svp_id": ids[p], "label": NAMES[p], "annotator": "ann"} for p in (7, 3)]
    both = [{"svp_id": ids[9], "text": TEXTS[9], "label": f" {NAMES[9]}"}, {"text": TEXTS[5], "label": ""}]
    rows = [*known, *by_text([8, 3]), *both, {"text": TEXTS[6], "label": "", "kind": "skip"}]
    rows.append({"text": TEXTS[4], "label": "[Skip]"})
    found = seeds_of(write(tmp_path / "one.jsonl", rows), pool)
    assert found.positions_L.tolist() == [3, 7, 8, 9]
    assert found.table["label"].to_pylist() == [NAMES[p] for p in (3, 7, 8, 9)]
    assert found.table["id"].to_pylist() == [ids[p] for p in (3, 7, 8, 9)]
    assert set(found.table["source"].to_pylist()) == {"seed"} and set(found.table["round"].to_pylist()) == {0}
    assert seeds_of(write(tmp_path / "two.jsonl", rows[::-1]), pool).fingerprint == found.fingerprint
    assert seeds_of(tmp_path / "one.jsonl", pool, extend=True).fingerprint == found.fingerprint


def test_what_was_decided_in_the_run_before_overrules_what_was_said(pool, tmp_path):
    said = [{"text": TEXTS[3], "label": "music", "annotator": name} for name in ("ann", "ben")]
    rows = [*said, {"text": TEXTS[3], "label": "weather", "annotator": "eve", "kind": "decision"}]
    for order in (rows, rows[::-1], [rows[0], rows[2], rows[1]]):
        found = seeds_of(write(tmp_path / "seeds", order), pool)
        assert found.table.select(["label", "annotator"]).to_pylist() == [{"label": "weather", "annotator": "eve"}]
    nobody_can_tell = [*said, {"text": TEXTS[3], "label": "", "annotator": "eve", "kind": "decision"}, *by_text([5])]
    assert seeds_of(write(tmp_path / "seeds", nobody_can_tell), pool).positions_L.tolist() == [5]


def test_a_duplicate_in_the_pool_is_the_first_row_with_its_text_and_own_ids_are_ids(tmp_path):
    (tmp_path / "pool.csv").write_text("key,text\n007,x\n008,x\n009,y\n010,\n", encoding="utf-8")
    pool = PoolRef(str(tmp_path / "pool.csv"), columns=("text",), id_column="key").open()
    rows = [{"svp_id": "008", "label": "animals"}, {"svp_id": "009", "label": "music"}]
    assert seeds_of(write(tmp_path / "seeds", rows), pool).table["id"].to_pylist() == ["007", "009"]
    rows += [{"svp_id": "007", "label": "music"}, {"svp_id": "010", "label": "music"}]
    with pytest.raises(LabelError, match=r"blank in the pool \(line 4: 010\); .*two labels \(line 1 and line 3\)"):
        seeds_of(write(tmp_path / "seeds", rows), pool)


def test_all_that_is_wrong_with_seeds_is_told_at_once(pool, tmp_path):
    ids = pool.ids([0, 1]).to_pylist()
    rows = [
        {"text": "not there", "label": "music"},
        {"svp_id": "neither", "label": "music"},
        {"svp_id": "0" * 32, "label": "music"},
        {"svp_id": ids[0], "text": TEXTS[1], "label": "music"},
        {"svp_id": ids[1], "label": "musik"},
        {"svp_id": ids[1], "label": "music"},
        {"label": "music", "text": " "},
        {"text": "x", "label": ["music", "weather"]},
    ]
    with pytest.raises(LabelError) as error:
        seeds_of(write(tmp_path / "seeds", rows), pool)
    for part in (
        "4 rows are not in the pool: make them rows of it (line 1: 'not there', line 2: neither, line 3: 000",
        "have another text in the pool (line 4",
        "'musik' x 1 (did you mean 'music'?)",
        "with two labels (line 5 and line 6)",
        "neither svp_id nor text (line 7)",
        "hold 2 labels",
        "oracle.seed_labels",
    ):
        assert part in str(error.value)
    with pytest.raises(LabelError, match="no row has a label"):
        seeds_of(write(tmp_path / "seeds", [{"text": TEXTS[0], "label": ""}]), pool)
    with pytest.raises(LabelError, match=r"oracle\.seed_labels.*No such file"):
        seeds_of(tmp_path / "none", pool)


def test_seeds_alone_fill_the_start_and_nobody_is_asked_for_it(toy, tmp_path):
    recipe = recipe_with(toy, write(tmp_path / "seeds", by_text(range(20))))
    with pytest.raises(WaitingForLabels, match="0 of 10 answers of round 1"):
        run(recipe, tmp_path / "run")
    requests = asked(tmp_path / "run")
    assert [len(rows) for rows in requests.values()] == [0, 10]
    assert not {row.text for row in requests["0001-train"]} & set(TEXTS[:20])
    label_open(tmp_path / "run")
    run(recipe, tmp_path / "run")
    [step] = (tmp_path / "run").rglob("selected/step.json")
    assert json.loads(step.read_text(encoding="utf-8"))["output"]["rows"] == 30


def test_seeds_and_random_rows_fill_the_start_and_a_file_that_changes_later_changes_nothing(toy, tmp_path, caplog):
    file = write(tmp_path / "seeds", by_text(range(12)))
    recipe = recipe_with(toy, file)
    with pytest.raises(WaitingForLabels, match="0 of 8 answers of round 0"):
        run(recipe, tmp_path / "run")
    assert not {row.text for row in asked(tmp_path / "run")["0000-train"]} & set(TEXTS[:12])
    label_open(tmp_path / "run")
    write(file, by_text(range(3)))
    with pytest.raises(WaitingForLabels, match="0 of 10 answers of round 1"):
        run(recipe, tmp_path / "run")
    assert f"{file} has changed since the run began" in caplog.text
    file.unlink()
    label_open(tmp_path / "run")
    run(recipe, tmp_path / "run")
    given = LabelSet.load(tmp_path / "run/seeds/labels.parquet")
    assert given.positions_L.tolist() == list(range(12))


def test_seeds_are_never_in_the_test_set_that_people_label_and_may_bring_classes(toy, tmp_path):
    file = write(tmp_path / "seeds", [{"text": text, "label": f"{n % 3} new"} for n, text in enumerate(TEXTS[:150])])
    oracle = {"labels": [], "new_classes": "extend", "test_rows": 50}
    data = open_data(recipe_with(toy, file, oracle=oracle, target=VDCNN))
    assert data.test_positions is not None and set(data.test_positions.tolist()) == set(range(150, 200))
    assert data.class_names == ("0 new", "1 new", "2 new")
    assert len(data.seeds) == 150
