"""VDCNN: characters encoded, reviews trained on with fixed and bucket padding, texts scored, each per CPU second.

Takes about 2 minutes. Reads ../shared/data/amazon_reviews (or $SVP_SHARED/amazon_reviews), else makes texts up with
the same lengths. One thread; every ratio is between numbers of one run, because other programs disturb absolute ones.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from svp_nlp.models.base import FitContext, Labeled, TrainingSpec
from svp_nlp.models.text import SYMBOLS, character_examples, encode_characters
from svp_nlp.models.vdcnn import VDCNN, VDCNNLearner, VDCNNSpec

SHARED = Path(os.environ.get("SVP_SHARED", Path(__file__).parents[1] / "../shared/data"))
MAX_LENGTH = 1014
CODES = {symbol: code for code, symbol in enumerate(SYMBOLS, start=2)}


def reviews() -> tuple[pa.ChunkedArray, str]:
    """Shuffled texts, and what they are."""
    rng = np.random.default_rng(0)
    files = sorted((SHARED / "amazon_reviews" / "data").glob("train*.parquet"))
    if files:
        texts = pq.read_table(files[0], columns=["text"]).column("text")
        return texts.take(rng.permutation(len(texts))[:20_000]), "amazon_reviews"
    # Median 360 characters and 17 % above 1,014, as the reviews have.
    sizes = rng.lognormal(np.log(360), 1.08, 20_000).astype(int)
    return pa.chunked_array([["".join(rng.choice(list(SYMBOLS), size)) for size in sizes]]), "made-up texts"


def cpu_seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """The best of some runs, in seconds of CPU."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def encode_by_character(text: str) -> np.ndarray:
    """What the authors' code does for each text in each epoch."""
    codes = np.array([CODES.get(character, 1) for character in text.lower()])
    return np.concatenate([codes[:MAX_LENGTH], [0] * (MAX_LENGTH - len(codes))]).astype(np.int64)


def encoding(texts: pa.ChunkedArray) -> Table:
    """Microseconds for each text, both ways up to a filled batch."""
    some = texts.slice(0, 2_000).to_pylist()
    by_character = cpu_seconds(lambda: [encode_by_character(text) for text in some], 2) / len(some)
    encoded = cpu_seconds(lambda: encode_characters(texts, max_length=MAX_LENGTH), 3) / len(texts)
    examples = character_examples(texts, max_length=MAX_LENGTH, padding="fixed")
    batches = np.split(np.arange(len(texts) // 100 * 100), len(texts) // 100)
    filled = cpu_seconds(lambda: [examples.collate(rows_B, rng=None) for rows_B in batches], 3) / len(texts)
    table = Table("encoding", "us a text", "times as fast", title="characters to codes")
    table.add_row("a dictionary look-up each, every epoch", f"{by_character * 1e6:.1f}", "1")
    table.add_row("byte table, once", f"{encoded * 1e6:.2f}", f"{by_character / encoded:.0f} (wanted: 15)")
    table.add_row("batch from codes, every epoch", f"{filled * 1e6:.2f}", f"{by_character / filled:.0f}")
    return table


def padding(texts: pa.ChunkedArray) -> Table:
    """Reviews a CPU second in `fit`, one epoch of VDCNN-9."""
    table = Table("padding", "reviews", "a CPU second", "times as fast", title="training, VDCNN-9, batch 32")
    rates = {}
    for name, rows in (("fixed", 320), ("bucket", 1_600)):
        labels_L = np.arange(rows) % 2
        train = Labeled(pa.table({"text": texts.slice(0, rows)}), labels_L, np.arange(rows), ("a", "b"))
        training = TrainingSpec(num_train_epochs=1, global_batch_size=32)
        learner = VDCNNLearner(VDCNNSpec(depth=9, padding=name, training=training))
        context = FitContext()
        rates[name] = rows / cpu_seconds(lambda learner=learner, train=train, context=context: learner.fit(
            train, dev=None, seed=0, context=context))  # fmt: skip
        ratio = f"{rates[name] / rates['fixed']:.2f}" + (" (wanted: 1.8)" if name == "bucket" else "")
        table.add_row(name, f"{rows:,}", f"{rates[name]:.1f}", ratio)
    return table


def networks() -> Table:
    """Texts a CPU second through the network, batch 16."""
    columns = ("depth", "down-sampling", "characters", "train", "score", "score, positions innermost", "times as fast")
    table = Table(*columns, title="texts a CPU second through the network")
    for depth, downsampling in ((9, "conv"), (9, "maxpool"), (9, "kmaxpool"), (17, "conv"), (29, "conv")):
        model = VDCNN(VDCNNSpec(depth=depth, downsampling=downsampling), num_classes=2)
        for length in (256, MAX_LENGTH):
            codes_BL = torch.randint(0, 69, (16, length), dtype=torch.uint8)
            works = (
                partial(train, model, codes_BL),
                *(partial(score, model, codes_BL, inner) for inner in (True, False)),
            )
            best = [float("inf")] * 3
            for _ in range(3):  # taking turns: what disturbs one disturbs all
                best = [min(old, cpu_seconds(work)) for old, work in zip(best, works, strict=True)]
            rates = [f"{len(codes_BL) / seconds:.1f}" for seconds in best]
            table.add_row(str(depth), downsampling, f"{length:,}", *rates, f"{best[2] / best[1]:.2f}")
    return table


def train(model: VDCNN, codes_BL: torch.Tensor) -> None:
    """Forwards and backwards once, no optimiser step."""
    model.train()
    model(codes_BL).logsumexp(1).sum().backward()


@torch.inference_mode()
def score(model: VDCNN, codes_BL: torch.Tensor, channels_innermost: bool) -> None:
    """Forwards once."""
    model.eval()
    model.training = not channels_innermost  # of the outermost module alone: it chooses the memory layout
    model(codes_BL)


def machine() -> str:
    """One line: processor, cores, load, versions."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []  # fmt: skip
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {load}, 1 thread used, "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    )


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    console = Console()
    texts, source = reviews()
    lengths_N = np.minimum(np.array([len(text) for text in texts.to_pylist()]), MAX_LENGTH)
    console.print(
        machine(), f"{source}: mean {lengths_N.mean():.0f} of {MAX_LENGTH} characters", sep="\n", soft_wrap=True
    )
    for table in (encoding(texts), padding(texts), networks()):
        console.print(table)


if __name__ == "__main__":
    main()
