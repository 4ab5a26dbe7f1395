"""Signals on the Hub: what a proxy said about every row of a pool, so that others choose anew without scoring.

Shape legend: N pool rows, K picked, B rows of a block, C classes, D width of the embeddings.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from svp_nlp.arrays import BoolN, fingerprint_array, fingerprint_json
from svp_nlp.errors import HubRefused, LineageError, RunError
from svp_nlp.files import read_json, sha256_file
from svp_nlp.hub.card import signals_card
from svp_nlp.hub.models import StoredModel, seed_directory, stored_models
from svp_nlp.hub.push import Bundle
from svp_nlp.hub.selections import DEFAULT_CONFIG, source_card
from svp_nlp.hub.shared_signals import KIND
from svp_nlp.hub.source import Source, find_source, kept_lineage, open_source
from svp_nlp.pool import Pool
from svp_nlp.pool_labels import read_labels
from svp_nlp.run import STEP_FILE, now
from svp_nlp.selection import Selection

EMBEDDINGS = "embeddings"
_OWN = ("svp_position", "svp_id", "svp_available", "svp_labeled")
_ROWS_PER_FILE = 500_000
_ROWS_PER_GROUP = 50_000
_BYTES_PER_GROUP = 32 << 20  # wide embeddings are written in shorter groups


@contextlib.contextmanager
def signals_bundle(
    run_dir: str | Path,
    *,
    arm: str | None = None,
    seed: int | None = None,
    round: int | None = None,
    pool: Pool | None = None,
) -> Iterator[Bundle]:
    """All that the model of a round said about the pool, as Parquet files that live as long as the context.

    Columns: `svp_position`, `svp_id`, `svp_available` (the round could pick this row: it has a text or an image that no
    earlier row has, and was not labelled yet), `svp_labeled` (it was), and one for each signal: scores float32, `probs`
    and `embeddings` lists of float32. A run keeps the scores of its strategies, and what its encoder gave where the
    proxy is a head on a frozen one. What was said of a part of the pool alone is left out.

    Args:
        arm: proxy-margin, ...; None: what the recipe's first strategy chose.
        seed: None: the first.
        round: None: the last that is finished.
        pool: None: opened as the lineage says.
    Raises:
        HubRefused: there is no such round, no model chose in it, or it looked at a part of the pool only.
        RunError: a stored signal was changed since.
        LineageError, PoolError: the pool is not what it was, or cannot be opened.
    """
    source = find_source(run_dir, arm=arm, seed=seed, round=round)
    seed_directory(source)  # a selection without its run has no signals, and its pool need not be here
    rows, selection = open_source(source, pool=pool)
    model, files = _stored(source, selection)
    available_N, labeled_N = _masks(source, rows.pool)
    arrays = {name: np.load(file, mmap_mode="r", allow_pickle=False) for name, file in files.items()}
    content = {name: sha256_file(file) for name, file in files.items()}
    with tempfile.TemporaryDirectory(prefix="svp_nlp-push-") as name:
        folder = f"data/{DEFAULT_CONFIG}"
        written = _write(Path(name), rows.pool, [available_N, labeled_N], arrays)
        counts = {"available": int(available_N.sum()), "labeled": int(labeled_N.sum())}
        entry = _entry(selection, model, arrays, written, pool=rows.pool, counts=counts)
        masks = [fingerprint_array(np.packbits(mask_N)) for mask_N in (available_N, labeled_N)]
        facts = [selection.lineage.pool["fingerprint"], *masks, model.fingerprint]
        yield Bundle(
            kind=KIND,
            repo_type="dataset",
            config=DEFAULT_CONFIG,
            key=fingerprint_json([KIND, 2, content, *facts]),
            title=f"{', '.join(arrays)} of {len(rows.pool):,} rows by {model.step['inputs']['learner']['kind']}, "
            f"round {selection.lineage.round}",
            folder=folder,
            files={f"{folder}/{file.name}": file for file in written},
            entry=entry,
            card=signals_card,
        )


def _stored(source: Source, selection: Selection) -> tuple[StoredModel, dict[str, Path]]:
    """The model that chose, and name -> .npy [N, ...] of what it said, narrow signals first; hashes are verified."""
    proxy = selection.lineage.proxy
    where = f"{source.run_dir}, seed {source.seed}, {source.arm}, round {selection.lineage.round}"
    if proxy is None:
        raise HubRefused(f"{where}: no model chose there, so there are no signals; name another arm (--arm) or round")
    chose = [m for m in stored_models(seed_directory(source)) if m.fingerprint == proxy["fingerprint"]]
    found: dict[str, Path] = {}
    in_part = False
    for step_file in [path for m in chose for path in sorted(m.directory.parent.glob(f"signals-*/{STEP_FILE}"))]:
        step = read_json(step_file)
        if step["inputs"]["pool"] != selection.lineage.pool["fingerprint"]:
            continue
        in_part = in_part or "rows" in step["inputs"]
        if "rows" not in step["inputs"] and _epochs_fit(step, selection):
            found |= {name: _verified(step_file, f"{name}.npy") for name in step["output"]["signals"]}
    if EMBEDDINGS not in found and "encoder" in proxy:
        assert source.run_dir is not None
        for step_file in sorted(source.run_dir.glob(f"encoders/*/features/{STEP_FILE}")):
            if read_json(step_file)["inputs"]["model"] == proxy["encoder"]:
                found[EMBEDDINGS] = _verified(step_file, f"{EMBEDDINGS}.npy")
    if not found and in_part:
        scored, rows = selection.lineage.scoring.get("rows", 0), selection.lineage.pool["rows"]
        raise HubRefused(
            f"{where}: its model scored {scored:,} of {rows:,} rows, and signals are of a whole pool; push the model "
            "(--what proxy) or the selection, or the signals of another arm (--arm) or round"
        )
    if not found:
        raise HubRefused(f"{where}: the scores of its model are gone; `svp run` again computes them")
    wide = ("probs", EMBEDDINGS)
    return chose[-1], {name: found[name] for name in sorted(found, key=lambda n: (n in wide, n == EMBEDDINGS, n))}


def _epochs_fit(step: Mapping[str, Any], selection: Selection) -> bool:
    """Whether a score of training dynamics is of all epochs, or of those that the round's own strategy looked at."""
    own = selection.lineage.options.get("epochs") if step["output"]["signals"] == [selection.lineage.strategy] else None
    return bool(step["inputs"].get("epochs") == own)


