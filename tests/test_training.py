"""The training loop: exact resume at every step, order as a pure function, clear errors. Toy model, toy rows."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_bert import UnusedPooler, tiny_bert, token_rows
from torch import Tensor, nn

from svp_nlp.errors import CheckpointError, Interrupted, ModelError, TrainingError
from svp_nlp.models.base import FitContext, ScheduleStage, TrainingSpec
from svp_nlp.models.batches import epoch_batches
from svp_nlp.models.steps import has_unused_parameters, make_optimizer
from svp_nlp.models.training import TrainingResult, predict, seeded, train

VOCABULARY, CLASSES = 30, 3


class Toy(nn.Module):
    """All that makes resuming hard: dropout, batch norm with running statistics, an embedding."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(VOCABULARY, 8, mode="mean", padding_idx=0)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor, embeddings: bool = False) -> Any:
        features_BD = self.dropout(torch.relu(self.norm(self.embedding(tokens))))
        logits_BC = self.output(features_BD)
        return (logits_BC, features_BD) if embeddings else logits_BC


@dataclasses.dataclass
class ToyExamples:
    """Rows of tokens; in training each is hidden with probability 0.1, as an augmentation."""

    tokens_NT: np.ndarray
    lengths_N: np.ndarray | None

    def __len__(self) -> int:
        return len(self.tokens_NT)

    def collate(self, rows_B: np.ndarray, *, rng: np.random.Generator | None) -> dict[str, Tensor]:
        tokens_BT = self.tokens_NT[rows_B]
        if self.lengths_N is not None:
            tokens_BT = tokens_BT[:, : int(self.lengths_N[rows_B].max())]
        if rng is not None:
            tokens_BT = np.where(rng.random(tokens_BT.shape) < 0.1, 0, tokens_BT)
        return {"tokens": torch.from_numpy(tokens_BT)}


def toy_rows(num_rows: int, *, grouped: bool = False, seed: int = 0) -> tuple[ToyExamples, np.ndarray]:
    """The class decides which third of the vocabulary most tokens come from."""
    rng = np.random.default_rng(seed)
    labels_L = rng.integers(CLASSES, size=num_rows)
    tokens_NT = 1 + rng.integers(9, size=(num_rows, 6)) + 9 * labels_L[:, None]
    noise_NT = rng.random(tokens_NT.shape) < 0.4
    tokens_NT[noise_NT] = rng.integers(1, 28, size=int(noise_NT.sum()))
    lengths_N = rng.integers(1, 7, size=num_rows)
    tokens_NT[np.arange(6) >= lengths_N[:, None]] = 0
    return ToyExamples(tokens_NT, lengths_N if grouped else None), labels_L


SPEC = TrainingSpec(
    optimizer="adamw", num_train_epochs=3, learning_rate=0.02, lr_scheduler="cosine", warmup_ratio=0.2,
    label_smoothing=0.1, global_batch_size=8, gradient_accumulation_steps=2, max_grad_norm=0.5, eval_batch_size=16,
)  # fmt: skip


def run(
    spec: TrainingSpec = SPEC,
    *,
    context: FitContext | None = None,
    num_rows: int = 29,
    grouped: bool = True,
    with_dev: bool = True,
    seed: int = 3,
    model: nn.Module | None = None,
    labels_L: np.ndarray | None = None,
) -> tuple[nn.Module, TrainingResult]:
    if model is None:
        with seeded(seed):
            model = Toy()
    examples, own_L = toy_rows(num_rows, grouped=grouped)
    result = train(
        model, examples, own_L if labels_L is None else labels_L, positions_L=1000 + np.arange(num_rows),
        dev=toy_rows(40, grouped=grouped, seed=1) if with_dev else None,
        training=spec, seed=seed, context=context or FitContext(),
    )  # fmt: skip
    return model, result


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def untimed(result: TrainingResult) -> Any:
    clocks = {"seconds", "dev_seconds", "examples_per_second"}
    history = [{key: value for key, value in event.items() if key not in clocks} for event in result.history]
    return result.epochs_run, result.best_epoch, result.steps, history


