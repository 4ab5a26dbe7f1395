"""Scoring with a transformer: texts per CPU second with fixed padding, dynamic padding, and batches cut by length.

    .venv/bin/python benchmarks/transformer_scoring.py [--weights FOLDER] [--data PARQUET] [--texts 1024]

Takes about 4 minutes. Without weights, a network of the shape of MiniLM-L6 with random ones; without data,
../shared/data/ag_news (or $SVP_SHARED/ag_news). One thread; the three ways take turns in one process.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from vdcnn import machine

from svp_nlp.models.classifiers import WithFeatures, make_classifier
from svp_nlp.models.prediction import predict
from svp_nlp.models.tokens import token_examples, token_lengths
from svp_nlp.models.transformer import TransformerLearner, TransformerSpec

SHARED = Path(os.environ.get("SVP_SHARED", Path(__file__).parents[1] / "../shared/data"))
MINILM = {"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
          "intermediate_size": 1536}  # fmt: skip
CLASS_NAMES = ("World", "Sports", "Business", "Sci/Tech")
MAX_LENGTH = 128


def read_texts(path: Path | None, count: int) -> pa.ChunkedArray:
    """Shuffled texts of AG News."""
    files = [path] if path else sorted((SHARED / "ag_news" / "data").glob("train*.parquet"))
    if not files:
        raise SystemExit("no data: name a Parquet file with a column `text` by --data")
    texts = pq.read_table(files[0], columns=["text"]).column("text")
    return texts.take(np.random.default_rng(0).permutation(len(texts))[:count])


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """What it gives, and its seconds of CPU."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, help="folder of an encoder, as all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, help="Parquet file with a column `text`")
    parser.add_argument("--texts", type=int, default=1024)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = read_texts(arguments.data, arguments.texts)
    source = {"model_name_or_path": str(arguments.weights)} if arguments.weights else {"config": MINILM}
    spec = TransformerSpec(**source, max_length=MAX_LENGTH)
    made = make_classifier(spec, CLASS_NAMES, texts, pool=None, seed=0, max_length=MAX_LENGTH)
    model = WithFeatures(made.model).eval()

    examples, seconds = timed(lambda: token_examples(texts, made.tokenizer, max_length=MAX_LENGTH))
    fixed = token_examples(texts, made.tokenizer, max_length=MAX_LENGTH, pad_to_multiple_of=MAX_LENGTH)
    rows_per_batch = TransformerLearner(spec).rows_per_batch
    cuts = range(0, len(texts), rows_per_batch)
    parts = [token_examples(texts.slice(c, rows_per_batch), made.tokenizer, max_length=MAX_LENGTH) for c in cuts]

    table = Table("batch", "padding", "texts a CPU second", "against fixed", "against dynamic",
                  "largest difference of a probability", title="scoring with a transformer")  # fmt: skip
    for size in (32, 64):
        works = {
            "fixed: all to max_length": lambda size=size: predict(model, fixed, batch_size=size).probs_BC,
            "dynamic: to the batch's longest": lambda size=size: predict(model, examples, batch_size=size).probs_BC,
            f"dynamic, sorted inside {rows_per_batch}": lambda size=size: np.concatenate(
                [predict(model, part, batch_size=size, group_by_length=True).probs_BC for part in parts]
            ),
        }
        found = {name: timed(work) for name, work in works.items()}
        rates = {name: len(texts) / spent for name, (_, spent) in found.items()}
        first, second, _ = works
        for name, (probs_NC, _) in found.items():
            difference = np.abs(probs_NC - found[first][0]).max()
            table.add_row(str(size), name, f"{rates[name]:.1f}", f"{rates[name] / rates[first]:.2f}",
                          f"{rates[name] / rates[second]:.2f}", f"{difference:.1e}")  # fmt: skip
    lengths = token_lengths(texts, made.tokenizer, max_length=MAX_LENGTH)
    console = Console()
    console.print(
        machine(),
        f"{len(texts):,} texts: mean {lengths.mean:.0f} tokens, p95 {lengths.p95:.0f}, {lengths.truncated:.1%} cut at "
        f"{MAX_LENGTH}; tokenising them: {len(texts) / seconds:,.0f} a CPU second",
        "wanted: sorted 2x fixed and 1.5x dynamic, differences under 1e-5",
        table,
        sep="\n",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
