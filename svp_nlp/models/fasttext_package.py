"""The official fastText package as an engine, called in the only ways that are safe.

What is known of it (0.9.3 and its forks, all unmaintained):

- it initialises its R x D weights in blocks of R x D / 10 rounded down, one per thread: with 10 threads up to 9
  weights, with fewer a large part is uninitialised memory, NaN at worst: it is always given 20 or more;
- so its weights differ from run to run, whatever the seed;
- `predict("one text")` fails under numpy 2, and some builds give wrong numbers for a list without a word: only lists
  are predicted, and `self_test` refuses such a build;
- its probabilities carry 1e-5 too much each (it predicts exp(log(p + 1e-5))): that is taken off again;
- a truncated file may hang it or load as an empty model: a file is hashed before it is opened (models/base.py).
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from svp_nlp.arrays import FloatNC, fingerprint_array, fingerprint_json
from svp_nlp.errors import ModelError, TrainingError
from svp_nlp.models.base import FitContext, Labeled, Prediction, write_config
from svp_nlp.models.fasttext_kernels import EOS, LABEL_PREFIX
from svp_nlp.models.fasttext_native import texts_of
from svp_nlp.models.normalize import Normalization, normalize_texts

if TYPE_CHECKING:
    from svp_nlp.models.fasttext import FastTextSpec

MODEL_FILE = "model.bin"
_LABEL, _EOS = LABEL_PREFIX.decode(), EOS.decode()
_SAFE_THREADS = 20  # covers every weight of any matrix of 10 or more: DenseMatrix::uniformThread, densematrix.cc
_SELF_TEST = "__label__0 a b c\n__label__1 d e f\n" * 5
_FEWEST_WEIGHTS = 10  # of fewer it initialises none
_ROWS_PER_CALL = 10_000


def _package() -> Any:
    """Import the package and silence the warning that it prints when a model is loaded.

    Raises:
        ModelError: it is not installed, or cannot be imported.
    """
    try:
        import fasttext
    except ImportError as error:
        raise ModelError(
            f'engine fasttext needs the official package ({error}): pip install "svp_nlp[fasttext]", '
            "which needs a C++ compiler; or use engine: native"
        ) from None
    fasttext.FastText.eprint = lambda *_: None
    return fasttext


@functools.cache
def self_test() -> None:
    """Train a toy model and refuse a build whose list prediction is wrong. Milliseconds, once per process.

    Raises:
        ModelError: the package is not there, or predicts wrong.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "train.txt"
        path.write_text(_SELF_TEST, encoding="utf-8")
        model = _package().train_supervised(
            input=str(path), dim=2, epoch=5, lr=0.5, wordNgrams=2, bucket=1000, thread=_SAFE_THREADS, verbose=0
        )
    texts = ["a b c", "d e f", "a e", "b"]
    probs_BC = _probs(model, texts, 2)
    single_BC = np.concatenate([_probs(model, [text], 2) for text in texts])
    raw = [float(sum(row)) for row in model.predict(texts, k=-1)[1]]
    if max(abs(total - 1) for total in raw) > 1e-3 or not np.array_equal(probs_BC, single_BC):
        raise ModelError(
            "engine fasttext: this build of the package predicts wrong numbers for a list of texts (known of builds "
            'for numpy 1 under numpy 2): pip install --force-reinstall "fasttext>=0.9.3"; or use engine: native'
        )


def _lines(texts: pa.ChunkedArray, normalize: Normalization) -> pa.ChunkedArray:
    """Texts as the package can take them: one line each, without the tokens that it reads as labels or as the end."""
    if normalize == "svp":
        texts = normalize_texts(texts)
    lines = pc.replace_substring(texts, "\n", " ")
    odd = pc.or_(pc.match_substring(lines, _LABEL), pc.match_substring(lines, _EOS))
    if not pc.any(odd).as_py():
        return lines
    separators = r"[ \t\v\f\r\x00]"
    # Twice, because a match takes the separator that the next token would need before it.
    for _ in range(2):
        for token in (rf"{_LABEL}[^ \t\v\f\r\x00]*", _EOS):
            lines = pc.replace_substring_regex(lines, f"(^|{separators}){token}({separators}|$)", r"\1\2")
    return lines


def _probs(model: Any, lines: list[str], num_classes: int) -> FloatNC:
    """float32 [B, C], rows sum to 1; a text without any known feature gets equal probabilities, as natively."""
    probs_BC = np.zeros((len(lines), num_classes), dtype=np.float64)
    if lines:
        labels, values = model.predict(lines, k=-1)
        for row, (names, row_values) in enumerate(zip(labels, values, strict=True)):
            for name, value in zip(names, row_values, strict=True):
                probs_BC[row, int(name[len(_LABEL) :])] = max(float(value) - 1e-5, 0.0)
    probs_BC[probs_BC.sum(axis=1) <= 0] = 1.0
    return (probs_BC / probs_BC.sum(axis=1, keepdims=True)).astype(np.float32)


