"""One benchmark in many descriptions, as a folder and in CUB's layout: tests and the bad-input campaign share them."""

from __future__ import annotations

import json
import random
import shutil
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

CLASSES = ["Grünfink", "Żuraw", "ガビチョウ", "a/abbey", "grizzly+bear", "kind 5", "kind_6", "zebra"]
NAMES = ["has_size::small", "größe", "tail long"]
VALUES = np.random.default_rng(5).uniform(0, 1, (8, 3)).round(3)
FILES = [f"{c}/{k}.png" for c in CLASSES for k in ("é", "1", "2", "3")]
LISTS = {"trainval": [f for f in FILES if not f.startswith(("kind", "zebra")) and f[-5] != "3"],
         "test_seen": [f for f in FILES if not f.startswith(("kind", "zebra")) and f[-5] == "3"],
         "test_unseen": [f for f in FILES if f.startswith(("kind", "zebra"))]}


def describe(folder: Path, *, separator: str = ",", decimal: str = ".", encoding: str = "utf-8", ends: str = "\n",
             forms: tuple[str, str, str] = ("NFC", "NFC", "NFC"), order: int | None = None, links: tuple[str, ...] = (),
             padded: bool = False, slash: str = "/", ascii_json: bool = False) -> Path:
    """The one benchmark above in one of its descriptions; `forms` are those of disk, table and lists."""
    disk, table, listed = (lambda s, f=form: unicodedata.normalize(f, s) for form in forms)
    for i, name in enumerate(FILES):
        parent, _, file = disk(name).rpartition("/")
        place = folder / "images" / parent
        if name.split("/")[0] in links and not place.exists():  # a class folder that is a link
            (folder / "store" / str(i)).mkdir(parents=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(folder / "store" / str(i))
        place.mkdir(parents=True, exist_ok=True)
        if "files" in links and i % 3 == 0:  # a photo that is a link
            (folder / "photos").mkdir(exist_ok=True)
            (folder / "photos" / f"{i}.png").write_bytes(b"%d" % i)
            (place / file).symlink_to(folder / "photos" / f"{i}.png")
        else:
            (place / file).write_bytes(b"%d" % i)
    shuffle = random.Random(order).shuffle if order is not None else lambda rows: None
    pad = " " if padded else ""
    rows = [[c, *(f"{v:.3f}".replace(".", decimal) for v in row)] for c, row in zip(CLASSES, VALUES, strict=True)]
    shuffle(rows)
    cells = [["class", *NAMES], *rows]
    quote = '"' if decimal == separator else ""
    lines = [separator.join(f"{quote}{pad}{cell}{pad}{quote}" for cell in row) for row in cells]
    lines += [separator * len(NAMES)] * padded
    (folder / "attributes.csv").write_bytes((ends.join(map(table, lines)) + ends).encode(encoding))
    splits = {key: [listed(f).replace("/", slash) for f in files] for key, files in LISTS.items()}
    for files in splits.values():
        shuffle(files)
    splits["val_classes"] = [listed("Żuraw"), listed("grizzly+bear")]
    items = list(splits.items())
    shuffle(items)
    (folder / "splits.json").write_bytes(json.dumps(dict(items), ensure_ascii=ascii_json).encode(encoding))
    return folder


OFFICIAL = [f"{i + 1:03d}.Kind_{i}" for i in range(8)]
OFFICIAL_ATTRIBUTES = ["has_size::small", "has_bill_shape::hooked", "has_tail_shape::forked", "has_wing_color::blue"]


def official(root: Path, *, prefix: str = "/BS/x/CUB_200_2011/images/", separator: str = "/",
             labels: list[int] | None = None, names: list[str] = OFFICIAL, rows: list[int] | None = None,
             numbers: bool = True, mark: bytes = b"") -> Path:
    """A benchmark in CUB's layout: 8 classes x 6 pictures, the last three unseen; and its own table of attributes."""
    shutil.rmtree(root, ignore_errors=True)
    cub, splits = root / "CUB_200_2011", root / "xlsa17" / "data" / "CUB"
    splits.mkdir(parents=True)
    (cub / "attributes").mkdir(parents=True)
    rng = np.random.default_rng(0)
    table = rng.uniform(0, 100, (8, 4))
    for name in OFFICIAL:
        (cub / "images" / name).mkdir(parents=True)
        for k in range(6):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(cub / "images" / name / f"{k}.png")
    lines = [f"{i} {a}" if numbers else a for i, a in enumerate(OFFICIAL_ATTRIBUTES, 1)]
    (cub / "attributes" / "attributes.txt").write_bytes(mark + "\r\n".join(lines).encode())
    (cub / "classes.txt").write_text("".join(f"{i} {n}\n" for i, n in enumerate(OFFICIAL, 1)))
    np.savetxt(cub / "attributes" / "class_attribute_labels_continuous.txt", table)
    where, k = np.repeat(np.arange(8), 6), np.tile(np.arange(6), 8)

    def column(chosen: np.ndarray) -> np.ndarray:
        return np.flatnonzero(chosen)[:, None] + 1

    def cells(texts: list[str]) -> np.ndarray:
        return np.array([[t] for t in texts], dtype=object)

    unit = (table / np.linalg.norm(table, axis=1, keepdims=True))[rows or range(8)]
    savemat(splits / "att_splits.mat", {
        "att": unit.T, "allclasses_names": cells(names), "trainval_loc": column((where < 5) & (k < 4)),
        "test_seen_loc": column((where < 5) & (k >= 4)), "test_unseen_loc": column(where >= 5),
        "train_loc": column(where < 3), "val_loc": column((where == 3) | (where == 4))})
    files = [prefix + f"{n}/{k}.png".replace("/", separator) for n in OFFICIAL for k in range(6)]
    savemat(splits / "res101.mat", {"image_files": cells(files),
                                    "labels": np.repeat(labels or range(1, 9), 6)[:, None]})
    return root
