"""A recipe from start to report: data, seeds, arms, targets, and what the report is made of."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from svp_nlp.arms import Arm, arms_of
from svp_nlp.asking import asked_test, left_out_of_test, request_test
from svp_nlp.data import Data
from svp_nlp.engines import Engine, make_engine
from svp_nlp.engines.ranks import shared_engine
from svp_nlp.evidence import agreements, extreme_picks, lineage_row, stopping_rows
from svp_nlp.labeling.queue import LabelQueue
from svp_nlp.labels import LabelSet
from svp_nlp.launch import open_run_together, together
from svp_nlp.loop import active_learning, core_set, encoding_seconds, train_target
from svp_nlp.models import make_learner
from svp_nlp.oracles.base import Oracle
from svp_nlp.oracles.column import ColumnOracle, ColumnOracleSpec
from svp_nlp.oracles.files import FilesOracle, FilesOracleSpec, project_of
from svp_nlp.outcome import new_results, report_where_it_waits, save, write_reports
from svp_nlp.prepare import Prepared, pin, prepare
from svp_nlp.recipe import Recipe, dump_recipe
from svp_nlp.recipe_checks import forbidden_changes
from svp_nlp.recipe_yaml import write_yaml
from svp_nlp.report import summarize
from svp_nlp.run import START, Run
from svp_nlp.selected import SelectedRows, drop_outgrown, write_selected
from svp_nlp.selection import scores_at
from svp_nlp.stopping_step import tell
from svp_nlp.strategy_spec import StrategySpec
from svp_nlp.tracking import Tracker, open_tracker
from svp_nlp.workspace import Round, Workspace

log = logging.getLogger(__name__)
_FOUND = ", found finished"


def _is_own(arm: Arm, recipe: Recipe) -> bool:
    """Whether a recipe asks for this arm's selections, and not only for what to compare them with."""
    return arm.strategy in recipe.strategies and arm.selector != "target_selects"


def run_recipe(recipe: Recipe, run_dir: Path, *, stop_requested: Callable[[], bool]) -> dict[str, Any]:
    """Do what a recipe says, or what is left of it.

    Args:
        run_dir: created; on a directory that an earlier call with the same recipe left, goes on there.
        stop_requested: asked between batches and steps; when true, Interrupted is raised with all finished work kept.
    Returns:
        paths (`run_dir, report_html, report_json, report_md, selected`), `published` (what is on the Hub, where the
        recipe says so) and `report`, the summary for the console.
    Raises:
        SVPError: see `exit_code` of what is raised.
    """
    engine = make_engine(recipe.engine)
    prepared = together(lambda: prepare(recipe, engine, run_dir=Path(run_dir)))
    with open_run_together(
        Path(run_dir),
        recipe=recipe.meaning,
        recipe_text=(recipe_text := dump_recipe(recipe)),
        differences=forbidden_changes,
        stop_requested=stop_requested,
    ) as run:
        engine = shared_engine(engine, run.ranks)
        pinned, prepared = pin(recipe, run, prepared)
        data = prepared.data
        results = new_results(recipe, data, run)
        recipe = pinned
        if prepared.publisher is not None:
            prepared.publisher.begin()
        selected: list[Path] = []
        with _open_tracker(recipe, run) as tracker, report_where_it_waits(run, results):
            for seed in recipe.seeds:
                workspace = workspace_of(recipe, data, run, seed=seed, engine=engine, recipe_text=recipe_text)
                if data.test_positions is not None:
                    request_test(workspace, data.test_positions)
                finished: dict[Arm, list[Round]] = {}
                for arm in arms_of(recipe):
                    log.info("seed %d, %s", seed, arm.name)
                    finished[arm] = _run_arm(workspace, recipe, prepared, arm=arm, results=results, tracker=tracker)
                    if _is_own(arm, recipe):
                        selected.append(_export(workspace, recipe, arm, finished[arm]))
                    if not results["finished"]:  # read again, a finished run has nothing to gain from a part of itself
                        save(run, results)
                if run.ranks.is_main:
                    results["agreement"] += agreements(workspace, _twins(finished))
        if prepared.publisher is not None:
            warnings = prepared.publisher.finish(pool=data.pool)
            for warning in warnings:
                log.warning("%s", warning)
            results["warnings"] += warnings
        results["finished"] = True
        save(run, results)
        paths = run.ranks.on_main("report", lambda: write_reports(run, results))
    return {
        "run_dir": str(run_dir),
        **{f"report_{kind}": path for kind, path in paths.items()},
        "selected": str(selected[0]),
        "all_selected": [str(path) for path in selected],
        "published": None if prepared.publisher is None else prepared.publisher.summary,
        "report": summarize([results]) if run.ranks.is_main else None,
    }


