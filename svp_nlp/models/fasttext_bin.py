"""fastText's own file format (`.bin`, version 12): read the official package's models, write ours for it.

Layout, little-endian: magic, version; 12 int32 arguments and one float64; the dictionary (3 int32, 2 int64, then
for each word, then each label: bytes, a NUL, int64 count, int8 type); a bool and the input matrix (int64 rows,
int64 columns, float32 values: words first, then all buckets); a bool and the output matrix.

A class name becomes the label `__label__` + name; what a label cannot hold (blanks, control characters) and `%` are
written `%XX`, byte by byte, and read back.

Source: fastText 0.9.2, src/fasttext.cc (saveModel, loadModel), args.cc, dictionary.cc, densematrix.cc.
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from svp_nlp.errors import ModelError
from svp_nlp.files import atomic_file
from svp_nlp.models.fasttext import FastTextPredictor, FastTextSpec, check_arrays
from svp_nlp.models.fasttext_kernels import LABEL_PREFIX
from svp_nlp.models.fasttext_native import Features
from svp_nlp.models.normalize import Normalization

_MAGIC, _VERSION = 793_712_314, 12
_SOFTMAX, _SUPERVISED = 3, 3
_ARGUMENTS = struct.Struct("<12id")  # dim ws epoch minCount neg wordNgrams loss model bucket minn maxn lrUpdateRate t
_DICTIONARY = struct.Struct("<3i2q")  # size nwords nlabels ntokens pruneidx_size
_ENTRY_TAIL = struct.Struct("<qb")  # count, type: 0 word, 1 label
_SHAPE = struct.Struct("<2q")
_LONGEST_WORD = 1 << 30
_ROWS_PER_READ = 1 << 16
_ESCAPED = re.compile(rb"[\x00-\x20%\x7f]")
_ESCAPE = re.compile(rb"%([01][0-9A-F]|20|25|7F)")


def label_of(class_name: str) -> bytes:
    """The label that stands for a class in a .bin file, `__label__` included."""
    return LABEL_PREFIX + _ESCAPED.sub(lambda m: b"%%%02X" % m[0][0], class_name.encode())


def class_names_of(labels: list[bytes], where: str) -> tuple[str, ...]:
    """The class names behind labels; labels of other programs that only look escaped stay as they are.

    Raises:
        ModelError: a label is not UTF-8.
    """
    names = [label.removeprefix(LABEL_PREFIX) for label in labels]
    unescaped = [_ESCAPE.sub(lambda m: bytes([int(m[1], 16)]), name) for name in names]
    try:
        return tuple(name.decode() for name in (unescaped if len(set(unescaped)) == len(names) else names))
    except UnicodeDecodeError as error:
        raise ModelError(f"{where}: label {error.object!r} is not UTF-8; expected __label__ and a name") from None


def write_bin(predictor: FastTextPredictor, path: Path) -> None:
    """Write a model that the official package opens; it then predicts the same within 1e-5.

    The package hands its texts over as they are: a model with `normalize: svp` expects texts that are normalised.
    Buckets without a row are zeros: a hole in the file where the file system has holes. Size: 4 bytes x dim x bucket.

    Raises:
        ModelError: the model has no word, which the package cannot open.
    """
    spec, f = predictor.spec, predictor.features
    num_words, num_classes = len(f.word_counts), len(predictor.class_names)
    if num_words == 0:
        raise ModelError(
            f"{path}: the model has no word (min_count {spec.min_count}); fastText cannot open such a file"
        )
    bucket = spec.bucket if spec.word_ngrams > 1 else 0
    epochs = int(predictor.report.get("epochs", 5))
    with atomic_file(Path(path)) as tmp, tmp.open("wb") as file:
        file.write(struct.pack("<2i", _MAGIC, _VERSION))
        file.write(
            _ARGUMENTS.pack(
                spec.dim, 5, epochs, spec.min_count, 5, spec.word_ngrams, _SOFTMAX, _SUPERVISED, bucket, 0, 0, 100, 1e-4
            )
        )
        file.write(_DICTIONARY.pack(num_words + num_classes, num_words, num_classes, int(f.word_counts.sum()), -1))
        words, ends = f.words.tobytes(), f.word_offsets.tolist()
        for w, count in enumerate(f.word_counts.tolist()):
            file.write(words[ends[w] : ends[w + 1]] + b"\0" + _ENTRY_TAIL.pack(count, 0))
        for name in predictor.class_names:
            file.write(label_of(name) + b"\0" + _ENTRY_TAIL.pack(1, 1))
        file.write(b"\0" + _SHAPE.pack(num_words + bucket, spec.dim))
        file.write(predictor.input_RD[:num_words].astype("<f4", copy=False).tobytes())
        _write_bucket_rows(file, f.bucket_ids, predictor.input_RD[num_words:], bucket)
        file.write(b"\0" + _SHAPE.pack(num_classes, spec.dim))
        file.write(predictor.output_CD.astype("<f4", copy=False).tobytes())


def _write_bucket_rows(file: BinaryIO, bucket_ids: npt.NDArray[np.int64], rows_SD: Any, bucket: int) -> None:
    """Write rows at their places; runs of neighbours at once, holes between runs that are far apart."""
    start, row_bytes = file.tell(), rows_SD.shape[1] * 4
    blocks = bucket_ids // _ROWS_PER_READ
    for block in np.unique(blocks).tolist():
        first, last = np.searchsorted(blocks, [block, block + 1]).tolist()
        ids = bucket_ids[first:last] - bucket_ids[first]
        dense = np.zeros((int(ids[-1]) + 1, rows_SD.shape[1]), dtype="<f4")
        dense[ids] = rows_SD[first:last]
        file.seek(start + int(bucket_ids[first]) * row_bytes)
        file.write(dense.tobytes())
    end = start + bucket * row_bytes
    file.truncate(max(end, file.tell()))
    file.seek(end)


@dataclass
class _Reader:
    """Reads forward; every read checks that the bytes are there, so a truncated file never loads and never hangs."""

    data: mmap.mmap
    where: str
    place: int = 0

    def take(self, size: int, what: str) -> bytes:
        if size < 0 or self.place + size > len(self.data):
            raise ModelError(
                f"{self.where}: ends at byte {len(self.data):,}, within {what}, which takes {size:,} bytes from byte "
                f"{self.place:,} on; the file was cut short: copy it again"
            )
        self.place += size
        return self.data[self.place - size : self.place]

    def unpack(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size, what))

    def word(self) -> bytes:
        end = self.data.find(b"\0", self.place, self.place + _LONGEST_WORD)
        if end < 0:
            raise ModelError(f"{self.where}: a word that begins at byte {self.place:,} has no end; copy the file again")
        return self.take(end + 1 - self.place, "a word")[:-1]


def _read_matrix(reader: _Reader, what: str, rows: int, dim: int) -> int:
    """Check flag and shape, skip the values; returns the place of the values."""
    if reader.take(1, what) != b"\0":
        raise ModelError(f"{reader.where}: {what} is quantised (.ftz); use the .bin that it was made from")
    shape = reader.unpack(_SHAPE, what)
    if shape != (rows, dim):
        raise ModelError(f"{reader.where}: {what} has shape {list(shape)}, expected {[rows, dim]}; the file is damaged")
    place = reader.place
    size = rows * dim * 4
    if place + size > len(reader.data):
        reader.take(size, what)
    reader.place += size
    return place


def read_bin(path: Path, *, normalize: Normalization = "none") -> FastTextPredictor:
    """Open a supervised fastText model that has no subwords.

    Args:
        path: a .bin file of the official package or of `write_bin`.
        normalize: how the texts that the model was trained on were normalised; the file does not say.
    Raises:
        ModelError: not such a file, cut short, quantised, with subwords, not supervised, or another loss than softmax.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(_Reader(data, str(path)), normalize)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ModelError(f"{path}: {error.strerror}; expected a fastText .bin file") from None
    except ValueError:  # what mmap says to an empty file
        raise ModelError(f"{path} is empty; expected a fastText .bin file: copy it again") from None


