"""The svp command: what goes where, and with which exit code it ends."""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from svp_nlp import errors
from svp_nlp.cli import app, default_run_directory
from svp_nlp.doctor import hub_state
from svp_nlp.recipe_yaml import find_recipe, shipped_recipes

SMOKE = "smoke/active_fasttext_vdcnn"
TOKEN = "hf_" + "CaNaRy" * 6
runner = CliRunner()


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_as_before: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name in ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Replace what `svp run` calls: these tests are about the command, not about the run."""

    def install(do: Callable[..., Any]) -> None:
        module = types.ModuleType("svp_nlp.experiment")
        module.run_recipe = do  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "svp_nlp.experiment", module)

    return install


def raises(error: BaseException) -> Callable[..., Any]:
    def do(*_: Any, **__: Any) -> Any:
        raise error

    return do


def only_json(text: str) -> dict[str, Any]:
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.SVPError("x"), 1),
        (errors.RunError("x"), 1),
        (errors.RecipeError("x"), 2),
        (errors.PoolError("x"), 2),
        (errors.LabelError("x"), 2),
        (errors.BudgetError("x"), 2),
        (errors.WaitingForLabels("x"), 3),
        (errors.Interrupted("x"), 4),
        (KeyboardInterrupt(), 4),
        (errors.RemoteConflict("x"), 5),
        (ValueError("x"), 1),
        (OSError(28, "No space left on device"), 1),
        (MemoryError(), 1),
    ],
)
@pytest.mark.parametrize("output", ["human", "json", "quiet"])
def test_every_end_has_its_exit_code_and_one_line(
    error: BaseException, exit_code: int, output: str, fake_run: Any
) -> None:
    fake_run(raises(error))
    result = runner.invoke(app, ["run", SMOKE, "--format", output])
    assert result.exit_code == exit_code
    assert len(result.stderr.strip().splitlines()) == 1
    if output == "json":
        assert only_json(result.stdout)["exit_code"] == exit_code
    else:
        assert result.stdout == ""


def test_an_unexpected_error_is_one_line_and_v_shows_the_traceback(fake_run: Any) -> None:
    fake_run(raises(ZeroDivisionError("division\nby zero")))
    short = runner.invoke(app, ["run", SMOKE])
    assert short.stderr == "error: ZeroDivisionError: division by zero (run again with -v for the traceback)\n"
    long = runner.invoke(app, ["run", SMOKE, "-v"])
    assert long.exit_code == 1
    assert "Traceback" in long.stderr
    assert "run again with -v" not in long.stderr


@pytest.mark.parametrize("more", [[], ["-v"], ["--format", "json"], ["--format", "json", "-v"]])
def test_no_token_is_ever_printed(more: list[str], fake_run: Any) -> None:
    def leak(*_: Any, **__: Any) -> Any:
        log = logging.getLogger("svp_nlp.somewhere")
        log.warning("connecting with %s", TOKEN)
        try:
            raise ValueError(TOKEN)
        except ValueError:
            log.exception("failed")
        raise OSError(f"401 for https://user:{TOKEN}@huggingface.co")

    fake_run(leak)
    result = runner.invoke(app, ["run", SMOKE, *more])
    assert "hf_***" in result.stderr
    assert TOKEN not in result.stdout + result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "nowhere.yaml"],
        ["run", SMOKE, "--set", "proxy.epoch=1"],
        ["run", SMOKE, "--set", "nonsense"],
        ["run", SMOKE, "--format", "xml"],
        ["run", SMOKE, "--unknown"],
        ["fly"],
        ["status"],
        ["report"],
        ["recipes", "show", "nothing/here"],
    ],
)
def test_wrong_usage_and_wrong_recipes_end_with_2_and_say_why(arguments: list[str], tmp_path: Path) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_prints_the_table_and_the_paths(fake_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def do(recipe: Any, run_dir: Path, *, stop_requested: Callable[[], bool]) -> dict[str, Any]:
        seen.update(recipe=recipe, run_dir=run_dir, stopped=stop_requested())
        logging.getLogger("svp_nlp.experiment").info("round 1")
        paths = {f"report_{kind}": f"{run_dir}/report.{kind}" for kind in ("html", "json", "md")}
        return {
            "run_dir": str(run_dir),
            **paths,
            "selected": f"{run_dir}/data",
            "published": None,
            "report": "the table",
        }

    fake_run(do)
    monkeypatch.setattr("svp_nlp.report.console_table", lambda summary, ascii_only: summary)
    human = runner.invoke(app, ["run", SMOKE, "--set", "proxy.dim=3"])
    assert human.exit_code == 0, human.stderr
    assert human.stdout.splitlines() == [
        "the table",
        "",
        "report    runs/smoke-active_fasttext_vdcnn/report.html",
        "selected  runs/smoke-active_fasttext_vdcnn/data",
    ]
    assert human.stderr == "round 1\n"
    assert seen["recipe"].proxy.dim == 3
    assert seen["stopped"] is False
    as_json = runner.invoke(app, ["run", SMOKE, "--run-dir", "here", "--format", "json"])
    assert only_json(as_json.stdout)["selected"] == "here/data"
    assert as_json.stderr == ""
    assert runner.invoke(app, ["run", SMOKE, "--run-dir", "here", "--format", "quiet"]).stdout == "here/data\n"


def test_a_dry_run_prints_the_plan_and_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = types.ModuleType("svp_nlp.plan")
    module.plan = lambda recipe: {"lines": ["pool    x", "cost    y"], "sizes": [1, 2]}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "svp_nlp.plan", module)
    assert runner.invoke(app, ["run", SMOKE, "--dry-run"]).stdout == "pool    x\ncost    y\n"
    assert only_json(runner.invoke(app, ["run", SMOKE, "--dry-run", "--format", "json"]).stdout) == {"sizes": [1, 2]}
    assert list(tmp_path.iterdir()) == []


def test_the_default_run_directory_tells_recipes_of_one_name_apart(tmp_path: Path) -> None:
    names = [str(default_run_directory(find_recipe(name))) for name in shipped_recipes()]
    assert len(set(names)) == len(names)
    assert default_run_directory(tmp_path / "mine.yaml") == Path("runs/mine")
    with pytest.raises(errors.RecipeError, match="cannot be used as a file name"):
        default_run_directory(tmp_path / "-x y.yaml")


def test_only_the_main_process_of_a_launch_speaks(fake_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run(raises(errors.told(errors.PoolError("no such file"))))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = runner.invoke(app, ["run", SMOKE, "--format", "json"])
    assert (result.exit_code, result.output) == (2, "")
    fake_run(raises(errors.TrainingError("out of memory")))  # rank 0 does not know of it
    result = runner.invoke(app, ["run", SMOKE, "--format", "json"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "[rank 1] error: out of memory\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--accelerate", "dpp"], "did you mean 'ddp'?"),
        (["--accelerate", "cpu_2proc", "--num-processes", "1"], "needs no launcher"),
        (["--engine", "local", "--ray-address", "auto"], "goes with --engine ray"),
        (["--engine", "proceses"], "did you mean 'processes'?"),
        (["--engine", "local", "--workers", "2"], "goes with --engine processes or ray"),
        (["--workers", "2"], "goes with --engine processes or ray, not with local; name one"),
    ],
)
def test_options_for_several_processes_that_do_not_fit_are_refused_before_any_work(
    options: list[str], message: str
) -> None:
    result = runner.invoke(app, ["run", SMOKE, *options])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_workers_go_with_the_engine_that_the_recipe_names(fake_run: Any) -> None:
    given: list[Any] = []

    def remember(recipe: Any, *_: Any, **__: Any) -> Any:
        given.append(recipe.engine)
        raise errors.Interrupted("enough")

    fake_run(remember)
    runner.invoke(app, ["run", SMOKE, "--workers", "3", "--set", "engine.kind=processes"])
    assert [(engine.kind, engine.workers) for engine in given] == [("processes", 3)]


@pytest.mark.parametrize(("rank", "world_size"), [("2", "2"), ("x", "2"), ("0", "two")])
def test_a_launch_that_makes_no_sense_is_refused(rank: str, world_size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world_size)
    result = runner.invoke(app, ["run", SMOKE])
    assert result.exit_code == 2
    assert "do not name a process of a launch" in result.stderr


def test_recipes_are_listed_and_shown() -> None:
    listed = runner.invoke(app, ["recipes"])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == shipped_recipes()
    assert runner.invoke(app, ["recipes", "--format", "quiet"]).stdout.split() == shipped_recipes()
    assert list(only_json(runner.invoke(app, ["recipes", "--format", "json"]).stdout)["recipes"]) == shipped_recipes()
    shown = runner.invoke(app, ["recipes", "show", SMOKE])
    assert shown.stdout == find_recipe(SMOKE).read_text(encoding="utf-8")


def test_the_schema_is_one_json_object() -> None:
    assert "labeled_sizes" in only_json(runner.invoke(app, ["schema"]).stdout)["properties"]


def test_status_of_what_is_no_run_fails_in_one_line(tmp_path: Path) -> None:
    result = runner.invoke(app, ["status", str(tmp_path), "--format", "json"])
    assert result.exit_code == errors.RecipeError.exit_code
    assert "is not a run directory" in only_json(result.stdout)["error"]
    for row in ("row_2", "row_1"):  # as svp reproduce leaves them
        (tmp_path / row).mkdir()
        (tmp_path / row / "recipe.resolved.json").write_text("{}")
    for command in ("status", "report"):
        result = runner.invoke(app, [command, str(tmp_path)])
        assert result.exit_code == errors.RecipeError.exit_code
        assert f"is a folder of runs; name what is in it: {tmp_path / 'row_1'}, {tmp_path / 'row_2'}" in result.stderr


def test_doctor_never_fails_and_shows_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    result = runner.invoke(app, ["doctor", "--format", "json"])
    assert result.exit_code == 0
    found = only_json(result.stdout)
    assert found["Hub"].startswith("not reachable (127.0.0.1")
    assert found["Hub login"] == "token found"
    assert TOKEN not in result.stdout
    assert "version of torch" in runner.invoke(app, ["doctor"]).stdout


def test_the_hub_is_reachable_when_something_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert hub_state(1.0, {"HF_ENDPOINT": endpoint}) == "reachable (127.0.0.1)"
    assert hub_state(1.0, {"HF_HUB_OFFLINE": "1"}).startswith("offline")


def test_help_and_recipes_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from svp_nlp.cli import app\n"
        "for arguments in (['--help'], ['run', '--help'], ['recipes'], ['--version']):\n"
        "    try:\n"
        "        app(arguments)\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0, arguments\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pyarrow', 'numba', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_help_takes_less_than_half_a_second_of_cpu() -> None:
    seconds = []
    for _ in range(3):  # the smallest: on a busy machine the others measure the neighbours
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "svp_nlp", "--help"], check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_the_module_is_the_command_and_survives_a_closed_pipe(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("mode: core_set\nmode: core_set\n", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "svp_nlp", "run", str(bad), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert "key mode is given twice" in only_json(result.stdout)["error"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.run(
        [sys.executable, "-m", "svp_nlp", "recipes"], stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write_end)
    assert process.returncode == 1
    assert process.stderr == ""
