"""The start set by a strategy that needs no label: it spreads over what a frozen encoder makes of the pool.

Shape legend: N pool rows, R candidates, D width of the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from svp_nlp.arrays import FloatND, IntK, fingerprint_array, keyed_hash
from svp_nlp.files import atomic_file
from svp_nlp.fitting import encode, is_feature_learner
from svp_nlp.labels import LabelSet
from svp_nlp.models import make_learner
from svp_nlp.models.base import Learner
from svp_nlp.run import START
from svp_nlp.sizes import resolve_size
from svp_nlp.strategy_spec import StartSpec
from svp_nlp.workspace import RowsFile, Scored, Workspace

_FILE = "positions.npy"


def look_unlabelled(workspace: Workspace, spec: StartSpec, proxy: Learner) -> Scored:
    """The features of the rows that the start set is chosen among, once.

    Args:
        proxy: whose encoder it is where `spec` names none.
    Returns:
        embeddings; their seconds, but where they are the proxy's own, whose first round counts them.
    """
    own = spec.encoder is None
    learner = proxy if spec.encoder is None else make_learner(spec.encoder)
    assert is_feature_learner(learner), "strategy_checks looks at it before any work"
    encoded = encode(workspace, learner, LabelSet.empty())
    if not own and is_feature_learner(proxy):
        own = proxy.encoder_key == learner.encoder_key
    features_ND = np.load(encoded.features_file, mmap_mode="r", allow_pickle=False)
    facts: dict[str, Any] = {"encoder": encoded.fingerprint}
    seconds = 0.0 if own else encoded.seconds
    if spec.candidates is None:
        return Scored(_Features(features_ND), seconds=seconds, facts=facts)
    rows = _candidates(workspace, spec.candidates)
    facts["candidate_rows"] = len(rows.positions_R)
    return Scored(_Features(features_ND[rows.positions_R]), rows, seconds + rows.seconds, facts)


class _Features:
    """What the strategy reads; under the one name that it knows."""

    def __init__(self, features_RD: FloatND) -> None:
        self._features_RD = features_RD

    def __getitem__(self, name: str) -> FloatND:
        assert name == "embeddings"
        return self._features_RD


def _candidates(workspace: Workspace, size: int | str) -> RowsFile:
    """Random rows, and those that seeds have labelled."""
    seeds = workspace.seeds.positions_L
    open_K = np.flatnonzero(workspace.open_rows(workspace.seeds))
    count = min(len(open_K), resolve_size(size, workspace.num_available, "start.candidates"))

    def choose(path: Path) -> Mapping[str, Any]:
        order = np.argsort(keyed_hash(workspace.pool.keys_N[open_K], workspace.seed, "start candidates"), kind="stable")
        rows_R: IntK = np.union1d(open_K[order[:count]], seeds)
        with atomic_file(path / _FILE) as tmp, tmp.open("wb") as file:
            np.save(file, rows_R, allow_pickle=False)
        return {"rows": len(rows_R), "fingerprint": fingerprint_array(rows_R)}

    inputs = {
        "pool": workspace.pool.fingerprint,
        "open": fingerprint_array(open_K),
        "seeds": fingerprint_array(seeds),
        "seed": workspace.seed,
        "count": count,
    }
    step = workspace.step(f"{START}/candidates", inputs, choose)
    return RowsFile(step.path / _FILE, step.output["fingerprint"], step.seconds)
