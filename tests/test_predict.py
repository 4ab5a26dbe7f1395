"""Using what was trained: every row of a file gets what the model says, in its place and format."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_run import VDCNN, small_recipe
from toy import CLASS_NAMES, toy_rows, write_toy
from typer.testing import CliRunner

from svp_nlp.cli import app
from svp_nlp.experiment import run_recipe
from svp_nlp.models import load_predictor


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("predict")
    recipe = small_recipe(write_toy(directory / "toy"), target={**VDCNN, "kind": "vdcnn"})
    run_recipe(recipe, directory / "run", stop_requested=lambda: False)
    return directory / "run"


def svp(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


TEXTS = list(toy_rows(6, seed=5)[0])


def expected(run_dir, texts, role="target"):
    [weights] = sorted(run_dir.glob(f"seed-0/*/{role}-*/model/weights"))[-1:]
    return load_predictor(weights).predict(pa.table({"text": pa.array(texts, pa.large_string())})).probs_BC


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_each_row_keeps_its_columns_and_gets_label_and_probability(run_dir, tmp_path, suffix):
    file = tmp_path / f"new{suffix}"
    rows = [{"n": str(n), "text": text} for n, text in enumerate([*TEXTS, "", TEXTS[0]])]
    if suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, ["n", "text"])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    done = svp(run_dir, file, "--all-classes", "--format", "json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    output = tmp_path / f"new-predicted{suffix}"
    assert told["output"] == str(output) and told["rows"] == 8 and told["blank"] == 1
    assert sum(told["labels"].values()) == 7
    if suffix == ".parquet":
        found = pq.read_table(output).to_pylist()
    elif suffix == ".jsonl":
        found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    else:
        with output.open(encoding="utf-8", newline="") as lines:
            found = list(csv.DictReader(lines))
    assert [(str(row["n"]), row["text"] or "") for row in found] == [(row["n"], row["text"]) for row in rows]
    probs = expected(run_dir, TEXTS)
    for row, probs_C in zip(found, probs, strict=False):
        assert row["svp_label"] == CLASS_NAMES[int(probs_C.argmax())]
        assert float(row["svp_probability"]) == pytest.approx(float(probs_C.max()), abs=1e-5)
        shares = [float(row[f"svp_p_{name}"]) for name in CLASS_NAMES]
        assert shares == pytest.approx(probs_C.tolist(), abs=1e-5)
    assert found[6]["svp_label"] in (None, "")  # nothing to read
    assert found[7]["svp_label"] == found[0]["svp_label"]  # a text that was there before


def test_one_text_is_labelled_by_the_target_or_by_the_proxy_that_chose(run_dir):
    for role in ("target", "proxy"):
        done = svp(run_dir, "--text", TEXTS[0], "--model", role, "--format", "json")
        told = json.loads(done.stdout)
        probs_C = expected(run_dir, TEXTS[:1], role)[0]
        assert told["label"] == CLASS_NAMES[int(probs_C.argmax())]
        assert list(told["probabilities"].values()) == sorted(told["probabilities"].values(), reverse=True)
        assert sum(told["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert np.isclose(told["probability"], probs_C.max())
    [weights] = run_dir.glob("seed-0/*/target-*/model/weights")
    assert svp(weights, "--text", TEXTS[0], "--format", "quiet").stdout.strip() in CLASS_NAMES


def test_what_is_there_is_not_overwritten_and_what_is_missing_is_named(run_dir, tmp_path):
    (tmp_path / "new.csv").write_text("text\nhello\n")
    assert svp(run_dir, tmp_path / "new.csv").exit_code == 0
    before = (tmp_path / "new-predicted.csv").read_bytes()
    again = svp(run_dir, tmp_path / "new.csv")
    assert again.exit_code == 2 and "is there already" in again.output
    assert svp(run_dir, tmp_path / "new.csv", "--overwrite").exit_code == 0
    assert (tmp_path / "new-predicted.csv").read_bytes() == before
    (tmp_path / "other.csv").write_text("body\nhello\n")
    wrong = svp(run_dir, tmp_path / "other.csv")
    assert wrong.exit_code == 2 and "no column 'text'" in wrong.output
    assert svp(run_dir, tmp_path / "other.csv", "--text-column", "body").exit_code == 0
    for arguments in ([run_dir], [run_dir, "a.csv", "--text", "b"], [tmp_path / "nothing", "--text", "b"]):
        assert svp(*arguments).exit_code == 2
    assert svp(run_dir, tmp_path / "new.csv", "--output", tmp_path / "new.xlsx").exit_code == 2
