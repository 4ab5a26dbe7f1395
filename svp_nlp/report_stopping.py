"""The report's section "When to stop": the signals by round, and what more labels are expected to bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import svp_nlp.report_format as fmt
from svp_nlp.report_charts import Frame, Line, line_chart
from svp_nlp.report_merge import Run, Series, number
from svp_nlp.report_statistics import Summary, stat
from svp_nlp.stopping_curve import LEAST_POINTS, LEVEL, Gain, expected_gain

# (key of a row, title, factor): what is drawn
_SIGNALS = (
    ("kappa", "agreement with the proxy before (kappa)", 1.0),
    ("changed", "rows whose class changed, %", 100.0),
    ("uncertainty", "overall uncertainty", 1.0),
)
_TITLE, _ROWS_TITLE = "When to stop", "What the proxies said, by labels"
_NOTE = (
    "After each round the proxy predicts the same random rows of the pool. Where successive proxies agree and are "
    "sure, more labels change little; whether what they agree on is right, these signals cannot tell."
)


@dataclass(frozen=True)
class StoppingRow:
    """The signals of one series at one labelled size: means over its seeds."""

    series: Series
    labeled_size: int
    signals: Mapping[str, float | None]
    ends: bool

    @property
    def cells(self) -> list[str]:
        """The signals as the tables show them."""
        signals = self.signals
        return [fmt.decimal(signals["kappa"]), fmt.share(signals["changed"]), fmt.decimal(signals["uncertainty"])]


def stopping_section(
    runs: Sequence[Run], summary: Summary, series_of: Mapping[Any, Series], styles: Mapping[Series, str]
) -> dict[str, Any] | None:
    """What the template shows; None where there is nothing to say."""
    rows = stopping_rows(runs, series_of)
    sentences = gain_sentences(runs, summary, rows)
    if not rows and not any(known for known, _ in sentences):
        return None
    charts = [chart for key, title, factor in _SIGNALS if (chart := _chart(rows, styles, key, title, factor))]
    series = list(dict.fromkeys(row.series for row in rows))
    return {
        "title": _TITLE,
        "note": _NOTE if rows else "",
        "sentences": [text for _, text in sentences],
        "ended": _ended(runs),
        "legend": [(one.label, styles.get(one, "s0"), False) for one in series] if len(series) > 1 else [],
        "charts": charts,
        "rows": rows,
        "rows_title": _ROWS_TITLE,
    }


def stopping_markdown(
    runs: Sequence[Run], summary: Summary, series_of: Mapping[Any, Series], *, escape: Callable[[Any], str]
) -> list[str]:
    """The same for Markdown: heading, sentences and a table; nothing where there is nothing to say."""
    found = stopping_section(runs, summary, series_of, {})
    if found is None:
        return []
    parts = [f"## {_TITLE}", *map(escape, [*found["ended"], *found["sentences"]])]
    if found["rows"]:
        head = ["Selected by", "Labels", "Kappa", "Changed, %", "Uncertainty"]
        cells = [[escape(row.series.label), fmt.count(row.labeled_size), *row.cells] for row in found["rows"]]
        lines = [head, ["---", *["---:"] * 4], *cells]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return parts


def stopping_rows(runs: Sequence[Run], series_of: Mapping[Any, Series]) -> list[StoppingRow]:
    """All signals there are, by series and labelled size."""
    groups: dict[tuple[Series, int], list[Mapping[str, Any]]] = {}
    for position, run in enumerate(runs):
        for entry in run.get("stopping") or ():
            series = series_of[position, entry.get("selector", "proxy"), entry.get("strategy")]
            groups.setdefault((series, entry["labeled_size"]), []).append(entry)
    keys = ("kappa", "changed", "uncertainty", "error", "tested")
    return [
        StoppingRow(
            series,
            size,
            {key: _mean(entry.get(key) for entry in entries) for key in keys},
            any(entry.get("ends") for entry in entries),
        )
        for (series, size), entries in sorted(groups.items(), key=lambda item: (item[0][0].label, item[0][1]))
    ]


def gain_sentences(runs: Sequence[Run], summary: Summary, rows: Sequence[StoppingRow]) -> list[tuple[bool, str]]:
    """(whether it is known, what is expected of more labels) for each series that a proxy chose."""
    chosen = [series for series in summary.series if series.selector == "proxy"]
    told = list(dict.fromkeys([*chosen, *(row.series for row in rows if row.series.selector == "proxy")]))
    tested = number((runs[0].get("test") or {}).get("rows")) or 1_000.0
    found = []
    for series in told:
        # Not more rows for more seeds: all are tested on the same ones.
        points = [(p.labeled_size, p.error.mean, tested) for p in summary.line(series) if p.error]
        what = "The error of the target"
        if len(points) < LEAST_POINTS:
            own = [row for row in rows if row.series == series and row.signals["error"] is not None]
            if len(own) >= LEAST_POINTS:
                points = [(r.labeled_size, r.signals["error"] or 0.0, r.signals["tested"] or 1.0) for r in own]
                what = "The error of the proxy on the dev set"
        found.append(_sentence(series.label, what, points))
    return found


def _sentence(label: str, what: str, points: Sequence[tuple[int, float, float]]) -> tuple[bool, str]:
    if len(points) < LEAST_POINTS:
        return False, (
            f"{label}: what more labels would bring cannot be said: that takes errors at {LEAST_POINTS} labelled "
            f"sizes or more, there {'is' if len(points) == 1 else 'are'} {len(points) or 'none'}. A dataset as dev set "
            "gives one for each proxy; a test set and train_target_at: all give one for each size."
        )
    sizes, errors, tested = zip(*sorted(points), strict=True)
    gain = expected_gain(sizes, errors, more=sizes[-1] - sizes[-2], tested_P=tested)
    return True, f"{label}: {gain_text(gain)} {what} is {fmt.share(errors[-1])} % at {fmt.count(sizes[-1])} labels."


def gain_text(gain: Gain) -> str:
    """`500 more labels are expected to bring 0.4 points (80 % interval: 0.1 to 0.7).`"""
    low, middle, high = (fmt.share(value, 2 if gain.high < 0.01 else 1) for value in (gain.low, gain.gain, gain.high))
    return (
        f"{fmt.count(gain.more)} more labels are expected to bring {middle} points "
        f"({100 * LEVEL:.0f} % interval: {low} to {high}), if the curve goes on as the power law that fits it."
    )


def _ended(runs: Sequence[Run]) -> list[str]:
    """Which rule ended which run."""
    return [
        f"Seed {entry['seed']}, {entry['strategy']}: the rule {(run.get('stop') or {}).get('rule')} ended the rounds "
        f"at {fmt.count(entry['labeled_size'])} labels. Resumed without stop in its recipe, the run goes on from there."
        for run in runs
        for entry in run.get("stopping") or ()
        if entry.get("ends")
    ]


def _chart(
    rows: Sequence[StoppingRow], styles: Mapping[Series, str], key: str, title: str, factor: float
) -> dict[str, Any] | None:
    lines = []
    for series in dict.fromkeys(row.series for row in rows):
        known = [(row.labeled_size, row.signals[key]) for row in rows if row.series == series]
        points = [(float(size), factor * value, None) for size, value in known if value is not None]
        lines.append(Line(series.label, styles.get(series, "s0"), points))
    if max((len(line.points) for line in lines), default=0) < 2:  # a single point is in the table
        return None
    frame = Frame(270, 160, left=40, right=8, top=10)  # its title stands above
    chart = line_chart(lines, frame, x_title="labels", y_title="", description=f"{title}, by labels")
    return {"title": title, "chart": chart}


def _mean(values: Any) -> float | None:
    found = stat(values)
    return None if found is None else found.mean
