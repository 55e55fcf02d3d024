"""Benchmarks: images, labels, class attributes and splits, from the official layouts or from any folder."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from vspcn_lib.data.birdlets import build_birdlets
from vspcn_lib.data.folders import read_folder
from vspcn_lib.data.images import cache_dir
from vspcn_lib.data.official import attribute_names, compare_labels, compare_rows, image_files
from vspcn_lib.data.remarks import with_remarks
from vspcn_lib.data.splits import Benchmark, BenchmarkError, check_indices
from vspcn_lib.data.walk import files_below
from vspcn_lib.system.text import composed

BIRDLETS = "birdlets-v2"  # folder in the cache; the version changes when the pixels do


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

FOLDERS = ("awa35",)  # folder benchmarks with a name, found where the official ones are

UNFETCHED = {**{name: f"it is no download: put its folder at ../shared/data/{name} beside the repository"
                for name in ("cub100", *FOLDERS)},
             "birdlets": "it is no download: the project draws it on first use"}


def load_benchmark(name_or_path: str | Path, root: Path | str | None = None) -> Benchmark:
    """cub, sun, awa2 or cub100 in their official layouts below `root`, birdlets (drawn on first use, into the cache),
    or a folder benchmark by its name (awa35, below `root`) or its path.

    Default root: `find_root`. Raises `BenchmarkError` for an unknown name or for missing, partial or contradictory
    files.
    """
    name = str(name_or_path)
    if name in LAYOUTS:
        return with_remarks(_official(name, find_root(name, root)).check())
    if name == "birdlets":  # rows as they were first drawn: records name the split hash that goes with that order
        return with_remarks(replace(read_folder(birdlets_folder(), rows_in_order=True), name=name).check())
    if name in FOLDERS:
        folder = find_root(name, root)
        if not (folder / "images").is_dir():
            raise BenchmarkError(f"{name} is not in {folder}: {UNFETCHED[name]}, or say where it is with --data.root "
                                 "or VSPCN_DATA")
        return with_remarks(replace(read_folder(folder), name=name).check())
    folder = Path(os.path.expanduser(name_or_path))
    if folder.is_dir():
        return with_remarks(read_folder(folder).check())
    near = difflib.get_close_matches(name, ["birdlets", *LAYOUTS, *FOLDERS], n=1, cutoff=0.0)[0]
    raise BenchmarkError(f"'{name}' is neither a folder nor a known benchmark: did you mean '{near}'?")


def birdlets_folder() -> Path:
    """The folder of birdlets in the cache, drawn where it is not there yet."""
    return build_birdlets(cache_dir() / BIRDLETS)


def find_root(name: str, root: Path | str | None = None) -> Path:
    """The folder that holds the official layout of `name`, or its folder benchmark, or should.

    `root`, else $VSPCN_DATA, else ../shared/data beside the repository where it is there, else ./data; in each a
    folder called `name` (as cub100 and cub may lie side by side) comes before the folder itself.
    """
    asked = root or os.environ.get("VSPCN_DATA")
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    places = [Path(os.path.expanduser(asked))] if asked else [beside, Path("data")]
    needed = LAYOUTS[name].images if name in LAYOUTS else "attributes.csv"
    for place in places:
        for folder in (place / name, place):
            if (folder / needed).exists():
                return folder
    return places[-1]


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
        found = _numbers(file, f"{key}_loc", mat).ravel()
        if not len(found) or not (found >= 1).all() or (found != np.round(found)).any() or found.max() > 1e9:
            raise BenchmarkError(f"{file}: {key}_loc is empty or holds something else than whole numbers from 1 on: it "
                                 "must be 1-based")
        lists[key] = np.sort(found.astype(np.int64) - 1)
    for key in ("train", "val"):
        lists[key] = np.intersect1d(lists[key], lists["trainval"])
    names = tuple(_text(c) for c in mat["allclasses_names"].ravel())
    attributes = _numbers(file, "att", mat).astype(np.float32).T
    if attributes.ndim != 2 or len(attributes) != len(names):
        raise BenchmarkError(f"{file}: {len(names)} classes but {len(attributes)} attribute rows")
    return ProposedSplit(attributes, names, **lists)


def _numbers(file: Path, name: str, mat: dict[str, Any]) -> np.ndarray:
    """An entry as float64. Raises `BenchmarkError` for text, structs and complex numbers."""
    found = np.asarray(mat[name])
    if found.dtype.kind not in "iufb":
        raise BenchmarkError(f"{file}: {name} holds {found.dtype}, not numbers: it is not the file of the proposed "
                             "splits")
    return found.astype(np.float64)


def _mat(file: Path, names: list[str]) -> dict[str, Any]:
    if not file.is_file():
        raise BenchmarkError(f"{file} is missing: it belongs to the proposed splits, xlsa17.zip")
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
        if not cell.size:
            return ""  # refused as a name or path
        cell = cell.ravel()[0]
    return composed(str(cell)).strip()


def _official(name: str, root: Path) -> Benchmark:
    layout = LAYOUTS[name]
    fetch = UNFETCHED.get(name, f"get it with `python -m vspcn_lib data fetch {name} --root {root}`")
    splits = root / "xlsa17" / "data" / layout.splits
    for needed in (root / layout.images, splits / "att_splits.mat", splits / "res101.mat"):
        if not needed.exists():
            raise BenchmarkError(f"{name} is not whole in {root}: no {needed.relative_to(root)}; {fetch}, or say where "
                                 "it is with --data.root or VSPCN_DATA")
    split = read_proposed_split(splits / "att_splits.mat")
    listed = _mat(splits / "res101.mat", ["image_files", "labels"])
    labels = _numbers(splits / "res101.mat", "labels", listed).ravel()
    if not np.isfinite(labels).all() or (labels != np.round(labels)).any() or (np.abs(labels) > 1e9).any():
        raise BenchmarkError(f"{splits / 'res101.mat'}: labels must be whole numbers from 1 on")
    labels = labels.astype(np.int64) - 1
    listed_files = [_text(cell) for cell in listed["image_files"].ravel()]
    if len(listed_files) != len(labels):
        raise BenchmarkError(f"{splits / 'res101.mat'} lists {len(listed_files)} images and {len(labels)} labels: it "
                             f"is damaged, {fetch}")
    files, missing = image_files(listed_files, Path(layout.images).name, files_below(root / layout.images))
    if missing:
        raise BenchmarkError(f"{name}: {len(missing)} of {len(files)} images are missing in {root / layout.images}, "
                             f"first {', '.join(missing[:3])}: {fetch}")
    check_indices(f"{splits / 'res101.mat'}: labels", labels, len(split.class_names), unique=False)
    for part in ("trainval", "test_seen", "test_unseen", "val"):
        check_indices(f"{splits / 'att_splits.mat'}: {part}_loc", getattr(split, part), len(files))
    notes = compare_labels(name, files, labels, split.class_names)
    names = _attribute_names(root, layout, split.attributes.shape[1])
    compare_rows(root / layout.folder, split.class_names, split.attributes)
    counts = (len(split.trainval), len(split.test_seen), len(split.test_unseen))
    if counts != layout.counts:
        notes.append(f"{name}: {counts} images in trainval, test_seen and test_unseen are not the published "
                     f"{layout.counts}: numbers of it cannot be compared with those of others")
    return Benchmark(name, tuple(root / layout.images / f for f in files), labels, split.class_names, names,
                     split.attributes, split.trainval, split.test_seen, split.test_unseen,
                     np.unique(labels[split.val]), tuple(notes), counts == layout.counts)


def _attribute_names(root: Path, layout: Layout, count: int) -> tuple[str, ...]:
    file = next((root / f for f in layout.attributes if (root / f).is_file()), None)
    if file is None:
        raise BenchmarkError(f"{root / layout.attributes[0]} with the attribute names is missing: fetch the dataset "
                             "again, it belongs to the archive")
    names = (tuple(_text(c) for c in _mat(file, ["attributes"])["attributes"].ravel()) if file.suffix == ".mat" else
             attribute_names(file))
    if len(names) != count:
        raise BenchmarkError(f"{file} names {len(names)} attributes, the split file has {count} columns")
    return names