class StopAt:
    """Asks to stop when it is asked for the n-th time."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


VARIANTS = {
    "adamw, cosine, dev, grouped": (SPEC, {}),
    "sgd, stages, last epoch": (
        TrainingSpec(
            optimizer="sgd",
            schedule=(ScheduleStage(epochs=1, learning_rate=0.2), ScheduleStage(epochs=2, learning_rate=0.05)),
            global_batch_size=7,
        ),
        {"with_dev": False, "grouped": False},
    ),
    "early stop": (
        SPEC.model_copy(update={"num_train_epochs": 9, "early_stopping_patience": 2, "learning_rate": 1e-6}),
        {"num_rows": 17},
    ),
    "bf16": (SPEC.model_copy(update={"mixed_precision": "bf16", "num_train_epochs": 2}), {"num_rows": 17}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_stopped_at_any_step_and_resumed_has_the_same_bits(variant: str, tmp_path: Path) -> None:
    spec, options = VARIANTS[variant]
    model, result = run(spec, **options)
    assert result.steps >= 4
    for step in range(result.steps):
        directory = tmp_path / str(step)
        with pytest.raises(Interrupted, match="same command"):
            run(spec, context=FitContext(directory, stop_requested=StopAt(step)), **options)
        resumed, again = run(spec, context=FitContext(directory), **options)
        assert bits(resumed) == bits(model), step
        assert untimed(again) == untimed(result)


def test_stopping_after_every_single_step_still_finishes_with_the_same_bits(tmp_path: Path) -> None:
    model, result = run()
    for _ in range(result.steps - 1):
        with pytest.raises(Interrupted):
            run(context=FitContext(tmp_path, stop_requested=StopAt(1)))
    # One step is left.
    resumed, again = run(context=FitContext(tmp_path))
    assert bits(resumed) == bits(model)
    assert untimed(again) == untimed(result)


def test_checkpoints_by_the_clock_do_not_change_the_result(tmp_path: Path) -> None:
    model, result = run()
    often, again = run(SPEC.model_copy(update={"checkpoint_every_s": 0}), context=FitContext(tmp_path))
    assert bits(often) == bits(model)
    assert untimed(again) == untimed(result)
    # None after the last step: the caller is about to save the model.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-{step:08d}" for step in (result.steps - 2, result.steps - 1)
    ]


CRASHING = """
import os, sys, tempfile
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training import SPEC, bits, run
from svp_nlp import files
from svp_nlp.models.base import FitContext

spec = SPEC.model_copy(update=dict(checkpoint_every_s=0, num_train_epochs=2))
model, result = run(spec)
for write in range(1, result.steps):
    with tempfile.TemporaryDirectory() as name:
        context = FitContext(Path(name))
        child = os.fork()  # cheap: torch is loaded, and with one thread there is nothing that a fork could break
        if child == 0:
            os.environ["SVP_CRASH_AT"] = str(write)
            files._writes = 0
            run(spec, context=context)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137, write
        assert any(path.name.startswith(".tmp-") for path in Path(name).iterdir()), write
        resumed, _ = run(spec, context=context)
        assert bits(resumed) == bits(model), write
