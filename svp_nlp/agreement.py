"""How far people agree, beyond what chance would give; and who did what. numpy only, from the journal of a run.

Only labels count that stand: of each annotator the last word about a row. Decisions come after a look at what others
said, so they are no votes.

Shape legend: U rows with the labels of two or more annotators, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from svp_nlp.labeling.progress import progress
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labeling.resolve import RowAnswers, resolve

FloatC: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.float64]  # [U, C], how many annotators gave a row a label
Votes: TypeAlias = Sequence[Mapping[str, str]]  # of each row: annotator -> label

_RESAMPLES = 1000


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Agreement of two annotators on the same rows, corrected for chance: 1 = always, 0 = as by chance.

    Returns:
        None where chance alone would agree always: no row, or both gave one and the same label throughout.

    Source: Cohen 1960.
    """
    rows = len(first)
    if not rows:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / rows
    firsts, seconds = Counter(first), Counter(second)
    expected = sum(firsts[label] * seconds[label] for label in firsts) / rows**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def observed_agreement(counts_UC: Counts) -> float | None:
    """How often two annotators of a row say the same; a row with m labels counts m times. None: no row.

    Source: Krippendorff 2011, whose observed disagreement is one minus this.
    """
    return _observed(*_sums(counts_UC)) if len(counts_UC) else None


def krippendorffs_alpha(counts_UC: Counts) -> float | None:
    """Agreement of any number of annotators, corrected for chance; not all of them need to label a row.

    Args:
        counts_UC: each row with at least two labels.
    Returns:
        1 = always, 0 = as by chance, below 0: less. None where there is no row, or only one label in all of them.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C (nominal data).
    """
    return _alpha(*_sums(counts_UC)) if len(counts_UC) else None


def alpha_interval(counts_UC: Counts, *, seed: int = 0) -> tuple[float, float] | None:
    """Where alpha lies in 95 % of resamples of the rows (percentile bootstrap); None where one row says nothing.

    O(resamples x U x C) time.
    """
    rows = len(counts_UC)
    if rows < 2:
        return None
    parts_US = np.concatenate([counts_UC, _same(counts_UC)], axis=1)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(_RESAMPLES):
        drawn_U = np.bincount(rng.integers(rows, size=rows), minlength=rows)
        labels_C, same_C = np.split(drawn_U @ parts_US, 2)
        alpha = _alpha(labels_C, same_C)
        found.append(1.0 if alpha is None else alpha)  # all drawn labels are one: nobody disagreed
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _same(counts_UC: Counts) -> Counts:
    """Ordered pairs of annotators who gave a row the same class, divided by the row's labels less one."""
    same_UC: Counts = counts_UC * (counts_UC - 1) / (counts_UC.sum(axis=1) - 1)[:, None]
    return same_UC


def _sums(counts_UC: Counts) -> tuple[FloatC, FloatC]:
    return counts_UC.sum(axis=0), _same(counts_UC).sum(axis=0)


def _observed(labels_C: FloatC, same_C: FloatC) -> float:
    return float(same_C.sum() / labels_C.sum())


def _alpha(labels_C: FloatC, same_C: FloatC) -> float | None:
    total = labels_C.sum()
    by_chance = float((labels_C * (labels_C - 1)).sum() / (total * (total - 1)))
    return None if by_chance >= 1 else (_observed(labels_C, same_C) - by_chance) / (1 - by_chance)


def class_agreement(counts_UC: Counts) -> list[tuple[int, float | None, float | None]]:
    """Of each class: labels; how often another annotator says it too where one does; alpha of this class or another.

    Source: the first is specific agreement (Cicchetti & Feinstein 1990) for any number of annotators; the second
    Krippendorff 2011 on the labels "this class" and "another one".
    """
    labels_C, same_C = _sums(counts_UC)
    found = []
    for c in range(counts_UC.shape[1]):
        this_UC = np.stack([counts_UC[:, c], counts_UC.sum(axis=1) - counts_UC[:, c]], axis=1)
        agreeing = float(same_C[c] / labels_C[c]) if labels_C[c] else None
        found.append((int(labels_C[c]), agreeing, krippendorffs_alpha(this_UC)))
    return found


