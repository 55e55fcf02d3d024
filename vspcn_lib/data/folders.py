"""The folder benchmark: the user's own images, one class folder each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vspcn_lib.data.draw import draw_lists, draw_val_classes
from vspcn_lib.data.splits import Benchmark, BenchmarkError
from vspcn_lib.data.tables import read_phrases, read_table
from vspcn_lib.data.walk import Found, images_below
from vspcn_lib.system.text import composed, did_you_mean, letters, nearest, read_text, shown

_KEYS = ("trainval", "test_seen", "test_unseen", "val_classes")  # of splits.json


def read_folder(folder: Path, rows_in_order: bool = False) -> Benchmark:
    """images/<class>/<file>, attributes.csv, splits.json (drawn with seed 0 and said so when absent), phrases.csv.

    Classes and images are sorted by name, whatever the order of rows, unless `rows_in_order`. A class name may hold
    `/` (images/a/abbey/ for the class a/abbey). What is passed over below images/ is counted in the notes.
    Raises `BenchmarkError` that names the file and the entry.
    """
    classes, names, prototypes, notes = read_table(folder / "attributes.csv")
    if not rows_in_order:
        order = sorted(range(len(classes)), key=classes.__getitem__)
        classes, prototypes = tuple(classes[i] for i in order), prototypes[order]
    found = images_below(folder / "images")
    if not found.files:
        passed = found.sentence("images")
        raise BenchmarkError(f"{folder / 'images'} holds no images: put them in images/<class>/<file>"
                             + f"; {passed}" * bool(passed))
    files, owners = _owned(folder, found.files, classes)
    notes += [found.sentence("images"), _nested(files, owners, classes), *_emptied(found, owners, classes)]
    labels = np.array(owners, dtype=np.int64)
    file, rng = folder / "splits.json", np.random.default_rng(0)
    lists, val_names = None, None
    if file.exists():
        splits = _splits(file)
        lists = [_listed(file, key, splits.get(key), list(files), classes, found) for key in _KEYS[:3]]
        val_names = splits.get("val_classes")
    else:
        lists = draw_lists(labels, rng)
        notes.append(f"{file.name} is absent: drew 30 % unseen classes and 20 % test_seen images with seed 0")
    if val_names is None:
        val = draw_val_classes(labels, lists[0], rng)
        notes.append("no val_classes given: drew a third of the seen classes with seed 0")
    else:
        val = _val_classes(file, val_names, classes)
    paths = tuple(folder / "images" / f for f in files.values())
    return Benchmark(folder.absolute().name, paths, labels, classes, names, prototypes, *lists, val,
                     tuple(filter(None, notes)), phrases=read_phrases(folder / "phrases.csv", names))


def _owned(folder: Path, images: Sequence[str], classes: tuple[str, ...]) -> tuple[dict[str, str], list[int]]:
    """Images by their composed name, sorted by it, as they are called on disk; and the class of each.

    An image belongs to the longest class name that its folders begin with. Raises `BenchmarkError` for one that
    belongs to none, and for two files or folders that are one name.
    """
    position = {c: i for i, c in enumerate(classes)}
    owner: dict[str, tuple[int, str]] = {}  # of each folder: its class and that class's folder, as on disk
    for parent in dict.fromkeys(image.rpartition("/")[0] for image in images):
        parts = parent.split("/")
        plain = [composed(part).strip() for part in parts]
        depth = next((d for d in range(len(parts), 0, -1) if "/".join(plain[:d]) in position), 0)
        if not depth:
            raise BenchmarkError(_no_row(folder, parent, plain, classes, {image.split("/")[0] for image in images}))
        owner[parent] = position["/".join(plain[:depth])], "/".join(parts[:depth])
    spelled: dict[int, str] = {}
    for c, on_disk in owner.values():
        if spelled.setdefault(c, on_disk) != on_disk:
            raise BenchmarkError(f"{folder / 'images'} holds both {spelled[c]!r} and {on_disk!r}, which are one class "
                                 f"name, '{classes[c]}', but for spaces or Unicode's forms: put the images into one")
    files: dict[str, str] = {}
    for image in images:
        parent, _, name = image.rpartition("/")
        c, on_disk = owner[parent]
        key = classes[c] + composed(parent[len(on_disk):]) + "/" + composed(name)
        if key in files:
            raise BenchmarkError(f"{folder / 'images'} holds two files of one name but for Unicode's forms, "
                                 f"{files[key]!r} and {image!r}: rename one")
        files[key] = image
    files = dict(sorted(files.items()))
    return files, [owner[image.rpartition("/")[0]][0] for image in files.values()]


def _no_row(folder: Path, parent: str, plain: list[str], classes: tuple[str, ...], tops: set[str]) -> str:
    said = f"class '{shown(plain[0])}' has images but no row in {folder}/attributes.csv"
    deeper = next((d for d in range(1, len(plain)) for e in range(len(plain), d, -1)
                   if "/".join(plain[d:e]) in classes), 0)
    if deeper:
        name = next("/".join(plain[deeper:e]) for e in range(len(plain), deeper, -1)
                    if "/".join(plain[deeper:e]) in classes)
        return (f"{said}: the folder images/{shown(parent)} lies too deep for the class '{name}'; move it to "
                f"images/{name}, or call the class '{shown('/'.join(plain))}'")
    free = [c for c in classes if c not in tops]  # a row whose folder is there is not the one meant
    near = nearest("/".join(plain), free) or nearest(plain[0], free)
    return f"{said}: did you mean its row '{shown(near)}'?" if near else f"{said}: add it"


def _nested(files: dict[str, str], owners: list[int], classes: tuple[str, ...]) -> str:
    deep = [f for f, c in zip(files, owners, strict=True) if "/" in f[len(classes[c]) + 1:]]
    return (f"{len(deep)} images lie in folders within their class's folder and count as that class, first "
            f"'{shown(deep[0])}'") if deep else ""


def _emptied(found: Found, owners: list[int], classes: tuple[str, ...]) -> list[str]:
    """A sentence for each class all of whose files were passed over."""
    left, known = {classes[c] for c in set(owners)}, set(classes)
    lost: dict[str, int] = {}
    for names in found.passed.values():
        for name in names:
            parts = composed(name).split("/")
            whole = ["/".join(parts[:d]) for d in range(len(parts), 0, -1)]
            owner = next((c for c in whole if c in known), None)
            if owner is not None and owner not in left and not parts[-1].startswith("."):
                lost[owner] = lost.get(owner, 0) + 1
    return [f"class '{c}' has no image left: all of it was passed over ({n})" for c, n in sorted(lost.items())]


def _splits(file: Path) -> dict[str, Any]:
    """splits.json as an object with known keys, each once."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise BenchmarkError(f"{file}: the key '{shown(twice)}' stands there twice: which one counts?")
        return dict(pairs)

    try:
        splits = json.loads(read_text(file), object_pairs_hook=once)
    except BenchmarkError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BenchmarkError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(splits, dict):
        raise BenchmarkError(f"{file} must be an object with 'trainval', 'test_seen' and 'test_unseen'")
    unknown = [key for key in splits if key not in _KEYS]
    if unknown:
        raise BenchmarkError(f"{file}: unknown key '{shown(unknown[0])}', did you mean "
                             f"'{nearest(unknown[0], _KEYS, 0.0)}'? known: {', '.join(_KEYS)}")
    return splits


