"""What a report shows beside errors and seconds: lineage, extreme picks, agreement of proxy and target."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from svp_nlp.labels import LabelSet
from svp_nlp.oracles.column import ColumnOracle
from svp_nlp.pool import IMAGE
from svp_nlp.pool_images import read_image
from svp_nlp.report_thumbnails import thumbnail
from svp_nlp.strategies import get_strategy, top_k
from svp_nlp.strategy_spec import StrategySpec
from svp_nlp.workspace import Round, Workspace

_SHOWN_PICKS = 20
_SHOWN_CHARACTERS = 2000


def extreme_picks(workspace: Workspace, rounds: list[Round]) -> dict[str, Any]:
    """The highest picks of the last round, and the rows that it ranked lowest."""
    last = rounds[-1]
    assert last.scored is not None
    strategy = get_strategy(last.selection.lineage.strategy)
    highest = last.selection.positions_K[:_SHOWN_PICKS]
    if strategy.kind == "setwise":
        return {"round": last.round, "highest": _rows(workspace, highest, None, last.labels), "lowest": []}
    scores_N = last.scored.spread(strategy.name, len(workspace.pool))
    left_N = workspace.available_N & (scores_N > -np.inf)  # not those that the model did not look at
    left_N[last.labels.positions_L] = False
    left = np.flatnonzero(left_N)
    lowest = left[np.lexsort((left, scores_N[left]))[:_SHOWN_PICKS]]
    return {
        "round": last.round,
        "highest": _rows(workspace, highest, scores_N, last.labels),
        "lowest": _rows(workspace, lowest, scores_N, last.labels),
    }


def _rows(
    workspace: Workspace,
    positions: npt.NDArray[np.int64],
    scores_N: npt.NDArray[np.float32] | None,
    labels: LabelSet,
) -> list[dict[str, Any]]:
    column = workspace.pool.take(positions).column(0)
    images = workspace.pool.ref.modality == IMAGE
    shown = [_shown(read_image(value) if images else value.as_py()) for value in column]
    ids = workspace.pool.ids(positions).to_pylist()
    names = _known_labels(workspace, positions, labels)
    return [
        {
            "position": int(position),
            "id": id_,
            "score": None if scores_N is None or np.isinf(scores_N[position]) else float(scores_N[position]),
            "label": label,
            # The highest score is that of rows which no epoch got right.
            **({"never_learned": True} if scores_N is not None and np.isposinf(scores_N[position]) else {}),
            **fields,
        }
        for position, id_, label, fields in zip(positions, ids, names, shown, strict=True)
    ]


def _known_labels(workspace: Workspace, positions: npt.NDArray[np.int64], labels: LabelSet) -> list[str]:
    """Labels as a report shows them: in a simulation of all rows, else of those that people have labelled."""
    if isinstance(workspace.oracle, ColumnOracle):
        return [workspace.class_names[int(label)] for label in workspace.oracle.answers(positions)]
    known = dict(zip(labels.positions_L.tolist(), labels.table["label"].to_pylist(), strict=True))
    return [known.get(int(position), "") for position in positions]


def _shown(value: str | bytes) -> dict[str, str]:
    """A text, or an image as a small data URI."""
    return {"text": value[:_SHOWN_CHARACTERS]} if isinstance(value, str) else {"image": thumbnail(value)}


def lineage_row(base: dict[str, Any], round_: Round) -> dict[str, Any]:
    lineage = round_.selection.lineage
    proxy = lineage.proxy or {}
    return {
        **base,
        "labeled_size": round_.labeled_size,
        "pool_fingerprint": lineage.pool["fingerprint"],
        "fingerprint": round_.selection.fingerprint,
        "parent": lineage.parent,
        "proxy_spec": proxy.get("spec"),
        "proxy_fingerprint": proxy.get("fingerprint"),
        "reproducible": proxy.get("reproducible", True),
        "options": dict(lineage.options),
        "chosen": None if round_.fitted is None else round_.fitted.report.get("chosen"),
    }


def stopping_rows(base: dict[str, Any], round_: Round) -> list[dict[str, Any]]:
    """What the proxy that has learned this round says about stopping; nothing where it was not asked."""
    watched = round_.watched
    if watched is None or watched.rows[-1]["round"] != round_.round:
        return []
    return [{**base, **watched.rows[-1], "holds": watched.holds, "ends": watched.ends}]


def agreements(
    workspace: Workspace, twins: list[tuple[StrategySpec, list[Round], list[Round]]]
) -> list[dict[str, Any]]:
    """Rank correlation and top overlap of proxy and target scores over the rows that both still had to choose from.

    Args:
        twins: (strategy, rounds that the proxy chose, rounds that the target chose).
    Returns:
        for each round: `spearman` (None where one of them scored all rows alike), `overlap` of the two top-budget sets,
        and `chance`, the overlap that two random sets have.
    """
    from scipy.stats import spearmanr

    found = []
    for strategy, proxy_rounds, target_rounds in twins:
        if strategy.strategy.kind != "pointwise":
            continue
        for ours, theirs in zip(proxy_rounds, target_rounds, strict=False):  # a rule may have stopped the proxy
            if ours.scored is None or theirs.scored is None:
                continue
            whole = [r.scored.spread(strategy.name, len(workspace.pool)) for r in (ours, theirs) if r.scored]
            # Candidates as they were when this round chose: without what either of them had labelled before.
            left_N = workspace.available_N.copy()
            for round_ in (ours, theirs):
                left_N[round_.labels.positions_L[: len(round_.labels) - len(round_.selection)]] = False
            for scores_N in whole:  # where a reduction left rows out, those that both looked at
                left_N &= scores_N > -np.inf
            proxy, target = (np.asarray(scores_N[left_N]) for scores_N in whole)
            budget = min(len(ours.selection), len(proxy))
            keys = workspace.pool.keys_N[left_N]
            best = [top_k(scores, keys, budget=budget, seed=workspace.seed) for scores in (proxy, target)]
            constant = len(proxy) < 2 or proxy.min() == proxy.max() or target.min() == target.max()
            found.append(
                {
                    "seed": workspace.seed,
                    "strategy": strategy.title,
                    "labeled_size": ours.labeled_size,
                    "candidates": len(proxy),
                    "budget": budget,
                    "spearman": None if constant else float(spearmanr(proxy, target).statistic),
                    "overlap": len(np.intersect1d(best[0], best[1])) / max(budget, 1),
                    "chance": budget / max(len(proxy), 1),
                }
            )
    return found