"""


def test_a_training_killed_at_any_write_resumes_to_the_same_bits() -> None:
    script = CRASHING.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("write", [1, 2, 5])
def test_a_full_disk_stops_with_a_clear_error_and_loses_nothing(
    write: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svp_nlp import files

    monkeypatch.setattr(files, "_writes", 0)
    monkeypatch.setenv("SVP_ENOSPC_AT", str(write))
    spec = SPEC.model_copy(update={"checkpoint_every_s": 0})
    with pytest.raises(CheckpointError, match="No space left on device"):
        run(spec, context=FitContext(tmp_path))
    monkeypatch.delenv("SVP_ENOSPC_AT")
    assert len(list(tmp_path.iterdir())) == min(write - 1, 2)
    resumed, _ = run(spec, context=FitContext(tmp_path))
    assert bits(resumed) == bits(run()[0])


def test_a_damaged_checkpoint_is_passed_over_and_the_bits_are_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = SPEC.model_copy(update={"checkpoint_every_s": 0})
    with pytest.raises(Interrupted):
        run(spec, context=FitContext(tmp_path, stop_requested=StopAt(6)))
    newest = max(tmp_path.iterdir())
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (newest / "model.safetensors").write_bytes(data)
    resumed, _ = run(spec, context=FitContext(tmp_path))
    assert newest.name in caplog.text
    assert "model.safetensors" in caplog.text
    assert bits(resumed) == bits(run()[0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed"),
        ({"spec": SPEC.model_copy(update={"learning_rate": 0.5})}, "training options"),
        ({"num_rows": 30}, "labels"),
        ({"model": Toy(norm=False)}, "model parameters"),
        ({"with_dev": False}, "dev labels"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(context=FitContext(tmp_path, stop_requested=StopAt(2)))
    with pytest.raises(CheckpointError, match=named):
        run(context=FitContext(tmp_path), **change)


def test_torch_generator_of_the_caller_is_untouched_and_has_no_say() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, _ = run()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    assert bits(run()[0]) == bits(first)
    assert bits(run(seed=4)[0]) != bits(first)


def test_accumulation_gives_the_gradient_of_the_whole_batch() -> None:
    def weights(parts: int) -> dict[str, Tensor]:
        spec = TrainingSpec(num_train_epochs=2, global_batch_size=9, gradient_accumulation_steps=parts)
        with seeded(0):
            model = Toy(norm=False)
        model.dropout = nn.Identity()
        examples, labels_L = toy_rows(31)
        examples = PlainExamples(examples.tokens_NT, None)
        train(model, examples, labels_L, positions_L=np.arange(31), dev=None, training=spec, seed=0,
              context=FitContext())  # fmt: skip
        return model.state_dict()

    whole = weights(1)
    for parts in (2, 3, 50):
        for name, value in weights(parts).items():
            torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-6)


class PlainExamples(ToyExamples):
    """Without augmentation."""

    def collate(self, rows_B: np.ndarray, *, rng: np.random.Generator | None) -> dict[str, Tensor]:
        return super().collate(rows_B, rng=None)


def test_one_sgd_step_is_the_textbook_formula() -> None:
    with seeded(0):
        model = Toy(norm=False)
    model.dropout = nn.Identity()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    examples, labels_L = toy_rows(6)
    loss = nn.functional.cross_entropy(
        model(torch.from_numpy(examples.tokens_NT)), torch.from_numpy(labels_L), label_smoothing=0.2
    )
    gradients = dict(zip(before, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    spec = TrainingSpec(
        num_train_epochs=1, learning_rate=0.1, lr_scheduler="constant", weight_decay=0.01, label_smoothing=0.2
    )
    result = train(model, PlainExamples(examples.tokens_NT, None), labels_L, positions_L=np.arange(6), dev=None,
                   training=spec, seed=0, context=FitContext())  # fmt: skip
    assert result.steps == 1
    assert result.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, value in model.named_parameters():
        expected = before[name] - 0.1 * (gradients[name] + 0.01 * before[name])
        torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-6)


def test_training_learns_and_tells_each_epoch() -> None:
    events: list[dict[str, Any]] = []
    spec = SPEC.model_copy(update={"num_train_epochs": 8, "learning_rate": 0.05})
    model, result = run(spec, num_rows=200, context=FitContext(on_event=events.append))
    assert tuple(events) == result.history
    assert [event["epoch"] for event in events] == list(range(1, 9))
    assert events[-1]["loss"] < events[0]["loss"]
    assert events[-1]["dev_accuracy"] > 0.6
    assert result.steps == 8 * 25
    assert 0 < sum(event["seconds"] for event in events) <= result.seconds
    assert not model.training
    assert json.loads(json.dumps(result.report))["history"] == events


def test_the_best_epoch_on_dev_is_kept_and_the_first_of_equals() -> None:
    spec = SPEC.model_copy(update={"num_train_epochs": 6, "learning_rate": 0.05})
    model, result = run(spec)
    accuracies = [event["dev_accuracy"] for event in result.history]
    assert result.best_epoch == 1 + int(np.argmax(accuracies))
    examples, labels_L = toy_rows(40, grouped=True, seed=1)
    probs_NC = predict(model, examples, batch_size=16).probs_BC
    assert (probs_NC.argmax(1) == labels_L).mean() == max(accuracies)


def test_early_stop_waits_for_patience_epochs_after_the_best() -> None:
    _, result = run(VARIANTS["early stop"][0])
    assert result.epochs_run == result.best_epoch + 2 < 9


class Poisoned(ToyExamples):
    """One row gives NaN."""

    def collate(self, rows_B: np.ndarray, *, rng: np.random.Generator | None) -> dict[str, Tensor]:
        return {**super().collate(rows_B, rng=None), "poison": torch.from_numpy(rows_B == 5)}


class PoisonedToy(Toy):
    def forward(self, tokens: Tensor, poison: Tensor) -> Any:
        return super().forward(tokens) + torch.where(poison, torch.nan, 0.0)[:, None]


def test_a_loss_that_is_not_a_number_names_step_rate_and_rows(tmp_path: Path) -> None:
    examples, labels_L = toy_rows(20)
    positions_L = 1000 + np.arange(20)
    batches = epoch_batches(20, seed=0, epoch=0, batch_size=4)
    step = next(number for number, rows_B in enumerate(batches) if 5 in rows_B)
    spec = TrainingSpec(global_batch_size=4, lr_scheduler="constant", checkpoint_every_s=0)
    named = ", ".join(str(position) for position in positions_L[batches[step]])
    expected = rf"VDCNN: loss is nan at step {step + 1} \(epoch 1, learning rate 0.01\).* positions {named};"
    with pytest.raises(TrainingError, match=expected):
        train(PoisonedToy(), Poisoned(examples.tokens_NT, None), labels_L, positions_L=positions_L, dev=None,
              training=spec, seed=0, context=FitContext(tmp_path), what="VDCNN")  # fmt: skip
    # No checkpoint holds what came of it.
    assert max(path.name for path in tmp_path.iterdir()) <= f"step-{step:08d}"


def test_weights_that_overflow_in_the_last_step_are_an_error() -> None:
    with pytest.raises(TrainingError, match="not finite after epoch 1"):
        run(TrainingSpec(num_train_epochs=1, learning_rate=1e38, lr_scheduler="constant", weight_decay=1e38))


def test_what_cannot_be_trained_is_refused_in_one_line() -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("no labelled row", {"num_rows": 0}),
        ("single row", {"num_rows": 1, "with_dev": False}),
        ("needs a dev set", {"spec": VARIANTS["early stop"][0], "with_dev": False}),
        ("go up to 3, the model has 3 classes", {"labels_L": np.full(29, 3)}),
        ("row 4 has label -1", {"labels_L": np.where(np.arange(29) == 4, -1, 0)}),
        ("fp16 needs a GPU", {"spec": SPEC.model_copy(update={"mixed_precision": "fp16"})}),
    ]
    for message, options in cases:
        with pytest.raises(TrainingError, match=message) as caught:
            run(**options)
        assert "\n" not in str(caught.value)


def test_out_of_memory_names_the_rows_and_what_to_set() -> None:
    class Hungry(Toy):
        def forward(self, tokens: Tensor, embeddings: bool = False) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(TrainingError, match=r"\d rows of up to 6 tokens at once did not fit; .*steps to 4"):
        run(model=Hungry())
    # Two rows are not cut further: then only shorter texts, or less memory for each, help.
    with pytest.raises(TrainingError, match="2 rows of up to 6 tokens at once did not fit; set a lower max_length"):
        run(SPEC.model_copy(update={"gradient_accumulation_steps": 50}), model=Hungry(), num_rows=28)
    with pytest.raises(TrainingError, match="eval_batch_size below 7"):
        predict(Hungry(), toy_rows(9)[0], batch_size=7)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7])
def test_few_rows_and_a_single_class_are_trained(num_rows: int) -> None:
    _, result = run(model=Toy(norm=False), num_rows=num_rows, labels_L=np.zeros(num_rows, dtype=np.int64))
    assert result.steps == 3
    assert result.history[-1]["loss"] < result.history[0]["loss"] + 0.5


def test_adamw_decays_what_the_trainer_of_transformers_decays() -> None:
    from transformers import (
        AutoModelForSequenceClassification,
        DebertaV2Config,
        DistilBertConfig,
        RobertaConfig,
        Trainer,
    )

    sizes: dict[str, Any] = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    more: dict[str, Any] = {"intermediate_size": 8, "max_position_embeddings": 16, "relative_attention": True}
    configs = [RobertaConfig(**sizes, **more), DebertaV2Config(**sizes, **more),
               DistilBertConfig(vocab_size=20, dim=8, hidden_dim=8, n_layers=1, n_heads=2)]  # fmt: skip
    for model in [AutoModelForSequenceClassification.from_config(config) for config in configs] + [tiny_bert(), Toy()]:
        if isinstance(model, Toy):
            model.norm = nn.LayerNorm(8)  # the Trainer decays the scales of batch norm
        names = {id(value): name for name, value in model.named_parameters()}
        decayed = {
            names[id(value)]
            for group in make_optimizer(model, SPEC).param_groups
            for value in group["params"]
            if group["weight_decay"]
        }
        assert decayed == set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]


def test_a_parameter_learns_at_its_own_rate_and_a_frozen_one_not_at_all() -> None:
    def change(scales: dict[str, float] | None, frozen: str | None = None) -> dict[str, Tensor]:
        with seeded(0):
            model = Toy(norm=False)
        model.dropout = nn.Identity()
        for name, value in model.named_parameters():
            value.requires_grad_(name != frozen)
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        examples, labels_L = toy_rows(6)
        spec = TrainingSpec(num_train_epochs=1, learning_rate=0.1, lr_scheduler="constant")
        result = train(model, PlainExamples(examples.tokens_NT, None), labels_L, positions_L=np.arange(6), dev=None,
                       training=spec, seed=0, context=FitContext(), lr_scales=scales)  # fmt: skip
        assert result.history[0]["learning_rate"] == 0.1
        return {name: value.detach() - before[name] for name, value in model.named_parameters()}

    whole, scaled = change(None), change({"embedding.weight": 0.5, "output.bias": 0.0})
    assert all(value.abs().max() > 0 for value in whole.values())
    torch.testing.assert_close(scaled["embedding.weight"], 0.5 * whole["embedding.weight"])
    torch.testing.assert_close(scaled["output.weight"], whole["output.weight"])
    assert not scaled["output.bias"].any()
    part = change(None, frozen="embedding.weight")
    assert not part["embedding.weight"].any()
    assert torch.equal(part["output.weight"], whole["output.weight"])
    with pytest.raises(TrainingError, match="lr_scales names 'nothing'"):
        change({"nothing": 1.0})
    with pytest.raises(TrainingError, match="unfreeze one"):
        run(model=Toy().requires_grad_(False))


def frozen_toy() -> Toy:
    with seeded(3):
        model = Toy()
    model.embedding.requires_grad_(False)
    return model


def test_frozen_weights_are_not_in_the_checkpoint_and_must_be_the_same_again(tmp_path: Path) -> None:
    whole, _ = run(model=frozen_toy())
    with pytest.raises(Interrupted):
        run(model=frozen_toy(), context=FitContext(tmp_path, stop_requested=StopAt(6)))
    (saved,) = tmp_path.iterdir()
    assert load_file(saved / "model.safetensors").keys() == whole.state_dict().keys() - {"embedding.weight"}
    other = frozen_toy()
    other.embedding.weight.data[3, 3] += 1e-6
    with pytest.raises(CheckpointError, match="frozen weights differ"):
        run(model=other, context=FitContext(tmp_path))
    with pytest.raises(CheckpointError, match="trained parameters"):
        run(context=FitContext(tmp_path))
    resumed, _ = run(model=frozen_toy(), context=FitContext(tmp_path))
    assert bits(resumed) == bits(whole)


def test_few_rows_are_trained_for_enough_steps_and_the_report_says_so() -> None:
    spec = SPEC.model_copy(update={"num_train_epochs": 2, "min_train_steps": 11, "warmup_ratio": 0.25})
    _, result = run(spec, num_rows=29)
    assert (result.epochs_planned, result.epochs_run, result.steps, result.steps_per_epoch) == (3, 3, 12, 4)
    assert result.report["warmup_steps"] == 3
    _, result = run(spec, num_rows=200)
    assert (result.epochs_planned, result.steps, result.steps_per_epoch) == (2, 50, 25)


@pytest.mark.parametrize("name", ["device", "processes", "sharded"])
def test_a_training_on_other_hardware_starts_from_its_beginning_and_says_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from svp_nlp.models import resume

    found = resume._hardware
    monkeypatch.setattr(resume, "_hardware", lambda fit: {**found(fit), name: "other"})
    with pytest.raises(Interrupted):
        run(context=FitContext(tmp_path, stop_requested=StopAt(5)))
    monkeypatch.setattr(resume, "_hardware", found)
    again, result = run(SPEC.model_copy(update={"checkpoint_every_s": 0}), context=FitContext(tmp_path))
    (line,) = caplog.messages
    assert "starts from its beginning, not from step 5" in line
    assert f"{name} other -> " in line
    whole, expected = run()
    assert bits(again) == bits(whole)
    assert untimed(result) == untimed(expected)
    assert all(json.loads((path / "state.json").read_text())["hardware"][name] != "other"
               for path in tmp_path.iterdir())  # fmt: skip


def test_another_version_of_torch_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from svp_nlp.models import resume

    found = resume._hardware
    monkeypatch.setattr(resume, "_hardware", lambda fit: {**found(fit), "torch": "2.6.0"})
    with pytest.raises(Interrupted):
        run(context=FitContext(tmp_path, stop_requested=StopAt(5)))
    monkeypatch.setattr(resume, "_hardware", found)
    assert bits(run(context=FitContext(tmp_path))[0]) == bits(run()[0])
    assert "goes on with torch 2.6.0 -> " in caplog.text


def run_bert(context: FitContext | None = None, **changes: Any) -> tuple[nn.Module, TrainingResult]:
    """Dropout, attention dropout, accumulation, clipping, batches grouped by length."""
    with seeded(0):
        model = tiny_bert()
    examples, labels_L = token_rows(29)
    result = train(
        model, examples, labels_L, positions_L=np.arange(29), dev=token_rows(20, seed=1),
        training=SPEC.model_copy(update=changes), seed=0, context=context or FitContext(),
    )  # fmt: skip
    return model, result


KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training import bits, run_bert, untimed
from svp_nlp.models.base import FitContext

model, result = run_bert()
assert result.steps_per_epoch == 4
for step in (2, 9):  # in the middle of an epoch, without and with a best epoch before
    with tempfile.TemporaryDirectory() as name:
        asked = []
        def kill_at_step():
            asked.append(0)
            if len(asked) > step + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return False
        child = os.fork()
        if child == 0:
            run_bert(FitContext(Path(name), stop_requested=kill_at_step), checkpoint_every_s=0)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
        assert sorted(os.listdir(name))[-1] == f"step-{{step:08d}}", os.listdir(name)
        resumed, again = run_bert(FitContext(Path(name)), checkpoint_every_s=0)
        assert bits(resumed) == bits(model), step
        assert untimed(again) == untimed(result), step
"""


