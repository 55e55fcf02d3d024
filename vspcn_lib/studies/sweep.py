"""Search over settings, judged on validation classes alone: an Optuna study that many machines can share."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import time
import typing
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import Trial, TrialState
from tqdm.auto import tqdm

from vspcn_lib.config import Config, ConfigError, as_dict, check_range, read_config, update
from vspcn_lib.encoders.weights import BackboneError
from vspcn_lib.methods.registry import method
from vspcn_lib.runs.folder import RunFolder, replacing
from vspcn_lib.runs.identity import differences
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.sameness import anywhere
from vspcn_lib.studies.shared import (
    FAILED,
    NotTaken,
    Numbered,
    busy,
    connect,
    decide,
    left,
    one_trial,
    open_study,
    sign,
    take_up,
)
from vspcn_lib.system.environment import environment
from vspcn_lib.train import select

Suggest = Callable[[Trial], Any]
# What is wrong with one point of a search and not with the search: the trial has failed, the others go on.
POINT_ERRORS = (FloatingPointError, ConfigError, BackboneError)


def check_name(what: str, name: str) -> str:
    """`name` if it can be a file's name in its folder. Raises `ConfigError` for what could lead outside or hide."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,119}", name):
        raise ConfigError(f"{what} {name[:40]!r} cannot be a file name: use at most 120 letters, digits, '_', '-', "
                          "'+' and '.', no '.' first")
    return name


class Axis(typing.NamedTuple):
    """One axis of a search."""

    name: str
    suggest: Suggest
    listed: list[Any] | None
    """its values, where they are written out"""
    size: float
    """how many values it has"""


