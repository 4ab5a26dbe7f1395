"""Pools that every installation has: prose of the installed libraries' docstrings, and generated pictures of shapes.

Docstrings, label = the library: files are parsed with `ast`, nothing is imported or run, and the rows depend on the
installed versions only. Shapes, label = the shape: see `builtin_shapes`; the rows are the same everywhere.
"""

from __future__ import annotations

import ast
import functools
import gc
import hashlib
import importlib.util
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from svp_nlp import builtin_shapes
from svp_nlp.arrays import fingerprint_json
from svp_nlp.cache import cached_directory
from svp_nlp.columns import closest
from svp_nlp.content import normalise
from svp_nlp.errors import PoolError
from svp_nlp.rows import write_arrow

PREFIX = "builtin:"

_FORMAT = 1  # part of the cache key: raise it when the rows would change
_SPLITS = ("train", "test")
_SHAPES = {"train": (0, 6_000), "test": (6_000, 7_000)}  # rows of each split
# Dependencies of the core, direct or not, with at least a thousand paragraphs each.
_LIBRARIES = (
    "datasets",
    "huggingface_hub",
    "matplotlib",
    "networkx",
    "numba",
    "numpy",
    "pandas",
    "pydantic",
    "scipy",
    "sklearn",
    "sympy",
    "torch",
    "transformers",
)
_ROWS_PER_LIBRARY = 1_200
_FEWEST_ROWS = 200  # a library with fewer paragraphs is no class
# Compiling is nearly all of the cost, so files with few docstrings (and huge tables) are not parsed.
_BYTES_PER_QUOTE = 1_500
_MAX_FILE_BYTES = 100_000
_MIN_CHARACTERS, _MAX_CHARACTERS = 60, 1_000
_TEST_PERCENT = 15
_SKIPPED_FOLDERS = {"test", "tests", "testing", "_vendor", "externals", "node_modules", "__pycache__"}

# Names that would give the class away: a proxy that learns to read its own label shows nothing.
_GIVEAWAYS = re.compile(
    r"\b(datasets(?=\.)|hugging ?face(_hub)?|matplotlib|mpl|pyplot|plt|networkx|nx|numba|numpy|np|pandas|pd|pydantic|"
    r"scipy|sklearn|scikit[- ]learn|sympy|py ?torch|torch|transformers)\b",
    re.IGNORECASE,
)
_NOT_PROSE = re.compile(
    r">>>|^\s*(\.\.|[-=~^*]{3,}|[|+@#])|^[\w, *]+ :( |$)|^\s*\w[\w, *]* ?: ?\S*$|::\s*$", re.MULTILINE
)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _docstrings(source: bytes) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    # Statements only: ast.walk would visit every expression, at twice the cost of parsing.
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        nodes.extend(getattr(node, "orelse", []) if isinstance(node, (ast.If, ast.Try)) else [])
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.If, ast.Try)):
            continue
        nodes.extend(node.body)
        if not isinstance(node, (ast.If, ast.Try)) and (text := ast.get_docstring(node)):
            yield text


def _paragraphs(docstring: str) -> Iterator[str]:
    """Running text only: no doctests, parameter tables, headings, directives or markup."""
    for block in re.split(r"\n\s*\n", docstring):
        if block[:1].isspace() or _NOT_PROSE.search(block):
            continue
        text = normalise(block)
        letters = sum(character.isalpha() or character == " " for character in text)
        if _MIN_CHARACTERS <= len(text) <= _MAX_CHARACTERS and letters >= 0.8 * len(text) and text.isprintable():
            yield text


def _library_rows(root: Path) -> list[str]:
    """Different paragraphs of one library, at most the cap, from its files in the order of their hashes.

    That order is the same on every machine and mixes the parts of the library, so the cap does not cut by alphabet.
    """
    names = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if not _SKIPPED_FOLDERS & set(path.relative_to(root).parts)
    ]
    rows: dict[str, None] = {}
    for name in sorted(names, key=lambda name: (_hash(name), name)):
        source = (root / name).read_bytes()
        if len(source) > min(_MAX_FILE_BYTES, source.count(b'"""') * _BYTES_PER_QUOTE):
            continue
        for docstring in _docstrings(source):
            rows.update((normalise(_GIVEAWAYS.sub("library", text)), None) for text in _paragraphs(docstring))
        if len(rows) >= _ROWS_PER_LIBRARY:
            break
    return list(rows)[:_ROWS_PER_LIBRARY]


