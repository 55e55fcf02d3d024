"""What a reader of the numbers should know of a benchmark that is usable all the same: a sentence each."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from vspcn_lib.data.splits import Benchmark
from vspcn_lib.system.text import shown


def with_remarks(bench: Benchmark) -> Benchmark:
    """The benchmark with sentences on its classes, its counts and its attributes added to its notes."""
    found = (*bench.notes, *_classes(bench), *_counts(bench), *equal_prototypes(bench), *unknown_marks(bench))
    return replace(bench, notes=tuple(dict.fromkeys(found)))


def _classes(bench: Benchmark) -> list[str]:
    bare = np.setdiff1d(bench.unseen_classes, bench.labels[bench.test_unseen])
    said = []
    if len(bare):
        said.append(f"{len(bare)} of {bench.num_classes} classes have attributes but neither training nor test images "
                    f"(first '{bench.class_names[bare[0]]}'): they count as unseen, and images may be taken for them")
    used = np.concatenate([bench.trainval, bench.test_seen, bench.test_unseen])
    rest = np.setdiff1d(np.arange(len(bench.labels)), used)
    if len(rest):
        path = bench.image_paths[rest[0]]
        said.append(f"{len(rest)} of {len(bench.labels)} images are in none of the lists and are not used, first "
                    f"'{shown(path.parent.name)}/{shown(path.name)}'")
    return said


def _counts(bench: Benchmark) -> list[str]:
    """Sides of one class, and classes of one image."""
    said, (classes, counts) = [], np.unique(bench.labels[bench.trainval], return_counts=True)
    tested = np.unique(bench.labels[bench.test_unseen])
    if len(tested) == 1:
        said.append(f"'{bench.class_names[tested[0]]}' is the only unseen class with test images: U is the accuracy on "
                    "that class alone" + (", and CZSL is 100 by itself" if len(bench.unseen_classes) == 1 else ""))
    if len(bench.val_classes) == 1:
        said.append(f"'{bench.class_names[bench.val_classes[0]]}' is the only validation class: epoch and tau are "
                    "chosen on that class alone")
    single = classes[counts == 1]
    if len(single):
        said.append(f"{len(single)} of {len(classes)} seen classes have a single trainval image (first "
                    f"'{bench.class_names[single[0]]}'): it trains and is never held out for selection")
    untested = np.setdiff1d(classes, bench.labels[bench.test_seen])
    if len(untested):
        said.append(f"{len(untested)} of {len(classes)} seen classes have no test_seen image (first "
                    f"'{bench.class_names[untested[0]]}'): S is the mean over the other "
                    f"{len(classes) - len(untested)}")
    return said


def equal_prototypes(bench: Benchmark) -> list[str]:
    """Classes whose attribute rows are equal up to a factor, which are one prototype of unit length."""
    unit = bench.prototypes / np.linalg.norm(bench.prototypes.astype(np.float64), axis=1, keepdims=True)
    same = defaultdict(list)
    for name, row in zip(bench.class_names, np.round(unit, 6) + 0.0, strict=True):
        same[row.tobytes()].append(name)
    groups = [names for names in same.values() if len(names) > 1]
    if not groups:
        return []
    shown_groups = "; ".join(" and ".join(f"'{n}'" for n in names) for names in groups[:3])
    return [f"{sum(map(len, groups))} classes have the same attribute row as another, up to a factor: {shown_groups}"
            f"{' ...' * (len(groups) > 3)}; nothing can tell such classes apart, check the rows"]


def unknown_marks(bench: Benchmark) -> list[str]:
    """Negative values that look like marks of 'unknown': one value a class, in a table that is otherwise not negative.

    AWA2's continuous attributes hold -1 for unknown, which is still one value a class after rows get unit length.
    """
    table = bench.prototypes
    rows, columns = np.nonzero(table < 0)
    if not len(rows) or set(np.unique(table)) == {-1.0, 1.0}:  # absent and present, not unknown
        return []
    one_each = all(len(np.unique(table[r][table[r] < 0])) == 1 for r in np.unique(rows))
    only_ones = (table[rows, columns] == -1).all()
    if not one_each or (not only_ones and len(rows) > 0.05 * table.size):
        return []
    first = f"'{bench.attribute_names[columns[0]]}' of '{bench.class_names[rows[0]]}'"
    return [f"{len(rows)} attribute values of {len(np.unique(rows))} classes are negative and equal within their class "
            f"(first {first}, {table[rows[0], columns[0]]:g}), as marks of 'unknown' (-1) are; they are taken as "
            "numbers: replace them where they are none"]
