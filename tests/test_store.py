"""Signals: what was finished is found again, what is damaged is not used."""

from __future__ import annotations

import numpy as np
import pytest

from svp_nlp.errors import RunError, SignalError
from svp_nlp.pool import Shard
from svp_nlp.store import SignalStore

SHARDS = [Shard(0, 0, 4), Shard(1, 4, 8), Shard(2, 8, 10)]


def scores(shard: Shard) -> dict[str, np.ndarray]:
    rows = np.arange(shard.start, shard.stop)
    return {"margin": rows.astype(np.float32) / 10, "embeddings": np.stack([rows, -rows], axis=1).astype(np.float32)}


def filled(path, shards=SHARDS, key="model") -> SignalStore:
    store = SignalStore(path, 10, key=key)
    for shard in shards:
        store.write(shard, seconds=1.5, **scores(shard))
    return store


def test_sealed_signals_are_the_shards_in_order_whatever_the_order_of_writing(tmp_path):
    store = filled(tmp_path, shards=[SHARDS[2], SHARDS[0], SHARDS[1]])
    manifest = store.seal(SHARDS)
    np.testing.assert_array_equal(store["margin"], np.arange(10, dtype=np.float32) / 10)
    assert store["embeddings"].shape == (10, 2)
    assert manifest["seconds"] == 4.5
    assert not store["margin"].flags.writeable
    assert sorted(p.name for p in tmp_path.iterdir()) == ["embeddings.npy", "manifest.json", "margin.npy"]


def test_only_missing_shards_are_to_be_done_again(tmp_path):
    store = filled(tmp_path, shards=SHARDS[:2])
    assert store.missing(["margin"], SHARDS) == [SHARDS[2]]
    assert store.missing(["margin", "entropy"], SHARDS) == SHARDS
    with pytest.raises(RunError, match="shard 2 was not scored"):
        store.seal(SHARDS)
    assert store.missing(["margin"], SHARDS) == [SHARDS[2]]


def test_parts_of_another_model_are_not_used(tmp_path):
    filled(tmp_path, key="model")
    assert SignalStore(tmp_path, 10, key="other").missing(["margin"], SHARDS) == SHARDS


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:], lambda b: b""])
def test_a_damaged_part_is_said_and_scored_again(tmp_path, damage, caplog):
    store = filled(tmp_path)
    part = sorted((tmp_path / "parts").iterdir())[1]
    part.write_bytes(damage(part.read_bytes()))
    assert store.missing(["margin"], SHARDS) == [SHARDS[1]]
    assert "damaged" in caplog.text


def test_nan_and_wrong_lengths_are_refused_with_their_position(tmp_path):
    store = SignalStore(tmp_path, 10)
    with pytest.raises(SignalError, match="NaN at position 6"):
        store.write(SHARDS[1], margin=np.array([0, 1, np.nan, 2], np.float32))
    with pytest.raises(SignalError, match="has 4 rows, 3 values"):
        store.write(SHARDS[1], margin=np.zeros(3, np.float32))


def test_an_unknown_signal_names_those_that_are_there(tmp_path):
    store = filled(tmp_path)
    store.seal(SHARDS)
    with pytest.raises(SignalError, match="holds embeddings, margin; 'entropy'"):
        store["entropy"]