@pytest.mark.slow
def test_a_transformer_killed_in_the_middle_of_an_epoch_resumes_to_the_same_bits() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = KILLED.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_compiler_that_is_missing_is_said_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    class Uncompiled(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, **inputs: Tensor) -> Any:
            raise InvalidCxxCompiler

    monkeypatch.setattr(torch, "compile", lambda model, dynamic: Uncompiled(model))
    examples, labels_L = toy_rows(9)
    with pytest.raises(TrainingError, match=r"torch.compile failed \(InvalidCxxCompiler.*turn the option off"):
        train(Toy(), examples, labels_L, positions_L=np.arange(9), dev=None, training=SPEC, seed=0,
              context=FitContext(), compiled=True)  # fmt: skip


def test_what_is_not_data_parallel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(TrainingError, match="FSDP version 1; set fsdp_version to 2"):
        run()
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert bits(run()[0]) == bits(run()[0])  # one process: nothing to split


@pytest.mark.parametrize("grouped", [False, True])
def test_predictions_are_in_row_order_and_bit_equal_for_equal_batches(grouped: bool) -> None:
    model, _ = run()
    model.train()
    examples, _ = toy_rows(50, grouped=True)
    before = torch.get_rng_state()
    first = predict(model, examples, batch_size=16, embeddings=True, group_by_length=grouped)
    again = predict(model, examples, batch_size=16, group_by_length=grouped)
    assert first.probs_BC.dtype == np.float32
    assert first.probs_BC.tobytes() == again.probs_BC.tobytes()
    assert again.embeddings_BD is None
    assert first.embeddings_BD is not None
    assert first.embeddings_BD.shape == (50, 8)
    np.testing.assert_allclose(first.probs_BC.sum(1), 1, rtol=1e-6)
    for row in range(0, 50, 7):
        alone = predict(model, ToyExamples(examples.tokens_NT[row : row + 1], None), batch_size=4)
        np.testing.assert_allclose(alone.probs_BC[0], first.probs_BC[row], rtol=1e-5)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_predicting_nothing_is_an_error() -> None:
    with pytest.raises(ModelError, match="no row"):
        predict(Toy(), toy_rows(0)[0], batch_size=4)


def test_unused_parameters_are_found_without_touching_the_model() -> None:
    examples, _ = token_rows(3)
    with seeded(0):
        cases = [(tiny_bert(), False), (UnusedPooler(), True), (UnusedPooler(), False)]
    cases[2][0].bert.pooler.requires_grad_(False)
    for model, expected in cases:
        before = bits(model)
        assert has_unused_parameters(model, examples, torch.device("cpu")) is expected
        assert bits(model) == before
        assert model.training
        assert all(value.grad is None for value in model.parameters())
