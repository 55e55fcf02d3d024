"""Inputs as people really have them, from public reports: each has one right answer, and only that one passes.

An expectation is words of the sentence that must refuse the input, or what must be true of the benchmark that is read:
its split hash where the input is another description of the plain one, counts and notes where something is said.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from described import OFFICIAL, describe, official
from world import make_folder

from vspcn_lib.data.benchmarks import load_benchmark
from vspcn_lib.data.photos import compare_photos
from vspcn_lib.data.splits import Benchmark
from vspcn_lib.data.verify import verify

Right = str | Callable[[Any], bool]
Case = tuple[str, Callable[[], Any], Right]


def says(*words: str, images: int | None = None, drawn: bool = False) -> Callable[[Benchmark], bool]:
    """The benchmark is read, its notes hold all `words` (none: there is no note), and so many `images` are taken."""

    def right(bench: Benchmark) -> bool:
        noted = all(w in bench.note for w in words) if words else drawn or not bench.note
        return noted and (images is None or len(bench.image_paths) == images)

    return right


def descriptions(root: Path) -> Iterator[Case]:
    """One folder benchmark in every accepted description, alone and in pairs: all have the plain one's split hash."""
    plain = load_benchmark(describe(root / "plain"))

    def same(bench: Benchmark) -> bool:
        return (
            bench.split_hash == plain.split_hash
            and np.array_equal(bench.prototypes, plain.prototypes)
            and bench.attribute_names == plain.attribute_names
        )

    ways: dict[str, dict[str, Any]] = {
        "semicolons": {"separator": ";"},
        "tabs": {"separator": "\t"},
        "decimal commas": {"decimal": ","},
        "semicolons and decimal commas": {"separator": ";", "decimal": ","},
        "mark of UTF-8": {"encoding": "utf-8-sig"},
        "UTF-16": {"encoding": "utf-16"},
        "Windows line ends": {"ends": "\r\n"},
        "old Mac line ends": {"ends": "\r"},
        "decomposed folders": {"forms": ("NFD", "NFC", "NFC")},
        "decomposed table": {"forms": ("NFC", "NFD", "NFC")},
        "decomposed lists": {"forms": ("NFC", "NFC", "NFD")},
        "rows and lists in another order": {"order": 3},
        "linked class folders": {"links": ("Grünfink", "a", "zebra")},
        "linked photos": {"links": ("files",)},
        "spaces around names": {"padded": True},
        "Windows separators in lists": {"slash": "\\"},
        "escaped lists": {"ascii_json": True},
    }
    names = list(ways)
    for i, name in enumerate(names):
        for other in (name, names[(i + 3) % len(names)], names[(i + 7) % len(names)]):
            way = {**ways[name], **ways[other]}
            yield (
                name if other == name else f"{name}, {other}",
                lambda way=way: load_benchmark(describe(Path(tempfile.mkdtemp(dir=root)) / "x", **way)),
                same,
            )


def layouts(root: Path) -> Iterator[Case]:
    """CUB's layout with lists written elsewhere, and with lists that contradict each other."""
    plain = load_benchmark("cub", official(root / "plain"))

    def same(bench: Benchmark) -> bool:
        return bench.split_hash == plain.split_hash and bench.attribute_names == plain.attribute_names

    swapped = [2, 1, 3, 4, 5, 6, 7, 8]
    made: dict[str, tuple[dict[str, Any], Right]] = {
        "list of Windows": ({"prefix": "D:\\d\\CUB_200_2011\\images\\", "separator": "\\"}, same),
        "relative list": ({"prefix": "images/"}, same),
        "bare list": ({"prefix": ""}, same),
        "dotted list": ({"prefix": "./images/"}, same),
        "images twice in the path": ({"prefix": "/images/u/images/"}, same),
        "attributes without numbers": ({"numbers": False}, same),
        "attributes with a mark": ({"mark": b"\xef\xbb\xbf"}, same),
        "counts that are not published": ({}, says("are not the published (7057, 1764, 2967)")),
        "another image folder": ({"prefix": "/pictures/"}, "which has no '/images/' in it"),
        "labels of two classes exchanged": ({"labels": swapped}, "do not belong together"),
        "labels moved by one": ({"labels": [2, 3, 4, 5, 6, 7, 8, 1]}, "do not belong together"),
        "names of two classes exchanged": (
            {"names": [OFFICIAL[1], OFFICIAL[0], *OFFICIAL[2:]]},
            "do not belong together",
        ),
        "attribute rows exchanged": ({"rows": [i - 1 for i in swapped]}, "in different orders"),
    }
    for name, (way, right) in made.items():
        yield (
            name,
            lambda way=way: load_benchmark("cub", official(Path(tempfile.mkdtemp(dir=root)) / "x", **way)),
            right,
        )
    yield (
        "verify before the counts are right",
        lambda: verify("cub", root / "plain"),
        lambda found: not found[1] and "DIFFERENT" in found[0] and "not ready" in found[0],
    )


