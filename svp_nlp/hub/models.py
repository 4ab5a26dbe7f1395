"""Models on the Hub: what a run has trained, as safetensors and config.json, and how it is read back.

A transformer, of texts or images, is laid out as transformers itself does it, so `from_pretrained(repo)` and
`pipeline` read it; a head on a frozen encoder brings the encoder along, in the folder `encoder`; fastText also comes
as `model.bin`, for its own tools.
Nothing is pickled, nothing runs code of the repository, and nothing tells of the machine that it was trained on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from svp_nlp import models
from svp_nlp.arrays import fingerprint_json
from svp_nlp.errors import HubRefused, ModelError
from svp_nlp.files import read_json, sha256_file, write_json
from svp_nlp.hub.card import model_card
from svp_nlp.hub.document import reading
from svp_nlp.hub.pull import NotOurs, Version, fetch
from svp_nlp.hub.push import Bundle
from svp_nlp.hub.selections import DEFAULT_CONFIG, source_card
from svp_nlp.hub.source import Source, find_source, given_labels, is_by_people, pool_of, shareable
from svp_nlp.models.base import CONFIG_FILE
from svp_nlp.results import RESULTS_FILE
from svp_nlp.run import FULL, START, STEP_FILE, now
from svp_nlp.selection import Selection

if TYPE_CHECKING:
    from svp_nlp.models.base import Predictor

log = logging.getLogger(__name__)
KIND = "model"
BIN_FILE = "model.bin"
Role = Literal["target", "proxy"]
_WEIGHTS = "weights"  # directory in the step of a model
_PRIVATE = (f"{_WEIGHTS}/fit.json", f"{_WEIGHTS}/dynamics/")  # beside the weights, for the run alone
# What was recorded in training, and which labels where others were as many.
_MODEL_NAME = re.compile(r"(.+)-(\d{10})-[0-9a-f]{8}(-[0-9a-f]{4})?(-[0-9a-f]{8})?")
_OF_TRANSFORMERS = ("transformer", "image_transformer")  # kinds that its pipelines read
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PATH_KEYS = frozenset({"model_name_or_path", "name_or_path", "_name_or_path"})


@dataclass(frozen=True)
class StoredModel:
    """A finished model of a run.

    Attributes:
        directory: of its step.
        place: where it lies below the seed: an arm, or what all arms share.
        role: as its directory says; what is trained for an encoder has others than proxy and target.
        step: what step.json holds.
    """

    directory: Path
    place: str
    role: str
    labeled_size: int
    step: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Of the predictor."""
        return str(self.step["output"]["fingerprint"])


def stored_models(seed_dir: Path) -> list[StoredModel]:
    """The finished models of a seed, by place and size."""
    found = []
    for path in sorted(seed_dir.glob(f"*/*/model/{STEP_FILE}")):
        name = _MODEL_NAME.fullmatch(path.parent.parent.name)
        if name is not None:
            place = path.parent.parent.parent.name
            found.append(StoredModel(path.parent, place, name[1], int(name[2]), read_json(path)))
    return found


def seed_directory(source: Source) -> Path:
    """Where a run keeps what it made for the seed of a source.

    Raises:
        HubRefused: the source is a selection by itself, without its run.
    """
    if source.run_dir is None:
        raise HubRefused(f"{source.selections[-1]} is a selection without its run; name the run directory")
    return source.run_dir / f"seed-{source.seed}"