def _read(reader: _Reader, normalize: Normalization) -> FastTextPredictor:
    where = reader.where
    magic, version = reader.unpack(struct.Struct("<2i"), "the header")
    if (magic, version) != (_MAGIC, _VERSION):
        raise ModelError(f"{where}: magic {magic}, version {version}; expected a fastText model of version {_VERSION}")
    dim, _, epochs, min_count, _, word_ngrams, loss, model, bucket, minn, maxn, _, _ = reader.unpack(
        _ARGUMENTS, "the arguments"
    )
    if model != _SUPERVISED:
        raise ModelError(f"{where}: holds word vectors, not a classifier; train with `fasttext supervised`")
    if loss != _SOFTMAX:
        raise ModelError(
            f"{where}: was trained with another loss than softmax (number {loss}); train with -loss softmax"
        )
    if maxn > 0:
        raise ModelError(f"{where}: has subwords (minn {minn}, maxn {maxn}); train with -maxn 0")
    if not (1 <= dim <= 1024 and 1 <= word_ngrams <= 5 and 0 <= bucket <= 1_000_000_000):
        raise ModelError(
            f"{where}: dim {dim}, wordNgrams {word_ngrams}, bucket {bucket} cannot be; the file is damaged"
        )
    size, num_words, num_labels, _, pruned = reader.unpack(_DICTIONARY, "the dictionary")
    if pruned >= 0:
        raise ModelError(f"{where}: is quantised (its vocabulary was pruned); use the .bin that it was made from")
    if num_words < 0 or num_labels < 1 or num_words + num_labels != size:
        raise ModelError(f"{where}: {size} entries, {num_words} words, {num_labels} labels: the file is damaged")
    words: list[bytes] = []
    counts: list[int] = []
    for entry in range(size):
        words.append(reader.word())
        count, kind = reader.unpack(_ENTRY_TAIL, "the dictionary")
        counts.append(count)
        if kind != int(entry >= num_words):
            raise ModelError(f"{where}: entry {entry} of the dictionary has type {kind}; the file is damaged")
    input_place = _read_matrix(reader, "the input matrix", num_words + bucket, dim)
    output_place = _read_matrix(reader, "the output matrix", num_labels, dim)
    if reader.place != len(reader.data):
        raise ModelError(f"{where}: {len(reader.data) - reader.place:,} bytes too many; the file is damaged")
    output_CD = _floats(reader, output_place, num_labels, dim)
    bucket_ids, rows_SD = _bucket_rows(reader, input_place + num_words * dim * 4, bucket if word_ngrams > 1 else 0, dim)
    features = Features(
        np.frombuffer(b"".join(words[:num_words]), dtype=np.uint8),
        np.concatenate([[0], np.cumsum([len(word) for word in words[:num_words]], dtype=np.int64)]).astype(np.int64),
        np.asarray(counts[:num_words], dtype=np.int64),
        bucket_ids,
        bucket or 1,
        word_ngrams,
    )
    spec = FastTextSpec(
        dim=dim,
        word_ngrams=word_ngrams,
        min_count=max(min_count, 1),
        bucket=bucket or 1,
        epochs=max(epochs, 1),
        normalize=normalize,
    )
    input_RD = np.concatenate([_floats(reader, input_place, num_words, dim), rows_SD])
    class_names = class_names_of(words[num_words:], where)
    predictor = FastTextPredictor(
        spec, class_names, features, input_RD, output_CD, {"epochs": epochs, "read_from": "bin"}
    )
    check_arrays(predictor, where)
    return predictor


def _floats(reader: _Reader, place: int, rows: int, dim: int) -> npt.NDArray[np.float32]:
    return np.frombuffer(reader.data[place : place + rows * dim * 4], dtype="<f4").reshape(rows, dim).astype(np.float32)


def _bucket_rows(
    reader: _Reader, place: int, bucket: int, dim: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The buckets whose row is not all zeros, and those rows; block by block, so that holes take no memory."""
    ids, rows = [np.zeros(0, dtype=np.int64)], [np.zeros((0, dim), dtype=np.float32)]
    for start in range(0, bucket, _ROWS_PER_READ):
        block = _floats(reader, place + start * dim * 4, min(_ROWS_PER_READ, bucket - start), dim)
        touched = np.flatnonzero(block.any(axis=1))
        ids.append(touched + start)
        rows.append(block[touched])
    return np.concatenate(ids), np.concatenate(rows)
