"""Clocks: actions measured in turn, so that a busy machine slows all of them, and what follows from their seconds."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

Action = Callable[[], object]


def seconds(action: Action, device: torch.device) -> float:
    """Wall-clock seconds of one call, the device's queue emptied before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - start


def in_turn(actions: dict[str, Action], rounds: int, device: torch.device, warm: int = 2) -> dict[str, list[float]]:
    """Seconds of every action in every round, A B C A B C ..., after `warm` rounds that do not count."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for r in tqdm(range(warm + rounds), "rounds", leave=False):
        for name, action in actions.items():
            taken = seconds(action, device)
            if r >= warm:
                found[name].append(taken)
    return found


def summary(times: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Median seconds of each action, and the median and quartiles of its ratio to `base`, round by round."""
    out = {}
    for name, column in times.items():
        low, middle, high = np.percentile(np.divide(column, times[base]), (25, 50, 75))
        out[name] = {"seconds": round(statistics.median(column), 5), "ratio": round(middle, 3),
                     "low": round(low, 3), "high": round(high, 3)}
    return out


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a fresh process: its peak memory is its own. Raises RuntimeError when the process fails."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int = 2048, rounds: int = 10) -> float:
    """The device's measured rate of square matrix products, GFLOP/s: the best of a few."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = min(in_turn({"mm": lambda: a @ b}, rounds, device)["mm"])
    return 2 * side**3 / best / 1e9
