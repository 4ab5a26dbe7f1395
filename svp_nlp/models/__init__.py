"""The table of learners: `kind` in a recipe -> the module that implements it.

A member module defines `spec_class` (a LearnerSpec) and `learner_class` (a Learner). Adding a model is one module and
one row here.
"""

from __future__ import annotations

import importlib
import io
import itertools
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from svp_nlp.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from svp_nlp.models.base import Learner, LearnerSpec, Predictor

LEARNERS = {
    "embedding": "svp_nlp.models.embedding",
    "fasttext": "svp_nlp.models.fasttext",
    "image_transformer": "svp_nlp.models.image_transformer",
    "resnet": "svp_nlp.models.resnet",
    "tfidf": "svp_nlp.models.tfidf",
    "transformer": "svp_nlp.models.transformer",
    "vdcnn": "svp_nlp.models.vdcnn",
}


def learner_module(kind: str) -> Any:
    """The module behind a `kind`; imported only now, because torch and numba take seconds."""
    try:
        return importlib.import_module(LEARNERS[kind])
    except KeyError:
        raise RecipeError(f"kind {kind!r} is not a learner; choose one of {', '.join(sorted(LEARNERS))}") from None


def spec_classes() -> dict[str, type[LearnerSpec]]:
    """`kind` -> the pydantic model of its options."""
    return {kind: learner_module(kind).spec_class for kind in LEARNERS}


def make_learner(spec: LearnerSpec | str, /, **options: Any) -> Learner:
    """The learner that a spec describes, or a `kind` with its options: `make_learner("vdcnn", depth=9)`.

    Raises:
        RecipeError: no such kind, or an option that it does not have or take.
    """
    if isinstance(spec, str):
        from pydantic import ValidationError

        kind, spec_class = spec, learner_module(spec).spec_class
        try:
            return make_learner(spec_class.model_validate({"kind": kind, **options}))
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or kind}: {e['msg']}" for e in error.errors())
            raise RecipeError(f"{kind}: {wrong}; it takes {', '.join(spec_class.model_fields)}") from None
    learner: Learner = learner_module(spec.kind).learner_class(spec)
    return learner


def classify(predictor: Predictor, rows: Iterable[Any], *, rows_per_batch: int = 1024) -> list[tuple[str, float]]:
    """The most likely class of each text or image, with its probability.

    Args:
        predictor: what `load_predictor` or `Learner.fit` gave.
        rows: what it reads. Texts of one row each; where the model read several columns, joined by a space. Or images,
            as paths, encoded bytes, or PIL images. A single one may stand for itself.
        rows_per_batch: given to the model at once.
    Raises:
        ModelError: something that is no text, or no image; or a file that cannot be read.
        PoolError: an image that cannot be decoded.
    """
    import pyarrow as pa

    from svp_nlp.pool import IMAGE, TEXT

    is_one = isinstance(rows, str | bytes | PurePath) or not isinstance(rows, Iterable)
    left, found = iter([rows] if is_one else rows), list[tuple[str, float]]()
    spec: LearnerSpec | None = getattr(predictor, "spec", None)
    reads_images = spec is not None and spec.reads == IMAGE
    while batch := list(itertools.islice(left, rows_per_batch)):
        if reads_images:
            table = pa.table({IMAGE: pa.array([_encoded(image) for image in batch], pa.large_binary())})
        else:
            try:
                table = pa.table({TEXT: pa.array(batch, pa.large_string())})
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ModelError(f"classify takes texts ({error}); expected a list of str") from None
        probs_BC = predictor.predict(table).probs_BC
        best_B = probs_BC.argmax(axis=1)
        found += [(predictor.class_names[c], float(probs_BC[row, c])) for row, c in enumerate(best_B.tolist())]
    return found


def _encoded(image: Any) -> bytes:
    """The bytes of an image file; what is open already becomes one, upright."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | PurePath):
        try:
            return Path(image).expanduser().read_bytes()
        except OSError as error:
            raise ModelError(f"{image}: the image cannot be read ({error.strerror}); name a file") from None
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise ModelError(
            f"classify takes images, found {type(image).__name__}; expected a list of paths, bytes, or PIL images"
        )
    upright, file = ImageOps.exif_transpose(image), io.BytesIO()
    upright.save(file, "TIFF", compression="raw")  # takes 16 bits and CMYK as they are, which PNG does not
    return file.getvalue()


def load_predictor(directory: str | Path) -> Predictor:
    """Load what `Predictor.save` wrote; the kind is read from its config.json.

    Raises:
        ModelError: no config.json of ours, an unknown kind, or a damaged file.
    """
    from svp_nlp.models.base import CONFIG_FILE, read_config

    config = read_config(Path(directory))
    kind = config.get("svp_kind")
    if kind not in LEARNERS:
        raise ModelError(f"{Path(directory) / CONFIG_FILE}: svp_kind is {kind!r}; expected one of {sorted(LEARNERS)}")
    module = learner_module(kind)
    return make_learner(module.spec_class.model_validate(config["spec"])).load(Path(directory))
