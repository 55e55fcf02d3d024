"""The benchmark: VSPCN beside the frozen ViT it cannot be cheaper than, part by part, into one JSON record."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vspcn_lib import metrics
from vspcn_lib.bench import growth
from vspcn_lib.bench.workloads import ATTRIBUTES, FLOOR, NAMES, flops, peak, place, workload
from vspcn_lib.config import Config, ConfigError, as_dict
from vspcn_lib.data.images import Normalise, decode
from vspcn_lib.encoders.backbone import load_backbone
from vspcn_lib.runs.evaluation import score
from vspcn_lib.runs.folder import replacing
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.records import anywhere, config_of
from vspcn_lib.system.environment import cores, environment
from vspcn_lib.system.memory import keep_freed_memory
from vspcn_lib.system.timing import in_own_process, in_turn, matmul_rate, seconds, summary

MATRICES = ((3000, 200), (14340, 717))  # CUB's test set, and one of SUN's length and number of classes
GRID = 1000  # points of the grid that the exact sweep replaces


def steps(config: Config, rounds: int) -> dict[str, Any]:
    """Training step and inference of every workload in turn, their FLOPs, and the rate against the device's own."""
    device = place()
    vit = load_backbone(config.model.backbone, config.data.size).to(device)
    works = {name: workload(name, config, vit, ATTRIBUTES.get(config.data.benchmark, 312)) for name in NAMES}
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    rate = matmul_rate(device, dtype)
    out: dict[str, Any] = {"matmul GFLOP/s": round(rate, 1), "tokens": {"floor": vit.prefix + vit.patches}}
    for kind in ("train", "infer"):
        actions = {name: getattr(work, kind) for name, work in works.items()}
        times = in_turn(actions, rounds, device)
        out[kind] = summary(times, FLOOR)
        for name, action in actions.items():
            row = out[kind][name]
            row["GFLOP"] = round(flops(action) / 1e9, 2)
            row["GFLOP/s"] = round(row["GFLOP"] / row["seconds"], 1)
            row["of matmul rate"] = round(row["GFLOP/s"] / rate, 3)
        # The time of fusion and adapter is what a step with the same prompts and none of them does not take.
        ours, without, plain = (np.array(times[n]) for n in ("VSPCN", "VSPCN, no fusion", "VSPCN, fusion plain"))
        out[kind]["fusion"] = {"share": round(float(np.median((ours - without) / ours)), 3),
                               "plain / ours": round(float(np.median(plain - without) / np.median(ours - without)), 2)}
    return out


def memory(config: Config, rounds: int) -> dict[str, Any]:
    """Peak memory of every workload, each in a process of its own, and its ratio to the floor's."""
    attributes = ATTRIBUTES.get(config.data.benchmark, 312)
    out: dict[str, Any] = {}
    for kind in ("train", "infer"):
        rows = {name: in_own_process(peak, name, config, attributes, kind == "train") for name in NAMES}
        out[kind] = {name: {**row, "ratio": round(row["peak"] / rows[FLOOR]["peak"], 3)} for name, row in rows.items()}
    return out


class _Photos(Dataset):
    """What a pipeline without cache does: decode, scale and normalise each photo every time it is asked for."""

    def __init__(self, paths: list[Path], size: int, normalise: Normalise) -> None:
        self.paths, self.size, self.normalise = paths, size, normalise

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.normalise(torch.tensor(decode(self.paths[i], self.size)).unsqueeze(0) / 255)[0]


