"""The folder benchmark: the user's own images, one class folder each."""

from __future__ import annotations

import csv
import difflib
import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from vspcn_lib.data.splits import Benchmark, BenchmarkError, files_below

_KEYS = ("trainval", "test_seen", "test_unseen", "val_classes")  # of splits.json


def read_folder(folder: Path) -> Benchmark:
    """images/<class>/<file>, attributes.csv, splits.json (drawn with seed 0 and said so when absent), phrases.csv.

    Hidden files and files that are no images by their suffix (.DS_Store, Thumbs.db) are passed over.
    Raises `BenchmarkError` that names the file and the entry.
    """
    classes, names, prototypes = _attributes_csv(folder / "attributes.csv")
    files = sorted(f for f in files_below(folder / "images") if _is_image(f))
    if not files:
        raise BenchmarkError(f"{folder / 'images'} holds no images: put them in images/<class>/<file>")
    position, index = {c: i for i, c in enumerate(classes)}, {f: i for i, f in enumerate(files)}
    for f in files:
        if f.split("/")[0] not in position:
            raise BenchmarkError(f"class '{f.split('/')[0]}' has images but no row in {folder}/attributes.csv: add it")
    labels = np.array([position[f.split("/")[0]] for f in files], dtype=np.int64)
    file, note, rng = folder / "splits.json", "", np.random.default_rng(0)
    if file.exists():
        try:
            splits = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BenchmarkError(f"{file} is not valid JSON: {error}") from error
        if not isinstance(splits, dict):
            raise BenchmarkError(f"{file} must be an object with 'trainval', 'test_seen' and 'test_unseen'")
        unknown = [key for key in splits if key not in _KEYS]
        if unknown:
            near = difflib.get_close_matches(unknown[0], _KEYS, n=1, cutoff=0.0)[0]
            raise BenchmarkError(f"{file}: unknown key '{unknown[0]}', did you mean '{near}'? known: "
                                 f"{', '.join(_KEYS)}")
        lists = []
        for key in _KEYS[:3]:
            found = splits.get(key)
            if not isinstance(found, list) or not found or not all(isinstance(f, str) for f in found):
                raise BenchmarkError(f"{file}: '{key}' must be a list of '<class>/<file>' that is not empty")
            lost = [f for f in splits[key] if f not in index]
            if lost:
                raise BenchmarkError(f"{file}: {len(lost)} of '{key}' are not in images/ (or no images by their "
                                     f"suffix), first '{lost[0]}'")
            lists.append(np.array(sorted(index[f] for f in splits[key]), dtype=np.int64))
        val_names = splits.get("val_classes")
    else:
        lists, val_names = _draw(labels, rng), None
        note = f"{file.name} is absent: drew 30 % unseen classes and 20 % test_seen images with seed 0"
    if val_names is None:
        seen = rng.permutation(np.unique(labels[lists[0]]))
        val = np.sort(seen[:max(1, round(len(seen) / 3))])
        note += ("; " if note else "") + "no val_classes given: drew a third of the seen classes with seed 0"
    else:
        if not isinstance(val_names, list) or not all(isinstance(c, str) for c in val_names):
            raise BenchmarkError(f"{file}: 'val_classes' must be a list of class names")
        if len(set(val_names)) < len(val_names):
            raise BenchmarkError(f"{file}: 'val_classes' names a class twice")
        unknown = [c for c in val_names if c not in position]
        if unknown:
            raise BenchmarkError(f"{file}: val class '{unknown[0]}' has no row in attributes.csv")
        val = np.array(sorted(position[c] for c in val_names), dtype=np.int64)
    paths = tuple(folder / "images" / f for f in files)
    return Benchmark(folder.name, paths, labels, classes, names, prototypes, *lists, val, note,
                     _phrases_csv(folder / "phrases.csv", names))


def _is_image(name: str) -> bool:
    """Whether a file below images/ is meant as one: no hidden file or folder, and a suffix that Pillow opens."""
    return not any(part.startswith(".") for part in name.split("/")) and Path(name).suffix.lower() in _suffixes()


@cache
def _suffixes() -> set[str]:
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _draw(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    classes = rng.permutation(np.unique(labels))
    unseen = classes[:max(1, round(0.3 * len(classes)))]
    trainval, test_seen = [], []
    for c in np.setdiff1d(classes, unseen):
        images = rng.permutation(np.flatnonzero(labels == c))
        cut = max(1, round(0.2 * len(images)))
        test_seen.extend(images[:cut])
        trainval.extend(images[cut:])
    return [np.sort(np.array(part, dtype=np.int64))
            for part in (trainval, test_seen, np.flatnonzero(np.isin(labels, unseen)))]


def _phrases_csv(file: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The optional phrases.csv, `attribute,phrase`: what text encoders read for some or all attributes, by name."""
    if not file.is_file():
        return {}
    rows = _table(file)
    if not rows or rows[0] != ["attribute", "phrase"]:
        raise BenchmarkError(f"{file}: the header must be 'attribute,phrase'")
    found: dict[str, str] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 2:
            raise BenchmarkError(f"{file}, row {number}: {len(row)} fields, not an attribute and its phrase")
        name, phrase = row[0], row[1].strip()
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise BenchmarkError(f"{file}, row {number}: attributes.csv has no '{name}', did you mean '{near}'?")
        if name in found:
            raise BenchmarkError(f"{file}, row {number}: '{name}' occurs twice: one phrase an attribute")
        if not any(c.isalnum() for c in phrase) or not phrase.isprintable() or len(phrase) > 500:
            raise BenchmarkError(f"{file}, row {number}: {phrase[:40]!r} cannot be the phrase of '{name}': use 1 to "
                                 "500 printable characters, with a word among them")
        found[name] = phrase
    return found


def _table(file: Path) -> list[list[str]]:
    """The rows of a CSV file that are not empty."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:  # spreadsheets put a mark first
            return [row for row in csv.reader(opened, strict=True) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise BenchmarkError(f"{file} is not a CSV table in UTF-8 ({error}): save it as one") from error


def _attributes_csv(file: Path) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    if not file.is_file():
        raise BenchmarkError(f"{file} is missing: it needs a header 'class,<attribute>,...' and one row a class")
    rows = _table(file)
    if len(rows) < 3 or len(rows[0]) < 2 or rows[0][0] != "class":
        raise BenchmarkError(f"{file}: the header must be 'class,<attribute>,...' with one row a class below it")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise BenchmarkError(f"{file}, row {number}: {len(row)} fields, the header has {len(rows[0])}")
    if len(set(rows[0])) < len(rows[0]):
        twice = next(n for n in rows[0] if rows[0].count(n) > 1)
        raise BenchmarkError(f"{file}: the column '{twice}' occurs twice: names must be unique")
    try:
        with np.errstate(over="ignore"):  # too large a number becomes infinite, and that is refused by name
            values = np.array([row[1:] for row in rows[1:]], dtype=np.float32)
    except ValueError as error:
        raise BenchmarkError(f"{file}: an attribute is not a number ({error})") from error
    return tuple(row[0] for row in rows[1:]), tuple(rows[0][1:]), values
