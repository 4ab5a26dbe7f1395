"""Charts as hand-made SVG: crisp, small, and coloured by the page's CSS, so that they follow light and dark.

Nothing here knows about runs; texts are escaped here, the page inserts the result as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_CHAR_WIDTH = 6.6  # of the 12 px system fonts, mean over digits and lower-case letters
_LABEL_GAP = 16.0


@dataclass(frozen=True)
class Line:
    """A line in a chart; points are (x, y, spread of y or None).

    `style` is a CSS class that sets the colour; with `square` beside it the marks are squares.
    """

    label: str
    style: str
    points: Sequence[tuple[float, float, float | None]]
    hollow: bool = False


@dataclass(frozen=True)
class Frame:
    """The size of a chart in CSS pixels and the margins around its plot."""

    width: int
    height: int
    left: int = 46
    right: int = 18
    top: int = 30
    bottom: int = 44


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] of the data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers (1, 2, 2.5 or 5 times a power of ten) in [low, high]."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [i * step for i in range(first, last + 1)]
    return [low, high]


def spread_labels(wanted: Sequence[float], low: float, high: float, gap: float = _LABEL_GAP) -> list[float]:
    """Move label heights apart by at least `gap`, in their order, as little as a sweep down and up needs."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [wanted[i] for i in order]
    for i, y in enumerate(placed):
        placed[i] = max(y, low if i == 0 else placed[i - 1] + gap)
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], high if i == len(placed) - 1 else placed[i + 1] - gap)
    result = [0.0] * len(placed)
    for i, y in zip(order, placed, strict=True):
        result[i] = y
    return result


def line_chart(
    lines: Sequence[Line],
    frame: Frame,
    *,
    x_title: str,
    y_title: str,
    x_ticks: Sequence[float] | None = None,
    y_range: tuple[float, float] | None = None,
    direct_labels: bool = False,
    description: str,
) -> Markup:
    """Lines with markers and bands of their spread.

    Args:
        lines: drawn in the given order, the last on top; lines without points are left out.
        frame: size and margins; direct labels need a wide right margin.
        x_ticks: where numbers stand under the axis; those that would touch are left out. None: round numbers.
        y_range: lowest and highest y, for charts that are compared with each other. None: those of the lines.
        direct_labels: names at the ends of the lines; otherwise the page shows a legend.
        description: what a screen reader says.
    """
    drawn = [line for line in lines if line.points]
    x_of, y_of = _scales(drawn, frame, y_range)
    right, bottom = frame.width - frame.right, frame.height - frame.bottom
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            frame.width, frame.height, description
        )
    ]
    y_ticks = nice_ticks(y_of.low, y_of.high, most=max(3, (bottom - frame.top) // 45))
    digits = _digits(y_ticks)
    for tick in y_ticks:
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
                frame.left, right, y_of(tick), y_of(tick)
            )
        )
        parts.append(_text(frame.left - 8, y_of(tick) + 4, f"{tick:.{digits}f}", "end"))
    shown = _apart(x_ticks if x_ticks is not None else nice_ticks(x_of.low, x_of.high, most=5), x_of)
    for tick in shown:
        parts.append(
            Markup('<line class="tick" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
                x_of(tick), bottom, bottom + 5
            )
        )
        parts.append(_text(x_of(tick), bottom + 19, f"{tick:,.0f}", "middle"))
    parts.append(
        Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(frame.left, right, bottom, bottom)
    )
    parts.append(_text((frame.left + right) / 2, frame.height - 6, x_title, "middle", "title"))
    parts.append(_text(0, 12, y_title, "start", "title"))
    parts += [_band(line, x_of, y_of) for line in drawn] + [_curve(line, x_of, y_of) for line in drawn]
    if direct_labels:
        ends = [y_of(line.points[-1][1]) for line in drawn]
        for line, y in zip(drawn, spread_labels(ends, frame.top + 4, bottom - 2), strict=True):
            name = shorten(line.label, int((frame.right - 14) / _CHAR_WIDTH))
            parts.append(
                Markup('<g class="{}">{}</g>').format(line.style, _text(right + 12, y + 4, name, "start", "name"))
            )
    return Markup("").join([*parts, Markup("</svg>")])


def stacked_bar(parts: Sequence[tuple[str, float]], longest: float) -> Markup:
    """One horizontal bar of stages (CSS class, seconds), as wide as its sum is of `longest`. Scales with its cell."""
    x, shapes = 0.0, []
    for style, seconds in parts:
        width = 100 * seconds / longest if longest else 0.0
        if width > 0:
            # A stage of a few pixels still has to be seen; wider ones lose a hair to the line between stages.
            shapes.append(
                Markup('<rect class="{}" x="{:.3f}%" width="{:.3f}%" y="0" height="100%"/>').format(
                    style, x, max(width - 0.15, 0.2)
                )
            )
        x += width
    return Markup('<svg class="bar" aria-hidden="true">{}</svg>').format(Markup("").join(shapes))