def counts_of(votes: Votes, class_names: Sequence[str]) -> Counts:
    """Labels as numbers; rows with fewer than two are left out, for nobody can agree there."""
    at = {name: number for number, name in enumerate(class_names)}
    several = [list(row.values()) for row in votes if len(row) > 1]
    counts_UC = np.zeros((len(several), len(class_names)))
    for number, labels in enumerate(several):
        for label in labels:
            counts_UC[number, at[label]] += 1
    return counts_UC


def agreement_of_votes(votes: Votes, class_names: Sequence[str]) -> dict[str, Any] | None:
    """How far annotators agree, as JSON values; None where no row has the labels of two.

    Returns:
        `rows` with several labels, `observed`, `alpha` and `alpha_interval`, `pairs` of annotators (rows in common,
        observed, kappa), `classes` (name, labels, agreement, alpha) without those that nobody gave.
    """
    counts_UC = counts_of(votes, class_names)
    if not len(counts_UC):
        return None
    interval = alpha_interval(counts_UC)
    found = zip(class_names, class_agreement(counts_UC), strict=True)
    return {
        "rows": len(counts_UC),
        "observed": observed_agreement(counts_UC),
        "alpha": krippendorffs_alpha(counts_UC),
        "alpha_interval": None if interval is None else list(interval),
        "pairs": _pairs(votes),
        "classes": [
            {"name": name, "labels": labels, "agreement": agreement, "alpha": alpha}
            for name, (labels, agreement, alpha) in found
            if labels
        ],
    }


def _pairs(votes: Votes) -> list[dict[str, Any]]:
    common: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for row in votes:
        for pair in combinations(sorted(row), 2):
            for labels, name in zip(common.setdefault(pair, ([], [])), pair, strict=True):
                labels.append(row[name])
    return [
        {
            "annotators": list(pair),
            "rows": len(first),
            "observed": sum(a == b for a, b in zip(first, second, strict=True)) / len(first),
            "kappa": cohens_kappa(first, second),
        }
        for pair, (first, second) in sorted(common.items())
    ]


def agreement_of(queue: LabelQueue) -> dict[str, Any]:
    """What people did in a run, as JSON values: `results["annotators"]` of the report.

    Returns:
        `annotators`: name, labels, skips, flags, decisions (those that stand), seconds_per_answer (None: not known);
        `rows`: asked, answered, by_several, conflicts, skipped, flagged; `agreement`: see `agreement_of_votes`;
        `review`: labels that were looked at again (reviewed, changed), conflicts that were decided (adjudicated).
    """
    said = {id: answers for id in queue.rows if (answers := queue.answers_of(id)) is not None}
    votes = [{vote.annotator: vote.label or "" for vote in answers.votes} for answers in said.values()]
    statuses = Counter(queue.resolution(id).status for id in queue.rows)
    return {
        "annotators": _annotators(queue, list(said.values())),
        "rows": {
            "asked": len(queue.rows),
            "answered": sum(count for status, count in statuses.items() if status != "open"),
            "by_several": sum(len(answers.by_annotator) > 1 for answers in said.values()),
            "conflicts": statuses["conflict"],
            "skipped": statuses["skipped"],
            "flagged": statuses["flagged"],
        },
        "agreement": agreement_of_votes(votes, queue.classes),
        "review": _review(queue, list(said.values())),
    }


def _annotators(queue: LabelQueue, said: Sequence[RowAnswers]) -> list[dict[str, Any]]:
    counts: dict[str, Counter[str]] = {}
    for answers in said:
        for answer in (*answers.by_annotator.values(), *([answers.decision] if answers.decision else [])):
            counts.setdefault(answer.annotator, Counter())[answer.kind] += 1
    return [
        {
            "name": entry["name"],
            **{
                f"{kind}s": counts.get(entry["name"], Counter())[kind] for kind in ("label", "skip", "flag", "decision")
            },
            "seconds_per_answer": entry["seconds_per_answer"],
        }
        for entry in progress(queue)["annotators"]
    ]


def _review(queue: LabelQueue, said: Sequence[RowAnswers]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for answers in said:
        if answers.decision is None:
            continue
        before = resolve(
            RowAnswers(None, answers.by_annotator),
            policy=queue.project.conflicts,
            answers_per_row=queue.project.answers_per_row,
        )
        if answers.decision.source == "adjudication":
            counts["adjudicated"] += 1
        else:
            counts["reviewed"] += 1
            counts["changed"] += before.label != answers.decision.label
    return {key: counts[key] for key in ("reviewed", "changed", "adjudicated")}
