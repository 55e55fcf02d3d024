"""What a GZSL benchmark is: images, labels, class attributes, lists of indices, and the checks that all must pass."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from vspcn_lib.system.text import composed, shown


class BenchmarkError(ValueError):
    """A dataset or split cannot be used; the message names file, field or value and what to do."""


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
    notes: tuple[str, ...] = ()
    """what a reader of the numbers should know of the data, a sentence each"""
    published: bool = False
    """whether this is an official benchmark with the published counts, whose lists are not ours to mend"""
    phrases: Mapping[str, str] = field(default_factory=dict)
    """the words that text encoders read for an attribute instead of its name; no part of the split hash"""

    @property
    def note(self) -> str:
        """Every sentence of `notes` in one line."""
        return "; ".join(self.notes)

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
        """Every class without training images, sorted: also one that has no image at all, only a prototype."""
        return np.setdiff1d(np.arange(self.num_classes), self.seen_classes)

    @cached_property
    def unseen_mask(self) -> np.ndarray:
        """[C] bool, true for unseen classes."""
        return np.isin(np.arange(self.num_classes), self.unseen_classes)

    @property
    def described(self) -> str:
        """How many classes of which kind: `5 seen + 3 unseen classes (1 of the unseen without images)`."""
        bare = np.setdiff1d(self.unseen_classes, self.labels[self.test_unseen])
        without = f" ({len(bare)} of the unseen without test images)" if len(bare) else ""
        return f"{len(self.seen_classes)} seen + {len(self.unseen_classes)} unseen classes{without}"

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
        names = (composed(f"{p.parent.name}/{p.name}") for p in self.image_paths)
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        digest.update("\n".join(names).encode(errors="surrogateescape"))
        for part in (self.labels, self.trainval, self.test_seen, self.test_unseen, self.val_classes):
            digest.update(np.asarray(part, dtype=np.int64).tobytes() + b"|")
        return digest.hexdigest()[:16]

    def check(self) -> Benchmark:
        """Return self if everything fits. Raises `BenchmarkError` that names the first thing that does not."""
        n, name = len(self.image_paths), self.name
        twice = [c for c in set(self.class_names) if self.class_names.count(c) > 1]
        if twice:
            raise BenchmarkError(f"{name}: class name '{sorted(twice)[0]}' occurs twice: names must be unique")
        for what, names in (("class", self.class_names), ("attribute", self.attribute_names)):
            for c in names:  # they are printed, drawn and searched for as files
                if not c.strip() or not c.isprintable() or len(c) > 250:
                    raise BenchmarkError(f"{name}: {c[:40]!r} cannot be a {what} name: use 1 to 250 printable "
                                         "characters")
        if not len(self.attribute_names):
            raise BenchmarkError(f"{name}: there is not one attribute")
        lists = {"trainval": self.trainval, "test_seen": self.test_seen, "test_unseen": self.test_unseen}
        for part, indices in lists.items():
            check_indices(f"{name}: {part}", indices, n)
        for a, b in (("trainval", "test_seen"), ("trainval", "test_unseen"), ("test_seen", "test_unseen")):
            both = np.intersect1d(lists[a], lists[b])
            if len(both):
                raise BenchmarkError(f"{name}: {len(both)} images are in both {a} and {b}, first "
                                     f"{shown(self.image_paths[both[0]].name)}: each image belongs to one list")
        leaked = self.trainval[np.isin(self.labels[self.trainval], self.labels[self.test_unseen])]
        if len(leaked):
            path = self.image_paths[leaked[0]]
            raise BenchmarkError(f"{name}: trainval holds {len(leaked)} images of unseen classes, first "
                                 f"{shown(path.name)} of {shown(path.parent.name)}: a class is seen or unseen, take it "
                                 "out of one list")
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
        self._check_selection()
        for problem, rows in (("NaN or infinite values", ~np.isfinite(self.prototypes).all(1)),
                              ("only zeros", ~self.prototypes.any(1)),
                              ("only -1, the mark of 'unknown'", (self.prototypes == -1).all(1))):
            if rows.any():
                raise BenchmarkError(f"{name}: the attributes of class '{self.class_names[rows.argmax()]}' hold "
                                     f"{problem}: mend that row")
        return self

    def _check_selection(self) -> None:
        """Raise `BenchmarkError` where no method could select: one class to train on, or no image to hold out."""
        training, counts = np.unique(self.labels[self.train], return_counts=True)
        if len(training) < 2:
            raise BenchmarkError(f"{self.name}: '{self.class_names[training[0]]}' is the only seen class that is no "
                                 "validation class, and one class alone has nothing to be told from: name fewer "
                                 "validation classes, or add a seen class")
        if counts.max() < 2:
            raise BenchmarkError(f"{self.name}: each of the {len(training)} classes that selection trains on has one "
                                 "trainval image, so none can be held out to measure: give one of them a second image")


def check_indices(what: str, indices: np.ndarray, count: int, unique: bool = True) -> None:
    """Raise `BenchmarkError` for an empty list, an index outside 0..count-1, or (with `unique`) a repeated one."""
    if not len(indices):
        raise BenchmarkError(f"{what} is empty")
    if indices.min() < 0 or indices.max() >= count:
        bad = indices[(indices < 0) | (indices >= count)][0]
        raise BenchmarkError(f"{what} holds index {bad}, out of range 0..{count - 1}: split and images do not belong "
                             "together")
    if unique and len(np.unique(indices)) != len(indices):
        raise BenchmarkError(f"{what} names an image twice")