def _installed() -> dict[str, Path]:
    """Library -> its folder, sorted by name. Looking up a top-level package runs none of its code."""
    found = {}
    for name in _LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            found[name] = Path(next(iter(spec.submodule_search_locations)))
    return found


def _write_docstrings(directory: Path, libraries: dict[str, Path]) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    collecting = gc.isenabled()
    gc.disable()  # syntax trees are millions of objects without cycles: a quarter of the time
    try:
        found = {name: _library_rows(root) for name, root in libraries.items()}
    finally:
        if collecting:
            gc.enable()
    texts = {name: of_library for name, of_library in found.items() if len(of_library) >= _FEWEST_ROWS}
    shared = {text for text, count in Counter(chain.from_iterable(texts.values())).items() if count > 1}
    # A paragraph that two libraries have is evidence for neither.
    rows = [(text, name) for name, of_library in texts.items() for text in of_library if text not in shared]
    rows.sort(key=lambda row: (_hash(row[0]), row[0]))
    features = Features({"text": Value("large_string"), "label": ClassLabel(names=sorted(texts))})
    for split in _SPLITS:
        chosen = [row for row in rows if (_hash("split " + row[0]) % 100 < _TEST_PERCENT) == (split == "test")]
        if not chosen:
            raise PoolError(
                "builtin:docstrings: no library with enough docstrings is installed as source files; "
                f"expected some of {', '.join(_LIBRARIES)}"
            )
        columns = {"text": [text for text, _ in chosen], "label": [name for _, name in chosen]}
        table = Dataset.from_dict(columns, features=features).data.table
        write_arrow(directory / f"{split}.arrow", table.schema, table.to_batches())


def _docstrings_directory() -> Path:
    libraries = _installed()
    # The version is part of the key and not the files' dates: two machines with the same versions have the same pool.
    key = fingerprint_json([_FORMAT, {name: _version(name) for name in libraries}])
    return cached_directory("docstrings", key, lambda directory: _write_docstrings(directory, libraries))


def _version(package: str) -> str:
    distributions = _package_distributions().get(package) or [package]
    try:
        return metadata.version(distributions[0])
    except metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def _package_distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _write_shapes(directory: Path) -> None:
    from datasets import ClassLabel, Features, Image

    schema = Features({"image": Image(), "label": ClassLabel(names=list(builtin_shapes.CLASSES))}).arrow_schema
    for split, (start, stop) in _SHAPES.items():
        rows_N = np.arange(start, stop)
        images = [{"bytes": builtin_shapes.encode_png(image)} for image in builtin_shapes.draw(rows_N)]
        columns = [pa.array(images, schema.field("image").type), pa.array(builtin_shapes.labels_of(rows_N))]
        write_arrow(directory / f"{split}.arrow", schema, pa.table(columns, schema=schema).to_batches())


def _shapes_directory() -> Path:
    return cached_directory("shapes", fingerprint_json([_FORMAT]), _write_shapes)


_BUILTINS: dict[str, Callable[[], Path]] = {
    PREFIX + "docstrings": _docstrings_directory,
    PREFIX + "shapes": _shapes_directory,
}


def build_builtin(path: str) -> dict[str, Path]:
    """Split -> Arrow file of a built-in pool; built at the first call (texts about 10 s, shapes 2 s), then cached.

    Raises:
        PoolError: no such built-in.
    """
    if path not in _BUILTINS:
        raise PoolError(
            f"{path}: no such built-in pool{closest(path, list(_BUILTINS))}; there is {', '.join(_BUILTINS)}"
        )
    directory = _BUILTINS[path]()
    return {split: directory / f"{split}.arrow" for split in _SPLITS}
