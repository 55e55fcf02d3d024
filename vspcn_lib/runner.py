"""A list of runs, each in a process of its own: finished ones are skipped, a failed one does not stop the rest."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import torch
from tqdm import tqdm

from vspcn_lib.config import Config, as_dict
from vspcn_lib.records import write_record
from vspcn_lib.runs import RunFolder

DECIDING = ("fusion", "model", "baselines", "losses", "metrics", "images", "semantics", "splits", "train", "evaluation")


@dataclass(frozen=True)
class Job:
    """One run to be made: the row of the table it belongs to, and its config."""

    row: str
    config: Config

    @property
    def name(self) -> str:
        """A file name: the row in small letters, and the seed."""
        return f"{re.sub(r'[^a-z0-9]+', '-', self.row.lower()).strip('-')}-seed{self.config.train.seed}"

    @property
    def key(self) -> str:
        """What the run's numbers depend on, as 12 hex digits: its config and the code."""
        text = json.dumps(as_dict(self.config), sort_keys=True) + code_version()
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def code_version() -> str:
    """A hash of the modules that decide a run's numbers; comments and docstrings do not count."""
    digest = hashlib.sha256()
    for module in DECIDING:
        tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]


def finished(job: Job, records: Path, any_code: bool = False) -> bool:
    """Whether the record of `job` is there, made with the same config and, unless `any_code`, the same code."""
    file = records / f"{job.name}.json"
    if not file.exists():
        return False
    record = json.loads(file.read_text())
    return record["key"] == job.key or (any_code and record["config"] == as_dict(job.config))


def execute(jobs: Sequence[Job], runs: Path, records: Path, any_code: bool = False) -> dict[str, str]:
    """Make every job that is not `finished`: run folders under `runs`, one JSON record each under `records`.

    One process a GPU, or one for every four CPU cores. An interrupted run continues where it stopped. Returns
    the failed jobs' names with the last line each one printed.
    """
    todo = [job for job in jobs if not finished(job, records, any_code)]
    print(f"{len(jobs)} runs, {len(jobs) - len(todo)} of them finished before (records in {records})")
    gpus = torch.cuda.device_count()
    slots: Queue[str] = Queue()
    for slot in range(gpus or max(1, (os.cpu_count() or 1) // 4)):
        slots.put(str(slot) if gpus else "")
    failed: dict[str, str] = {}
    pool = ThreadPoolExecutor(slots.qsize())
    waiting = {pool.submit(_one, job, runs / f"{job.name}-{job.key}", records, slots): job for job in todo}
    try:
        for future in tqdm(as_completed(waiting), "runs", len(todo)):
            job, message = waiting[future], future.result()
            if message:
                failed[job.name] = message
                tqdm.write(f"FAILED {job.name}: {message}")
    finally:  # on Ctrl-C the running process stops after its step and saves; the others never start
        pool.shutdown(cancel_futures=True)
    return failed


def _one(job: Job, out: Path, records: Path, slots: Queue[str]) -> str:
    """Run one job in a process of its own; returns what went wrong, empty if nothing did."""
    gpu = slots.get()
    try:
        RunFolder.create(out, job.config, resume=(out / "config.json").exists())
        with (out / "log.txt").open("a") as log:
            environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
            done = subprocess.run([sys.executable, "-m", "vspcn_lib", "resume", str(out)], stdout=log, stderr=log,
                                  env=environment)
        if done.returncode:
            lines = (out / "log.txt").read_text(errors="replace").strip().splitlines()
            return f"exit status {done.returncode}, {lines[-1] if lines else 'no output'} ({out / 'log.txt'})"
        write_record(out, records / f"{job.name}.json", row=job.row, key=job.key)
        return ""
    except Exception as error:  # reported by name with the others; the remaining runs go on
        return f"{type(error).__name__}: {error}"
    finally:
        slots.put(gpu)
