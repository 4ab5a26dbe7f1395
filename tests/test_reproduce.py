"""svp reproduce: the whole command on a toy table, its numbers computed again by hand, and what it refuses."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from small_run import FASTTEXT
from toy import write_toy
from typer.testing import CliRunner

from svp_nlp.cli import app
from svp_nlp.errors import RecipeError, RunError
from svp_nlp.paper import PAPER
from svp_nlp.report_statistics import Stat
from svp_nlp.reproduce import default_results
from svp_nlp.reproduce_statistics import build_table, judge, paired
from svp_nlp.reproduce_tables import find_table, plan_table, read_table, table_names, tables_directory

runner = CliRunner()
ROWS = ("cifar10_resnet20_181", "cifar10_resnet20_50")  # the toy rows are called as two of the paper's are
errors_by_seed = st.dictionaries(st.integers(0, 9), st.floats(0, 1), min_size=1, max_size=4)


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_as_before: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool, two recipes that differ in their proxy, and a table of them with two scales."""
    folder = tmp_path_factory.mktemp("reproduce")
    write_toy(folder / "toys", rows=200, test_rows=60)
    recipe = {
        "mode": "active_learning",
        "pool": {"path": "somewhere/else"},
        "test": {},
        "proxy": FASTTEXT,
        "target": {"kind": "vdcnn", "depth": 9, "lite": True, "max_length": 64, "training": {"num_train_epochs": 3}},
        "strategies": ["least_confidence"],
        "initial": "10%",
        "labeled_sizes": ["20%", "30%"],
        "baselines": ["random", "target_selects"],
        "seeds": [0, 1, 2],
    }
    write(folder / f"{ROWS[0]}.yaml", recipe)
    write(folder / f"{ROWS[1]}.yaml", {**recipe, "proxy": {**FASTTEXT, "epochs": 1}})
    table = {
        "title": "Toys: fastText selects for VDCNN",
        "rows": [f"{name}.yaml" for name in ROWS],
        "scales": {
            "gpu": {"says": "as published"},
            "cpu": {
                "says": "same models and protocol: not the paper's setting",
                "set": {"pool.rows": 150, "target.training.num_train_epochs": 1, "train_target_at": ["30%"]},
                "only": {ROWS[1]: {"proxy.epochs": 2}},
            },
        },
    }
    write(folder / "toys.yaml", table)
    return folder


def write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def svp(*arguments: Any) -> Any:
    return runner.invoke(app, ["reproduce", *map(str, arguments)])


@pytest.fixture(scope="module")
def done(place: Path) -> Any:
    """The table at scale cpu, run by the command."""
    result = svp(place / "toys.yaml", "--scale", "cpu", "--data", place / "toys", "--note", "made of words",
                 "--run-dir", place / "runs", "--results", place / "results")  # fmt: skip
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def results(done: Any, place: Path) -> dict[str, Any]:
    [path] = (place / "results").glob("*.json")
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


def raw(results: dict[str, Any], row: str, part: str, selector: str, size: int) -> dict[int, dict[str, Any]]:
    [run] = [entry["run"] for entry in results["rows"] if entry["name"] == row]
    return {e["seed"]: e for e in run[part] if e["selector"] == selector and e["labeled_size"] == size}


def spent(results: dict[str, Any], row: str, selector: str, sizes: tuple[int, ...], seed: int) -> float:
    stages = ("proxy_seconds", "scoring_seconds", "ranking_seconds")
    return sum(raw(results, row, "rounds", selector, size)[seed][stage] for size in sizes for stage in stages)


# the table


