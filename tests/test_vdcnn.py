"""VDCNN: the paper's sizes, learning a planted task, the same bits again."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from svp_nlp.errors import Interrupted, ModelError
from svp_nlp.models import load_predictor, make_learner
from svp_nlp.models.base import FitContext, Labeled, Prediction, TrainingSpec
from svp_nlp.models.saving import WEIGHTS_FILE
from svp_nlp.models.training import seeded
from svp_nlp.models.vdcnn import (
    MIN_LENGTH,
    VDCNN,
    VDCNNLearner,
    VDCNNPredictor,
    VDCNNSpec,
)

DOWNSAMPLINGS = ("conv", "maxpool", "kmaxpool")
TRAINING = TrainingSpec(num_train_epochs=3, learning_rate=0.02, lr_scheduler="constant", global_batch_size=16)
LITE = VDCNNSpec(depth=9, downsampling="maxpool", lite=True, max_length=128, training=TRAINING)


def build(num_classes: int = 2, **options: Any) -> VDCNN:
    with seeded(0):
        return VDCNN(VDCNNSpec(**options), num_classes=num_classes)


def random_codes(rows: int, length: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 69, (rows, length), dtype=np.uint8))


def planted(rows: int, *, seed: int = 0) -> Labeled:
    """The class is which of two words stands somewhere among noise; lengths 8 to 150."""
    rng = np.random.default_rng(seed)
    labels_L = rng.integers(0, 2, rows)
    texts = []
    for label in labels_L:
        noise = ["".join(rng.choice(list("abcde "), size)) for size in rng.integers(0, 70, 2)]
        texts.append(noise[0] + (" xyzzy! ", " quux?? ")[label] + noise[1])
    return Labeled(pa.table({"text": texts}), labels_L, np.arange(rows), ("no", "yes"))


def fit(spec: VDCNNSpec = LITE, *, rows: int = 64, seed: int = 0, dev: Labeled | None = None) -> VDCNNPredictor:
    return VDCNNLearner(spec).fit(planted(rows), dev=dev, seed=seed, context=FitContext())


@pytest.fixture(scope="module")
def predictor() -> VDCNNPredictor:
    return fit()


def same_bits(left: Prediction, right: Prediction) -> bool:
    assert left.embeddings_BD is not None and right.embeddings_BD is not None
    return np.array_equal(left.probs_BC, right.probs_BC) and np.array_equal(left.embeddings_BD, right.embeddings_BD)


@pytest.mark.parametrize("downsampling", DOWNSAMPLINGS)
@pytest.mark.parametrize(("depth", "expected"), [(9, 14_171_986), (17, 16_264_786), (29, 16_635_730), (49, 19_764_306)])
def test_parameter_counts_are_the_papers(depth: int, expected: int, downsampling: str) -> None:
    with torch.device("meta"):
        model = VDCNN(VDCNNSpec(depth=depth, downsampling=downsampling), num_classes=2)  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_parameter_count_of_lite_and_of_shortcuts() -> None:
    assert sum(p.numel() for p in build(depth=9, downsampling="maxpool", lite=True).parameters()) == 889_618
    # Three 1x1 convolutions: 64*128 + 128*256 + 256*512, all other shortcuts are free.
    assert sum(p.numel() for p in build(depth=9, shortcut=True).parameters()) == 14_171_986 + 172_032


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize(("downsampling", "expected"), [
    ("conv", [1014, 507, 254, 127]), ("maxpool", [1014, 507, 254, 127]), ("kmaxpool", [1014, 507, 253, 126]),
])  # fmt: skip
def test_lengths_halve_three_times(downsampling: str, expected: list[int], shortcut: bool) -> None:
    model = build(depth=9, lite=True, downsampling=downsampling, shortcut=shortcut).eval()
    lengths: list[int] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: lengths.append(output.shape[3]))
    with torch.inference_mode():
        assert model(random_codes(1, 1014)).shape == (1, 2)
    assert lengths == expected


@pytest.mark.parametrize("downsampling", DOWNSAMPLINGS)
def test_shapes_at_the_shortest_length(downsampling: str) -> None:
    model = build(num_classes=5, depth=9, downsampling=downsampling).eval()
    with torch.inference_mode():
        logits_BC, embeddings_BD = model(random_codes(3, MIN_LENGTH), embeddings=True)
        assert torch.equal(model(random_codes(3, MIN_LENGTH)), logits_BC)
        assert logits_BC.shape == (3, 5) and embeddings_BD.shape == (3, 2048)
        assert torch.allclose(model.classifier(embeddings_BD), logits_BC)


def test_the_first_convolution_sees_neighbours_in_order() -> None:
    """Against Conv1d: heights of one and channels innermost must not change the function."""
    model = build(depth=9, lite=True)
    codes_BL = random_codes(2, 70)
    as_1d = torch.nn.functional.conv1d(
        model.embedding(codes_BL.long()).transpose(1, 2), model.conv.weight[:, :, 0], padding=1
    )
    outputs: list[torch.Tensor] = []
    model.conv.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    for mode in (True, False):
        model.train(mode)(codes_BL)
        assert torch.allclose(outputs[-1][:, :, 0], as_1d, atol=1e-5)


def test_learns_a_planted_task_and_lands_above_chance_on_new_rows() -> None:
    training = TRAINING.model_copy(update={"num_train_epochs": 5})
    test = planted(200, seed=2)
    fitted = fit(LITE.model_copy(update={"training": training}), rows=300, dev=planted(50, seed=1))
    accuracy = (fitted.predict(test.rows).probs_BC.argmax(1) == test.labels_L).mean()
    assert accuracy > 0.9
    assert fitted.report["epochs_run"] == 5 and len(fitted.report["history"]) == 5
    assert max(epoch["dev_accuracy"] for epoch in fitted.report["history"]) > 0.9


def test_probabilities_and_embeddings_have_their_shapes(predictor: VDCNNPredictor) -> None:
    prediction = predictor.predict(planted(20).rows, embeddings=True)
    assert prediction.probs_BC.shape == (20, 2) and prediction.probs_BC.dtype == np.float32
    assert prediction.embeddings_BD is not None and prediction.embeddings_BD.shape == (20, 512)
    assert np.allclose(prediction.probs_BC.sum(1), 1, atol=1e-6)
    assert predictor.predict(planted(20).rows).embeddings_BD is None


def test_the_same_batch_twice_gives_the_same_bits(predictor: VDCNNPredictor) -> None:
    rows = planted(70).rows
    assert same_bits(predictor.predict(rows, embeddings=True), predictor.predict(rows, embeddings=True))


@pytest.mark.parametrize("padding", ["fixed", "bucket"])
def test_neighbours_and_order_change_no_more_than_roundings(predictor: VDCNNPredictor, padding: str) -> None:
    spec = LITE.model_copy(update={"padding": padding})
    chosen = fit(spec) if padding == "fixed" else predictor
    rows = planted(40).rows
    together = chosen.predict(rows).probs_BC
    alone = np.concatenate([chosen.predict(rows.slice(row, 1)).probs_BC for row in range(40)])
    backwards = chosen.predict(rows.take(list(range(39, -1, -1)))).probs_BC[::-1]
    assert np.allclose(together, alone, atol=1e-4) and np.allclose(together, backwards, atol=1e-4)


@pytest.mark.parametrize("texts", [[""], ["", "x"], ["x" * 5_000, ""], ["\x00"], ["\u65e5\u672c"]])
def test_texts_of_no_and_few_and_many_characters(predictor: VDCNNPredictor, texts: list[str]) -> None:
    probs_BC = predictor.predict(pa.table({"text": texts})).probs_BC
    assert probs_BC.shape == (len(texts), 2) and np.isfinite(probs_BC).all()


def test_no_row_gives_no_row(predictor: VDCNNPredictor) -> None:
    prediction = predictor.predict(pa.table({"text": pa.array([], pa.string())}), embeddings=True)
    assert prediction.probs_BC.shape == (0, 2)
    assert prediction.embeddings_BD is not None and prediction.embeddings_BD.shape == (0, 512)


def test_fit_is_reproducible_from_the_seed_and_leaves_the_generator(predictor: VDCNNPredictor) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert fit().fingerprint == predictor.fingerprint
    assert torch.equal(torch.get_rng_state(), state)
    assert fit(seed=1).fingerprint != predictor.fingerprint


def test_an_interrupted_fit_ends_with_the_same_weights(predictor: VDCNNPredictor, tmp_path: Path) -> None:
    answers = iter([False] * 5 + [True] + [False] * 100)
    context = FitContext(checkpoint_dir=tmp_path, stop_requested=lambda: next(answers))
    learner = VDCNNLearner(LITE)
    with pytest.raises(Interrupted):
        learner.fit(planted(64), dev=None, seed=0, context=context)
    assert learner.fit(planted(64), dev=None, seed=0, context=context).fingerprint == predictor.fingerprint


def test_a_saved_model_predicts_the_same_bits(predictor: VDCNNPredictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", WEIGHTS_FILE]
    state = torch.get_rng_state()
    loaded = load_predictor(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.class_names == ("no", "yes") and loaded.fingerprint == predictor.fingerprint
    assert loaded.report == predictor.report
    rows = planted(30).rows
    assert same_bits(loaded.predict(rows, embeddings=True), predictor.predict(rows, embeddings=True))


def test_damaged_weights_are_refused(predictor: VDCNNPredictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    weights = tmp_path / WEIGHTS_FILE
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="changed or cut short"):
        load_predictor(tmp_path)


def test_weights_of_another_architecture_are_refused(predictor: VDCNNPredictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    with pytest.raises(ModelError, match="does not hold the weights of a VDCNN-17"):
        make_learner(LITE.model_copy(update={"depth": 17})).load(tmp_path)


def test_fingerprint_depends_on_class_names(predictor: VDCNNPredictor) -> None:
    train = dataclasses.replace(planted(64), class_names=("yes", "no"))
    other = VDCNNLearner(LITE).fit(train, dev=None, seed=0, context=FitContext())
    assert other.fingerprint != predictor.fingerprint


def test_the_hash_seed_of_python_changes_nothing(predictor: VDCNNPredictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    rows = planted(5).rows
    program = (
        "import sys, pyarrow as pa; from svp_nlp.models import load_predictor\n"
        "p = load_predictor(sys.argv[1]); b = p.predict(pa.table({'text': sys.argv[2:]})).probs_BC\n"
        "sys.stdout.write(p.fingerprint + b.tobytes().hex())"
    )
    there = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), *rows.column("text").to_pylist()],
        env={**os.environ, "PYTHONHASHSEED": "12345"}, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    assert there == predictor.fingerprint + predictor.predict(rows).probs_BC.tobytes().hex()


def test_the_defaults_are_the_papers() -> None:
    spec = VDCNNSpec()
    assert (spec.depth, spec.downsampling, spec.max_length, spec.training.epochs) == (29, "conv", 1014, 15)
    assert [stage.learning_rate for stage in spec.training.schedule or ()] == [0.01, 0.005, 0.0025, 0.00125, 0.000625]
    assert (spec.training.momentum, spec.training.weight_decay, spec.training.global_batch_size) == (0.9, 1e-4, 128)
    assert VDCNNSpec.model_validate(spec.model_dump(mode="json")).fingerprint == spec.fingerprint
