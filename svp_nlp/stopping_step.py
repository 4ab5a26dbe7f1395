"""The step of a round that looks at the stop set; it changes no selection, and what it finds may end the run.

    run/seed-0/proxy-margin/round-002/stopping/classes.npy   what the proxy says that has learned round 2

The signals are in its step.json.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from svp_nlp.arrays import FloatNC, IntN, fingerprint_array
from svp_nlp.files import atomic_file
from svp_nlp.models import load_predictor
from svp_nlp.models.base import Labeled
from svp_nlp.oracles.files import FilesOracle
from svp_nlp.run import disk_errors
from svp_nlp.sizes import resolve_size
from svp_nlp.stop_spec import MORE, StopSpec
from svp_nlp.stopping import Watched, classification_change, kappa, overall_uncertainty, stop_set
from svp_nlp.stopping_curve import LEAST_POINTS, expected_gain
from svp_nlp.workspace import ROWS_PER_BATCH, Fitted, Round, Workspace

log = logging.getLogger(__name__)
_CLASSES_FILE = "classes.npy"


def watch(
    workspace: Workspace,
    place: str,
    round_: Round,
    fitted: Fitted,
    *,
    previous: Watched | None,
    stop: StopSpec | None,
) -> Watched:
    """What a proxy says about the stop set, once.

    Args:
        place: directory of the round, below the seed's.
        round_: whose labels the proxy has learned.
        previous: of the round before.
        stop: whose rule is asked; None: the signals only.
    Returns:
        the signals of all rounds so far. `previous` itself where nothing was labelled since: a proxy that has learned
        nothing new agrees with itself, which means nothing.
    """
    if previous is not None and previous.model == fitted.fingerprint:
        return previous
    positions_S = stop_set(workspace.pool.keys_N, workspace.available_N, seed=workspace.seed)
    dev = workspace.dev if isinstance(workspace.dev, Labeled) else None

    def do(path: Path) -> Mapping[str, Any]:
        probs_SC = _predict(workspace, fitted, positions_S)
        given_S = probs_SC.argmax(axis=1).astype(np.int64)
        with atomic_file(path / _CLASSES_FILE) as tmp, tmp.open("wb") as file:
            np.save(file, given_S, allow_pickle=False)
        before_S = None if previous is None else np.load(previous.directory / _CLASSES_FILE, allow_pickle=False)
        return {
            "uncertainty": overall_uncertainty(probs_SC),
            "classes_predicted": len(np.unique(given_S)),
            "kappa": None if before_S is None else kappa(before_S, given_S),
            "changed": None if before_S is None else classification_change(before_S, given_S),
            "error": None if dev is None else _error(fitted, dev),
            "tested": 0 if dev is None else len(dev),
            "rows": len(positions_S),
        }

    inputs = {
        "model": fitted.fingerprint,
        "before": None if previous is None else previous.model,
        "pool": workspace.pool.fingerprint,
        "rows": fingerprint_array(positions_S),
        "dev": None if dev is None else dev.fingerprint,
    }
    step = workspace.step(f"{place}/stopping", inputs, do)
    row = {"round": round_.round, "labeled_size": round_.labeled_size, **step.output, "seconds": step.seconds}
    earlier = () if previous is None else previous.rows
    rows = (*earlier, {**row, **_gain([*earlier, row], MORE if stop is None or stop.more is None else stop.more)})
    return Watched(step.path, fitted.fingerprint, rows, holds=_holds(workspace, stop, rows))


def tell(workspace: Workspace, arm: str, round_: Round, stop: StopSpec | None) -> None:
    """Say that a rule ends the rounds, also to those who label; take it back where a run that was stopped goes on."""
    reason = None
    if stop is not None and round_.watched is not None and round_.watched.ends:
        reason = stop.sentence(round_.watched.rows)
        log.info("  %s: %s", arm, reason)
    if isinstance(workspace.oracle, FilesOracle) and workspace.run.ranks.is_main:
        with disk_errors(workspace.run.directory):
            workspace.oracle.queue.note_stop(reason)


def _holds(workspace: Workspace, stop: StopSpec | None, rows: tuple[Mapping[str, Any], ...]) -> bool:
    if stop is None:
        return False
    least = 0 if stop.min_labels is None else resolve_size(stop.min_labels, workspace.num_available, "stop.min_labels")
    return stop.holds(rows, min_labels=least)


def _gain(rows: list[Mapping[str, Any]], more: int) -> dict[str, Any]:
    """What more labels will bring, from the proxy's errors on a dev set; None where there is none, or too few points.

    Not kept in the step: how many more is asked for may change when a run is resumed.
    """
    known = [row for row in rows if row["error"] is not None]
    found: dict[str, Any] = {"more": more, "gain": None, "gain_low": None, "gain_high": None}
    if len({row["labeled_size"] for row in known}) >= LEAST_POINTS:
        gain = asdict(
            expected_gain(
                [row["labeled_size"] for row in known],
                [row["error"] for row in known],
                more=more,
                tested_P=[row["tested"] for row in known],
            )
        )
        found |= {"gain": gain["gain"], "gain_low": gain["low"], "gain_high": gain["high"]}
    return found


def _predict(workspace: Workspace, fitted: Fitted, positions_S: IntN) -> FloatNC:
    predictor: Any = load_predictor(fitted.directory)
    if fitted.encoded is not None:  # a head: the pool is encoded already
        features_ND = np.load(fitted.encoded.features_file, mmap_mode="r", allow_pickle=False)
        probs: FloatNC = predictor.predict_features(np.asarray(features_ND[positions_S], dtype=np.float32)).probs_BC
        return probs
    return _in_batches(fitted, predictor, workspace.pool.take(positions_S))


def _error(fitted: Fitted, dev: Labeled) -> float:
    probs_DC = _in_batches(fitted, load_predictor(fitted.directory), dev.rows)
    return float(np.mean(probs_DC.argmax(axis=1) != dev.labels_L))


def _in_batches(fitted: Fitted, predictor: Any, rows: pa.Table) -> FloatNC:
    size = getattr(fitted.learner, "rows_per_batch", ROWS_PER_BATCH)
    parts = [predictor.predict(rows.slice(start, size)).probs_BC for start in range(0, rows.num_rows, size)]
    probs: FloatNC = np.concatenate(parts)
    return probs
