"""What a finished run keeps of its benchmark, so that it looks at new photos without the training photos."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vspcn_lib.data.images import Normalise
from vspcn_lib.runs.folder import RunError, replacing
from vspcn_lib.runs.workspace import Workspace

NAME = "classes.npz"


@dataclass(frozen=True, eq=False)
class Kept:
    """Names, prototypes and vectors of a run's classes and attributes, and how its photos are normalised."""

    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    prototypes: np.ndarray
    """class attributes [C,K], float32"""
    unseen: np.ndarray
    """bool [C]"""
    word_vectors: np.ndarray
    """[K,G], float32"""
    normalise: Normalise

    @classmethod
    def of(cls, work: Workspace) -> Kept:
        """What a workspace has of it."""
        bench = work.bench
        return cls(bench.class_names, bench.attribute_names, bench.prototypes, bench.unseen_mask,
                   work.word_vectors.numpy(), work.backbone.normalise)

    @property
    def inputs(self) -> dict[str, str]:
        """The part of the run's `identity` that these arrays can show."""
        words = {"word vectors": self.word_vectors} if self.word_vectors.shape[1] else {}
        return {kind: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
                for kind, array in {"class attributes": self.prototypes, **words}.items()}

    def write(self, run: Path) -> None:
        """Keep it in the run's folder. Raises `RunError` where that cannot be written."""
        with replacing(run / NAME) as partial, partial.open("wb") as file:
            np.savez_compressed(file, class_names=np.array(self.class_names, dtype=str),
                                attribute_names=np.array(self.attribute_names, dtype=str), prototypes=self.prototypes,
                                unseen=self.unseen, word_vectors=self.word_vectors, mean=np.array(self.normalise.mean),
                                std=np.array(self.normalise.std))

    @classmethod
    def read(cls, run: Path) -> Kept | None:
        """What the folder of a run keeps, None for a run of an older version. Raises `RunError` for a damaged file."""
        file = run / NAME
        try:
            with np.load(file, allow_pickle=False) as found:
                names = (tuple(found[key].tolist()) for key in ("class_names", "attribute_names"))
                arrays = (found[key] for key in ("prototypes", "unseen", "word_vectors"))
                return cls(*names, *arrays, Normalise(*(tuple(found[key].tolist()) for key in ("mean", "std"))))
        except FileNotFoundError:
            return None
        except Exception as error:  # zipfile, zlib and NumPy fail in many ways
            raise RunError(f"{file} is damaged ({str(error)[:120]}): restore it from a copy, or delete it and have the "
                           "benchmark at hand") from error
