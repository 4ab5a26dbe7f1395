"""The selected, labelled rows as a folder laid out like a Hub dataset: `load_dataset(folder)` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from svp_nlp.arrays import FloatN
from svp_nlp.files import atomic_directory, shipped_directory
from svp_nlp.labels import LabelSet
from svp_nlp.pool import Pool

_ROWS_PER_GROUP = 50_000


def write_selected(
    directory: Path,
    *,
    pool: Pool,
    labels: LabelSet,
    scores: FloatN,
    class_names: Sequence[str],
    label_column: str,
    strategy: str,
) -> None:
    """Write `data/train-00000-of-00001.parquet` and README.md, atomically.

    Args:
        labels: the rows to write, in this order.
        scores: float32, one per label; NaN (the start set, setwise strategies) becomes null.
        label_column: gets the given labels, as a ClassLabel; replaced where the pool has it, added where not.
    """
    from datasets import ClassLabel, Features, Value

    features = dict(pool.features)
    features[label_column] = ClassLabel(names=list(class_names))
    features |= {
        "svp_position": Value("int64"),
        "svp_id": Value("string"),
        "svp_score": Value("float32"),
        "svp_round": Value("int32"),
        "svp_label_source": Value("string"),
    }
    schema = Features(features).arrow_schema
    with atomic_directory(directory) as tmp:
        (tmp / "data").mkdir()
        with pq.ParquetWriter(tmp / "data" / "train-00000-of-00001.parquet", schema) as writer:
            for start in range(0, len(labels), _ROWS_PER_GROUP):
                part = LabelSet(labels.table.slice(start, _ROWS_PER_GROUP))
                part_scores = scores[start : start + _ROWS_PER_GROUP]
                table = pool.dataset(part.positions_L).data.table
                columns = {name: table[name] for name in table.column_names}
                columns[label_column] = pa.chunked_array([part.indices(class_names)])
                columns["svp_position"] = part.table["position"]
                columns["svp_id"] = part.table["id"]
                columns["svp_score"] = pa.chunked_array([pa.array(part_scores, mask=np.isnan(part_scores))])
                columns["svp_round"] = part.table["round"]
                columns["svp_label_source"] = part.table["source"]
                writer.write_table(pa.table([columns[name] for name in schema.names], schema.names).cast(schema))
        readme = card("selected.md", rows=len(labels), strategy=strategy, pool=pool.ref, label_column=label_column)
        (tmp / "README.md").write_text(readme, encoding="utf-8")


def card(template: str, **values: Any) -> str:
    """Fill a template of hub_cards/."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(shipped_directory("hub_cards")),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  Markdown; what users wrote goes in code spans
    )
    return environment.get_template(template).render(**values)
