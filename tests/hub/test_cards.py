"""Cards: what people wrote stays, what others wrote cannot break the page, the Hub and `datasets` read the YAML."""

from __future__ import annotations

import copy
import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import ClassLabel, DatasetInfo, Features, SplitDict, SplitInfo, Value, load_dataset
from huggingface_hub import DatasetCard, HfApi, ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from localhub.cards import validate_card
from markdown_it import MarkdownIt

from svp_nlp.errors import HubRefused
from svp_nlp.hub.card import model_card, selection_card, signals_card, size_category
from svp_nlp.hub.push import CardContext
from svp_nlp.hub.readme import write_readme

BEGIN, END = "<!-- svp_nlp: begin", "<!-- svp_nlp: end -->"
SHA = "0123456789abcdef0123456789abcdef01234567"
CLASSES = ("World", "Sports", "Business", "Sci/Tech")
POOL = {
    "path": "fancyzhx/ag_news",
    "on_hub": True,
    "name": None,
    "split": "train",
    "revision": SHA,
    "columns": ["text"],
    "id_column": None,
    "rows": 120_000,
    "fingerprint": "a1" * 16,
}
LINEAGE = {
    "pool": POOL,
    "strategy": "margin",
    "budget": 358,
    "round": 2,
    "seed": 0,
    "labeled_size": 597,
    "parent": "b2" * 16,
    "proxy": {"kind": "fasttext", "spec": {"dim": 10}, "fingerprint": "c3" * 16, "reproducible": True},
    "scoring": {"dtype": "float32", "world_size": 1, "rows": 120_000},
    "recipe_sha256": "d4" * 32,
    "versions": {"svp_nlp": "0.1.0", "torch": "2.9.0"},
}
HOSTILE = (
    "a|b",
    "`code` ``x``",
    "two\nlines\r\n---\n# heading",
    "<script>alert(1)</script>",
    "--- | ---",
    "![x](https://example.org/a.png)",
    "[x](javascript:alert(1))",
    "*b* _i_ ~~s~~ $x$",
    "null",
    "yes: no",
    "شبكة \u202e عربية",
    "日本語 🧪",
    "",
    "x" * 500,
    "\\| \\",
    "&lt;b&gt; &amp;",
    "<!-- svp_nlp: end -->",
    "{{ 7 * 7 }}{% raw %}",
    "http://evil.example www.evil.example",
    "\x00\x1b[31m",
)


def features_of(class_names):
    names = {str(number): name for number, name in enumerate(class_names)}
    return [{"name": "text", "dtype": "string"}, {"name": "label", "dtype": {"class_label": {"names": names}}}]