@contextlib.contextmanager
def _open_tracker(recipe: Recipe, run: Run) -> Iterator[Tracker]:
    """The trackers that the recipe asks for, on one process; they get the epochs of all trainings at once."""
    if not (recipe.report_to and run.ranks.is_main):
        yield Tracker({})
        return
    name = run.directory.resolve().name
    with open_tracker(recipe.report_to, run_dir=run.directory, name=name, config=recipe.meaning) as tracker:
        run.listeners.append(tracker.log_event)
        yield tracker


def workspace_of(recipe: Recipe, data: Data, run: Run, *, seed: int, engine: Engine, recipe_text: str) -> Workspace:
    """The workspace of one seed; `recipe_text` is what the run's recipe.yaml holds."""
    return Workspace(
        engine=engine,
        run=run,
        pool=data.pool,
        class_names=data.class_names,
        available_N=data.available_N,
        oracle=_oracle(recipe, data, run, seed=seed),
        seeds=data.seeds,
        seed=seed,
        dev=data.dev,
        recipe_sha256=hashlib.sha256(recipe_text.encode()).hexdigest(),
        # A reduction leaves a part of the pool only, from the second round on: its scores are its own.
        shared_strategies=tuple(sorted({s.scored_by for s in recipe.strategies if s.scored_by and not s.reduce})),
        shared_dynamics=tuple(
            sorted({name for s in recipe.strategies if s.strategy.uses_dynamics for name in s.strategy.signals})
        ),
    )


def _oracle(recipe: Recipe, data: Data, run: Run, *, seed: int) -> Oracle:
    if isinstance(recipe.oracle, FilesOracleSpec):
        sizes = recipe.resolve_sizes(int(data.available_N.sum()))
        project = project_of(
            recipe.oracle,
            class_names=data.class_names,
            modality=data.pool.ref.modality,
            planned=sizes[-1] + (0 if data.test_positions is None else len(data.test_positions)),
            name=run.directory.resolve().name,
        )
        # The other processes of a launch never ask it.
        queue = LabelQueue(run.directory, project)
        if run.ranks.is_main:
            queue = LabelQueue.begin(run.directory, project)
            queue.keep_recipe(write_yaml(recipe.model_dump(mode="json")))
        return FilesOracle(recipe.oracle, queue)
    assert isinstance(recipe.oracle, ColumnOracleSpec) and data.labels is not None
    return ColumnOracle(recipe.oracle, data.labels, data.pool.keys_N, seed)


