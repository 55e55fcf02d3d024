"""A shared search is one search: new points only, and exactly as many as asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from world import make_config, make_vit

from vspcn_lib.config import ConfigError
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies import sweep as sweep_module
from vspcn_lib.studies.shared import AGAIN, FAILED, UNTAKEN, NotTaken, Numbered, decide, left, sign, take_up

WORKER = """
import sys, time
from pathlib import Path
import optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
from vspcn_lib.studies.shared import NotTaken, Numbered, busy, connect, decide, left, one_trial, open_study, sign
from vspcn_lib.studies.shared import take_up
url, total, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
found = open_study("s", connect(url, 60), Numbered(0), "{}", [])

def objective(trial):
    sign(trial)
    if kind == "whole":
        trial.suggest_int("a", 1, 4), trial.suggest_categorical("b", ["x", "y", "z"])
    else:
        trial.suggest_float("a", 0.0, 1.0)
    decide(found, trial, total, 60)
    time.sleep(0.05)
    return 0.0

while True:
    take_up(found, 60)
    if left(found, total) > 0:
        one_trial(found, objective, catch=(NotTaken,))
    elif busy(found):
        time.sleep(0.1)
    else:
        break
"""


@pytest.mark.parametrize(("kind", "total"), [("whole", 12), ("float", 7)])
def test_two_workers_make_exactly_as_many_new_points_as_asked_for(tmp_path, kind, total):
    url = f"sqlite:///{tmp_path / 's.db'}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}

    def start(asked):
        return subprocess.Popen([sys.executable, "-c", WORKER, url, str(asked), kind], env=environment,
                                stderr=subprocess.PIPE, text=True)

    for asked in (total // 2, total):  # two at once, and two more that continue the study
        workers = [start(asked), start(asked)]
        for worker in workers:
            _, errors = worker.communicate(timeout=300)
            assert worker.returncode == 0, errors[-2000:]
        trials = optuna.load_study(study_name="s", storage=url).get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        points = {tuple(t.params.items()) for t in trials}
        assert len(trials) == len(points) == asked


def test_draws_follow_from_seed_and_number_and_axes_are_drawn_apart():
    def draws(seed, count=3):
        study = optuna.create_study(sampler=Numbered(seed))
        study.optimize(lambda t: t.suggest_float("a", 0, 1) + t.suggest_float("b", 0, 1), n_trials=count)
        return [tuple(t.params.values()) for t in study.trials]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    assert draws(0) == draws(0) != draws(1)
    assert len({v for point in draws(0) for v in point}) == 6


def test_lost_points_come_again_once_and_failed_ones_do_not():
    study, ended = optuna.create_study(sampler=Numbered(0)), optuna.trial.TrialState.FAIL
    lost, failed = study.ask(), study.ask()
    for trial, point in ((lost, 0.25), (failed, 0.75)):
        study._storage.set_trial_param(trial._trial_id, "a", point, optuna.distributions.FloatDistribution(0, 1))
    failed.set_user_attr(FAILED, "its settings do not fit")
    for trial in (lost, failed):
        study.tell(trial, state=ended)
    assert left(study, 2) == 0
    take_up(study, 60)
    take_up(study, 60)
    waiting = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
    assert [t.user_attrs[AGAIN] for t in waiting] == [lost.number] and left(study, 2) == 1
    again = study.ask()
    sign(again)
    assert again.suggest_float("a", 0, 1) == 0.25
    decide(study, again, 2, 60)
    more = study.ask()
    sign(more)
    more.suggest_float("a", 0, 1)
    with pytest.raises(NotTaken, match="one too many"):
        decide(study, more, 2, 60)
    assert UNTAKEN in study.trials[more.number].user_attrs


def test_a_search_names_what_cannot_be_searched_and_what_failed(tiny_folder, tmp_path, monkeypatch):
    base = make_config(tiny_folder)
    work = Workspace.open(base, make_vit())

    def search(*axes, trials=3, name="s", base=base, work=work):
        return sweep_module.sweep(base, list(axes), name, str(tmp_path / "s.db"), tmp_path / "runs",
                                  tmp_path / "records", trials, work=work)

    for axes, trials, words in ((("model.alpha_v=0.1,0.10",), 3, "0.1 is listed twice"),
                                (("train.epochs=1:2",), 3, r"--trials = 3 is out of range"),
                                (("model.alpha_v=0:1",), 0, r"--trials = 0 is out of range"),
                                (("model.alpha_v=0:1", "model.alpha_v=0,1"), 3, "named twice")):
        with pytest.raises(ConfigError, match=words):
            search(*axes, trials=trials)
    eszsl = make_config(tiny_folder, model={"method": "eszsl"})
    with pytest.raises(ConfigError, match=r"loss\.gamma cannot be swept: eszsl does not read it"):
        search("loss.gamma=0,1", base=eszsl)

    def select(work, folder):
        if work.config.model.alpha_v == 0.5:
            raise ConfigError("this point does not fit")
        return {"best": {"epoch": 1, "H": work.config.model.alpha_v}}

    monkeypatch.setattr(sweep_module, "select", select)
    assert search("model.alpha_v=0.0,0.5,1.0")["H"].tolist() == [1.0, 0.0]
    record = json.loads((tmp_path / "records" / "s.json").read_text())
    assert [row["reason"] for row in record["failed"]] == ["ConfigError: this point does not fit"]
    assert record["inputs"] == work.inputs
    with pytest.raises(ConfigError, match="not one of 1 points could be tried, the first failed with ConfigError"):
        search("model.alpha_v=0.5", name="t")
    work.photos = "f" * 64
    with pytest.raises(ConfigError, match="was begun with other data, this is another photos"):
        search("model.alpha_v=0.0,0.5,1.0")
