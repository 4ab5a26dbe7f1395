"""A canary of a token is in nothing that is written, said, logged or sent, but in the Authorization header to the Hub.

The canary has a form that no scrubbing knows, so what is not found here was never there, and not only blackened.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from conftest import hub_environment
from huggingface_hub import HfApi
from localhub import ALICE, Fault, User
from small_run import small_recipe
from toy import write_toy
from toy_versions import HOPELESS, push_toy, shorten_downloads, toy_bundle

from svp_nlp import Selection, load_pool, load_selected
from svp_nlp.errors import SVPError
from svp_nlp.hub.push import push_bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.recipe import dump_recipe
from svp_nlp.recipe_yaml import write_yaml

CANARY, READER, STRANGER = (f"hf_oauth_canary.{name}-CaNaRy~{name}" for name in ("sings", "reads", "strays"))

AUDIT = """
import os, sys

def note(event, arguments):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        with open(os.environ["ARGUMENTS_FILE"], "a") as file:
            file.write(event + " " + repr(arguments[:2]) + "\\n")

sys.addaudithook(note)
"""

EVERYTHING = """
import json, sys
from svp_nlp.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["svp", *arguments]
    try:
        main()
    except SystemExit as end:
        print("ended", end.code, *arguments, file=sys.stderr)

from svp_nlp import Selection, load_pool, load_predictor, load_selected, load_signals

