"""report.html: one self-contained page. This module decides what is shown; the template only lays it out.

Everything that comes from data (texts, labels, names) reaches the template as plain strings, which it escapes.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import yaml

import svp_nlp.report_format as fmt
from svp_nlp.report_charts import Frame, Line, dot_row, line_chart, stacked_bar
from svp_nlp.report_classes import class_table
from svp_nlp.report_merge import Run, Series, number, series_names, unique_names
from svp_nlp.report_people import people_of
from svp_nlp.report_statistics import STAGES, Summary
from svp_nlp.report_stopping import stopping_section
from svp_nlp.report_thumbnails import is_pixel_art, is_thumbnail

_COLORS = 12  # .s0 to .s11 in the style sheet; further series share them, their names tell them apart
_ROUND = 6  # series that have round marks; those of the others are square, for colours that look alike
_SHOWN_CLASSES = 12
_PREVIEW, _LONGEST_TEXT = 240, 4_000  # characters of a text that are shown, and that are kept in the page at all
_LONGEST_NAME = 200


@functools.cache  # compiling the templates takes longer than all the rest of a small report
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("svp_nlp"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(runs: Sequence[Run], summary: Summary) -> str:
    """The whole page, style sheet and charts included; needs no network and no script."""
    series_of = series_names(runs, unique_names(runs))
    styles = series_styles(summary.series)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=" · ".join(summary.names),
            mode={"active_learning": "Active learning", "core_set": "Core-set selection"}.get(
                summary.mode, "Comparison"
            ),
            created=", ".join(dict.fromkeys(str(run.get("created") or "")[:10] for run in runs)),
            headline=fmt.keep_together(fmt.headline(summary, runs)),
            figures=_figures(summary),
            warnings=summary.warnings,
            one_seed=len(summary.seeds) == 1,
            seeds=len(summary.seeds),
            curves=_curves(summary, styles),
            results=[_results(summary, styles, title, name) for title, name in _metric_names(summary)],
            speed=_speed(summary),
            stages=_stages(summary),
            savings=[p for p in summary.points if p.savings is not None and p.error is not None],
            balance=_balance(runs, summary, series_of, styles),
            classes=class_table(runs, summary),
            shown_classes=_SHOWN_CLASSES,
            stopping=stopping_section(runs, summary, series_of, styles),
            agreement=summary.agreement,
            picks=(picks := _picks(runs, series_of)),
            images=any(pick["is_image"] for group in picks for _, rows in group["sides"] for pick in rows),
            training=_training(runs, series_of),
            people=people_of(runs, summary.names),
            facts=[_facts(run, name) for run, name in zip(runs, summary.names, strict=True)],
            lineage=(lineage := _lineage(runs, series_of, summary)),
            narrowed=any(fmt.looked_at(row["options"]) != fmt.DASH for row in lineage),
            several=len(runs) > 1,
            fmt=fmt,
        )
    )
    return fmt.clean(page)


def series_styles(series: Sequence[Series]) -> dict[Series, str]:
    """CSS classes of each series: random is grey, a strategy keeps its colour and mark whoever uses it."""
    colors: dict[tuple[str | None, str], int] = {}
    styles = {}
    for one in series:
        key = (one.strategy, one.variant)
        if one.selector == "random":
            styles[one] = "s-random"
        else:
            colors.setdefault(key, len(colors))
            color = colors[key] % _COLORS
            styles[one] = f"s{color}" if color < _ROUND else f"s{color} square"
    return styles


def _figures(summary: Summary) -> list[dict[str, str]]:
    """The numbers at the top of the page, for the best proxy series at the largest size."""
    last = [summary.line(series)[-1] for series in summary.series if series.selector == "proxy"]
    scored = [point for point in last if point.error is not None]
    if not scored:
        return []
    best = fmt.best_point(scored)
    random = next((summary.at(s, best.labeled_size) for s in summary.series if s.selector == "random"), None)
    compared = [best, random, fmt.target_selects(summary, best)]
    found = [
        {"name": "test error", "value": f"{fmt.stat_share(point.error)} %", "note": point.series.label}
        for point in compared
        if point is not None and point.error is not None
    ]
    if best.selection_speedup:
        found.append(
            {"name": "choosing", "value": fmt.stat_ratio(best.selection_speedup), "note": "faster than the target"}
        )
    if best.total_speedup:
        found.append(
            {"name": "in total", "value": fmt.stat_ratio(best.total_speedup), "note": "final training counted"}
        )
    return found


def _curves(summary: Summary, styles: Mapping[Series, str]) -> dict[str, Any] | None:
    lines = []
    for series in reversed(summary.series):  # the first, the proxies, are drawn last and lie on top
        points = [
            (float(p.labeled_size), 100 * p.error.mean, None if p.error.std is None else 100 * p.error.std)
            for p in summary.line(series)
            if p.error is not None
        ]
        if points:
            lines.append(Line(series.label, styles[series], points, hollow=series.selector == "target_selects"))
    if not lines or len(summary.sizes) == 1:  # a single size has no curve; the table says it better
        return None
    ticks = [float(size) for size in summary.sizes]
    description = "Test error in percent over the number of labels; the numbers are in the table below."
    # Text in a scaled drawing would be unreadable on a phone: there are two drawings, the style sheet shows one.
    longest = max(len(line.label) for line in lines)
    wide, narrow = Frame(900, 420, right=min(30 + 8 * longest, 260)), Frame(358, 300, left=38, right=8)
    axes = {"x_title": "labels", "y_title": "test error, %", "x_ticks": ticks, "description": description}
    return {
        "wide": line_chart(lines, wide, direct_labels=True, **axes),  # type: ignore[arg-type]
        "narrow": line_chart(lines, narrow, **axes),  # type: ignore[arg-type]
        "legend": [(line.label, line.style, line.hollow) for line in reversed(lines)],
    }


def _metric_names(summary: Summary) -> list[tuple[str, str]]:
    if not any(point.error for point in summary.points):
        return []
    more = dict.fromkeys(key for point in summary.points for key in point.metrics)
    named = [("Test error, %", "error"), ("Macro-F1, %", "macro_f1")]
    return named + [(key.replace("_", " "), key) for key in more if key not in ("error", "accuracy", "macro_f1")]


def _results(summary: Summary, styles: Mapping[Series, str], title: str, name: str) -> dict[str, Any]:
    rows = []
    # Random first: what all are compared with is not to be found at the end of a wide table.
    columns = sorted(summary.series, key=lambda series: series.selector != "random")
    for size in summary.sizes:
        points = [summary.at(series, size) for series in columns]
        values = [None if p is None else getattr(p, name, None) or p.metrics.get(name) for p in points]
        known = [v.mean for v in values if v is not None]
        best = (min(known) if name == "error" else max(known)) if len(known) > 1 else None
        percent = next((p.labeled_percent for p in points if p is not None), None)
        # Only error and F1 are known to be shares: a metric of evaluate may have any unit.
        show = fmt.stat_share if name in ("error", "macro_f1") else fmt.stat_decimal
        cells = [(show(v, 2), v is not None and v.mean == best) for v in values]
        rows.append({"size": size, "percent": percent, "cells": cells})
    return {"title": title, "series": [(s.label, styles[s]) for s in columns], "rows": rows}


def _speed(summary: Summary) -> list[dict[str, Any]]:
    rows = []
    for point in summary.points:
        chosen = point.seconds["selection_seconds"]
        if point.series.selector == "proxy" and chosen is not None and chosen.mean > 0:
            rows.append({"point": point, "target": fmt.target_selects(summary, point)})
    return rows


def _stages(summary: Summary) -> list[dict[str, Any]]:
    """One bar per series at its largest size, on one scale."""
    bars = []
    for series in summary.series:
        point = summary.line(series)[-1]
        stats = [point.seconds[key] for key in STAGES]
        bars.append((point, [0.0 if value is None else value.mean for value in stats]))
    longest = max((sum(seconds) for _, seconds in bars), default=0.0)
    if longest == 0:
        return []
    return [
        {
            "label": point.series.label,
            "size": point.labeled_size,
            "seconds": list(zip(STAGES, seconds, strict=True)),
            "total": sum(seconds),
            "bar": stacked_bar([(f"t-{key}", value) for key, value in zip(STAGES, seconds, strict=True)], longest),
        }
        for point, seconds in bars
    ]


def _balance(
    runs: Sequence[Run], summary: Summary, series_of: Mapping[Any, Series], styles: Mapping[Series, str]
) -> dict[str, Any] | None:
    """Share of each class in the pool and in what was picked after the start set, summed over seeds."""
    picked: dict[Series, Counter[str]] = {}
    for position, run in enumerate(runs):
        rounds = run.get("rounds") or ()
        later = any(entry.get("round") for entry in rounds)
        if run.get("mode") == "core_set":  # each size is picked anew: the smaller sets are parts of the largest
            largest = max((entry["labeled_size"] for entry in rounds), default=0)
            rounds = [entry for entry in rounds if entry["labeled_size"] == largest]
        for entry in rounds:
            if entry.get("class_counts") and (entry.get("round") or not later):
                series = series_of[position, entry.get("selector", "proxy"), entry.get("strategy")]
                picked.setdefault(series, Counter()).update(entry["class_counts"])
    order = sorted([*summary.series, *picked], key=lambda series: series.selector != "random")
    picked = {series: picked[series] for series in order if series in picked}
    pool = runs[0].get("pool") or {}
    known = Counter(pool.get("class_counts") or {})
    names = list(pool.get("class_names") or dict.fromkeys(name for counts in picked.values() for name in counts))
    if not picked or not names:
        return None
    columns = [("pool", "s-pool", known)] if known.total() else []
    for series, counts in picked.items():
        hollow = " open" if series.selector == "target_selects" else ""
        columns.append((series.label, styles.get(series, "s0") + hollow, counts))
    rows: list[dict[str, Any]] = []
    for name in names:
        shares = [(label, style, counts[name] / max(counts.total(), 1)) for label, style, counts in columns]
        values = [value for _, _, value in shares]
        rows.append({"name": str(name)[:_LONGEST_NAME], "shares": shares, "spread": max(values) - min(values)})
    highest = max(value for row in rows for _, _, value in row["shares"])
    for row in rows:
        dots = [(s, f"{label}: {fmt.share(v)} %", v) for label, s, v in row["shares"] if s != "s-pool"]
        row["dots"] = dot_row(dots, highest, reference=row["shares"][0][2] if known else None)
    ranked = sorted(rows, key=lambda row: -row["spread"]) if len(rows) > _SHOWN_CLASSES else rows
    return {
        "legend": [(label, style, False) for label, style, _ in columns],
        "rows": ranked[:_SHOWN_CLASSES],
        "all": rows,
        "hidden": max(len(rows) - _SHOWN_CLASSES, 0),
        "highest": highest,
        "pool_known": bool(known),
    }


def _picks(runs: Sequence[Run], series_of: Mapping[Any, Series]) -> list[dict[str, Any]]:
    """The last round of each series for its first seed: other seeds and rounds look alike and are in the signals."""
    chosen: dict[Series, Mapping[str, Any]] = {}
    for position, run in enumerate(runs):
        for entry in run.get("picks") or ():
            series = series_of[position, entry.get("selector", "proxy"), entry.get("strategy")]
            kept = chosen.get(series)
            if kept is None or (entry["seed"], -entry["round"]) < (kept["seed"], -kept["round"]):
                chosen[series] = entry
    return [
        {
            "label": series.label,
            "round": entry["round"],
            "seed": entry["seed"],
            "sides": [
                (side, [_pick(pick) for pick in entry.get(key) or ()])
                for side, key in (("Picked first", "highest"), ("Ranked last", "lowest"))
            ],
        }
        for series, entry in chosen.items()
    ]


def _pick(pick: Mapping[str, Any]) -> dict[str, Any]:
    text, uri = str(pick.get("text") or ""), pick.get("image")
    cut = text[:_LONGEST_TEXT]
    return {
        "is_image": "image" in pick,
        "image": uri if is_thumbnail(uri) else None,
        "pixel_art": is_thumbnail(uri) and is_pixel_art(str(uri)),
        "id": str(pick.get("id") or "")[:_LONGEST_NAME],
        "position": pick.get("position"),
        "score": "never learned" if pick.get("never_learned") else fmt.decimal(pick.get("score"), 4),
        "label": str(fmt.DASH if pick.get("label") is None else pick["label"])[:_LONGEST_NAME],
        "text": cut,
        "preview": None if len(text) <= _PREVIEW else _at_a_space(text[:_PREVIEW]),
        "left_out": len(text) - len(cut),
    }


def _at_a_space(text: str) -> str:
    """Drop the last, cut word, unless that would drop most of the text (a long URL, a language without spaces)."""
    head = text.rsplit(None, 1)[0]
    return head if len(head) > 0.8 * len(text) else text.rstrip()


def _training(runs: Sequence[Run], series_of: Mapping[Any, Series]) -> list[dict[str, Any]]:
    """One small chart per series at its largest size: accuracy, or loss where no accuracy was measured."""
    groups: dict[Series, list[Mapping[str, Any]]] = {}
    for position, run in enumerate(runs):
        for entry in run.get("training") or ():
            series = series_of[position, entry.get("selector", "proxy"), entry.get("strategy")]
            groups.setdefault(series, []).append(entry)
    drawn = []
    for series, entries in groups.items():
        size = max(entry["labeled_size"] for entry in entries)
        histories = [entry.get("history") or () for entry in entries if entry["labeled_size"] == size]
        lines = _epochs(histories, "train_accuracy", "s-random", 100) + _epochs(histories, "dev_accuracy", "s0", 100)
        if lines:
            drawn.append((series, size, "accuracy, %", lines))
        elif losses := _epochs(histories, "loss", "s-random", 1):
            drawn.append((series, size, "loss", losses))
    charts = []
    for series, size, y_title, lines in drawn:
        # One scale for all that show the same thing: the charts stand side by side to be compared.
        ys = [y for _, _, other, alike in drawn if other == y_title for line in alike for _, y, _ in line.points]
        chart = line_chart(
            lines,
            Frame(270, 180, left=36, right=8),
            x_title="epoch",
            y_title=y_title,
            y_range=(min(ys), max(ys)),
            description=f"{y_title} per epoch, {series.label}",
        )
        charts.append({"label": series.label, "size": size, "chart": chart})
    return charts


def _epochs(histories: Sequence[Any], key: str, style: str, factor: float) -> list[Line]:
    lines = []
    for history in histories:
        values = [(number(epoch.get("epoch")), number(epoch.get(key))) for epoch in history]
        points = [(x, factor * y, None) for x, y in values if x is not None and y is not None]
        lines.append(Line(key.replace("_", " "), style, points))
    return [line for line in lines if line.points]


def _facts(run: Run, name: str) -> dict[str, Any]:
    pool, test, machine = run.get("pool") or {}, run.get("test") or {}, run.get("machine") or {}
    data = {
        "Pool": ", ".join(str(pool[key]) for key in ("path", "split", "revision") if pool.get(key)) or fmt.DASH,
        "Rows": f"{fmt.count(pool.get('rows'))}, of which usable {fmt.count(pool.get('usable'))}",
        "Left out as blank": fmt.count(pool.get("blank")),
        "Duplicates": fmt.count(pool.get("duplicates")),
        "Classes": fmt.count(len(pool.get("class_names") or ())),
        "Fingerprint of the pool": pool.get("fingerprint") or fmt.DASH,
        "Test set": ", ".join(str(test[key]) for key in ("path", "split") if test.get(key)) or fmt.DASH,
        "Rows of the test set": fmt.count(test.get("rows")),
        "Rows in pool and test set": fmt.count(test.get("overlap")),
    }
    units = {"memory_gb": "memory, GB"}
    where = {units.get(key, key): fmt.DASH if value in (None, "") else value for key, value in machine.items()}
    return {
        "name": name,
        "data": data,
        "machine": where | {f"{key} (library)": value for key, value in (run.get("versions") or {}).items()},
        "recipe": yaml.safe_dump(_yaml_plain(run.get("recipe") or {}), sort_keys=False, allow_unicode=True, width=100),
        "svp_nlp": run.get("svp_nlp") or "",
    }


def _yaml_plain(value: Any) -> Any:
    """What safe_dump takes: a recipe may hold tuples and paths."""
    if isinstance(value, Mapping):
        return {str(key): _yaml_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_yaml_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _lineage(runs: Sequence[Run], series_of: Mapping[Any, Series], summary: Summary) -> list[dict[str, Any]]:
    chosen = {
        (row["series"], row["labeled_size"], row["seed"]): row.get("selection_fingerprint") for row in summary.rows
    }
    rows = []
    for position, run in enumerate(runs):
        rounds = {
            (r.get("selector", "proxy"), r.get("strategy"), r["labeled_size"], r["seed"]): r.get("fingerprint")
            for r in run.get("rounds") or ()
        }
        for entry in run.get("lineage") or ():
            selector, size = entry.get("selector", "proxy"), entry["labeled_size"]
            series = series_of[position, selector, entry.get("strategy")]
            selection = chosen.get((series, size, entry["seed"])) or rounds.get(
                (selector, entry.get("strategy"), size, entry["seed"])
            )
            rows.append({"options": None, "label": series.label, **entry, "selection": selection})
    return rows
