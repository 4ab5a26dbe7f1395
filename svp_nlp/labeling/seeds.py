"""Labels that are there before anybody is asked: a file of rows of the pool, known by their id or their text."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from svp_nlp.arrays import IntN
from svp_nlp.columns import closest
from svp_nlp.content import HASH_BYTES, HashN, hash_strings, hash_texts, keys_of, normalise
from svp_nlp.errors import LabelError
from svp_nlp.labeling.formats import read_rows
from svp_nlp.labeling.table import MARKS, LabelRow, clean_label
from svp_nlp.labels import LabelSet
from svp_nlp.pool import IMAGE, Pool
from svp_nlp.run import STEP_FILE

SEEDS = "seeds"  # the step of a run that keeps them
SEEDS_FILE = "labels.parquet"
_HEX_ID = re.compile(r"[0-9a-f]{32}")
_SHOWN = 5
_LONGEST = 60  # characters of a text that are shown


def read_seeds(path: str, pool: Pool, *, class_names: Sequence[str], extend: bool) -> LabelSet:
    """The labels of a file, in pool order, as round 0. Rows without a label, skips and flags are left out.

    Args:
        path: a file in any format of `formats`.
        class_names: what a label may be.
        extend: or any other name.
    Raises:
        LabelError: the file cannot be read, or rows of it are wrong: not in the pool, blank there, of another text
            than there, labelled in two ways, of an unknown class. Lists all of them, up to a number of each.
    """
    where = f"oracle.seed_labels: {path}"
    try:
        _, rows = read_rows(path)
    except LabelError as error:
        raise LabelError(f"oracle.seed_labels: {error}") from None
    rows = [
        dataclasses.replace(row, label=clean_label(row.label, class_names))
        for row in rows
        if row.kind == "decision" or (row.label.strip() and row.kind in ("", "label")) or row.problem
    ]
    rows = [row for row in rows if row.label.lower() not in MARKS or row.label in class_names or row.problem]
    if not any(row.label or row.problem for row in rows):
        raise LabelError(f"{where}: no row has a label; expected rows with svp_id or text, and label")
    problems: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.problem:
            problems[row.problem].append(row.at)
    positions = _positions(pool, rows, problems)
    labels: dict[int, LabelRow] = {}
    for row, position in zip(rows, positions, strict=True):
        if position < 0:
            continue
        first = labels.setdefault(position, row)
        if "decision" in (first.kind, row.kind) and first.kind != row.kind:  # it overrules, as in the run it comes from
            labels[position] = row if row.kind == "decision" else first
        elif first.label != row.label:
            problems["are one row of the pool with two labels"].append(f"{first.at} and {row.at}")
    labels = {position: row for position, row in labels.items() if row.label}  # not where nobody can tell
    told = [f"{len(at):,} rows {what} ({_shown(at)})" for what, at in problems.items()]
    told += _unknown(labels.values(), class_names) if not extend else []
    if told:
        raise LabelError(f"{where}: {'; '.join(told)}; correct the file")
    positions_L = np.array(sorted(labels), dtype=np.int64)
    return LabelSet.of(
        positions_L,
        pool.ids(positions_L),
        pa.array([labels[position].label for position in positions_L.tolist()], pa.string()),
        round=0,
        source="seed",
        annotator=[labels[position].annotator for position in positions_L.tolist()],
    )


def kept_seeds(run_dir: Path | None) -> LabelSet | None:
    """The seed labels with which a run began: it stands on them, whatever becomes of their file. None: it had none."""
    if run_dir is None or not (run_dir / SEEDS / STEP_FILE).exists():
        return None
    return LabelSet.load(run_dir / SEEDS / SEEDS_FILE)


def _unknown(rows: Iterable[LabelRow], class_names: Sequence[str]) -> list[str]:
    """What to say about labels that are not among the classes."""
    counts = Counter(row.label for row in rows)
    wrong = sorted(set(counts) - set(class_names))
    if not wrong:
        return []
    shown = [f"{name!r} x {counts[name]:,}{closest(name, class_names)}" for name in wrong]
    return [f"labels that are not among the classes: {_shown(shown)} (oracle.new_classes: extend would take them)"]


def _positions(pool: Pool, rows: Sequence[LabelRow], problems: dict[str, list[str]]) -> list[int]:
    """Where rows are in the pool; -1 where there is a problem. Of rows with one content it is the first."""
    is_image = pool.ref.modality == IMAGE
    by_text = _find(pool._hashes_N, _hashes_of_texts([row.text for row in rows])) if not is_image else {}
    by_id = _find(pool._ids_N, _hashes_of_ids(pool, [row.svp_id for row in rows]))
    firsts = dict(pool.duplicates_D2.tolist())
    positions = []
    for number, row in enumerate(rows):
        found, text = by_id if row.svp_id else by_text, normalise(row.text)
        position = found.get(number, -1)
        position = firsts.get(position, position)
        if not row.svp_id and (is_image or not text):
            problems["have no svp_id" if is_image else "have neither svp_id nor text"].append(row.at)
            position = -1
        elif position < 0:
            what = repr(text[:_LONGEST]) if text else row.svp_id
            problems["are not in the pool: make them rows of it"].append(f"{row.at}: {what}")
        elif not pool.usable_N[position]:
            problems["are blank in the pool"].append(f"{row.at}: {row.svp_id}")
            position = -1
        elif row.svp_id and text and not is_image and by_text.get(number, -1) != position:
            problems["have another text in the pool"].append(f"{row.at}: {row.svp_id}")
            position = -1
        positions.append(position)
    return positions


def _hashes_of_texts(texts: list[str]) -> HashN:
    return hash_texts(pa.array(texts, pa.large_string()))[0]


def _hashes_of_ids(pool: Pool, ids: list[str]) -> HashN:
    if pool.ref.id_column is not None:
        return hash_strings(pa.array(ids, pa.large_string()))
    raw = [bytes.fromhex(id) if _HEX_ID.fullmatch(id) else bytes(HASH_BYTES) for id in ids]
    return np.frombuffer(b"".join(raw), dtype=np.uint8).reshape(-1, HASH_BYTES)


def _find(hashes_N: HashN, wanted_S: HashN) -> dict[int, int]:
    """The first row of the pool with each of some hashes: number in `wanted_S` -> position. O(N log S)."""
    # Half of a hash tells who may be equal; only those few are compared in full.
    maybe: IntN = np.flatnonzero(np.isin(keys_of(hashes_N), keys_of(wanted_S)))
    position_of: dict[bytes, int] = {}
    for position in maybe.tolist():
        position_of.setdefault(hashes_N[position].tobytes(), position)
    found = ((number, position_of.get(wanted_S[number].tobytes())) for number in range(len(wanted_S)))
    return {number: position for number, position in found if position is not None}


def _shown(places: Sequence[str]) -> str:
    return ", ".join(places[:_SHOWN]) + (", ..." if len(places) > _SHOWN else "")