def test_every_cell_is_what_the_raw_rows_give(results: dict[str, Any]) -> None:
    table = build_table(results)
    assert [(cell.row, cell.labeled_size) for cell in table.cells] == list(itertools.product(ROWS, (30, 45)))
    for cell in table.cells:
        sizes = (30,) if cell.labeled_size == 30 else (30, 45)
        ratios = [
            spent(results, ROWS[0], "target_selects", sizes, seed) / spent(results, cell.row, "proxy", sizes, seed)
            for seed in (0, 1, 2)
        ]
        assert cell.selection_speedup is not None
        assert cell.selection_speedup == Stat(pytest.approx(np.mean(ratios)), pytest.approx(np.std(ratios, ddof=1)), 3)
    last = table.cells[-1]
    ours, theirs, random = (
        raw(results, row, "rows", selector, 45)
        for row, selector in ((ROWS[1], "proxy"), (ROWS[0], "target_selects"), (ROWS[0], "random"))
    )
    assert last.proxy_error is not None and last.to_target is not None and last.to_random is not None
    assert last.proxy_error.mean == pytest.approx(np.mean([ours[seed]["error"] for seed in ours]))
    for seed in (0, 1, 2):
        assert last.to_target.by_seed[seed] == pytest.approx(ours[seed]["error"] - theirs[seed]["error"])
        assert last.to_random.by_seed[seed] == pytest.approx(ours[seed]["error"] - random[seed]["error"])
    totals = [theirs[seed]["total_seconds"] / ours[seed]["total_seconds"] for seed in ours]
    assert last.total_speedup is not None and last.total_speedup.mean == pytest.approx(np.mean(totals))
    assert last.published == PAPER[ROWS[1]]
    assert (last.percent, last.budget) == (30, 30)


def test_where_the_target_was_not_trained_only_the_speed_of_selection_is_given(results: dict[str, Any]) -> None:
    first = build_table(results).cells[0]
    assert first.selection_speedup is not None
    assert (first.proxy_error, first.target_error, first.random_error, first.to_target) == (None, None, None, None)
    assert first.verdict is None


def test_random_and_target_selects_are_run_once_for_all_rows_and_the_table_says_so(
    results: dict[str, Any], done: Any
) -> None:
    arms = [{entry["selector"] for entry in one["run"]["rounds"]} for one in results["rows"]]
    assert arms == [{"proxy", "random", "target_selects"}, {"proxy"}]
    assert "were run once" in done.stdout.replace("\n", " ")


def test_all_selectors_of_a_seed_start_from_the_same_rows(results: dict[str, Any]) -> None:
    starts = {
        (entry["seed"], entry["fingerprint"])
        for one in results["rows"]
        for entry in one["run"]["rounds"]
        if entry["round"] == 0
    }
    assert len(starts) == 3
    other = json.loads(json.dumps(results))
    for entry in other["rows"][1]["run"]["rounds"]:
        entry["fingerprint"] = "0" * 8
    with pytest.raises(RunError, match="starts from other rows"):
        build_table(other)


def test_the_title_says_rows_epochs_and_that_it_is_not_the_papers_setting(results: dict[str, Any], done: Any) -> None:
    text = " ".join(done.stdout.split())
    assert "Scale cpu: 150 texts, 1 epoch of the target; same models and protocol: not the paper's setting" in text
    assert "made of words" in text and "toys" in text


def test_the_screen_is_120_columns_at_most(done: Any) -> None:
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith("/")) <= 120


def test_results_name_no_folder_of_this_machine(place: Path, done: Any) -> None:
    for path in (place / "results").iterdir():
        assert path.name.startswith("toys-cpu-")
        assert str(place) not in path.read_text()


def test_the_markdown_renders_to_tables_with_all_cells(place: Path, done: Any) -> None:
    [path] = (place / "results").glob("*.md")
    html = MarkdownIt("commonmark").enable("table").render(path.read_text())
    assert html.count("<table>") == 4
    for text in (*ROWS, "Scale cpu", "no loss: at least 3 seeds", "26", "float32", "made of words"):
        assert text in html
    assert html.count("<h1>") == 1 and "svp_nlp" in html


def test_a_results_file_alone_gives_the_same_table(place: Path, done: Any) -> None:
    [path] = (place / "results").glob("*.json")
    shown = svp("--from", path)
    assert shown.exit_code == 0
    assert shown.stdout.strip() in done.stdout
    as_json = json.loads(svp("--from", path, "--format", "json").stdout)
    assert len(as_json["cells"]) == 4
    assert svp("imagenet", "--from", path).exit_code == 2