def dot_row(dots: Sequence[tuple[str, str, float]], highest: float, *, reference: float | None = None) -> Markup:
    """One row of a dot plot on an axis from 0 to `highest`. Scales with its cell.

    Args:
        dots: (CSS class, with `square` for a square; tooltip; value).
        reference: what the dots are compared with; drawn as an upright stroke.
    """
    scale = 100 / highest if highest else 0.0
    parts = [Markup('<line class="grid" x1="0" x2="100%" y1="50%" y2="50%"/>')]
    if reference is not None:
        parts.append(
            Markup('<line class="reference" x1="{0:.2f}%" x2="{0:.2f}%" y1="5%" y2="95%"/>').format(scale * reference)
        )
    for style, tip, value in dots:
        # In the middle of its row: x takes percent and transform pixels.
        square = Markup(
            '<rect class="mark {}" x="{:.2f}%" y="50%" width="9" height="9" transform="translate(-4.5 -4.5)">'
            "<title>{}</title></rect>"
        )
        circle = Markup('<circle class="mark {}" cx="{:.2f}%" cy="50%" r="5"><title>{}</title></circle>')
        parts.append((square if _is_square(style) else circle).format(style, scale * value, tip))
    return Markup('<svg class="dots" aria-hidden="true">{}</svg>').format(Markup("").join(parts))


def shorten(text: str, most: int) -> str:
    """Cut in the middle, because names of runs and classes often differ at their ends."""
    if len(text) <= most:
        return text
    keep = max(most - 1, 2)
    return f"{text[: keep - keep // 2]}…{text[len(text) - keep // 2 :]}"


def _scales(lines: Sequence[Line], frame: Frame, y_range: tuple[float, float] | None) -> tuple[Scale, Scale]:
    xs = [x for line in lines for x, _, _ in line.points] or [0.0]
    ys = [y + sign * (s or 0.0) for line in lines for _, y, s in line.points for sign in (-1, 1)] or [0.0, 1.0]
    ys = list(y_range or ys)
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    if x_low == x_high:
        x_low, x_high = 0.5 * x_low, 1.5 * x_high or 1.0
    pad = 0.06 * (y_high - y_low) or max(0.1 * abs(y_high), 0.5)
    y_low = max(y_low - pad, 0.0) if min(ys) >= 0 else y_low - pad
    # The plot keeps clear of the axis, so that the first and last marker are whole.
    return (
        Scale(x_low, x_high, frame.left + 10, frame.width - frame.right - 8),
        Scale(y_low, y_high + pad, frame.height - frame.bottom, frame.top),
    )


def _digits(ticks: Sequence[float]) -> int:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else ticks[0] or 1.0
    return next((d for d in range(4) if abs(round(step, d) - step) < 1e-9), 4)


def _apart(ticks: Sequence[float], x_of: Scale) -> list[float]:
    """The ticks whose numbers do not touch, from the right: the last labelled size is the one that matters."""
    shown: list[float] = []
    for tick in sorted(set(ticks), reverse=True):
        width = _CHAR_WIDTH * len(f"{tick:,.0f}") + 10
        if not shown or x_of(shown[-1]) - x_of(tick) >= width:
            shown.append(tick)
    return shown[::-1]


def _text(x: float, y: float, text: str, anchor: str, style: str = "label") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        style, x, y, anchor, escape(text)
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _is_square(style: str) -> bool:
    return "square" in style.split()


def _band(line: Line, x_of: Scale, y_of: Scale) -> Markup:
    known = [(x, y, s) for x, y, s in line.points if s is not None]
    if len(known) < 2:
        return Markup("")
    upper = [(x_of(x), y_of(y + s)) for x, y, s in known]
    lower = [(x_of(x), y_of(y - s)) for x, y, s in reversed(known)]
    return Markup('<path class="band {}" d="{}Z"/>').format(line.style, _path(upper + lower))


def _curve(line: Line, x_of: Scale, y_of: Scale) -> Markup:
    path = _path([(x_of(x), y_of(y)) for x, y, _ in line.points])
    square = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="7.4" height="7.4"><title>{}</title></rect>')
    circle = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>')
    mark, corner = (square, 3.7) if _is_square(line.style) else (circle, 0.0)
    marks = [
        mark.format(
            "hollow" if line.hollow else "dot",
            x_of(x) - corner,
            y_of(y) - corner,
            f"{line.label}: {y:.2f}{'' if s is None else f' ± {s:.2f}'} at {x:,.0f}",
        )
        for x, y, s in line.points
    ]
    return Markup('<g class="{}"><path class="curve{}" d="{}"/>{}</g>').format(
        line.style, " dashed" if line.hollow else "", path, Markup("").join(marks)
    )