def parse_axis(text: str, base: Config | None = None) -> Axis:
    """`group.field=LOW:HIGH`, `group.field=LOW:HIGH:log` or `group.field=A,B,C`.

    A field of the group `method` is one of the method of `base`. Raises `ConfigError` for an unknown field, a value
    that does not fit it or is listed twice, or a range without width.
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

    if ":" not in values or kind is str:  # a name may hold a colon: packaged:vit-s14
        listed = [value(word) for word in values.split(",")]
        if twice := [v for i, v in enumerate(listed) if v in listed[:i]]:
            raise ConfigError(f"{name}: {twice[0]} is listed twice, and each point of a search is tried once: name it "
                              "once")
        return Axis(name, lambda trial: trial.suggest_categorical(name, listed), listed, len(listed))
    low, high, *log = values.split(":")
    if kind not in (int, float) or log not in ([], ["log"]) or not value(low) < value(high):
        raise ConfigError(f"{name}: '{values}' is no range: write LOW:HIGH or LOW:HIGH:log, LOW below HIGH")
    suggest = Trial.suggest_int if kind is int else Trial.suggest_float
    return Axis(name, lambda trial: suggest(trial, name, value(low), value(high), log=bool(log)), None,
                value(high) - value(low) + 1 if kind is int else math.inf)


def sweep(base: Config, axes: list[str], study: str, storage: str, runs: Path, records: Path, trials: int,
          work: Workspace | None = None, heartbeat: int = 30) -> pd.DataFrame:
    """Maximise validation H over `axes` (see `parse_axis`); all lists: the whole grid, else TPE with `trials` trials.

    `storage` is a file, or a database URL that several machines share. The study continues where it stopped: an
    interrupted trial is taken up again from its last step, one whose process died (no sign of life for four
    `heartbeat`s, in seconds) is given to another worker, and no worker leaves while one is still at a trial. However
    many workers and sessions share it, every trial is a new point, and there are exactly as many as asked for; one
    whose settings fail is counted and named. Test images are never read. Writes `records/STUDY.json` after every trial
    and returns its trials. Raises `ConfigError` for a study that was begun with other settings or data.
    """
    check_name("--study", study)
    if not axes:
        raise ConfigError("no axis to sweep: name one or more, such as model.alpha_v=0:1 loss.lambda_skd=0.1,0.3,0.9")
    parsed = [parse_axis(text, base) for text in axes]
    _check_axes(parsed, base)
    grid = {axis.name: axis.listed for axis in parsed}
    whole = all(listed is not None for listed in grid.values())
    points = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())] if whole else []
    total = len(points) if whole else trials
    if not whole:
        check_range("--trials", trials, 1, min(10**6, math.prod(axis.size for axis in parsed)))
    url = storage if "://" in storage else f"sqlite:///{Path(storage).expanduser().resolve()}"
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats, for years now
    try:
        storage_there = connect(url, heartbeat)
    except Exception as error:  # no such database, no driver for it, not a database at all
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(f"--storage {storage.split('@')[-1]} cannot be opened ({reason}): give a file, or the URL of "
                          "a database whose driver is installed") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what becomes of a trial is said here, by name
    asked = {"config": as_dict(anywhere(base)), "axes": axes}
    found = open_study(study, storage_there, Numbered(base.train.seed), json.dumps(asked, sort_keys=True), points)
    begun = json.loads(found.user_attrs["asked"])
    if {**begun, "config": as_dict(anywhere(read_config(begun["config"])))} != asked:
        raise ConfigError(f"the study '{study}' in {storage} was begun with other settings or axes: choose another "
                          "--study, or the settings it was begun with")
    work = work or Workspace.open(base)
    if "inputs" not in found.user_attrs:
        found.set_user_attr("inputs", work.inputs)
    if changed := differences(found.user_attrs["inputs"], work.inputs):
        raise ConfigError(f"the study '{study}' in {storage} was begun with other data, this is {changed}: choose "
                          "another --study, or put back what was changed")

    def objective(trial: Trial) -> float:
        sign(trial)
        changes: dict[str, dict[str, Any]] = {}
        for axis in parsed:
            group, key = axis.name.split(".")
            changes.setdefault(group, {})[key] = axis.suggest(trial)
        decide(found, trial, total, heartbeat)
        start = time.time()
        try:
            config = update(base, changes)
            digest = hashlib.sha256(json.dumps(as_dict(config), sort_keys=True).encode()).hexdigest()[:12]
            out = runs / f"{study}-{digest}"
            with RunFolder.open(out, config, resume=(out / "config.json").exists(), wait=True) as folder:
                best = select(_fitting(work, config), folder)["best"]
        except POINT_ERRORS as error:
            trial.set_user_attr(FAILED, f"{type(error).__name__}: {error}")
            tqdm.write(f"FAILED {trial.params}: {error}")
            raise
        trial.set_user_attr("row", {**best, "seconds": round(time.time() - start, 1)})
        return best["H"]

    def keep(_study: optuna.Study, _trial: Any) -> None:
        write_study(found, records / f"{study}.json", base, work)

    with tqdm(total=total, desc=study) as bar:
        while True:
            take_up(found, heartbeat)
            if left(found, total) > 0:
                one_trial(found, objective, callbacks=[keep], catch=(NotTaken, *POINT_ERRORS))
            elif busy(found):  # whoever is still at a trial may die with it
                time.sleep(min(2.0, heartbeat / 2))
            else:
                break
            bar.update(total - max(0, left(found, total)) - bar.n)
    record = write_study(found, records / f"{study}.json", base, work)
    if not record["trials"] and record["failed"]:
        raise ConfigError(f"not one of {len(record['failed'])} points could be tried, the first failed with "
                          f"{record['failed'][0]['reason']}")
    return trial_table(record)


def _check_axes(parsed: list[Axis], base: Config) -> None:
    """Raise `ConfigError` for an axis named twice, or one that the method does not read: all its points are one."""
    names = [axis.name for axis in parsed]
    for i, name in enumerate(names):
        group, key = name.split(".")
        if name in names[:i]:
            raise ConfigError(f"the axis {name} is named twice: give all its values in one")
        if "model.method" not in names and key not in as_dict(base)[group]:
            raise ConfigError(f"{name} cannot be swept: {base.model.method} does not read it, so every point would be "
                              "the same")


def _fitting(work: Workspace, config: Config) -> Workspace:
    """The same workspace for another config, opened anew only where data or backbone differ."""
    same = (config.data, config.model.backbone, config.train.precision) == (
        work.config.data, work.config.model.backbone, work.config.train.precision)
    words = method(config).reads_words(config)
    if not same or (words and not work.word_vectors.shape[1]):  # opened for a method that reads no words
        return Workspace.open(config, work.backbone if same else None)
    method(config).check(config, work.backbone, len(work.bench.attribute_names))
    return replace(work, config=config)


def write_study(study: optuna.Study, target: Path, base: Config, work: Workspace) -> dict[str, Any]:
    """The finished and failed trials of a study as one small JSON record with its provenance; returns the record."""
    failed = [{"number": t.number, **t.params, "reason": t.user_attrs[FAILED]}
              for t in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)) if FAILED in t.user_attrs]
    trials = [{"number": t.number, **{f"{name}": v for name, v in t.params.items()}, **t.user_attrs["row"]}
              for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    record = {"study": study.study_name, "judged_on": "validation classes", "config": as_dict(anywhere(base)),
              "trials": trials, "failed": failed, "inputs": work.inputs, "benchmark": work.bench.name,
              "split": work.bench.split_hash,
              "backbone": work.backbone.source, "vectors": work.vector_source, "environment": environment()}
    with replacing(target) as partial:
        partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return record


def trial_table(record: dict[str, Any]) -> pd.DataFrame:
    """The trials of a study record, best validation H first."""
    table = pd.DataFrame(record["trials"])
    return table if table.empty else table.sort_values("H", ascending=False, ignore_index=True)
