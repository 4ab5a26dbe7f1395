"""Cards: the page tells the facts, what others wrote cannot break it, the Hub and `datasets` read its YAML."""

from __future__ import annotations

import copy
import dataclasses
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from card_facts import (
    CARDS,
    END,
    HOSTILE,
    LINEAGE,
    POOL,
    SHA,
    again,
    context_of,
    model_entry,
    parts_of,
    results,
    selection_entry,
    signals_entry,
    version_row,
    yaml_of,
)
from datasets import ClassLabel, DatasetInfo, Features, SplitDict, SplitInfo, Value, load_dataset
from huggingface_hub import DatasetCard, HfApi, ModelCard
from localhub.cards import validate_card
from markdown_it import MarkdownIt

from svp_nlp.hub.card import model_card, selection_card, signals_card, size_category
from svp_nlp.hub.card_words import _PICKED
from svp_nlp.strategies import STRATEGIES


def html_of(card):
    return MarkdownIt("commonmark", {"html": False}).enable("table").render(parts_of(card)[1].partition("-->")[2])


def table_shapes(card):
    """The number of cells of each row of each table, as a Markdown reader finds them."""
    shapes, rows = [], 0
    for token in MarkdownIt("commonmark").enable("table").parse(parts_of(card)[1].partition("-->")[2]):
        if token.type == "table_open":
            shapes.append([])
        elif token.type == "tr_open":
            rows = 0
        elif token.type in ("td_open", "th_open"):
            rows += 1
        elif token.type == "tr_close":
            shapes[-1].append(rows)
    return shapes


@CARDS
def test_the_same_facts_give_the_same_bytes_also_on_top_of_themselves(make, context):
    card = make(context)
    assert make(context) == card
    assert again(make, context, card) == card
    assert again(make, context, "") == card


@CARDS
def test_the_hub_takes_the_card(hub, make, context):
    kind = ModelCard if make is model_card else DatasetCard
    card = make(context)
    kind(card).validate()
    assert validate_card(card) == ([], [])
    assert kind(card).content == card


def hostile_context():
    lineage = copy.deepcopy(LINEAGE) | {"strategy": "<b>|`x`\n---"}
    lineage["pool"] |= {"path": "fi|le<script>\n.csv", "on_hub": False, "revision": None, "split": "tr|ain"}
    lineage["proxy"]["kind"] = lineage["versions"]["a|b<i>"] = "x|<img src=x onerror=y>"
    points = results()
    for text, point in zip(HOSTILE, points["rows"], strict=False):
        point["strategy"] = text
    entry = selection_entry(
        class_names=HOSTILE, lineage=lineage, index_only=True, label_column="la|`bel", results=points
    )
    return context_of({"default": entry}, versions=[version_row(i, title=text) for i, text in enumerate(HOSTILE)])


def test_what_others_wrote_breaks_no_table_and_brings_no_html():
    card = selection_card(hostile_context())
    calm = selection_card(context_of({"default": selection_entry(class_names=[f"c{i}" for i in range(len(HOSTILE))])}))
    assert all(len(set(shape)) == 1 for shape in table_shapes(card))
    assert len(HOSTILE) + 1 in [len(shape) for shape in table_shapes(calm)]
    assert [len(shape) for shape in table_shapes(card)].count(len(HOSTILE) + 1) == 2  # classes, versions
    tokens = MarkdownIt("commonmark").enable("table").parse(parts_of(card)[1].partition("-->")[2])
    blocks = {token.content.strip() for token in tokens if token.type == "html_block"}
    assert blocks <= {
        "<details>\n<summary>Where default comes from</summary>",
        f"<details>\n<summary>{len(HOSTILE)} classes</summary>",
        "</details>",
    }
    inline = [child for token in tokens for child in token.children or []]
    assert "html_inline" not in {token.type for token in inline}
    assert "image" not in {token.type for token in inline}
    links = {token.attrs["href"] for token in inline if token.type == "link_open"}
    assert all(address.startswith("http://127.0.0.1") for address in links)
    assert END not in parts_of(card)[1] + parts_of(card)[2]
    assert "\u202e" not in parts_of(card)[1]
    assert again(selection_card, hostile_context(), card) == card
    shown = [token.content for token in inline if token.type == "text"]
    assert "a|b" in shown and "{{ 7 * 7 }}{% raw %}" in shown


def test_a_name_written_from_right_to_left_is_isolated_from_its_surroundings():
    card = selection_card(context_of({"default": selection_entry(class_names=("عربية", "Sports"))}))
    assert "\u2068عربية\u2069" in html_of(card)


