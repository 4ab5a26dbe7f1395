"""The steps that need a model: fit it, encode the pool for it, score the pool with it."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from svp_nlp.arrays import FloatND, fingerprint_json, keyed_hash
from svp_nlp.engines import LocalEngine
from svp_nlp.engines.ranks import RanksEngine
from svp_nlp.files import atomic_directory, read_json
from svp_nlp.labels import LabelSet
from svp_nlp.models import load_predictor, make_learner
from svp_nlp.models.base import Event, FeatureLearner, FitContext, Learner
from svp_nlp.pool import cut
from svp_nlp.run import START, STEP_FILE
from svp_nlp.scoring import ScoreTask
from svp_nlp.store import SignalStore
from svp_nlp.strategy_spec import StrategySpec
from svp_nlp.workspace import ROWS_PER_BATCH, Encoded, Fitted, RowsFile, Scored, Workspace, model_name

if TYPE_CHECKING:
    from svp_nlp.models.dynamics import DynamicsRecorder

_FIT_FILE = "fit.json"
_DYNAMICS = "dynamics"
_SECONDS_BETWEEN_LINES = 10.0
log = logging.getLogger(__name__)


def _free_name(workspace: Workspace, name: str, labels: LabelSet) -> str:
    """Where a model lies: beside the one of an earlier round with as many other labels, where people corrected some."""
    step = workspace.run.directory / f"seed-{workspace.seed}" / name / "model" / STEP_FILE
    if not step.exists() or read_json(step)["inputs"]["labels"] == labels.fingerprint:
        return name
    return f"{name}-{labels.fingerprint[:8]}"


def fit(
    workspace: Workspace,
    place: str,
    role: str,
    learner: Learner | str,
    labels: LabelSet,
    *,
    dynamics: Sequence[str] = (),
) -> Fitted:
    """Fit a learner (or the `kind` of one, with default options) on labels, once; `model_name` says where it lies.

    Args:
        dynamics: what is recorded of each row while it is trained (`strategies.DYNAMICS`), by a learner that can.
    """
    learner = make_learner(learner) if isinstance(learner, str) else learner
    name = model_name(place, role, len(labels), learner, dynamics)
    run = workspace.run
    name = run.ranks.on_main(f"name of {name}", lambda: _free_name(workspace, name, labels))
    encoded = encode(workspace, learner, labels) if is_feature_learner(learner) else None
    uses_dev = hasattr(learner.spec, "training")  # learners that train in epochs; fastText has nothing to choose
    dev_input = None
    if uses_dev and workspace.dev is not None:
        dev = workspace.dev
        dev_input = dev if isinstance(dev, float) else dev.fingerprint
    inputs = {
        "learner": learner.spec.model_dump(mode="json"),
        "seed": workspace.seed,
        "pool": workspace.pool.fingerprint,
        "labels": labels.fingerprint,
        "classes": list(workspace.classes(labels)),
        "dev": dev_input,
    }
    if encoded is not None:
        inputs["encoder"] = encoded.fingerprint
    if dynamics:
        inputs["dynamics"] = sorted(dynamics)
    class_names = workspace.classes(labels)
    key = fingerprint_json(inputs)
    together = run.ranks.world_size > 1 and _trains_together(learner, role)

    # Beside the step, not in it: they are deleted only when the step is recorded.
    checkpoints = run.directory / f"seed-{workspace.seed}" / name / "checkpoints"

    def saved(path: Path) -> dict[str, Any]:
        """What an attempt left that was fitted and saved, but ended before the step was recorded."""
        fit_file = path / "weights" / _FIT_FILE
        if not fit_file.exists() or read_json(fit_file)["inputs"] != key:
            return {}
        predictor = load_predictor(path / "weights")
        return {**read_json(fit_file)["output"], "fingerprint": predictor.fingerprint, "report": predictor.report}

    def do(path: Path) -> Mapping[str, Any]:
        found = run.ranks.on_main(f"saved {name}", lambda: saved(path)) if together else saved(path)
        if found:
            return found
        context = FitContext(
            checkpoints,
            _epoch_logger(workspace, name),
            run.stop_requested,
            data_parallel=together,
            pool=workspace.pool,
            features_LD=None if encoded is None else _features(encoded, labels),
            encoder_dir=None if encoded is None else encoded.directory,
            dynamics=_recorder(dynamics),
        )
        train, dev = workspace.split_dev(labels) if uses_dev else (labels, None)
        if hasattr(learner, "warm_up"):
            learner.warm_up()
        started = time.perf_counter()
        predictor = learner.fit(workspace.labeled(train, class_names), dev=dev, seed=workspace.seed, context=context)
        # A training that was resumed counts the attempts before as well.
        seconds = predictor.report.get("seconds", time.perf_counter() - started)
        output = {"seconds": seconds, "processes": run.ranks.world_size if together else 1}
        if run.ranks.is_main:
            with atomic_directory(path / "weights") as directory:
                predictor.save(directory)
                if context.dynamics is not None:
                    context.dynamics.save(directory / _DYNAMICS)
                (directory / _FIT_FILE).write_text(json.dumps({"inputs": key, "output": output}), encoding="utf-8")
        return {**output, "fingerprint": predictor.fingerprint, "report": predictor.report}

    step = workspace.step(f"{name}/model", inputs, do, together=together)
    if run.ranks.is_main:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return Fitted(
        step.path / "weights", step.output["fingerprint"], step.seconds, step.output["report"], learner, name,
        processes=step.output["processes"], encoded=encoded,
        dynamics_dir=step.path / "weights" / _DYNAMICS if dynamics else None,
    )  # fmt: skip


def _recorder(names: Sequence[str]) -> DynamicsRecorder | None:
    if not names:
        return None
    from svp_nlp.models.dynamics import DynamicsRecorder  # imports torch, which fastText does without

    return DynamicsRecorder(names)


def _trains_together(learner: Learner, role: str) -> bool:
    """Whether all processes of a launch share the batches of a training; see TrainingSpec.data_parallel."""
    training = getattr(learner.spec, "training", None)
    if training is None:
        return False
    return role == "target" if training.data_parallel is None else bool(training.data_parallel)


def _epoch_logger(workspace: Workspace, name: str) -> Callable[[Event], None]:
    said = time.monotonic()

    def on_event(event: Event) -> None:
        nonlocal said
        workspace.run.log_event({"step": f"seed-{workspace.seed}/{name}", **event})
        if event.get("event") == "epoch" and time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            rate = event.get("examples_per_second", float("nan"))
            log.info("    %s: epoch %d, loss %.3f, %.0f examples/s", name, event["epoch"], event["loss"], rate)

    return on_event


def is_feature_learner(learner: Learner) -> TypeGuard[FeatureLearner]:
    """Whether a learner is a small head on a frozen encoder."""
    return hasattr(learner, "encoder_key")


def _features(encoded: Encoded, labels: LabelSet) -> FloatND:
    features_ND = np.load(encoded.features_file, mmap_mode="r", allow_pickle=False)
    return np.asarray(features_ND[labels.positions_L], dtype=np.float32)


def encode(workspace: Workspace, learner: FeatureLearner, labels: LabelSet) -> Encoded:
    """The features of the whole pool, once for each encoder; all seeds and arms share them.

    Where the learner asks for it, the encoder is fine-tuned first, on the first `refresh_at` labels as soon as there
    are so many: the same ones in every later round, so it happens once.
    """
    run, tuned = workspace.run, None
    if learner.refresh_at is not None and len(labels) >= learner.refresh_at:
        first = _first(workspace, labels, learner.refresh_at)
        # Named by its labels: arms that share them share it.
        tuned = fit(workspace, START, f"encoder-{first.fingerprint[:8]}", learner.tuner(), first)
    name = f"encoders/{learner.encoder_key[:8]}" + (f"-{tuned.fingerprint[:8]}" if tuned else "")

    def do(path: Path) -> Mapping[str, Any]:
        encoder = learner.encoder(None if tuned is None else tuned.directory, pool=workspace.pool)
        with atomic_directory(path / "weights") as directory:
            encoder.save(directory)
        return {"fingerprint": encoder.fingerprint}

    inputs = {"encoder": learner.encoder_key, "tuned": None if tuned is None else tuned.fingerprint}
    model = run.step(f"{name}/model", inputs, do)
    fingerprint = model.output["fingerprint"]
    task = ScoreTask(
        pool_ref=workspace.pool.ref,
        predictor_dir=model.path / "weights",
        predictor_fingerprint=fingerprint,
        store_dir=run.directory / name / "features",
        num_rows=len(workspace.pool),
        rows_per_batch=getattr(learner, "rows_per_batch", ROWS_PER_BATCH),
        strategies=(),
        keep=("embeddings",),
    )
    seconds = _map_shards(workspace, f"{name}/features", task, what=f"encoding, {name}")
    return Encoded(
        model.path / "weights",
        fingerprint,
        task.store_dir / "embeddings.npy",
        seconds + (0.0 if tuned is None else tuned.seconds),
    )


def _first(workspace: Workspace, labels: LabelSet, count: int) -> LabelSet:
    """The labels of the first rounds; of the round that is cut, and where all came at once, a random part."""
    rounds_L = labels.table.column("round").to_numpy()
    draw_L = keyed_hash(workspace.pool.keys_N[labels.positions_L], workspace.seed, "encoder")
    return LabelSet(labels.table.take(np.sort(np.lexsort((draw_L, rounds_L))[:count])))


def score(
    workspace: Workspace,
    fitted: Fitted,
    strategies: Sequence[str],
    *,
    keep: Sequence[str] = (),
    rows: RowsFile | None = None,
) -> tuple[SignalStore, float]:
    """Score the pool, or some rows of it, with a model, once; returns the signals and the seconds that it took.

    Args:
        strategies: pointwise ones; each becomes a signal.
        keep: of `probs` and `embeddings`, those to keep as they are.
        rows: those that are scored, in whose order the signals are; None: all.
    """
    # Other signals of the same model lie beside these, so that strategies can be compared in one workspace.
    part = "" if rows is None else f"-{rows.fingerprint[:8]}"
    step_name = f"seed-{workspace.seed}/{fitted.name}/signals-{'-'.join([*strategies, *sorted(keep)])[:80]}{part}"
    rows_per_batch = getattr(fitted.learner, "rows_per_batch", ROWS_PER_BATCH)
    task = ScoreTask(
        pool_ref=workspace.pool.ref,
        predictor_dir=fitted.directory,
        predictor_fingerprint=fitted.fingerprint,
        store_dir=workspace.run.directory / step_name,
        num_rows=len(workspace.pool),
        rows_per_batch=rows_per_batch if fitted.encoded is None else ROWS_PER_BATCH,
        strategies=tuple(strategies),
        keep=tuple(sorted(keep)),
        features_file=None if fitted.encoded is None else fitted.encoded.features_file,
        rows_file=None if rows is None else rows.path,
    )
    seconds = _map_shards(workspace, step_name, task, what=fitted.name, rows=rows)
    return task.store(), seconds


def score_dynamics(workspace: Workspace, fitted: Fitted, strategy: StrategySpec) -> Scored:
    """Scores of all rows from what was recorded in a training; -inf for those that were not trained on.

    Where a dev set ended the training before the epochs that the strategy asks for, those that there are count.
    """
    assert fitted.dynamics_dir is not None
    from svp_nlp.models.dynamics import DynamicsRecorder

    name, directory = strategy.name, fitted.dynamics_dir
    step_name = f"seed-{workspace.seed}/{fitted.name}/signals-{name}" + f"-{strategy.epochs or ''}".rstrip("-")
    store = SignalStore(workspace.run.directory / step_name, len(workspace.pool), key=fitted.fingerprint)

    def do(path: Path) -> Mapping[str, Any]:
        recorded = DynamicsRecorder.load(directory)
        arrays = {signal: values_LE[:, : strategy.epochs] for signal, values_LE in recorded.signals().items()}
        scores_N = np.full(len(workspace.pool), -np.inf, dtype=np.float32)
        scores_N[recorded.positions_L] = strategy.strategy.scores(arrays, seed=workspace.seed)
        [whole] = cut(len(workspace.pool), len(workspace.pool))
        columns: dict[str, Any] = {name: scores_N}
        store.write(whole, **columns)
        store.seal([whole])
        return {"signals": [name], "epochs": min(values_LE.shape[1] for values_LE in arrays.values())}

    inputs = {"model": fitted.fingerprint, "pool": workspace.pool.fingerprint, "epochs": strategy.epochs}
    step = workspace.run.step(step_name, inputs, do)
    facts = {}
    if strategy.epochs is not None and (found := step.output["epochs"]) < strategy.epochs:
        log.info("  %s: the training stopped early, after %d of %d epochs", strategy.title, found, strategy.epochs)
        facts = {"epochs_used": found}
    return Scored(store, seconds=step.seconds, facts=facts)


def _map_shards(
    workspace: Workspace, step_name: str, task: ScoreTask, *, what: str, rows: RowsFile | None = None
) -> float:
    """Have the engine compute the signals of all missing shards; returns wall-clock seconds, of all attempts."""
    run, engine, pool = workspace.run, workspace.engine, workspace.pool
    if task.features_file is not None and not isinstance(engine, RanksEngine):
        engine = LocalEngine()  # a head takes less than starting workers does
    shards, store = task.shards(), task.store()

    def wall_clock(manifest: Mapping[str, Any]) -> float:
        # Shards have their own seconds, so that those of an earlier attempt count; several are scored at a time.
        return float(manifest["seconds"]) / max(1, min(engine.workers, len(shards)))

    def prepare() -> dict[str, Any]:
        sealed = store.sealed()
        if sealed is not None:  # the process ended between sealing and recording the step
            return {"seconds": wall_clock(sealed)}
        left = store.missing(task.signal_names, shards)
        run.log_event({"event": "scoring", "step": what, "shards": len(shards), "to_do": len(left)})
        return {"left": [shard.index for shard in left]}

    def do(path: Path) -> Mapping[str, Any]:
        found = run.ranks.on_main(f"prepare {step_name}", prepare) if together else prepare()
        if "left" in found:
            left = set(found["left"])
            engine.map_shards(task, [s for s in shards if s.index in left], stop_requested=run.stop_requested)
            if run.ranks.is_main:
                found = {"seconds": wall_clock(store.seal(shards))}
        return {**found, "signals": sorted(task.signal_names)}

    together = isinstance(engine, RanksEngine)
    inputs = {
        "model": task.predictor_fingerprint,
        "pool": pool.fingerprint,
        "signals": sorted(task.signal_names),
    }
    if rows is not None:
        inputs["rows"] = rows.fingerprint
    return run.step(step_name, inputs, do, together=together).seconds