def left_out(root: Path) -> Iterator[Case]:
    """Files that are passed over, photos that are in twice, names that are nearly right, counts that are too small."""
    made: dict[str, tuple[Callable[[Path], Any], Right]] = {
        "nothing wrong": (lambda f: None, says()),
        "no lists": (lambda f: (f / "splits.json").unlink(), says("drew 30 %", "drew a third", images=48)),
        "no files of a class": (
            lambda f: _drawn(f, lambda p: p.unlink()),
            says("1 of 8 classes have attributes but nei"),
        ),
        "a class of HEIC": (
            lambda f: _drawn(f, lambda p: p.rename(p.with_suffix(".HEIC"))),
            says("6 of suffix .heic", "class 'bird_2' has no image left", images=42),
        ),
        "a class without suffixes": (
            lambda f: _drawn(f, lambda p: p.rename(p.with_suffix(""))),
            says("6 without a suffix", "class 'bird_2' has no image left", images=42),
        ),
        "a class of .jpg.1": (
            lambda f: _drawn(f, lambda p: p.rename(p.with_suffix(".jpg.1"))),
            says("6 of suffix .1", images=42),
        ),
        "a class of empty files": (
            lambda f: _drawn(f, lambda p: p.write_bytes(b"")),
            says("6 empty (first 'bird_2/0.png')", "'bird_2' has no image left", images=42),
        ),
        "a class of hidden files": (
            lambda f: _drawn(f, lambda p: p.rename(p.with_name(f".{p.name}"))),
            says("6 hidden", images=42),
        ),
        "a class of broken links": (
            lambda f: _drawn(f, lambda p: (p.unlink(), p.symlink_to("nowhere.png"))),
            says("6 links to nothing", "'bird_2' has no image left", images=42),
        ),
        "photos in a folder below the class": (
            lambda f: _drawn(f, _deeper),
            says("6 images lie in folders", images=48),
        ),
        "a link round to the top": (
            lambda f: (f / "images/bird_1/up").symlink_to(f / "images"),
            says("1 links to a folder that they lie in (first 'bird_1/up')", images=48),
        ),
        "a photo beside the classes": (
            lambda f: shutil.copy(f / "images/bird_0/0.png", f / "images/all.png"),
            says("1 outside any class folder (first 'all.png')", images=48),
        ),
        "a listed photo that is empty": (
            lambda f: (f / "images/bird_0/0.png").write_bytes(b""),
            "passed over as empty",
        ),
        "a photo in no list": (
            lambda f: shutil.copy(f / "images/bird_0/0.png", f / "images/bird_0/9.png"),
            says("1 of 49 images are in none of the lists", images=49),
        ),
        "a file name that is no UTF-8": (
            lambda f: (
                (f / "splits.json").unlink(),
                os.rename(f / "images/bird_1/0.png", os.fsencode(f / "images/bird_1") + b"/V\xf6gel.png"),
            ),
            lambda bench: len(bench.image_paths) == 48 and len(bench.split_hash) == 16,
        ),
        "a folder name that is no UTF-8": (
            lambda f: os.rename(f / "images/bird_1", os.fsencode(f / "images") + b"/V\xf6gel"),
            "class 'V\\udcf6gel' has images but no row",
        ),
        "a row for more classes": (
            lambda f: _append(f, "bird_8,1,0,0,0,0,1\n"),
            lambda b: b.unseen_mask[8] and "(1 of the unseen without" in b.described,
        ),
        "-1 for unknown": (lambda f: _cells(f, 3, 2), says("2 attribute values of 1 classes are negative")),
        "a class of -1": (lambda f: _cells(f, 3, 6), "hold only -1, the mark of 'unknown'"),
        "two equal rows": (
            lambda f: _append(
                f, (f / "attributes.csv").read_text().splitlines()[-1].replace("bird_7", "bird_8") + "\n"
            ),
            says("same attribute row as another, up to a factor: 'bird_7' and 'bird_8'"),
        ),
        "a class in other case": (
            lambda f: _swap(f, "attributes.csv", "bird_3", "Bird_3"),
            "did you mean its row 'Bird_3'",
        ),
        "a class with another sign": (
            lambda f: _swap(f, "attributes.csv", "bird_3", "bird 3"),
            "mean its row 'bird 3'",
        ),
        "a class misspelt": (lambda f: _swap(f, "attributes.csv", "bird_3", "brid_3"), "did you mean its row 'brid_3'"),
        "a space behind a class": (lambda f: _swap(f, "attributes.csv", "bird_3,", "bird_3 ,"), says(images=48)),
        "a validation class in other case": (
            lambda f: _swap(f, "splits.json", '"bird_3"', '"BIRD_3"'),
            "mean 'bird_3'",
        ),
        "a listed file in other case": (
            lambda f: _swap(f, "splits.json", "bird_3/0.png", "Bird_3/0.PNG"),
            "did you mean 'bird_3/0.png'",
        ),
        "all classes one folder deeper": (_wrapped, "images/birds/bird_0 lies too deep for the class 'bird_0'"),
        "a class folder in two forms": (
            lambda f: shutil.copytree(f / "images/bird_3", f / "images/bird_3 "),
            "one class name",
        ),
        "a key twice": (
            lambda f: _swap(f, "splits.json", '"val_classes"', '"trainval"'),
            "'trainval' stands there twice",
        ),
        "one photo, two labels": (lambda f: _twice(f, "bird_1/0.png", "bird_2/0.png"), "has two labels, once"),
        "one photo, training and unseen": (lambda f: _twice(f, "bird_1/0.png", "bird_6/0.png"), "has two labels, once"),
        "one photo, training and test": (
            lambda f: _twice(f, "bird_1/0.png", "bird_1/5.png"),
            says("is in two lists, once"),
        ),
        "one photo twice in a list": (
            lambda f: _twice(f, "bird_1/0.png", "bird_1/1.png"),
            says("in one list twice, once"),
        ),
        "one image a class": (lambda f: _listed(f, trainval=lambda n: n.endswith("/0.png")), "so none can be held out"),
        "one class to train on": (
            lambda f: _listed(f, trainval=lambda n: n[5] in "034", test_seen=lambda n: n[5] in "034"),
            "is the only seen class that is no validation class",
        ),
        "one unseen class": (
            lambda f: _listed(f, test_unseen=lambda n: n[5] == "7"),
            says("'bird_7' is the only unseen class with test images"),
        ),
        "a seen class without a test image": (
            lambda f: _listed(f, test_seen=lambda n: n[5] != "1"),
            says("S is the mean over the other 4"),
        ),
        "a drawn split of three classes": (lambda f: _classes(f, 3), "too few to draw a split"),
        "a drawn split of four classes": (lambda f: _classes(f, 4), says("drew 30 %", images=24)),
        "a drawn split, a class of one image": (
            lambda f: [_drawn(f, lambda p: p.stem != "0" and p.unlink())],
            says("drew 30 %", images=43),
        ),
        "a drawn split of single images": (
            lambda f: ((f / "splits.json").unlink(), [p.unlink() for p in (f / "images").glob("*/[1-5].png")]),
            "too few to draw a split",
        ),
    }
    base = make_folder(root / "base")
    for name, (spoil, right) in made.items():
        yield name, lambda spoil=spoil: _opened(root, base, spoil), right
    yield ("verify one's own folder", lambda: verify(str(base)), lambda found: found[1] and found[0].endswith("ready"))
    yield (
        "verify a folder with a photo under two labels",
        lambda: verify(str(_copy(root, base, lambda f: _twice(f, "bird_1/0.png", "bird_6/0.png")))),
        lambda found: not found[1],
    )
    yield (
        "verify a folder with a photo cut off",
        lambda: verify(
            str(
                _copy(
                    root,
                    base,
                    lambda f: (f / "images/bird_0/0.png").write_bytes((f / "images/bird_0/0.png").read_bytes()[:-40]),
                )
            )
        ),
        lambda found: not found[1] and "1 photos cannot be read" in found[0],
    )
    nested = describe(root / "nested")
    name = unicodedata.normalize("NFD", "Grünfink")
    yield (
        "a folder in both forms of Unicode",
        lambda: (
            (nested / "images" / name).mkdir(),
            (nested / "images" / name / "9.png").write_bytes(b"x"),
            load_benchmark(nested),
        ),
        "are one class name, 'Grünfink'",
    )