def test_many_classes_are_shown_in_part_and_counted():
    names = [f"class {number}" for number in range(150)]
    counts = {name: number for number, name in enumerate(names)}
    card = selection_card(context_of({"default": selection_entry(class_names=names, class_counts=counts)}))
    assert "| class 149 | 149 |" in card and "| class 120 |" in card and "| class 119 |" not in card
    assert "and 120 more classes with 7,140 rows; the smallest has 0." in card
    assert len(yaml_of(card)["dataset_info"][0]["features"][1]["dtype"]["class_label"]["names"]) == 150


def test_rows_without_labels_have_no_table_of_classes():
    entry = selection_entry(label_column=None, class_counts={})
    card = selection_card(context_of({"default": entry}))
    assert "## Classes" not in card and "labelled rows** of" not in card


def test_versions_stand_newest_first_with_their_commits_and_the_old_ones_are_counted():
    versions = [version_row(number, commit=SHA if number < 25 else None) for number in range(1, 26)]
    card = selection_card(context_of(versions=versions))
    rows = [line for line in card.splitlines() if line.startswith("| [v")]
    assert rows[0].startswith("| [v25]") and rows[-1].startswith("| [v6]") and len(rows) == 20
    assert f"/datasets/alice/picked/commit/{SHA})" in rows[1] and "/commit/" not in rows[0]
    assert "and 5 more" in card


def test_errors_stand_beside_each_other_with_their_spread():
    card = selection_card(context_of({"default": selection_entry(results=results())}))
    assert "| 597 | 0.497 | 11.04 ± 0.21 | 12.13 ± 0.21 | 10.97 |" in card
    both = {name: selection_entry(config=name, results=results()) for name in ("margin", "random")}
    assert selection_card(context_of(both)).count("| 597 | 0.497 |") == 1


def test_index_only_says_that_texts_are_missing_and_how_to_join_them():
    card = selection_card(context_of({"default": selection_entry(index_only=True)}))
    assert "**The texts are not in this dataset**" in card and "`svp_label`" in card
    code = card.partition("pool = ")[2].partition("```")[0]
    assert '"fancyzhx/ag_news"' in code and SHA in code and 'pool.select(selected["svp_position"])' in code
    assert "The texts are not" not in selection_card(context_of())
    both = {"full": selection_entry(config="full"), "short": selection_entry(config="short", index_only=True)}
    assert "**The texts are not in `short`**" in selection_card(context_of(both))


def test_the_way_rows_were_chosen_is_told_in_words_that_fit():
    told = html_of(selection_card(context_of()))
    assert "learned from the 239 rows that had a label by then and then looked at all 120,000 rows" in told
    core_set = selection_entry(rows=358, lineage=LINEAGE | {"strategy": "its_own", "scoring": {"rows": 90_000}})
    told = html_of(selection_card(context_of({"default": core_set})))
    assert "90,000 of the 120,000 rows of the pool. The 358 rows that scored highest" in told
    assert "start set" not in told
    start = selection_entry(lineage=LINEAGE | {"strategy": "random", "proxy": None, "scoring": {}})
    assert "drawn at random" in html_of(selection_card(context_of({"default": start})))


def told_of(strategy, options=None, *, scored=120_000, **changes):
    """How rows were chosen, and the lineage."""
    lineage = LINEAGE | {"strategy": strategy, "options": options or {}, "scoring": {"rows": scored}} | changes
    return html_of(selection_card(context_of({"default": selection_entry(lineage=lineage)})))


def test_every_strategy_that_asks_a_model_has_words_for_what_it_looks_for():
    assert set(_PICKED) == {name for name, strategy in STRATEGIES.items() if strategy.needs_model}


def test_a_core_set_was_chosen_by_a_model_of_all_labels():
    core_set = {"budget": 358, "labeled_size": 358, "round": 1}
    assert "learned from all rows that have a label and then looked at all 120,000 rows" in told_of(
        "margin", **core_set
    )
    told = told_of("forgetting_events", {"epochs": 20}, **core_set)
    assert "learned from all rows that have a label. The 358 rows that it got right and then wrong again" in told
    assert "(strategy <code>forgetting_events</code> in the first 20 epochs, round 1)" in told
    assert "<td>the first 20 epochs</td>" in told
    told = told_of("aum", {"strata": {"count": 50, "drop_hardest": "10%"}}, **core_set)
    assert "The 358 rows from easy to hard alike, but for the hardest 10%, were picked" in told
    assert "<td>50, without the hardest 10%</td>" in told


