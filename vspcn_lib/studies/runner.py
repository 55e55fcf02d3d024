"""A list of runs, each in a process of its own: finished ones are skipped, a failed one does not stop the rest."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import torch
from tqdm.auto import tqdm

from vspcn_lib.config import Config, ConfigError, as_dict, update
from vspcn_lib.methods.generative.registry import GenerateConfig
from vspcn_lib.methods.registry import method
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.identity import differences, look_up, of_result, unchecked
from vspcn_lib.studies.code import code_version
from vspcn_lib.studies.generate import generate
from vspcn_lib.studies.records import anywhere, config_of, read_record, write_record
from vspcn_lib.system.environment import cores
from vspcn_lib.system.files import exclusive
from vspcn_lib.train import run

# A server that has imported torch and timm once forks the processes: they start in no time, and a killed one
# takes nothing with it. Where there is no forking, each process imports for itself.
_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
CONTEXT = multiprocessing.get_context(_METHOD)
if _METHOD == "forkserver":
    CONTEXT.set_forkserver_preload(["vspcn_lib.studies.runner"])


@dataclass(frozen=True)
class Job:
    """One run to be made: the row of the table it belongs to, and its config."""

    row: str
    config: Config
    start: str = ""
    """the row whose finished run is read, where features are generated from it"""
    generate: GenerateConfig | None = None
    """the settings of that"""

    @property
    def name(self) -> str:
        """A file name: the row in small letters, and the seed."""
        return f"{re.sub(r'[^a-z0-9]+', '-', self.row.lower()).strip('-')}-seed{self.config.train.seed}"

    @property
    def source(self) -> Job | None:
        """The job whose finished run is read, where features are generated from it."""
        return Job(self.start, self.config) if self.generate else None

    @property
    def folder(self) -> str:
        """The name of the run folder, before data change."""
        return f"{self.name}-{self.key}"

    @property
    def key(self) -> str:
        """What the run's numbers depend on, as 12 hex digits: its config and the code."""
        own = method(self.config).__module__.removeprefix("vspcn_lib.").replace(".", "/")
        # Not `anywhere`: two files of one name in two folders are two backbones, or vectors, until their data are read.
        config = as_dict(update(self.config, {"data": {"root": ""}}))
        text = json.dumps(config, sort_keys=True) + code_version("train", own)
        if self.generate:
            text += json.dumps(self.generate.kept(), sort_keys=True) + code_version("studies/generate", own)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Data:
    """The identities of what jobs read, each looked up once, and compared with those of records and begun runs."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str]] = {}

    def now(self, config: Config) -> dict[str, str]:
        """The `identity.look_up` of a config; raises what reading the data raises."""
        words = method(config).reads_words(config)
        key = json.dumps([as_dict(config)["data"], config.model.backbone, words], sort_keys=True)
        if key not in self._known:
            self._known[key] = look_up(config)
        return self._known[key]

    def changed(self, config: Config, known: dict[str, str]) -> str:
        """What has become of data that were `known` once, in words; empty where all agrees that both know."""
        return differences(known, self.now(config)) if known else ""

    def check(self, file: Path, config: Config, record: dict[str, Any]) -> None:
        """Raise `ConfigError` for a record in `file` of other data than `config` names now."""
        if changed := self.changed(config, of_result(record["result"])):
            raise ConfigError(f"{file} is of other data than there are now: {changed}; what is made now would replace "
                              "it or stand beside it in one table: choose another --records, or put back what was "
                              "changed")


def finished(job: Job, records: Path, any_code: bool = False, data: Data | None = None) -> bool:
    """Whether the record of `job` is there, made with the same config, data and, unless `any_code`, the same code.

    Raises `ConfigError` where it is there with other data, since it would be replaced.
    """
    file = records / f"{job.name}.json"
    if not file.exists():
        return False
    record = read_record(file)
    (data or Data()).check(file, job.config, record)
    return record.get("key") == job.key or (any_code and as_dict(config_of(record)) == as_dict(anywhere(job.config))
                                            and record.get("generate") == (job.generate and job.generate.kept()))


def execute(jobs: Sequence[Job], runs: Path, records: Path, any_code: bool = False,
            processes: int = 0) -> dict[str, str]:
    """Make every job that is not `finished`: run folders under `runs`, one JSON record each under `records`.

    `processes` at a time, shared out among the GPUs; by default one on each, or, where there is none, one for every
    four cores. An interrupted run continues where it stopped. Returns the failed jobs' names with the last line each
    one printed. Raises `ConfigError` for a record of other data.
    """
    data = Data()
    todo = [job for job in jobs if not finished(job, records, any_code, data)]
    print(f"{len(jobs)} runs, {len(jobs) - len(todo)} of them finished before (records in {records})")
    old = [job.name for job in jobs if job not in todo and unchecked(of_result(read_record(
        records / f"{job.name}.json")["result"]))]
    if old:
        print(f"unchecked, whether the data are still the same: {', '.join(old)} (records older than those checksums)")
    gpus = torch.cuda.device_count()
    count = processes or gpus or max(1, cores() // 4)
    slots: Queue[int] = Queue()
    for slot in range(count):
        slots.put(slot)
    # Processes that share cores get threads of their own: spinning for the same core costs more than it gains.
    place = {"gpus": gpus, "threads": max(1, cores() // count)}
    failed: dict[str, str] = {}
    pool = ThreadPoolExecutor(count)
    # Keys and folders are settled here, once: the code may be edited while the runs last, and folders are begun.
    named = {j.folder: j for job in todo for j in (job, job.source) if j}
    folders = {name: _folder(j, runs, data) for name, j in named.items()}
    waiting = {pool.submit(_one, job, job.key, folders[job.folder], job.source and folders[job.source.folder], records,
                           slots, place): job for job in todo}
    try:
        for future in tqdm(as_completed(waiting), "runs", len(todo), disable=not todo):
            job, message = waiting[future], future.result()
            if message:
                failed[job.name] = message
                tqdm.write(f"FAILED {job.name}: {message}")
    finally:  # on Ctrl-C the running process stops after its step and saves; the others never start
        pool.shutdown(cancel_futures=True)
    return failed


def _folder(job: Job, runs: Path, data: Data) -> Path:
    """The run folder of a job; of one begun or finished there with other data a new one, numbered, beside it."""
    number, out = 1, runs / job.folder
    while (began := RunFolder(out).read_json("inputs.json")) and (changed := data.changed(job.config, began)):
        print(f"{out} is of other data than there are now: {changed}; {job.name} is run anew beside it")
        number += 1
        out = runs / f"{job.folder}-{number}"
    return out


def _one(job: Job, key: str, out: Path, start: Path | None, records: Path, slots: Queue[int],
         place: dict[str, Any]) -> str:
    """Run one job in a process of its own, which may read the run `start`; what went wrong, empty if nothing did."""
    slot = slots.get()
    try:
        RunFolder.create(out, job.config, resume=(out / "config.json").exists())
        process = CONTEXT.Process(target=finish, args=(out, slot, place))
        if start:
            process = CONTEXT.Process(target=finish_generated, args=(out, slot, place, start, job.config, job.generate))
        process.start()
        process.join()
        if process.exitcode:
            lines = (out / "log.txt").read_text(errors="replace").strip().splitlines()
            return f"exit status {process.exitcode}, {lines[-1] if lines else 'no output'} ({out / 'log.txt'})"
        write_record(out, records / f"{job.name}.json", row=job.row, key=key)
        return ""
    except Exception as error:  # reported by name with the others; the remaining runs go on
        return f"{type(error).__name__}: {error}"
    finally:
        slots.put(slot)


def finish(out: Path, slot: int, place: dict[str, Any]) -> None:
    """What the process of a job does: finish the run in `out` on its GPU or its threads, all it prints in log.txt."""
    take_place(out, slot, place)
    with exclusive(out.with_name(f"{out.name}.lock"), wait=True):  # a job that reads this run may be finishing it
        run(RunFolder(out).config(), out, resume=True)


def finish_generated(out: Path, slot: int, place: dict[str, Any], start: Path, config: Config,
                     settings: GenerateConfig) -> None:
    """`finish` for a job that generates features: first the run `start` that it reads, where that is not finished."""
    take_place(out, slot, place)
    with exclusive(start.with_name(f"{start.name}.lock"), wait=True):
        run(config, start, resume=(start / "config.json").exists())
    generate(start, out, settings, resume=True)


def take_place(out: Path, slot: int, place: dict[str, Any]) -> None:
    """Have this process print into log.txt of `out`, and use its GPU or its threads."""
    log = os.open(out / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for stream in (sys.stdout, sys.stderr):  # a file in ASCII must not end a run whose classes have other letters
        stream.reconfigure(errors="backslashreplace")
    if place["gpus"]:
        usable = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")  # numbers or names: a user may have chosen some
        usable = usable if len(usable) >= place["gpus"] and usable[0] else [str(i) for i in range(place["gpus"])]
        os.environ["CUDA_VISIBLE_DEVICES"] = usable[slot % place["gpus"]]
    torch.set_num_threads(place["threads"])
