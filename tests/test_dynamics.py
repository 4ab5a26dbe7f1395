"""Training dynamics: what is recorded is what the training saw, also of a training that was stopped; scores from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from test_training import (
    CLASSES,
    VARIANTS,
    PlainExamples,
    StopAt,
    Toy,
    ToyExamples,
    bits,
    run,
    seeded,
    toy_rows,
    train,
)
from tiny_bert import tiny_bert, token_rows
from torch import Tensor, nn

from svp_nlp.errors import CheckpointError, Interrupted, RunError, SignalError
from svp_nlp.models import resume
from svp_nlp.models.base import FitContext, Labeled, TrainingSpec
from svp_nlp.models.batches import epoch_batches, learning_rate
from svp_nlp.models.dynamics import DYNAMICS, DynamicsRecorder
from svp_nlp.models.fasttext import FastTextSpec
from svp_nlp.models.finetuning import fine_tune
from svp_nlp.models.transformer import TransformerSpec
from svp_nlp.models.vdcnn import VDCNNSpec
from svp_nlp.strategies import STRATEGIES, select


def by_hand(logits_BC: np.ndarray, labels_B: np.ndarray) -> dict[str, np.ndarray]:
    """The four values of each row, from the formulas, in float64."""
    logits_BC = logits_BC.astype(np.float64)
    rows_B = np.arange(len(labels_B))
    probs_BC = np.exp(logits_BC - logits_BC.max(1, keepdims=True))
    probs_BC /= probs_BC.sum(1, keepdims=True)
    others_BC = logits_BC.copy()
    others_BC[rows_B, labels_B] = -np.inf
    return {
        "correct": logits_BC.argmax(1) == labels_B,
        "logit_margin": logits_BC[rows_B, labels_B] - others_BC.max(1),
        "gold_probability": probs_BC[rows_B, labels_B],
        "error_norm": np.linalg.norm(probs_BC - np.eye(logits_BC.shape[1])[labels_B], axis=1),
    }


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    assert list(found) == list(DYNAMICS)
    for name, values in expected.items():
        assert found[name].dtype == (np.bool_ if name == "correct" else np.float32)
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=tolerance, err_msg=name)


def same(one: DynamicsRecorder, two: DynamicsRecorder) -> bool:
    left, right = one.signals(), two.signals()
    return list(left) == list(right) and all(
        left[name].shape == right[name].shape and left[name].tobytes() == right[name].tobytes() for name in left
    )


class Watched(Toy):
    """Remembers the logits of every training forward pass beside the rows that they are of."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []

    def forward(self, tokens: Tensor, rows: Tensor) -> Any:
        logits_BC = super().forward(tokens)
        if self.training:
            self.seen.append((rows.numpy().copy(), logits_BC.detach().float().numpy().copy()))
        return logits_BC


class NumberedExamples(ToyExamples):
    """Tells the model which rows it sees."""

    def collate(self, rows_B: np.ndarray, *, rng: np.random.Generator | None) -> dict[str, Tensor]:
        return {**super().collate(rows_B, rng=rng), "rows": torch.from_numpy(rows_B)}


def numbered(num_rows: int, **options: Any) -> tuple[ToyExamples, np.ndarray]:
    examples, labels_L = toy_rows(num_rows, **options)
    return NumberedExamples(examples.tokens_NT, examples.lengths_N), labels_L


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_recorded_is_what_the_training_pass_said_of_each_row_in_each_epoch(variant: str) -> None:
    spec, options = VARIANTS[variant]
    num_rows, grouped = options.get("num_rows", 29), options.get("grouped", True)
    with seeded(3):
        model = Watched()
    examples, labels_L = numbered(num_rows, grouped=grouped)
    recorder = DynamicsRecorder()
    result = train(
        model, examples, labels_L, positions_L=1000 + np.arange(num_rows),
        dev=numbered(40, grouped=grouped, seed=1) if options.get("with_dev", True) else None,
        training=spec, seed=3, context=FitContext(dynamics=recorder),
    )  # fmt: skip
    epochs = result.epochs_run
    assert recorder.epochs == epochs
    assert recorder.positions_L.tolist() == list(range(1000, 1000 + num_rows))
    rows = np.concatenate([rows_B for rows_B, _ in model.seen]).reshape(epochs, num_rows)
    logits = np.concatenate([logits_BC for _, logits_BC in model.seen]).reshape(epochs, num_rows, CLASSES)
    order = rows.argsort(axis=1)
    for epoch in range(epochs):
        assert rows[epoch][order[epoch]].tolist() == list(range(num_rows))
        expected = by_hand(logits[epoch][order[epoch]], labels_L)
        assert_close({name: values[:, epoch] for name, values in recorder.signals().items()}, expected)
    np.testing.assert_array_equal(recorder.correct_EN.sum(1) / num_rows, [e["train_accuracy"] for e in result.history])
    for name, values_EN in zip(
        DYNAMICS,
        (recorder.correct_EN, recorder.margin_EN, recorder.probability_EN, recorder.error_EN),
        strict=True,
    ):
        np.testing.assert_array_equal(values_EN.T, recorder.signals()[name])
    # Recording changes nothing.
    assert bits(model) == bits(run(spec, **options)[0])


