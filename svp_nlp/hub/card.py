"""README.md of what is pushed: a YAML block that the Hub and `datasets` read, and a page that people read.

All facts come from lineage.json, so the page of a version can be made again from the version alone. The texts are
the templates in hub_cards/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from svp_nlp.hub.card_tables import (
    address,
    classes_of,
    dataset_link,
    enumeration,
    lineage_of,
    overview,
    percent,
    pool_link,
    results_of,
    shape_of,
    versions_of,
)
from svp_nlp.hub.card_words import Facts, how_chosen, is_of_images, proxy_name
from svp_nlp.hub.readme import write_readme
from svp_nlp.markdown import Markdown, code, escape, link, render, table
from svp_nlp.report_format import count, learner_name

if TYPE_CHECKING:
    from huggingface_hub import CardData

    from svp_nlp.hub.push import CardContext

_TEXT_TASK = "text-classification"
_SIDE_BY_SIDE = 4  # configurations in one table of classes
_TAGS = ("active-learning", "selection-via-proxy", "svp_nlp")
_BUCKETS = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_SIGNALS = {
    "probs": "probability of each class",
    "embeddings": "the model's inner representation of the row",
    "correct": "whether each epoch of training got the row right",
}
_METRICS = {"accuracy": ("accuracy", "Accuracy"), "macro_f1": ("f1", "Macro F1"), "error": ("error", "Error")}


def selection_card(context: CardContext) -> str:
    """README.md of selected rows.

    Raises:
        HubRefused: the YAML block of the README that is there cannot be read.
    """
    entry = context.document["configs"][context.config]
    configs = context.document["configs"]
    body = render(
        "selection.md",
        **_shared(context),
        configs=[{**e, "name": name, "how": how_chosen(e), "pool_link": pool_link(e)} for name, e in configs.items()],
        overview=overview(configs),
        pictures=[Markdown(quote(path)) for path in context.pictures],
        results=results_of(configs),
        classes=classes_of({context.config: entry} if len(configs) > _SIDE_BY_SIDE else configs),
        without_texts=enumeration([name for name, e in configs.items() if e["index_only"]]),
        grown=any(e["rows"] > e["selection"]["rows"] for e in configs.values()),
        labelled=entry.get("label_column") is not None,
        labelled_rows=f"{count(entry['rows'])} labelled rows"
        if entry.get("label_column")
        else f"{count(entry['rows'])} rows",
    )
    return _readme(context, _dataset_fields(context, tags=_TAGS), body)


def signals_card(context: CardContext) -> str:
    """README.md of signals: what a proxy says about every row of a pool.

    Raises:
        HubRefused: the YAML block of the README that is there cannot be read.
    """
    entry = context.document["configs"][context.config]
    rows = [
        [
            code(name),
            escape(_SIGNALS.get(name, "score of each row; the higher, the earlier it is picked")),
            escape(shape_of(signal)),
        ]
        for name, signal in entry["signals"].items()
    ]
    body = render(
        "signals.md",
        **_shared(context),
        overview=overview(context.document["configs"]),
        signals=table(["signal", "what it is", "shape and type"], rows, "lll"),
        strategy=_example(entry["signals"]),
        tells_labelled=any(f["name"] == "svp_labeled" for f in (entry.get("dataset_info") or {}).get("features") or []),
        budget=min(1000, int(entry.get("available") or entry["rows"])),
        class_names=enumeration(entry.get("class_names") or []) if "probs" in entry["signals"] else None,
        proxy_name=proxy_name(entry["lineage"].get("proxy")),
    )
    return _readme(context, _dataset_fields(context, tags=(*_TAGS, "signals")), body)


def _example(signals: Facts) -> str:
    """A strategy that these signals are enough for."""
    scores = [name for name, signal in signals.items() if len(signal["shape"]) == 1]
    return scores[0] if scores else "margin" if "probs" in signals else "random"


def model_card(context: CardContext) -> str:
    """README.md of a target or a proxy.

    Raises:
        HubRefused: the YAML block of the README that is there cannot be read.
    """
    entry = context.document["configs"][context.config]
    metrics, test = entry.get("metrics") or {}, entry.get("test")
    measured = [[_METRICS.get(name, (name, name))[1], percent(value)] for name, value in metrics.items()]
    body = render(
        "model.md",
        **_shared(context),
        model_name=learner_name({**(entry.get("spec") or {}), "kind": entry["kind"]}, entry["kind"]),
        chosen=_chosen(entry["lineage"].get("strategy")),
        test=test,
        metrics=table(["metric", "value in %"], measured, "lr") if metrics else None,
        test_link=None if test is None else dataset_link(test, on_hub=test.get("revision") is not None),
        class_names=enumeration(entry.get("class_names") or []),
    )
    return _readme(context, _model_fields(context), body)


def _chosen(strategy: str | None) -> Markdown:
    if strategy in ("all rows", None):
        return Markdown("all that have a label")
    return Markdown("drawn at random" if strategy == "random" else f"chosen by {code(strategy)}")


def _readme(context: CardContext, fields: Facts, body: str) -> str:
    # By way of JSON: equal lists that are one object would become YAML anchors.
    return write_readme(context.readme, fields=json.loads(json.dumps(fields)), body=body, where=context.repo_id)


def _plain(data: CardData) -> dict[str, Any]:
    fields: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return fields


def _shared(context: CardContext) -> dict[str, Any]:
    """What the templates of all kinds use."""
    entry = context.document["configs"][context.config]
    pool = entry["lineage"]["pool"]
    kind = "models" if context.document.get("kind") == "model" else "datasets"
    return {
        "repo_id": context.repo_id,
        "version": context.version,
        "version_link": link(context.version, address(kind, context.repo_id, "tree", context.version)),
        "config": context.config,
        "several": len(context.document["configs"]) > 1,
        "entry": entry,
        "lineage": entry["lineage"],
        "pool": pool,
        "pool_name": pool["path"] if pool.get("on_hub") else PurePosixPath(str(pool["path"])).name,
        "pool_link": pool_link(entry),
        "reads": "image" if is_of_images(entry) else "text",
        "date": str(entry.get("created", ""))[:10],
        "versions": versions_of(context, kind),
        "lineages": [(name, lineage_of(e)) for name, e in context.document["configs"].items()],
        "licence": _union(context, "license"),
        "language": _union(context, "language"),
    }


def _union(context: CardContext, field: str) -> list[str]:
    """A field of the parents' cards, in a form that the Hub takes."""
    found: dict[str, None] = {}
    for entry in context.document["configs"].values():
        value = (entry.get("source_card") or {}).get(field)
        for item in value if isinstance(value, list) else [value]:
            text = "no" if item is False and field == "language" else item  # YAML reads Norwegian as a Boolean
            if isinstance(text, str) and text:
                found[text.lower().split("-")[0] if field == "language" else text] = None
    return [v for v in found if field != "language" or re.fullmatch(r"[a-z]{2,3}|code|multilingual", v)]