def _verified(step_file: Path, name: str) -> Path:
    file = step_file.parent / name
    if not file.is_file() or sha256_file(file) != read_json(step_file)["files"].get(name):
        raise RunError(f"{file} is missing or was changed since it was computed; `svp run` again computes it again")
    return file


def _masks(source: Source, pool: Pool) -> tuple[BoolN, BoolN]:
    """Rows that the round could pick, and rows that were labelled before it, bool [N] each."""
    recipe = source.recipe
    label_column = recipe.get("label_column") or recipe.get("pool", {}).get("label_column")
    available_N = pool.usable_N.copy()
    if label_column is not None:
        available_N &= read_labels(pool, label_column).labels_N >= 0
    step = read_json(source.selections[-1] / STEP_FILE)
    if fingerprint_array(np.packbits(available_N)) != step["inputs"]["available"]:
        raise LineageError(
            f"{source.selections[-1]}: other rows of {pool.ref.path} have a label in {label_column!r} now than when it "
            "was made; restore the labels"
        )
    labeled_N = np.zeros(len(pool), dtype=np.bool_)
    for path in source.selections[:-1]:
        labeled_N[Selection.load(path).positions_K] = True
    return available_N & ~labeled_N, labeled_N


def _features(arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    from datasets import Features, List, Value

    kinds = (Value("int64"), Value("string"), Value("bool"), Value("bool"))
    columns: dict[str, Any] = dict(zip(_OWN, kinds, strict=True))
    for name, array in arrays.items():
        columns[name] = Value("float32") if array.ndim == 1 else List(Value("float32"), length=array.shape[1])
    return Features(columns)


def _write(directory: Path, pool: Pool, masks: Sequence[BoolN], arrays: Mapping[str, npt.NDArray[Any]]) -> list[Path]:
    """Write the pool's rows in order, a group at a time; returns the files."""
    schema = _features(arrays).arrow_schema
    row_bytes = sum(4 * int(np.prod(array.shape[1:], dtype=np.int64)) for array in arrays.values())
    group = max(1, min(_ROWS_PER_GROUP, _BYTES_PER_GROUP // max(row_bytes, 1)))
    starts = range(0, len(pool), _ROWS_PER_FILE)
    files = []
    for number, first in enumerate(starts):
        files.append(directory / f"train-{number:05d}-of-{len(starts):05d}.parquet")
        last = min(first + _ROWS_PER_FILE, len(pool))
        with pq.ParquetWriter(files[-1], schema, compression="zstd", use_dictionary=False) as writer:
            for start in range(first, last, group):
                positions_B = np.arange(start, min(start + group, last), dtype=np.int64)
                part = slice(start, start + len(positions_B))
                own = [positions_B, pool.ids(positions_B).cast(pa.string()), *(mask_N[part] for mask_N in masks)]
                columns = [*own, *(_column(array[part]) for array in arrays.values())]
                writer.write_table(pa.table(columns, names=schema.names).cast(schema))
    return files


def _column(values: npt.NDArray[Any]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _entry(
    selection: Selection,
    model: StoredModel,
    arrays: Mapping[str, npt.NDArray[Any]],
    files: list[Path],
    *,
    pool: Pool,
    counts: Mapping[str, int],
) -> dict[str, Any]:
    from datasets import DatasetInfo, SplitDict, SplitInfo

    num_rows = len(next(iter(arrays.values())))
    metadata = [pq.read_metadata(file) for file in files]
    content = sum(m.row_group(number).total_byte_size for m in metadata for number in range(m.num_row_groups))
    info = DatasetInfo(
        features=_features(arrays),
        splits=SplitDict(train=SplitInfo("train", num_bytes=content, num_examples=num_rows)),
        download_size=sum(file.stat().st_size for file in files),
        dataset_size=content,
    )
    lineage = kept_lineage(selection, pool)
    kept = ("pool", "proxy", "round", "seed", "parent", "recipe_sha256", "versions")
    signals = {name: {"dtype": "float32", "shape": list(array.shape)} for name, array in arrays.items()}
    if selection.lineage.strategy in signals and (epochs := selection.lineage.options.get("epochs")):
        signals[selection.lineage.strategy]["epochs"] = epochs
    return {
        "created": now(),
        "rows": num_rows,
        **counts,
        "signals": signals,
        "class_names": list(model.step["inputs"]["classes"]),
        "dataset_info": info._to_yaml_dict(),
        "lineage": {
            **{name: lineage[name] for name in kept},
            "labeled_size": model.labeled_size,
            "scoring": {**lineage["scoring"], "rows": num_rows},  # the round itself may have looked at fewer
        },
        "source_card": source_card(selection),
    }
