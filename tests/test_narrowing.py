"""Strategies with options in whole runs: candidates, prefilters, reduced pools, strata, training dynamics."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from toy import write_toy

from svp_nlp import Selection, active_learning, core_set, open_workspace, run_recipe
from svp_nlp import workspace as workspace_module
from svp_nlp.errors import BudgetError, RecipeError
from svp_nlp.fitting import fit, score_dynamics
from svp_nlp.loop import all_labels
from svp_nlp.models import learner_module
from svp_nlp.plan import plan
from svp_nlp.recipe import make_recipe
from svp_nlp.strategies import STRATEGIES
from svp_nlp.strategies.warm_up import warm_up
from svp_nlp.strategy_checks import check_strategy
from svp_nlp.strategy_spec import StrategySpec

FASTTEXT = {"kind": "fasttext", "bucket": 1000, "epochs": 5, "learning_rate": 0.5}
EMBEDDING = {
    "kind": "embedding",
    "config": {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "vocab_size": 300,
}
VDCNN = {
    "kind": "vdcnn", "depth": 9, "lite": True, "max_length": 64,
    "training": {"num_train_epochs": 2, "global_batch_size": 64},
}  # fmt: skip


def spec(**options) -> StrategySpec:
    return StrategySpec.model_validate(options)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("data") / "toy")


def made(values):
    module = learner_module(values["kind"])
    return module.learner_class(module.spec_class.model_validate(values))


def rounds_of(toy, run_dir, strategy, *, learner, sizes=(60, 80, 100)):
    options = {"strategy": strategy, "initial": 40, "labeled_sizes": sizes}
    with open_workspace(toy, run_dir=run_dir) as workspace:
        return list(active_learning(workspace, learner=made(learner), **options))


def seconds(run_dir, *patterns):
    """What the steps took that are found by these patterns, in all."""
    paths = [path for pattern in patterns for path in run_dir.glob(f"{pattern}/step.json")]
    return sum(json.loads(path.read_text())["seconds"] for path in paths)


def test_a_setwise_strategy_chooses_among_the_candidates_of_its_prefilter(toy, tmp_path, monkeypatch):
    strategy = spec(name="typiclust", prefilter="margin", candidates=30)
    clock, warmed = [0.0], []

    def slow_warm_up(of):
        clock[0] += 1000
        warmed.append(of.name)

    monkeypatch.setattr(workspace_module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(workspace_module, "warm_up", slow_warm_up)
    rounds = rounds_of(toy, tmp_path / "run", strategy, learner=FASTTEXT)
    assert set(warmed) == {"typiclust"} and all(now.ranking_seconds == 0 for now in rounds)  # compiling is not counted
    found = seconds(tmp_path / "run", "seed-0/*/proxy-*/signals-*", "seed-0/*/*/candidates")
    assert sum(now.scoring_seconds for now in rounds) == pytest.approx(found)
    for before, now in itertools.pairwise(rounds):
        margin = now.scored.rows.positions_R
        assert set(now.selection.positions_K) <= set(margin)
        assert now.selection.lineage.options == {"prefilter": "margin", "candidates": 30, "candidate_rows": 30}
        # 30 candidates, and the labelled rows that the strategy looks at.
        assert len(margin) == 30 + len(before.labels)
    plain = rounds_of(toy, tmp_path / "plain", "margin", learner=FASTTEXT, sizes=(70,))
    highest = set(plain[1].selection.positions_K)  # the 30 highest of round 1
    assert set(rounds[1].scored.rows.positions_R) - set(rounds[0].labels.positions_L) == highest


def test_candidates_without_prefilter_are_drawn_by_the_seed_and_not_by_position(toy, tmp_path):
    strategy = spec(name="typiclust", candidates="20%")
    [_, first] = rounds_of(toy, tmp_path / "a", strategy, learner=FASTTEXT, sizes=(60,))
    [_, again] = rounds_of(toy, tmp_path / "b", strategy, learner=FASTTEXT, sizes=(60,))
    assert first.selection.fingerprint == again.selection.fingerprint
    assert first.selection.lineage.options["candidate_rows"] == 40
    candidates = first.scored.rows.positions_R
    assert 60 < np.mean(candidates) < 140


@pytest.mark.parametrize(
    ("mode", "proxy", "strategy", "said"),
    [
        ("al", FASTTEXT, {"name": "badge", "candidates": 10}, "round 1 is to pick 20 of 10 candidates; raise"),
        ("al", FASTTEXT, {"name": "badge", "candidates": 201}, "candidates asks for 201 rows, the pool has 200"),
        ("al", FASTTEXT, {"name": "margin", "strata": {"drop_hardest": "99%"}}, "round 1 is to pick 20 of 2 rows, for"),
        ("core", VDCNN, {"name": "margin", "strata": {}}, "pick 190 of 180 rows, for strata drop the hardest 10% of"),
        ("core", VDCNN, {"name": "el2n", "epochs": 3}, "vdcnn is trained for 2 epochs; lower epochs to these"),
        (
            "al",
            FASTTEXT,
            {
                "name": "margin",
                "reduce": {"kind": "seals", "encoder": {"kind": "embedding", "model_name_or_path": "/no"}},
            },
            r"strategies\.0\.reduce\.encoder: .*/no",
        ),
    ],
)
def test_what_numbers_tell_is_said_before_any_work(toy, tmp_path, mode, proxy, strategy, said):
    sizes = {"initial": 40, "labeled_sizes": [60]} if mode == "al" else {"labeled_sizes": ["95%"]}
    by = {"mode": "active_learning" if mode == "al" else "core_set", "proxy": proxy, "strategies": [strategy]}
    made_of = recipe(toy, **by, **sizes)
    for look in (lambda: plan(made_of), lambda: run_recipe(made_of, tmp_path / "run", stop_requested=lambda: False)):
        with pytest.raises((BudgetError, RecipeError), match=said):
            look()
    assert not (tmp_path / "run").exists()
    if "encoder" in said:
        return
    loop = active_learning if mode == "al" else core_set
    with open_workspace(toy, run_dir=tmp_path / "loop") as workspace:
        with pytest.raises((BudgetError, RecipeError), match=said):
            list(loop(workspace, learner=made(proxy), strategy=spec(**strategy), **sizes))
        assert not list((tmp_path / "loop").glob("seed-0/*/*/model"))


def test_epochs_that_are_added_for_enough_steps_count():
    training = {"num_train_epochs": 2, "global_batch_size": 50, "min_train_steps": 20}
    arguments = {"num_available": 200, "sizes": [100], "grows": False}
    check_strategy(spec(name="el2n", epochs=5), made({**VDCNN, "training": training}).spec, **arguments)
    with pytest.raises(RecipeError, match="trained for 5 epochs"):
        check_strategy(spec(name="el2n", epochs=6), made({**VDCNN, "training": training}).spec, **arguments)


def test_ups_scores_all_rows_once_and_then_mostly_the_uncertain_ones(toy, tmp_path):
    strategy = spec(name="margin", reduce={"kind": "ups", "gamma": 0.2, "temperature": 0.01})
    rounds = rounds_of(toy, tmp_path / "run", strategy, learner=FASTTEXT, sizes=(50, 60, 70))
    scored = [r.selection.lineage.options["scored_rows"] for r in rounds[1:]]
    assert scored[0] == 200 and all(20 <= rows < 60 for rows in scored[1:])
    # Rows that were not scored again keep their last score.
    known = rounds[2].scored.carried
    again = rounds[2].scored.rows.positions_R
    others = np.setdiff1d(np.arange(200), again)
    np.testing.assert_array_equal(known[others], rounds[1].scored.carried[others])
    assert not np.array_equal(known[again], rounds[1].scored.carried[again])
    assert rounds[2].selection.lineage.scoring["rows"] == len(again)


def near(features, of, is_open, count):
    """The `count` nearest open rows of each of some rows."""
    rows = np.flatnonzero(is_open)
    apart = ((features[of][:, None] - features[rows][None]) ** 2).sum(-1)
    return set(rows[np.argsort(apart, axis=1)[:, :count]].ravel())


def test_seals_scores_the_neighbours_of_labelled_rows_only(toy, tmp_path):
    strategy = spec(name="margin", reduce={"kind": "seals", "neighbours": 2, "encoder": EMBEDDING})
    rounds = rounds_of(toy, tmp_path / "run", strategy, learner=EMBEDDING, sizes=(45, 50))
    features = np.load(rounds[1].fitted.encoded.features_file).astype(np.float64)
    reached, is_open = set(), np.ones(200, bool)
    for before, now in itertools.pairwise(rounds):
        is_open[before.selection.positions_K] = False
        older, new = reached & set(np.flatnonzero(is_open)), before.selection.positions_K
        reached = older | near(features, new, is_open, 2)
        assert set(now.scored.rows.positions_R) == reached
        assert set(now.selection.positions_K) <= reached
        assert now.selection.lineage.options["drawn_at_random"] == 0
        # The proxy's own encoder: what it costs is in the round once, and in the first round only.
        place = f"seed-0/*/round-{now.round:03d}"
        cost = seconds(tmp_path / "run", f"{place}/reduced", f"seed-0/*/proxy-{len(before.labels):010d}*/signals-*")
        encoding = seconds(tmp_path / "run", "encoders/*/features") if now.round == 1 else 0
        assert now.scored.seconds == pytest.approx(cost) and now.scoring_seconds == pytest.approx(cost + encoding)
    assert older - near(features, new, is_open, 2) and near(features, new, is_open, 2) - older  # both were needed


def test_seals_with_an_encoder_of_its_own_beside_a_proxy_without_features(toy, tmp_path):
    strategy = spec(name="entropy", reduce={"kind": "seals", "neighbours": 1, "encoder": EMBEDDING})
    rounds = rounds_of(toy, tmp_path / "run", strategy, learner=FASTTEXT, sizes=(100, 105))
    [features_file] = (tmp_path / "run" / "encoders").glob("*/features/embeddings.npy")
    start, is_open = rounds[0].labels.positions_L, np.ones(200, bool)
    is_open[start] = False
    reached = near(np.load(features_file).astype(np.float64), start, is_open, 1)
    options = rounds[1].selection.lineage.options
    # 40 labelled rows have 40 neighbours at most, 60 are picked.
    assert options["scored_rows"] == 60 and options["drawn_at_random"] == 60 - len(reached)
    assert reached < set(rounds[1].scored.rows.positions_R)
    steps = [f"seed-0/*/round-00{k}/reduced" for k in (1, 2)], [f"seed-0/{d}/*/signals-*" for d in ("start", "proxy-*")]
    for number, patterns in enumerate(zip(*steps, strict=True), start=1):
        encoding = seconds(tmp_path / "run", "encoders/*/features") if number == 1 else 0
        assert rounds[number].scoring_seconds == pytest.approx(seconds(tmp_path / "run", *patterns) + encoding)
    assert encoding == 0 and seconds(tmp_path / "run", "encoders/*/features") > 0
    with pytest.raises(RecipeError, match=r"fasttext has no fixed features .* give reduce\.encoder"):
        rounds_of(
            toy, tmp_path / "other", spec(name="entropy", reduce={"kind": "seals"}), learner=FASTTEXT, sizes=(60,)
        )
    arguments = {"num_available": 200, "sizes": [40, 60]}
    with pytest.raises(RecipeError, match=r"there is none for images; use reduce\.kind ups"):
        check_strategy(strategy, made({"kind": "resnet"}).spec, **arguments, grows=True)
    with pytest.raises(RecipeError, match="a core-set has none"):
        check_strategy(strategy, made(FASTTEXT).spec, **arguments, grows=False)


def recipe(toy, **changes):
    values = {
        "mode": "core_set",
        "pool": {"path": str(toy)},
        "test": {},
        "proxy": VDCNN,
        "target": None,
        "strategies": ["forgetting_events"],
        "labeled_sizes": ["30%", "60%"],
        "baselines": [],
    }
    return make_recipe({**values, **changes})


def test_a_core_set_by_training_dynamics_trains_one_recorded_model_for_all_strategies(toy, tmp_path):
    strategies = [
        "forgetting_events",
        "el2n",
        {"name": "el2n", "epochs": 1},
        {"name": "aum", "strata": {"count": 5, "drop_hardest": "20%"}},
        "margin",
    ]
    run_dir = tmp_path / "run"
    result = run_recipe(recipe(toy, strategies=strategies), run_dir, stop_requested=lambda: False)
    models = sorted(path.parent.name for path in (run_dir / "seed-0" / "full").glob("*/model"))
    assert len(models) == 1
    arms = {path.name for path in (run_dir / "seed-0").iterdir()}
    assert arms == {
        "full", "proxy-forgetting_events", "proxy-el2n", "proxy-el2n-1-epochs", "proxy-aum-strata-5", "proxy-margin",
    }  # fmt: skip
    [model] = (run_dir / "seed-0" / "full").iterdir()
    recorded = np.load(model / "model" / "weights" / "dynamics" / "error_norm.npy")
    positions = np.load(model / "model" / "weights" / "dynamics" / "positions.npy")
    expected = positions[np.argsort(-recorded[:, :1].mean(1), kind="stable")[:60]]
    found = Selection.load(run_dir / "seed-0" / "proxy-el2n-1-epochs" / "keep-0000000060" / "selection")
    assert set(found.positions_K) == set(expected) and found.lineage.options == {"epochs": 1}
    assert result["report"] is not None
    trained = json.loads((model / "model" / "step.json").read_text())
    scored = json.loads((model / "signals-el2n-1" / "step.json").read_text())
    assert scored["inputs"] == {
        "model": trained["output"]["fingerprint"], "pool": trained["inputs"]["pool"], "epochs": 1,
    }  # fmt: skip


def test_a_training_that_ended_early_gives_the_epochs_that_it_has_and_tells_so(toy, tmp_path):
    with open_workspace(toy, run_dir=tmp_path / "run") as workspace:
        fitted = fit(workspace, "full", "proxy", made(VDCNN), all_labels(workspace), dynamics=["error_norm"])
        assert score_dynamics(workspace, fitted, spec(name="el2n", epochs=5)).facts == {"epochs_used": 2}
        assert not score_dynamics(workspace, fitted, spec(name="el2n", epochs=2)).facts


@pytest.mark.parametrize("name", [name for name, strategy in STRATEGIES.items() if strategy.kind == "setwise"])
def test_every_setwise_strategy_picks_from_made_up_rows(name):
    warm_up.__wrapped__(STRATEGIES[name])


def test_dynamics_of_a_proxy_that_records_none_are_refused_with_what_to_use(toy, tmp_path):
    with pytest.raises(RecipeError, match="fasttext records no training dynamics, which forgetting_events needs"):
        recipe(toy, proxy=FASTTEXT)
    with pytest.raises(RecipeError, match="active learning picks unlabelled ones"):
        recipe(toy, mode="active_learning")
    with pytest.raises(RecipeError, match="held out as dev set has no training dynamics"):
        recipe(toy, dev=0.1)
    with open_workspace(toy, run_dir=tmp_path / "run") as workspace:
        with pytest.raises(RecipeError, match=r"fasttext records no training dynamics, which el2n needs"):
            list(core_set(workspace, learner="fasttext", strategy="el2n", labeled_sizes=["50%"]))
        with pytest.raises(RecipeError, match="active learning picks unlabelled"):
            list(active_learning(workspace, learner="vdcnn", strategy="el2n", labeled_sizes=["50%"]))
    held_out = pytest.raises(RecipeError, match="held out as dev set has no training dynamics")
    with open_workspace(toy, run_dir=tmp_path / "held", dev=0.1) as workspace, held_out:
        list(core_set(workspace, learner="vdcnn", strategy="el2n", labeled_sizes=["50%"]))


@pytest.mark.parametrize(
    ("strategies", "said"),
    [
        (["margn"], "'margn' is not a strategy; did you mean 'margin'?"),
        (["margin", "margin"], "margin: given twice"),
        (["margin", {"name": "margin", "strata": {}, "label": "Margin"}], "margin and Margin would both write to"),
        (
            [{"name": "margin", "strata": {}}, {"name": "margin", "strata": {"drop_hardest": "0%"}}],
            "two strategies are called margin-strata-50; give one a label",
        ),
        (["margin", {"name": "random", "label": "proxy-margin"}], "margin and proxy-margin would both write to"),
        ([{"name": "random", "label": "full"}], "the label full is the directory of models that are trained on all"),
        (["margin", {"name": "random", "label": "start"}], "the label start is the directory of the start set"),
        ([{"name": "margin", "candidates": 10}], "candidates is for strategies that pick a set, margin scores rows"),
        ([{"name": "typiclust", "strata": {}}], "strata needs a score, typiclust gives none"),
        ([{"name": "typiclust", "prefilter": "margin"}], "prefilter needs candidates"),
        ([{"name": "typiclust", "prefilter": "margin", "reduce": {"kind": "seals"}}], "prefilter needs candidates"),
        ([{"name": "margin", "strata": {}, "reduce": {"kind": "ups"}}], "reduce leaves rows without"),
        (
            [{"name": "margin", "reduce": {"kind": "seals", "encoder": {**EMBEDDING, "refresh": {"at": 9}}}}],
            "by one encoder in all rounds; remove refresh",
        ),
        (
            [{"name": "margin", "reduce": {"kind": "seals", "encoder": {**EMBEDDING, "C": 2.0}}}],
            "encoder.C: only features are asked for, and no head is trained",
        ),
        ([{"name": "typiclust", "prefilter": "random", "candidates": 9}], "prefilter random: expected a score"),
        ([{"name": "margin", "epochs": 3}], "epochs is for strategies of training dynamics"),
        ([{"name": "random", "reduce": {"kind": "ups"}}], "reduce saves scoring"),
        ([{"name": "margin", "reduce": {"kind": "usp"}}], "usp"),
        ([{"name": "margin", "reduce": {"kind": "ups"}}], "a core-set has none"),
        ([{"name": "margin", "strata": {"drop_hardest": 0.1}}], "expected a share from 0% to below 100%"),
        ([{"name": "margin", "label": "a/b"}], "expected letters, digits"),
        ([{"name": "margin", "strata": {"count": 0}}], "greater than or equal to 1|at least 1|>= 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(toy, strategies, said):
    with pytest.raises(RecipeError, match=said):
        recipe(toy, strategies=strategies)


def test_a_label_may_not_be_the_directory_of_a_baseline_and_seals_needs_texts(toy):
    taken = [{"name": "random", "label": "target_selects-margin"}, "margin"]
    changes = {"mode": "active_learning", "target": VDCNN, "baselines": ["target_selects"]}
    with pytest.raises(RecipeError, match="margin would both write to target_selects-margin; change a label"):
        recipe(toy, strategies=taken, **changes)
    images = {"path": "builtin:shapes", "image_column": "image"}
    for reduce in ({"kind": "seals"}, {"kind": "seals", "encoder": EMBEDDING}):
        strategies = [{"name": "margin", "reduce": reduce}]
        with pytest.raises(RecipeError, match="needs features of a frozen encoder, and there is none for images"):
            recipe(toy, mode="active_learning", pool=images, proxy={"kind": "resnet"}, strategies=strategies)
    both = {**images, "text_columns": ["caption"]}
    with pytest.raises(RecipeError, match="text_columns beside image_column"):
        recipe(toy, mode="active_learning", pool=both, proxy={"kind": "resnet"}, strategies=["margin"])


def test_a_label_tells_two_arms_of_one_strategy_apart(toy):
    made = recipe(
        toy,
        strategies=[
            "margin",
            {"name": "margin", "strata": {"count": 5}},
            {"name": "margin", "strata": {"count": 5, "drop_hardest": "0%"}, "label": "all-strata"},
        ],
    )
    assert [s.title for s in made.strategies] == ["margin", "margin-strata-5", "all-strata"]
    values = made.meaning["strategies"]
    assert values[0] == "margin" and make_recipe(made.meaning).fingerprint == made.fingerprint


def test_what_a_prefilter_may_be_is_what_scores_probabilities():
    for name, strategy in STRATEGIES.items():
        good = strategy.kind == "pointwise" and strategy.needs_model and not strategy.uses_dynamics
        values = {"name": "typiclust", "candidates": 5, "prefilter": name}
        if good:
            assert spec(**values).scored_by == name
        else:
            with pytest.raises(ValueError, match="expected a score"):
                spec(**values)