def _run_arm(
    workspace: Workspace,
    recipe: Recipe,
    prepared: Prepared,
    *,
    arm: Arm,
    results: dict[str, Any],
    tracker: Tracker,
) -> list[Round]:
    """All rounds of an arm and the targets that are trained on them; adds its rows to the results."""
    rounds: list[Round] = []
    total = {"proxy_seconds": 0.0, "scoring_seconds": 0.0, "ranking_seconds": 0.0}
    target_sizes = recipe.resolve_target_sizes(workspace.num_available)
    base = {"seed": workspace.seed, **arm.fields}
    done, planned = workspace.run.steps_done, 0
    for round_ in _rounds(workspace, recipe, arm, prepared.sizes):
        rounds.append(round_)
        is_new, done = workspace.run.steps_done > done, workspace.run.steps_done
        cost = {key: getattr(round_, key) for key in total}
        if recipe.mode == "core_set":
            total = cost  # each size is picked anew from the same scores
        elif round_.round > 0 or recipe.start.name != "random":
            total = {key: total[key] + cost[key] for key in total}
        log.info(
            "  %s: %s labelled (proxy %.1f s, scoring %.1f s, ranking %.2f s)%s",
            arm.name, f"{round_.labeled_size:,}", *cost.values(), "" if is_new else _FOUND,
        )  # fmt: skip
        new = _new_labels(rounds)
        results["rounds"].append(
            {
                **base,
                "round": round_.round,
                "labeled_size": round_.labeled_size,
                "picked": len(round_.selection),
                "fingerprint": round_.selection.fingerprint,
                "labeled": len(new),
                "class_counts": new.class_counts(workspace.classes(round_.labels)),
                **cost,
            }
        )
        results["lineage"].append(lineage_row(base, round_))
        if is_new:
            results["finished"] = False  # as one that a rule had stopped, and that goes on
            tracker.log_round(results["rounds"][-1])
        results["stopping"] += stopping_rows(base, round_)
        tell(workspace, arm.name, round_, recipe.stop)
        if any(planned < size <= round_.planned_size for size in target_sizes):
            _add_target(workspace, recipe, prepared.data, arm=arm, round_=round_, selection_cost=total, results=results)
            if workspace.run.steps_done > done:
                tracker.log_target(results["rows"][-1])
            done = workspace.run.steps_done
        planned = round_.planned_size
        if prepared.publisher is not None and round_.round > 0 and _is_own(arm, recipe):
            if not results["finished"]:
                save(workspace.run, results)  # the card shows what is known so far
            prepared.publisher.push(arm.name, workspace.seed, round_.round, pool=workspace.pool)
    shared = max((r.fitted.processes for r in rounds if r.fitted is not None), default=1)
    if shared > 1:
        results["warnings"].append(
            f"{arm.name}: {shared} processes trained what chose, together; another number of them chooses other rows "
            "(training.data_parallel: false makes the choice the same on any number)"
        )
    if rounds[-1].scored is not None and arm.selector == "proxy" and workspace.run.ranks.is_main:
        results["picks"].append({**base, **extreme_picks(workspace, rounds)})
    return rounds


def _new_labels(rounds: list[Round]) -> LabelSet:
    """Labels of rows that had none before the last of some rounds; a correction is none of them."""
    added = rounds[-1].added.table
    is_new = pc.is_valid(added["label"])
    if len(rounds) > 1:
        is_new = pc.and_(is_new, pc.invert(pc.is_in(added["position"], pa.array(rounds[-2].labels.positions_L))))
    return LabelSet(added.filter(is_new))


def _rounds(workspace: Workspace, recipe: Recipe, arm: Arm, sizes: list[int]) -> Iterator[Round]:
    by_target = arm.selector == "target_selects"
    assert not by_target or recipe.target is not None
    learner = make_learner(recipe.target if by_target and recipe.target is not None else recipe.proxy)
    role = "target" if by_target else "proxy"
    if recipe.mode == "core_set":
        return core_set(workspace, learner=learner, strategy=arm.strategy, labeled_sizes=sizes, arm=arm.name, role=role)
    return active_learning(
        workspace,
        learner=learner,
        strategy=arm.strategy,
        initial=recipe.resolve_initial(workspace.num_available),
        labeled_sizes=sizes,
        start=recipe.start,
        start_learner=make_learner(recipe.proxy),
        arm=arm.name,
        role=role,
        stop=None if by_target else recipe.stop,
        watched=recipe.by_people,
    )


