"""What is in a benchmark's photos, by sha256: their identity, and the same photo twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace

import numpy as np

from vspcn_lib.data.images import image_digests
from vspcn_lib.data.splits import Benchmark, BenchmarkError
from vspcn_lib.system.text import shown


def photo_identity(bench: Benchmark, progress: bool = False) -> str:
    """64 hex digits over the contents of the photos in the lists, in their order; names and places do not count.

    Every file is read once and then known by its time stamps. Raises `ImageError` for one that cannot be read.
    """
    digests, used = image_digests(bench.image_paths, progress=progress), _used(bench)
    return hashlib.sha256("\n".join(digests[i] for i in used).encode()).hexdigest()


def compare_photos(bench: Benchmark, progress: bool = True) -> Benchmark:
    """The benchmark with a note on photos that are in it twice, byte for byte.

    Raises `BenchmarkError` where one photo has two labels, or is in training and in the unseen test; of published
    lists, which are not ours to mend, that is a note too. Raises `ImageError` as the image cache does.
    """
    digests, same = image_digests(bench.image_paths, progress=progress), defaultdict(list)
    for i in _used(bench):
        same[digests[i]].append(int(i))
    groups = [group for group in same.values() if len(group) > 1]
    part = {int(i): name for name in ("trainval", "test_seen", "test_unseen") for i in getattr(bench, name)}

    def described(group: list[int]) -> str:
        return " = ".join(f"{part[i]} '{bench.class_names[bench.labels[i]]}' ({shown(bench.image_paths[i])})"
                          for i in group)

    wrong, between, within = [], [], []
    for group in groups:
        two_labels, two_lists = len(np.unique(bench.labels[group])) > 1, len({part[i] for i in group}) > 1
        (wrong if two_labels else between if two_lists else within).append(group)
    said = []
    if wrong:
        text = (f"{bench.name}: the same photo, byte for byte, has two labels, {_times(wrong)}, first "
                f"{described(wrong[0])}")
        if not bench.published:
            raise BenchmarkError(f"{text}: one label is wrong, take that file out"
                                 + f"; {len(between)} more are in two lists under one label" * bool(between))
        said.append(f"{text}: the published lists are kept as they are")
    if between:
        said.append(f"the same photo, byte for byte, is in two lists, {_times(between)}, first "
                    f"{described(between[0])}: what is trained on is tested too, take one of each out")
    if within:
        said.append(f"the same photo, byte for byte, is in one list twice, {_times(within)}, first "
                    f"{described(within[0])}")
    return replace(bench, notes=tuple(dict.fromkeys((*bench.notes, *said))))


def _times(groups: list[list[int]]) -> str:
    return "once" if len(groups) == 1 else f"{len(groups)} times"


def _used(bench: Benchmark) -> np.ndarray:
    return np.sort(np.concatenate([bench.trainval, bench.test_seen, bench.test_unseen]))