print(load_selected("alice/secrets-index", revision="v1").to_dict())
print(load_predictor("alice/secrets-proxy"), load_signals("alice/secrets-signals").select("margin", budget=3))
selection = Selection.from_hub("alice/secrets")
print(selection, selection.push_to_hub("alice/secrets-alone", pool=load_pool("alice/secrets-pool")))
"""


@pytest.fixture
def short_waits(short_waits, monkeypatch):
    shorten_downloads(monkeypatch)


@pytest.fixture
def canary(hub, monkeypatch):
    """A Hub that knows the canary as alice, and it is this process's token."""
    known = dict(hub.tokens)
    hub.tokens |= {CANARY: User("alice"), READER: User("alice", "read")}
    monkeypatch.setenv("HF_TOKEN", CANARY)
    yield CANARY
    hub.tokens.clear()
    hub.tokens.update(known)


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_run_and_all_that_is_pushed_pulled_and_loaded_never_shows_the_token(hub, canary, tmp_path):
    pool = "alice/secrets-pool"
    HfApi().create_repo(pool, repo_type="dataset", private=True)
    HfApi().upload_folder(folder_path=write_toy(tmp_path / "toy"), repo_id=pool, repo_type="dataset")
    hub.reset()
    recipe = small_recipe(tmp_path / "toy", target=None, test=None, labeled_sizes=[40, 60])
    text = dump_recipe(recipe.model_copy(update={"pool": recipe.pool.model_copy(update={"path": pool})}))
    work = tmp_path / "work"
    work.mkdir()
    (work / "recipe.yaml").write_text(text + write_yaml({"publish": {"repo_id": "alice/secrets", "private": True}}))
    commands = [
        ["run", "recipe.yaml", "--run-dir", "run", "--dry-run"],
        ["run", "recipe.yaml", "--run-dir", "run"],
        ["push", "run"],
        ["push", "run", "alice/secrets-index", "--index-only", "--private", "--dry-run"],
        ["push", "run", "alice/secrets-index", "--index-only", "--private"],
        ["push", "run", "alice/secrets-index", "--index-only", "--version", "v1", "--round", "1"],
        ["push", "run", "alice/secrets-index", "--config", "other", "--create-pr", "--message", "a proposal"],
        ["push", "run", "alice/secrets-proxy", "--what", "proxy"],
        ["push", "run", "alice/secrets-signals", "--what", "signals"],
        ["pull", "alice/secrets", "--revision", "v1", "--format", "json"],
        ["pull", "alice/secrets-index", "--output", "joined"],
        ["pull", "alice/nothing-here"],
    ]
    environment = hub_environment(work, hub.endpoint, token=canary)
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "sitecustomize.py").write_text(AUDIT)
    arguments_file = tmp_path / "arguments.txt"
    environment |= {"PYTHONPATH": str(tmp_path / "audit"), "ARGUMENTS_FILE": str(arguments_file)}
    ran = subprocess.run(
        [sys.executable, "-c", EVERYTHING, json.dumps([[*command, "-v"] for command in commands])],
        env=environment, cwd=work, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    codes = [line.split()[1] for line in ran.stderr.splitlines() if line.startswith("ended")]
    assert codes == ["0", "0", "0", "0", "0", "5", "0", "0", "0", "0", "0", "2"], ran.stderr
    assert canary not in ran.stdout + ran.stderr
    assert files_with(work, canary) == []
    assert not arguments_file.exists() or canary not in arguments_file.read_text()
    assert hub.saw(canary) == []
    assert hub.authorized_elsewhere() == []
    assert len([entry for entry in hub.requests if "/_storage/" in entry["path"]]) > 10
    assert sum(entry["authorized"] for entry in hub.requests) > 50
    for kind, name in list(hub.repos):
        history = hub.find(kind, name).log(hub.find(kind, name).resolve("main")[1])
        assert not [commit for commit in history if canary.encode() in commit.message]


def secrets_in(error: BaseException) -> list[str]:
    """The tokens in an error, in those before it, and in its traceback."""
    found, texts = error, [*traceback.format_exception(error)]
    while found is not None:
        texts += [str(found), repr(found), repr(found.args), repr(getattr(found, "__notes__", ""))]
        found = found.__cause__ or found.__context__
    return [token for token in (CANARY, READER, STRANGER) if token in "\n".join(texts)]


COMMIT = "POST .*/commit/main"


@pytest.mark.parametrize(
    ("token", "fault"),
    [
        (CANARY, Fault(COMMIT, 500, times=-1)),
        (CANARY, Fault(COMMIT, drop=True, times=-1)),
        (CANARY, Fault(COMMIT, 403)),
        (CANARY, Fault("POST .*/preupload", 400)),
        (CANARY, Fault("POST .*/lfs/objects/batch", 403)),
        (CANARY, Fault("PUT .*/_storage/", 403)),
        (CANARY, Fault("GET .*/whoami", drop=True, times=-1)),
        (CANARY, Fault("POST .*/tag/", 500, times=-1)),
        (READER, None),
        (STRANGER, None),
    ],
    ids=lambda value: value.path if isinstance(value, Fault) else None,
)
def test_no_error_of_a_push_shows_the_token(
    hub, canary, repo_id, tmp_path, monkeypatch, caplog, short_waits, token, fault
):
    monkeypatch.setenv("HF_TOKEN", token)
    caplog.set_level(logging.DEBUG)
    hub.faults = [] if fault is None else [fault]
    with pytest.raises(SVPError) as failed:
        push_toy(tmp_path, repo_id, 1, patience=HOPELESS)
    assert secrets_in(failed.value) == []
    assert token not in caplog.text
    assert hub.saw(token) == []
    assert hub.authorized_elsewhere() == []
    assert files_with(tmp_path, token) == []


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_hub_that_says_the_token_itself_is_not_repeated(hub, repo_id, tmp_path, status):
    hub.faults = [Fault(COMMIT, status, times=-1, message=f"no such right: {ALICE}")]
    with pytest.raises(SVPError, match=r"no such right: hf_\*\*\*") as failed:
        push_toy(tmp_path, repo_id, 1, patience=HOPELESS)
    assert ALICE not in str(failed.value)


def test_no_error_of_a_reader_shows_the_token(hub, canary, repo_id, tmp_path, monkeypatch, caplog, short_waits):
    monkeypatch.setattr("svp_nlp.hub.pull._READING", HOPELESS)
    caplog.set_level(logging.DEBUG)
    push_toy(tmp_path, repo_id, 1)
    for token, fault in [
        (STRANGER, None),
        (CANARY, Fault("GET ", 500, times=-1)),
        (CANARY, Fault("GET /_storage/", drop=True, times=-1)),
        (CANARY, Fault("(GET|HEAD) .*/resolve/", 403, times=-1)),
    ]:
        hub.faults = [] if fault is None else [fault]
        for read in (load_selected, Selection.from_hub, load_pool):
            monkeypatch.setenv("HF_TOKEN", token)
            with pytest.raises(SVPError) as failed:
                read(repo_id)
            assert secrets_in(failed.value) == []
    assert not [token for token in (CANARY, STRANGER) if token in caplog.text or hub.saw(token)]
    assert hub.authorized_elsewhere() == []
    assert files_with(tmp_path, CANARY) == []


def test_a_token_that_is_given_as_an_argument_is_used_and_shown_nowhere(hub, canary, repo_id, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    remote = Remote(repo_id, "dataset", token=canary, patience=HOPELESS)
    push_bundle(toy_bundle(tmp_path / "content", 1), remote, private=True)
    assert remote.read("lineage.json", remote.resolve("v1"))
    assert {entry["user"] for entry in hub.requests if entry["authorized"]} == {"alice"}
    assert canary not in repr(remote) + repr(remote.api)
    assert hub.saw(canary) == []
    assert hub.authorized_elsewhere() == []
    assert files_with(tmp_path, canary) == []
