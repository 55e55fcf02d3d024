"""Benchmarks: images, labels, class attributes and splits, from the official layouts or from any folder."""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat


class BenchmarkError(ValueError):
    """A dataset or split cannot be used; the message names file, field or value and what to do."""


@dataclass(frozen=True)
class Layout:
    """Where an official archive keeps things, below the data root, and the published counts."""

    folder: str
    images: str
    splits: str
    attributes: tuple[str, ...]
    counts: tuple[int, int, int]
    """images in trainval, test_seen, test_unseen"""


_CUB_ATTRIBUTES = ("CUB_200_2011/attributes/attributes.txt", "attributes.txt")
LAYOUTS = {
    "cub": Layout("CUB_200_2011", "CUB_200_2011/images", "CUB", _CUB_ATTRIBUTES, (7057, 1764, 2967)),
    "cub100": Layout("CUB_200_2011", "CUB_200_2011/images", "CUB", _CUB_ATTRIBUTES, (3432, 860, 1610)),
    "awa2": Layout("Animals_with_Attributes2", "Animals_with_Attributes2/JPEGImages", "AWA2",
                   ("Animals_with_Attributes2/predicates.txt",), (23527, 5882, 7913)),
    "sun": Layout("SUNAttributeDB", "images", "SUN", ("SUNAttributeDB/attributes.mat",), (10320, 2580, 1440)),
}


@dataclass(frozen=True, eq=False)
class Benchmark:
    """One GZSL benchmark; every index is 0-based."""

    name: str
    image_paths: tuple[Path, ...]
    labels: np.ndarray
    """[n] class of each image"""
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    prototypes: np.ndarray
    """[C,K] float32 class attributes"""
    trainval: np.ndarray
    test_seen: np.ndarray
    test_unseen: np.ndarray
    val_classes: np.ndarray
    """validation classes, a part of the seen ones"""
    note: str = ""

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @cached_property
    def seen_classes(self) -> np.ndarray:
        """Classes with training images, sorted."""
        return np.unique(self.labels[self.trainval])

    @cached_property
    def unseen_classes(self) -> np.ndarray:
        """Classes of the unseen test images, sorted."""
        return np.unique(self.labels[self.test_unseen])

    @cached_property
    def unseen_mask(self) -> np.ndarray:
        """[C] bool, true for unseen classes."""
        return np.isin(np.arange(self.num_classes), self.unseen_classes)

    @property
    def train(self) -> np.ndarray:
        """Trainval images whose class is no validation class."""
        return self.trainval[~np.isin(self.labels[self.trainval], self.val_classes)]

    @property
    def val(self) -> np.ndarray:
        """Trainval images of the validation classes, the pseudo-unseen ones of selection."""
        return self.trainval[np.isin(self.labels[self.trainval], self.val_classes)]

    @cached_property
    def split_hash(self) -> str:
        """16 hex digits over class names, image names and every list: equal splits, equal hash."""
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        digest.update("\n".join(f"{p.parent.name}/{p.name}" for p in self.image_paths).encode())
        for part in (self.labels, self.trainval, self.test_seen, self.test_unseen, self.val_classes):
            digest.update(np.asarray(part, dtype=np.int64).tobytes() + b"|")
        return digest.hexdigest()[:16]

    def check(self) -> Benchmark:
        """Return self if everything fits. Raises `BenchmarkError` that names the first thing that does not."""
        n, name = len(self.image_paths), self.name
        twice = [c for c in set(self.class_names) if self.class_names.count(c) > 1]
        if twice:
            raise BenchmarkError(f"{name}: class name '{sorted(twice)[0]}' occurs twice: names must be unique")
        lists = {"trainval": self.trainval, "test_seen": self.test_seen, "test_unseen": self.test_unseen}
        for part, indices in lists.items():
            _check_indices(f"{name}: {part}", indices, n)
        for a, b in (("trainval", "test_seen"), ("trainval", "test_unseen"), ("test_seen", "test_unseen")):
            both = np.intersect1d(lists[a], lists[b])
            if len(both):
                raise BenchmarkError(f"{name}: {len(both)} images are in both {a} and {b}, first "
                                     f"{self.image_paths[both[0]].name}: each image belongs to one list")
        leaked = self.trainval[np.isin(self.labels[self.trainval], self.unseen_classes)]
        if len(leaked):
            path = self.image_paths[leaked[0]]
            raise BenchmarkError(f"{name}: trainval holds {len(leaked)} images of unseen classes, first {path.name} of "
                                 f"{path.parent.name}: a class is seen or unseen, take it out of one list")
        stray = np.setdiff1d(self.labels[self.test_seen], self.seen_classes)
        if len(stray):
            raise BenchmarkError(f"{name}: test_seen holds images of '{self.class_names[stray[0]]}', which has no "
                                 "training image: add some, or move the class to test_unseen")
        wrong = np.setdiff1d(self.val_classes, self.seen_classes)
        if len(wrong):
            raise BenchmarkError(f"{name}: val class '{self.class_names[wrong[0]]}' is not a seen class: validation "
                                 "classes must have trainval images")
        if not 0 < len(self.val_classes) < len(self.seen_classes):
            raise BenchmarkError(f"{name}: {len(self.val_classes)} of {len(self.seen_classes)} seen classes are "
                                 "validation classes: selection needs some of both kinds")
        for problem, rows in (("NaN or infinite values", ~np.isfinite(self.prototypes).all(1)),
                              ("only zeros", ~self.prototypes.any(1))):
            if rows.any():
                raise BenchmarkError(f"{name}: the attributes of class '{self.class_names[rows.argmax()]}' hold "
                                     f"{problem}: mend that row")
        return self