def data(config: Config, rounds: int) -> dict[str, Any]:
    """Images a second that reach the device: the cache with augmentation, and PIL decoding in DataLoader workers."""
    work = Workspace.open(config)
    device, bench = work.accelerator.device, work.bench
    some = bench.trainval[:512]
    workers = cores()
    photos = _Photos([bench.image_paths[i] for i in some], config.data.size, work.backbone.normalise)
    loader = DataLoader(photos, config.train.batch_size, num_workers=workers, persistent_workers=True)
    actions = {"cache, augmented": lambda: [x for x, _, _ in work.batches(some, augment=True).epoch(0)],
               "PIL in workers": lambda: [x.to(device) for x in loader]}
    times = in_turn(actions, max(3, rounds // 4), device, warm=1)
    out: dict[str, Any] = {n: {"images/s": round(len(some) / float(np.median(t)), 1)} for n, t in times.items()}
    out["PIL in workers"]["workers"] = workers
    return out


def evaluation(config: Config, rounds: int) -> dict[str, Any]:
    """Seconds from pixels to the score matrix of the whole test set, once."""
    work = Workspace.open(config)
    bench = work.bench
    test, model = np.concatenate([bench.test_seen, bench.test_unseen]), work.model()
    every = np.arange(bench.num_classes)
    score(work, model, test[:64], every)
    taken = seconds(lambda: score(work, model, test, every), work.accelerator.device)
    return {"whole test set": {"images": len(test), "seconds": round(taken, 2),
                               "images/s": round(len(test) / taken, 1)}}


def sweeps(config: Config, rounds: int) -> dict[str, Any]:
    """The exact tau sweep with AUSUC against a grid of taus, on random scores; a tenth of the grid is timed."""
    out, cpu = {}, torch.device("cpu")
    for n, classes in MATRICES:
        rng = np.random.default_rng(0)
        labels, unseen = rng.integers(0, classes, n), np.arange(classes) >= classes * 3 // 4
        scores = rng.normal(size=(n, classes)).astype(np.float32)
        scores[np.arange(n), labels] += 2
        taus = np.linspace(-4, 4, GRID // 10)
        actions = {"exact": lambda s=scores, y=labels, u=unseen: metrics.ausuc(s, y, u),
                   "tenth": lambda s=scores, y=labels, u=unseen, t=taus: [metrics.gzsl_metrics(s, y, u, v) for v in t]}
        times = in_turn(actions, 3, cpu, warm=1)
        exact, grid = float(np.median(times["exact"])), 10 * float(np.median(times["tenth"]))
        found = metrics.tau_sweep(scores, labels, unseen)
        best = max(metrics.gzsl_metrics(scores, labels, unseen, v).H for v in taus)
        out[f"{n} x {classes}"] = {"exact s": round(exact, 4), f"grid of {GRID} s": round(grid, 2),
                                   "ratio": round(grid / exact), "points": len(found),
                                   "best H exact": round(float(found["H"].max()), 4), "best H grid": round(best, 4)}
    return out


PARTS = {"steps": steps, "memory": memory, "data": data, "evaluation": evaluation,
         "sweeps": sweeps, "growth": growth.curves}


def _cost(config: Config) -> tuple[Any, ...]:
    """The settings that seconds and memory depend on: not learning rates or loss weights."""
    return config.data, config.model, config.train.batch_size, config.train.precision


def bench(config: Config, parts: tuple[str, ...], rounds: int, target: Path) -> dict[str, Any]:
    """Measure `parts` and keep them in the JSON record `target`; its other parts stay as they were measured.

    Raises `ConfigError` for an unknown part, or where `target` holds measurements of other data, model or batches.
    """
    for name in parts:
        if name not in PARTS:
            raise ConfigError(f"unknown part '{name}' of the benchmark: choose from {', '.join(PARTS)}")
    device = place()
    record = json.loads(target.read_text()) if target.exists() else {"config": as_dict(anywhere(config)), "parts": {}}
    if _cost(config_of(record)) != _cost(anywhere(config)):
        raise ConfigError(f"{target} holds measurements of other settings: choose another --out")
    record |= {"matplotlib": version("matplotlib")}
    keep_freed_memory()
    for name in parts:
        found = PARTS[name](config, rounds)
        measured = {"device": device.type, "threads": torch.get_num_threads(), "rounds": rounds, **environment()}
        if hasattr(os, "getloadavg"):  # above the number of cores, others worked here too: ratios hold, seconds do not
            measured["load"] = round(os.getloadavg()[1], 1)
        record["parts"][name] = {**found, "measured": measured}
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return record
