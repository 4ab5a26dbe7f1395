"""What numbers alone tell of a strategy: looked at before any work, by a run, a plan and the loops."""

from __future__ import annotations

from collections.abc import Sequence

from svp_nlp.errors import BudgetError, RecipeError
from svp_nlp.models.base import LearnerSpec
from svp_nlp.sizes import resolve_size
from svp_nlp.strategies.strata import count_dropped
from svp_nlp.strategy_spec import SEALSSpec, StrategySpec


def check_strategy(
    spec: StrategySpec, learner: LearnerSpec, *, num_available: int, sizes: Sequence[int], grows: bool
) -> None:
    """Refuse what would fail after hours of training.

    Args:
        learner: who chooses.
        num_available: rows that may be picked, labelled ones included.
        sizes: labelled sizes, rows; in active learning the start set's is the first.
        grows: active learning; False: each size of a core-set is picked from all rows.
    Raises:
        BudgetError: a round is to pick more rows than are candidates, or than strata leave; or more candidates than
            there are rows.
        RecipeError: no features tell who is near; a reduction without rounds; more epochs than the training has.
    """
    _check_reduction(spec, learner, grows=grows)
    _check_epochs(spec, learner, rows=num_available)
    candidates = num_available
    if spec.candidates is not None:
        candidates = resolve_size(spec.candidates, num_available, f"{spec.title}: candidates")
    befores = sizes[:-1] if grows else [0] * len(sizes)
    for number, (before, size) in enumerate(zip(befores, sizes[1:] if grows else sizes, strict=True), start=1):
        where, budget, is_open = f"{spec.title}: round {number}", size - before, num_available - before
        if budget > candidates:
            raise BudgetError(f"{where} is to pick {budget:,} of {candidates:,} candidates; raise candidates")
        if spec.strata is not None and budget > (left := is_open - count_dropped(is_open, spec.strata.dropped)):
            raise BudgetError(
                f"{where} is to pick {budget:,} of {left:,} rows, for strata drop the hardest "
                f"{spec.strata.drop_hardest} of {is_open:,}; lower the labelled size or drop_hardest"
            )


def _check_reduction(spec: StrategySpec, learner: LearnerSpec, *, grows: bool) -> None:
    if spec.reduce is not None and not grows:
        raise RecipeError(f"{spec.title}: reduce goes by earlier rounds, a core-set has none; remove it")
    if not isinstance(spec.reduce, SEALSSpec):
        return
    encoder = spec.reduce.encoder
    if encoder is None and learner.kind != "embedding":
        raise RecipeError(f"{spec.title}: {learner.kind} has no features of its own; give reduce.encoder")
    if encoder is not None and encoder.reads != learner.reads:
        raise RecipeError(
            f"{spec.title}: reduce.encoder reads {encoder.reads}s, {learner.kind} reads {learner.reads}s; use "
            "reduce.kind ups, or remove reduce"
        )


def _check_epochs(spec: StrategySpec, learner: LearnerSpec, *, rows: int) -> None:
    training = getattr(learner, "training", None)
    if spec.epochs is None or training is None:
        return
    from svp_nlp.models.batches import count_batches, planned_epochs  # imports torch, which fastText does without

    planned = planned_epochs(training, count_batches(rows, min(training.global_batch_size, rows)))
    if spec.epochs > planned:
        raise RecipeError(f"{spec.title}: {learner.kind} is trained for {planned:,} epochs; lower epochs to these")