@pytest.mark.parametrize("parts", [1, 3])
def test_recorded_values_are_those_of_a_plain_loop_before_its_update(parts: int) -> None:
    """31 rows in batches of 9: the last batch is short; label smoothing has no say in the values."""

    def build() -> Toy:
        with seeded(0):
            model = Toy(norm=False)
        model.dropout = nn.Identity()
        return model

    examples, labels_L = toy_rows(31)
    spec = TrainingSpec(num_train_epochs=3, learning_rate=0.3, global_batch_size=9, label_smoothing=0.1,
                        gradient_accumulation_steps=parts)  # fmt: skip
    recorder = DynamicsRecorder()
    train(build(), PlainExamples(examples.tokens_NT, None), labels_L, positions_L=np.arange(31), dev=None,
          training=spec, seed=0, context=FitContext(dynamics=recorder))  # fmt: skip
    model, step = build(), 0
    logits_ELC = np.empty((3, 31, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, weight_decay=1e-4)
    for epoch in range(3):
        for rows_B in epoch_batches(31, seed=0, epoch=epoch, batch_size=9):
            logits_BC = model(torch.from_numpy(examples.tokens_NT[rows_B]))
            logits_ELC[epoch, rows_B] = logits_BC.detach().numpy()
            optimizer.param_groups[0]["lr"] = learning_rate(spec, step=step, steps_per_epoch=4)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits_BC, torch.from_numpy(labels_L[rows_B]), label_smoothing=0.1).backward()
            optimizer.step()
            step += 1
    for epoch in range(3):
        found = {name: values[:, epoch] for name, values in recorder.signals().items()}
        assert_close(found, by_hand(logits_ELC[epoch], labels_L), 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_exact_where_the_model_is_sure_and_in_any_precision(dtype: torch.dtype) -> None:
    logits_BC = torch.tensor([[15, 0, 0], [0, 15, 0], [1, 1, 1], [-2, 0.5, 3], [60, 0, -60]], dtype=dtype)
    labels_B = torch.tensor([0, 0, 1, 2, 2])
    recorder = DynamicsRecorder()
    recorder.begin(np.arange(5), torch.device("cpu"))
    recorder.record(np.arange(5), logits_BC.requires_grad_(), labels_B)
    recorder.end_epoch(lambda value: value)
    found = {name: values[:, 0] for name, values in recorder.signals().items()}
    expected = by_hand(logits_BC.detach().float().numpy(), labels_B.numpy())
    assert_close(found, expected)
    # 7.5e-7, which one minus the rounded probability would get wrong by 3 %.
    np.testing.assert_allclose(found["error_norm"][0], expected["error_norm"][0], rtol=1e-5)


RESUMED = [name for name in VARIANTS if name != "bf16"]


@pytest.mark.parametrize("variant", RESUMED)
def test_a_training_stopped_at_any_step_and_resumed_has_recorded_the_same_bits(variant: str, tmp_path: Path) -> None:
    spec, options = VARIANTS[variant]
    whole = DynamicsRecorder()
    _, result = run(spec, context=FitContext(dynamics=whole), **options)
    for step in range(result.steps):
        directory = tmp_path / str(step)
        with pytest.raises(Interrupted):
            stopped = FitContext(directory, stop_requested=StopAt(step), dynamics=DynamicsRecorder())
            run(spec, context=stopped, **options)
        resumed = DynamicsRecorder()
        run(spec, context=FitContext(directory, dynamics=resumed), **options)
        assert same(resumed, whole), step
    assert whole.epochs == result.epochs_run


def test_a_recorder_is_used_again_and_stopping_after_every_step_records_the_same_bits(tmp_path: Path) -> None:
    whole, resumed = DynamicsRecorder(), DynamicsRecorder()
    _, result = run(context=FitContext(dynamics=whole))
    for _ in range(result.steps - 1):
        with pytest.raises(Interrupted):
            run(context=FitContext(tmp_path, stop_requested=StopAt(1), dynamics=resumed))
    run(context=FitContext(tmp_path, dynamics=resumed))
    assert same(resumed, whole)


def test_a_training_that_starts_over_on_other_hardware_forgets_what_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, again = DynamicsRecorder(), DynamicsRecorder()
    run(context=FitContext(dynamics=whole))
    found = resume._hardware
    monkeypatch.setattr(resume, "_hardware", lambda fit: {**found(fit), "device": "other"})
    with pytest.raises(Interrupted):
        run(context=FitContext(tmp_path, stop_requested=StopAt(5), dynamics=again))
    monkeypatch.setattr(resume, "_hardware", found)
    run(context=FitContext(tmp_path, dynamics=again))
    assert same(again, whole)


def test_a_checkpoint_without_what_is_to_be_recorded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(context=FitContext(tmp_path, stop_requested=StopAt(2)))
    (saved,) = tmp_path.iterdir()
    assert not (saved / "dynamics.safetensors").exists()  # a training that records nothing pays nothing
    for names in (DYNAMICS, ("correct",)):
        with pytest.raises(CheckpointError, match="recorded dynamics differ"):
            run(context=FitContext(tmp_path, dynamics=DynamicsRecorder(names)))


def test_only_the_signals_that_are_asked_for_are_kept() -> None:
    whole, some = DynamicsRecorder(), DynamicsRecorder(("error_norm", "correct"))
    run(context=FitContext(dynamics=whole))
    run(context=FitContext(dynamics=some))
    assert list(some.signals()) == ["correct", "error_norm"]
    for name, values in some.signals().items():
        np.testing.assert_array_equal(values, whole.signals()[name])


def test_a_row_that_is_seen_twice_or_never_is_noticed() -> None:
    for rows in ([0, 1, 1], [0, 1]):
        recorder = DynamicsRecorder()
        recorder.begin(np.arange(3), torch.device("cpu"))
        for row in rows:
            recorder.record(np.array([row]), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
        with pytest.raises(AssertionError, match="a row twice or not at all"):
            recorder.end_epoch(lambda value: value)


def test_what_is_saved_is_loaded_and_damage_is_said(tmp_path: Path) -> None:
    recorder = DynamicsRecorder(("correct", "logit_margin"))
    run(context=FitContext(dynamics=recorder))
    directory = tmp_path / "dynamics"
    for _ in range(2):  # the second time over the first
        recorder.save(directory)
    assert sorted(path.name for path in directory.iterdir()) == ["correct.npy", "logit_margin.npy", "positions.npy"]
    assert np.load(directory / "correct.npy").shape == (29, 3)
    loaded = DynamicsRecorder.load(directory)
    assert same(loaded, recorder)
    assert loaded.positions_L.tolist() == recorder.positions_L.tolist()
    np.testing.assert_array_equal(loaded.margin_EN, recorder.margin_EN)
    np.save(directory / "correct.npy", np.zeros((28, 3), bool))
    with pytest.raises(RunError, match=r"29 rows have shapes \[\(28, 3\), \(29, 3\)\]"):
        DynamicsRecorder.load(directory)
    (directory / "correct.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(RunError, match="damaged"):
        DynamicsRecorder.load(directory)
    (directory / "positions.npy").unlink()
    with pytest.raises(RunError, match=r"positions\.npy is missing"):
        DynamicsRecorder.load(directory)


def test_of_a_head_and_then_everything_only_the_second_training_is_recorded() -> None:
    with seeded(0):
        model = tiny_bert()
    examples, labels_L = token_rows(12)
    recorder = DynamicsRecorder()
    labeled = Labeled(pa.table({"text": ["a"] * 12}), labels_L, np.arange(12), ("a", "b", "c"))
    spec = TrainingSpec(num_train_epochs=3, global_batch_size=6)
    result = fine_tune(model, examples, labeled, dev=None, spec=spec, seed=0, context=FitContext(dynamics=recorder),
                       what="it", head_first_epochs=2)  # fmt: skip
    assert (result.epochs_run, recorder.epochs) == (5, 3)
    accuracies = [event["train_accuracy"] for event in result.history[2:]]
    np.testing.assert_array_equal(recorder.correct_EN.mean(1), accuracies)


def test_learners_that_train_in_epochs_say_that_they_record_dynamics() -> None:
    assert VDCNNSpec.records_dynamics
    assert TransformerSpec.records_dynamics
    assert not FastTextSpec.records_dynamics
    assert "records_dynamics" not in VDCNNSpec().model_dump()


def test_forgetting_events_count_from_right_to_wrong_and_never_right_is_above_all() -> None:
    cases = {"11111": 0, "01111": 0, "11110": 1, "10101": 2, "01010": 2, "10001": 1, "00000": np.inf, "00001": 0}
    correct = np.array([[letter == "1" for letter in text] for text in cases])
    np.testing.assert_array_equal(STRATEGIES["forgetting_events"](correct), list(cases.values()))
    picked = select("forgetting_events", {"correct": correct}, budget=3).positions_K
    assert picked[0] == 6
    assert set(picked[1:]) == {3, 4}
    one_epoch = STRATEGIES["forgetting_events"](correct[:, :1])
    np.testing.assert_array_equal(one_epoch, np.where(correct[:, 0], 0, np.inf))


def test_rows_with_equal_counts_are_not_picked_in_the_order_of_the_file() -> None:
    correct = np.ones((1000, 4), bool)
    picked = select("forgetting_events", {"correct": correct}, budget=100, seed=1).positions_K
    assert 300 < picked.mean() < 700


FORMULAS = {
    "forgetting_events": lambda x: np.where(x.any(1), (x[:, :-1] & ~x[:, 1:]).sum(1), np.inf),
    "aum": lambda x: -x.mean(1),
    "el2n": lambda x: x.mean(1),
    "hard_to_learn": lambda x: 1 - x.mean(1),
    "ambiguous": lambda x: x.std(1),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_scores_are_the_formulas_over_several_blocks_and_read_only_files(
    name: str, epochs: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(epochs)
    values = rng.random((20_000, epochs), dtype=np.float32)
    values = values > 0.5 if name == "forgetting_events" else values
    np.save(tmp_path / "signal.npy", values)
    found = STRATEGIES[name](np.load(tmp_path / "signal.npy", mmap_mode="r"))
    assert found.dtype == np.float32
    exact = values if values.dtype == np.bool_ else values.astype(np.float64)
    np.testing.assert_allclose(found, FORMULAS[name](exact), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_signals_that_cannot_be_are_refused_with_their_place(name: str) -> None:
    strategy = STRATEGIES[name]
    (signal,) = strategy.signals
    with pytest.raises(SignalError, match=rf"{signal}: expected .* \[9, 0\]"):
        strategy(np.zeros((9, 0), bool if signal == "correct" else np.float32))
    with pytest.raises(SignalError, match=rf"{signal}: expected .* found int64"):
        strategy(np.zeros((9, 3), np.int64))
    if signal == "correct":
        return
    bad_values = [np.nan, np.inf] if signal == "logit_margin" else [np.nan, np.inf, -0.1, 1.6]
    for bad in bad_values:
        values = np.zeros((70_000, 20), np.float32)
        values[65_999, 7] = bad
        with pytest.raises(SignalError, match=rf"{signal}: position 65999 holds"):
            strategy(values)


def test_hard_ambiguous_and_easy_rows_are_told_apart() -> None:
    epochs = np.arange(6)
    gold = np.stack([np.full(6, 0.95), 0.1 + 0.16 * epochs, np.full(6, 0.05), np.full(6, 0.5)]).astype(np.float32)
    assert select("hard_to_learn", {"gold_probability": gold}, budget=1).positions_K.tolist() == [2]
    assert select("ambiguous", {"gold_probability": gold}, budget=1).positions_K.tolist() == [1]
