"""Signals on disk: written shard by shard by whoever scores, read as one array each.

A part holds all columns of one shard and its own checksum, and appears at once under its final name. So a process
may die at any time, and what it had finished is found, verified and not scored again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors import numpy as st

from svp_nlp.errors import RunError, SignalError
from svp_nlp.files import atomic_file, read_json, sha256_file, write_bytes, write_json
from svp_nlp.pool import Shard

log = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_CHECKSUM_BYTES = 32
_SECONDS = "__seconds__"


class SignalStore:
    """The signals of one round in one directory.

    Args:
        directory: created when missing.
        num_rows: N, rows of the pool.
        key: what the signals depend on (predictor, pool); parts written under another key are not used.
    """

    def __init__(self, directory: Path, num_rows: int, *, key: str = "") -> None:
        self.directory, self.num_rows, self.key = directory, num_rows, key
        self._parts = directory / "parts"

    def _part(self, shard: Shard) -> Path:
        return self._parts / f"shard-{shard.index:06d}-{self.key[:16]}.part"

    def _read_part(self, shard: Shard) -> dict[str, npt.NDArray[Any]] | None:
        """Columns of a finished shard; None when it is missing; a damaged one is deleted and said."""
        path = self._part(shard)
        if not path.exists():
            return None
        data = path.read_bytes()
        body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if hashlib.sha256(body).digest() == checksum:
            try:
                return st.load(body)
            except SafetensorError as error:  # the checksum held, so we wrote this: not a fault of the disk
                raise AssertionError(f"{path}: {error}") from error
        log.warning("%s is damaged; its %s rows are scored again", path, f"{shard.stop - shard.start:,}")
        path.unlink()
        return None

    def has_part(self, shard: Shard) -> bool:
        """Whether a shard was stored; looks at its name alone, and is for those who wait."""
        return self._part(shard).exists()

    def missing(self, names: Sequence[str], shards: Sequence[Shard]) -> list[Shard]:
        """The shards that are still to be scored; damaged parts count as missing."""
        left = []
        for shard in shards:
            columns = self._read_part(shard)
            if columns is None or not set(names) <= set(columns):
                left.append(shard)
        return left

    def write(self, shard: Shard, *, seconds: float = 0.0, **columns: npt.NDArray[Any]) -> None:
        """Store one shard, durably.

        Args:
            seconds: what scoring it took; survives a crash, so that a resumed run reports all of its time.
            columns: arrays whose first axis has shard.stop - shard.start rows.
        Raises:
            SignalError: another number of rows, or NaN; names the first position.
        """
        rows = shard.stop - shard.start
        for name, values in columns.items():
            if len(values) != rows:
                raise SignalError(f"{name}: shard {shard.index} has {rows:,} rows, {len(values):,} values were given")
            if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
                bad = np.isnan(values).reshape(rows, -1).any(axis=1)
                raise SignalError(
                    f"{name}: NaN at position {shard.start + int(np.argmax(bad)):,} ({int(bad.sum()):,} rows)"
                )
        body = st.save({n: np.ascontiguousarray(v) for n, v in columns.items()} | {_SECONDS: np.array([seconds])})
        write_bytes(self._part(shard), body + hashlib.sha256(body).digest())

    def seal(self, shards: Sequence[Shard]) -> dict[str, Any]:
        """Join the parts into one .npy per signal, write the manifest last, delete the parts. Returns the manifest.

        Raises:
            RunError: a shard is missing.
        """
        arrays: dict[str, npt.NDArray[Any]] = {}
        shapes: dict[str, Any] = {}
        seconds = 0.0
        with contextlib.ExitStack() as files:
            for shard in shards:
                columns = self._read_part(shard)
                if columns is None:
                    raise RunError(f"{self.directory}: shard {shard.index} was not scored")
                seconds += float(columns.pop(_SECONDS)[0])
                for name, values in columns.items():
                    if name not in arrays:
                        path = files.enter_context(atomic_file(self.directory / f"{name}.npy"))
                        shape = (self.num_rows, *values.shape[1:])
                        arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=shape)
                        shapes[name] = (str(values.dtype), list(shape))
                    arrays[name][shard.start : shard.stop] = values
            for array in arrays.values():
                array.flush()  # type: ignore[attr-defined]
            arrays.clear()
        manifest = {
            "key": self.key,
            "rows": self.num_rows,
            "seconds": seconds,
            "signals": {
                name: {"dtype": dtype, "shape": shape, "sha256": sha256_file(self.directory / f"{name}.npy")}
                for name, (dtype, shape) in sorted(shapes.items())
            },
        }
        write_json(self.directory / _MANIFEST, manifest)
        for path in self._parts.glob("*.part"):
            path.unlink()
        if self._parts.is_dir():
            self._parts.rmdir()
        return manifest

    def sealed(self) -> dict[str, Any] | None:
        """The manifest, if all shards were joined under this key and no file was changed since."""
        if not (self.directory / _MANIFEST).exists():
            return None
        manifest: dict[str, Any] = read_json(self.directory / _MANIFEST)
        files = {name: entry["sha256"] for name, entry in manifest["signals"].items()}
        whole = all(
            (self.directory / f"{name}.npy").is_file() and sha256_file(self.directory / f"{name}.npy") == expected
            for name, expected in files.items()
        )
        return manifest if whole and manifest["key"] == self.key else None

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A sealed signal as a read-only memory map [N, ...].

        Raises:
            SignalError: there is no such signal; names those that are there.
        """
        signals = read_json(self.directory / _MANIFEST)["signals"]
        if name not in signals:
            raise SignalError(f"{self.directory} holds {', '.join(signals) or 'nothing'}; {name!r} was asked for")
        array: npt.NDArray[Any] = np.load(self.directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return array