def _copy(root: Path, base: Path, spoil: Callable[[Path], Any]) -> Path:
    place = Path(tempfile.mkdtemp(dir=root)) / "copy"
    shutil.copytree(base, place)
    spoil(place)
    return place


def _opened(root: Path, base: Path, spoil: Callable[[Path], Any]) -> Benchmark:
    bench = compare_photos(load_benchmark(_copy(root, base, spoil)), progress=False)
    json.dumps(bench.notes).encode()
    bench.note.encode()
    return bench


def _drawn(folder: Path, change: Callable[[Path], Any]) -> None:
    """Without lists, and every photo of bird_2 changed."""
    (folder / "splits.json").unlink()
    for path in sorted((folder / "images" / "bird_2").iterdir()):
        change(path)


def _deeper(path: Path) -> None:
    (path.parent / "more").mkdir(exist_ok=True)
    path.rename(path.parent / "more" / path.name)


def _wrapped(folder: Path) -> None:
    (folder / "images").rename(folder / "birds")
    (folder / "images").mkdir()
    (folder / "birds").rename(folder / "images" / "birds")


def _append(folder: Path, row: str) -> None:
    with (folder / "attributes.csv").open("a") as file:
        file.write(row)


def _cells(folder: Path, row: int, count: int) -> None:
    lines = (folder / "attributes.csv").read_text().splitlines()
    cells = lines[row].split(",")
    lines[row] = ",".join([cells[0], *["-1"] * count, *cells[count + 1 :]])
    (folder / "attributes.csv").write_text("\n".join(lines))


def _swap(folder: Path, name: str, old: str, new: str) -> None:
    (folder / name).write_text((folder / name).read_text().replace(old, new))


def _twice(folder: Path, one: str, other: str) -> None:
    shutil.copy(folder / "images" / one, folder / "images" / other)


def _listed(folder: Path, **keep: Callable[[str], bool]) -> None:
    splits = json.loads((folder / "splits.json").read_text())
    for key, wanted in keep.items():
        splits[key] = [f for f in splits[key] if wanted(f)]
    (folder / "splits.json").write_text(json.dumps(splits))


def _classes(folder: Path, count: int) -> None:
    (folder / "splits.json").unlink()
    lines = (folder / "attributes.csv").read_text().splitlines()
    (folder / "attributes.csv").write_text("\n".join(lines[: count + 1]))
    for i in range(count, 8):
        shutil.rmtree(folder / "images" / f"bird_{i}")
