"""Facts as lineage.json holds them, for cards in tests."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import yaml

from svp_nlp.hub.card import model_card, selection_card, signals_card
from svp_nlp.hub.push import CardContext

BEGIN = "<!-- svp_nlp: begin"
END = "<!-- svp_nlp: end -->"
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
