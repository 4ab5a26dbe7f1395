"""Using what a run has trained: labels and probabilities for texts or images that nobody has labelled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from svp_nlp.arrays import FloatNC
from svp_nlp.errors import PoolError, RecipeError
from svp_nlp.files import atomic_file, read_json
from svp_nlp.hub.models import find_model, load_predictor
from svp_nlp.hub.source import find_source
from svp_nlp.models.base import Predictor
from svp_nlp.pool import IMAGE, TEXT, Pool, PoolRef
from svp_nlp.pool_source import is_hub_id
from svp_nlp.run import RECIPE_FILE

LABEL, PROBABILITY = "svp_label", "svp_probability"
_ROWS_PER_BATCH = 4096
_SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Model:
    """A trained model, and what it reads."""

    predictor: Predictor
    name: str
    columns: tuple[str, ...]
    modality: Literal["text", "image"]


def open_model(path: str | Path, *, role: Literal["target", "proxy"] | None = None) -> Model:
    """The model of a run, of a directory, or of a repository of the Hub.

    Args:
        path: a run directory: its target on the most labels, else the proxy; or what `hub.load_predictor` takes.
        role: of a run; None: the target where there is one.
    Raises:
        HubRefused: no such model; says what there is.
        RecipeError: nothing is there.
        ModelError: a file of it is damaged.
    """
    run_dir = Path(path)
    if not (run_dir / RECIPE_FILE).is_file():
        if role is not None:
            raise RecipeError(f"{path} is not a run directory, so no role can be chosen in it; leave --model out")
        if not run_dir.exists() and not is_hub_id(str(path)):
            raise RecipeError(f"{path} does not exist; expected a run directory, a model directory or a model's Hub id")
        predictor = load_predictor(path)
        reads: Any = getattr(getattr(predictor, "spec", None), "reads", TEXT)
        return Model(predictor, str(path), (reads,), reads)
    recipe = read_json(run_dir / RECIPE_FILE)
    pool = recipe["pool"]
    if role is None:
        role = "proxy" if recipe.get("target", "") is None else "target"
    found = find_model(find_source(run_dir), role=role)
    image = pool.get("image_column")
    columns = (image,) if image else tuple(pool.get("text_columns") or pool.get("columns") or (TEXT,))
    modality: Literal["text", "image"] = "image" if image or pool.get("modality") == IMAGE else "text"
    name = f"{role} on {found.labeled_size:,} labels, {found.directory}"
    return Model(load_predictor(found.directory / "weights"), name, columns, modality)


def predict_texts(model: Model, texts: list[str]) -> FloatNC:
    """Probabilities [N, C] of texts, classes in the order of `model.predictor.class_names`."""
    return model.predictor.predict(pa.table({TEXT: pa.array(texts, pa.large_string())})).probs_BC


def open_rows(path: str, *, columns: tuple[str, ...], modality: Literal["text", "image"], split: str = "train") -> Pool:
    """The rows that are to be labelled.

    Raises:
        PoolError: they cannot be found or read; the message says what there is.
    """
    return PoolRef(path, None, split, None, columns, None, modality=modality).open()


def default_output(path: str) -> Path:
    """Beside the file, `-predicted` in its name; for folders and datasets of the Hub here, as Parquet."""
    file = Path(path)
    name = file.name.removesuffix(".gz")
    suffix = Path(name).suffix if Path(name).suffix in _SUFFIXES else ".parquet"
    if not file.is_file():
        return Path(f"{file.name or 'rows'}-predicted.parquet")
    return file.with_name(f"{Path(name).stem}-predicted{suffix}")


def predict_file(model: Model, pool: Pool, output: Path, *, all_classes: bool = False) -> dict[str, int]:
    """Write all rows with the likeliest class and its probability; `output` appears when it is complete.

    Args:
        output: .csv, .jsonl or .parquet. Columns of the rows, without images, and `svp_label`, `svp_probability` in
            place of any that they have under these names; a row without content has null there.
        all_classes: a column `svp_p_<class>` for each class as well.
    Returns:
        rows of each class, the most frequent first; "" counts those without content.
    Raises:
        RecipeError: another suffix.
        PoolError: an image cannot be read.
    """
    if output.suffix not in _SUFFIXES:
        raise RecipeError(f"{output}: expected a file that ends in {', '.join(_SUFFIXES)}")
    names = list(model.predictor.class_names)
    counts: Counter[str] = Counter()
    with atomic_file(output) as tmp, ExitStack() as stack:
        writer: Any = None
        for table in _tables(model, pool, all_classes=all_classes):
            counts.update(name or "" for name in table[LABEL].to_pylist())
            if writer is None:
                writer = _writer(tmp, output.suffix, table.schema, stack)
            writer(table)
    return {name: counts[name] for name in sorted(["", *names], key=lambda n: -counts[n]) if counts[name]}


def _tables(model: Model, pool: Pool, *, all_classes: bool) -> Iterator[pa.Table]:
    names = pa.array(model.predictor.class_names, pa.string())
    rows_per_batch = getattr(model.predictor, "rows_per_batch", _ROWS_PER_BATCH)
    blank_N = ~pool.usable_N
    blank_N[pool.duplicates_D2[:, 0]] = False
    kept = [name for name in pool.features if model.modality == "text" or name not in model.columns]
    [whole] = pool.shards(max(1, len(pool)))
    start = 0
    for batch in pool.batches(whole, rows_per_batch):
        stop = start + batch.num_rows
        probs_BC = model.predictor.predict(batch).probs_BC
        best_B, blank_B = probs_BC.argmax(axis=1), blank_N[start:stop]
        table = pool.dataset(np.arange(start, stop)).data.table.select(kept)
        added: dict[str, Any] = {
            LABEL: names.take(pa.array(best_B, mask=blank_B)),
            PROBABILITY: pa.array(probs_BC.max(axis=1), pa.float32(), mask=blank_B),
        }
        if all_classes:
            columns = zip(names.to_pylist(), probs_BC.T, strict=True)
            added |= {f"svp_p_{name}": pa.array(np.array(p), pa.float32(), mask=blank_B) for name, p in columns}
        table = table.drop_columns([name for name in added if name in table.column_names])
        for name, column in added.items():
            table = table.append_column(name, column)
        yield table.replace_schema_metadata(None)
        start = stop


def _writer(path: Path, suffix: str, schema: pa.Schema, stack: ExitStack) -> Any:
    if suffix == ".parquet":
        return stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd")).write_table
    if suffix == ".csv":
        nested = [field.name for field in schema if pa.types.is_nested(field.type)]
        if nested:
            raise PoolError(f"columns {', '.join(nested)} hold lists or records, which CSV cannot; write .jsonl")
        return stack.enter_context(pa_csv.CSVWriter(path, schema)).write_table
    file = stack.enter_context(path.open("w", encoding="utf-8"))

    def write(table: pa.Table) -> None:
        file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in table.to_pylist())

    return write
