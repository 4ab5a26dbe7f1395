"""A run dict as a run directory gives it, with made-up numbers that look like real ones. Used by the report tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from svp_nlp import builtin_shapes
from svp_nlp.report_thumbnails import thumbnail

CLASSES = ["numpy", "pandas", "scikit-learn", "torch", "transformers", "datasets", "pyarrow", "matplotlib"]
TEXT = (
    "Return the indices of the elements that would sort the array along the given axis. The order of equal elements "
    "is kept when kind is 'stable'; otherwise it depends on the version.\nSee also: lexsort, partition, searchsorted. "
    "Examples follow in the next paragraph, where a structured array is sorted by two of its fields at once."
)


def demo_run(
    *,
    name: str = "docstrings",
    seeds: tuple[int, ...] = (0, 1, 2),
    strategies: tuple[str, ...] = ("entropy", "margin"),
    sizes: tuple[int, ...] = (1_200, 2_400, 4_800, 8_400, 12_000),
    selectors: tuple[str, ...] = ("proxy", "random", "target_selects"),
    classes: list[str] | None = None,
    mode: str = "active_learning",
    text: str = TEXT,
    usable: int = 60_000,
    random_gain: float = 0.0,
) -> dict[str, Any]:
    """`random_gain` is subtracted from random's error: choose it positive for a run in which random wins."""
    rng = np.random.default_rng(7)
    classes = CLASSES if classes is None else classes
    pool_counts = {c: int(usable / len(classes) * (0.4 + 1.2 * (i + 1) / len(classes))) for i, c in enumerate(classes)}
    run: dict[str, Any] = {
        "format": 1, "svp_nlp": "0.1.0", "name": name, "mode": mode, "created": "2026-11-22T20:00:00Z",
        "machine": {"cpu": "Example CPU 3.0 GHz", "cores": 2, "memory_gb": 24, "gpu": None, "python": "3.11.7",
                    "platform": "Linux x86_64"},
        "versions": {"torch": "2.13.0", "numpy": "2.4.6", "datasets": "5.2.0"},
        "recipe": {
            "mode": mode, "pool": {"path": "builtin:docstrings", "split": "train"}, "seeds": list(seeds),
            "proxy": {"kind": "fasttext", "dim": 10, "word_ngrams": 2, "bucket": 2_000_000, "learning_rate": "auto"},
            "target": {"kind": "vdcnn", "depth": 9, "training": {"optimizer": "sgd", "num_train_epochs": 15}},
            "strategies": list(strategies), "initial": "2%", "labeled_sizes": list(sizes[1:]),
        },
        "pool": {"path": "builtin:docstrings", "split": "train", "revision": None, "rows": usable + 1_234,
                 "usable": usable, "blank": 22, "duplicates": 1_212, "class_names": classes,
                 "fingerprint": "6f1d0a9be2c45538",
                 "class_counts": pool_counts},
        "test": {"path": "builtin:docstrings", "split": "test", "rows": 7_600, "overlap": 0},
        "rows": [], "rounds": [], "agreement": [], "picks": [], "training": [], "lineage": [],
        "warnings": ["14 texts have two different labels; the first label is used"],
    }  # fmt: skip
    for seed in seeds:
        for selector in selectors:
            for strategy in strategies if selector != "random" else (None,):
                _series(run, rng, seed, selector, strategy, sizes, classes, usable, text, random_gain)
    return run


def image_run(**options: Any) -> dict[str, Any]:
    """As `demo_run`, of a pool of images."""
    run = demo_run(name="shapes", classes=list(builtin_shapes.CLASSES), usable=6_000, **options)
    rows = np.arange(40)
    pictures = [thumbnail(builtin_shapes.encode_png(image)) for image in builtin_shapes.draw(rows)]
    labels = [builtin_shapes.CLASSES[label] for label in builtin_shapes.labels_of(rows)]
    for entry in run["picks"]:
        for pick, row in zip([*entry["highest"], *entry["lowest"]], rows.tolist(), strict=True):
            del pick["text"]
            pick |= {"image": pictures[row], "label": labels[row]}
    run["pool"]["path"] = run["test"]["path"] = "builtin:shapes"
    return run


