"""What a version tells of the dataset that its rows come from."""

from __future__ import annotations

import time
import types

import numpy as np
import pytest
from card_facts import POOL, context_of, selection_entry, signals_entry
from huggingface_hub import CommitOperationAdd, HfApi
from localhub import Fault
from toy import write_toy

from svp_nlp import Selection, load_pool
from svp_nlp.hub.card import selection_card, signals_card
from svp_nlp.hub.remote import Remote
from svp_nlp.selection import Lineage


@pytest.fixture
def parent(hub, repo_id, tmp_path, monkeypatch):
    """A function that makes the parent dataset, with this card, and five rows of it."""
    clock = types.SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    monkeypatch.setattr("svp_nlp.hub.retry.time", clock)

    def make(card: str):
        name = f"{repo_id}-parent"
        HfApi().create_repo(name, repo_type="dataset")
        file = write_toy(tmp_path / "pool.parquet").read_bytes()
        operations = [CommitOperationAdd("README.md", card.encode()), CommitOperationAdd("data/train.parquet", file)]
        HfApi().create_commit(name, operations, commit_message="rows", repo_type="dataset")
        pool = load_pool(name)
        lineage = Lineage(
            pool={**pool.ref.meaning, "rows": len(pool), "fingerprint": pool.fingerprint},
            strategy="margin", budget=5, round=1, seed=0, labeled_size=5,
        )  # fmt: skip
        return pool, Selection(np.arange(5), pool.ids(np.arange(5)), None, lineage)

    return make


def licence_of(repo_id: str) -> str:
    remote = Remote(repo_id, "dataset")
    return remote.read("README.md", remote.head()).decode().partition("## Licence")[2]


def test_one_failed_answer_of_the_hub_does_not_lose_the_licence(hub, repo_id, parent):
    pool, selection = parent("---\nlicense: cc-by-nc-4.0\n---\n")
    hub.faults = [Fault(rf"GET .*/{pool.ref.path}/revision/", 503, times=2)]
    selection.push_to_hub(repo_id, pool=pool)
    assert "cc-by-nc-4.0, as the pool" in licence_of(repo_id)


def test_a_licence_that_could_not_be_asked_for_is_not_taken_for_none_and_comes_with_the_next_push(
    hub, repo_id, parent, caplog
):
    pool, selection = parent("---\nlicense: cc-by-nc-4.0\n---\n")
    hub.faults = [Fault(rf"GET .*/{pool.ref.path}/revision/", 403, times=-1)]
    selection.push_to_hub(repo_id, pool=pool)
    assert "could not be read when this was pushed" in licence_of(repo_id)
    assert "the licence of the pool is not told" in caplog.text
    hub.faults = []
    assert selection.push_to_hub(repo_id, pool=pool).card_updated
    assert "cc-by-nc-4.0, as the pool" in licence_of(repo_id)


def test_a_parent_whose_card_names_no_licence_is_said_to_name_none(hub, repo_id, parent):
    pool, selection = parent("---\npretty_name: Rows\n---\n")
    selection.push_to_hub(repo_id, pool=pool)
    assert "names none" in licence_of(repo_id)
    for make, entry in ((selection_card, selection_entry), (signals_card, signals_entry)):
        page = make(context_of({"default": entry(source_card=None)}))
        assert "could not be read when this was pushed" in page


def test_the_page_of_signals_opens_a_local_pool_as_it_was_opened():
    pool = POOL | {"path": "tickets.csv", "on_hub": False, "revision": None, "columns": ["subject", "body"]}
    entry = signals_entry()
    entry["lineage"]["pool"] = pool | {"id_column": "number", "name": "a", "split": "train[:100]"}
    page = signals_card(context_of({"default": entry}, kind="signals"))
    code = next(part for part in page.split("```python\n") if "load_pool" in part).split("```")[0]
    opened = {}

    def load_pool(path, **options):
        opened.update(options, path=path)

    signals = types.SimpleNamespace(select=lambda *_, **__: types.SimpleNamespace(to_dataset=lambda pool: None))
    ours = types.SimpleNamespace(load_pool=load_pool, load_signals=lambda *_, **__: signals)
    exec(code.replace("import svp_nlp", ""), {"svp_nlp": ours})
    assert opened == {
        "path": "tickets.csv", "text_columns": ("subject", "body"), "split": "train[:100]", "name": "a",
        "id_column": "number",
    }  # fmt: skip
    entry["lineage"]["pool"] = pool | {"columns": ["text"]}
    page = signals_card(context_of({"default": entry}, kind="signals"))
    assert '"tickets.csv", text_columns=("text",), split="train"\n)' in page
