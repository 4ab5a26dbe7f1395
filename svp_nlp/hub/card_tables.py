"""The parts of a card that are made of facts: tables and links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from svp_nlp.hub.card_words import Facts, first_epochs, option_facts, proxy_name
from svp_nlp.markdown import Markdown, code, escape, link, table
from svp_nlp.report_format import DASH, count, learner_name, share, short

if TYPE_CHECKING:
    from svp_nlp.hub.push import CardContext

_SHOWN_CLASSES = 30
_SHOWN_VERSIONS = 20
_SELECTORS = {"proxy": "chosen by the proxy", "target_selects": "chosen by the target", "random": "random"}


def address(kind: str, repo_id: str, *rest: str) -> str:
    from huggingface_hub import constants

    prefix = "" if kind == "models" else f"{kind}/"
    return "/".join([f"{constants.ENDPOINT}/{prefix}{quote(repo_id)}", *(quote(part, safe="") for part in rest)])


def dataset_link(dataset: Facts, *, on_hub: bool) -> Markdown:
    if not on_hub:
        return code(PurePosixPath(str(dataset["path"])).name)
    rest = ["tree", str(dataset["revision"])] if dataset.get("revision") else []
    return link(dataset["path"], address("datasets", str(dataset["path"]), *rest))


def pool_link(entry: Facts) -> Markdown:
    pool = entry["lineage"]["pool"]
    return dataset_link(pool, on_hub=bool(pool.get("on_hub")))


def overview(configs: Mapping[str, Facts]) -> Markdown:
    rows = [
        [
            code(name),
            count(entry["rows"]),
            code(entry["lineage"].get("strategy")),
            proxy_name(entry["lineage"].get("proxy")),
            str(entry["lineage"].get("round", DASH)),
            str(entry["lineage"].get("seed", DASH)),
            entry["version"],
        ]
        for name, entry in configs.items()
    ]
    return table(["configuration", "rows", "strategy", "proxy", "round", "seed", "version"], rows, "lrllrrl")


def results_of(configs: Mapping[str, Facts]) -> list[Facts]:
    """What the template says about each of the experiments behind the configurations."""
    found: list[tuple[list[str], Facts]] = []
    for name, entry in configs.items():
        results = entry.get("results")
        if not results or not results["rows"]:
            continue
        same = next((names for names, before in found if before == results), None)
        if same is None:
            found.append(([name], results))
        else:
            same.append(name)
    return [
        {
            "names": enumeration(names),
            "metric": results["metric"],
            "target": learner_name({"kind": results["target"]}, "model"),
            "seeds": _seeds(results["rows"]),
            "table": _errors(results["rows"]),
        }
        for names, results in found
    ]


def _seeds(points: Sequence[Facts]) -> str:
    numbers = sorted({int(point["seeds"]) for point in points})
    few, many = numbers[0], numbers[-1]
    if many == 1:
        return "one seed, so without a spread"
    return f"mean ± standard deviation of {many if few == many else f'{few} to {many}'} seeds"


def _errors(points: Sequence[Facts]) -> Markdown:
    series = list(dict.fromkeys((point["selector"], point["strategy"]) for point in points))
    sizes = sorted(
        {(point["labeled_size"], point["labeled_percent"]) for point in points}, key=lambda size: float(size[0])
    )
    by_place = {(p["selector"], p["strategy"], p["labeled_size"]): p for p in points}
    header: list[Any] = ["labelled rows", "% of pool"]
    for selector, strategy in series:
        name = _SELECTORS.get(selector, selector)
        header.append(name if selector == strategy or not strategy else f"{name}, {strategy}")
    lines = []
    for size, percent in sizes:
        found = [by_place.get((selector, strategy, size)) for selector, strategy in series]
        lines.append([count(size), DASH if percent is None else f"{percent:.3g}", *map(_error, found)])
    return table(header, lines, "r" * len(header))


def _error(point: Facts | None) -> str:
    if point is None:
        return DASH
    spread = "" if point.get("error_std") is None else f" ± {share(point['error_std'], 2)}"
    return f"{share(point['error_mean'], 2)}{spread}"


def classes_of(configs: Mapping[str, Facts]) -> Facts | None:
    """The table of classes, and what is left out of it; None where nothing is labelled."""
    counts = {name: entry["class_counts"] for name, entry in configs.items() if entry.get("class_counts")}
    if not counts:
        return None
    names = list(dict.fromkeys(name for column in counts.values() for name in column))
    biggest = sorted(names, key=lambda name: -sum(column.get(name, 0) for column in counts.values()))[:_SHOWN_CLASSES]
    shown = names if len(names) <= _SHOWN_CLASSES else biggest
    totals = {name: sum(column.values()) for name, column in counts.items()}
    one = len(counts) == 1
    header = ["class", *(["rows", "%"] if one else map(code, counts))]
    lines = []
    for name in shown:
        cells = [count(column.get(name, 0)) for column in counts.values()]
        if one:
            cells += [share(column.get(name, 0) / max(totals[key], 1)) for key, column in counts.items()]
        lines.append([name, *cells])
    rest = [sum(column.get(name, 0) for column in counts.values()) for name in names if name not in set(shown)]
    return {
        "table": table(header, lines, "l" + "r" * (len(header) - 1)),
        "classes": len(names),
        "more": len(rest),
        "more_rows": sum(rest),
        "smallest": min(rest, default=0),
    }


def versions_of(context: CardContext, kind: str) -> Facts:
    """The table of versions, newest first, and how many older ones there are."""
    newest_first = list(reversed(context.document["versions"]))
    several = len({version["config"] for version in newest_first}) > 1
    rows = []
    for version in newest_first[:_SHOWN_VERSIONS]:
        name, sha = str(version["version"]), version.get("commit")
        commit = link(str(sha)[:7], address(kind, context.repo_id, "commit", str(sha))) if sha else DASH
        tagged = link(name, address(kind, context.repo_id, "tree", name))
        which = [code(version["config"])] if several else []
        rows.append([tagged, str(version["created"])[:10], *which, version["title"], commit])
    header = ["version", "date", *(["configuration"] if several else []), "what is new", "commit"]
    return {
        "table": table(header, rows, "l" * len(header)),
        "more": max(len(newest_first) - _SHOWN_VERSIONS, 0),
        "commits": address(kind, context.repo_id, "commits", "main"),
    }


def lineage_of(entry: Facts) -> Markdown:
    """Where a configuration comes from. Hashes are cut: whole they are in lineage.json."""
    lineage = entry["lineage"]
    pool, proxy, scoring = lineage["pool"], lineage.get("proxy"), lineage.get("scoring") or {}
    place = ", ".join(str(part) for part in (pool.get("name"), pool.get("split")) if part)
    selection = entry.get("selection")
    fingerprint = selection["fingerprint"] if isinstance(selection, Mapping) else lineage.get("selection")
    rows: list[tuple[str, Any]] = [
        ("pool", Markdown(f"{pool_link(entry)} {escape(f'({place})') if place else ''}".strip())),
        ("revision of the pool", code(pool["revision"]) if pool.get("revision") else None),
        ("rows of the pool", f"{count(pool['rows'])}{', a part of it, drawn at random' if pool.get('part') else ''}"),
        ("columns the model saw", ", ".join(map(str, pool.get("columns") or [])) or None),
        ("fingerprint of the pool", _hash(pool.get("fingerprint"))),
        ("strategy", code(lineage["strategy"]) if lineage.get("strategy") else None),
        *option_facts(lineage),
        ("budget of the round", count(lineage["budget"]) if lineage.get("budget") else None),
        ("round", lineage.get("round")),
        ("seed", lineage.get("seed")),
        ("labelled rows", count(size) if (size := lineage.get("labeled_size", entry.get("labeled_size"))) else None),
        ("proxy", proxy_name(proxy)),
        ("fingerprint of the proxy", _hash(proxy.get("fingerprint")) if proxy else None),
        (
            "proxy can be made again bit by bit",
            ("yes" if proxy["reproducible"] else "no") if proxy and "reproducible" in proxy else None,
        ),
        ("selection", _hash(fingerprint)),
        ("selection before it", _hash(lineage.get("parent"))),
        ("scored in", ", ".join(f"{scoring[k]}" for k in ("dtype",) if scoring.get(k)) or None),
        ("processes that scored", scoring.get("world_size")),
        ("recipe (sha256)", _hash(lineage.get("recipe_sha256"))),
        (
            "versions",
            ", ".join(f"{name} {version}" for name, version in (lineage.get("versions") or {}).items()) or None,
        ),
    ]
    return table(["fact", "value"], [[name, escape(value)] for name, value in rows if value is not None], "ll")


def _hash(value: Any) -> Markdown | None:
    return code(short(value)) if value else None


def shape_of(signal: Facts) -> str:
    shape = " × ".join(count(size) for size in signal["shape"])
    epochs = f"of {first_epochs(signal['epochs'])}" if signal.get("epochs") else None
    return ", ".join(part for part in (shape, signal.get("dtype"), epochs) if part)


def percent(value: Any) -> str:
    return share(value, 2)


def enumeration(names: Sequence[Any]) -> Markdown:
    shown = ", ".join(code(name) for name in names[:_SHOWN_CLASSES])
    more = len(names) - _SHOWN_CLASSES
    return Markdown(f"{shown} and {more:,} more" if more > 0 else shown)
