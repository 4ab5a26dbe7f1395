"""The steps that ask for labels: of what a round picked, and of a test set that people label.

Such a test set is random rows of the pool, kept out of training and asked for before anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from svp_nlp.arrays import FloatNC, IntK, fingerprint_array
from svp_nlp.errors import LabelError
from svp_nlp.labels import LabelSet
from svp_nlp.models import load_predictor
from svp_nlp.models.base import Labeled
from svp_nlp.oracles.base import Question
from svp_nlp.run import library_versions
from svp_nlp.selection import Lineage, Selection
from svp_nlp.workspace import Fitted, Workspace

TEST = "test"  # directory of a test set that people label, below the seed's


def ask(
    workspace: Workspace,
    name: str,
    selection: Selection,
    *,
    labels: LabelSet,
    asked: Sequence[Selection] = (),
    fitted: Fitted | None = None,
    is_test: bool = False,
) -> LabelSet:
    """Have a selection labelled, once.

    Args:
        labels: what is known.
        asked: the selections before.
        fitted: who may suggest labels to people.
    Returns:
        what `labels.updated` takes: the labels of this selection, and of earlier ones what came late or was corrected.
    Raises:
        WaitingForLabels: not enough answers have come yet.
    """
    path = workspace.run.directory / f"seed-{workspace.seed}" / name / "labels"

    def suggest() -> FloatNC | None:
        if fitted is None:
            return None
        probs_KC: FloatNC = (
            load_predictor(fitted.directory).predict(workspace.pool.take(selection.positions_K)).probs_BC
        )
        return probs_KC

    question = Question(selection, tuple(asked), labels, suggest, workspace.classes(labels), is_test)

    def do(path: Path) -> Mapping[str, Any]:
        given = workspace.oracle.collect(question)
        given.save(path / "labels.parquet")
        known = LabelSet(given.table.filter(pc.is_valid(given.table["label"])))
        counts = known.class_counts(known.classes_after(workspace.class_names))
        return {"labels": len(known), "classes": counts, "fingerprint": labels.updated(given).fingerprint}

    # Also of a round that is over: a request that was removed because it was damaged is written anew.
    ranks = workspace.run.ranks
    ranks.on_main(f"request {name}", lambda: workspace.oracle.request(question, workspace.pool))
    inputs = {"selection": selection.fingerprint, "oracle": workspace.oracle.fingerprint}
    workspace.step(f"{name}/labels", inputs, do)
    return LabelSet.load(path / "labels.parquet")


def request_test(workspace: Workspace, positions_K: IntK) -> Selection:
    """Ask for the labels of these rows, and wait for none."""
    pool = workspace.pool

    def do(path: Path) -> Mapping[str, Any]:
        lineage = Lineage(
            pool={**pool.ref.meaning, "rows": len(pool), "fingerprint": pool.fingerprint},
            strategy="random",
            budget=len(positions_K),
            round=0,
            seed=workspace.seed,
            labeled_size=len(positions_K),
            recipe_sha256=workspace.recipe_sha256,
            versions=library_versions(),
            options={"test_set": True},
        )
        selection = Selection(positions_K, pool.ids(positions_K), None, lineage)
        selection.save(path)
        return {"fingerprint": selection.fingerprint, "rows": len(selection)}

    inputs = {"pool": pool.fingerprint, "rows": fingerprint_array(positions_K)}
    selection = Selection.load(workspace.step(f"{TEST}/rows", inputs, do).path)
    question = Question(selection, (), LabelSet.empty(), is_test=True)
    ranks = workspace.run.ranks
    ranks.on_main("request the test set", lambda: workspace.oracle.request(question, pool))
    return selection


def asked_test(workspace: Workspace, labels: LabelSet) -> Labeled:
    """The test set that people have labelled, the same one from its first use on.

    Args:
        labels: of the training rows, whose classes come first.
    Raises:
        WaitingForLabels: too few answers have come.
        LabelError: all rows were skipped.
    """
    selection = Selection.load(workspace.run.directory / f"seed-{workspace.seed}" / TEST / "rows")
    answers = ask(workspace, TEST, selection, labels=LabelSet.empty(), is_test=True)
    if not len(answers):
        raise LabelError(
            f"none of the {len(selection):,} rows of the test set has a label: all were skipped or flagged"
        )
    class_names = answers.classes_after(workspace.classes(labels))
    return workspace.labeled(answers, class_names)


def left_out_of_test(asked: int, test: Labeled) -> str | None:
    """What to say of the rows of such a test set that got no label; None where all have one."""
    if asked == len(test):
        return None
    return (
        f"{asked - len(test):,} of the {asked:,} rows of the test set have no label (skipped, flagged, or annotators "
        "differ): the error is of the others, which are likely to be the easier ones"
    )
