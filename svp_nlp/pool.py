"""Pools: all candidate rows, immutable, memory-mapped; a row is addressed by its absolute position.

Shape legend: N pool rows, K picked, B batch, D duplicates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from svp_nlp.arrays import BoolN, IntK, IntN, UIntN, fingerprint_array, fingerprint_json, keyed_hash
from svp_nlp.cache import cached_directory
from svp_nlp.columns import closest
from svp_nlp.content import HASH_BYTES, find_duplicates, hash_strings, hash_texts, hex_ids, keys_of
from svp_nlp.errors import PoolError
from svp_nlp.files import read_json, write_json
from svp_nlp.pool_check import PoolCheck
from svp_nlp.pool_hub import open_hub
from svp_nlp.pool_images import Images, hash_images, holds_images, image_file, read_image, unreadable
from svp_nlp.pool_source import Source, is_hub_id, open_local
from svp_nlp.rows import Rows, as_strings, restoring_order

if TYPE_CHECKING:
    from datasets import Dataset

TEXT, IMAGE = "text", "image"  # the one column that learners see: texts, or the encoded bytes of images
_BLOCK_ROWS = 16_384
_BLOCK_IMAGES = 512  # of an image folder the files are read: 110 kB each in ImageNet
_DECODED_BYTES = 1 << 30  # so much of a pool of images is decoded when it is opened first; of the rest, headers are
_SHOWN = 5


@dataclass(frozen=True)
class PoolRef:
    """Where a pool lives: small, hashable, crosses process borders. Labels are out of its reach.

    `path` is a Hub id, a folder laid out like a Hub dataset, a .parquet, .csv, .tsv or .jsonl file (the last three
    also .gz), a folder of image files, `builtin:docstrings` or `builtin:shapes`.
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: tuple[str, ...] = ("text",)  # model inputs; several texts are joined with a space
    id_column: str | None = None
    modality: Literal["text", "image"] = "text"
    rows: int | None = None  # a pool of so many rows, drawn at random (the same ones always); None: all
    streaming: bool = field(default=False, compare=False)  # how rows get here, not which they are

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        # A single name would otherwise be read as a tuple of letters.
        names: Any = self.columns
        columns = (names,) if isinstance(names, str) else tuple(names)
        object.__setattr__(self, "columns", columns)
        if not columns or len(set(columns)) != len(columns):
            raise PoolError(f"{self.path}: columns is {list(columns)}; expected one or more different text columns")
        if self.modality == IMAGE and len(columns) > 1:
            raise PoolError(f"{self.path}: columns is {list(columns)}; expected one image column")

    @property
    def meaning(self) -> dict[str, Any]:
        """All that decides which rows these are, as JSON values."""
        values = asdict(self) | {"columns": list(self.columns)}
        del values["streaming"]
        # Left out where they say nothing, as the selections of earlier versions have it.
        if self.modality == TEXT:
            del values["modality"]
        if self.rows is None:
            del values["rows"]
        return values

    def open(self) -> Pool:
        """Open the pool; the first time its rows are read once and hashed, later that takes milliseconds."""
        return Pool(self)


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop): the unit of work and of resuming. Fixed by the pool, never by the workers."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def cut(num_rows: int, rows: int) -> list[Shard]:
    """Cut `num_rows` rows into shards of `rows`, the last one shorter."""
    return [Shard(index, start, min(start + rows, num_rows)) for index, start in enumerate(range(0, num_rows, rows))]


