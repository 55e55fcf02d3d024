"""One study for many workers: every trial a new point, exactly as many as asked for, none lost with its worker.

Trials get their numbers one after the other from the storage, and each is decided on after all with a lower number:
so any number of workers come to the same decisions, as one would.
"""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any

import numpy as np
import optuna
import sqlalchemy.exc
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

QUIET_SECONDS = 5.0  # a study to which nobody adds a point for so long was left half-made by a worker that died
LISTED = 10**5  # points of a search space that are written out to find an unused one
# What a trial says of itself: that it is one of those asked for, that it is not and why, or that its settings failed.
TAKEN, UNTAKEN, FAILED, AGAIN = "taken", "untaken", "failed", "again_of"


class NotTaken(RuntimeError):
    """A trial repeats a point or is one too many: it is not run, and no trial of the study."""


class Numbered(optuna.samplers.BaseSampler):
    """TPE whose draws follow from the seed and the trial's number, so that no worker and no resumed study repeats them.

    Optuna's own sampler with a seed draws the same points again in every process.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._number, self._sampler = seed, -1, optuna.samplers.TPESampler(seed=seed)

    def _of(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        if trial.number != self._number:
            drawn = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
            self._number, self._sampler = trial.number, optuna.samplers.TPESampler(seed=drawn)
        return self._sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """TPE's."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """TPE's."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        """TPE's."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)


def _counted(study: optuna.Study, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without those that are not taken and those whose point was taken up again by a later one."""
    again = {t.user_attrs.get(AGAIN, t.system_attrs.get("failed_trial")) for t in trials}  # and Optuna's own retries
    again.update(study.user_attrs.get("taken_up", []))  # a study of an older version
    return [t for t in trials if t.number not in again and UNTAKEN not in t.user_attrs]


def left(study: optuna.Study, total: int) -> int:
    """How many of `total` trials nobody has begun."""
    counted = _counted(study, study.get_trials(deepcopy=False))
    return total - sum(t.state != TrialState.WAITING for t in counted)


def busy(study: optuna.Study) -> bool:
    """Whether a worker is at a trial."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def sign(trial: Trial) -> None:
    """Say first of all which process is at the trial."""
    trial.set_user_attr("worker", f"{platform.node()} {os.getpid()}")


def decide(study: optuna.Study, trial: Trial, total: int, heartbeat: int) -> None:
    """Take a trial that has drawn its point as one of `total`, after every trial with a lower number is decided on.

    Raises `NotTaken` where its point is there already, or all are taken; of a finite space an unused point comes next.
    """
    while True:
        trials = study.get_trials(deepcopy=False)
        if not any(t.number < trial.number and t.state == TrialState.RUNNING
                   and not {TAKEN, UNTAKEN} & t.user_attrs.keys() for t in trials):
            break
        time.sleep(0.1)
        take_up(study, heartbeat, own=trial.number)
    others = [t for t in _counted(study, trials) if t.number != trial.number
              and (t.state != TrialState.RUNNING or TAKEN in t.user_attrs)]
    points = [t.system_attrs.get("fixed_params") if t.state == TrialState.WAITING else t.params for t in others]
    reason = "its point is there already" if trial.params in points else "one too many" if len(others) >= total else ""
    if not reason:
        trial.set_user_attr(TAKEN, True)
        return
    trial.set_user_attr(UNTAKEN, reason)
    if trial.params in points and len(others) < total:
        unused = [p for p in _points(trial.distributions) if p not in points]
        if unused:
            study.enqueue_trial(unused[np.random.default_rng(trial.number).integers(len(unused))])
    raise NotTaken(reason)


def _points(axes: dict[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Every point of a space of lists and whole numbers; none of an infinite or a very large one."""
    values = [d.choices if isinstance(d, CategoricalDistribution) else range(d.low, d.high + 1, d.step)
              if isinstance(d, IntDistribution) else () for d in axes.values()]
    if not 0 < np.prod([float(len(v)) for v in values]) <= LISTED:
        return []
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*values)]


def one_trial(study: optuna.Study, objective: Callable[[Trial], float], **more: Any) -> None:
    """`study.optimize` for one trial. SQLite cannot lock a row, so now and then two workers are given the same waiting
    trial; whoever ends second finds it told, and goes on."""
    try:
        study.optimize(objective, n_trials=1, **more)
    except optuna.exceptions.UpdateFinishedTrialError:
        pass
    except ValueError as error:
        if not str(error).startswith("Cannot tell a"):
            raise


def take_up(study: optuna.Study, heartbeat: int, own: int = -1) -> None:
    """Have the points of interrupted trials, and of killed workers, run again; `own` is the caller's trial.

    Workers of this machine are looked for, those of others have no heartbeat any more after a while. Two workers may
    do this at once: the second of two equal points is then not taken.
    """
    optuna.storages.fail_stale_trials(study)
    for trial in _counted(study, study.get_trials(deepcopy=False)):
        dead = trial.state == TrialState.RUNNING and trial.number != own and _dead(trial, heartbeat)
        if dead or (trial.state == TrialState.FAIL and FAILED not in trial.user_attrs):
            point = trial.system_attrs.get("fixed_params", trial.params)  # killed before it drew them?
            study.enqueue_trial(point, user_attrs={AGAIN: trial.number})
        if dead:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                study.tell(trial.number, state=TrialState.FAIL)


def _dead(trial: FrozenTrial, heartbeat: int) -> bool:
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
    return int(pid) == os.getpid()  # this process is at its own trial alone: the number was given anew


def connect(url: str, heartbeat: int) -> RDBStorage:
    """The storage; two workers that start together may both try to create its tables, and one of them waits."""
    for attempt in range(20):
        try:
            return RDBStorage(url, heartbeat_interval=heartbeat, grace_period=4 * heartbeat)
        except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.IntegrityError):
            if attempt == 19:
                raise
            time.sleep(0.25)
    raise AssertionError("unreachable")


def open_study(name: str, storage: RDBStorage, sampler: optuna.samplers.BaseSampler, asked: str,
               points: list[dict[str, Any]]) -> optuna.Study:
    """The study, with its grid enqueued by the one worker that created it."""
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