def test_what_is_finished_is_read_and_not_run_again(place: Path, done: Any) -> None:
    steps = {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("step.json")}
    again = svp(place / "toys.yaml", "--scale", "cpu", "--data", place / "toys", "--run-dir", place / "runs",
                "--results", place / "results")  # fmt: skip
    assert again.exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("step.json")} == steps
    assert "made of words" in again.stdout


def test_results_of_other_runs_are_never_overwritten(place: Path, done: Any, tmp_path: Path) -> None:
    [before] = (place / "results").glob("*.json")
    other = json.loads(before.read_text())
    other["rows"][0]["run"]["created"] = "2020-01-01T00:00:00Z"
    (tmp_path / before.name).write_text(json.dumps(other))
    arguments = [place / "toys.yaml", "--scale", "cpu", "--data", place / "toys", "--run-dir", place / "runs",
                 "--results", tmp_path]  # fmt: skip
    for _ in range(2):
        assert svp(*arguments).exit_code == 0
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [f"{before.stem}-2.json", before.name]
    assert json.loads((tmp_path / before.name).read_text()) == other


def test_an_interrupted_table_goes_on_to_the_same_numbers(
    place: Path, done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "runs"
    shutil.copytree(place / "runs", run_dir)
    shutil.rmtree(run_dir / ROWS[1])
    arguments = [place / "toys.yaml", "--scale", "cpu", "--data", place / "toys", "--run-dir", run_dir,
                 "--results", tmp_path]  # fmt: skip
    monkeypatch.setattr("svp_nlp.files._writes", 0)
    monkeypatch.setenv("SVP_ENOSPC_AT", "20")
    full = svp(*arguments)
    assert full.exit_code == 1 and "what was finished is kept" in full.stderr
    assert (run_dir / ROWS[1]).is_dir() and not list(tmp_path.glob("*.json"))
    monkeypatch.delenv("SVP_ENOSPC_AT")
    assert svp(*arguments).exit_code == 0
    [path], [before] = tmp_path.glob("*.json"), (place / "results").glob("*.json")
    tables = [build_table(json.loads(file.read_text())) for file in (path, before)]
    assert [cell.proxy_error for cell in tables[0].cells] == [cell.proxy_error for cell in tables[1].cells]


def core_set_run(selectors: dict[str, tuple[float, float, float]], *sizes: int) -> dict[str, Any]:
    """A run of two seeds; selector -> seconds of selection, seconds of the target, error (of seed 1: a tenth more)."""
    rounds, rows = [], []
    for (selector, (selecting, training, error)), seed, size in itertools.product(selectors.items(), (0, 1), sizes):
        strategy = "random" if selector == "random" else "forgetting_events"
        base = {"seed": seed, "selector": selector, "strategy": strategy, "labeled_size": size}
        cost = {"proxy_seconds": selecting, "scoring_seconds": 0.0, "ranking_seconds": 0.0}
        rounds.append({**base, "round": 1, "picked": size, "fingerprint": "f", **cost})
        rows.append({**base, "error": error * (1 + seed / 10), "target_seconds": training})
    recipe = {"pool": {"image_column": "img"}, "baselines": list(selectors)}
    return {
        "format": 1, "name": "x", "mode": "core_set", "created": "2026-11-23T00:00:00Z", "svp_nlp": "0.1.0",
        "machine": {"cpu": "A", "gpu": None}, "versions": {}, "warnings": [], "rounds": rounds, "rows": rows,
        "recipe": {**recipe, "proxy": {"kind": "resnet"}, "target": {"kind": "resnet", "training": {
            "mixed_precision": "bf16", "schedule": [{"epochs": 7, "learning_rate": 0.1}]}}},
        "pool": {"path": "p", "split": "train", "usable": 100, "class_names": ["a", "b"], "fingerprint": "f",
                 "class_counts": {"a": 60, "b": 40}},
        "test": {"path": "p", "split": "test", "rows": 9, "fingerprint": "g"},
    }  # fmt: skip


def test_a_core_set_is_compared_with_training_on_everything(tmp_path: Path) -> None:
    selectors = {"proxy": (2.0, 10.0, 0.10), "target_selects": (20.0, 10.0, 0.10), "random": (0.0, 10.0, 0.2)}
    results = {
        "format": 1, "table": "t", "title": "T", "scale": "gpu", "says": "as published",
        "data": {"given": None, "note": None},
        "rows": [
            {"name": "coreset_cifar10", "role": "row", "run": core_set_run(selectors, 40, 50)},
            {"name": "all", "role": "everything", "run": core_set_run({"random": (0.0, 24.0, 0.06)}, 100)},
        ],
    }  # fmt: skip
    table = build_table(results)
    smaller, cell = table.cells
    # Each size is picked from the same scores, which are made once.
    assert smaller.selection_seconds == cell.selection_seconds == Stat(2.0, 0.0, 2)
    assert cell.selection_speedup == Stat(10.0, 0.0, 2)
    assert cell.total_speedup == Stat(2.0, 0.0, 2)
    assert cell.to_random is not None and list(cell.to_random.by_seed.values()) == pytest.approx([-0.1, -0.11])
    assert (cell.verdict, cell.published.total_speedups) == ("open", {50: 1.6})
    assert table.everything_error is not None and table.everything_error.mean == pytest.approx(0.063)
    # A seed that took no time has no speedup.
    results["rows"][0]["run"]["rounds"][1]["proxy_seconds"] = 0.0
    assert build_table(results).cells[1].selection_speedup == Stat(10.0, None, 1)
    (tmp_path / "file.json").write_text(json.dumps(results))
    shown = " ".join(svp("--from", tmp_path / "file.json").stdout.split())
    assert "100 images, 7 epochs of the target" in shown and "target bf16" in shown
    assert "over training the target on all data" in shown and "trained on all data is wrong on 6.3 ± 0.4 %" in shown


# what it refuses


def test_scales_are_never_mixed_in_one_directory(place: Path, done: Any) -> None:
    refused = svp(place / "toys.yaml", "--scale", "gpu", "--data", place / "toys", "--run-dir", place / "runs")
    assert refused.exit_code == 2
    assert "holds scale cpu, not gpu" in refused.stderr


def test_a_run_of_another_protocol_is_refused(place: Path, done: Any) -> None:
    refused = svp(place / "toys.yaml", "--scale", "cpu", "--data", place / "toys", "--run-dir", place / "runs",
                  "--seed", "7")  # fmt: skip
    assert refused.exit_code == 2
    assert "seeds" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar11"], "did you mean 'cifar10'?"),
        (["cifar10_resnet20_50"], "is a row of the table cifar10: svp reproduce cifar10 runs all"),
        (["nofile.yaml"], "nofile.yaml does not exist"),
        ([], "which table?"),
        (["{table}", "--scale", "cpu", "--data", "{data}", "--results", "{full}/new.json/x"], "new.json/x: Not a dir"),
        (["{table}", "--scale", "paper"], "has no scale 'paper'"),
        (["{table}", "--scale", "cpu", "--set", "proxy.epochs=1"], "keeps to its protocol"),
        (["{table}", "--scale", "cpu", "--run-dir", "{full}"], "is not empty"),
        (["--from", "nothing.json"], "No such file"),
        (["--from", "nothing.json", "--dry-run"], "leave the other options out"),
        (["--from", "{table}"], "is not JSON"),
        (["--from", "{full}/other.json"], "other.json is no results file of svp reproduce;"),
        (["--from", "{full}/run.json"], "(of one run they are shown by svp report {full})"),
        (["--from", "{full}/new.json"], "new.json has format 2, this svp_nlp reads format 1"),
        (["--from", "{full}/damaged.json"], "damaged.json is damaged (the key 'name' is missing)"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(arguments: list[str], message: str, place: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    kept = {"format": 1, "table": "x", "scale": "cpu", "data": {}, "rows": [{}]}
    (full / "other.json").write_text('{"format": 1, "rows": [{}]}')
    (full / "run.json").write_text('{"format": 1, "mode": "core_set", "rows": []}')
    (full / "new.json").write_text(json.dumps(kept | {"format": 2}))
    (full / "damaged.json").write_text(json.dumps(kept))
    names = {"table": place / "toys.yaml", "full": full, "data": place / "toys"}
    found = svp(*(one.format(**names) for one in arguments))
    assert found.exit_code == 2
    assert message.format(full=full) in found.stderr
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/*/*"))


def test_a_table_file_is_validated(tmp_path: Path) -> None:
    write(tmp_path / "table.yaml", {"title": "x", "rows": ["a.yaml"], "scales": {"cpu": {"say": "x"}}})
    with pytest.raises(RecipeError, match=r"scales\.cpu\.say.*unknown key"):
        read_table(tmp_path / "table.yaml")
    scales = {"cpu": {"says": "x", "only": {"b": {}}}}
    write(tmp_path / "table.yaml", {"title": "x", "rows": ["a.yaml"], "scales": scales})
    with pytest.raises(RecipeError, match=r"only\.b is no row"):
        read_table(tmp_path / "table.yaml")


@pytest.mark.parametrize("part", ["set", f"only.{ROWS[1]}"])
def test_a_wrong_key_of_a_table_is_named_where_it_stands(place: Path, tmp_path: Path, part: str) -> None:
    wrong: Any = {"proxy.epohcs": 3}
    changes = {"set": wrong} if part == "set" else {"only": {ROWS[1]: wrong}}
    rows = [str(place / f"{name}.yaml") for name in ROWS]
    write(tmp_path / "mine.yaml", {"title": "x", "rows": rows, "scales": {"cpu": {"says": "x", **changes}}})
    with pytest.raises(RecipeError) as caught:
        plan_table(str(tmp_path / "mine.yaml"), "cpu")
    where = f"({tmp_path / 'mine.yaml'}: scales.cpu.{part}.proxy.epohcs): unknown key; did you mean 'epochs'?"
    assert str(caught.value).endswith(where)


def test_only_tables_of_the_paper_go_into_the_checkout(place: Path) -> None:
    assert default_results("cifar10") == tables_directory().parent / "results"
    assert default_results(str(tables_directory() / "cifar10.yaml")) == tables_directory().parent / "results"
    assert default_results(str(place / "toys.yaml")) == Path("results")


def test_a_dry_run_writes_nothing_and_adds_up_the_cost(place: Path, tmp_path: Path) -> None:
    found = svp(place / "toys.yaml", "--scale", "cpu", "--data", place / "toys", "--dry-run", "--format", "json")
    value = json.loads(found.stdout)
    assert set(value["rows"]) == set(ROWS)
    assert value["seconds"] == pytest.approx(sum(row["estimate"]["seconds"] for row in value["rows"].values()))
    assert list(tmp_path.iterdir()) == []
    shown = svp(place / "toys.yaml", "--scale", "cpu", "--data", place / "toys", "--dry-run").stdout
    assert re.search(r"in all  about [0-9.]+ (s|min [0-9]+ s) on this machine", shown)


# the paper's tables


@pytest.mark.parametrize("name", table_names())
@pytest.mark.parametrize("scale", ["paper", "gpu", "cpu"])
def test_every_table_of_the_paper_is_valid_at_every_scale(name: str, scale: str) -> None:
    plan = plan_table(name, scale)
    first = plan.rows[0].recipe
    assert "target_selects" in first.baselines
    for row in plan.rows[1:]:
        assert row.recipe.baselines == ()
        assert row.recipe.target == first.target and row.recipe.pool == first.pool and row.recipe.seeds == first.seeds
    if scale == "cpu":
        assert "not the paper's setting" in plan.says and first.pool.rows is not None
    if scale == "paper":
        assert first == plan_table(name, "paper").rows[0].recipe
    assert len(first.seeds) >= 3 or name == "imagenet"


@pytest.mark.parametrize("name", ["cifar10", "imagenet", "amazon_polarity"])
def test_every_row_of_the_seed_table_has_the_papers_numbers(name: str) -> None:
    plan = plan_table(name, "paper")
    for row in plan.rows:
        assert sorted(PAPER[row.name].selection_speedups) == [10, 20, 30, 40, 50]
        assert row.recipe.labeled_sizes == ("10%", "20%", "30%", "40%", "50%")
        assert row.recipe.initial == "2%" and row.recipe.meaning["strategies"] == ["least_confidence"]


def test_a_table_is_found_by_its_name_or_as_a_file() -> None:
    assert read_table(find_table("cifar10")) == read_table(find_table(str(find_table("cifar10"))))
    with pytest.raises(RecipeError, match="did you mean"):
        find_table("cifar_10")


# statistics


@given(errors_by_seed, errors_by_seed)
@settings(max_examples=60, deadline=None)
def test_paired_differences_are_those_of_common_seeds(ours: dict[int, float], theirs: dict[int, float]) -> None:
    found = paired(ours, theirs)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        assert found is None
        return
    values = [ours[seed] - theirs[seed] for seed in common]
    assert found is not None
    assert found.by_seed == dict(zip(common, values, strict=True))
    means = sorted(np.mean(drawn) for drawn in itertools.product(values, repeat=len(values)))
    assert found.resamples == len(means) == len(values) ** len(values)
    # The smallest value that at least 2.5 (97.5) % of the resamples do not exceed.
    low, high = (means[int(np.ceil(q * len(means))) - 1] for q in (0.025, 0.975))
    assert found.low == pytest.approx(low, abs=1e-12) and found.high == pytest.approx(high, abs=1e-12)
    assert found.low <= found.mean + 1e-12 and found.mean <= found.high + 1e-12


def test_three_seeds_give_the_smallest_and_the_largest_difference() -> None:
    found = paired({0: 0.3, 1: 0.2, 2: 0.5}, {0: 0.2, 1: 0.25, 2: 0.2})
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(-0.05), pytest.approx(0.3))
    assert found.mean == pytest.approx(0.35 / 3)


def test_many_seeds_are_resampled_at_random_and_always_alike() -> None:
    rng = np.random.default_rng(3)
    ours = {seed: float(value) for seed, value in enumerate(rng.normal(0.1, 0.02, 12))}
    first, second = (paired(ours, dict.fromkeys(ours, 0.0)) for _ in range(2))
    assert first == second and first is not None
    assert first.std is not None
    half = 1.96 * first.std / np.sqrt(12)  # the normal interval, which resampling of 12 seeds comes close to
    assert first.low == pytest.approx(first.mean - half, abs=half / 5)
    assert first.high == pytest.approx(first.mean + half, abs=half / 5)


@pytest.mark.parametrize(
    ("differences", "baseline_std", "verdict"),
    [
        ([0.0, 0.001, -0.001], 0.002, "no loss"),
        ([0.0, 0.015, -0.01], 0.02, "open"),  # the mean is within, the interval is not
        ([0.004, 0.005, 0.006], 0.001, "loss"),
        ([0.004, 0.005, -0.006], 0.0001, "open"),
        ([0.0, 0.0], 0.01, "open"),  # two seeds
    ],
)
def test_the_verdict_follows_the_printed_rule(differences: list[float], baseline_std: float, verdict: str) -> None:
    found = paired(dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0))
    baseline = Stat(0.1, baseline_std, len(differences))
    assert judge(found, baseline, chance_error=0.9) == verdict
    assert judge(found, baseline, chance_error=0.11) == "at chance"
    assert judge(None, baseline, chance_error=0.9) is None


def test_seconds_of_different_machines_are_not_compared(results: dict[str, Any]) -> None:
    results["rows"][1]["run"]["machine"] = {"cpu": "another"}
    cells = build_table(results).cells
    assert cells[0].selection_speedup is not None
    assert cells[-1].selection_speedup is None and cells[-1].total_speedup is None
    assert cells[-1].to_target is not None
