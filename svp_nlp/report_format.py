"""Numbers as people read them: one rule for the page, Markdown and the terminal. What is not known is an en dash."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from svp_nlp.report_merge import number
from svp_nlp.report_statistics import Point, Savings, Stat, Summary, clear_difference

DASH = "–"
_MANY_TEST_ROWS = 2000  # from here on the test set's own chance is below 2 points
STAGE_NAMES = {
    "proxy_seconds": "training the selector",
    "scoring_seconds": "scoring the pool",
    "ranking_seconds": "ranking",
    "target_seconds": "training the target",
}
# A token in a recipe or an error text must not travel with a report. Source: the form that the Hub documents.
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_INSIDE_NUMBER = re.compile(r"(?<=\d) (?=(?:%|±|s|min|h)(?![a-z]))|(?<=[±≤>]) (?=\d)|(?<=(?:min|\d h)) (?=\d)")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")


def clean(value: Any) -> str:
    """Text that every file format and screen takes: no control characters, no lone surrogates, no Hub token."""
    text = str(value).encode("utf-8", "replace").decode()
    return _TOKEN.sub("hf_***", _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def keep_together(text: str) -> str:
    """No line break between a number and its unit."""
    return _INSIDE_NUMBER.sub("\N{NO-BREAK SPACE}", text)


def count(value: Any) -> str:
    """12,345."""
    found = number(value)
    return DASH if found is None else f"{found:,.0f}"


def share(value: Any, digits: int = 1) -> str:
    """0.081 -> 8.1 (percent, without the sign: it stands in the heading)."""
    found = number(value)
    return DASH if found is None else f"{100 * found:.{digits}f}"


def decimal(value: Any, digits: int = 3) -> str:
    """0.123."""
    found = number(value)
    return DASH if found is None else f"{found:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent_of(value: Any) -> str:
    """20.0 -> 20 %, 0.25 -> 0.25 %."""
    found = number(value)
    return DASH if found is None else f"{found:.3g} %"


def duration(value: Any) -> str:
    """Seconds as 0.02 s, 4.1 s, 3 min 05 s, 2 h 04 min."""
    seconds = number(value)
    if seconds is None:
        return DASH
    if seconds < 59.5:
        return "0 s" if seconds == 0 else f"{seconds:.{2 if seconds < 0.995 else 1 if seconds < 9.95 else 0}f} s"
    if seconds < 3599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def stat_share(value: Stat | None, digits: int = 1) -> str:
    """Mean and spread in percent: 8.1 ± 0.2; without the spread for one seed."""
    if value is None:
        return DASH
    return share(value.mean, digits) + ("" if value.std is None else f" ± {share(value.std, digits)}")


def stat_decimal(value: Stat | None, digits: int = 2) -> str:
    """0.43 ± 0.02."""
    if value is None:
        return DASH
    return decimal(value.mean, digits) + ("" if value.std is None else f" ± {decimal(value.std, digits)}")


def stat_duration(value: Stat | None) -> str:
    """The mean only: the spread of seconds is that of the machine."""
    return DASH if value is None else duration(value.mean)


def stat_ratio(value: Stat | None) -> str:
    """20.8× ± 0.4."""
    if value is None:
        return DASH
    digits = 2 if value.mean < 2 else 1 if value.mean < 100 else 0
    spread = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:,.{digits}f}×{spread}"


def random_needs(value: Savings | None) -> str:
    """Labels that random needs: 3,120, or the bound that its curve allows: > 12,000."""
    if value is None:
        return DASH
    prefix = {"exact": "", "more_than": "> ", "at_most": "≤ "}[value.bound]
    return prefix + count(value.random_labels)


def saved_labels(value: Savings | None) -> str:
    """Labels saved, with the part of random's labels: 720 (23 %). Negative where random needs fewer."""
    if value is None:
        return DASH
    prefix = {"exact": "", "more_than": "> ", "at_most": "≤ "}[value.bound]
    part = 100 * value.saved / value.random_labels if value.random_labels else 0.0
    percent = f" ({part:.0f} %)" if abs(part) >= 0.5 else ""
    return prefix + f"{round(value.saved):,}{percent}".replace("-", "\N{MINUS SIGN}")


def short(value: Any) -> str:
    """The first characters of a fingerprint; enough to see whether two are the same."""
    return DASH if not value else clean(value)[:12]


