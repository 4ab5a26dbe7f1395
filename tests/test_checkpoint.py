"""Checkpoints: what was written comes back bit for bit, and any damage to any file is seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from svp_nlp.errors import CheckpointError
from svp_nlp.models import checkpoint
from svp_nlp.models.checkpoint import load_checkpoint, pack_optimizer, save_checkpoint, unpack_optimizer

IDENTITY = {"seed": 1, "labels": "abc"}


def save(directory: Path, step: int, **more: Any) -> Path:
    tensors = {
        "model": {"weight": torch.full((3, 2), float(step)), "count": torch.tensor(step)},
        "best": {},
        "optimizer": {"0.step": torch.tensor(float(step))},
    }
    return save_checkpoint(directory, step, tensors=tensors, state={"identity": IDENTITY, "loss": 0.1 + step}, **more)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_tensors_and_floats_come_back_with_the_same_bits(tmp_path: Path) -> None:
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    tensors = {
        "model": {"view": weight.t(), "tied": weight, "again": weight, "half": weight.bfloat16(), "none": weight[:0]},
        "best": {},
    }
    state = {"identity": IDENTITY, "loss": 0.1 + 0.2, "history": [{"epoch": 1, "dev": None}]}
    path = save_checkpoint(tmp_path / "new" / "directory", 123, tensors=tensors, state=state)
    assert path.name == "step-00000123"
    loaded = load_checkpoint(path.parent, identity=IDENTITY)
    assert loaded is not None
    assert loaded.step == 123
    assert loaded.state == state
    assert loaded.tensors.keys() == tensors.keys()
    for group, named in tensors.items():
        assert loaded.tensors[group].keys() == named.keys()
        for name, value in named.items():
            assert loaded.tensors[group][name].dtype == value.dtype
            assert torch.equal(loaded.tensors[group][name], value)


def test_no_checkpoint_is_none_and_leftovers_are_removed(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "missing", identity=IDENTITY) is None
    (tmp_path / ".tmp-1234-step-00000005").mkdir()
    assert load_checkpoint(tmp_path, identity=IDENTITY) is None
    assert names(tmp_path) == []


def test_the_two_newest_stay(tmp_path: Path) -> None:
    for step in (1, 5, 20, 300):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000020", "step-00000300"]
    save(tmp_path, 301, keep=1)
    assert names(tmp_path) == ["step-00000301"]


def test_steps_beyond_eight_digits_are_the_newest(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step)
    loaded = load_checkpoint(tmp_path, identity=IDENTITY)
    assert loaded is not None
    assert loaded.step == 100_000_000


FILES = ["model.safetensors", "best.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def flip_each_byte(file: Path) -> list[bytes]:
    data = file.read_bytes()
    return [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(0, len(data), max(1, len(data) // 40))]


@pytest.mark.parametrize("name", FILES)
def test_any_damage_to_any_file_is_seen_and_the_one_before_is_used(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    data = (newest / name).read_bytes()
    damaged = [b"", data[:-1], data[: len(data) // 2], data + b" ", b"\0" * len(data), b"[]", b"\xff"]
    if name != "manifest.json":  # its text may change where nothing depends on it, as in white space
        damaged += flip_each_byte(newest / name)
    else:
        damaged.remove(data + b" ")
        damaged.remove(data[:-1])
    for wrong in damaged:
        (newest / name).write_bytes(wrong)
        caplog.clear()
        loaded = load_checkpoint(tmp_path, identity=IDENTITY)
        assert loaded is not None
        assert loaded.step == 1
        assert newest.name in caplog.text
        assert name in caplog.text
    (newest / name).unlink()
    loaded = load_checkpoint(tmp_path, identity=IDENTITY)
    assert loaded is not None
    assert loaded.step == 1


def test_a_flipped_bit_in_the_manifest_never_loads_other_content(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    expected = load_checkpoint(tmp_path, identity=IDENTITY)
    assert expected is not None
    for wrong in flip_each_byte(path / "manifest.json"):
        (path / "manifest.json").write_bytes(wrong)
        loaded = load_checkpoint(tmp_path, identity=IDENTITY)
        assert loaded is None or (loaded.state == expected.state and loaded.tensors.keys() == expected.tensors.keys())


def test_when_none_verifies_training_starts_again_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").unlink()
    assert load_checkpoint(tmp_path, identity=IDENTITY) is None
    assert "step-00000001" in caplog.text
    assert "step-00000002" in caplog.text
    assert "starts again" in caplog.text


def test_saving_after_going_back_removes_the_damaged_later_one(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 9) / "manifest.json").unlink()
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    (save(tmp_path, 3) / "model.safetensors").unlink()
    save(tmp_path, 3)
    loaded = load_checkpoint(tmp_path, identity=IDENTITY)
    assert loaded is not None
    assert loaded.step == 3
    assert names(tmp_path) == ["step-00000003"]


def test_a_renamed_checkpoint_is_not_taken_for_a_later_step(tmp_path: Path) -> None:
    shutil.copytree(save(tmp_path, 3), tmp_path / "step-00000008")
    loaded = load_checkpoint(tmp_path, identity=IDENTITY)
    assert loaded is not None
    assert loaded.step == 3


def test_another_training_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    save(tmp_path, 3)
    with pytest.raises(CheckpointError, match=r"another training: seed differ"):
        load_checkpoint(tmp_path, identity={**IDENTITY, "seed": 2})
    with pytest.raises(CheckpointError, match="dev labels, labels differ"):
        load_checkpoint(tmp_path, identity={"seed": 1, "dev labels": "x"})
    assert names(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_keeps_the_checkpoint_before(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:

        def fail(*_: Any) -> None:
            raise error

        full.setattr(checkpoint, "save_file", fail)
        with pytest.raises(CheckpointError, match=r"No space left on device.*no earlier one"):
            save(tmp_path, 1)
    save(tmp_path, 2)
    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(CheckpointError, match="step-00000002 is intact") as caught:
        save(tmp_path, 3)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["step-00000002"]


def test_nothing_is_pickled(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["files"].keys() == {file.name for file in path.iterdir()} - {"manifest.json"}


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adamw"])
def test_an_optimizer_goes_on_exactly_from_its_packed_state(kind: str) -> None:
    def make(weight: torch.Tensor) -> torch.optim.Optimizer:
        if kind == "adamw":
            return torch.optim.AdamW([{"params": [weight], "weight_decay": 0.1}], lr=0.1)
        return torch.optim.SGD([weight], lr=0.1, momentum=0.9 if kind == "momentum" else 0.0)

    def steps(weight: torch.Tensor, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            weight.grad = torch.sin(weight.detach() * (number + 1))
            optimizer.step()

    whole = torch.ones(5, requires_grad=True)
    steps(whole, make(whole), range(6))
    weight = torch.ones(5, requires_grad=True)
    optimizer = make(weight)
    steps(weight, optimizer, range(3))
    packed = pack_optimizer(optimizer)
    again = weight.detach().clone().requires_grad_()
    resumed = make(again)
    unpack_optimizer(resumed, packed)
    steps(again, resumed, range(3, 6))
    assert torch.equal(again, whole)