@contextlib.contextmanager
def model_bundle(
    run_dir: str | Path,
    *,
    role: Role,
    arm: str | None = None,
    seed: int | None = None,
    round: int | None = None,
) -> Iterator[Bundle]:
    """A model of a run as the files of a version, some of which live as long as the context.

    Args:
        role: target: what was trained on the rows that an arm chose; proxy: what chose for this arm.
        arm: proxy-margin, random, ...; None: what the recipe's first strategy chose.
        seed: None: the first.
        round: a target is then the one that was trained on the labels of this round, a proxy the one that chose in it;
            None: of the last round that has one.
    Raises:
        HubRefused: there is no such model here; says what there is.
        ModelError: a file of it was changed since, or it brings its own code.
    """
    source = find_source(run_dir, arm=arm, seed=seed, round=round)
    model = find_model(source, role=role, round=round, any_place=arm is None)
    with tempfile.TemporaryDirectory(prefix="svp_nlp-push-") as name:
        files = _files(model, Path(name))
        entry = _entry(source, model, role=role)
        trained = entry["lineage"]["strategy"]
        yield Bundle(
            kind=KIND,
            repo_type="model",
            config=DEFAULT_CONFIG,
            key=fingerprint_json([KIND, 1, role, _hashes(model), entry["metrics"], entry["lineage"]["selection"]]),
            title=f"{entry['kind']} {role} on {model.labeled_size:,} labels by {trained}",
            folder="",
            files=files,
            entry=entry,
            card=model_card,
        )


def find_model(source: Source, *, role: Role, round: int | None = None, any_place: bool = True) -> StoredModel:
    """The model of a run that fills a role.

    Args:
        source: `find_source` of the run.
        role, round: see `model_bundle`.
        any_place: where the arm has no target, one from elsewhere will do.
    Raises:
        HubRefused: there is none; says what there is.
    """
    stored = stored_models(seed_directory(source))
    where = f"{source.run_dir}, seed {source.seed}, {source.arm}"
    # The last round first: people correct labels, so that a later model may have learned from as many, or from fewer.
    numbers = range(len(source.selections), 0 if round is None else len(source.selections) - 1, -1)
    otherwise: list[StoredModel] = []
    if role == "proxy":
        missing = f"no model chose there{'' if round is None else f' in round {round}'}"
        lineages = (Selection.load(source.selections[number - 1]).lineage for number in numbers)
        by_round = ([m for m in stored if m.fingerprint == (one.proxy or {}).get("fingerprint")] for one in lineages)
    else:
        targets = [m for m in stored if m.role == "target" and m.place != FULL]
        found = [m for m in targets if m.place in (START, source.arm)]
        if not found and any_place:
            found = targets  # a workspace that was made from Python may keep them elsewhere
        sizes = ", ".join(f"{size:,}" for size in sorted({m.labeled_size for m in found}))
        missing = f"targets are there on {sizes} labels" if sizes else "no target was trained there"
        by_round = ([m for m in found if _is_of(m, source, source.selections[:number])] for number in numbers)
        otherwise = found if round is None else []
    candidates = next(filter(None, by_round), otherwise)
    if not candidates:
        raise HubRefused(f"{where}: there is no {role} ({missing}); name another arm (--arm) or round (--round)")
    return max(candidates, key=lambda m: (m.labeled_size, str(m.directory)))


def _hashes(model: StoredModel) -> dict[str, str]:
    return {
        file.removeprefix(f"{_WEIGHTS}/"): sha256
        for file, sha256 in sorted(model.step["files"].items())
        if file.startswith(f"{_WEIGHTS}/") and not file.startswith(_PRIVATE)
    }


def _files(model: StoredModel, directory: Path) -> dict[str, Path]:
    """Path in the repository -> file; what is not as the run has it is written into `directory`."""
    weights, spec = model.directory / _WEIGHTS, model.step["inputs"]["learner"]
    if spec.get("trust_remote_code"):
        raise ModelError(
            f"{weights}: it runs code of its own (trust_remote_code), and svp_nlp shares none; push it with "
            "transformers, or train one that needs none"
        )
    files = {}
    for name, expected in _hashes(model).items():
        file = weights / name
        if not file.is_file() or sha256_file(file) != expected:
            raise ModelError(f"{file} is missing or was changed since it was trained; `svp run` again trains it again")
        files[name] = file
    if spec["kind"] == "fasttext":
        return _fasttext_files(files, weights, directory)
    for name, file in files.items():
        if file.name == CONFIG_FILE and (config := _without_paths(read := read_json(file))) != read:
            files[name] = directory / name
            write_json(files[name], config)
    return files


