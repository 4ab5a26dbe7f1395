"""Frozen encoders and the heads on them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from toy import CLASS_NAMES, toy_rows

from svp_nlp.errors import Interrupted, ModelError, RecipeError, TrainingError
from svp_nlp.models import encoders, heads, load_predictor, make_learner
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.embedding import EmbeddingSpec

BODY = {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
RANDOM = {"config": BODY, "vocab_size": 400}


def labeled(rows: int = 60, *, labels: list[int] | None = None) -> Labeled:
    texts, drawn = toy_rows(rows)
    labels_L = np.array(drawn if labels is None else labels, np.int64)
    return Labeled(pa.table({"text": pa.array(texts, pa.large_string())}), labels_L, np.arange(rows) * 10, CLASS_NAMES)


def features(rows: int = 60, *, width: int = 8, labels_L: np.ndarray | None = None) -> np.ndarray:
    """Features of norm 3 or so in which the class can be seen, when labels are given."""
    features_LD = np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)
    if labels_L is not None:
        features_LD[np.arange(rows), labels_L] += 1
    return features_LD


def fitted(train: Labeled | None = None, *, seed: int = 0, context: FitContext | None = None, **options):
    learner = make_learner("embedding", **{**RANDOM, **options})
    return learner.fit(labeled() if train is None else train, dev=None, seed=seed, context=context or FitContext())


@pytest.fixture(scope="module")
def random_model(tmp_path_factory) -> Path:
    """A folder with a BERT of random weights and its tokenizer, as `save_pretrained` writes it."""
    spec = EmbeddingSpec(
        config={"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 64, "max_position_embeddings": 64},
        vocab_size=400,
    )  # fmt: skip
    encoder = make_learner(spec).fit(labeled(), dev=None, seed=0, context=FitContext()).encoder
    directory = tmp_path_factory.mktemp("model")
    encoder._network.body.save_pretrained(directory)
    encoder.tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def sentence_model(random_model, tmp_path) -> Path:
    """The same with the files of sentence-transformers: first token, norm 1, 16 tokens."""
    directory = tmp_path / "sentence-model"
    shutil.copytree(random_model, directory)
    write_modules(directory, "Transformer", "Pooling", "Normalize")
    write_json(
        directory / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    )
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": True})
    return directory


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def write_modules(directory: Path, *names: str) -> None:
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(names)
    ]
    write_json(directory / "modules.json", modules)


# Pooling


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans(), st.integers(0, 1000))
def test_pooling_is_that_of_each_text_alone_whatever_lies_under_the_padding(lengths, left, seed):
    width = max(lengths)
    hidden_BLD = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(lengths), width, 3)))
    mask_BL = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        kept = slice(width - length, None) if left else slice(0, length)
        mask_BL[row, kept] = 1
        hidden_BLD[row][mask_BL[row] == 0] = float("nan")
        tokens_LD = hidden_BLD[row, kept].float()
        expected = {"mean": tokens_LD.mean(0), "cls": tokens_LD[0], "last": tokens_LD[-1]}
        for pooling, vector_D in expected.items():
            found_BD = encoders.pool_tokens(hidden_BLD[row : row + 1], mask_BL[row : row + 1], pooling)
            torch.testing.assert_close(found_BD[0], vector_D)


def test_a_text_has_the_same_features_in_any_company():
    rows = labeled().rows
    encoder = fitted().encoder
    together_BD = encoder.predict(rows, embeddings=True).embeddings_BD
    order_B = np.random.default_rng(0).permutation(len(rows))
    shuffled_BD = encoder.predict(rows.take(order_B), embeddings=True).embeddings_BD
    np.testing.assert_allclose(shuffled_BD, together_BD[order_B], atol=1e-5)
    for row in (0, 17):
        alone_BD = encoder.predict(rows.slice(row, 1), embeddings=True).embeddings_BD
        np.testing.assert_allclose(alone_BD[0], together_BD[row], atol=1e-5)


def test_features_are_what_transformers_gives_for_one_text_at_a_time(random_model):
    from transformers import AutoModel, AutoTokenizer

    tokenizer, body = AutoTokenizer.from_pretrained(random_model), AutoModel.from_pretrained(random_model)
    encoder = make_learner("embedding", model_name_or_path=str(random_model)).encoder()
    rows = labeled(20).rows
    found_BD = encoder.predict(rows, embeddings=True).embeddings_BD
    for text, found_D in zip(rows["text"].to_pylist(), found_BD, strict=True):
        with torch.inference_mode():
            hidden_LD = body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(found_D, hidden_LD.mean(0), atol=1e-5)


# What sentence-transformers says


def test_the_files_of_sentence_transformers_are_followed_unless_the_recipe_says_otherwise(sentence_model):
    name = str(sentence_model)
    options = make_learner("embedding", model_name_or_path=name).encoder().options
    assert (options.pooling, options.normalize, options.max_length, options.lower_case) == ("cls", True, 16, True)
    own = make_learner("embedding", model_name_or_path=name, pooling="mean", normalize=False, max_length=32).encoder()
    assert (own.options.pooling, own.options.normalize, own.options.max_length) == ("mean", False, 32)


def test_without_them_tokens_are_averaged_up_to_what_the_network_takes(random_model):
    options = make_learner("embedding", model_name_or_path=str(random_model)).encoder().options
    assert (options.pooling, options.normalize, options.max_length) == ("mean", False, 64)
    with pytest.raises(ModelError, match="takes 64 tokens, max_length is 65"):
        make_learner("embedding", model_name_or_path=str(random_model), max_length=65).encoder()


def test_normalised_features_have_norm_one(sentence_model):
    encoder = make_learner("embedding", model_name_or_path=str(sentence_model)).encoder()
    embeddings_BD = encoder.predict(labeled().rows, embeddings=True).embeddings_BD
    np.testing.assert_allclose(np.linalg.norm(embeddings_BD, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["mean", "max"]}, None),
        ({"pooling_mode_max_tokens": True}, None),
    ],
)
def test_old_and_new_ways_to_name_the_pooling_are_read(sentence_model, config, expected):
    write_json(sentence_model / "1_Pooling" / "config.json", config)
    layout = encoders.read_layout(str(sentence_model))
    assert (layout.pooling, layout.unsupported is None) == (expected or "mean", expected is not None)


def test_a_part_that_is_not_computed_here_is_refused_unless_it_is_overridden(sentence_model):
    write_modules(sentence_model, "Transformer", "Pooling", "Dense", "Normalize")
    name = str(sentence_model)
    for half in ({}, {"pooling": "mean"}, {"normalize": True}):
        with pytest.raises(ModelError, match="asks for Dense"):
            make_learner("embedding", model_name_or_path=name, **half).encoder()
    assert make_learner("embedding", model_name_or_path=name, pooling="mean", normalize=True).encoder()


@pytest.mark.parametrize("content", ["[{}]", "7", '{"a": 1}', "{"])
def test_damaged_files_of_sentence_transformers_are_refused(sentence_model, content):
    (sentence_model / "modules.json").write_text(content)
    with pytest.raises(ModelError, match=r"modules\.json"):
        encoders.read_layout(str(sentence_model))


def test_encoders_with_decoders_are_refused():
    t5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    with pytest.raises(ModelError, match="encoder with a decoder"):
        fitted(config=t5)


# Heads


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_linear_head_is_logistic_regression_on_centred_features_of_norm_one(num_classes):
    labels_L = np.arange(60) % num_classes
    features_LD = features(labels_L=labels_L)
    head = heads.fit_linear(features_LD, labels_L, num_classes=num_classes, inverse_penalty=2.0)
    centred_LD = features_LD - features_LD.mean(0)
    centred_LD /= np.sqrt((centred_LD**2).sum(1).mean())
    reference = LogisticRegression(C=2.0, tol=1e-8, max_iter=1000).fit(centred_LD, labels_L)
    np.testing.assert_allclose(head.probs(features_LD), reference.predict_proba(centred_LD), atol=2e-3)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=20), st.sampled_from(["linear", "mlp"]))
def test_classes_without_examples_get_no_probability(labels, kind):
    labels_L = np.array(labels)
    features_LD = features(len(labels))
    if kind == "linear":
        head = heads.fit_linear(features_LD, labels_L, num_classes=6, inverse_penalty=1.0)
    else:
        train = Labeled(pa.table({"text": ["a"] * len(labels)}), labels_L, np.arange(len(labels)), tuple("abcdef"))
        spec = heads.HeadTrainingSpec(num_train_epochs=1, min_train_steps=1)
        head, _ = heads.fit_mlp(features_LD, train, hidden_size=4, spec=spec, seed=0, context=FitContext())
    probs_BC = head.probs(features(30))
    assert np.isfinite(probs_BC).all()
    np.testing.assert_allclose(probs_BC.sum(1), 1, atol=1e-6)
    absent = np.setdiff1d(np.arange(6), labels_L)
    assert (probs_BC[:, absent] == 0).all()
    assert (probs_BC[:, np.unique(labels_L)] > 0).all()


def test_only_the_mlp_learns_what_no_line_can_part():
    features_LD = np.random.default_rng(0).choice([-1.0, 1.0], size=(200, 2)).astype(np.float32)
    labels_L = (features_LD.prod(1) > 0).astype(np.int64)
    train = Labeled(pa.table({"text": ["a"] * 200}), labels_L, np.arange(200), ("no", "yes"))
    spec = heads.HeadTrainingSpec(num_train_epochs=30, learning_rate=0.02)
    mlp, _ = heads.fit_mlp(features_LD, train, hidden_size=16, spec=spec, seed=0, context=FitContext())
    linear = heads.fit_linear(features_LD, labels_L, num_classes=2, inverse_penalty=1.0)
    assert (mlp.probs(features_LD).argmax(1) == labels_L).all()
    assert (linear.probs(features_LD).argmax(1) == labels_L).mean() < 0.8


def test_a_row_has_the_same_probabilities_in_any_batch():
    labels_L = np.arange(100) % 4
    head = heads.fit_linear(features(100, labels_L=labels_L), labels_L, num_classes=4, inverse_penalty=1.0)
    features_BD = features(1000)
    together_BC = head.probs(features_BD)
    for size in (1, 7, 512):
        np.testing.assert_array_equal(head.probs(features_BD[:size]), together_BC[:size])


def test_features_that_are_equal_or_one_class_give_what_can_be_said():
    constant_LD = np.ones((10, 4), np.float32)
    head = heads.fit_linear(constant_LD, np.arange(10) % 2, num_classes=2, inverse_penalty=1.0)
    np.testing.assert_allclose(head.probs(constant_LD), 0.5, atol=1e-4)
    one = heads.fit_linear(constant_LD, np.ones(10, np.int64), num_classes=3, inverse_penalty=1.0)
    np.testing.assert_array_equal(one.probs(constant_LD), np.tile([0, 1, 0], (10, 1)))


# Fitting and predicting


@pytest.mark.parametrize("options", [{}, {"head": "mlp", "hidden_size": 64}])
def test_stored_features_give_the_probabilities_of_the_texts(options):
    train = labeled()
    predictor = fitted(train, **options)
    prediction = predictor.predict(train.rows, embeddings=True)
    stored = predictor.predict_features(prediction.embeddings_BD)
    np.testing.assert_array_equal(stored.probs_BC, prediction.probs_BC)
    np.testing.assert_array_equal(stored.embeddings_BD, prediction.embeddings_BD)
    assert (prediction.probs_BC.argmax(1) == train.labels_L).mean() > 0.5


def test_features_from_outside_are_used_instead_of_the_texts(tmp_path):
    train = labeled()
    own = fitted(train)
    own.save(tmp_path)
    features_LD = own.predict(train.rows, embeddings=True).embeddings_BD
    context = FitContext(features_LD=features_LD, encoder_dir=tmp_path / "encoder")
    assert fitted(train, context=context).fingerprint == own.fingerprint
    moved = FitContext(features_LD=features_LD[::-1].copy(), encoder_dir=tmp_path / "encoder")
    assert fitted(train, context=moved).fingerprint != own.fingerprint


def test_a_round_on_stored_features_loads_no_encoder(tmp_path, monkeypatch):
    train = labeled()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    fitted(train).save(tmp_path / "first")

    def refuse(*args, **kwargs):
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr(encoders, "load_encoder", refuse)
    context = FitContext(features_LD=features(60, width=32), encoder_dir=tmp_path / "first" / "encoder")
    predictor = fitted(train, context=context)
    predictor.save(tmp_path / "second")
    again = load_predictor(tmp_path / "second")
    expected = predictor.predict_features(features(100, width=32)).probs_BC
    np.testing.assert_array_equal(again.predict_features(features(100, width=32)).probs_BC, expected)
    with pytest.raises(AssertionError, match="the encoder was loaded"):
        again.predict(train.rows)


def test_a_linear_head_and_an_encoder_do_not_depend_on_the_seed():
    assert fitted(seed=1).fingerprint == fitted(seed=2).fingerprint


def test_bad_features_are_refused_by_position(tmp_path):
    features_LD = features(60, width=32)
    features_LD[7, 3] = np.nan
    fitted().save(tmp_path)
    with pytest.raises(ModelError, match="position 70"):
        fitted(context=FitContext(features_LD=features_LD, encoder_dir=tmp_path / "encoder"))
    with pytest.raises(ModelError, match="50 rows of features for 60"):
        fitted(context=FitContext(features_LD=features_LD[:50], encoder_dir=tmp_path / "encoder"))
    with pytest.raises(ModelError, match=r"features are \[60, 5\], this head reads \[rows, 32\]"):
        fitted().predict_features(features(60, width=5))


def test_no_row_is_refused():
    with pytest.raises(TrainingError, match="no labelled row"):
        fitted(labeled(0))


def test_encoding_the_labelled_rows_can_be_stopped():
    answers = iter([False, False, True])
    with pytest.raises(Interrupted, match="encoding the labelled rows"):
        fitted(labeled(600), context=FitContext(stop_requested=lambda: next(answers)))


def test_bfloat16_is_close_and_is_another_encoder():
    rows = labeled().rows
    full, half = fitted().encoder, fitted(scoring_dtype="bfloat16").encoder
    full_BD, half_BD = (e.predict(rows, embeddings=True).embeddings_BD for e in (full, half))
    assert full_BD.dtype == half_BD.dtype == np.float32
    assert 0 < np.abs(full_BD - half_BD).max() < 0.1
    assert full.fingerprint != half.fingerprint


# The encoder as an artifact


def test_an_encoder_is_saved_and_loaded_by_itself_and_by_transformers(tmp_path, random_model):
    from transformers import AutoModel

    encoder = make_learner("embedding", model_name_or_path=str(random_model), pooling="cls").encoder()
    encoder.save(tmp_path)
    again = load_predictor(tmp_path)
    rows = labeled().rows
    assert again.fingerprint == encoder.fingerprint
    assert again.class_names == ()
    expected = encoder.predict(rows, embeddings=True)
    assert expected.probs_BC.shape == (60, 0)
    np.testing.assert_array_equal(again.predict(rows, embeddings=True).embeddings_BD, expected.embeddings_BD)
    assert again.predict(rows.slice(0, 0), embeddings=True).embeddings_BD.shape == (0, 32)
    state = AutoModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in encoder._network.body.state_dict().items())


def test_a_model_that_is_saved_shares_the_bytes_of_its_encoder(tmp_path, monkeypatch):
    places = [tmp_path / name for name in ("first", "second", "third")]
    for place in places:
        place.mkdir()
    fitted().save(places[0])
    context = FitContext(features_LD=features(60, width=32), encoder_dir=places[0] / "encoder")
    predictor = fitted(context=context)
    predictor.save(places[1])
    weights = [place / "encoder" / "model.safetensors" for place in places]
    assert weights[0].samefile(weights[1])

    def refuse(*args):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    predictor.save(places[2])
    assert not weights[0].samefile(weights[2])
    assert load_predictor(places[2]).fingerprint == load_predictor(places[1]).fingerprint


def test_a_saved_encoder_can_be_named_for_a_new_one_and_for_fine_tuning(tmp_path, random_model):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for directory in (first, second, third):
        directory.mkdir()
    make_learner("embedding", model_name_or_path=str(random_model)).encoder().save(first)
    make_learner("embedding", model_name_or_path=str(first)).encoder().save(second)
    assert load_predictor(second).spec.model_name_or_path == str(first)
    tuner = make_learner("transformer", model_name_or_path=str(first), max_length=16, training={"num_train_epochs": 1})
    tuned = tuner.fit(labeled(), dev=None, seed=0, context=FitContext())
    tuned.save(third)
    assert not {"encoder", "encoder_files"} & json.loads((third / "config.json").read_text()).keys()
    assert load_predictor(third).fingerprint == tuned.fingerprint


def test_memory_running_out_names_the_option_of_the_encoder(monkeypatch):
    encoder = fitted().encoder

    def forward(**inputs):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(encoder._network, "forward", forward)
    with pytest.raises(TrainingError, match="set encode_batch_size below 32"):
        encoder.predict(labeled().rows, embeddings=True)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_a_damaged_encoder_is_not_loaded(tmp_path, file, damage):
    fitted().save(tmp_path)
    path = tmp_path / "encoder" / file
    if damage == "delete":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=file):
        load_predictor(tmp_path)


def test_the_head_of_another_encoder_is_not_loaded(tmp_path):
    for name, options in (("one", {}), ("two", {"pooling": "cls"})):
        (tmp_path / name).mkdir()
        fitted(**options).save(tmp_path / name)
    shutil.rmtree(tmp_path / "one" / "encoder")
    shutil.copytree(tmp_path / "two" / "encoder", tmp_path / "one" / "encoder")
    with pytest.raises(ModelError, match="not the encoder of this head"):
        load_predictor(tmp_path / "one")


def test_random_weights_without_a_pool_are_refused():
    with pytest.raises(ModelError, match="no pool was given"):
        make_learner("embedding", **RANDOM).encoder()


def test_the_refreshed_encoder_is_the_body_of_the_fine_tuned_model(tmp_path, sentence_model):
    refresh = {"at": 30, "training": {"num_train_epochs": 1, "learning_rate": 0.01}}
    learner = make_learner("embedding", model_name_or_path=str(sentence_model), refresh=refresh)
    assert learner.refresh_at == 30
    tuner = learner.tuner()
    assert tuner.spec.kind == "transformer"
    assert (tuner.spec.training.num_train_epochs, tuner.spec.training.optimizer) == (1, "adamw")
    tuner = make_learner(tuner.spec.model_copy(update={"max_length": 16}))
    tuner.fit(labeled(30), dev=None, seed=0, context=FitContext()).save(tmp_path)
    before, after = learner.encoder(), learner.encoder(tmp_path)
    assert after.fingerprint == learner.encoder(tmp_path).fingerprint != before.fingerprint
    assert (after.options.pooling, after.options.normalize, after.options.max_length) == ("cls", True, 16)
    tuned = load_predictor(tmp_path)._model.base_model.state_dict()
    body = after._network.body.state_dict()
    assert all(torch.equal(body[name], value) for name, value in tuned.items())
    rows = labeled().rows
    assert (
        np.abs(
            before.predict(rows, embeddings=True).embeddings_BD - after.predict(rows, embeddings=True).embeddings_BD
        ).max()
        > 1e-3
    )


# Options


def test_recipes_that_differ_in_the_head_share_an_encoder():
    keys = [
        make_learner("embedding", **RANDOM, **options).encoder_key
        for options in ({}, {"head": "mlp"}, {"C": 3.0}, {"refresh": {"at": 10}})
    ]
    assert len(set(keys)) == 1
    for options in ({"pooling": "cls"}, {"max_length": 9}, {"encode_batch_size": 3}, {"scoring_dtype": "bfloat16"}):
        assert make_learner("embedding", **RANDOM, **options).encoder_key not in keys


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head": "mlp", "C": 2.0}, "C does nothing for head 'mlp'"),
        ({"hidden_size": 9}, "hidden_size does nothing for head 'linear'"),
        ({"head_training": {"learning_rate": 0.1}}, "head_training does nothing"),
        ({"head": "mlp", "head_training": {"early_stopping_patience": 2}}, "needs a dev set"),
        ({"model_name_or_path": "a/b"}, "exactly one of model_name_or_path, config"),
    ],
)
def test_options_that_do_nothing_are_refused(options, said):
    with pytest.raises(RecipeError, match=said):
        make_learner("embedding", **{**RANDOM, **options})
