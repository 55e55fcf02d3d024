"""The official layouts' own lists, written on many machines, compared with each other and with what is on the disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.data.walk import Found
from vspcn_lib.system.text import composed, letters, read_text, shown


def image_files(listed: Sequence[str], folder: str, found: Found) -> tuple[list[str], list[str]]:
    """The images of a list, relative to the image folder called `folder` and as on disk, and those that are not there.

    A path is absolute on another machine, or relative, with `/` or Windows' separator; what counts is its part below
    the image folder. Raises `BenchmarkError` for one that has no such part and is not there as it stands.
    """
    there = {composed(f): f for f in found.files}
    files, missing = [], []
    for path in listed:
        parts = composed(path).replace("\\", "/").removeprefix("./").split("/")
        tails = ["/".join(parts[i + 1:]) for i, part in enumerate(parts[:-1]) if part == folder]
        match = next((t for t in (*tails, "/".join(parts)) if t in there), None)
        if match is None and not tails:
            raise BenchmarkError(f"res101.mat lists '{shown(path)}', which has no '/{folder}/' in it and does not lie "
                                 "in the image folder: not the official image list")
        if match is None:
            missing.append(shown(tails[-1]))
        files.append(there.get(match or "", tails[-1] if tails else path))
    return files, missing


def compare_labels(name: str, files: Sequence[str], labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Compare each image's label with the class that its folder is called after; a sentence where that is none.

    `a/airport/indoor` may stand for airport_indoor, as in SUN. Raises `BenchmarkError` for a label that contradicts
    the folder.
    """
    known: dict[str, int] = {}
    for i, c in enumerate(classes):
        known.setdefault(letters(c), i)
    unknown, first = set(), {}
    for file, c in zip(files, labels, strict=True):
        first.setdefault((file.rpartition("/")[0], int(c)), file)
    for (folder, label), file in first.items():
        parts = folder.split("/")
        forms = [letters(form) for form in (folder, "_".join(parts[1:])) if form]
        if letters(classes[label]) in (*forms, letters(parts[-1])):
            continue
        other = next((known[form] for form in forms if form in known), None)
        if other is not None:
            count = sum(f.rpartition("/")[0] == folder and c == label for f, c in zip(files, labels, strict=True))
            raise BenchmarkError(f"{name}: {count} images of the folder '{shown(folder)}' are labelled "
                                 f"'{classes[label]}' (label {label + 1}), first {shown(file)}, though the folder is "
                                 f"that of '{classes[other]}': the labels of res101.mat and the names of "
                                 "att_splits.mat do not belong together")
        unknown.add(folder)
    return [f"{name}: {len(unknown)} image folders (first '{shown(min(unknown))}') are called after no class, so their "
            "labels are not compared with them"] if unknown else []


def compare_rows(folder: Path, classes: Sequence[str], rows: np.ndarray) -> None:
    """Compare the rows [C,K] of the split file with the dataset's own table of them, by class name, where it is there.

    Raises `BenchmarkError` where a class has another one's row: the order of rows and names differs.
    """
    tables = (folder / "attributes" / "class_attribute_labels_continuous.txt",
              folder / "predicate-matrix-continuous.txt")
    table = next((t for t in tables if t.is_file()), None)
    if table is None or not (folder / "classes.txt").is_file():
        return
    names = attribute_names(folder / "classes.txt")
    try:
        own = np.array([line.split() for line in read_text(table).splitlines() if line.strip()], dtype=np.float64)
    except ValueError as error:
        raise BenchmarkError(f"{table} is no table of numbers ({error}): fetch the dataset again") from error
    if own.shape != (len(names), rows.shape[1]):
        raise BenchmarkError(f"{table} holds {own.shape} numbers, not a row for each of {len(names)} classes and "
                             f"{rows.shape[1]} attributes: fetch the dataset again")
    place = {n: i for i, n in enumerate(names)}
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ (
            own / np.linalg.norm(own, axis=1, keepdims=True)).T
    for i, c in enumerate(classes):
        if c in place and cosine[i, place[c]] < 0.999 < 0.99999 < cosine[i].max():
            raise BenchmarkError(f"att_splits.mat: the attributes of '{c}' are those of '{names[cosine[i].argmax()]}' "
                                 f"in {table}: rows and class names are in different orders")


def attribute_names(file: Path) -> tuple[str, ...]:
    """The names in a text file, one a line, each behind its number from 1 on, or all without.

    Raises `BenchmarkError` where some have numbers and some have not, or the numbers are not 1, 2, 3, ...
    """
    try:
        lines = [composed(line).strip() for line in read_text(file).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{file} cannot be read as text in UTF-8 ({error}): fetch the dataset again") from error
    numbered = [re.fullmatch(r"([0-9]+)\s+(.+)", line) for line in lines]
    if not any(numbered):
        return tuple(lines)
    for i, (line, found) in enumerate(zip(lines, numbered, strict=True), 1):
        if found is None or int(found[1]) != i:
            raise BenchmarkError(f"{file}, line {i}: '{shown(line[:60])}' does not begin with the number {i}: either "
                                 "every name has its number, in order, or none has")
    return tuple(found[2] for found in numbered if found)
