"""Several runs as one: which may be compared, which rows are seeds of one line, which are lines of their own.

A run is one dict per run directory (`format` 1). A *series* is one line in a chart: who selected, with which strategy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svp_nlp.errors import RunRefused

Run = Mapping[str, Any]
SeriesOf = Mapping[tuple[int, str, str | None], "Series"]  # (position of the run, selector, strategy) -> series


@dataclass(frozen=True, order=True)
class Series:
    """One line in a chart. `variant` is the run's name where several runs differ in more than their seeds."""

    selector: str
    strategy: str | None
    variant: str = ""

    @property
    def label(self) -> str:
        """`random`, `proxy · entropy` or `target · entropy`, with the run behind it where there are several."""
        who = {"proxy": "proxy", "target_selects": "target"}.get(self.selector)
        name = self.selector.replace("_", " ") if who is None else f"{who} · {self.strategy or self.selector}"
        return f"{name} ({self.variant})" if self.variant else name


def number(value: Any) -> float | None:
    """A finite float, or None for None, NaN and infinities."""
    if value is None or isinstance(value, bool | str):
        return None
    value = float(value)
    return value if math.isfinite(value) else None


def check_mergeable(runs: Sequence[Run]) -> None:
    """Raises RunRefused: no run, a format of another version, or runs on different pools or test sets."""
    if not runs:
        raise RunRefused("no run to report on; name at least one run directory")
    for run in runs:
        if run.get("format") != 1:
            raise RunRefused(
                f"run {run.get('name')!r} has format {run.get('format')!r}, this svp_nlp reads format 1; "
                "report it with the version that made it"
            )
    first = runs[0]
    for run in runs[1:]:
        for what, keys in (("pool", ("fingerprint", "class_names")), ("test", ("fingerprint", "rows"))):
            for key in keys:
                a, b = (first.get(what) or {}).get(key), (run.get(what) or {}).get(key)
                if a != b:
                    raise RunRefused(
                        f"{what}.{key} is {_brief(a)} in run {first['name']!r} but {_brief(b)} in run {run['name']!r}; "
                        "only runs on the same pool and test set can be compared: report them one by one"
                    )


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def unique_names(runs: Sequence[Run]) -> list[str]:
    """The names of the runs, numbered where two are the same."""
    names: list[str] = []
    for run in runs:
        name = wanted = str(run.get("name") or "run")
        count = 1
        while name in names:
            count += 1
            name = f"{wanted} #{count}"
        names.append(name)
    return names


def _signature(run: Run, selector: str) -> str:
    """What must be equal for two runs to be seeds of one series; the pool is compared by fingerprint, not path."""
    keys = {
        "random": ("oracle", "dev", "target"),
        "target_selects": ("mode", "oracle", "dev", "target", "initial"),
    }.get(selector, ("mode", "oracle", "dev", "target", "initial", "proxy"))
    recipe = run.get("recipe") or {}
    # Random picks nest; whoever learns from its picks chooses differently when the rounds are cut differently.
    rounds = [] if selector == "random" else sorted({entry["labeled_size"] for entry in run.get("rounds") or ()})
    return _stable([{key: recipe.get(key) for key in keys}, rounds])


def _stable(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def series_names(runs: Sequence[Run], names: Sequence[str]) -> dict[tuple[int, str, str | None], Series]:
    """(position of the run, selector, strategy) -> series; a run's name enters where runs would be mixed up."""
    signatures: dict[tuple[str, str | None], dict[int, str]] = {}
    for position, run in enumerate(runs):
        for part in ("rows", "rounds", "stopping", "agreement", "picks", "training", "lineage"):
            for entry in run.get(part) or ():
                key = (entry.get("selector", "proxy"), entry.get("strategy"))
                signatures.setdefault(key, {})[position] = _signature(run, key[0])
    found: dict[tuple[int, str, str | None], Series] = {}
    for (selector, strategy), by_run in signatures.items():
        differ = len(set(by_run.values())) > 1
        for position in by_run:
            named = None if selector == "random" else strategy
            found[position, selector, strategy] = Series(selector, named, names[position] if differ else "")
    return found


def merged_rows(
    runs: Sequence[Run], names: Sequence[str], series_of: SeriesOf
) -> tuple[list[dict[str, Any]], list[str]]:
    """All rows with `run`, `series`, and what a time depends on: `machine` and `target`; and what was left out."""
    rows: dict[tuple[Series, int, int], dict[str, Any]] = {}
    warnings: list[str] = []
    for position, (run, name) in enumerate(zip(runs, names, strict=True)):
        target = _stable((run.get("recipe") or {}).get("target"))
        machine = _stable(run.get("machine"))
        for entry in run.get("rows") or ():
            series = series_of[position, entry["selector"], entry.get("strategy")]
            row = {**entry, "run": name, "series": series, "machine": machine, "target": target}
            place = (series, entry["labeled_size"], entry["seed"])
            kept = rows.setdefault(place, row)
            if kept is not row and kept["run"] == name:  # with as many labels, of which people have corrected some
                rows[place] = row
            elif kept is not row and number(kept.get("error")) != number(row.get("error")):
                warnings.append(
                    f"seed {entry['seed']} of {series.label} at {entry['labeled_size']:,} labels is in {kept['run']} "
                    f"and in {name} with different errors; the first is used"
                )
    if len({_stable(run.get("machine")) for run in runs}) > 1:
        warnings.append("the runs are from different machines; speed-ups compare times of one machine only")
    return sorted(rows.values(), key=lambda r: (r["series"].label, r["labeled_size"], r["seed"])), warnings