def _task(context: CardContext) -> str:
    return "image-classification" if any(map(is_of_images, context.document["configs"].values())) else _TEXT_TASK


def size_category(rows: int) -> str:
    """The bucket of the Hub that a number of rows falls in."""
    bucket = max(len(str(rows)) - 3, 0)  # by the number of digits
    if bucket == 0:
        return f"n<{_BUCKETS[0]}"
    return f"{_BUCKETS[bucket - 1]}<n<{_BUCKETS[bucket]}" if bucket < len(_BUCKETS) else f"n>{_BUCKETS[-1]}"


def _dataset_fields(context: CardContext, *, tags: Sequence[str]) -> dict[str, Any]:
    from huggingface_hub import DatasetCardData

    configs = context.document["configs"]
    licence, language = _union(context, "license"), _union(context, "language")
    parents = [e["lineage"]["pool"]["path"] for e in configs.values() if e["lineage"]["pool"].get("on_hub")]
    first = "default" if "default" in configs else next(iter(configs))
    data = DatasetCardData(
        language=language or None,
        license=licence[0] if len(licence) == 1 else licence or None,
        size_categories=[size_category(sum(int(entry["rows"]) for entry in configs.values()))],
        source_datasets=list(dict.fromkeys(parents)) or None,
        task_categories=[_task(context)],
        tags=list(tags),
        configs=[
            {
                "config_name": name,
                "data_files": [{"split": "train", "path": f"{_folder(name, entry)}/train-*"}],
                **({"default": True} if name == first else {}),
            }
            for name, entry in configs.items()
        ],
        dataset_info=[
            {"config_name": name, **e["dataset_info"]} for name, e in configs.items() if e.get("dataset_info")
        ],
    )
    return _plain(data)


def _folder(name: str, entry: Facts) -> str:
    files = sorted(path for path in entry.get("files") or {} if path.endswith(".parquet"))
    return str(PurePosixPath(files[0]).parent) if files else f"data/{name}"


def _model_fields(context: CardContext) -> dict[str, Any]:
    from huggingface_hub import EvalResult, ModelCardData

    entry = context.document["configs"][context.config]
    pool, test, metrics = entry["lineage"]["pool"], entry.get("test"), entry.get("metrics") or {}
    task = _task(context)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=test["path"],
            dataset_name=test["path"],
            dataset_split=test.get("split"),
            dataset_revision=test["revision"],
            metric_type=_METRICS.get(name, (name, name))[0],
            metric_name=_METRICS.get(name, (name, name))[1],
            metric_value=value,
        )
        for name, value in metrics.items()
        if test is not None and test.get("revision")  # the Hub wants the id of a dataset here
    ]
    data = ModelCardData(
        language=_union(context, "language") or None,
        library_name=entry.get("library_name"),
        base_model=_base_model(entry.get("spec") or {}),
        datasets=[pool["path"]] if pool.get("on_hub") else None,
        metrics=list(dict.fromkeys(_METRICS.get(name, (name, name))[0] for name in metrics)) or None,
        pipeline_tag=task,
        tags=[*_TAGS, str(entry["role"])],
        model_name=context.repo_id.split("/")[-1] if results else None,
        eval_results=results or None,
    )
    return _plain(data)


def _base_model(spec: Facts) -> str | None:
    """The model of the Hub that was trained on; None for a folder or for random weights."""
    name = str(spec.get("model_name_or_path") or "")
    return name if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name) else None
