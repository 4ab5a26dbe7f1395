"""What numbers alone tell of a strategy: looked at before any work, by a run, a plan and the loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from svp_nlp.errors import BudgetError, RecipeError
from svp_nlp.models.base import LearnerSpec
from svp_nlp.sizes import resolve_size
from svp_nlp.strategies.strata import count_dropped
from svp_nlp.strategy_spec import SEALSSpec, StartSpec, StrategySpec


def misfits(spec: StrategySpec, learner: LearnerSpec, *, grows: bool, dev: object) -> Iterator[str]:
    """What a strategy asks of the mode and of the learner whose signals it reads, and does not get.

    Args:
        learner: who chooses.
        grows: active learning; False: core-set selection.
        dev: of a recipe or workspace; a float is a share of the labelled rows that is held out.
    """
    if spec.strategy.uses_dynamics:
        if grows:
            yield (
                f"{spec.title} looks at how labelled rows are learned, active learning picks unlabelled ones; use a "
                "core-set, or a strategy of probabilities: margin, entropy, least_confidence"
            )
        if not learner.records_dynamics:
            yield (
                f"{learner.kind} records no training dynamics, which {spec.title} needs; use one that is trained in "
                "epochs (vdcnn, transformer, resnet), or a strategy of probabilities: margin, entropy, least_confidence"
            )
        if isinstance(dev, float):
            yield (
                f"a share that is held out as dev set has no training dynamics, which {spec.title} needs of all rows; "
                "name a dev dataset, or leave it out"
            )
    if spec.reduce is not None and not grows:
        yield f"{spec.title}: reduce goes by earlier rounds, a core-set has none; remove it"
    if not isinstance(spec.reduce, SEALSSpec):
        return
    encoder = spec.reduce.encoder
    if learner.reads == "image":
        yield (
            f"{spec.title}: reduce.kind seals needs features of a frozen encoder, and there is none for images; use "
            "reduce.kind ups, or remove reduce"
        )
    elif encoder is None and learner.kind != "embedding":
        yield (
            f"{spec.title}: {learner.kind} has no fixed features that tell who is near; give reduce.encoder "
            "(kind: embedding), or use such a proxy"
        )


def start_misfits(spec: StartSpec, learner: LearnerSpec, *, grows: bool) -> Iterator[str]:
    """What a start set asks of the mode and of the proxy, and does not get.

    Args:
        learner: the proxy.
        grows: active learning; False: core-set selection.
    """
    if spec.name == "random":
        return
    if not grows:
        yield "a core-set has no start set; remove it"
    if learner.reads == "image":
        yield f"{spec.name} needs features of a frozen encoder, and there is none for images; use random"
    elif spec.encoder is None and learner.kind != "embedding":
        yield (
            f"{spec.name}: {learner.kind} has no features before it is trained; give start.encoder (kind: embedding), "
            "or use such a proxy"
        )


def check_start(spec: StartSpec, learner: LearnerSpec, *, num_available: int, size: int, grows: bool) -> None:
    """Refuse a start set that cannot be.

    Args:
        learner, grows: see `start_misfits`.
        num_available: rows that may be picked.
        size: of the start set, rows.
    Raises:
        BudgetError: more rows are to be picked than are candidates, or more candidates than there are rows.
        RecipeError: see `start_misfits`.
    """
    for wrong in start_misfits(spec, learner, grows=grows):
        raise RecipeError(f"start: {wrong}")
    if spec.candidates is not None:
        candidates = resolve_size(spec.candidates, num_available, "start.candidates")
        if size > candidates:
            raise BudgetError(f"start: {size:,} rows are to be picked of {candidates:,} candidates; raise candidates")


def check_strategy(
    spec: StrategySpec,
    learner: LearnerSpec,
    *,
    num_available: int,
    sizes: Sequence[int],
    grows: bool,
    dev: object = None,
) -> None:
    """Refuse what would fail after hours of training.

    Args:
        learner: who chooses.
        num_available: rows that may be picked, labelled ones included.
        sizes: labelled sizes, rows; in active learning the start set's is the first.
        grows: active learning; False: each size of a core-set is picked from all rows.
        dev: see `misfits`.
    Raises:
        BudgetError: a round is to pick more rows than are candidates, or than strata leave; or more candidates than
            there are rows.
        RecipeError: see `misfits`; or more epochs than the training has.
    """
    for wrong in misfits(spec, learner, grows=grows, dev=dev):
        raise RecipeError(wrong)
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


def _check_epochs(spec: StrategySpec, learner: LearnerSpec, *, rows: int) -> None:
    training = getattr(learner, "training", None)
    if spec.epochs is None or training is None:
        return
    from svp_nlp.models.batches import count_batches, planned_epochs  # imports torch, which fastText does without

    planned = planned_epochs(training, count_batches(rows, min(training.global_batch_size, rows)))
    if spec.epochs > planned:
        raise RecipeError(f"{spec.title}: {learner.kind} is trained for {planned:,} epochs; lower epochs to these")