def selection_entry(*, config="default", class_names=CLASSES, rows=597, version="v2", **changes):
    counts = {name: rows // len(class_names) for name in class_names}
    return {
        "version": version,
        "key": "e5" * 16,
        "created": "2026-11-23T02:40:00+00:00",
        "rows": rows,
        "index_only": False,
        "label_column": "label",
        "rows_fingerprint": "f6" * 16,
        "files": {f"data/{config}/train-00000-of-00001.parquet": {"sha256": "ab" * 32, "bytes": 12_345}},
        "dataset_info": {
            "features": features_of(class_names),
            "splits": [{"name": "train", "num_bytes": 1000, "num_examples": rows}],
            "download_size": 900,
            "dataset_size": 1000,
        },
        "class_counts": counts,
        "selection": {"fingerprint": "9f" * 16, "rows": 358},
        "lineage": copy.deepcopy(LINEAGE),
        "source_card": {"license": "cc-by-4.0", "language": ["en"], "task_categories": ["text-classification"]},
        "results": None,
        "recipe": None,
    } | changes


def results():
    points = []
    for size, proxy, random, target in ((239, 0.1302, 0.1391, 0.1288), (597, 0.1104, 0.1213, 0.1097)):
        for selector, strategy, error in (
            ("proxy", "margin", proxy),
            ("random", "random", random),
            ("target_selects", "margin", target),
        ):
            points.append(
                {
                    "selector": selector,
                    "strategy": strategy,
                    "labeled_size": size,
                    "labeled_percent": size / 1200,
                    "error_mean": error,
                    "error_std": None if selector == "target_selects" else 0.0021,
                    "seeds": 1 if selector == "target_selects" else 3,
                }
            )
    return {"target": "vdcnn", "metric": "error", "rows": points}


def version_row(number, *, config="default", title="239 rows by margin, round 0", commit=SHA):
    row = {"version": f"v{number}", "config": config, "title": title, "key": "e5" * 16}
    return row | {"created": f"2026-11-{number % 27 + 1:02d}T02:40:00+00:00"} | ({"commit": commit} if commit else {})


def context_of(configs=None, *, readme=None, kind="selection", versions=None, pictures=(), version="v2"):
    configs = {"default": selection_entry()} if configs is None else configs
    versions = [version_row(1), version_row(2, commit=None)] if versions is None else versions
    document = {"format": 1, "kind": kind, "svp_nlp": "0.1.0", "configs": configs, "versions": versions}
    config = next(iter(configs))
    return CardContext("alice/picked", version, document, config, readme, tuple(pictures))


def signals_entry(**changes):
    entry = selection_entry(rows=120_000, **changes)
    for name in ("selection", "class_counts", "label_column"):
        del entry[name]
    signals = {
        "margin": {"dtype": "float32", "shape": [120_000]},
        "probs": {"dtype": "float32", "shape": [120_000, 4]},
        "embeddings": {"dtype": "float32", "shape": [120_000, 10]},
    }
    return entry | {"signals": signals, "class_names": list(CLASSES)}


def model_entry(**changes):
    return {
        "version": "v2",
        "key": "e5" * 16,
        "created": "2026-11-23T02:40:00+00:00",
        "files": {"model.safetensors": {"sha256": "ab" * 32, "bytes": 12_345}},
        "role": "target",
        "kind": "vdcnn",
        "spec": {"kind": "vdcnn", "depth": 9},
        "class_names": list(CLASSES),
        "metrics": {"accuracy": 0.8896, "macro_f1": 0.8885},
        "test": {"path": "fancyzhx/ag_news", "split": "test", "revision": SHA, "rows": 7_600},
        "labeled_size": 597,
        "lineage": {k: LINEAGE[k] for k in ("pool", "strategy", "seed", "recipe_sha256", "versions")}
        | {"selection": "9f" * 16},
        "dataset": "alice/picked",
        "library_name": "svp_nlp",
        "source_card": {"license": "cc-by-4.0", "language": ["en"]},
    } | changes


def yaml_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def parts_of(card):
    """(before, ours, after) of the text below the YAML block."""
    text = card.replace("\r\n", "\n").split("---\n", 2)[2]
    before, _, rest = text.partition(BEGIN)
    ours, _, after = rest.partition(END)
    return before, ours, after


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


CARDS = pytest.mark.parametrize(
    ("make", "context"),
    [
        (selection_card, context_of({"default": selection_entry(results=results())}, pictures=["learning_curve.png"])),
        (signals_card, context_of({"default": signals_entry()}, kind="signals")),
        (model_card, context_of({"default": model_entry()}, kind="model")),
    ],
    ids=["selection", "signals", "model"],
)


def again(make, context, readme):
    return make(dataclasses.replace(context, readme=readme))


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


@CARDS
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("top", ["", "---\n# ours is mine\npretty_name: 'News:  few'  # kept\nversion: 1.10\n---\n"])
def test_what_people_wrote_around_our_part_stays_byte_for_byte(make, context, newline, top):
    before, after = "# My title\n\n\ttabs and  spaces \n", "\n\n## Thanks\r\n---\nto all\\1 \\g<0>"
    first = again(make, context, (top + before).replace("\n", newline))
    assert before.replace("\n", newline) in first
    written = first + after
    second = again(make, context, written)
    assert second == written
    assert second.count(BEGIN) == second.count(END) == 1
    if top:
        assert "# ours is mine" + newline + "pretty_name: 'News:  few'  # kept" + newline + "version: 1.10" in second
    if newline == "\r\n":
        assert "\n" not in first.replace("\r\n", "")


@CARDS
def test_what_changed_in_our_part_is_replaced_and_nothing_else(make, context):
    card = make(context)
    mine = card.replace(END, f"{END}\nmine").replace(BEGIN, f"also mine\n{BEGIN}")
    changed = mine.replace("svp_nlp.load", "somebody.loads").replace("## Versions", "## Nothing")
    assert changed != mine
    assert again(make, context, changed) == mine


@CARDS
def test_without_our_marks_our_part_is_appended_once_and_nothing_is_lost(make, context):
    card = make(context)
    begin_line = next(line for line in card.splitlines() if line.startswith(BEGIN))
    for damaged in (
        card.replace(begin_line + "\n", "").replace(END, ""),
        card.replace(begin_line + "\n", ""),
        card.replace(END, ""),
    ):
        repaired = again(make, context, damaged)
        text = damaged.split("---\n", 2)[2]
        assert text.rstrip("\n") in repaired
        assert repaired.endswith(f"{END}\n")
        assert again(make, context, repaired) == repaired


MARKS = [f"{BEGIN} -->", END, f"see `{BEGIN} -->`", "-->"]
PIECES = st.sampled_from(["\n", "\r\n", "---", "# Title", "text", " ", "a: b", "| x |", "```", "\ufeff", *MARKS])


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join), st.lists(PIECES, max_size=6).map("".join))
def test_whatever_stands_around_our_part_a_second_push_changes_nothing(before, after):
    def written(readme):
        return write_readme(readme, fields={"license": "mit", "tags": ["svp_nlp"]}, body="# Ours", where="a/b")

    try:
        first = written(before)
    except HubRefused:
        return
    assert written(first) == first
    assert first.count("# Ours") == 1
    assert DatasetCard(first).data.license == "mit"
    assert written(first + "\n" + after).count("# Ours") == 1
    if not {BEGIN, END, "---"} & {piece for piece in (BEGIN, END, "---") if piece in before + after}:
        assert before.removeprefix("\ufeff") in first
        assert written(first + after) == first + after


