"""What a run that people label comes to: the rows that are shared, and the model that counts."""

from __future__ import annotations

import json

import pytest
from test_people import people_recipe, play
from toy import CLASS_NAMES, toy_rows, write_toy

from svp_nlp.hub.source import find_source, open_source


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
