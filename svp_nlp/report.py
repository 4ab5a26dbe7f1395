"""The report of one or several runs: report.json for programs, report.md for cards, report.html for people.

`summarize` (report_statistics.py) computes, this module writes; the page is in report_html.py.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

import svp_nlp.report_format as fmt
from svp_nlp import files
from svp_nlp.report_classes import ClassTable, class_table
from svp_nlp.report_html import render_page
from svp_nlp.report_merge import Run, Series, number, series_names, unique_names
from svp_nlp.report_people import people_of
from svp_nlp.report_picture import learning_curve
from svp_nlp.report_statistics import Point, Summary, summarize
from svp_nlp.report_stopping import stopping_markdown

__all__ = ["console_table", "markdown", "report_json", "summarize", "write_report"]

_SHOWN_CLASSES = 6  # of the rarest, and of the worst
_PER_RUN = ("name", "mode", "created", "svp_nlp", "machine", "versions", "recipe", "pool", "test", "annotators")


def write_report(runs: Sequence[Run], directory: Path) -> dict[str, Path]:
    """Write report.json, report.md, report.html and, where a target was trained, its learning curve as report.png.

    Args:
        runs: one dict per run; several must be on the same pool and test set.
        directory: made when missing; files of an earlier report are replaced.
    Returns:
        {"json": path, "md": path, "html": path, "png": path}; without "png" where there is no curve.
    Raises:
        RunRefused: the runs cannot be merged.
    """
    summary = summarize(runs)
    directory = Path(directory)
    picture = learning_curve(summary)
    kinds = ("json", "md", "html") if picture is None else ("json", "md", "html", "png")
    paths = {kind: directory / f"report.{kind}" for kind in kinds}
    files.write_json(paths["json"], report_json(runs, summary))
    files.write_text(paths["md"], markdown(runs, summary))
    files.write_text(paths["html"], render_page(runs, summary))
    if picture is not None:
        files.write_bytes(paths["png"], picture)
    return paths


def report_json(runs: Sequence[Run], summary: Summary) -> dict[str, Any]:
    """All numbers: `rows` (one per run, seed, selector, strategy and labelled size), `summary`, `agreement`."""
    rows = [
        {**{k: v for k, v in row.items() if k not in ("series", "machine", "target")}, "series": row["series"].label}
        for row in summary.rows
    ]
    value = {
        "format": 1,
        "headline": fmt.headline(summary, runs),
        "warnings": summary.warnings,
        "runs": [{key: run.get(key) for key in _PER_RUN} for run in runs],
        "rows": rows,
        "summary": [{**_plain(point), "series": point.series.label} for point in summary.points],
        "agreement": [{**_plain(entry), "series": entry.series.label} for entry in summary.agreement],
        "rounds": [
            {**entry, "run": name}
            for run, name in zip(runs, summary.names, strict=True)
            for entry in run.get("rounds") or ()
        ],
        "stopping": [
            {**entry, "run": name}
            for run, name in zip(runs, summary.names, strict=True)
            for entry in run.get("stopping") or ()
        ],
    }
    return dict(jsonable(value))


def jsonable(value: Any) -> Any:
    """The same value in what JSON knows: NaN and infinities become null, numpy numbers become numbers."""
    if isinstance(value, Mapping):
        return {fmt.clean(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return number(value)
    return value if value is None or isinstance(value, bool | int) else fmt.clean(value)


def _plain(value: Point | Any) -> dict[str, Any]:
    fields = dataclasses.asdict(value)
    del fields["series"]
    return {"selector": value.series.selector, "strategy": value.series.strategy, **fields}


def markdown(runs: Sequence[Run], summary: Summary) -> str:
    """The tables for GitHub and for a dataset card. Names are escaped, so that they cannot become markup."""
    parts = [f"# {_md(' · '.join(summary.names))}", _md(fmt.headline(summary, runs))]
    parts += [f"> **Warning:** {_md(text)}" for text in summary.warnings]
    if any(point.error is not None for point in summary.points):
        parts.append("![Error of the target by labelled rows](report.png)")
        parts += [
            "## Error on the test set, %",
            _pivot(summary, lambda p: fmt.stat_share(p.error, 2)),
            _spread(summary),
        ]
        parts += ["## Macro-F1, %", _pivot(summary, lambda p: fmt.stat_share(p.macro_f1, 2))]
    if (classes := class_table(runs, summary)) is not None:
        parts += [f"## Recall by class, %, at {classes.labeled_size:,} labels", _class_table(classes)]
    if summary.points:
        parts += ["## Seconds and speed-up", _speed_table(summary)]
    if any(point.savings for point in summary.points):
        parts += ["## Labels that random selection needs for the same error", _savings_table(summary)]
    parts += stopping_markdown(runs, summary, series_names(runs, unique_names(runs)), escape=_md)
    if summary.agreement:
        parts += ["## Agreement of proxy and target", _agreement_table(summary)]
    for people in people_of(runs, summary.names):
        parts += [f"## People{_md(people.name and f': {people.name}')}", *map(_md, people.sentences)]
        parts += [
            f"**{_md(t.title)}**\n\n" + _md_table(t.head, [[*map(_md, row)] for row in t.rows]) for t in people.tables
        ]
    parts += ["## Data and machine", _facts_table(runs, summary)]
    return "\n\n".join(parts) + "\n"


def _md(value: Any) -> str:
    text = html.escape(fmt.clean(value), quote=False).replace("\\", "\\\\")
    for mark in "|`*_[]#~":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _md_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns are texts and the others numbers."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in ([_md(h) for h in head], rule, *rows))


def _pivot(summary: Summary, show: Callable[[Point], str]) -> str:
    head = ["Labels", *(series.label for series in summary.series)]
    rows = []
    for size in summary.sizes:
        points = [summary.at(series, size) for series in summary.series]
        rows.append([_size(summary, size), *(show(point) if point else fmt.DASH for point in points)])
    return _md_table(head, rows)


def _size(summary: Summary, size: int) -> str:
    percent = next((p.labeled_percent for p in summary.points if p.labeled_size == size), None)
    return f"{size:,}" + ("" if percent is None else f" ({fmt.percent_of(percent)})")


def _spread(summary: Summary) -> str:
    if len(summary.seeds) < 2:
        return "One seed: no spread can be given, and small differences may be chance."
    return f"Mean ± sample standard deviation over {len(summary.seeds)} seeds. Test set read once, after training."


def _class_table(classes: ClassTable) -> str:
    """The means, and the rarest and the worst of the classes."""
    rows = [
        [
            _md(line.name),
            *([fmt.count(line.pool_rows)] if classes.knows_pool else []),
            *(fmt.stat_share(recall) for recall in line.recalls),
        ]
        for line in [*classes.means, *classes.shown(_SHOWN_CLASSES)]
    ]
    known = ["Rows in the pool"] if classes.knows_pool else []
    return _md_table(["Class", *known, *(series.label for series in classes.series)], rows)


def _speed_table(summary: Summary) -> str:
    head = [
        "Selected by",
        "Labels",
        "Training the selector",
        "Scoring",
        "Ranking",
        "Training the target",
        "Total",
        "Speed-up of selection",
        "Speed-up in total",
    ]
    rows = [
        [
            _md(point.series.label),
            _size(summary, point.labeled_size),
            *(
                fmt.stat_duration(point.seconds[key])
                for key in ("proxy_seconds", "scoring_seconds", "ranking_seconds", "target_seconds", "total_seconds")
            ),
            fmt.stat_ratio(point.selection_speedup),
            fmt.stat_ratio(point.total_speedup),
        ]
        for point in summary.points
    ]
    return _md_table(head, rows)


def _savings_table(summary: Summary) -> str:
    rows = [
        [
            _md(point.series.label),
            _size(summary, point.labeled_size),
            fmt.stat_share(point.error, 2),
            fmt.random_needs(point.savings),
            fmt.saved_labels(point.savings),
        ]
        for point in summary.points
        if point.savings
    ]
    return _md_table(["Selected by", "Labels", "Error, %", "Random needs", "Labels saved"], rows)


def _agreement_table(summary: Summary) -> str:
    rows = [
        [
            _md(entry.series.label),
            f"{entry.labeled_size:,}",
            fmt.stat_decimal(entry.spearman),
            fmt.stat_share(entry.overlap),
            fmt.share(entry.chance),
            "no" if entry.no_better_than_chance else "yes",
        ]
        for entry in summary.agreement
    ]
    head = ["Proxy", "Labels", "Spearman", "Overlap of the picks, %", "By chance, %", "Better than chance"]
    return _md_table(head, rows)


def _facts_table(runs: Sequence[Run], summary: Summary) -> str:
    rows = []
    for run, name in zip(runs, summary.names, strict=True):
        pool, test, machine = run.get("pool") or {}, run.get("test") or {}, run.get("machine") or {}
        facts = {
            "pool": f"{pool.get('path')}, {pool.get('split')}, {fmt.count(pool.get('usable'))} usable of "
            f"{fmt.count(pool.get('rows'))} rows, {len(pool.get('class_names') or ())} classes",
            "pool fingerprint": pool.get("fingerprint") or fmt.DASH,
            "test": f"{test.get('path')}, {test.get('split')}, {fmt.count(test.get('rows'))} rows"
            if test
            else fmt.DASH,
            "machine": ", ".join(f"{k} {v}" for k, v in machine.items() if v not in (None, "")),
            "svp_nlp": run.get("svp_nlp") or fmt.DASH,
        }
        rows += [[_md(f"{name}: {key}" if len(runs) > 1 else key), _md(value)] for key, value in facts.items()]
    return _md_table(["", ""], rows, left=2)


_CONSOLE_WIDTH = 80
_CONSOLE_HEAD = ("Selected by", "Labels", "Error %", "F1 %", "Choosing", "In all", "Speed-up")


def console_table(summary: Summary, *, ascii_only: bool = False) -> Table:
    """The main table for a terminal of 80 columns: what each selection gave and what it cost.

    `ascii_only`: for a terminal that cannot show ±, ×, · and the en dash.
    """
    table = Table(
        title=" · ".join(summary.names)[:76],
        pad_edge=False,
        box=None,
        header_style="bold",
        padding=(0, 1),
    )
    for heading in _CONSOLE_HEAD:
        first_one = heading == _CONSOLE_HEAD[0]
        table.add_column(heading, justify="left" if first_one else "right", no_wrap=not first_one, overflow="fold")
    best = {size: _lowest(summary, size) for size in summary.sizes}
    show = _ascii if ascii_only else str
    lines = {
        series: [tuple(map(show, _console_cells(point))) for point in summary.line(series)] for series in summary.series
    }
    columns = zip(_CONSOLE_HEAD[1:], *(cells for rows in lines.values() for cells in rows), strict=True)
    room = _CONSOLE_WIDTH - sum(max(map(len, column)) + 2 for column in columns)
    for position, (series, rows) in enumerate(lines.items()):
        if position:
            table.add_row()
        # A name that is too long goes on beside the next sizes.
        names = fmt.broken(show(fmt.clean(series.label)), max(room, len(_CONSOLE_HEAD[0])))
        sizes = [point.labeled_size for point in summary.line(series)]
        for name, size, cells in itertools.zip_longest(names, sizes, rows):
            is_best = size is not None and best[size] == series and len(lines) > 1
            error = Text(cells[1], style="bold" if is_best else "") if cells else ""
            first, *others = cells or [""] * len(_CONSOLE_HEAD[1:])
            table.add_row(Text(name or ""), first, error, *others[1:])
    table.caption = _ascii(_caption(summary)) if ascii_only else _caption(summary)
    return table


def _console_cells(point: Point) -> list[str]:
    ratios = [None if r is None else r.mean for r in (point.selection_speedup, point.total_speedup)]
    return [
        f"{point.labeled_size:,}",
        fmt.stat_share(point.error),
        fmt.share(None if point.macro_f1 is None else point.macro_f1.mean),
        fmt.stat_duration(point.seconds["selection_seconds"]),
        fmt.stat_duration(point.seconds["total_seconds"]),
        fmt.DASH if ratios[0] is None else " / ".join(_short_ratio(r) for r in ratios),
    ]


def _lowest(summary: Summary, size: int) -> Series | None:
    here = [point for point in summary.points if point.labeled_size == size and point.error is not None]
    return min(here, key=lambda p: p.error.mean if p.error else 1.0).series if here else None


def _short_ratio(value: float | None) -> str:
    return fmt.DASH if value is None else f"{value:,.0f}×" if value >= 9.95 else f"{value:.1f}×"


def _ascii(text: str) -> str:
    for mark, plain in (("±", "+-"), ("×", "x"), ("·", "-"), (fmt.DASH, "-"), ("…", "...")):
        text = text.replace(mark, plain)
    return text.encode("ascii", "replace").decode()


def _caption(summary: Summary) -> str:
    seeds = f"mean ± std over {len(summary.seeds)} seeds" if len(summary.seeds) > 1 else "one seed, no spread"
    return f"{seeds}; speed-up of choosing / in all, over the target choosing for itself"