def _add_target(
    workspace: Workspace,
    recipe: Recipe,
    data: Data,
    *,
    arm: Arm,
    round_: Round,
    selection_cost: dict[str, float],
    results: dict[str, Any],
) -> None:
    assert recipe.target is not None
    test = data.test
    if test is None:
        assert data.test_positions is not None
        test = asked_test(workspace, round_.labels)
        warning = left_out_of_test(len(data.test_positions), test)
        if warning is not None and warning not in results["warnings"]:
            log.warning("%s", warning)
            results["warnings"].append(warning)
        info = {"path": recipe.pool.path, "split": f"{recipe.pool.split}, random rows that people labelled"}
        results["test"] = {**info, "revision": None, "rows": len(test), "overlap": 0, "fingerprint": test.fingerprint}
    place = START if recipe.mode == "active_learning" and round_.round == 0 else arm.name
    done = workspace.run.steps_done
    target = train_target(
        workspace,
        round_.labels,
        learner=make_learner(recipe.target),
        test=test,
        metrics=sorted({"accuracy", "macro_f1", *recipe.metrics}),
        class_counts=data.pool_info["class_counts"],
        arm=place,
    )
    selection_seconds = sum(selection_cost.values())
    target_seconds = target.fitted.seconds + encoding_seconds(target.fitted, round_.fitted)
    base = {"seed": workspace.seed, **arm.fields}
    results["rows"].append(
        {
            **base,
            "labeled_size": round_.labeled_size,
            "labeled_percent": 100 * round_.labeled_size / workspace.num_available,
            "error": 1 - target.metrics["accuracy"],
            "accuracy": target.metrics["accuracy"],
            "macro_f1": target.metrics["macro_f1"],
            "metrics": dict(target.metrics),
            "recall_by_class": dict(target.recall_by_class),
            **selection_cost,
            "selection_seconds": selection_seconds,
            "target_seconds": target_seconds,
            "total_seconds": selection_seconds + target_seconds,
            "selection_fingerprint": round_.selection.fingerprint,
        }
    )
    log.info(
        "  %s: target on %s labels: error %.2f %% (%.1f s)%s",
        arm.name, f"{round_.labeled_size:,}", 100 * (1 - target.metrics["accuracy"]), target_seconds,
        "" if workspace.run.steps_done > done else _FOUND,
    )  # fmt: skip
    if target.classes_predicted == 1:
        what = workspace.pool.ref.modality
        warning = (
            f"{arm.name}: the target on {round_.labeled_size:,} labels gives one class for every {what}: it has "
            "learned nothing, and what it says about choosing means nothing; train it longer (training.min_train_steps)"
        )
        log.warning("%s", warning)
        results["warnings"].append(warning)
    history = target.fitted.report.get("history")
    if history:
        results["training"].append({**base, "labeled_size": round_.labeled_size, "history": history})


def _export(workspace: Workspace, recipe: Recipe, arm: Arm, rounds: list[Round]) -> Path:
    """The final selection of an arm as a folder that `load_dataset` reads."""
    parts = rounds if recipe.mode == "active_learning" else rounds[-1:]
    labels = rounds[-1].labels
    scores = scores_at(labels.positions_L, [round_.selection for round_ in parts])

    def do(path: Path) -> dict[str, Any]:
        rows = SelectedRows(workspace.pool, labels, scores, workspace.classes(labels), recipe.pool.label_column)
        write_selected(path / "dataset", rows, strategy=arm.strategy.title)
        return {"rows": len(labels)}

    path = workspace.run.directory / f"seed-{workspace.seed}" / arm.name / "selected"
    workspace.run.ranks.on_main(f"outgrown {arm.name}", lambda: drop_outgrown(path, labels))
    inputs = {"labels": labels.fingerprint, "pool": workspace.pool.fingerprint, "column": recipe.pool.label_column}
    return workspace.step(f"{arm.name}/selected", inputs, do).path / "dataset"


def _twins(finished: dict[Arm, list[Round]]) -> list[tuple[StrategySpec, list[Round], list[Round]]]:
    """(strategy, rounds that the proxy chose, rounds that the target chose) where both ran."""
    return [
        (arm.strategy, rounds, finished[twin])
        for arm, rounds in finished.items()
        if arm.selector == "proxy" and (twin := Arm("target_selects", arm.strategy)) in finished
    ]
