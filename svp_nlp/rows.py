"""Rows of a memory-mapped Arrow table by absolute position: slices in storage order, gathers in any order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from svp_nlp.arrays import IntK


class Rows:
    """Record batches that are addressed as one table. Reading touches only what is asked for.

    A `pa.Table` would do the same, but its `take` joins all chunks of a text column first: the whole pool in memory.
    """

    def __init__(self, table: pa.Table) -> None:
        self.schema: pa.Schema = table.schema
        self._blocks: list[pa.RecordBatch] = [block for block in table.to_batches() if block.num_rows]
        self._starts = np.cumsum([0, *(block.num_rows for block in self._blocks)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def column(self, name: str) -> pa.ChunkedArray:
        """One column, zero-copy."""
        return pa.chunked_array([block.column(name) for block in self._blocks], type=self.schema.field(name).type)

    def slices(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Rows [start, stop) in storage order, zero-copy, cut where blocks end."""
        block = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            rows = min(stop, int(self._starts[block + 1])) - start
            yield self._blocks[block].slice(start - int(self._starts[block]), rows)
            start += rows
            block += 1

    def locate(self, positions_K: IntK) -> tuple[IntK, IntK]:
        """Of each position its block, as numbered in `column(name).chunks`, and its row there."""
        block_K = np.searchsorted(self._starts, positions_K, side="right") - 1
        return block_K, positions_K - self._starts[block_K]

    def view(self, positions_K: IntK) -> Iterator[pa.RecordBatch]:
        """Rows in the order given, zero-copy: one batch for each run of consecutive positions."""
        for block, start, rows in runs(*self.locate(positions_K)):
            yield self._blocks[block].slice(start, rows)

    def gather(self, positions_K: IntK, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Rows in ascending order of position, block by block: reading in storage order is what makes this fast."""
        ascending = np.sort(positions_K, kind="stable")
        edges = np.searchsorted(ascending, self._starts)
        for block in np.flatnonzero(np.diff(edges)).tolist():
            rows = ascending[edges[block] : edges[block + 1]] - self._starts[block]
            yield self._blocks[block].select(list(names)).take(pa.array(rows))


def runs(block_K: IntK, row_K: IntK) -> list[tuple[int, int, int]]:
    """Rows that follow one another in one block, as (block, first row, number of rows), in the order given."""
    ends = np.flatnonzero((np.diff(block_K) != 0) | (np.diff(row_K) != 1)) + 1
    first = np.concatenate([np.zeros(min(1, len(row_K)), dtype=np.int64), ends])
    lengths = np.diff(first, append=len(row_K))
    return list(zip(block_K[first].tolist(), row_K[first].tolist(), lengths.tolist(), strict=True))


def restoring_order(positions_K: IntK) -> pa.Array | None:
    """What brings gathered rows into the order of `positions_K`; None when they already are."""
    if len(positions_K) < 2 or (positions_K[1:] >= positions_K[:-1]).all():
        return None
    order = np.empty(len(positions_K), dtype=np.int64)
    order[np.argsort(positions_K, kind="stable")] = np.arange(len(positions_K))
    return pa.array(order)


def as_strings(array: pa.Array) -> pa.LargeStringArray:
    """As large_string; from string this copies the offsets only."""
    return array if pa.types.is_large_string(array.type) else array.cast(pa.large_string())


def write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write record batches as an Arrow stream that `datasets` memory-maps; returns the number of rows."""
    rows = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows
