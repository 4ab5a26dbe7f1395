"""Label columns: class indices that always come with their names. Labels are matched by name, never by index."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from svp_nlp.arrays import IntN
from svp_nlp.errors import LabelError

_SHOWN = 10
_LONGEST = 60  # characters of an offender that are shown


@dataclass(frozen=True)
class LabelColumn:
    """Labels of all rows of a pool, in the order of `class_names`."""

    labels_N: IntN  # in [0, len(class_names)), or -1: this row has no label
    class_names: tuple[str, ...]

    @property
    def unlabelled(self) -> int:
        """How many rows have no label."""
        return int((self.labels_N < 0).sum())


def closest(name: str, choices: Sequence[str]) -> str:
    """` (did you mean 'x'?)` for the most similar choice, or nothing."""
    by_case = {choice.casefold().strip(): choice for choice in reversed(choices)}
    found = difflib.get_close_matches(name.casefold().strip(), list(by_case), n=1)
    return f" (did you mean {by_case[found[0]]!r}?)" if found else ""


def _offenders(values: Sequence[Any], counts: Sequence[int], choices: Sequence[str]) -> str:
    shown = []
    for value, count in list(zip(values, counts, strict=True))[:_SHOWN]:
        text = str(value)
        if len(text) > _LONGEST:
            shown.append(f"{text[:_LONGEST]!r}... x {count:,}")
            continue
        hint = closest(text, choices)
        if not hint and text.lstrip("-").isdigit() and 0 <= int(text) < len(choices):
            hint = f" (if it is the index of {choices[int(text)]!r}: labels are matched by name, write the name)"
        shown.append(f"{value!r} x {count:,}{hint}")
    more = f" and {len(values) - _SHOWN:,} more" if len(values) > _SHOWN else ""
    return ", ".join(shown) + more


def _some(names: Sequence[str]) -> str:
    more = f", ... ({len(names):,} in all)" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more


def _values(column: pa.ChunkedArray, names: Sequence[str] | None, where: str) -> tuple[pa.ChunkedArray, list[str]]:
    """The column as class names (null: no label), and the names that it can hold, in their natural order."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if names is not None:
        if pa.types.is_null(kind):
            return column.cast(pa.large_string()), list(names)
        if not pa.types.is_integer(kind):
            raise LabelError(f"{where}: a ClassLabel column holds {kind}; expected integers")
        counts = column.value_counts()
        outside = sorted(
            (item["values"], item["counts"])
            for item in counts.to_pylist()
            if item["values"] is not None and not -1 <= item["values"] < len(names)
        )
        if outside:
            raise LabelError(
                f"{where}: {len(names)} classes are declared, so labels are 0 to {len(names) - 1} (-1 or null: none); "
                f"found {_offenders([v for v, _ in outside], [c for _, c in outside], [])}; correct the data"
            )
        labels = column.cast(pa.int64())
        labels = pc.if_else(pc.less(labels, 0), None, labels)
        return pa.chunked_array(
            [pa.array(list(names), pa.large_string()).take(chunk) for chunk in labels.chunks], pa.large_string()
        ), list(names)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = column.cast(pa.large_string())
        # A label of white space only is an empty cell that somebody typed into.
        column = pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column)
        return column, sorted(value for value in column.unique().to_pylist() if value is not None)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        distinct = sorted(value for value in column.unique().to_pylist() if value is not None)
        value_set = pa.array(distinct, kind)
        texts = pa.array([str(value) for value in distinct], pa.large_string())
        found = pc.index_in(column.cast(kind), value_set=value_set)
        return pa.chunked_array([texts.take(chunk) for chunk in found.chunks], pa.large_string()), [
            str(value) for value in distinct
        ]
    if pa.types.is_null(kind):
        return column.cast(pa.large_string()), []
    hint = "; a column of whole numbers with empty cells became floats: write it as integers or names" * bool(
        pa.types.is_floating(kind)
    )
    raise LabelError(f"{where}: labels are of type {kind}; expected class names, integers, or a ClassLabel{hint}")


def label_column(
    column: pa.ChunkedArray, declared: Sequence[str] | None, *, where: str, class_names: Sequence[str] | None = None
) -> LabelColumn:
    """Read labels as indices into class names.

    Args:
        column: strings, integers, booleans, or the storage of a ClassLabel.
        declared: the names of a ClassLabel feature; None for other columns.
        where: file and column, for errors.
        class_names: the names to align with (the pool's, when this is a test set); None: the column's own.
    Returns:
        Labels, and `class_names` or: the declared names; else the distinct values, sorted (numbers by value).
    Raises:
        LabelError: a type that cannot be labels; a ClassLabel index out of range; a value that is not among
            `class_names`; no label at all.
    """
    names = list(declared) if declared is not None else None
    values, natural = _values(column, names, where)
    final = list(class_names) if class_names is not None else natural
    if len(set(final)) != len(final):
        raise LabelError(f"{where}: class names repeat: {_some(sorted(n for n in set(final) if final.count(n) > 1))}")
    if not final:
        raise LabelError(f"{where}: no row has a label; expected class names, integers, or a ClassLabel")
    found = pc.index_in(values, value_set=pa.array(final, pa.large_string()))
    unknown = pc.and_(pc.is_null(found), pc.is_valid(values))
    if pc.any(unknown).as_py():
        counts = sorted(values.filter(unknown).value_counts().to_pylist(), key=lambda c: (-c["counts"], c["values"]))
        raise LabelError(
            f"{where}: labels that are not among the classes: "
            f"{_offenders([c['values'] for c in counts], [c['counts'] for c in counts], final)}; "
            f"expected {_some(final)}"
        )
    labels_N = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return LabelColumn(labels_N=labels_N, class_names=tuple(final))
