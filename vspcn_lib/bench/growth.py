"""How cost grows with attributes, classes, prompts, patches, images, seeds; each axis alone, the rest as set."""

from __future__ import annotations

import multiprocessing
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vspcn_lib import metrics
from vspcn_lib.bench.workloads import ATTRIBUTES, FLOOR, place, workload
from vspcn_lib.config import Config, update
from vspcn_lib.data.images import Batches, Normalise
from vspcn_lib.encoders.backbone import load_backbone
from vspcn_lib.system.environment import cores
from vspcn_lib.system.memory import keep_freed_memory
from vspcn_lib.system.timing import in_own_process, in_turn, seconds

ATTRIBUTE_COUNTS = (32, 102, 312, 1000)
CLASS_COUNTS = (100, 1000, 20000)
PROMPT_COUNTS = (1, 8, 32)  # of each kind
SIZES = (112, 224, 518)
IMAGE_COUNTS = (1000, 10000, 50000)
SEED_COUNTS = (1, 2, 4, 8, 16)  # up to the number of cores


def curves(config: Config, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Seconds of a VSPCN training step and of the floor's along each axis, one row a point; memory along images,
    throughput along seeds that train side by side.
    """
    device, usual = place(), ATTRIBUTES.get(config.data.benchmark, 312)
    vit = load_backbone(config.model.backbone, config.data.size).to(device)
    half = update(config, {"train": {"batch_size": max(2, config.train.batch_size // 8)}})

    def row(setting: Config, vit: torch.nn.Module, attributes: int, classes: int) -> dict[str, float]:
        actions = {name: workload(name, setting, vit, attributes, classes).train for name in (FLOOR, "VSPCN")}
        times = in_turn(actions, rounds, device, warm=1)
        floor, ours = (float(np.median(times[name])) for name in actions)
        return {"batch": setting.train.batch_size, "floor": round(floor, 4), "seconds": round(ours, 4)}

    out: dict[str, list[dict[str, Any]]] = {
        "attributes": [{"value": n, **row(config, vit, n, 100)} for n in ATTRIBUTE_COUNTS],
        "classes": [{"value": n, **row(config, vit, usual, n)} for n in CLASS_COUNTS],
        "prompts": [{"value": 2 * n, **row(update(config, {"model": {"visual_prompts": n, "semantic_prompts": n}}),
                                          vit, usual, 100)} for n in PROMPT_COUNTS],
    }
    out["size"] = []
    for size in SIZES:
        size = size // vit.patch * vit.patch
        setting = update(half, {"data": {"size": size}})
        large = load_backbone(config.model.backbone, size).to(device)
        out["size"].append({"value": size, "patches": large.patches, **row(setting, large, usual, 100)})
    out["images"] = [{"value": n, **in_own_process(_pass_over, n)} for n in IMAGE_COUNTS]
    out["seeds"] = [{"value": n, **_side_by_side(n, config, usual, rounds)} for n in SEED_COUNTS if n <= cores()]
    return out


def _side_by_side(seeds: int, config: Config, attributes: int, rounds: int) -> dict[str, float]:
    """Trainings of `seeds` seeds at once, a process each and the cores shared out: images/s of all together."""
    spawn, threads = multiprocessing.get_context("spawn"), max(1, cores() // seeds)
    with spawn.Pool(seeds, _wait_at, (spawn.Barrier(seeds),)) as pool:
        taken = pool.starmap(_steps_together, [(config, attributes, threads, rounds)] * seeds, chunksize=1)
    return {"threads": threads, "images/s": round(seeds * rounds * config.train.batch_size / max(taken), 2)}


_gate: Any = None  # a barrier reaches a pool's processes only as they start


def _wait_at(barrier: Any) -> None:
    global _gate
    _gate = barrier


def _steps_together(config: Config, attributes: int, threads: int, rounds: int) -> float:
    """Seconds of `rounds` training steps that begin when every process has its model in place."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    device = place()
    vit = load_backbone(config.model.backbone, config.data.size).to(device)
    step = workload("VSPCN", config, vit, attributes).train
    step()
    _gate.wait(600)  # breaks for all where one of them never comes
    return seconds(lambda: [step() for _ in range(rounds)], device)


def _anonymous_mib() -> float:
    """Memory of this process that no file backs, MiB; pages of a mapped file belong to the system."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no RssAnon")


def _pass_over(images: int, size: int = 112, classes: int = 200) -> dict[str, float]:
    """MiB that one pass of batches over `images` mapped images adds, and metrics of their mapped score matrix."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.lib.format.open_memmap(f"{folder}/pixels.npy", "w+", np.uint8, (images, 3, size, size))
        labels, indices = np.arange(images) % classes, np.arange(images)
        batches = Batches(pixels, labels, indices, 64, normalise=Normalise((0.5,) * 3, (0.5,) * 3), device="cpu")
        next(iter(batches.epoch(0)))
        before, most = _anonymous_mib(), 0.0
        for number, _ in enumerate(batches.epoch(0)):
            if number % 16 == 0:
                most = max(most, _anonymous_mib())
        batch_mib = max(0.0, most - before)
        scores = np.lib.format.open_memmap(f"{folder}/scores.npy", "w+", np.float32, (images, classes))
        for start in range(0, images, 4096):
            scores[start:start + 4096] = np.random.default_rng(start).normal(size=(len(scores[start:start + 4096]),
                                                                                   classes))
        tracemalloc.start()  # NumPy reports to it
        metrics.tau_sweep(scores, labels, np.arange(classes) >= 150)
        return {"batches MiB": round(batch_mib, 1), "metrics MiB": round(tracemalloc.get_traced_memory()[1] / 2**20, 1),
                "scores MiB": round(scores.nbytes / 2**20, 1)}
