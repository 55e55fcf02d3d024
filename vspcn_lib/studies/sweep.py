"""Search over settings, judged on validation classes alone: an Optuna study that many machines can share."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import re
import time
import typing
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import sqlalchemy.exc
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import Trial, TrialState
from tqdm.auto import tqdm

from vspcn_lib.config import Config, ConfigError, as_dict, update
from vspcn_lib.methods.registry import method
from vspcn_lib.runs.folder import RunFolder, replacing
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.system.environment import environment
from vspcn_lib.train import Interrupted, select

Suggest = Callable[[Trial], Any]
QUIET_SECONDS = 5.0  # a study to which nobody adds a point for so long was left half-made by a worker that died


def check_name(what: str, name: str) -> str:
    """`name` if it can be a file's name in its folder. Raises `ConfigError` for what could lead outside or hide."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,119}", name):
        raise ConfigError(f"{what} {name[:40]!r} cannot be a file name: use at most 120 letters, digits, '_', '-', "
                          "'+' and '.', no '.' first")
    return name


def parse_axis(text: str, base: Config | None = None) -> tuple[str, Suggest, list[Any] | None]:
    """`group.field=LOW:HIGH`, `group.field=LOW:HIGH:log` or `group.field=A,B,C` to (name, suggestion, its list).

    A field of the group `method` is one of the method of `base`. Raises `ConfigError` for an unknown field, a value
    that does not fit it, or a range without width.
    """
    name, _, values = text.partition("=")
    group, _, key = name.partition(".")
    if not values or not key:
        raise ConfigError(f"'{text}' is no axis of a sweep: write model.alpha_v=0:1, loss.lambda_skd=0.05:2:log or "
                          "model.alpha_v=0,0.05,0.5")
    base = base or Config()
    part = getattr(base, group, None)
    kind = typing.get_type_hints(type(part)).get(key) if part is not None else None
    if kind is None:
        update(base, {group: {key: None}})  # raises, and names the nearest known field

    def value(word: str) -> Any:
        try:
            found = {"true": True, "false": False}[word] if kind is bool else word
            found = kind(word) if kind in (int, float) else found
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{name}: '{word}' is not a value of type {kind.__name__}") from error
        update(base, {group: {key: found}})  # out of range is an error here, not after an hour
        return found

    if ":" not in values:
        listed = [value(word) for word in values.split(",")]
        return name, lambda trial: trial.suggest_categorical(name, listed), listed
    low, high, *log = values.split(":")
    if kind not in (int, float) or log not in ([], ["log"]) or not value(low) < value(high):
        raise ConfigError(f"{name}: '{values}' is no range: write LOW:HIGH or LOW:HIGH:log, LOW below HIGH")
    suggest = Trial.suggest_int if kind is int else Trial.suggest_float
    return name, lambda trial: suggest(trial, name, value(low), value(high), log=bool(log)), None


def sweep(base: Config, axes: list[str], study: str, storage: str, runs: Path, records: Path, trials: int,
          work: Workspace | None = None, heartbeat: int = 30) -> pd.DataFrame:
    """Maximise validation H over `axes` (see `parse_axis`); all lists: the whole grid, else TPE with `trials` trials.

    `storage` is a file, or a database URL that several machines share. The study continues where it stopped: an
    interrupted trial is taken up again from its last step, one whose process died (no sign of life for four
    `heartbeat`s, in seconds) is given to another worker, and no worker leaves while one is still at a trial.
    Test images are never read. Writes `records/STUDY.json` after every trial and returns its trials.
    Raises `ConfigError` for a study that was begun with other settings.
    """
    check_name("--study", study)
    if not axes:
        raise ConfigError("no axis to sweep: name one or more, such as model.alpha_v=0:1 loss.lambda_skd=0.1,0.3,0.9")
    parsed = [parse_axis(text, base) for text in axes]
    grid = {name: listed for name, _, listed in parsed}
    url = storage if "://" in storage else f"sqlite:///{Path(storage).resolve()}"
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats, for years now
    try:
        shared = _connect(url, heartbeat)
    except Exception as error:  # no such database, no driver for it, not a database at all
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(f"--storage {storage.split('@')[-1]} cannot be opened ({reason}): give a file, or the URL of "
                          "a database whose driver is installed") from error
    whole = all(listed is not None for listed in grid.values())
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=base.train.seed)
    asked = json.dumps({"config": as_dict(base), "axes": axes}, sort_keys=True)
    points = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())] if whole else []
    found = _open(study, shared, sampler, asked, points)
    begun = found.user_attrs["asked"]
    if begun != asked:
        raise ConfigError(f"the study '{study}' in {storage} was begun with other settings or axes: choose another "
                          "--study, or the settings it was begun with")
    for trial in found.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if trial.user_attrs.get("interrupted") and trial.number not in found.user_attrs.get("taken_up", []):
            found.enqueue_trial(trial.params)
            found.set_user_attr("taken_up", [*found.user_attrs.get("taken_up", []), trial.number])
    _take_up_dead(found, heartbeat)
    work = work or Workspace.open(base)

    def objective(trial: Trial) -> float:
        trial.set_user_attr("worker", f"{platform.node()} {os.getpid()}")
        changes: dict[str, dict[str, Any]] = {}
        for name, suggest, _ in parsed:
            group, key = name.split(".")
            changes.setdefault(group, {})[key] = suggest(trial)
        config, start = update(base, changes), time.time()
        digest = hashlib.sha256(json.dumps(as_dict(config), sort_keys=True).encode()).hexdigest()[:12]
        out = runs / f"{study}-{digest}"
        try:
            # Another worker may have drawn the same point: then this one waits, and finds it selected.
            with RunFolder.open(out, config, resume=(out / "config.json").exists(), wait=True) as folder:
                best = select(_fitting(work, config), folder)["best"]
        except Interrupted:
            trial.set_user_attr("interrupted", True)
            raise
        trial.set_user_attr("row", {**best, "seconds": round(time.time() - start, 1)})
        return best["H"]

    def keep(_study: optuna.Study, _trial: Any) -> None:
        write_study(found, records / f"{study}.json", base, work)

    def left() -> int:
        trials_now = found.get_trials(deepcopy=False)
        if whole:
            return sum(t.state == TrialState.WAITING for t in trials_now)
        again = {t.number for t in trials_now if t.user_attrs.get("interrupted")}
        again.update(found.user_attrs.get("taken_up", []))
        again.update(n for t in trials_now for n in t.system_attrs.get("retry_history", []))  # Optuna's own retries
        return trials - sum(t.state != TrialState.WAITING and t.number not in again for t in trials_now)

    def others() -> bool:
        return any(t.state == TrialState.RUNNING for t in found.get_trials(deepcopy=False))

    with tqdm(total=left(), desc=study) as bar:
        while left() > 0 or others():
            if left() > 0:
                found.optimize(objective, n_trials=1, callbacks=[keep], catch=(FloatingPointError, ConfigError))
                bar.update()
            else:  # whoever is still at a trial may die with it
                time.sleep(min(2.0, heartbeat / 2))
                _take_up_dead(found, heartbeat)
                optuna.storages.fail_stale_trials(found)
    write_study(found, records / f"{study}.json", base, work)
    return trial_table(json.loads((records / f"{study}.json").read_text()))