def load_benchmark(name_or_path: str | Path, root: Path | str | None = None) -> Benchmark:
    """cub, sun, awa2 or cub100 in their official layouts below `root`, or a folder benchmark by its path.

    Default root: $VSPCN_DATA, else ./data; cub100 is also looked for beside the repository. Raises
    `BenchmarkError` for an unknown name or for missing, partial or contradictory files.
    """
    name = str(name_or_path)
    if name in LAYOUTS:
        return _official(name, _root(name, root)).check()
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return _folder(folder).check()
    near = difflib.get_close_matches(name, ["birdlets", *LAYOUTS], n=1, cutoff=0.0)[0]
    raise BenchmarkError(f"'{name}' is neither a folder nor a known benchmark: did you mean '{near}'?")


def _root(name: str, root: Path | str | None) -> Path:
    chosen = Path(root) if root else Path(os.environ.get("VSPCN_DATA") or "data")
    if name == "cub100" and not root:
        beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "cub100"
        if beside.is_dir():
            return beside
        chosen = chosen / "cub100"
    return chosen.expanduser()


@dataclass(frozen=True, eq=False)
class ProposedSplit:
    """att_splits.mat, 0-based; train and val are intersected with trainval."""

    attributes: np.ndarray
    class_names: tuple[str, ...]
    trainval: np.ndarray
    test_seen: np.ndarray
    test_unseen: np.ndarray
    train: np.ndarray
    val: np.ndarray


def read_proposed_split(file: Path) -> ProposedSplit:
    """The proposed split of Xian et al. (`att_splits.mat`), 1-based MATLAB indices made 0-based.

    In the official files train_loc and val_loc together also cover test_seen_loc: both are intersected with
    trainval_loc here, so no test image can slip into selection. Raises `BenchmarkError`.
    """
    mat = _mat(file, ["att", "allclasses_names", "trainval_loc", "test_seen_loc", "test_unseen_loc",
                      "train_loc", "val_loc"])
    lists = {}
    for key in ("trainval", "test_seen", "test_unseen", "train", "val"):
        found = np.asarray(mat[f"{key}_loc"]).astype(np.int64).ravel() - 1
        if not len(found) or found.min() < 0:
            raise BenchmarkError(f"{file}: {key}_loc is empty or holds an index below 1: it must be 1-based")
        lists[key] = np.sort(found)
    for key in ("train", "val"):
        lists[key] = np.intersect1d(lists[key], lists["trainval"])
    names = tuple(_text(c) for c in mat["allclasses_names"].ravel())
    attributes = np.asarray(mat["att"], dtype=np.float32).T
    if len(attributes) != len(names):
        raise BenchmarkError(f"{file}: {len(names)} classes but {len(attributes)} attribute rows")
    return ProposedSplit(attributes, names, **lists)


def _mat(file: Path, names: list[str]) -> dict[str, Any]:
    if not file.is_file():
        raise BenchmarkError(f"{file} is missing: get it with `python -m vspcn_lib data fetch NAME`")
    try:
        mat = loadmat(file, variable_names=names)  # never the features: 200 MB that nobody reads here
    except Exception as error:
        raise BenchmarkError(f"{file} cannot be read ({error}): fetch it again") from error
    missing = [n for n in names if n not in mat]
    if missing:
        raise BenchmarkError(f"{file} lacks {', '.join(missing)}: it is not the file of the proposed splits")
    return mat


def _text(cell: Any) -> str:
    while isinstance(cell, np.ndarray):
        cell = cell.ravel()[0]
    return str(cell).strip()