@dataclass(eq=False)
class PackagePredictor:
    """A model that the official package holds; labels in its file are class numbers."""

    spec: FastTextSpec
    class_names: tuple[str, ...]
    model: Any
    report: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        matrices = [np.asarray(self.model.f.getInputMatrix()), np.asarray(self.model.f.getOutputMatrix())]
        parts = {
            "spec": self.spec.fingerprint,
            "class_names": self.class_names,
            "words": self.model.get_words(),
            "labels": self.model.get_labels(),
            "matrices": [fingerprint_array(matrix) for matrix in matrices],
        }
        self.fingerprint = fingerprint_json(parts)

    def predict(self, batch: pa.Table, *, embeddings: bool = False) -> Prediction:
        """Probabilities; embeddings are a second pass, because the package does not give them with predictions."""
        lines = _lines(texts_of(batch), self.spec.normalize)
        probs, hidden = [np.zeros((0, len(self.class_names)), np.float32)], [np.zeros((0, self.spec.dim), np.float32)]
        for start in range(0, len(lines), _ROWS_PER_CALL):
            part = lines.slice(start, _ROWS_PER_CALL).to_pylist()
            probs.append(_probs(self.model, part, len(self.class_names)))
            if embeddings:
                hidden.append(np.stack([self.model.get_sentence_vector(line) for line in part]).astype(np.float32))
        return Prediction(np.concatenate(probs), np.concatenate(hidden) if embeddings else None)

    def save(self, directory: Path) -> None:
        """Write config.json and model.bin (4 bytes x dim x bucket) into an existing directory."""
        self.model.save_model(str(directory / MODEL_FILE))
        write_config(directory, spec=self.spec, class_names=self.class_names, weights=MODEL_FILE, report=self.report)


def fit(
    spec: FastTextSpec, train: Labeled, *, learning_rate: float, epochs: int, seed: int, context: FitContext
) -> PackagePredictor:
    """Train with the package. It cannot be stopped half-way and does not tell its loss.

    Raises:
        ModelError: the package is not there or does not work.
        TrainingError: it met a NaN, or found no word at all.
    """
    self_test()
    context.raise_if_stopped("fastText training")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "train.txt"
        lines = _lines(texts_of(train.rows), spec.normalize)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for label, line in zip(train.labels_L.tolist(), lines, strict=True):
                file.write(f"{_LABEL}{label} {line.as_py()}\n")
        try:
            model = _package().train_supervised(
                input=str(path),
                dim=spec.dim,
                lr=learning_rate,
                epoch=epochs,
                wordNgrams=spec.word_ngrams,
                minCount=spec.min_count,
                bucket=spec.bucket,
                loss="softmax",
                thread=max(_SAFE_THREADS, os.cpu_count() or 1),
                seed=seed % 2**31,
                verbose=0,
            )
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"fastText package, {len(train):,} examples, learning rate {learning_rate:g}: {error}; "
                "use a smaller learning_rate or min_count"
            ) from None
    if np.asarray(model.f.getInputMatrix()).size < _FEWEST_WEIGHTS:
        raise TrainingError(
            f"fastText package: {len(model.words)} words of {spec.dim} dimensions are too few for it to initialise; "
            "use a larger dim or engine: native"
        )
    if not math.isfinite(float(np.asarray(model.f.getOutputMatrix()).sum())):
        raise TrainingError(
            f"fastText package: weights are not finite at learning rate {learning_rate:g}; use a smaller one"
        )
    report = {"labeled_size": len(train), "learning_rate": learning_rate, "epochs": epochs, "words": len(model.words)}
    context.on_event({"event": "epoch", "what": "fastText package", "epoch": epochs, "epochs": epochs})
    return PackagePredictor(spec, train.class_names, model, report)


def load(path: Path, *, spec: FastTextSpec, class_names: tuple[str, ...], report: dict[str, Any]) -> PackagePredictor:
    """Open a model.bin that `PackagePredictor.save` wrote and `read_config` has verified.

    Raises:
        ModelError: the package is not there or cannot open the file.
    """
    self_test()
    try:
        model = _package().load_model(str(path))
    except ValueError as error:
        raise ModelError(f"{path}: the fastText package cannot open it ({error}); train it again") from None
    return PackagePredictor(spec, class_names, model, report)
