"""A selection as a version on the Hub: its files, and the facts that its card and its readers need."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from svp_nlp.arrays import fingerprint_array, fingerprint_json
from svp_nlp.errors import SVPError
from svp_nlp.files import safe_name
from svp_nlp.hub.card import selection_card
from svp_nlp.hub.push import Bundle
from svp_nlp.hub.remote import Remote
from svp_nlp.hub.retry import Patience
from svp_nlp.hub.source import Source, kept_lineage, shareable
from svp_nlp.report import summarize
from svp_nlp.report_picture import learning_curve
from svp_nlp.results import RESULTS_FILE, collect
from svp_nlp.run import now
from svp_nlp.selected import SelectedRows, write_rows
from svp_nlp.selection import Selection

log = logging.getLogger(__name__)
KIND = "selection"
DEFAULT_CONFIG = "default"
CURVE = "learning_curve.png"
_FOR_A_CARD = Patience(deadline_s=30.0)


@contextlib.contextmanager
def selection_bundle(
    rows: SelectedRows,
    selection: Selection,
    *,
    config: str = DEFAULT_CONFIG,
    index_only: bool = False,
    source: Source | None = None,
) -> Iterator[Bundle]:
    """Write the files of a version into a temporary directory that lives as long as the context.

    Args:
        rows: all rows of the version; the last of them are those of `selection`.
        source: where it comes from, for the recipe and the learning curve in the card.
    """
    safe_name(config, "the configuration")
    with tempfile.TemporaryDirectory(prefix="svp_nlp-push-") as name:
        directory = Path(name)
        folder = f"data/{config}"
        (directory / folder).mkdir(parents=True)
        digest = hashlib.sha256()
        files = write_rows(directory / folder, rows, index_only=index_only, digest=digest)
        entry = _entry(rows, selection, files, index_only=index_only)
        extra: dict[str, Path] = {}
        if source is not None and source.run_dir is not None:
            entry |= {"recipe": _recipe_text(source.run_dir), "results": _results(source.run_dir)}
            if (picture := _curve(source.run_dir)) is not None:
                extra[CURVE] = directory / CURVE
                extra[CURVE].write_bytes(picture)
        meaning = {k: entry[k] for k in ("labels_fingerprint", "class_names", "label_column", "selection")}
        yield Bundle(
            kind=KIND,
            repo_type="dataset",
            config=config,
            key=fingerprint_json([KIND, 2, config, selection.lineage.pool["fingerprint"], digest.hexdigest(), meaning]),
            title=f"{len(rows):,} rows by {selection.lineage.strategy}, round {selection.lineage.round}",
            folder=folder,
            files={f"{folder}/{file.name}": file for file in files},
            entry=entry,
            card=selection_card,
            extra=extra,
        )


def _entry(rows: SelectedRows, selection: Selection, files: list[Path], *, index_only: bool) -> dict[str, Any]:
    from datasets import DatasetInfo, SplitDict, SplitInfo

    size = sum(file.stat().st_size for file in files)
    content = sum(pq.read_metadata(f).row_group(g).total_byte_size for f in files for g in range(_row_groups(f)))
    splits = SplitDict()
    splits.add(SplitInfo("train", num_bytes=content, num_examples=len(rows)))
    info = DatasetInfo(
        features=rows.features(index_only=index_only),
        splits=splits,
        download_size=size,
        dataset_size=content,
    )
    return {
        "created": now(),
        "rows": len(rows),
        "index_only": index_only,
        "label_column": None if rows.class_names is None else rows.label_column,
        "class_names": None if rows.class_names is None else list(rows.class_names),
        "rows_fingerprint": rows_fingerprint(rows.labels.table),
        "labels_fingerprint": None if rows.class_names is None else fingerprint_column(rows.labels.table["label"]),
        "dataset_info": info._to_yaml_dict(),
        "class_counts": {} if rows.class_names is None else rows.labels.class_counts(rows.class_names),
        "selection": {"fingerprint": selection.fingerprint, "rows": len(selection)},
        "lineage": kept_lineage(selection, rows.pool),
        "source_card": source_card(selection),
        "results": None,
        "recipe": None,
    }


def _row_groups(file: Path) -> int:
    return int(pq.read_metadata(file).num_row_groups)


def fingerprint_column(column: pa.ChunkedArray) -> str:
    """Hash of integers, or of texts and nulls, in order; however they are cut into chunks."""
    if pa.types.is_integer(column.type):
        return fingerprint_array(column.to_numpy().astype("<i8"))
    lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy().astype("<i8")
    texts = pc.fill_null(column.cast(pa.large_string()), "").combine_chunks()
    content = np.empty(0, np.uint8)
    if len(texts):
        _, offsets, data = texts.buffers()
        start, stop = np.frombuffer(offsets, np.int64)[[texts.offset, texts.offset + len(texts)]]
        content = np.frombuffer(data, np.uint8)[start:stop]
    return fingerprint_array(np.concatenate([lengths.view(np.uint8), content]))


def rows_fingerprint(table: pa.Table) -> str:
    """Hash of position, id, round and source of all rows, in order."""
    return fingerprint_json([fingerprint_column(table[name]) for name in ("position", "id", "round", "source")])


def source_card(selection: Selection) -> dict[str, Any] | None:
    """Licence, language and task of the parent dataset, as far as its card has them.

    None: it is on no Hub, or could not be asked; a later push of the same content then fills them in.
    """
    pool = selection.lineage.pool
    if pool.get("revision") is None:
        return None
    try:
        parent = Remote(pool["path"], "dataset", patience=_FOR_A_CARD)
        info = parent.call(
            lambda: parent.api.dataset_info(parent.repo_id, revision=pool["revision"]), "reading its card"
        )
    except SVPError as error:  # a card without a licence is better than no version
        log.warning("the licence of the pool is not told: %s", error)
        return None
    names = ("license", "language", "task_categories")
    told = info.card_data
    return {} if told is None else {name: told.get(name) for name in names if told.get(name) is not None}


def _recipe_text(run_dir: Path) -> str | None:
    import yaml

    file = run_dir / "recipe.yaml"
    if not file.exists():
        return None
    text = file.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    # As it is where nothing in it concerns this machine: its sha256 is then the one in the lineage.
    return text if shareable(values) == values else yaml.safe_dump(shareable(values), sort_keys=False)


def _results(run_dir: Path) -> dict[str, Any] | None:
    found = _summary(run_dir)
    if found is None:
        return None
    results, summary = found
    points = [
        {
            "selector": point.series.selector,
            "strategy": point.series.strategy,
            "labeled_size": point.labeled_size,
            "labeled_percent": point.labeled_percent,
            "error_mean": point.error.mean,
            "error_std": point.error.std,
            "seeds": point.error.seeds,
        }
        for point in summary.points
        if point.error is not None
    ]
    target = results["recipe"].get("target") or {}
    return {"target": target.get("kind"), "metric": "error", "rows": points} if points else None


def _curve(run_dir: Path) -> bytes | None:
    found = _summary(run_dir)
    return None if found is None else learning_curve(found[1])


def _summary(run_dir: Path) -> tuple[dict[str, Any], Any] | None:
    if not (run_dir / RESULTS_FILE).exists():
        return None
    results = collect(run_dir)
    return results, summarize([results])
