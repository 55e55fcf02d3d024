"""What lies below an image folder: links are followed, loops are not, and what is passed over is counted by kind."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from vspcn_lib.system.text import shown

DEEPEST, MOST = 40, 200_000  # folders within folders, and folders in all: links may multiply them without a loop


@dataclass
class Found:
    """Files below a folder by their relative path with `/`, and the paths passed over by the reason why."""

    files: list[str] = field(default_factory=list)
    passed: dict[str, list[str]] = field(default_factory=dict)

    def pass_over(self, kind: str, name: str) -> None:
        """Note that the file or folder `name` is not taken."""
        self.passed.setdefault(kind, []).append(name)

    def why(self, name: str) -> str:
        """The kind that `name` was passed over for, empty if it was not."""
        return next((kind for kind, names in self.passed.items() if name in names), "")

    def sentence(self, folder: str) -> str:
        """One sentence that counts what was passed over, by kind, each with its first example; empty if nothing."""
        parts = [f"{len(names)} {kind} (first '{shown(min(names))}')" for kind, names in sorted(self.passed.items())]
        return f"passed over below {folder}/: {', '.join(parts)}" if parts else ""


def files_below(folder: Path) -> Found:
    """Every file below `folder`, sorted; one directory scan a folder, as a stat for each file would take seconds.

    Links are followed, except to a folder that they lie in. Hidden folders are not entered.
    """
    found, stack, entered = Found(), [(str(folder), "", ())], 0
    while stack:
        place, prefix, above = stack.pop()
        entered += 1
        try:
            status = os.stat(place)
            here = (*above, (status.st_dev, status.st_ino))
            if here[-1] in above:
                found.pass_over("links to a folder that they lie in", prefix.rstrip("/"))
                continue
            if len(here) > DEEPEST or entered > MOST:
                found.pass_over("folders too deep or too many to be real", prefix.rstrip("/"))
                continue
            entries = list(os.scandir(place))
        except OSError:
            found.pass_over("folders that cannot be read", prefix.rstrip("/"))
            continue
        for entry in entries:
            name = prefix + entry.name
            if _is(entry.is_dir):
                if entry.name.startswith("."):
                    found.pass_over("hidden", name)
                else:
                    stack.append((entry.path, name + "/", here))
            elif _is(entry.is_file):
                found.files.append(name)
            else:
                found.pass_over("links to nothing" if entry.is_symlink() else "neither files nor folders", name)
    found.files.sort()
    return found


def images_below(folder: Path) -> Found:
    """The files below `folder` that are meant as images and can be: the others are passed over by kind.

    Meant as one: not hidden, and a suffix that Pillow opens. Can be: readable, not empty, in a folder of its own.
    """
    found = files_below(folder)
    images = []
    for name in found.files:
        parents, _, file = name.rpartition("/")
        suffix = Path(file).suffix.lower()
        if file.startswith("."):
            found.pass_over("hidden", name)
        elif suffix not in _suffixes():
            found.pass_over(f"of suffix {suffix}" if suffix else "without a suffix", name)
        elif not parents:
            found.pass_over("outside any class folder", name)
        elif not os.access(folder / name, os.R_OK):
            found.pass_over("that cannot be read", name)
        elif not os.path.getsize(folder / name):
            found.pass_over("empty", name)
        else:
            images.append(name)
    return Found(images, found.passed)


def _is(kind) -> bool:
    try:
        return kind()
    except OSError:  # a link to itself
        return False


@cache
def _suffixes() -> set[str]:
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