def test_a_copy_of_our_part_is_not_kept_beside_it():
    card = selection_card(context_of())
    ours = card[card.index(BEGIN) : card.index(END) + len(END)]
    once = again(selection_card, context_of(), card + "between\n" + ours + "\nend\n")
    assert once == card + "between\n" + "\nend\n"


def test_a_licence_a_language_and_tags_that_a_user_set_stay():
    theirs = "---\nlicense: mit\nlanguage: [de, 'no']\ntags:\n- mine\nsize_categories: [other]\n---\nHello\n"
    card = selection_card(context_of(readme=theirs))
    found = yaml_of(card)
    assert (found["license"], found["language"], found["size_categories"]) == ("mit", ["de", "no"], ["other"])
    assert found["tags"] == ["mine", "active-learning", "selection-via-proxy", "svp_nlp"]
    assert "language: [de, 'no']\n" in card
    assert found["source_datasets"] == ["fancyzhx/ag_news"]


def test_what_we_wrote_into_the_yaml_last_time_is_brought_up_to_date():
    first = selection_card(context_of())
    grown = {"default": selection_entry(rows=5000, source_card={"license": "odbl", "language": ["fr"]})}
    second = yaml_of(selection_card(context_of(grown, readme=first)))
    assert (second["license"], second["language"]) == ("odbl", ["fr"])
    assert second["size_categories"] == ["1K<n<10K"]
    changed = first.replace("license: cc-by-4.0", "license: mit")
    third = yaml_of(selection_card(context_of(grown, readme=changed)))
    assert (third["license"], third["language"]) == ("mit", ["fr"])


def test_yaml_that_cannot_be_taken_apart_keeps_its_values():
    for theirs in (
        "---\n{license: mit, pretty_name: x}\n---\n",
        "---\nannotations: &a [1, 2]\ntags: [a]\nextra: *a\ndataset_info: *a\n---\n",
        "---\n  license: mit\n  pretty_name: x\n---\n",
    ):
        before, found = yaml_of(theirs), yaml_of(selection_card(context_of(readme=theirs)))
        kept = {key: value for key, value in before.items() if key not in ("tags", "dataset_info")}
        assert {key: found[key] for key in kept} == kept
        assert found["configs"]


def test_configurations_that_we_do_not_know_stay_and_there_is_one_default():
    foreign = "---\nconfigs:\n- config_name: extra\n  data_files: extra.csv\n  default: true\n---\n"
    found = yaml_of(selection_card(context_of({"margin": selection_entry(config="margin")}, readme=foreign)))["configs"]
    assert [config["config_name"] for config in found] == ["margin", "extra"]
    assert [config.get("default") for config in found] == [None, True]
    named = yaml_of(selection_card(context_of(readme=foreign)))["configs"]
    assert [config.get("default") for config in named] == [True, None]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("block", "line"),
    [
        ("license: mit\ntags: [a\npretty_name: x", 4),
        ("a: b: c", 2),
        ("tags:\n\t- a", 3),
        ("- a\n- b", 2),
        ("just text", 2),
        ("when: 2026-13-45", 2),
        ("a: 1\nb: \x07", 3),
    ],
)
def test_a_broken_yaml_block_is_refused_with_its_line(block, line, newline):
    readme = f"---\n{block}\n---\ntext".replace("\n", newline)
    with pytest.raises(
        HubRefused, match=rf"alice/picked: README.md, line {line}: .*; correct it .* push again"
    ) as error:
        selection_card(context_of(readme=readme))
    assert "\n" not in str(error.value)


def test_a_yaml_block_without_an_end_is_refused():
    with pytest.raises(HubRefused, match="line 1: its YAML block has no end"):
        selection_card(context_of(readme="---\nlicense: mit\n\n# Title\n"))


@pytest.mark.parametrize(
    "readme", ["\n\n", "---\n---\n", "---\n\n---\n", "\ufeff---\nlicense: mit\n---", "--- \nlicense: mit\n--- \n"]
)
def test_odd_but_valid_readmes_are_taken(readme):
    card = selection_card(context_of(readme=readme))
    assert validate_card(card) == ([], [])
    assert DatasetCard(card).data.license == ("mit" if "mit" in readme else "cc-by-4.0")
    assert again(selection_card, context_of(), card) == card


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


def test_a_model_names_its_data_base_and_measurements():
    entry = model_entry(kind="transformer", library_name="transformers", spec={"model_name_or_path": "acme/tiny-bert"})
    card = model_card(context_of({"default": entry}, kind="model"))
    data = ModelCard(card).data
    assert (data.base_model, data.datasets) == ("acme/tiny-bert", ["alice/picked", "fancyzhx/ag_news"])
    assert [(r.metric_type, r.metric_value, r.dataset_revision) for r in data.eval_results] == [
        ("accuracy", 0.8896, SHA),
        ("f1", 0.8885, SHA),
    ]
    assert 'pipeline("text-classification", model="alice/picked", revision="v2")' in card
    local = model_entry(spec={"model_name_or_path": "./my/model"}, test=None, metrics=None, dataset=None)
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