def _series(run, rng, seed, selector, strategy, sizes, classes, usable, text, random_gain) -> None:
    gain = {"proxy": 0.022, "random": random_gain, "target_selects": 0.026}[selector] + (strategy == "margin") * 0.004
    spent = {"proxy": 0.0, "scoring": 0.0, "ranking": 0.0}
    for i, size in enumerate(sizes):
        error = 0.12 + 0.33 * (sizes[0] / size) ** 0.55 - gain * min(i, 3) / 3 + rng.normal(0, 0.003)
        if i and selector != "random":
            spent["proxy"] += (0.9 if selector == "proxy" else 32.0) * size / 1_000
            spent["scoring"] += 2.1 if selector == "proxy" else 96.0
            spent["ranking"] += 0.04
        selection = sum(spent.values())
        target = 33.0 * size / 1_000
        key = {"seed": seed, "selector": selector, "strategy": strategy, "labeled_size": size}
        fingerprint = f"{rng.integers(16**12):012x}"
        run["rows"].append({
            **key, "labeled_percent": 100 * size / usable, "error": error, "accuracy": 1 - error,
            "macro_f1": 1 - error * 1.1, "metrics": {"accuracy": 1 - error, "macro_f1": 1 - error * 1.1},
            "proxy_seconds": spent["proxy"], "scoring_seconds": spent["scoring"], "ranking_seconds": spent["ranking"],
            "selection_seconds": selection, "target_seconds": target, "total_seconds": selection + target,
            "selection_fingerprint": fingerprint,
        })  # fmt: skip
        weights = rng.dirichlet(np.full(len(classes), 6.0))
        picked = size - (sizes[i - 1] if i else 0)
        run["rounds"].append({
            **key, "round": i, "picked": picked, "fingerprint": fingerprint, "proxy_seconds": 1.0,
            "scoring_seconds": 2.0,
            "ranking_seconds": 0.1,
            "class_counts": dict(zip(classes, rng.multinomial(picked, weights).tolist(), strict=True)),
        })  # fmt: skip
        run["lineage"].append({
            **key, "pool_fingerprint": "6f1d0a9be2c45538", "parent": None if i == 0 else "c0ffee",
            "proxy_spec": "a1b2c3d4e5f6",
            "proxy_fingerprint": f"{rng.integers(16**12):012x}", "reproducible": True,
        })  # fmt: skip
        run["training"].append({**key, "history": [
            {"epoch": e, "loss": 2 / e, "train_accuracy": 1 - error * 1.6 / e**0.6,
             "dev_accuracy": 1 - error * (1 + 0.8 / e),
             "learning_rate": 0.01, "seconds": 3.0} for e in range(1, 16)
        ]})  # fmt: skip
        if i and selector == "proxy":
            budget, candidates = picked, usable - sizes[i - 1]
            run["agreement"].append({
                "seed": seed, "strategy": strategy, "labeled_size": size,
                "spearman": 0.3 + 0.07 * i + rng.normal(0, 0.02),
                "overlap": budget / candidates * 3, "chance": budget / candidates,
            })  # fmt: skip
            run["picks"].append({
                "seed": seed, "strategy": strategy, "round": i,
                "highest": [_pick(rng, classes, text, 0.99 - k / 500, k) for k in range(20)],
                "lowest": [_pick(rng, classes, text, 0.01 + k / 5000, k) for k in range(20)],
            })  # fmt: skip


def _pick(rng, classes, text, score, k) -> dict[str, Any]:
    shown = text if k % 3 else text[:90]
    return {"position": int(rng.integers(60_000)), "id": f"{k:08x}", "score": score,
            "label": classes[int(rng.integers(len(classes)))], "text": shown}  # fmt: skip
