"""Attributes as vectors: which encoder reads them, what it left out, and where the numbers come from."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gensim.models import KeyedVectors

from vspcn_lib.encoders.phrases import SemanticsError, bracketed, sentence_of, words_of
from vspcn_lib.encoders.sentences import MINILM, check_folder, check_template, sentence_vectors
from vspcn_lib.encoders.words import WORDS, load_vectors

SOURCES = (*WORDS, MINILM)


class Vectors(NamedTuple):
    """What a text encoder makes of K attributes."""

    values: np.ndarray
    """float32 [K,G]"""
    source: str
    """one line of provenance, with a checksum of the values"""
    notes: tuple[str, ...]
    """sentences about words that were left out and attributes that got equal vectors; to be printed and recorded"""


def check_source(source: str) -> None:
    """Raise `SemanticsError` for vectors that are neither known by name nor a file nor an encoder's folder: at once,
    no vector is read."""
    path = Path(os.path.expanduser(source))
    if source in SOURCES or path.is_file():
        return
    if path.is_dir():
        check_folder(path)
        return
    near = difflib.get_close_matches(source, SOURCES, n=1, cutoff=0.0)[0]
    raise SemanticsError(f"unknown word vectors '{source}': no such file, did you mean '{near}'?")


def attribute_vectors(names: Sequence[str], source: str = "glove-50", phrases: Mapping[str, str] | None = None,
                      template: str = "{}") -> Vectors:
    """Vectors [K,G] of K attribute names: word vectors' mean over a phrase, a sentence encoder's, or a file's own rows.

    `phrases` are the benchmark's own (phrases.csv), by name. `source` is a name of `SOURCES`, a file of word vectors,
    a .npy of K rows in the order of `names`, or a folder that `sentences.check_folder` knows. Raises `SemanticsError`.
    """
    phrases, notes, path = phrases or {}, [], Path(os.path.expanduser(source))
    check_source(source)
    check_template(template)
    words = [words_of(name, phrases) for name in names]
    if path.suffix == ".npy" and source not in SOURCES:
        found, label = _rows(path, len(names)), path.name
    elif source == MINILM or path.is_dir():
        _check_read(names, words, source)
        found, label = sentence_vectors([sentence_of(n, phrases, template) for n in names], source)
        notes += _cut(names, phrases)
    else:
        label = source if source in SOURCES else path.name
        vectors = load_vectors(source, {w for some in words for w in some})
        found = phrase_vectors(names, words, vectors, label)
        notes += [*_unknown(names, words, vectors, label), *_cut(names, phrases)]
    wrong = ~np.isfinite(found).all(1)
    if wrong.any():
        raise SemanticsError(f"the vector of attribute '{names[int(wrong.argmax())]}' from {label} holds NaN or "
                             "infinite values: mend the file or choose another")
    notes += _equal(names, found)
    digest = hashlib.sha256(found.tobytes()).hexdigest()[:12]
    return Vectors(found, f"vectors {label}, {found.shape[1]}-d, sha256 {digest}", tuple(notes))


def phrase_vectors(names: Sequence[str], words: Sequence[Sequence[str]], vectors: KeyedVectors,
                   label: str) -> np.ndarray:
    """The mean vector of each attribute's known words, float32 [K,G].

    Raises `SemanticsError` that names all attributes none of whose words is known.
    """
    known = [[w for w in some if w in vectors.key_to_index] for some in words]
    _check_read(names, known, label)
    return np.stack([np.mean([vectors[w] for w in some], axis=0) for some in known]).astype(np.float32)


def _check_read(names: Sequence[str], known: Sequence[Sequence[str]], label: str) -> None:
    lost = [f"'{name}'" for name, some in zip(names, known, strict=True) if not some]
    if lost:
        raise SemanticsError(f"{label} can read no word of {len(lost)} attributes: {', '.join(lost)}. Give each a "
                             "phrase of common words in phrases.csv (header attribute,phrase) in the benchmark's "
                             "folder; for attributes without names take --data.vectors FILE.npy, one row an attribute")


def _rows(path: Path, count: int) -> np.ndarray:
    """A .npy of one row an attribute. Raises `SemanticsError`."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SemanticsError(f"{path} cannot be read as a .npy of numbers ({str(error)[:200]})") from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise SemanticsError(f"{path} is a .npz of {len(found.files)} arrays under the name of a .npy: write the one "
                             f"array of {count} rows with numpy.save")
    if found.ndim != 2 or found.dtype.kind not in "fiu" or len(found) != count or not 0 < found.shape[1] <= 10_000:
        raise SemanticsError(f"{path} holds {found.dtype} {list(found.shape)}: it must be numbers [{count},G], one row "
                             f"for each of the {count} attributes in their order")
    with np.errstate(over="ignore"):  # too large a number becomes infinite, and that is refused by name
        return np.array(found, dtype=np.float32)


def _unknown(names: Sequence[str], words: Sequence[Sequence[str]], vectors: KeyedVectors, label: str) -> list[str]:
    lost = [f"'{w}' of '{name}'" for name, some in zip(names, words, strict=True) for w in some
            if w not in vectors.key_to_index]
    return [f"{label} does not know, and leaves out: {', '.join(lost)}"] if lost else []


def _cut(names: Sequence[str], phrases: Mapping[str, str]) -> list[str]:
    cut = [f"'{bracketed(n)}' of '{n}'" for n in names if bracketed(n) and n not in phrases]
    return [f"not read, being in brackets: {', '.join(cut)}"] if cut else []


def _equal(names: Sequence[str], found: np.ndarray) -> list[str]:
    alike = defaultdict(list)
    for name, row in zip(names, found, strict=True):
        alike[(row + 0.0).tobytes()].append(f"'{name}'")  # -0.0 is 0.0
    same = [" = ".join(group) for group in alike.values() if len(group) > 1]
    return [f"WARNING: attributes with the very same vector, which no model can tell apart by words: "
            f"{'; '.join(same)}. Give each its own words in phrases.csv"] if same else []
