"""One screen on a benchmark: what is there, what is missing, and whether it is ready, said after every comparison."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from vspcn_lib.data.archives import ArchiveError
from vspcn_lib.data.benchmarks import FOLDERS, LAYOUTS, find_root, load_benchmark, read_proposed_split
from vspcn_lib.data.images import ImageError, decode
from vspcn_lib.data.photos import compare_photos, photo_identity
from vspcn_lib.data.splits import Benchmark, BenchmarkError
from vspcn_lib.system.text import did_you_mean, shown


def verify(name: str, root: Path | None = None) -> tuple[str, bool]:
    """One screen on an official benchmark below `root` (`find_root`), birdlets, or one's own folder; and whether it is
    ready.

    Ready means: the lists fit together, labels agree with folders, rows with names, counts with the published ones;
    no photo is under two labels; every photo decodes. Raises `ArchiveError` for a name that is none of these.
    """
    lines, fit = [f"{name} in {find_root(name, root)}"] if name in LAYOUTS else [name], True
    if name in LAYOUTS:
        found, fit = _official_parts(name, find_root(name, root))
        lines += found
    elif name != "birdlets":
        folder = find_root(name, root) if name in FOLDERS else Path(os.path.expanduser(name))
        if not folder.is_dir():
            known = ("birdlets", *LAYOUTS, *FOLDERS)
            raise ArchiveError(f"nothing known about '{shown(name)}', and no such folder: "
                               f"{did_you_mean(name, known, 'choose one of')} {', '.join(known)}, or a folder's path")
        parts = (("images", ""), ("attributes.csv", ""), ("splits.json", ": a split is drawn"))
        lines += [f"  {'there  ' if (folder / p).exists() else 'MISSING'}  {p}{'' if (folder / p).exists() else then}"
                  for p, then in parts]
    try:
        bench = compare_photos(load_benchmark(name, root))
        bad = [problem for problem in tqdm(_undecodable(bench), "reading", len(bench.image_paths)) if problem]
    except (BenchmarkError, ImageError) as error:
        return "\n".join([*lines, f"  not ready: {error}"]), False
    lines += [f"  note: {note}" for note in bench.notes]
    if name not in LAYOUTS:
        for part in ("trainval", "test_seen", "test_unseen"):
            indices = getattr(bench, part)
            lines.append(f"  {part:<12}{len(indices):>7} images in {len(np.unique(bench.labels[indices]))} classes")
    lines.append(f"  {len(bench.image_paths)} images, {bench.described}, {len(bench.attribute_names)} attributes, "
                 f"split {bench.split_hash}, photos {photo_identity(bench)[:16]}")
    if bad:
        lines.append(f"  not ready: {len(bad)} photos cannot be read, first: {bad[0]}")
    else:
        lines.append("  ready" if fit else "  not ready: the counts are not the published ones")
    return "\n".join(lines), fit and not bad


def _official_parts(name: str, root: Path) -> tuple[list[str], bool]:
    """Lines on the files and counts of an official layout, and whether the counts are the published ones."""
    layout, lines = LAYOUTS[name], []
    splits, found = root / "xlsa17" / "data" / layout.splits, ()
    for path in (root / layout.images, splits / "att_splits.mat", splits / "res101.mat"):
        lines.append(f"  {'there  ' if path.exists() else 'MISSING'}  {path.relative_to(root)}")
    if (splits / "att_splits.mat").exists():
        try:
            split = read_proposed_split(splits / "att_splits.mat")
        except BenchmarkError:
            return lines, False  # `load_benchmark` says why
        found = (len(split.trainval), len(split.test_seen), len(split.test_unseen))
        for part, a, b in zip(("trainval", "test_seen", "test_unseen"), found, layout.counts, strict=True):
            lines.append(f"  {part:<12}{a:>7}  published {b:>7}  {'equal' if a == b else 'DIFFERENT'}")
    return lines, found == layout.counts


def _undecodable(bench: Benchmark) -> Iterator[str]:
    """For each photo why it cannot be decoded, or nothing."""
    def attempt(path: Path) -> str:
        try:
            decode(path, 16)  # JPEGs at an eighth of their side: the whole file is read all the same
        except ImageError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(attempt, bench.image_paths)