def _official(name: str, root: Path) -> Benchmark:
    layout, fetch = LAYOUTS[name], f"python -m vspcn_lib data fetch {name} --root {root}"
    splits = root / "xlsa17" / "data" / layout.splits
    if not (root / layout.images).is_dir():
        raise BenchmarkError(f"{name} is not in {root}: no folder {layout.images}; get it with `{fetch}`, or say where "
                             "it is with --data.root or VSPCN_DATA")
    split = read_proposed_split(splits / "att_splits.mat")
    listed = _mat(splits / "res101.mat", ["image_files", "labels"])
    labels = np.asarray(listed["labels"]).astype(np.int64).ravel() - 1
    tails = [_tail(_text(cell), layout) for cell in listed["image_files"].ravel()]
    there = _files_below(root / layout.images)
    missing = [t for t in tails if t not in there]
    if missing:
        raise BenchmarkError(f"{name}: {len(missing)} of {len(tails)} images are missing in {root / layout.images}, "
                             f"first {', '.join(missing[:3])}: complete it with `{fetch}`")
    _check_indices(f"{splits / 'res101.mat'}: labels", labels, len(split.class_names), unique=False)
    for part in ("trainval", "test_seen", "test_unseen", "val"):
        _check_indices(f"{splits / 'att_splits.mat'}: {part}_loc", getattr(split, part), len(tails))
    attribute_names = _attribute_names(root, layout, split.attributes.shape[1])
    return Benchmark(name, tuple(root / layout.images / t for t in tails), labels, split.class_names, attribute_names,
                     split.attributes, split.trainval, split.test_seen, split.test_unseen,
                     np.unique(labels[split.val]))


def _tail(path: str, layout: Layout) -> str:
    """The part of a foreign absolute path below the image folder, matched by that folder's own name."""
    marker = "/" + Path(layout.images).name + "/"
    if marker not in path:
        raise BenchmarkError(f"res101.mat lists '{path}', which has no '{marker}' in it: not the official image list")
    return path.split(marker, 1)[1]


def _files_below(folder: Path) -> set[str]:
    """Every file below `folder`, relative; one directory scan a folder, as 5,902 stats would take seconds."""
    return {os.path.relpath(os.path.join(base, f), folder) if base != str(folder) else f
            for base, _, files in os.walk(folder) for f in files}


def _attribute_names(root: Path, layout: Layout, count: int) -> tuple[str, ...]:
    file = next((root / f for f in layout.attributes if (root / f).is_file()), None)
    if file is None:
        raise BenchmarkError(f"{root / layout.attributes[0]} with the attribute names is missing: fetch the dataset "
                             "again, it belongs to the archive")
    if file.suffix == ".mat":
        names = tuple(_text(c) for c in _mat(file, ["attributes"])["attributes"].ravel())
    else:
        names = tuple(line.split(maxsplit=1)[1].strip() for line in file.read_text().splitlines() if line.strip())
    if len(names) != count:
        raise BenchmarkError(f"{file} names {len(names)} attributes, the split file has {count} columns")
    return names


def _folder(folder: Path) -> Benchmark:
    """images/<class>/<file>, attributes.csv, splits.json (drawn with seed 0 and said so when absent)."""
    classes, names, prototypes = _attributes_csv(folder / "attributes.csv")
    files = sorted(_files_below(folder / "images"))
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
            splits = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise BenchmarkError(f"{file} is not valid JSON: {error}") from error
        lists = []
        for key in ("trainval", "test_seen", "test_unseen"):
            if not isinstance(splits.get(key), list) or not splits[key]:
                raise BenchmarkError(f"{file}: '{key}' must be a list of '<class>/<file>' that is not empty")
            lost = [f for f in splits[key] if f not in index]
            if lost:
                raise BenchmarkError(f"{file}: {len(lost)} of '{key}' are not in images/, first '{lost[0]}'")
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
        unknown = [c for c in val_names if c not in position]
        if unknown:
            raise BenchmarkError(f"{file}: val class '{unknown[0]}' has no row in attributes.csv")
        val = np.array(sorted(position[c] for c in val_names), dtype=np.int64)
    paths = tuple(folder / "images" / f for f in files)
    return Benchmark(folder.name, paths, labels, classes, names, prototypes, *lists, val, note)


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


def _attributes_csv(file: Path) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    if not file.is_file():
        raise BenchmarkError(f"{file} is missing: it needs a header 'class,<attribute>,...' and one row a class")
    with file.open(newline="") as opened:
        rows = [row for row in csv.reader(opened) if row]
    if len(rows) < 3 or len(rows[0]) < 2 or rows[0][0] != "class":
        raise BenchmarkError(f"{file}: the header must be 'class,<attribute>,...' with one row a class below it")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise BenchmarkError(f"{file}, row {number}: {len(row)} fields, the header has {len(rows[0])}")
    try:
        values = np.array([row[1:] for row in rows[1:]], dtype=np.float32)
    except ValueError as error:
        raise BenchmarkError(f"{file}: an attribute is not a number ({error})") from error
    return tuple(row[0] for row in rows[1:]), tuple(rows[0][1:]), values


def _check_indices(what: str, indices: np.ndarray, count: int, unique: bool = True) -> None:
    if not len(indices):
        raise BenchmarkError(f"{what} is empty")
    if indices.min() < 0 or indices.max() >= count:
        bad = indices[(indices < 0) | (indices >= count)][0]
        raise BenchmarkError(f"{what} holds index {bad}, out of range 0..{count - 1}: split and images do not belong "
                             "together")
    if unique and len(np.unique(indices)) != len(indices):
        raise BenchmarkError(f"{what} names an image twice")
