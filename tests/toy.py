"""Small data that every test can use: 200 texts of 4 classes, in any of the formats that a pool can have."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CLASS_NAMES = ("animals", "kitchen", "music", "weather")
_WORDS = {
    "animals": "cat dog horse paw tail whisker stable bark feather nest",
    "kitchen": "pan oven spoon flour salt dough knife plate simmer recipe",
    "music": "violin chord tempo melody drum concert singer rhythm note opera",
    "weather": "rain storm cloud sunny wind frost thunder forecast humid breeze",
}
_SHARED = "the a very old new near today people often always house small long day night"


def toy_rows(rows: int = 200, *, seed: int = 0, classes: int = 4) -> tuple[list[str], list[int]]:
    """Different texts and class indices: mostly shared words, a few words that tell the class, a serial number."""
    rng = np.random.default_rng(seed)
    shared = _SHARED.split()
    texts, labels = [], []
    for row in range(rows):
        label = int(rng.integers(classes))
        own = _WORDS[CLASS_NAMES[label]].split()
        words = [*rng.choice(shared, size=6), *rng.choice(own, size=int(rng.integers(1, 4))), f"no{seed}x{row}"]
        rng.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def write_toy(
    path: Path, *, rows: int = 200, test_rows: int = 100, seed: int = 0, class_names: Sequence[str] = CLASS_NAMES
) -> Path:
    """Write the toy pool; what `path` is called decides how: a folder like a Hub dataset, .parquet, .csv, .jsonl[.gz].

    A folder has ClassLabel features and the splits train and test; files have class names and the train rows only.
    """
    texts, labels = toy_rows(rows, seed=seed)
    names = [CLASS_NAMES[label] for label in labels]
    if not path.suffix:
        _write_split(path / "data" / "train-00000-of-00001.parquet", texts, names, class_names)
        texts, labels = toy_rows(test_rows, seed=seed + 1_000)
        names = [CLASS_NAMES[label] for label in labels]
        _write_split(path / "data" / "test-00000-of-00001.parquet", texts, names, class_names)
        return path
    if path.suffix == ".parquet":
        _write_split(path, texts, names, class_names)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *zip(texts, names, strict=True)])
    else:
        lines = [json.dumps({"text": text, "label": name}) for text, name in zip(texts, names, strict=True)]
        data = "".join(f"{line}\n" for line in lines).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def _write_split(path: Path, texts: list[str], names: list[str], class_names: Sequence[str]) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    path.parent.mkdir(parents=True, exist_ok=True)
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(class_names))})
    Dataset.from_dict({"text": texts, "label": names}, features=features).to_parquet(str(path))