def test_candidates_and_reduced_pools_are_told():
    told = told_of("badge", {"candidates": "2%", "candidate_rows": 2_400}, scored=2_639)
    assert "looked at 2,639 of the 120,000 rows of the pool. Candidates were 2,400 rows drawn at random." in told
    assert "<td>2,400, drawn at random</td>" in told
    told = told_of("badge", {"candidates": 2400, "prefilter": "margin", "candidate_rows": 2_400}, scored=2_639)
    assert (
        "looked at all 120,000 rows of the pool. Candidates were the 2,400 rows whose two most likely classes" in told
    )
    assert "<td>2,400, the highest by <code>margin</code></td>" in told
    reduce = {"kind": "seals", "neighbours": 100, "encoder": None}
    told = told_of("margin", {"reduce": reduce, "scored_rows": 9_000, "drawn_at_random": 12}, scored=9_000)
    assert (
        "looked at 9,000 of the 120,000 rows of the pool (8,988 of them most similar to rows with a label, and for "
        "want of more 12 drawn at random, so that all of them were picked)." in told
    )
    enough = told_of("margin", {"reduce": reduce, "scored_rows": 9_000, "drawn_at_random": 0}, scored=9_000)
    assert "looked at 9,000 of the 120,000 rows of the pool (those most similar to rows with a label)." in enough
    assert "<td>9,000 rows by <code>seals</code>, 12 of them drawn at random</td>" in told
    assert "(those over" not in told_of("margin", {"reduce": {"kind": "ups"}, "scored_rows": 120_000})


def test_options_that_others_wrote_break_nothing():
    for text in HOSTILE:
        options = {
            "candidates": text,
            "prefilter": text,
            "reduce": {"kind": text},
            "strata": {"count": text, "drop_hardest": text},
        }
        card = selection_card(
            context_of({"default": selection_entry(lineage=LINEAGE | {"options": options | {"epochs": text}})})
        )
        assert all(len(set(shape)) == 1 for shape in table_shapes(card))
        assert "<script" not in html_of(card) and "<img" not in html_of(card)


IMAGES = POOL | {"modality": "image", "columns": ["picture"]}


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("on_hub", [False, True])
def test_cards_of_image_pools_speak_of_images(on_hub, part):
    where = {} if on_hub else {"path": "photos", "on_hub": False, "revision": None}
    lineage = LINEAGE | {"pool": IMAGES | where | ({"part": True} if part else {})}
    cards = [
        selection_card(context_of({"default": selection_entry(lineage=lineage, index_only=True)})),
        signals_card(context_of({"default": signals_entry(lineage=lineage)}, kind="signals")),
        model_card(context_of({"default": model_entry(lineage=lineage, kind="resnet")}, kind="model")),
    ]
    for card in cards:
        assert not re.search(r"\btexts?\b", parts_of(card)[1])
        assert "image-classification" in card
        for block in MarkdownIt("commonmark").parse(card):
            if block.type == "fence" and block.info == "python":
                compile(block.content, "card", "exec")
    for card in cards[:2]:
        assert ('image_column="picture", split="train"' in card) == (not on_hub)
        assert ("rows=120000" in card) == (part and not on_hub)
    assert ("images = pool.select(" in cards[0]) == (on_hub and not part)


def test_a_pool_that_is_a_file_is_no_source_dataset():
    pool = POOL | {"path": "train.csv", "on_hub": False, "revision": None}
    entry = selection_entry(lineage=LINEAGE | {"pool": pool}, source_card=None)
    found = yaml_of(selection_card(context_of({"default": entry})))
    assert not {"source_datasets", "license", "language"} & found.keys()


def test_languages_are_given_in_a_form_that_the_hub_takes():
    entry = selection_entry(source_card={"license": "mit", "language": [False, "en-US", "EN", "klingon", None]})
    assert yaml_of(selection_card(context_of({"default": entry})))["language"] == ["no", "en"]


def test_a_token_does_not_get_into_the_text():
    token = "hf_" + "canaryCanaryCanaryCanary12"
    entry = selection_entry(lineage=LINEAGE | {"strategy": token}, label_column=token)
    card = selection_card(context_of({"default": entry}, versions=[version_row(1, title=f"with {token}")]))
    assert token not in card


