"""The way in for Python and notebooks: a workspace without a recipe."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from svp_nlp.data import available_rows, labeled_rows
from svp_nlp.engines import LocalEngine
from svp_nlp.engines.ranks import shared_engine
from svp_nlp.errors import RunRefused
from svp_nlp.launch import open_run_together, together
from svp_nlp.models.base import Labeled
from svp_nlp.oracles.column import ColumnOracle, ColumnOracleSpec
from svp_nlp.pool import Pool, PoolRef
from svp_nlp.pool_labels import read_labels
from svp_nlp.ranks import current_launch
from svp_nlp.recipe_yaml import differences
from svp_nlp.workspace import Workspace


def load_pool(
    path: str | Path,
    *,
    text_columns: str | tuple[str, ...] = "text",
    image_column: str | None = None,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
    id_column: str | None = None,
    rows: int | None = None,
    streaming: bool = False,
) -> Pool:
    """Open a pool: a Hub id, a folder laid out like one, a file, `builtin:docstrings` or `builtin:shapes`.

    Args:
        text_columns: what learners see; several are joined with a space.
        image_column: what learners see, in place of texts: a `datasets.Image`, or encoded bytes.
        revision: branch, tag or commit of a Hub dataset; `pool.ref.revision` is the commit that it named.
        rows: only so many rows, drawn at random, the same ones always: for trying out.
        streaming: of a Hub dataset keep one Arrow file, not the files that it was downloaded from as well.
    Raises:
        PoolError: it cannot be found or read; the message says what there is.
    """
    columns = (text_columns,) if isinstance(text_columns, str) else tuple(text_columns)
    return PoolRef(
        str(path),
        name,
        split,
        revision,
        columns if image_column is None else (image_column,),
        id_column,
        modality="text" if image_column is None else "image",
        rows=rows,
        streaming=streaming,
    ).open()


@contextlib.contextmanager
def open_workspace(
    pool: Pool | str | Path,
    *,
    label_column: str = "label",
    seed: int = 0,
    run_dir: str | Path | None = None,
    dev: Labeled | float | None = None,
    noise: float = 0.0,
) -> Iterator[Workspace]:
    """A pool whose labels come from a column: what `active_learning`, `core_set` and `train_target` work in.

    Under `accelerate launch` all processes call this and what follows, and work together.

    Args:
        run_dir: keeps all finished steps, so that the same code on it goes on instead of starting again; None: a
            temporary directory, gone afterwards.
        dev: rows for choosing among epochs, or the share of the labelled rows to hold out for it.
        noise: share of the labels that are replaced by another class.
    Raises:
        PoolError, LabelError: the data cannot be used.
        RunRefused: the directory is in use, belongs to another pool, or is missing where several processes work.
    """
    opened = together(lambda: load_pool(pool) if isinstance(pool, str | Path) else pool)
    labels = together(lambda: read_labels(opened, label_column))
    settings: Mapping[str, Any] = {
        "pool": {**opened.ref.meaning, "fingerprint": opened.fingerprint},
        "label_column": label_column,
        "noise": noise,
    }
    with contextlib.ExitStack() as stack:
        if run_dir is None and current_launch().world_size > 1:
            raise RunRefused("several processes need a directory that they share; give run_dir")
        directory = Path(run_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="svp_nlp-")))
        run = stack.enter_context(
            open_run_together(
                directory,
                recipe=settings,
                recipe_text=yaml.safe_dump(settings, sort_keys=False),
                differences=differences,
                stop_requested=lambda: False,  # Ctrl-C stops a notebook at once; finished steps are kept
            )
        )
        yield Workspace(
            run=run,
            pool=opened,
            engine=shared_engine(LocalEngine(), run.ranks),
            class_names=labels.class_names,
            available_N=available_rows(opened, labels),
            oracle=ColumnOracle(ColumnOracleSpec(noise=noise), labels, opened.keys_N, seed),
            seed=seed,
            dev=dev,
        )


def load_test(
    workspace: Workspace, path: str | Path, *, split: str = "test", label_column: str = "label", **options: Any
) -> Labeled:
    """A test or dev set, its labels aligned by name with those of the workspace's pool.

    Args:
        options: as for `load_pool`; the text or image column is the pool's unless given.
    Raises:
        PoolError, LabelError: it cannot be used.
    """
    ref = workspace.pool.ref
    if ref.modality == "image":
        options.setdefault("image_column", ref.columns[0])
    else:
        options.setdefault("text_columns", ref.columns)
    if str(path) == workspace.pool.ref.path:  # of the same commit, though somebody may have pushed since
        options.setdefault("revision", workspace.pool.ref.revision)
    return labeled_rows(load_pool(path, split=split, **options), label_column, workspace.class_names)[0]
