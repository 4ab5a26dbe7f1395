"""The learning curve as a PNG, for slides, cards and pages that cannot show HTML."""

from __future__ import annotations

import io

from svp_nlp.report_statistics import Summary

_COLOURS = (  # as in templates/report.css
    "#1f6fb2", "#c4570c", "#0b7f6b", "#8a4fa8", "#b0345c", "#7a6a00",
    "#d42a2a", "#4a8c14", "#4f46c8", "#7d4a25", "#d6409f", "#0090b0",
)  # fmt: skip
_ROUND = 6  # the first so many have round marks, the others square ones
_RANDOM = "#757d87"


def learning_curve(summary: Summary) -> bytes | None:
    """Error of the target by labelled size, one line a series, mean and standard deviation over seeds.

    Returns:
        a PNG of 1440 x 810 pixels; None where no target was trained.
    """
    lines = [(series, [p for p in summary.line(series) if p.error is not None]) for series in summary.series]
    lines = [(series, points) for series, points in lines if points]
    if not lines:
        return None
    from matplotlib.figure import Figure  # a Figure of its own: pyplot keeps global state

    figure = Figure(figsize=(8, 4.5), dpi=180, layout="constrained")
    axes = figure.subplots()
    places: dict[tuple[str | None, str], int] = {}
    for series, points in lines:
        colour, mark = _RANDOM, "o"
        if series.selector != "random":  # a strategy keeps its colour and mark whoever uses it
            place = places.setdefault((series.strategy, series.variant), len(places)) % len(_COLOURS)
            colour, mark = _COLOURS[place], "o" if place < _ROUND else "s"
        sizes = [p.labeled_size for p in points]
        means = [100 * p.error.mean for p in points if p.error]
        spread = [100 * (p.error.std or 0) for p in points if p.error]
        style = "--" if series.selector != "proxy" else "-"
        axes.plot(sizes, means, style, color=colour, marker=mark, markersize=4, label=series.label)
        if any(spread):
            low = [m - s for m, s in zip(means, spread, strict=True)]
            high = [m + s for m, s in zip(means, spread, strict=True)]
            axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("labelled rows")
    axes.set_ylabel("error of the target, %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dfe3e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
