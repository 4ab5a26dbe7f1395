"""Our training loop against transformers.Trainer: the same weights, rows, global batch, precision and number of steps.

Takes about 5 minutes on one thread of a CPU. Reads ../shared/data/ag_news (or $SVP_SHARED/ag_news), else makes texts
up with like lengths. A model of the shape of MiniLM with random weights, or any that --model names. Once both shuffle
and pad to the longest of a batch; once ours groups by length, as it does by default. Rates are per CPU second of this
process (on a GPU per second), runs take turns, the best of each counts.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from vdcnn import machine

from svp_nlp.models.base import FitContext, TrainingSpec
from svp_nlp.models.tokens import token_examples
from svp_nlp.models.training import device, seeded, train

SHARED = Path(os.environ.get("SVP_SHARED", Path(__file__).parents[1] / "../shared/data"))
CLASSES, MAX_LENGTH = 4, 256


def texts_and_labels(rows: int) -> tuple[list[str], np.ndarray, str]:
    """Shuffled texts, labels in [0, 4), and what they are."""
    rng = np.random.default_rng(0)
    files = sorted((SHARED / "ag_news" / "data").glob("train*.parquet"))
    if files:
        table = pq.read_table(files[0], columns=["text", "label"])
        table = table.take(rng.permutation(len(table))[:rows])
        return table.column("text").to_pylist(), table.column("label").to_numpy(), "AG News"
    sizes = rng.lognormal(np.log(36), 0.35, rows).astype(int)
    words = [f"word{number}" for number in range(2_000)]
    return [" ".join(rng.choice(words, size)) for size in sizes], rng.integers(CLASSES, size=rows), "made-up texts"


def load(name: str | None, texts: list[str]) -> tuple[Any, Any]:
    """Model and tokenizer."""
    if name is not None:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(name, num_labels=CLASSES)
        return model, transformers.AutoTokenizer.from_pretrained(name)
    from tokenizers import BertWordPieceTokenizer

    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(texts, vocab_size=8_000, show_progress=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        num_labels=CLASSES,
    )  # fmt: skip
    with seeded(0):
        return transformers.BertForSequenceClassification(config), tokenizer


def clock() -> float:
    """CPU seconds of this process, so that other programs count less; seconds where a GPU does the work."""
    if device().type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def with_trainer(model: Any, tokenizer: Any, encoded: Dataset, options: argparse.Namespace) -> float:
    """Mean loss of one epoch."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = transformers.TrainingArguments(
            output_dir=directory, per_device_train_batch_size=options.batch_size, num_train_epochs=1,
            learning_rate=5e-5, weight_decay=0.01, max_grad_norm=1.0, save_strategy="no", logging_strategy="no",
            report_to="none", disable_tqdm=True, bf16=options.bf16, use_cpu=device().type == "cpu",
        )  # fmt: skip
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=encoded,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        done = trainer.train()
    steps = -(-len(encoded) // options.batch_size)
    assert done.global_step == steps
    return float(done.training_loss)


def with_ours(model: Any, examples: Any, labels_L: np.ndarray, options: argparse.Namespace) -> float:
    """Mean loss of one epoch."""
    spec = TrainingSpec(
        optimizer="adamw", num_train_epochs=1, learning_rate=5e-5, weight_decay=0.01, max_grad_norm=1.0,
        global_batch_size=options.batch_size, mixed_precision="bf16" if options.bf16 else "no",
    )  # fmt: skip
    result = train(
        model, examples, labels_L, positions_L=np.arange(len(labels_L)), dev=None, training=spec, seed=0,
        context=FitContext(),
    )  # fmt: skip
    assert result.steps == -(-len(labels_L) // options.batch_size)
    return float(result.history[0]["loss"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a directory or name for from_pretrained; default: MiniLM's shape, untrained")
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    texts, labels_L, source = texts_and_labels(options.rows)
    model, tokenizer = load(options.model, texts)
    encoded = Dataset.from_dict(
        {**tokenizer(texts, truncation=True, max_length=MAX_LENGTH), "labels": labels_L.tolist()}
    )
    rows = pa.array(texts)
    shuffled = token_examples(rows, tokenizer, max_length=MAX_LENGTH, group_by_length=False)
    grouped = token_examples(rows, tokenizer, max_length=MAX_LENGTH)
    ways: dict[str, Callable[[Any], float]] = {
        "transformers.Trainer": lambda copied: with_trainer(copied, tokenizer, encoded, options),
        "ours, shuffled": lambda copied: with_ours(copied, shuffled, labels_L, options),
        "ours, grouped by length": lambda copied: with_ours(copied, grouped, labels_L, options),
    }
    best = dict.fromkeys(ways, float("inf"))
    losses: dict[str, float] = {}
    for _ in range(options.repeats):
        for name, way in ways.items():
            copied = copy.deepcopy(model)
            started = clock()
            losses[name] = way(copied)
            best[name] = min(best[name], clock() - started)
    assert grouped.lengths_N is not None
    table = Table("", "examples/s", "against Trainer", "mean loss", title="one epoch")
    for name, seconds in best.items():
        ratio = best["transformers.Trainer"] / seconds
        table.add_row(name, f"{len(texts) / seconds:.1f}", f"{ratio:.2f}x", f"{losses[name]:.3f}")
    size = sum(value.numel() for value in model.parameters()) / 1e6
    console = Console()
    console.print(
        f"{machine()}, transformers {transformers.__version__}, {device().type}",
        f"{source}: {len(texts):,} texts of {grouped.lengths_N.mean():.0f} tokens, {size:.1f} M parameters, "
        f"batches of {options.batch_size}, {'bf16' if options.bf16 else 'fp32'}",
        sep="\n", soft_wrap=True,
    )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