def yes_no(value: bool | None) -> str:
    """yes, no, or that it is not known."""
    return DASH if value is None else "yes" if value else "no"


def broken(text: str, width: int) -> list[str]:
    """A text as lines of at most `width`: broken at spaces and dashes, in words that are longer also at underscores."""
    lines = [""]
    for word in re.findall(r"[^\s-]*[\s-]?", text):
        parts = [word] if len(word.rstrip()) <= width else re.findall(rf"[^_]{{1,{width - 1}}}_?|_", word)
        for part in parts:
            if len(lines[-1]) + len(part.rstrip()) > width:
                lines.append("")
            lines[-1] += part
    return [line.rstrip() for line in lines]


def looked_at(options: Any) -> str:
    """Which rows a round scored or chose among, where not all: 78 by seals, 76 of them drawn at random."""
    if not isinstance(options, Mapping):
        return DASH
    parts, reduce = [], options.get("reduce")
    if isinstance(reduce, Mapping):
        drawn = options.get("drawn_at_random")
        more = f", {count(drawn)} of them drawn at random" if drawn else ""
        parts.append(f"{count(options.get('scored_rows'))} by {clean(reduce.get('kind'))}{more}")
    if "candidate_rows" in options:
        first = options.get("prefilter")
        parts.append(f"{count(options['candidate_rows'])} {f'highest by {clean(first)}' if first else 'at random'}")
    return "; ".join(parts) or DASH


def learner_name(spec: Any, fallback: str) -> str:
    """How a learner is called in a sentence: fastText, VDCNN-29, or its kind."""
    if not isinstance(spec, Mapping) or not spec.get("kind"):
        return fallback
    kind = str(spec["kind"])
    if kind == "fasttext":
        return "fastText"
    name = kind.upper() if kind == "vdcnn" else kind
    model = spec.get("model_name_or_path")
    return str(model) if model else f"{name}-{spec['depth']}" if spec.get("depth") else name


def headline(summary: Summary, runs: Any) -> str:
    """What was chosen, what it gave, and what it cost, in plain words; also where random was as good or better."""
    if len(runs) == 1 and by_people(runs[0]):
        return _people_headline(summary, runs[0])
    usable = count((runs[0].get("pool") or {}).get("usable"))
    tried = [series for series in summary.series if series.selector == "proxy"]
    last = [summary.line(series)[-1] for series in tried]
    scored = [point for point in last if point.error is not None]
    if not scored:
        proxy, _ = _learners(runs[0])
        chosen = max((r["labeled_size"] for run in runs for r in run.get("rounds") or ()), default=0)
        return (
            f"{_capital(proxy)} chose {count(chosen)} of {usable} rows. No target was trained on "
            "the choice, so nothing can be said about what it is worth."
        )
    best = best_point(scored)
    names = summary.names
    proxy, target = _learners(runs[names.index(best.series.variant) if best.series.variant in names else 0])
    among = f", the best of {len(scored)} tried," if len(scored) > 1 else ""
    what = f"{_capital(proxy)} with {best.series.strategy}{among} chose {count(best.labeled_size)} of"
    text = (
        f"{what} {usable} rows ({percent_of(best.labeled_percent)}); {target} trained on them is "
        f"wrong on {stat_share(best.error)} % of the test set."
    )
    return " ".join([text, *_against_random(summary, best), *_against_target(summary, best)])


def by_people(run: Mapping[str, Any]) -> bool:
    """Whether people labelled, and nothing else was there to compare with."""
    oracle = (run.get("recipe") or {}).get("oracle")
    return isinstance(oracle, Mapping) and oracle.get("kind") == "files"