def _listed(file: Path, key: str, entries: Any, files: list[str], classes: tuple[str, ...],
            found: Found) -> np.ndarray:
    """Sorted indices of the images that a list of splits.json names, with `/` or Windows' separator."""
    if not isinstance(entries, list) or not entries or not all(isinstance(f, str) for f in entries):
        raise BenchmarkError(f"{file}: '{key}' must be a list of '<class>/<file>' that is not empty")
    index = {f: i for i, f in enumerate(files)}

    def place(entry: str) -> int | None:
        plain = composed(entry)
        if plain not in index:
            plain = "/".join(part.strip() for part in plain.replace("\\", "/").split("/"))
        return index.get(plain)

    places = [place(entry) for entry in entries]
    lost = [entry for entry, where in zip(entries, places, strict=True) if where is None]
    if lost:
        kind, (parent, _, name) = found.why(lost[0]), lost[0].replace("\\", "/").rpartition("/")
        near = [f for f in files if letters(f) == letters(lost[0]) or (  # or the class is misspelt
            composed(parent) not in classes and letters(f.rpartition("/")[2]) == letters(name))]
        raise BenchmarkError(f"{file}: {len(lost)} of '{key}' are not in images/ (or no images by their suffix), first "
                             f"'{shown(lost[0])}'" + (f", passed over as {kind}" if kind else
                                                      f"; {did_you_mean(lost[0], near)}".rstrip("; ")))
    return np.array(sorted(places), dtype=np.int64)


def _val_classes(file: Path, found: Any, classes: tuple[str, ...]) -> np.ndarray:
    """Sorted indices of the classes named."""
    if not isinstance(found, list) or not all(isinstance(c, str) for c in found):
        raise BenchmarkError(f"{file}: 'val_classes' must be a list of class names")
    names = [composed(c).strip() for c in found]
    if len(set(names)) < len(names):
        raise BenchmarkError(f"{file}: 'val_classes' names a class twice")
    unknown = [c for c in names if c not in classes]
    if unknown:
        raise BenchmarkError(f"{file}: val class '{shown(unknown[0])}' has no row in attributes.csv; "
                             f"{did_you_mean(unknown[0], classes)}".rstrip("; "))
    return np.array(sorted(classes.index(c) for c in names), dtype=np.int64)