def _fasttext_files(files: Mapping[str, Path], weights: Path, directory: Path) -> dict[str, Path]:
    """safetensors and config.json, and the .bin of fastText's own tools unless the model has no word."""
    from svp_nlp.models.fasttext import WEIGHTS_FILE, FastTextPredictor
    from svp_nlp.models.fasttext_bin import write_bin

    predictor = models.load_predictor(weights)
    made = dict(files)
    if not isinstance(predictor, FastTextPredictor):  # of the official package, which knows no safetensors
        predictor = _native(predictor, weights)
        predictor.save(directory)
        made = {name: directory / name for name in (CONFIG_FILE, WEIGHTS_FILE)}
    try:
        write_bin(predictor, directory / BIN_FILE)
    except ModelError as error:
        log.warning("%s; it is pushed without %s", error, BIN_FILE)
        return made
    return {**made, BIN_FILE: directory / BIN_FILE}


def _native(predictor: Any, weights: Path) -> Any:
    """A model of the official package as one of ours, which predicts the same within 1e-5."""
    from svp_nlp.models.fasttext import FastTextPredictor
    from svp_nlp.models.fasttext_bin import read_bin

    found = read_bin(weights / BIN_FILE, normalize=predictor.spec.normalize)
    rows = {int(number): row for row, number in enumerate(found.class_names)}  # its labels are class numbers
    missing = [name for number, name in enumerate(predictor.class_names) if number not in rows]
    if missing:
        raise ModelError(
            f"{weights / BIN_FILE}: the fastText package keeps no class without an example ({', '.join(missing[:5])}); "
            "use engine: native"
        )
    output_CD = found.output_CD[[rows[number] for number in range(len(rows))]]
    spec = predictor.spec.model_copy(update={"engine": "native"})
    return FastTextPredictor(spec, predictor.class_names, found.features, found.input_RD, output_CD, predictor.report)


def _without_paths(value: Any) -> Any:
    """JSON values with the last part alone of a folder that a model began as; a name on the Hub stays."""
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {k: _last_part(v) if k in _PATH_KEYS else _without_paths(v) for k, v in value.items()}


def _last_part(name: Any) -> Any:
    if not isinstance(name, str):
        return name
    path = Path(name).expanduser()
    is_folder = os.path.isabs(path) or path.is_dir() or not _REPOSITORY.fullmatch(name)  # noqa: PTH117
    return path.name if is_folder else name


def _entry(source: Source, model: StoredModel, *, role: Role) -> dict[str, Any]:
    inputs = model.step["inputs"]
    last = Selection.load(source.selections[-1])
    rows = _chosen_rows(source, model)
    return {
        "created": now(),
        "role": role,
        "kind": inputs["learner"]["kind"],
        "spec": _without_paths(inputs["learner"]),
        "fingerprint": model.fingerprint,
        "class_names": inputs["classes"],
        "labeled_size": model.labeled_size,
        "metrics": _metrics(model),
        "test": _test(source),
        "lineage": {
            "pool": pool_of(last),
            "strategy": "all rows" if rows is None else rows.lineage.strategy,
            "selection": None if rows is None else rows.fingerprint,
            "round": None if rows is None else rows.lineage.round,
            "seed": source.seed,
            "recipe_sha256": last.lineage.recipe_sha256,
            "versions": dict(last.lineage.versions),
        },
        "library_name": "transformers" if inputs["learner"]["kind"] in _OF_TRANSFORMERS else "svp_nlp",
        "source_card": source_card(last),
    }


def _chosen_rows(source: Source, model: StoredModel) -> Selection | None:
    """The selection that completed the rows that a model was trained on; None: it was trained on all there are."""
    seed_dir = seed_directory(source)
    before: list[Path] = []
    for path in [seed_dir / START, *sorted((seed_dir / source.arm).glob("*"))]:
        if (path / "selection" / STEP_FILE).exists():
            before.append(path / "selection")
            if model.place != FULL and _is_of(model, source, before):
                return Selection.load(before[-1])
    return None


