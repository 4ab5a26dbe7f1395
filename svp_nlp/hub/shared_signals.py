"""Signals from the Hub: read by commit, verified, in the order of the pool; and choosing anew from them.

Shape legend: N pool rows, K picked, B rows of a block, C classes, D width of the embeddings.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from svp_nlp.arrays import BoolN, FloatK, UIntN, fingerprint_json
from svp_nlp.cache import cached_directory
from svp_nlp.content import HASH_BYTES, hash_strings, keys_of
from svp_nlp.errors import LineageError, PoolError, RecipeError, SignalError
from svp_nlp.files import safe_name
from svp_nlp.hub.document import reading
from svp_nlp.hub.pull import Version, fetch
from svp_nlp.hub.source import pool_ref
from svp_nlp.hub_cache import using_token
from svp_nlp.hub_errors import disk_errors
from svp_nlp.pool import Pool
from svp_nlp.selection import Lineage, Selection
from svp_nlp.strategies import get_strategy, select, top_k

KIND = "signals"
_ROWS_PER_BLOCK = 65_536


@dataclass(frozen=True)
class Signals:
    """What a model said about each row of a pool, in the pool's order, read back from the Hub and verified.

    Attributes:
        arrays: name -> float32 [N] or [N, C or D], read-only and memory-mapped; what `svp_nlp.select` takes.
        ids_N: string array [N].
        available_N: rows that can be picked: they have a text or image of their own and were not labelled yet.
        labeled_N: rows that were labelled already; None: an earlier svp_nlp has pushed them, which did not tell.
        class_names: of the columns of `probs`.
        lineage: pool, proxy, scoring, labeled_size (rows that the model was trained on), round, seed, ...
        labeled: how many rows were labelled already; the labels of a new selection come on top.
        where: repository and commit.
    """

    arrays: dict[str, npt.NDArray[Any]]
    ids_N: pa.ChunkedArray
    available_N: BoolN
    class_names: tuple[str, ...]
    lineage: Mapping[str, Any]
    labeled: int
    where: str
    labeled_N: BoolN | None = None

    def __len__(self) -> int:
        return len(self.available_N)

    @functools.cached_property
    def keys_N(self) -> UIntN:
        """uint64 [N] from the ids: the same as `Pool.keys_N`, without the pool."""
        parts = [np.empty(0, np.uint64)]
        for start in range(0, len(self), _ROWS_PER_BLOCK):
            ids_B = self.ids_N.slice(start, _ROWS_PER_BLOCK).cast(pa.large_string()).combine_chunks()
            if self.lineage["pool"].get("id_column") is not None:
                hashes_B = hash_strings(ids_B)
            else:  # the id is the hash of the text, in hexadecimal digits
                digits = bytes.fromhex("".join(ids_B.to_pylist()))
                hashes_B = np.frombuffer(digits, np.uint8).reshape(-1, HASH_BYTES)
            parts.append(keys_of(hashes_B))
        return np.concatenate(parts)

    def select(self, strategy: str, *, budget: int, seed: int | None = None) -> Selection:
        """Choose anew: what the run would have picked with this strategy and budget. No row and no model is needed.

        Args:
            strategy: one whose scores are among `arrays`, or that can be computed from them; random always can.
            budget: how many of the available rows.
            seed: breaks ties; None: the run's.
        Returns:
            a selection with its lineage, to be joined with texts (`to_dataset(signals.open_pool())`), saved or pushed.
        Raises:
            SignalError: what the strategy needs was not pushed: a signal, or which rows are labelled.
            BudgetError: more rows than are available.
            RecipeError: no strategy has this name.
        """
        chosen = get_strategy(strategy)
        seed = int(self.lineage["seed"]) if seed is None else seed
        if chosen.name in self.arrays:
            scores_N = self.arrays[chosen.name]
            positions_K = top_k(
                scores_N, self.keys_N, budget=budget, seed=seed, available_N=self.available_N,
                name=f"{chosen.name} scores",
            )  # fmt: skip
            scores_K: FloatK | None = np.asarray(scores_N[positions_K])
        else:
            if chosen.uses_labeled and self.labeled_N is None and self.labeled:
                raise SignalError(
                    f"{self.where}: {chosen.name} looks at labelled rows, and which {self.labeled:,} these are was not "
                    "pushed by this version of svp_nlp; push the signals again, or choose a strategy such as margin"
                )
            picks = select(
                chosen, self.arrays, budget=budget, seed=seed, available=self.available_N, labeled=self.labeled_N,
                keys=self.keys_N,
            )  # fmt: skip
            positions_K, scores_K = picks.positions_K, picks.scores_K
        known = {
            name: self.lineage[name] for name in ("pool", "round", "parent", "scoring", "recipe_sha256", "versions")
        }
        lineage = Lineage(
            strategy=chosen.name, budget=budget, seed=seed, labeled_size=self.labeled + budget,
            proxy=self.lineage["proxy"] if chosen.needs_model else None, **known,
        )  # fmt: skip
        ids_K = self.ids_N.take(pa.array(positions_K)).combine_chunks()
        return Selection(positions_K, ids_K, scores_K, lineage)

    def open_pool(self, *, token: str | None = None) -> Pool:
        """The pool that was scored, from the Hub, verified.

        Args:
            token: None: the one that `hf auth login` or HF_TOKEN gives.
        Raises:
            LineageError: it is on no Hub, or is not what it was.
            PoolError: it cannot be opened.
        """
        ref = self.lineage["pool"]
        if not ref.get("on_hub"):
            raise LineageError(
                f"{self.where}: the pool that was scored, {ref['path']}, is on no Hub; open the same file with "
                "svp_nlp.load_pool and give it as pool"
            )
        try:
            with using_token(token):
                pool = pool_ref(ref).open()
        except PoolError as error:
            raise LineageError(f"{self.where}: the pool that was scored cannot be opened: {error}") from None
        self.verify(pool)
        return pool

    def verify(self, pool: Pool) -> None:
        """Check that each id stands at its position in `pool`.

        Raises:
            LineageError: names the first position whose id differs.
        """
        ref = self.lineage["pool"]
        expected = f"expected the pool {ref['path']} @ {ref.get('revision')}"
        for start in range(0, min(len(pool), len(self)), _ROWS_PER_BLOCK):
            stop = min(start + _ROWS_PER_BLOCK, len(pool), len(self))
            found = pool.ids(np.arange(start, stop)).cast(pa.string())
            known = self.ids_N.slice(start, stop - start).combine_chunks()
            if not found.equals(known):
                row = int(np.argmax(pc.not_equal(found, known).to_numpy(zero_copy_only=False)))
                raise LineageError(
                    f"position {start + row:,} has the id {found[row]} in this pool, {known[row]} in {self.where}; "
                    f"{expected}"
                )
        if len(pool) != len(self):
            raise LineageError(
                f"{self.where} has signals of {len(self):,} rows, the pool has {len(pool):,}; {expected}"
            )


def load_signals(
    repo_id: str,
    *,
    revision: str | None = None,
    pool: Pool | None = None,
    config: str | None = None,
    token: str | None = None,
) -> Signals:
    """Read the signals of a version, verified; offline from the cache with the right version.

    Args:
        revision: a version such as v3, a branch, or a commit; None: the newest.
        pool: when given, each id is compared with the row at its position.
        config: None: `default`, or the only one.
        token: None: the one that `hf auth login` or HF_TOKEN gives.
    Raises:
        HubRefused, HubError: it is not there, may not be read, or the Hub cannot be reached.
        LineageError: a file is not what was pushed, or the pool is another; names the first row that differs.
    """
    version = fetch(repo_id, repo_type="dataset", kind=KIND, revision=revision, config=config, token=token)
    with reading(version.where), disk_errors(version.where):
        signals = _opened(version)
    if pool is not None:
        signals.verify(pool)
    return signals


def _opened(version: Version) -> Signals:
    entry = version.entry
    for name in entry["signals"]:
        _check_name(name, version)
    # Files of a commit never change, and wide signals are larger than memory: they are laid out once and mapped.
    key = fingerprint_json(["signals-1", version.sha, version.config, entry["files"]])
    directory = cached_directory("signals", key, lambda path: _lay_out(path, version))
    told = pq.read_schema(version.files[0]).names
    columns = [name for name in ("svp_id", "svp_available", "svp_labeled") if name in told]
    table = pa.concat_tables([pq.read_table(file, columns=columns) for file in version.files])
    return Signals(
        arrays={n: np.load(directory / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in entry["signals"]},
        ids_N=table["svp_id"],
        available_N=table["svp_available"].to_numpy(),
        class_names=tuple(entry["class_names"]),
        lineage=entry["lineage"],
        labeled=int(entry["labeled"]),
        where=version.where,
        labeled_N=table["svp_labeled"].to_numpy() if "svp_labeled" in columns else None,
    )


def _check_name(signal: str, version: Version) -> None:
    """Files are called like signals, and the names are somebody else's.

    Raises:
        LineageError: a name that could leave the folder.
    """
    try:
        safe_name(signal, "the signal")
    except RecipeError as error:
        raise LineageError(f"{version.where}: {error}; it was not pushed by svp_nlp") from None


def _lay_out(directory: Path, version: Version) -> None:
    """One .npy [N, ...] for each signal, written row after row: a full disk is then an error, and no signal SIGBUS."""
    shapes = {name: tuple(signal["shape"]) for name, signal in version.entry["signals"].items()}
    start = 0
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context((directory / f"{name}.npy").open("wb")) for name in shapes}
        for name, shape in shapes.items():
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(opened[name], header)
        for file in version.files:
            for batch in pq.ParquetFile(file).iter_batches(_ROWS_PER_BLOCK):
                stop = start + len(batch)
                if not np.array_equal(batch["svp_position"].to_numpy(), np.arange(start, stop)):
                    raise LineageError(
                        f"{version.where}: {file.name} does not hold the rows from {start:,} on in order"
                    )
                for name, shape in shapes.items():
                    values = batch[name] if len(shape) == 1 else batch[name].flatten()
                    opened[name].write(values.to_numpy(zero_copy_only=False).astype("<f4", copy=False).data)
                start = stop
    if start != version.entry["rows"]:
        raise LineageError(f"{version.where}: it has {start:,} rows, its lineage says {version.entry['rows']:,}")
