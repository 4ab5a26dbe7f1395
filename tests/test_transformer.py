"""Transformers: read by transformers itself, the same in any order, learning rates by layer, head first, bad input."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from tokenizers import normalizers
from toy import CLASS_NAMES, toy_rows
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from svp_nlp.errors import Interrupted, ModelError, TrainingError
from svp_nlp.models import finetuning, load_predictor, make_learner, pretrained
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.classifiers import Classifier, make_classifier
from svp_nlp.models.finetuning import FineTuningSpec, fine_tune, layer_scales
from svp_nlp.models.prediction import predict
from svp_nlp.models.tokens import token_examples
from svp_nlp.models.training import seeded
from svp_nlp.models.transformer import TransformerLearner, TransformerPredictor, TransformerSpec

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {**SMALL, "embedding_size": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "modernbert": SMALL,
    "mpnet": SMALL,
    "roberta": SMALL,
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2},
}
TRAINING = {"num_train_epochs": 1, "learning_rate": 1e-3, "global_batch_size": 16, "checkpoint_every_s": 0}


def options(family: str = "distilbert", **changes: Any) -> dict[str, Any]:
    config = {"model_type": family, **FAMILIES[family]}
    return {"config": config, "vocab_size": 350, "max_length": 32, "training": TRAINING, **changes}


def labeled(rows: int = 40, *, names: tuple[str, ...] = CLASS_NAMES) -> Labeled:
    texts, labels = toy_rows(rows, classes=len(names))
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    return Labeled(table, np.array(labels, np.int64), np.arange(rows), names)


def fit(train: Labeled | None = None, *, seed: int = 0, context: FitContext | None = None, **chosen: Any) -> Any:
    learner = make_learner("transformer", **(chosen or options()))
    return learner.fit(labeled() if train is None else train, dev=None, seed=seed, context=context or FitContext())


@pytest.fixture(scope="module")
def predictor() -> TransformerPredictor:
    return fit()


@pytest.fixture(scope="module")
def saved(predictor: TransformerPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    predictor.save(directory)
    return directory


def network(spec: TransformerSpec, train: Labeled | None = None, *, seed: int = 0) -> Classifier:
    train = labeled() if train is None else train
    return make_classifier(
        spec, train.class_names, train.rows.column("text"), pool=None, seed=seed, max_length=spec.max_length,
        dropout=spec.classifier_dropout,
    )  # fmt: skip


# What is saved


def test_transformers_itself_reads_what_is_saved(predictor: TransformerPredictor, saved: Path) -> None:
    rows = labeled().rows
    probs_BC = predictor.predict(rows).probs_BC
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    assert model.config.id2label == dict(enumerate(CLASS_NAMES))
    assert model.config.label2id == {name: number for number, name in enumerate(CLASS_NAMES)}
    inputs = tokenizer(rows.column("text").to_pylist(), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        np.testing.assert_allclose(model(**inputs).logits.softmax(-1).numpy(), probs_BC, atol=1e-5)


def test_a_pipeline_reads_what_is_saved(predictor: TransformerPredictor, saved: Path) -> None:
    rows = labeled(5).rows
    classify = pipeline("text-classification", model=str(saved), device="cpu")
    answers = classify(rows.column("text").to_pylist(), top_k=None, truncation=True)
    for answer, probs_C in zip(answers, predictor.predict(rows).probs_BC, strict=True):
        found = {entry["label"]: entry["score"] for entry in answer}
        assert found == pytest.approx(dict(zip(CLASS_NAMES, probs_C.tolist(), strict=True)), abs=1e-5)


def test_config_json_is_theirs_with_our_keys_and_no_path(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    assert (config["model_type"], config["svp_kind"]) == ("distilbert", "transformer")
    assert config["architectures"] == ["DistilBertForSequenceClassification"]
    assert str(saved.parent) not in json.dumps(config)
    assert "_name_or_path" not in config


def test_the_fingerprint_sees_any_change_of_the_tokenizer(predictor: TransformerPredictor) -> None:
    other = copy.deepcopy(predictor._tokenizer)
    backend = other.backend_tokenizer  # the same vocabulary, and hardly a text that is read in another way
    backend.normalizer = normalizers.Sequence([backend.normalizer, normalizers.Replace("zqzq", "")])
    changed = TransformerPredictor(predictor.spec, predictor._model, other, predictor.class_names, report={})
    assert changed.fingerprint != predictor.fingerprint


def test_a_loaded_model_can_be_saved_again(predictor: TransformerPredictor, saved: Path, tmp_path: Path) -> None:
    load_predictor(saved).save(tmp_path)
    again = load_predictor(tmp_path)
    assert again.fingerprint == predictor.fingerprint
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((saved / "config.json").read_text())


def test_a_saved_model_can_be_named_for_a_new_training_and_that_one_be_saved(saved: Path, tmp_path: Path) -> None:
    again = fit(model_name_or_path=str(saved), max_length=32, training=TRAINING)
    again.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["spec"]["model_name_or_path"] == str(saved)
    assert load_predictor(tmp_path).fingerprint == again.fingerprint


def test_renamed_classes_are_noticed(saved: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["class_names"] = ["kitchen", "animals", "music", "weather"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="id2label says"):
        load_predictor(tmp_path)


def test_the_report_says_what_was_trained(predictor: TransformerPredictor) -> None:
    report = predictor.report
    assert report["epochs_run"] == 1 and report["model_revision"] is None
    assert report["parameters"] == sum(p.numel() for p in predictor._model.parameters())
    assert set(report["tokens"]) == {"mean", "p95", "truncated"}


# What is predicted


def test_the_order_of_the_rows_does_not_matter(predictor: TransformerPredictor) -> None:
    rows, order = labeled().rows, np.random.default_rng(0).permutation(40)
    given, mixed = predictor.predict(rows, embeddings=True), predictor.predict(rows.take(order), embeddings=True)
    np.testing.assert_allclose(mixed.probs_BC, given.probs_BC[order], atol=1e-5)
    np.testing.assert_allclose(mixed.embeddings_BD, given.embeddings_BD[order], atol=1e-5)


def test_batches_by_length_give_what_batches_in_order_give(predictor: TransformerPredictor) -> None:
    text = pa.array([" ".join(["cat rain"] * size) for size in (1, 9, 2, 8, 0, 5)], pa.large_string())
    examples = token_examples(text, predictor._tokenizer, max_length=16)
    by_length, in_order, alone = (
        predict(predictor._model, examples, batch_size=size, group_by_length=grouped).probs_BC
        for size, grouped in ((2, True), (2, False), (1, False))
    )
    np.testing.assert_allclose(by_length, alone, atol=1e-5)
    np.testing.assert_allclose(in_order, alone, atol=1e-5)


def test_no_row_has_predictions_of_the_right_shapes(predictor: TransformerPredictor) -> None:
    nothing = predictor.predict(labeled().rows.slice(0, 0), embeddings=True)
    assert nothing.probs_BC.shape == (0, 4) and nothing.embeddings_BD.shape == (0, 32)


def test_bfloat16_scores_nearly_the_same(predictor: TransformerPredictor, saved: Path) -> None:
    spec = predictor.spec.model_copy(update={"scoring_dtype": "bfloat16"})
    assert TransformerLearner(spec).scoring_dtype == "bfloat16"
    rough = TransformerLearner(spec).load(saved).predict(labeled().rows).probs_BC
    exact = predictor.predict(labeled().rows).probs_BC
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.02
    np.testing.assert_allclose(rough.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_train_and_embeddings_are_what_the_last_layer_reads(family: str, tmp_path: Path) -> None:
    train = labeled(20)
    predictor = fit(train, **options(family))
    found = predictor.predict(train.rows, embeddings=True)
    last = predictor._scorer.last
    with torch.inference_mode():
        logits_BC = last(torch.from_numpy(found.embeddings_BD))
    np.testing.assert_allclose(logits_BC.softmax(-1).numpy(), found.probs_BC, atol=1e-5)
    predictor.save(tmp_path)
    again = load_predictor(tmp_path)
    assert again.fingerprint == predictor.fingerprint
    np.testing.assert_array_equal(again.predict(train.rows).probs_BC, found.probs_BC)


# Where the weights come from


def test_a_head_for_the_same_classes_is_kept_and_any_other_replaced(saved: Path) -> None:
    spec = TransformerSpec(model_name_or_path=str(saved), max_length=32)
    trained = AutoModelForSequenceClassification.from_pretrained(saved).classifier.weight
    kept = network(spec).model
    assert torch.equal(kept.classifier.weight, trained)
    other_order = labeled(names=tuple(reversed(CLASS_NAMES)))
    replaced = network(spec, other_order).model
    assert replaced.classifier.weight.shape == trained.shape
    assert not torch.equal(replaced.classifier.weight, trained)
    assert not torch.equal(replaced.pre_classifier.weight, kept.pre_classifier.weight)
    assert torch.equal(replaced.distilbert.embeddings.word_embeddings.weight,
                       kept.distilbert.embeddings.word_embeddings.weight)  # fmt: skip
    assert replaced.config.id2label[0] == "weather"
    again = network(spec, other_order).model
    assert torch.equal(again.classifier.weight, replaced.classifier.weight)
    other_seed = network(spec, other_order, seed=1).model
    assert not torch.equal(other_seed.classifier.weight, replaced.classifier.weight)


def test_a_checkpoint_with_another_number_of_classes_gets_a_new_head(saved: Path) -> None:
    two = labeled(20, names=("no", "yes"))
    options = {"model_name_or_path": str(saved), "max_length": 32, "training": TRAINING}
    assert fit(two, **options).predict(two.rows).probs_BC.shape == (20, 2)


def test_weights_are_float32_whatever_the_checkpoint_holds(tmp_path: Path, predictor: TransformerPredictor) -> None:
    config = AutoConfig.for_model("distilbert", vocab_size=400, **FAMILIES["distilbert"])
    AutoModel.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    predictor._tokenizer.save_pretrained(tmp_path)
    made = network(TransformerSpec(model_name_or_path=str(tmp_path), max_length=32))
    assert {parameter.dtype for parameter in made.model.parameters()} == {torch.float32}
    assert made.revision is None


def test_weights_of_another_network_are_refused(saved: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    AutoConfig.for_model("bert", vocab_size=400, **SMALL).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not those of BertForSequenceClassification"):
        network(TransformerSpec(model_name_or_path=str(tmp_path), max_length=32))


def test_pickled_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors file, and pickled weights can run code"):
        network(TransformerSpec(model_name_or_path=str(tmp_path), max_length=32))


def test_a_folder_without_tokenizer_or_config_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        pretrained.load_config(str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="cannot be loaded"):
        pretrained.load_config(str(tmp_path))
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    with pytest.raises(ModelError, match="tokenizer"):
        pretrained.load_tokenizer(str(tmp_path))


def test_a_model_that_is_out_of_reach_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="not in the cache and the Hub cannot be reached; download it once"):
        fit(model_name_or_path="no-such-user/no-such-model")


@pytest.mark.parametrize(("error", "expected"), [
    ("GatedRepoError", "is gated: ask for access"),
    ("RepositoryNotFoundError", "neither a folder nor a model on the Hub"),
    ("RevisionNotFoundError", "has no revision 'v9'"),
    ("LocalEntryNotFoundError", "cannot be reached"),
])  # fmt: skip
def test_what_the_hub_says_becomes_one_line(error: str, expected: str) -> None:
    from huggingface_hub import errors

    cause = getattr(errors, error).__new__(getattr(errors, error))
    with pytest.raises(ModelError, match=expected) as caught, pretrained.clear_loading_errors("me/model", "v9"):
        raise OSError("several\nlines") from cause
    assert "\n" not in str(caught.value)


def test_an_end_token_pads_and_without_one_a_tokenizer_is_refused(predictor: TransformerPredictor) -> None:
    from transformers import PreTrainedTokenizerFast

    backend = predictor._tokenizer.backend_tokenizer
    padded = pretrained.with_padding(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]"), "x")
    assert padded.pad_token == "[SEP]" and padded.padding_side == "right"
    with pytest.raises(ModelError, match="neither a padding nor an end token"):
        pretrained.with_padding(PreTrainedTokenizerFast(tokenizer_object=backend), "x")


def test_a_decoder_without_padding_token_is_fine_tuned(tmp_path: Path, predictor: TransformerPredictor) -> None:
    from transformers import PreTrainedTokenizerFast

    backend = predictor._tokenizer.backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]", padding_side="left")
    tokenizer.save_pretrained(tmp_path)
    config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), bos_token_id=3, eos_token_id=3,
                                  **FAMILIES["gpt2"])  # fmt: skip
    AutoModel.from_config(config).save_pretrained(tmp_path)
    fitted = fit(model_name_or_path=str(tmp_path), max_length=32, training=TRAINING)
    assert fitted._model.config.pad_token_id == tokenizer.convert_tokens_to_ids("[SEP]")
    rows = labeled().rows
    np.testing.assert_allclose(  # alone, nothing is padded
        fitted.predict(rows.slice(3, 1)).probs_BC, fitted.predict(rows).probs_BC[3:4], atol=1e-5
    )


def test_a_text_that_is_longer_than_the_network_takes_is_refused_before_training() -> None:
    for family, positions in (("distilbert", 16), ("roberta", 17)):
        few = {"model_type": family, **FAMILIES[family], "max_position_embeddings": positions}
        with pytest.raises(ModelError, match="takes 16 tokens, max_length is 32; lower max_length"):
            fit(**options(config=few))
        assert network(TransformerSpec(**{**options(config=few), "max_length": 16}))


def test_sizes_that_a_network_cannot_have_are_refused() -> None:
    with pytest.raises(ModelError, match="multiple of the number of attention heads"):
        fit(**options(config={"model_type": "bert", **SMALL, "hidden_size": 33}))


@pytest.mark.parametrize(("chosen", "expected"), [
    ({}, "exactly one of model_name_or_path, config"),
    ({"model_name_or_path": "a/b", "config": {"model_type": "bert"}}, "exactly one of model_name_or_path, config"),
    ({"model_name_or_path": "a/b", "vocab_size": 500}, "vocab_size belongs to config"),
    ({"config": {"model_type": "bert"}, "revision": "main"}, "revision belongs to model_name_or_path"),
    ({"config": {"model_type": "distilbrt"}}, "did you mean distilbert"),
    ({"config": {"model_type": "distilbert", "n_layer": 2}}, "did you mean n_layers"),
    ({"config": {"model_type": "bert", "num_labels": 2}}, "decided by the tokenizer and the labels"),
    ({"model_name_or_path": "a/b", "trust_remote_code": True}, "pin revision to a commit"),
    ({"model_name_or_path": "a/b", "trust_remote_code": True, "revision": "main"}, "pin revision to a commit"),
    ({"model_name_or_path": "a/b", "layerwise_lr_decay": 0}, "greater than 0"),
    ({"model_name_or_path": "/a/folder", "revision": "main"}, "is a folder; leave it out"),
    ({"model_name_or_path": "a/b", "head_learning_rate": 0.1}, "does nothing without head_first_epochs"),
])  # fmt: skip
def test_options_that_contradict_each_other_are_refused(chosen: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        TransformerSpec(**chosen)


def test_code_of_a_model_needs_a_commit_or_a_folder(tmp_path: Path) -> None:
    assert TransformerSpec(model_name_or_path="a/b", trust_remote_code=True, revision="0123456789" * 4)
    assert TransformerSpec(model_name_or_path=str(tmp_path), trust_remote_code=True)


@pytest.mark.parametrize(("file", "key", "load"), [
    ("config.json", "AutoConfig", pretrained.load_config),
    ("config.json", "AutoModel", lambda *args, **kwargs: pretrained.load_model(AutoModel, *args, **kwargs)),
    ("tokenizer_config.json", "AutoTokenizer", pretrained.load_tokenizer),
])  # fmt: skip
def test_code_of_another_repository_is_refused(saved: Path, tmp_path: Path, file: str, key: str, load: Any) -> None:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert load(str(tmp_path), trust_remote_code=True) is not None
    reference = "other/repo--code.Class"
    values = json.loads((tmp_path / file).read_text())
    auto_map = {key: [None, reference] if key == "AutoTokenizer" else reference}
    (tmp_path / file).write_text(json.dumps({**values, "auto_map": auto_map}))
    with pytest.raises(ModelError, match="runs code of other/repo "):
        load(str(tmp_path), trust_remote_code=True)


def test_a_part_of_the_training_options_leaves_the_rest_as_transformers_want_it() -> None:
    training = TransformerSpec(config={"model_type": "bert"}, training={"num_train_epochs": 5}).training
    assert (training.optimizer, training.learning_rate, training.num_train_epochs) == ("adamw", 2e-5, 5)


def test_a_single_class_or_no_row_is_refused() -> None:
    for train in (labeled(4, names=("all",)), labeled(0)):
        with pytest.raises(TrainingError, match="at least 2 classes"):
            fit(train)


def test_classifier_dropout_is_set_by_the_name_of_the_family() -> None:
    for family, key in (("distilbert", "seq_classif_dropout"), ("bert", "classifier_dropout")):
        model = network(TransformerSpec(**options(family, classifier_dropout=0.37))).model
        assert getattr(model.config, key) == 0.37
        assert 0.37 in {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    with pytest.raises(ModelError, match="has no dropout before its classifier"):
        network(TransformerSpec(**options("gpt2", classifier_dropout=0.37)))


# How it is trained


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_each_layer_learns_more_slowly_than_the_one_above(family: str) -> None:
    """Howard & Ruder 2018: eta of layer l - 1 is eta of layer l times the decay; embeddings are the lowest."""
    config = AutoConfig.for_model(family, vocab_size=60, pad_token_id=0, **FAMILIES[family])
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    scales = layer_scales(model, 0.5)
    assert set(scales) == {name for name, _ in model.named_parameters()} - set(pretrained.head_parameters(model))
    of_layer = {number: {scale for name, scale in scales.items() if f".{number}." in name.partition("ayer.0.S")[0]}
                for number in (0, 1)}  # fmt: skip
    assert of_layer[1] >= {0.5} and of_layer[0] >= {0.25}
    assert set(scales.values()) == {0.5, 0.25, 0.125}
    tables = {id(m.weight) for m in model.base_model.modules() if isinstance(m, torch.nn.Embedding)}
    inside = ("layer.", "block.", ".h.", "layers.")
    for name, parameter in model.named_parameters():
        if id(parameter) in tables and not any(part in name for part in inside):
            assert scales[name] == 0.125, name
    assert layer_scales(model, 1.0) == {}


def test_rates_are_those_of_electra_but_for_one_step_below_the_head() -> None:
    config = AutoConfig.for_model("electra", vocab_size=60, **{**FAMILIES["electra"], "num_hidden_layers": 3})
    with torch.device("meta"):
        scales = layer_scales(AutoModelForSequenceClassification.from_config(config), 0.8)
    depths = {"electra.embeddings.": 0, "electra.embeddings_project.": 0,
              **{f"electra.encoder.layer.{number}.": number + 1 for number in range(3)}}  # fmt: skip
    for name, scale in scales.items():
        (depth,) = [depth for prefix, depth in depths.items() if name.startswith(prefix)]
        assert scale * 0.8 == pytest.approx(0.8 ** (3 + 2 - depth))


def test_a_first_training_leaves_the_body_untouched_and_a_second_does_not() -> None:
    spec, train = TransformerSpec(**options()), labeled()
    made = network(spec)
    model, tokenizer = made.model, made.tokenizer
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed: list[set[str]] = []

    def on_event(event: dict[str, Any]) -> None:
        changed.append({name for name, value in model.state_dict().items() if not torch.equal(value, before[name])})

    result = fine_tune(
        model, token_examples(train.rows.column("text"), tokenizer, max_length=32), train, dev=None,
        spec=spec.training, seed=0, context=FitContext(on_event=on_event), what="it", head_first_epochs=2,
    )  # fmt: skip
    head = set(pretrained.head_parameters(model))
    assert changed[0] == changed[1] == head
    assert len(changed[2]) > len(head)
    assert (result.epochs_run, result.best_epoch, result.steps, len(result.history)) == (3, 3, 9, 3)
    assert [event["what"] for event in result.history] == ["it (head)", "it (head)", "it"]
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("changed", ["device", "sharded"])
def test_a_head_of_other_hardware_is_trained_again(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(TransformerSpec(**options())).model
    state = type("State", (), {"num_processes": 2})
    monkeypatch.setattr(finetuning, "process_state", lambda: state)

    def key() -> str:
        return finetuning._head_key(
            model,
            labeled(),
            dev=None,
            spec=FineTuningSpec(),
            seed=0,
            context=FitContext(data_parallel=True),
            options=[],
        )

    before = key()
    assert key() == before
    if changed == "device":
        monkeypatch.setattr(finetuning, "device", lambda: torch.device("cuda"))
    else:
        monkeypatch.setattr(finetuning, "wants_sharding", lambda: True)
    assert key() != before


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5])
def test_a_training_that_was_stopped_in_either_part_ends_with_the_same_weights(tmp_path: Path, stop_after: int) -> None:
    chosen = options(head_first_epochs=1, layerwise_lr_decay=0.9)  # 3 steps, then 3 steps
    events: list[dict[str, Any]] = []
    whole = fit(**chosen)
    answers = iter([False] * stop_after + [True] + [False] * 100)
    context = FitContext(tmp_path, events.append, lambda: next(answers))
    with pytest.raises(Interrupted):
        fit(**chosen, context=context)
    events.clear()
    again = fit(**chosen, context=context)
    assert again.fingerprint == whole.fingerprint
    assert again.report["steps"] == whole.report["steps"] == 6
    assert len(again.report["history"]) == 2
    assert len(events) == (2 if stop_after < 3 else 1)  # a finished first part is not trained again


def test_a_damaged_head_is_trained_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = options(head_first_epochs=1)
    whole = fit(**chosen, context=FitContext(tmp_path))
    for damage in ("flip", "other"):
        file = tmp_path / "head-done" / ("head.safetensors" if damage == "flip" else "head.json")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
        assert fit(**chosen, context=FitContext(tmp_path)).fingerprint == whole.fingerprint
        assert "the head is trained again" in caplog.text
        caplog.clear()


def test_gradient_checkpointing_changes_nothing_but_memory() -> None:
    with_it, without = fit(**options(gradient_checkpointing=True)), fit(**options())
    for left, right in zip(with_it._model.parameters(), without._model.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in with_it._model.modules())


@pytest.mark.parametrize("head_first_epochs", [0, 1])
def test_a_dev_set_chooses_the_epoch(head_first_epochs: int) -> None:
    train, dev = labeled(40), labeled(30)
    learner = make_learner("transformer", **options(
        head_first_epochs=head_first_epochs, group_by_length=False, training={**TRAINING, "num_train_epochs": 3}
    ))  # fmt: skip
    predictor = learner.fit(train, dev=dev, seed=0, context=FitContext(data_parallel=True))
    history = predictor.report["history"]
    best = history[predictor.report["best_epoch"] - 1]["dev_accuracy"]
    assert best == max(event["dev_accuracy"] for event in history[head_first_epochs:])
    assert (predictor.predict(dev.rows).probs_BC.argmax(1) == dev.labels_L).mean() == pytest.approx(best)


def test_it_learns() -> None:
    train = labeled(160)
    training = {"num_train_epochs": 10, "learning_rate": 3e-3, "global_batch_size": 8}
    predictor = fit(train, **options(training=training, vocab_size=700))
    losses = [event["loss"] for event in predictor.report["history"]]
    assert losses[-1] < 0.5 * losses[0] < 0.6 * math.log(4)
    assert (predictor.predict(train.rows).probs_BC.argmax(1) == train.labels_L).mean() > 0.9


def test_the_generator_of_the_caller_is_left_alone() -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    fit(labeled(4))
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(3):
        assert not torch.equal(torch.get_rng_state(), state)
