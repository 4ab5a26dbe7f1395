"""Full sizes on a CPU: DistilBERT and BERT-large with random weights take steps, stop, resume, are saved and loaded.

    .venv/bin/python benchmarks/transformer_shapes.py [distilbert] [bert_large]

BERT-large takes about 5 minutes, 9 GB of memory and 6 GB below the temporary directory. One thread, each size in a
process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from vdcnn import machine

from svp_nlp.errors import Interrupted
from svp_nlp.models import load_predictor, make_learner
from svp_nlp.models.base import FitContext, Labeled
from svp_nlp.models.pretrained import quiet_transformers
from svp_nlp.models.tokens import train_tokenizer

T = TypeVar("T")
SHAPES = {
    "distilbert": {"model_type": "distilbert"},
    "bert_large": {"model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                   "intermediate_size": 4096},
}  # fmt: skip
ROWS, BATCH_SIZE, TOKENS = 8, 4, 64


def timed(what: str, work: Callable[[], T]) -> T:
    """Do it, print the wall seconds and the most memory that the process has had so far."""
    started = time.perf_counter()
    result = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  {what:<46} {time.perf_counter() - started:7.1f} s   peak {peak:5.1f} GB", flush=True)
    return result


def rows() -> Labeled:
    """Texts of made-up words, long enough for all positions."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), rng.integers(3, 9))) for _ in range(20_000)]
    texts = [" ".join(rng.choice(words, 4 * TOKENS)) for _ in range(ROWS)]
    return Labeled(pa.table({"text": texts}), np.arange(ROWS) % 2, np.arange(ROWS), ("no", "yes"))


def make_encoder(name: str, directory: Path, train: Labeled) -> None:
    """A folder as a pretrained encoder is one: random weights of full size, a tokenizer of few words."""
    from transformers import AutoConfig, AutoModel

    with quiet_transformers():
        AutoModel.from_config(AutoConfig.for_model(**SHAPES[name])).save_pretrained(directory)
    train_tokenizer(train.rows.column("text").to_pylist(), 1_000).save_pretrained(directory)


def try_shape(name: str) -> None:
    """Train, stop after a step, resume, save and load one shape; print what each takes."""
    torch.set_num_threads(1)
    train = rows()
    training = {"num_train_epochs": 1, "global_batch_size": BATCH_SIZE, "checkpoint_every_s": 0}
    with tempfile.TemporaryDirectory() as scratch:
        encoder, checkpoints, saved = (Path(scratch) / part for part in ("encoder", "checkpoints", "saved"))
        saved.mkdir()
        timed("make an encoder with random weights", lambda: make_encoder(name, encoder, train))
        learner = make_learner(
            "transformer", model_name_or_path=str(encoder), max_length=TOKENS,
            training=training,
        )  # fmt: skip
        answers = iter([False, True])
        context = FitContext(checkpoints, stop_requested=lambda: next(answers, False))

        def first_step() -> None:
            try:
                learner.fit(train, dev=None, seed=0, context=context)
            except Interrupted:
                return
            raise SystemExit("was not stopped")

        timed("load, one step of 4 x 64 tokens, checkpoint", first_step)
        size = sum(file.stat().st_size for file in checkpoints.rglob("*") if file.is_file()) / 2**30
        resumed = timed(f"load, resume from {size:.1f} GB, one step", lambda: learner.fit(
            train, dev=None, seed=0, context=FitContext(checkpoints)))  # fmt: skip
        whole = timed("load, two steps at once", lambda: learner.fit(train, dev=None, seed=0, context=FitContext()))
        same = whole.fingerprint == resumed.fingerprint
        del whole
        timed("save", lambda: resumed.save(saved))
        loaded = timed("load (and check sha256)", lambda: load_predictor(saved))
        given, again = resumed.predict(train.rows).probs_BC, loaded.predict(train.rows).probs_BC
        parameters, files = resumed.report["parameters"], sorted(file.name for file in saved.iterdir())
        print(f"  {parameters:,} parameters; files: {', '.join(files)}")
        print(f"  resumed = whole: {same}; loaded = saved: {np.array_equal(given, again)}", flush=True)


def main() -> None:
    """Each shape in a process of its own, so that peaks of memory are its own."""
    chosen = sys.argv[1:] or list(SHAPES)
    if chosen[0] == "--one":
        try_shape(chosen[1])
        return
    print(machine())
    for name in chosen:
        print(name, flush=True)
        subprocess.run([sys.executable, __file__, "--one", name], check=True)


if __name__ == "__main__":
    main()