def _take_up_dead(study: optuna.Study, heartbeat: int) -> None:
    """Have the points of killed workers of this machine run again at once; others' heartbeats tell after a while."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _dead(trial, heartbeat):  # its point is taken up again from its last state
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                study.tell(trial.number, state=TrialState.FAIL)
                study.enqueue_trial(trial.system_attrs.get("fixed_params", trial.params))  # killed before it drew them?
                study.set_user_attr("taken_up", [*study.user_attrs.get("taken_up", []), trial.number])


def _dead(trial: optuna.trial.FrozenTrial, heartbeat: int) -> bool:
    """Whether the worker of a running trial was a process of this machine that no longer lives."""
    if "worker" not in trial.user_attrs:  # signed first of all: killed before it could, or it is about to
        return (datetime.now() - trial.datetime_start).total_seconds() > heartbeat
    node, _, pid = trial.user_attrs["worker"].rpartition(" ")
    if node != platform.node():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return int(pid) == os.getpid()  # this process is at no trial now: the number was given anew


def _connect(url: str, heartbeat: int) -> RDBStorage:
    """The storage; two workers that start together may both try to create its tables, and one of them waits."""
    for attempt in range(20):
        try:
            return RDBStorage(url, heartbeat_interval=heartbeat, grace_period=4 * heartbeat,
                              heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback())
        except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.IntegrityError):
            if attempt == 19:
                raise
            time.sleep(0.25)
    raise AssertionError("unreachable")


def _open(name: str, storage: RDBStorage, sampler: optuna.samplers.BaseSampler, asked: str,
          points: list[dict[str, Any]]) -> optuna.Study:
    """The study, with its grid enqueued by the one worker that created it: two at once would enqueue it twice."""
    try:
        found = optuna.create_study(storage=storage, sampler=sampler, study_name=name, direction="maximize")
    except optuna.exceptions.DuplicatedStudyError:
        found = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        known, since = -1, time.monotonic()
        while "asked" not in found.user_attrs and time.monotonic() - since < QUIET_SECONDS:
            time.sleep(0.2)
            if (now := len(found.get_trials(deepcopy=False))) != known:  # its maker is still enqueuing
                known, since = now, time.monotonic()
    if "asked" not in found.user_attrs:  # created just now, or by a worker that died before it had enqueued all
        for point in points:
            found.enqueue_trial(point, skip_if_exists=True)
        found.set_user_attr("asked", asked)
    return found


def _fitting(work: Workspace, config: Config) -> Workspace:
    """The same workspace for another config, opened anew only where data or backbone differ."""
    same = (config.data, config.model.backbone, config.train.precision) == (
        work.config.data, work.config.model.backbone, work.config.train.precision)
    if not same:
        return Workspace.open(config)
    method(config).check(config, work.backbone, len(work.bench.attribute_names))
    return replace(work, config=config)


def write_study(study: optuna.Study, target: Path, base: Config, work: Workspace) -> None:
    """The finished trials of a study as one small JSON record with its provenance."""
    trials = [{"number": t.number, **{f"{name}": v for name, v in t.params.items()}, **t.user_attrs["row"]}
              for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    record = {"study": study.study_name, "judged_on": "validation classes", "config": as_dict(base),
              "trials": trials, "benchmark": work.bench.name, "split": work.bench.split_hash,
              "backbone": work.backbone.source, "vectors": work.vector_source, "environment": environment()}
    with replacing(target) as partial:
        partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


def trial_table(record: dict[str, Any]) -> pd.DataFrame:
    """The trials of a study record, best validation H first."""
    table = pd.DataFrame(record["trials"])
    return table if table.empty else table.sort_values("H", ascending=False, ignore_index=True)
