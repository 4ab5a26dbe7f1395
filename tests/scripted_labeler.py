"""Somebody who knows the label of every text, and who takes each way of labelling in turn.

Runs with people read a CSV that holds texts and nothing else; what the labeler knows is in no file that they see.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from small_run import FASTTEXT, outcome
from toy import CLASS_NAMES, toy_rows, write_toy
from typer.testing import CliRunner

from svp_nlp.cli import app

BANKING = Path(os.environ.get("SVP_SHARED", Path(__file__).parents[1] / "../shared/data")) / "banking77"
INITIAL, SIZES = 30, (40, 50)


@dataclass(frozen=True)
class Labeler:
    """What the labeler knows, and where runs find their texts.

    Attributes:
        truth: text -> label.
        texts: a CSV of the texts, in the order of `labelled`.
        labelled: a dataset of the texts with their labels, which a simulation reads; its test split tests all runs.
        folder: for recipes and runs.
    """

    truth: dict[str, str]
    class_names: Sequence[str]
    texts: Path
    labelled: Path
    folder: Path

    def recipe(self, name: str, **changes: Any) -> Path:
        """A recipe for the command line: fastText chooses and fastText is trained, on the texts alone."""
        values = {
            "mode": "active_learning",
            "pool": {"path": str(self.texts)},
            "oracle": {"kind": "files", "labels": list(self.class_names)},
            "test": {"path": str(self.labelled)},
            "allow_overlap": True,  # 7 texts of banking77 are in both of its parts
            "proxy": FASTTEXT,
            "target": FASTTEXT,
            "strategies": ["margin"],
            "initial": INITIAL,
            "labeled_sizes": list(SIZES),
            **changes,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        return path

    def simulation(self) -> Path:
        """The recipe in which a column gives the labels."""
        pool = {"path": str(self.labelled)}
        return self.recipe("column", pool=pool, oracle=None, baselines=[], test={}, train_target_at=[SIZES[-1]])

    def simulated(self) -> dict[str, Any]:
        """What comes out where a column gives the labels."""
        run = self.folder / "column"
        assert svp("run", self.simulation(), "--run-dir", run)[0] == 0
        found = outcome(run)
        assert len(found) == 12  # 3 selections and sets of labels, 2 proxies with signals, a target, its metrics
        return found


def hire(folder: Path) -> Labeler:
    """A labeler for banking77, 77 classes; for the toy texts where that is not here."""
    folder.mkdir(parents=True, exist_ok=True)
    if BANKING.is_dir():
        file = BANKING / "data/train-00000-of-00001.parquet"
        rows = Dataset.from_parquet(str(file), cache_dir=str(folder / "cache"))
        labelled, class_names = BANKING.resolve(), rows.features["label"].names
        texts, labels = rows["text"], rows["label"]
    else:
        labelled, class_names, (texts, labels) = write_toy(folder / "toy"), CLASS_NAMES, toy_rows()
    path = folder / "texts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    truth = {text: class_names[label] for text, label in zip(texts, labels, strict=True)}
    return Labeler(truth, class_names, path, labelled, folder)


def svp(*arguments: object) -> tuple[int, str]:
    """The command line in this process: its exit code, and what it printed; logging stays as it was."""
    root, ours = logging.getLogger(), logging.getLogger("svp_nlp")
    before = root.handlers[:], root.level, ours.level
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    return result.exit_code, result.stdout
