"""CIFAR ResNets: images a second in training and scoring, against a plain torch loop over a DataLoader.

Takes about 3 minutes on one thread of a CPU. Reads ../shared/data/cifar10 (or $SVP_SHARED/cifar10; its images were
re-encoded as JPEG), else makes JPEGs up. The plain loop decodes, crops and mirrors each image with PIL in each epoch,
in as many workers as there are other cores on a GPU's machine, and trains the same network in the usual layout. Rates
are per CPU second of this process, on a GPU per second; what is compared takes turns, the best epoch counts.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from torch.utils.data import DataLoader
from vdcnn import machine

from svp_nlp.models.base import FitContext, TrainingSpec
from svp_nlp.models.batches import collate_rng, epoch_batches
from svp_nlp.models.image import ImageExamples, image_examples
from svp_nlp.models.resnet import ResNet, ResNetSpec
from svp_nlp.models.training import device, predict, seeded, train

SHARED = Path(os.environ.get("SVP_SHARED", Path(__file__).parents[1] / "../shared/data"))
BATCH, CLASSES, SIZE = 128, 10, 32
CPU_ROWS = {8: 1_024, 14: 512, 20: 512, 56: 256, 110: 128, 164: 128}
SPEC = ResNetSpec()


def jpegs(rows: int) -> tuple[pa.Table, str]:
    """Images as a learner gets them, and what they are."""
    rng = np.random.default_rng(0)
    files = sorted((SHARED / "cifar10" / "data").glob("train*.parquet"))
    if files:
        column = pa.concat_tables([pq.read_table(file, columns=["image"]) for file in files])["image"].combine_chunks()
        data = pc.struct_field(column, "bytes").cast(pa.large_binary())
        return pa.table({"image": data.take(rng.permutation(len(data))[:rows])}), "CIFAR10, re-encoded as JPEG"
    images = []
    for _ in range(rows):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((SIZE, SIZE)).save(file, "JPEG", quality=90)
        images.append(file.getvalue())
    return pa.table({"image": pa.array(images, pa.large_binary())}), "made-up JPEGs"


class PlainImages:
    """What one writes without a toolkit: each image decoded, augmented and normalised by itself, when asked for."""

    def __init__(self, rows: pa.Table, *, augment: bool) -> None:
        self.data, self.augment = rows["image"].to_pylist(), augment
        self.mean, self.std = torch.tensor(SPEC.mean).view(3, 1, 1), torch.tensor(SPEC.std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        picture = Image.open(io.BytesIO(self.data[row])).convert("RGB")
        if self.augment:
            left, top, flip = (int(torch.randint(high, ())) for high in (9, 9, 2))
            picture = ImageOps.expand(picture, 4).crop((left, top, left + SIZE, top + SIZE))
            picture = ImageOps.mirror(picture) if flip else picture
        levels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        return (levels.float().div(255) - self.mean) / self.std, row % CLASSES


class Normalised(torch.nn.Module):
    """The network behind its normalisation, in the usual memory layout."""

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        model.mean_311.zero_()  # levels were normalised by `PlainImages`: the network is to leave them alone
        model.std_311.fill_(1 / 255)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.model(values)


def build(depth: int) -> ResNet:
    with seeded(0):
        return ResNet(ResNetSpec(depth=depth), num_classes=CLASSES)


def clock() -> float:
    """CPU seconds of this process, so that other programs count less; seconds where a GPU does the work."""
    if device().type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object]) -> float:
    started = clock()
    work()
    return clock() - started


def ours(depth: int, examples: ImageExamples, *, epochs: int, precision: str, compiled: bool) -> float:
    """Seconds of the best epoch but the first."""
    ticks: list[float] = []
    training = SPEC.training.model_dump() | {"schedule": None, "num_train_epochs": epochs + 1}
    train(
        build(depth), examples, np.arange(len(examples)) % CLASSES, positions_L=np.arange(len(examples)), dev=None,
        training=TrainingSpec.model_validate(training | {"mixed_precision": precision}), seed=0,
        context=FitContext(on_event=lambda event: ticks.append(clock())), compiled=compiled,
    )  # fmt: skip
    return float(np.diff(ticks).min())


def plain(depth: int, rows: pa.Table, *, epochs: int, precision: str, workers: int) -> float:
    """Seconds of the best epoch but the first."""
    place = device()
    model = Normalised(build(depth)).to(place).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(
        PlainImages(rows, augment=True), batch_size=BATCH, shuffle=True, num_workers=workers,
        pin_memory=place.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip

    def epoch() -> None:
        for values, labels in loader:
            with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = model(values.to(place, non_blocking=True))
            functional.cross_entropy(logits.float(), labels.to(place, non_blocking=True)).backward()
            optimizer.step()
            optimizer.zero_grad()

    return min([seconds(epoch) for _ in range(epochs + 1)][1:])


def augmented(examples: ImageExamples) -> Iterator[Any]:
    """All batches of an epoch, without a network."""
    for step, rows_B in enumerate(epoch_batches(len(examples), seed=0, epoch=0, batch_size=BATCH)):
        yield examples.collate(rows_B, rng=collate_rng(0, step, 0))


def training_table(depths: list[int], rows_of: dict[int, int], rows: pa.Table, *, epochs: int) -> Table:
    """Ours and the plain loop taking turns, and how much of ours is data."""
    gpu = device().type == "cuda"
    workers = max(0, (os.cpu_count() or 1) - 1) if gpu else 0
    title = f"training, images a {'second' if gpu else 'CPU second'}"
    table = Table("depth", "images", "precision", "plain loop", "ours", "ours / plain", "data alone", "its share",
                  title=title)  # fmt: skip
    for depth in depths:
        part = rows.slice(0, rows_of[depth])
        examples = image_examples(part, size=SIZE, train="pad_crop_flip")
        data = min(seconds(lambda examples=examples: list(augmented(examples))) for _ in range(3))
        for precision, compiled in (("no", False), ("bf16", False), ("bf16", True)) if gpu else (("no", False),):
            base = plain(depth, part, epochs=epochs, precision=precision, workers=workers)
            best = ours(depth, examples, epochs=epochs, precision=precision, compiled=compiled)
            base = min(base, plain(depth, part, epochs=epochs, precision=precision, workers=workers))
            name = ("float32" if precision == "no" else precision) + (", compiled" if compiled else "")
            size = len(examples)
            table.add_row(
                str(depth), f"{size:,}", name, f"{size / base:,.0f}", f"{size / best:,.0f}", f"{base / best:.2f}",
                f"{size / data:,.0f}", f"{100 * data / best:.1f} %",
            )  # fmt: skip
    return table


def scoring_table(depths: list[int], rows_of: dict[int, int], rows: pa.Table) -> Table:
    """Probabilities of images that were not decoded before."""
    gpu = device().type == "cuda"
    title = f"scoring, decoding included, images a {'second' if gpu else 'CPU second'}"
    table = Table("depth", "images", "precision", "plain loop", "ours", "ours / plain", title=title)
    for depth in depths:
        part = rows.slice(0, rows_of[depth])
        model = build(depth).eval().to(device())
        usual = Normalised(build(depth)).eval().to(device())
        loader = DataLoader(PlainImages(part, augment=False), batch_size=256)
        for dtype in ("float32", "bfloat16") if gpu else ("float32",):

            @torch.inference_mode()
            def by_hand(usual: Normalised = usual, loader: DataLoader = loader, dtype: str = dtype) -> None:
                for values, _ in loader:
                    with torch.autocast(device().type, torch.bfloat16, enabled=dtype == "bfloat16"):
                        usual(values.to(device())).float().softmax(1).cpu()

            def here(model: ResNet = model, part: pa.Table = part, dtype: Any = dtype) -> None:
                predict(model, image_examples(part, size=SIZE), batch_size=256, dtype=dtype)

            best = [float("inf")] * 2
            for _ in range(3):
                best = [min(old, seconds(work)) for old, work in zip(best, (by_hand, here), strict=True)]
            rates = [f"{len(part) / taken:,.0f}" for taken in best]
            table.add_row(str(depth), f"{len(part):,}", dtype, *rates, f"{best[0] / best[1]:.2f}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 164])
    parser.add_argument("--epochs", type=int, default=2, help="measured, after one that is not")
    options = parser.parse_args()
    gpu = device().type == "cuda"
    if not gpu:
        torch.set_num_threads(1)
        os.environ.setdefault("SVP_NUM_THREADS", "1")
    rows, source = jpegs(50_000 if gpu else max(CPU_ROWS.values()))
    rows_of = dict.fromkeys(CPU_ROWS, len(rows)) if gpu else CPU_ROWS
    console = Console()
    name = torch.cuda.get_device_name() if gpu else "no GPU"
    console.print(machine(), name, source, sep="\n", soft_wrap=True)
    once = min(seconds(lambda: image_examples(rows, size=SIZE)) for _ in range(2))
    console.print(f"decoding, once a training: {len(rows) / once:,.0f} images a {'' if gpu else 'CPU '}second")
    console.print(training_table(options.depths, rows_of, rows, epochs=options.epochs))
    console.print(scoring_table(options.depths, rows_of, rows))


if __name__ == "__main__":
    main()
