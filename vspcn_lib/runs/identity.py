"""What a run's numbers come from: a checksum of everything that it reads, by name, and what differs between two."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from vspcn_lib.config import Config, DataConfig, data_root
from vspcn_lib.data.benchmarks import load_benchmark
from vspcn_lib.data.photos import photo_identity
from vspcn_lib.data.splits import Benchmark
from vspcn_lib.encoders.backbone import load_backbone
from vspcn_lib.encoders.semantics import Vectors, attribute_vectors
from vspcn_lib.encoders.weights import sha256_file
from vspcn_lib.methods.registry import method

KINDS = ("split", "photos", "class attributes", "word vectors", "backbone")
DATA = KINDS[:3]  # what every row of one table has in common
NO_WORDS = "none"  # of a method that reads no word vectors


def open_benchmark(config: DataConfig) -> Benchmark:
    """The benchmark of a config; birdlets are rendered on first use."""
    return load_benchmark(config.benchmark, data_root(config))


def word_vectors(config: Config, bench: Benchmark) -> Vectors:
    """The attributes' vectors; empty ones [K,0] for a method that reads no words, whatever the names are."""
    if not method(config).reads_words(config):
        return Vectors(np.zeros((len(bench.attribute_names), 0), np.float32), "no word vectors", ())
    return attribute_vectors(bench.attribute_names, config.data.vectors, bench.phrases, config.data.template)


def identity(bench: Benchmark, photos: str, vectors: np.ndarray, backbone: str) -> dict[str, str]:
    """Hex checksums by the names `KINDS`: of what a run reads besides its config."""
    words = hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest() if vectors.shape[1] else NO_WORDS
    return {"split": bench.split_hash, "photos": photos,
            "class attributes": hashlib.sha256(bench.prototypes.tobytes()).hexdigest(),
            "word vectors": words, "backbone": backbone}


def look_up(config: Config, backbone: bool = True) -> dict[str, str]:
    """The `identity` of what a config names as it is now, before any work; photos are known by their time stamps.

    Without `backbone` weights that are no file of the user's own are left out, since they would have to be loaded.
    Raises what reading the data raises.
    """
    bench, (_, at, file) = open_benchmark(config.data), config.model.backbone.partition("@")
    digest = ""
    if backbone:
        digest = load_backbone(config.model.backbone, config.data.size, mean=config.data.mean,
                               std=config.data.std).source["sha256"]
    elif at and Path(file).expanduser().is_file():
        digest = sha256_file(Path(file).expanduser())
    found = identity(bench, photo_identity(bench), word_vectors(config, bench).values, digest)
    return {kind: value for kind, value in found.items() if value}


def of_result(result: dict[str, Any]) -> dict[str, str]:
    """The `identity` that a result carries; of an older one what it says in other places, the rest is missing."""
    if "inputs" in result:
        return result["inputs"]
    words = re.search(r"sha256 ([0-9a-f]{12})", result.get("vectors", ""))
    found = {"split": result.get("split"), "backbone": result.get("backbone", {}).get("sha256"),
             "word vectors": words and words[1]}
    return {kind: value for kind, value in found.items() if value}


def differences(old: dict[str, str], new: dict[str, str]) -> str:
    """Such as "another split (0f3a... -> 77c1...), ..."; empty where all agrees that both know.

    Older records keep a part of a checksum, and word vectors that their method did not read.
    """
    def same(kind: str) -> bool:
        a, b = str(old[kind]), str(new[kind])
        return a.startswith(b) or b.startswith(a) or (kind == "word vectors" and NO_WORDS in (a, b))

    return ", ".join(f"another {kind} ({str(old[kind])[:12]} -> {new[kind][:12]})" for kind in new
                     if kind in old and not same(kind))


def unchecked(known: dict[str, str]) -> list[str]:
    """The `KINDS` that an older run or record does not know."""
    return [kind for kind in KINDS if kind not in known]