def _people_headline(summary: Summary, run: Mapping[str, Any]) -> str:
    """What people have labelled so far, and what a target has learned from it."""
    proxy, target = _learners(run)
    rounds: Sequence[Mapping[str, Any]] = run.get("rounds") or ()
    usable = count((run.get("pool") or {}).get("usable"))
    if not rounds:
        return f"People are asked for the first of {usable} rows; nothing is labelled yet."
    done = max(rounds, key=lambda r: r.get("round", 0))
    by_model = done["round"] > 0 and done["strategy"] != "random"
    how = f", chosen by {proxy} with {done['strategy']}" if by_model else ", the start set" * (done["round"] == 0)
    text = f"People have labelled {count(done['labeled_size'])} of {usable} rows{how}."
    scored = [point for point in summary.points if point.error is not None]
    if not scored:
        return f"{text} No target is trained yet, so nothing can be said about what that is worth."
    best = best_point(scored)
    assert best.error is not None
    tested = (run.get("test") or {}).get("rows")
    rows = f"{count(tested)} test rows" if tested else "the test set"
    between = ""
    if tested and tested < _MANY_TEST_ROWS:
        low, high = binomial_interval(best.error.mean, int(tested))
        between = f"; so few rows tell that it is between {share(low)} and {share(high)} %, with 95 % confidence"
    what = f"{_capital(target)} trained on {count(best.labeled_size)} of them"
    return f"{text} {what} is wrong on {share(best.error.mean)} % of {rows}{between}."


def binomial_interval(part: float, rows: int, z: float = 1.96) -> tuple[float, float]:
    """Where the true share lies, when `part` of so many random rows have something; 95 %.

    Source: Wilson 1927.
    """
    centre = part + z * z / (2 * rows)
    half = z * math.sqrt(part * (1 - part) / rows + z * z / (4 * rows * rows))
    return (max(0.0, (centre - half) / (1 + z * z / rows)), min(1.0, (centre + half) / (1 + z * z / rows)))


def best_point(points: Sequence[Point]) -> Point:
    """The point with the lowest mean error among those with the most labels."""
    return min(points, key=lambda p: (-p.labeled_size, p.error.mean if p.error else math.inf))


def _learners(run: Mapping[str, Any]) -> tuple[str, str]:
    recipe = run.get("recipe") or {}
    return learner_name(recipe.get("proxy"), "the proxy"), learner_name(recipe.get("target"), "the target")


def target_selects(summary: Summary, point: Point) -> Point | None:
    """Where the target chose as many rows for itself, with the strategy of `point`; from the same run if possible."""
    fitting = [
        summary.at(series, point.labeled_size)
        for series in summary.series
        if series.selector == "target_selects" and series.strategy == point.series.strategy
    ]
    found = [other for other in fitting if other is not None]
    found.sort(key=lambda other: other.series.variant != point.series.variant)
    return found[0] if found else None


def _capital(text: str) -> str:
    return text if text.startswith("fast") else text[:1].upper() + text[1:]


def _against_random(summary: Summary, best: Point) -> list[str]:
    lines = [summary.at(s, best.labeled_size) for s in summary.series if s.selector == "random"]
    random = next((point for point in lines if point is not None and point.error is not None), None)
    if random is None or random.error is None or best.error is None:
        return ["Random selection was not measured at this size, so it is open whether choosing helped."]
    found = f"{stat_share(random.error)} %"
    clear = clear_difference(best.error, random.error)
    if clear is False:
        return [f"As many rows at random give {found}: no clear difference."]
    seeds = "" if clear else " (one seed: may be chance)"
    if random.error.mean <= best.error.mean:
        return [f"As many rows at random give {found}: choosing did not help here{seeds}."]
    saved = best.savings
    if saved is None or saved.bound == "at_most":
        needs = ""
    elif saved.bound == "more_than":
        needs = f", and random does not get there with {count(saved.random_labels)}"
    else:
        needs = f", and random needs about {count(saved.random_labels)} to get there"
    return [f"As many rows at random give {found}{seeds}{needs}."]


def _against_target(summary: Summary, best: Point) -> list[str]:
    took = stat_duration(best.seconds["selection_seconds"])
    theirs = target_selects(summary, best)
    if best.selection_speedup is None or theirs is None:
        return [
            f"Choosing took {took}; the target was not asked to choose for itself, so there is no speed-up to show."
        ]
    gives = "" if theirs.error is None else f" and gives {stat_share(theirs.error)} %"
    total = "" if best.total_speedup is None else f"; {_times(best.total_speedup)} with the final training counted"
    longer = f"{_times(best.selection_speedup)} as long{total}"
    takes = stat_duration(theirs.seconds["selection_seconds"])
    return [f"Choosing took {took}; the target choosing for itself takes {takes} ({longer}){gives}."]


def _times(ratio: Stat) -> str:
    return f"{count(ratio.mean) if ratio.mean >= 10 else format(ratio.mean, '.2g')} times"