def _is_of(model: StoredModel, source: Source, selections: Sequence[Path]) -> bool:
    """Whether a model was trained on what was labelled after the last of these selections of a run."""
    if not is_by_people(source.recipe):
        return model.labeled_size == Selection.load(selections[-1]).lineage.labeled_size
    if not (selections[-1].parent / "labels" / STEP_FILE).exists():  # people have not returned it yet
        return False
    return bool(model.step["inputs"]["labels"] == given_labels(source.run_dir, selections).fingerprint)


def _metrics(model: StoredModel) -> dict[str, float] | None:
    path = model.directory.parent / "metrics" / STEP_FILE
    step = read_json(path) if path.exists() else None
    if step is None or step["inputs"]["model"] != model.fingerprint:
        return None
    return dict(step["output"]["metrics"])


def _test(source: Source) -> dict[str, Any] | None:
    assert source.run_dir is not None
    path = source.run_dir / RESULTS_FILE
    test = read_json(path).get("test") if path.exists() else source.recipe.get("test")
    names = ("path", "split", "revision", "rows")
    return None if test is None else dict(shareable({name: test.get(name) for name in names}))


def load_predictor(path_or_repo: str | Path, *, revision: str | None = None, token: str | None = None) -> Predictor:
    """Load a model that `Predictor.save` wrote, or that was pushed to the Hub.

    From the Hub: `revision` is resolved to a commit, the files of that commit are read and compared with the hashes
    that were written when they were pushed. Offline that works from the cache, if the version is in it.

    Args:
        path_or_repo: a directory, or the id of a model repository.
        revision: a version such as v3, a branch, or a commit; None: the newest.
        token: None: the one that `hf auth login` or HF_TOKEN gives.
    Raises:
        ModelError: not a model of svp_nlp, a damaged file, weights that are not safetensors, or code of its own.
        HubRefused: no such repository or revision, no access, or offline and not in the cache.
        HubError: the Hub cannot be reached.
        LineageError: a file is not what was pushed.
    """
    if isinstance(path_or_repo, Path) or not _is_repository(path_or_repo):
        if revision is not None:
            raise ModelError(f"{path_or_repo} is a directory; revision belongs to a model of the Hub: leave it out")
        return models.load_predictor(Path(path_or_repo).expanduser())
    try:
        version = fetch(path_or_repo, repo_type="model", kind=KIND, revision=revision, skip=[BIN_FILE], token=token)
    except NotOurs:
        raise ModelError(
            f"model {path_or_repo} was not pushed by svp_nlp; to train or score with it, name it in a recipe: "
            f"proxy: {{kind: transformer, model_name_or_path: {path_or_repo}}} (of images: kind: image_transformer)"
        ) from None
    _check_weights(version)
    with reading(version.where):
        return models.load_predictor(version.folder)


def _is_repository(name: str) -> bool:
    return not Path(name).expanduser().is_dir() and _REPOSITORY.fullmatch(name) is not None


def _check_weights(version: Version) -> None:
    """Refuse what could run code: the files are somebody else's.

    Raises:
        ModelError: weights that are not safetensors, or a model with code of its own.
    """
    try:
        config = json.loads((version.folder / CONFIG_FILE).read_text(encoding="utf-8"))
        weights, own_code = str(config["weights"]), bool(config["spec"].get("trust_remote_code"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{version.where}: its {CONFIG_FILE} is not one of svp_nlp ({type(error).__name__})") from None
    if weights not in version.entry["files"] or not re.fullmatch(r"[\w.-]+\.safetensors", weights):
        raise ModelError(
            f"{version.where}: its weights are {weights!r}, expected *.safetensors among the files that were pushed; "
            "other formats can run code and are not read"
        )
    if own_code:
        raise ModelError(f"{version.where}: it runs code of its own (trust_remote_code), which is not run from the Hub")