@pytest.mark.parametrize(
    ("rows", "bucket"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1_000, "1K<n<10K"),
        (9_999, "1K<n<10K"),
        (10_000, "10K<n<100K"),
        (100_000, "100K<n<1M"),
        (1_000_000, "1M<n<10M"),
        (10**11, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)
def test_sizes_fall_into_the_buckets_of_the_hub(rows, bucket):
    assert size_category(rows) == bucket


def test_the_lines_that_select_from_signals_fit_the_signals_that_are_there():
    def lines(**changes):
        return signals_card(context_of({"default": signals_entry() | changes}, kind="signals"))

    assert 'signals.select("margin", budget=1000)' in lines()
    assert 'signals.select("margin", budget=160)' in lines(signals={"probs": {"shape": [200, 4]}}, available=160)
    bare = lines(signals={"embeddings": {"shape": [200, 8], "dtype": "float32"}})
    assert 'signals.select("random"' in bare and "in the order of" not in bare


def test_a_model_names_its_data_base_and_measurements():
    entry = model_entry(kind="transformer", library_name="transformers", spec={"model_name_or_path": "acme/tiny-bert"})
    card = model_card(context_of({"default": entry}, kind="model"))
    data = ModelCard(card).data
    assert (data.base_model, data.datasets) == ("acme/tiny-bert", ["fancyzhx/ag_news"])
    assert [(r.metric_type, r.metric_value, r.dataset_revision) for r in data.eval_results] == [
        ("accuracy", 0.8896, SHA),
        ("f1", 0.8885, SHA),
    ]
    assert 'pipeline("text-classification", model="alice/picked", revision="v2")' in card
    local = model_entry(spec={"model_name_or_path": "./my/model"}, test=None, metrics=None)
    bare = ModelCard(model_card(context_of({"default": local}, kind="model"))).data
    assert bare.base_model is None and bare.eval_results is None and bare.datasets == ["fancyzhx/ag_news"]


@pytest.mark.parametrize("names", [("margin", "random"), ("margin", "default")])
def test_datasets_loads_each_configuration_with_features_and_class_names(hub, repo_id, tmp_path, names):
    class_names = ("yes", "null", "1e3", "a: b", "it's", "日本語 🧪", "no\nline", "~", "1.0", "<b>", "")
    api = HfApi()
    api.create_repo(repo_id, repo_type="dataset")
    configs = {}
    for number, name in enumerate(names):
        label = Features({"text": Value("string"), "label": ClassLabel(names=list(class_names))})
        table = pa.table({"text": [f"{name} {row}" for row in range(11)], "label": list(range(11))}, label.arrow_schema)
        pq.write_table(table, tmp_path / "t.parquet")
        path = f"data/{name}/train-00000-of-00001.parquet"
        api.upload_file(path_or_fileobj=tmp_path / "t.parquet", path_in_repo=path, repo_id=repo_id, repo_type="dataset")
        info = DatasetInfo(
            features=label,
            splits=SplitDict({"train": SplitInfo("train", num_bytes=100 + number, num_examples=11)}),
            download_size=(tmp_path / "t.parquet").stat().st_size,
            dataset_size=100 + number,
        )
        configs[name] = selection_entry(
            config=name, rows=11, class_names=class_names, dataset_info=info._to_yaml_dict()
        )
    readme = "---\npretty_name: Mine\n---\nHello\n"
    for _ in range(2):
        readme = selection_card(dataclasses.replace(context_of(configs, readme=readme), repo_id=repo_id))
    api.upload_file(path_or_fileobj=readme.encode(), path_in_repo="README.md", repo_id=repo_id, repo_type="dataset")
    for name in names:
        found = load_dataset(repo_id, name, split="train")
        assert found["text"][:] == [f"{name} {row}" for row in range(11)]
        assert tuple(found.features["label"].names) == class_names
    default = "default" if "default" in names else names[0]
    assert load_dataset(repo_id, split="train")["text"][0] == f"{default} 0"


@pytest.mark.parametrize("columns", [["text"], ["subject", "body"]])
@pytest.mark.parametrize("on_hub", [True, False])
@pytest.mark.parametrize("kind", ["selection", "index_only", "signals", "model"])
def test_the_python_in_a_card_is_python_and_names_the_pools_columns(kind, on_hub, columns):
    pool = POOL | {"columns": columns} | ({} if on_hub else {"path": "train.csv", "on_hub": False, "revision": None})
    changes = {"lineage": LINEAGE | {"pool": pool}}
    if kind == "model":
        card = model_card(context_of({"default": model_entry(**changes)}, kind="model"))
    elif kind == "signals":
        card = signals_card(context_of({"default": signals_entry(**changes)}, kind="signals"))
    else:
        card = selection_card(context_of({"default": selection_entry(index_only=kind == "index_only", **changes)}))
    blocks = [
        token for token in MarkdownIt("commonmark").parse(card) if token.type == "fence" and token.info == "python"
    ]
    assert blocks
    for block in blocks:
        compile(block.content, "card", "exec")
    code = "".join(block.content for block in blocks)
    assert ("load_pool(" in code) == (not on_hub and kind in ("index_only", "signals"))
    if "load_pool(" in code:
        assert f'text_columns=({", ".join(f""" "{name}" """.strip() for name in columns)},)' in code
