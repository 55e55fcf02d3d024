"""Several processes and large matrices: the numbers of one process, nothing lost, nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_run import tiny_config, tiny_vit

from vspcn_lib import metrics
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.system import memory
from vspcn_lib.train import run

HERE = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}


def _steps(out):
    return [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]


def test_two_processes_give_the_numbers_of_one(tiny_folder, tmp_path):
    config, one, two = tiny_config(str(tiny_folder)), tmp_path / "one", tmp_path / "two"
    whole = run(config, one, work=Workspace.open(config, tiny_vit()))
    launched = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
         "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
         str(HERE / "tiny_run.py"), str(tiny_folder), str(two)],
        env={**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=120)
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert all(f"process {i} of 2 done" in launched.stdout for i in (0, 1))
    ours, theirs = _steps(one), _steps(two)
    assert len(ours) == len(theirs)  # one log, of the main process
    for a, b in zip(ours, theirs, strict=True):  # losses and gradient norm of the global batch
        assert (a.pop("phase"), a.pop("step")) == (b.pop("phase"), b.pop("step")) and a.pop("time") <= b.pop("time")
        assert b == pytest.approx(a, abs=1e-4, rel=1e-3)
    a, b = RunFolder(one).scores(), RunFolder(two).scores()
    np.testing.assert_array_equal(a["indices"], b["indices"])
    np.testing.assert_allclose(b["scores"], a["scores"], atol=5e-3)
    result = json.loads((two / "result.json").read_text())
    assert result["images"] == whole["images"] and result["validation"]["epoch"] == whole["validation"]["epoch"]


def test_a_mapped_matrix_is_read_in_chunks_to_the_same_numbers(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    scores, labels, unseen = rng.normal(size=(97, 7)).astype("f4"), rng.integers(0, 7, 97), np.arange(7) > 4
    whole, at_once = metrics.tau_sweep(scores, labels, unseen), metrics.gzsl_metrics(scores, labels, unseen, 0.2)
    np.save(tmp_path / "s.npy", scores)
    mapped = np.load(tmp_path / "s.npy", mmap_mode="r")
    monkeypatch.setattr(metrics, "CHUNK", 10 * 7 * 4)
    assert metrics.tau_sweep(mapped, labels, unseen).equals(whole)
    assert metrics.gzsl_metrics(mapped, labels, unseen, 0.2) == at_once
    large = memory.room((97, 7), largest=1000)
    large[:] = scores
    assert isinstance(large, np.memmap) and not isinstance(memory.room((97, 7)), np.memmap)
    assert metrics.tau_sweep(large, labels, unseen).equals(whole)
    scores[[3, 90]] = np.nan
    with pytest.raises(ValueError, match="14 values that are not finite"):
        metrics.tau_sweep(scores, labels, unseen)


def test_workers_of_one_study_lose_and_repeat_no_trial_when_one_is_killed(tiny_folder, tmp_path):
    def start(name):
        return subprocess.Popen([sys.executable, str(HERE / "tiny_worker.py"), str(tiny_folder), str(tmp_path), name],
                                env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    victim, other = start("victim"), start("other")
    deadline = time.time() + 60
    while not (tmp_path / "victim-begun").exists():  # it sits in its first trial and never ends it
        assert time.time() < deadline and victim.poll() is None, victim.communicate()[1]
        time.sleep(0.1)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    _, errors = other.communicate(timeout=90)
    assert other.returncode == 0, errors[-3000:]
    trials = json.loads((tmp_path / "records" / "shared.json").read_text())["trials"]
    points = [(t["model.alpha_v"], t["loss.lambda_skd"]) for t in trials]
    assert sorted(points) == [(a, b) for a in (0.0, 0.5) for b in (0.1, 0.9)]  # each once
    done = [line for p in tmp_path.glob("*-done") for line in p.read_text().split()]
    assert len(done) == len(set(done)) == 4
