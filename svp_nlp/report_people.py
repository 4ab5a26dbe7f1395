"""What a report says about those who labelled: how much, how fast, how far they agree, what a second look changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import svp_nlp.report_format as fmt
from svp_nlp.report_merge import Run

_PAIRS = 20  # of annotators; with more of them, those that differ most


@dataclass(frozen=True)
class Table:
    """A table of strings; all columns but the first are numbers. `folded` where only some will want to read it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class People:
    """What is told of one run; `name` where there are several."""

    name: str
    sentences: tuple[str, ...]
    tables: tuple[Table, ...]


def people_of(runs: Sequence[Run], names: Sequence[str]) -> list[People]:
    """The section of the report about people; empty where nobody was asked.

    Args:
        runs: `annotators` as `agreement.agreement_of` gives it; runs without are left out.
    """
    found = []
    for run, name in zip(runs, names, strict=True):
        told = run.get("annotators")
        if told and told["annotators"]:
            found.append(People(name if len(runs) > 1 else "", _sentences(told), _tables(told)))
    return found


def _sentences(told: Mapping[str, Any]) -> tuple[str, ...]:
    rows, review, agreement = told["rows"], told["review"], told["agreement"]
    count = len(told["annotators"])
    sentences = [
        f"{'One person' if count == 1 else f'{fmt.count(count)} people'} answered {fmt.count(rows['answered'])} of "
        f"{fmt.count(rows['asked'])} rows; {fmt.count(rows['skipped'])} were skipped and {fmt.count(rows['flagged'])} "
        "flagged."
    ]
    if rows["conflicts"]:
        sentences.append(f"On {fmt.count(rows['conflicts'])} rows annotators differ and nobody has decided yet.")
    if agreement:
        interval = agreement["alpha_interval"]
        between = "" if interval is None else " (95 % interval {} to {})".format(*(fmt.decimal(x, 2) for x in interval))
        sentences.append(
            f"{fmt.count(agreement['rows'])} rows have the labels of several people, who agree on "
            f"{fmt.share(agreement['observed'])} %. Krippendorff’s alpha is {fmt.decimal(agreement['alpha'], 2)}"
            f"{between}: 1 is full agreement, 0 that of chance; below 0.67 labels are hard to rely on, from 0.8 they "
            "are good."
        )
    if review["adjudicated"]:
        sentences.append(f"{fmt.count(review['adjudicated'])} rows were decided where annotators differed or flagged.")
    if review["reviewed"]:
        sentences.append(
            f"A second look at {fmt.count(review['reviewed'])} labels changed {fmt.count(review['changed'])} of them."
        )
    return tuple(sentences)


def _tables(told: Mapping[str, Any]) -> tuple[Table, ...]:
    tables = [
        Table(
            "Who labelled",
            ("Annotator", "Labels", "Skips", "Flags", "Decisions", "Median time per answer"),
            tuple(
                (
                    entry["name"] or "without a name",
                    *(fmt.count(entry[key]) for key in ("labels", "skips", "flags", "decisions")),
                    fmt.duration(entry["seconds_per_answer"]),
                )
                for entry in told["annotators"]
            ),
        )
    ]
    if agreement := told["agreement"]:
        tables += [_pairs(agreement["pairs"]), _classes(agreement["classes"])]
    return tuple(tables)


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> Table:
    shown = sorted(pairs, key=lambda pair: pair["observed"])[:_PAIRS] if len(pairs) > _PAIRS else pairs
    title = "Agreement of two" + (
        f", the {_PAIRS} pairs of {len(pairs)} that differ most" if shown is not pairs else ""
    )
    return Table(
        title,
        ("Annotators", "Rows of both", "Same label, %", "Cohen’s kappa"),
        tuple(
            (
                " and ".join(name or "without a name" for name in pair["annotators"]),
                fmt.count(pair["rows"]),
                fmt.share(pair["observed"]),
                fmt.decimal(pair["kappa"], 2),
            )
            for pair in shown
        ),
    )


def _classes(classes: Sequence[Mapping[str, Any]]) -> Table:
    """The least agreed on first: that is where guidelines need a word."""
    ranked = sorted(classes, key=lambda entry: entry["agreement"])
    return Table(
        "Agreement by class, the lowest first",
        ("Class", "Labels", "Others say the same, %", "Krippendorff’s alpha"),
        tuple(
            (entry["name"], fmt.count(entry["labels"]), fmt.share(entry["agreement"]), fmt.decimal(entry["alpha"], 2))
            for entry in ranked
        ),
        folded=len(ranked) > 12,
    )