class Pool:
    """The rows of a PoolRef. Nothing of it is copied into memory but 16 to 40 bytes per row while it is hashed.

    Attributes:
        ref: as given, with the revision resolved to a commit sha for Hub datasets.
        fingerprint: of the content of all rows in order and the columns; the same on every machine.
        source_key: changes when any column may have changed; for caches on this machine only.
        keys_N: uint64 per row from the row's id: the input of `arrays.keyed_hash`.
        usable_N: False for blank rows and for duplicates of an earlier row.
        check: counts and first positions of what is not usable.
    """

    def __init__(self, ref: PoolRef) -> None:
        source = _open_source(ref)
        self.ref = replace(ref, revision=source.revision)
        self._dataset, self.source_key = source.dataset, source.key
        table: pa.Table = source.dataset.data.table
        if source.dataset._indices is not None or source.dataset.num_rows != table.num_rows:
            # A split slice such as train[:10%] may carry an index over the rows.
            self._dataset = source.dataset.flatten_indices()
            table = self._dataset.data.table
        if table.num_rows == 0:
            raise PoolError(f"{self._where}: no row; expected at least one")
        self._rows = Rows(table)
        if ref.rows is not None and ref.rows != len(self):
            self._dataset, self.source_key = self._some(ref.rows)
            self._rows = Rows(self._dataset.data.table)
        self._check_columns()
        key = fingerprint_json(["content-1", self.source_key, list(ref.columns), ref.id_column, ref.modality])
        directory = cached_directory("content", key, self._build_content)
        self._hashes_N: npt.NDArray[np.uint8] = np.load(directory / "content.npy", mmap_mode="r")
        self._ids_N: npt.NDArray[np.uint8] = (
            np.load(directory / "ids.npy", mmap_mode="r") if ref.id_column else self._hashes_N
        )
        self._blank: IntN = np.load(directory / "blank.npy")
        self.duplicates_D2: IntN = np.load(directory / "duplicates.npy")
        self.fingerprint: str = read_json(directory / "meta.json")["fingerprint"]
        if self.check.usable == 0:
            raise PoolError(
                f"{self._where}: all {len(self):,} rows are blank in {list(ref.columns)}: expected {ref.modality}s"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<Pool {self._where}: {len(self):,} rows, {self.check.usable:,} usable>"

    @property
    def _where(self) -> str:
        return f"{self.ref.path} [{self.ref.split}]"

    @property
    def features(self) -> Any:
        """The `datasets.Features` of all columns of the source."""
        return self._dataset.features

    @cached_property
    def keys_N(self) -> UIntN:
        """uint64 per row from its id; a view of a memory-mapped file."""
        return keys_of(self._ids_N)

    @cached_property
    def usable_N(self) -> BoolN:
        """True where a row has text and is the first with this content."""
        usable_N = np.ones(len(self), dtype=bool)
        usable_N[self._blank] = False
        usable_N[self.duplicates_D2[:, 0]] = False
        return usable_N

    @property
    def check(self) -> PoolCheck:
        """What was found when the rows were hashed."""
        return PoolCheck(
            rows=len(self),
            blank=len(self._blank),
            first_blank=tuple(self._blank[:_SHOWN].tolist()),
            duplicates=len(self.duplicates_D2),
            first_duplicates=tuple((row, first) for row, first in self.duplicates_D2[:_SHOWN].tolist()),
        )

    def shards(self, rows: int = 131_072) -> list[Shard]:
        """Cut the pool into shards of `rows` rows, the last one shorter."""
        return cut(len(self), rows)

    def batches(self, shard: Shard, batch_size: int) -> Iterator[pa.Table]:
        """The model inputs of a shard in storage order, `batch_size` rows at a time.

        Yields:
            Tables with one column without nulls. `text`: large_string in one chunk (a missing text is ""), zero-copy
            where one column is the input and no block of the file ends inside the batch. `image`: zero-copy in any
            number of chunks, large_binary (encoded; one black pixel where there is none) or, where rows are image
            files, a struct; `pool_images.read_image` reads a value of either.
        """
        for start in range(shard.start, shard.stop, batch_size):
            stop = min(start + batch_size, shard.stop)
            if self.ref.modality == IMAGE:
                yield self.take(np.arange(start, stop))
                continue
            pieces = [self._texts(block) for block in self._rows.slices(start, stop)]
            yield pa.table({TEXT: pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)})

    def take(self, positions_K: npt.ArrayLike) -> pa.Table:
        """The model inputs of some rows, in the order given; positions may repeat.

        Returns:
            A table as in `batches`.
        Raises:
            PoolError: a position outside the pool.
        """
        positions_K = self._positions(positions_K)
        if self.ref.modality == IMAGE:
            return pa.table({IMAGE: self._images.take(positions_K, self._blank)})
        pieces = [self._texts(block) for block in self._rows.gather(positions_K, self.ref.columns)]
        texts = pa.concat_arrays(pieces) if pieces else pa.array([], pa.large_string())
        order = restoring_order(positions_K)
        return pa.table({TEXT: texts if order is None else texts.take(order)})

    def dataset(self, positions_K: npt.ArrayLike) -> Dataset:
        """All columns of some rows, in the order given, with the features of the source; texts in memory."""
        from datasets import Dataset

        positions_K = self._positions(positions_K)
        schema, images = self._rows.schema, self.ref.modality == IMAGE
        blocks = self._rows.view(positions_K) if images else self._rows.gather(positions_K, schema.names)
        table = pa.Table.from_batches(blocks, schema=schema)
        order = None if images else restoring_order(positions_K)
        # Without a fingerprint datasets hashes all rows to make one: 150 times as long.
        fingerprint = fingerprint_json([self.source_key, fingerprint_array(positions_K)])
        table = table if order is None else table.take(order)
        return Dataset(table, info=self._dataset.info.copy(), fingerprint=fingerprint)

    def ids(self, positions_K: npt.ArrayLike) -> pa.Array:
        """The ids of some rows, in the order given: large_string, 32 hex characters or the user's own ids."""
        positions_K = self._positions(positions_K)
        if self.ref.id_column is None:
            return hex_ids(self._hashes_N[positions_K])
        pieces = [block.column(0) for block in self._rows.gather(positions_K, [self.ref.id_column])]
        ids = pa.concat_arrays([as_strings(piece) for piece in pieces]) if pieces else pa.array([], pa.large_string())
        order = restoring_order(positions_K)
        return ids if order is None else ids.take(order)

    def column(self, name: str) -> pa.ChunkedArray:
        """Any column of the source, memory-mapped.

        Raises:
            PoolError: no such column.
        """
        if name not in self._rows.schema.names:
            raise PoolError(
                f"{self._where}: no column {name!r}{closest(name, self._rows.schema.names)}; it has {self._columns}"
            )
        return self._rows.column(name)

    @property
    def _columns(self) -> str:
        return ", ".join(f"{field.name} ({field.type})" for field in self._rows.schema)

    def _check_columns(self) -> None:
        schema = self._rows.schema
        wanted = [*self.ref.columns, *([self.ref.id_column] if self.ref.id_column else [])]
        for name in wanted:
            if name not in schema.names:
                only = schema.names[0] if len(schema.names) == 1 else ""
                mark = next((mark for mark in ";|\t" if mark in only), None)
                images = [field.name for field in schema if holds_images(field.type)]
                hint = f"; its one column holds {mark!r}: save it with commas between the columns" if mark else ""
                hint = f"; for images, name {images[0]!r} as image_column" if images else hint
                raise PoolError(
                    f"{self._where}: no column {name!r}{closest(name, schema.names)}; it has {self._columns}{hint}"
                )
            kind = schema.field(name).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if (self.ref.modality == IMAGE) != holds_images(kind) and name in self.ref.columns:
                hint = "; name it as image_column" if holds_images(kind) else ""
                raise PoolError(
                    f"{self._where}: column {name!r} is of type {kind}; expected {self.ref.modality}s{hint}; it has "
                    f"{self._columns}"
                )
            if holds_images(kind) and name != self.ref.id_column:
                continue
            text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            if not text and not (name == self.ref.id_column and pa.types.is_integer(kind)):
                raise PoolError(
                    f"{self._where}: column {name!r} is of type {kind}; expected text; it has {self._columns}"
                )

    def _some(self, rows: int) -> tuple[Dataset, str]:
        """So many rows in their order; chosen by a hash, for many files are sorted by class."""
        if not 1 <= rows <= len(self):
            raise PoolError(f"{self._where}: rows is {rows:,}; expected at most the {len(self):,} that it has")
        order_N = np.argsort(keyed_hash(np.arange(len(self)), 0, "rows"), kind="stable")
        return self.dataset(np.sort(order_N[:rows])), fingerprint_json([self.source_key, rows])

    @cached_property
    def _images(self) -> Images:
        return Images(self._rows, self.ref.columns[0])

    def _texts(self, block: pa.RecordBatch) -> pa.Array:
        arrays = [as_strings(block.column(name)).fill_null("") for name in self.ref.columns]
        return (
            arrays[0] if len(arrays) == 1 else pc.binary_join_element_wise(*arrays, pa.scalar(" ", pa.large_string()))
        )

    def _positions(self, positions_K: npt.ArrayLike) -> IntK:
        positions = np.asarray(positions_K, dtype=np.int64).reshape(-1)
        if len(positions) and not (positions.min() >= 0 and positions.max() < len(self)):
            bad = positions[(positions < 0) | (positions >= len(self))][0]
            raise PoolError(f"{self._where}: position {bad} is outside the pool of {len(self):,} rows")
        return positions

    def _build_content(self, directory: Path) -> None:
        """Hash every row once; what later opens need lies in `directory` as .npy files."""
        hashes_N = np.lib.format.open_memmap(
            directory / "content.npy", mode="w+", dtype=np.uint8, shape=(len(self), HASH_BYTES)
        )
        blank_N = np.zeros(len(self), dtype=bool)
        ids_N = np.empty((len(self) if self.ref.id_column else 0, HASH_BYTES), dtype=np.uint8)
        is_text = self.ref.modality == TEXT
        step = _BLOCK_ROWS if is_text else _BLOCK_IMAGES
        bad: list[str] = []
        read_bytes = 0
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            blocks = self._rows.slices(start, stop)
            try:
                if is_text:
                    found = hash_texts(pa.concat_arrays([self._texts(block) for block in blocks]))
                else:
                    values = [value for block in blocks for value in block.column(self.ref.columns[0])]
                    images = [read_image(value) for value in values]
                    found = hash_images(images)
                    for row, what in unreadable(images, pixels=read_bytes < _DECODED_BYTES):
                        file = image_file(values[row])
                        bad.append(f"position {start + row:,}{f' ({file})' if file else ''}: {what}")
                    read_bytes += sum(map(len, images))
            except PoolError as error:
                raise PoolError(f"{self._where}: rows from {start:,} on: {error}") from None
            hashes_N[start:stop], blank_N[start:stop] = found
            if self.ref.id_column:
                ids_N[start:stop] = self._hash_ids(start, stop)
        if bad:
            raise PoolError(f"{self._where}: {len(bad):,} images cannot be read: {'; '.join(bad[:_SHOWN])}")
        digest = hashlib.blake2b(fingerprint_json(list(self.ref.columns)).encode(), digest_size=16)
        digest.update(hashes_N.data)
        digest.update(ids_N.data)
        if self.ref.id_column:
            repeated = find_duplicates(ids_N, np.zeros(len(self), dtype=bool))
            if len(repeated):
                row, first = repeated[0].tolist()
                name = self.ids([row])[0].as_py()
                raise PoolError(
                    f"{self._where}: id {name!r} in {self.ref.id_column!r} stands at positions {first} and {row} "
                    f"({len(repeated):,} repeated in all); expected a different id for each row"
                )
            np.save(directory / "ids.npy", ids_N)
        np.save(directory / "blank.npy", np.flatnonzero(blank_N))
        np.save(directory / "duplicates.npy", find_duplicates(hashes_N, blank_N))
        hashes_N.flush()
        write_json(directory / "meta.json", {"fingerprint": digest.hexdigest()})

    def _hash_ids(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        ids = pa.concat_arrays(
            [as_strings(block.column(self.ref.id_column)) for block in self._rows.slices(start, stop)]
        )
        if ids.null_count:
            row = start + int(np.argmax(ids.is_null().to_numpy(zero_copy_only=False)))
            raise PoolError(
                f"{self._where}: no id at position {row} in {self.ref.id_column!r}; expected one in each row"
            )
        return hash_strings(ids)


def _open_source(ref: PoolRef) -> Source:
    """What a reference means: built-in, file or folder where there is one, else a dataset of the Hub."""
    texts = ref.columns if ref.modality == TEXT else ()
    inputs = (*texts, *([ref.id_column] if ref.id_column else []))
    if is_hub_id(ref.path):
        return open_hub(
            ref.path, ref.name, split=ref.split, revision=ref.revision, text_columns=inputs, streaming=ref.streaming
        )
    if ref.streaming:
        raise PoolError(f"{ref.path}: streaming is for Hub datasets; this is on your disk: leave it out")
    return open_local(ref.path, ref.name, split=ref.split, revision=ref.revision, text_columns=inputs)
