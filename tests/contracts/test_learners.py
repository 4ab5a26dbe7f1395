"""One suite over every learner. A new model adds one row to `OPTIONS`."""

from __future__ import annotations

import functools
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from planted import check_probs, planted, rows
from toy import CLASS_NAMES, toy_rows
from toy_images import image_rows, toy_images

from svp_nlp.errors import Interrupted, ModelError, PoolError, RecipeError, TrainingError
from svp_nlp.models import LEARNERS, classify, load_predictor, make_learner, spec_classes
from svp_nlp.models import fasttext_native as native
from svp_nlp.models.base import FitContext, Labeled

# kind -> options that make it small
OPTIONS = {
    "embedding": {
        "config": {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
        "vocab_size": 400,
        "head": "mlp",  # a linear head does not depend on the seed
        "hidden_size": 16,
    },
    "fasttext": {"bucket": 1000, "epochs": 5, "learning_rate": 0.5},
    "image_transformer": {
        "config": {
            "model_type": "resnet",
            "layer_type": "basic",
            "depths": [1],
            "hidden_sizes": [8],
            "embedding_size": 8,
        },
        "image_size": 8,
        "training": {"num_train_epochs": 1},
    },
    "resnet": {"depth": 8, "image_size": 8, "training": {"num_train_epochs": 1, "global_batch_size": 16}},
    "tfidf": {"bucket": 1000, "classifier": "complement_nb"},  # the other one needs no seed
    "transformer": {
        "config": {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
        "vocab_size": 400,
        "max_length": 32,
        "training": {"num_train_epochs": 1},
    },
    "vdcnn": {
        "depth": 9,
        "lite": True,
        "max_length": 64,
        "training": {"num_train_epochs": 1, "global_batch_size": 16},
    },
}
KINDS = sorted(LEARNERS)
READS = {kind: spec_class.reads for kind, spec_class in spec_classes().items()}
TEXT_KINDS = [kind for kind in KINDS if READS[kind] == "text"]
IMAGE_KINDS = [kind for kind in KINDS if READS[kind] == "image"]
# those whose arithmetic is our own: no bit depends on who works, and on how much at once
EXACT = {
    "fasttext": ("fasttext", {}),
    "complement_nb": ("tfidf", {}),
    "logistic_regression": ("tfidf", {"classifier": "logistic_regression"}),
}


def labeled(kind: str, size: int = 60, *, labels: list[int] | None = None) -> Labeled:
    inputs, drawn = toy_rows(size) if READS[kind] == "text" else toy_images(size)
    labels_L = np.array(drawn if labels is None else labels, np.int64)
    return Labeled(table(kind, inputs), labels_L, np.arange(size), CLASS_NAMES)


def table(kind: str, inputs: list) -> pa.Table:
    """What such a learner reads."""
    return rows(inputs) if READS[kind] == "text" else image_rows(inputs)


def fitted(kind: str, train: Labeled | None = None, *, seed: int = 0, **options):
    learner = make_learner(kind, **{**OPTIONS[kind], **options})
    return learner.fit(labeled(kind) if train is None else train, dev=None, seed=seed, context=FitContext())


once = functools.cache(fitted)  # for tests that only predict


def test_every_learner_has_a_row_here():
    assert sorted(OPTIONS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_probabilities_of_all_classes_and_embeddings_are_aligned(kind):
    predictor, batch = once(kind), labeled(kind).rows
    prediction = predictor.predict(batch, embeddings=True)
    check_probs(prediction.probs_BC, 60, 4, tolerance=1e-5)
    width = prediction.embeddings_BD.shape[1]
    assert prediction.embeddings_BD.shape == (60, width) and prediction.embeddings_BD.dtype == np.float32
    assert predictor.predict(batch).embeddings_BD is None
    np.testing.assert_array_equal(predictor.predict(batch).probs_BC, prediction.probs_BC)
    nothing = predictor.predict(batch.slice(0, 0), embeddings=True)
    assert (nothing.probs_BC.shape, nothing.embeddings_BD.shape) == ((0, 4), (0, width))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_chunks_slices_and_batches_change_nothing(kind, data):
    one = st.text(max_size=20) if READS[kind] == "text" else st.sampled_from(toy_images(20)[0])
    inputs = data.draw(st.lists(one, min_size=1, max_size=8))
    predictor, tolerance = once(kind), 0 if kind in ("fasttext", "tfidf") else 1e-5
    whole = table(kind, inputs)
    whole_BC = predictor.predict(whole).probs_BC
    check_probs(whole_BC, len(inputs), 4, tolerance=tolerance or 1e-6)
    cut = data.draw(st.integers(0, len(inputs)))
    before, after = table(kind, inputs[:cut]), table(kind, inputs[cut:])
    for batch, expected_BC in (
        (pa.concat_tables([before, after]), whole_BC),
        (table(kind, [inputs[-1], *inputs]).slice(1), whole_BC),
        (whole.slice(cut), whole_BC[cut:]),
    ):
        np.testing.assert_allclose(predictor.predict(batch).probs_BC, expected_BC, rtol=0, atol=tolerance)


@pytest.mark.parametrize("learner", EXACT)
@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_same_bits_for_any_number_of_threads(monkeypatch, learner, threads):
    monkeypatch.setattr(native, "_ROWS_PER_BLOCK", 7)
    (kind, options), test = EXACT[learner], planted(100, seed=1).rows
    reference = fitted(kind, planted(100), **options)
    expected = reference.predict(test, embeddings=True)
    monkeypatch.setenv("SVP_NUM_THREADS", threads)
    again = fitted(kind, planted(100), **options)
    found = again.predict(test, embeddings=True)
    assert again.fingerprint == reference.fingerprint
    np.testing.assert_array_equal(found.probs_BC, expected.probs_BC)
    np.testing.assert_array_equal(found.embeddings_BD, expected.embeddings_BD)


@pytest.mark.parametrize("learner", EXACT)
def test_learns_what_is_planted_and_ranks_doubt(learner):
    kind, options = EXACT[learner]
    predictor, test = fitted(kind, planted(200), **options), planted(100, seed=1)
    probs_BC = predictor.predict(test.rows).probs_BC
    check_probs(probs_BC, 100, 2)
    assert (probs_BC.argmax(axis=1) == test.labels_L).mean() > 0.95
    sure, unsure = predictor.predict(rows(["cat dog horse", "cat saw"])).probs_BC.max(axis=1)
    assert sure > unsure


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_texts_are_classified_by_name_as_predict_does(kind):
    predictor, texts = once(kind), ["cat dog horse", "pan oven", "cat saw"]
    probs_BC = predictor.predict(rows(texts)).probs_BC
    names = [predictor.class_names[c] for c in probs_BC.argmax(axis=1)]
    expected = [(name, pytest.approx(p)) for name, p in zip(names, probs_BC.max(axis=1), strict=True)]
    assert classify(predictor, texts) == expected
    assert [name for name, _ in classify(predictor, texts[0])] == names[:1]
    assert classify(predictor, []) == []
    with pytest.raises(ModelError, match="expected a list of str"):
        classify(predictor, [1])


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_images_are_classified_by_name_whether_files_bytes_or_open(kind, tmp_path):
    predictor, (images, _) = once(kind), toy_images(3, seed=5)
    probs_BC = predictor.predict(image_rows(images)).probs_BC
    names = [predictor.class_names[c] for c in probs_BC.argmax(axis=1)]
    expected = [(name, pytest.approx(p, abs=1e-6)) for name, p in zip(names, probs_BC.max(axis=1), strict=True)]
    for number, image in enumerate(images):
        (tmp_path / f"{number}.png").write_bytes(image)
    opened = [Image.open(tmp_path / f"{number}.png") for number in range(3)]
    files = sorted(tmp_path.iterdir())
    for form in (images, files, [str(file) for file in files], opened):
        assert classify(predictor, form, rows_per_batch=2) == expected
        assert classify(predictor, form[0]) == expected[:1]
    assert classify(predictor, []) == []
    with pytest.raises(ModelError, match="classify takes images, found int"):
        classify(predictor, [1])
    with pytest.raises(ModelError, match=r"nothing\.png: the image cannot be read"):
        classify(predictor, "nothing.png")
    with pytest.raises(PoolError, match="is not an image"):
        classify(predictor, b"text")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_an_open_image_is_what_its_file_is(mode, tmp_path):
    levels = np.arange(16 * 16, dtype=np.uint16).reshape(16, 16) * 257
    picture = Image.fromarray(levels) if mode == "I;16" else Image.fromarray((levels >> 8).astype(np.uint8))
    picture = picture if mode == "I;16" else picture.convert("RGB").convert(mode)
    picture.save(file := tmp_path / "a.tiff")
    predictor = once("resnet")
    with Image.open(file) as opened:
        assert classify(predictor, opened) == classify(predictor, file) == classify(predictor, picture)
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.convert("RGB").save(file := tmp_path / "a.png", exif=turned)
    with Image.open(file) as opened:
        assert classify(predictor, opened) == classify(predictor, file)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", ["another column", "numbers", "what others read"])
def test_tables_of_anything_else_are_refused(kind, wrong):
    other = "image" if READS[kind] == "text" else "text"
    batch = {
        "another column": pa.table({"body": ["x"]}),
        "numbers": pa.table({READS[kind]: [1]}),
        "what others read": pa.table({other: pa.array([b"x"], pa.large_binary())}),
    }[wrong]
    with pytest.raises(ModelError, match=READS[kind]):
        once(kind).predict(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_no_example_is_refused(kind):
    with pytest.raises(TrainingError, match=r"label (some|at least one)"):
        fitted(kind, labeled(kind, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_model_and_another_seed_another(kind):
    assert make_learner(kind, **OPTIONS[kind]).reproducible
    one, again, other = (fitted(kind, seed=seed) for seed in (1, 1, 2))
    assert one.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_the_same_when_loaded_and_holds_no_pickle(kind, tmp_path):
    predictor = fitted(kind)
    predictor.save(tmp_path)
    again = load_predictor(tmp_path)
    assert again.fingerprint == predictor.fingerprint
    assert again.class_names == CLASS_NAMES
    batch = labeled(kind).rows
    np.testing.assert_array_equal(again.predict(batch).probs_BC, predictor.predict(batch).probs_BC)
    assert json.loads(json.dumps(again.report)) == json.loads(json.dumps(predictor.report))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".json", ".safetensors"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_weights_are_not_loaded(kind, damage, tmp_path):
    fitted(kind).save(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    if damage == "delete":
        weights.unlink()
    else:
        data[len(data) // 2] ^= 1
        weights.write_bytes(bytes(data) if damage == "flip" else bytes(data[: len(data) // 2]))
    with pytest.raises(ModelError, match=weights.name):
        load_predictor(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_and_a_single_class_do_not_crash(kind):
    for train in (labeled(kind, 2), labeled(kind, 20, labels=[1] * 20)):
        probs = fitted(kind, train).predict(labeled(kind).rows).probs_BC
        assert np.isfinite(probs).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_that_is_asked_to_stop_stops(kind):
    learner = make_learner(kind, **OPTIONS[kind])
    with pytest.raises(Interrupted):
        learner.fit(labeled(kind), dev=None, seed=0, context=FitContext(stop_requested=lambda: True))


@pytest.mark.parametrize("kind", KINDS)
def test_options_survive_a_recipe_and_unknown_ones_are_refused(kind):
    spec = make_learner(kind, **OPTIONS[kind]).spec
    assert type(spec).model_validate(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
    with pytest.raises(RecipeError, match="no_such_option"):
        make_learner(kind, no_such_option=1)


def test_a_directory_of_something_else_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_predictor(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"not a config\.json of svp_nlp"):
        load_predictor(tmp_path)
