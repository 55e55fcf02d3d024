"""The fault campaign kills, fills disks, jumps clocks, poisons numbers, and counts.

`PYTHONPATH=tests python tests/campaigns/faults.py`

Every part runs the library's real entry points on the tiny world, spoils something, goes on as a user would, and
compares with a run that nothing happened to: scores, weights, selection and logs must be the same to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from world import keep, make_config, make_folder, make_vit

from vspcn_lib import losses, train
from vspcn_lib.data import archives
from vspcn_lib.data.birdlets import build_birdlets
from vspcn_lib.data.images import image_cache
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.records import write_record
from vspcn_lib.studies.sweep import sweep
from vspcn_lib.system.environment import environment
from vspcn_lib.system.files import whole_rows

# A server that imported everything once forks the victims: they start at once, and nothing of theirs outlives them.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["vspcn_lib.studies.runner", "vspcn_lib.studies.sweep", "vspcn_lib.data.archives",
                               "faults"])
AXES = ["model.alpha_v=0.0,0.5", "loss.lambda_skd=0.1,0.9"]
Task = Callable[..., Any]
Spoils = list[tuple[Task, tuple[Any, ...]]]


# ---- what a victim does ---
def _train(folder: Path, out: Path, save_seconds: float = 300.0) -> dict[str, Any]:
    train.SAVE_SECONDS = save_seconds
    config = make_config(folder)
    return train.run(config, out, (out / "config.json").exists(), Workspace.open(config, make_vit()))


def _cache(folder: Path, root: Path) -> str:
    paths = sorted((folder / "images").rglob("*.png")) * 12
    return hashlib.sha256(image_cache(paths, 64, root=root, progress=False).tobytes()).hexdigest()


def _birds(root: Path) -> str:
    folder = build_birdlets(root / "birds", species=8, images_per_species=5, size=48, progress=False)
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())).hexdigest()


def _fetch(url: str, size: int, md5: str, root: Path) -> str:
    archives.fetch("x", root, (archives.Archive(url, "set", size, md5),))
    return hashlib.sha256((root / "set" / "a.bin").read_bytes()).hexdigest()


def _sweep(folder: Path, root: Path) -> list[Any]:
    config = make_config(folder, train={"epochs": 1})
    table = sweep(config, AXES, "study", str(root / "s.db"), root / "runs", root / "records", 0,
                  Workspace.open(config, make_vit()))
    rows = table.drop_duplicates(["model.alpha_v", "loss.lambda_skd"]).sort_values(["model.alpha_v", "loss.lambda_skd"])
    return rows[["model.alpha_v", "loss.lambda_skd", "H", "tau", "epoch"]].to_numpy().tolist()


def _rank(rank: int, port: int, folder: Path, out: Path) -> dict[str, Any]:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
                      GLOO_SOCKET_IFNAME="lo")
    return _train(folder, out)


# ---- ways to spoil it, inside the victim ---
def _kill_at(call: int) -> None:
    """SIGKILL this process at its `call`-th write, sync or rename: before, half-way or after it."""
    count = [0]

    def lethal(name: str, act: Task, half: Task | None = None) -> Task:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == call and half:
                half(*args)
            if count[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            done = act(*args, **kwargs)
            count[0] += 1
            if count[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return done
        return wrapped

    def half_bytes(path: Path, data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data[:len(data) // 2])

    os.fsync, os.replace = lethal("fsync", os.fsync), lethal("replace", os.replace)
    write, text = Path.write_bytes, Path.write_text
    Path.write_bytes = lethal("write", write, half_bytes)
    Path.write_text = lethal("write", text, lambda path, data: half_bytes(path, data.encode()))
    log = RunFolder.log

    def torn(folder: RunFolder, name: str, row: dict[str, Any]) -> None:
        count[0] += 1
        if count[0] == call:
            with (folder.path / name).open("a") as file:
                file.write(json.dumps(row)[:20])
            os.kill(os.getpid(), signal.SIGKILL)
        log(folder, name, row)

    RunFolder.log = torn


def _jump_clock() -> None:
    real, jumps = time.time, random.Random(0)
    time.time = lambda: real() + jumps.uniform(-1, 1) * 3e7


def _poison_loss(step: int) -> None:
    real, count = losses.classification, [0]

    def poisoned(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        return real(scores, targets) * (float("nan") if count[0] == step else 1.0)

    losses.classification = poisoned


def _poison_gradient(step: int) -> None:
    real, count = losses.clip_gradients, [0]

    def poisoned(parameters: dict[str, torch.nn.Parameter], most: float) -> torch.Tensor:
        count[0] += 1
        if count[0] == step:
            next(iter(parameters.values())).grad.view(-1)[0] = float("inf")
        return real(parameters, most)

    losses.clip_gradients = poisoned


def _poison_pixels(step: int) -> None:
    from vspcn_lib.data.images import Normalise

    real, count = Normalise.__call__, [0]

    def poisoned(self: Normalise, images: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        return real(self, images) * (float("nan") if count[0] == step else 1.0)

    Normalise.__call__ = poisoned


def _small_device(images: int) -> None:
    from vspcn_lib.model import VSPCN

    real = VSPCN.features

    def features(self: VSPCN, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(x) > images and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("simulated: device memory is used up")
        return real(self, x)

    VSPCN.features = features


def _small_files(limit: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def _victim(answer: Path, spoil: Spoils, task: Task, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    void = os.open(os.devnull, os.O_WRONLY)
    os.dup2(void, 1)
    os.dup2(void, 2)
    try:
        for change, values in spoil:
            change(*values)
        found = {"value": task(*args)}
    except BaseException as error:
        found = {"error": type(error).__name__, "module": type(error).__module__, "text": str(error)}
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] < 2**30:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    answer.write_text(json.dumps(found))


# ---- the one who spoils ---
class Killer:
    """Starts victims below one folder, kills them, and keeps the figures."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random, self.number = root, random.Random(seed), 0
        self.kills = self.early = 0

    def start(self, task: Task, *args: Any, spoil: Spoils | None = None) -> tuple[Any, Path]:
        """A running victim and the file that its answer will be in."""
        self.number += 1
        answer = self.root / f"answer-{self.number}.json"
        process = CONTEXT.Process(target=_victim, args=(answer, spoil or [], task, args))
        process.start()
        return process, answer

    def finish(self, task: Task, *args: Any, spoil: Spoils | None = None, seconds: float = 120.0) -> dict[str, Any]:
        """What a victim returned or raised. Raises TimeoutError after `seconds`; {} for one that killed itself."""
        process, answer = self.start(task, *args, spoil=spoil)
        process.join(seconds)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"{task.__name__} hung for {seconds} s")
        return json.loads(answer.read_text()) if answer.exists() else {}

    def until_done(self, task: Task, args: tuple[Any, ...], span: float, kills: int) -> Any:
        """Kill the victim at `kills` random moments within `span` seconds of its start, then let it finish."""
        while kills > 0:
            process, answer = self.start(task, *args)
            process.join(self.random.uniform(0, span))
            if process.is_alive():
                process.kill()
                process.join()
                self.kills, kills = self.kills + 1, kills - 1
            else:  # finished before its moment came: what is done is done
                self.early += 1
                return self._value(json.loads(answer.read_text()))
        return self._value(self.finish(task, *args))

    def _value(self, found: dict[str, Any]) -> Any:
        if "value" not in found:
            raise AssertionError(f"not survived: {found}")
        return found["value"]


def same_run(a: Path, b: Path) -> list[str]:
    """What differs between two finished runs, apart from clock and machine: empty where they are one to the bit."""
    differ = []
    x, y = RunFolder(a), RunFolder(b)
    for name in ("scores", "labels", "tau"):
        if not np.array_equal(x.scores()[name], y.scores()[name]):
            differ.append(name)
    backbone = make_vit().source
    p, q = x.load_checkpoint(backbone), y.load_checkpoint(backbone)
    differ += [n for n in p if not torch.equal(p[n], q[n])]
    for name in ("steps.jsonl", "epochs.jsonl"):
        rows = [[{k: v for k, v in row.items() if k != "time"} for row in whole_rows(r.path / name)] for r in (x, y)]
        torn = (b / name).read_text().count("\n") != len(rows[1])
        if rows[0] != rows[1] or torn:
            differ.append(name)
    if x.read_json("selection.json") != y.read_json("selection.json"):
        differ.append("selection.json")
    left = [f.name for f in b.iterdir() if "partial" in f.name or "next" in f.name]
    return differ + left


@contextlib.contextmanager
def serve(data: bytes) -> Iterator[str]:
    """A slow local server of one file, with ranges."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            span = self.headers.get("Range")
            start = int(span.split("=")[1].rstrip("-")) if span else 0
            self.send_response(206 if span else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            with contextlib.suppress(OSError):
                for i in range(start, len(data), 1 << 16):
                    self.wfile.write(data[i:min(i + (1 << 16), len(data))])
                    time.sleep(0.004)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/set.zip"
    finally:
        http.shutdown()


def campaign(root: Path, kills: int, seed: int = 0, steps: int = 12) -> dict[str, Any]:
    """Every part with about `kills` SIGKILLs in all, below the empty folder `root`; the figures as a record."""
    os.environ["VSPCN_CACHE"] = str(root / "cache")
    killer, folder = Killer(root, seed), make_folder(root / "tiny")
    found: dict[str, Any] = {"kills": {}, "faults": {}}
    reference = root / "reference"
    began = time.monotonic()
    killer._value(killer.finish(_train, folder, reference))
    began = time.monotonic()
    killer._value(killer.finish(_train, folder, root / "again"))
    span = time.monotonic() - began
    found["determinism"] = {"two runs differ in": same_run(reference, root / "again")}

    def tally(name: str, before: int, bad: int, runs: int) -> None:
        found["kills"][name] = {"kills": killer.kills - before, "runs": runs, "not the same": bad}

    # Training, at random moments; states after every epoch, and after every step.
    before, bad, runs = killer.kills, 0, 0
    while killer.kills - before < 0.35 * kills:
        out = root / f"killed-{runs}"
        killer.until_done(_train, (folder, out, (300.0, 0.0)[runs % 2]), span, 8)
        bad, runs = bad + bool(same_run(reference, out)), runs + 1
        shutil.rmtree(out)
    tally("training, at random moments", before, bad, runs)

    # Writing, at every kind of moment: each victim dies at a random write, sync or rename, several times a run.
    before, bad, runs = killer.kills, 0, 0
    while killer.kills - before < 0.35 * kills:
        out = root / f"torn-{runs}"
        for _ in range(6):
            call = killer.random.randint(1, 60)
            if killer.finish(_train, folder, out, 0.0, spoil=[(_kill_at, (call,))]) != {}:
                break
            killer.kills += 1
        killer._value(killer.finish(_train, folder, out, 0.0))
        bad, runs = bad + bool(same_run(reference, out)), runs + 1
        shutil.rmtree(out)
    tally("checkpoint and log writes, before, half-way and after", before, bad, runs)

    for name, task, part in (("image cache", _cache, 0.1), ("drawing birdlets", _birds, 0.05)):
        args = (folder,) if task is _cache else ()
        began = time.monotonic()
        expected = killer._value(killer.finish(task, *args, root / f"{task.__name__}-reference"))
        took, before, bad, runs = time.monotonic() - began, killer.kills, 0, 0
        while killer.kills - before < part * kills:
            place = root / f"{task.__name__}-{runs}"
            bad += killer.until_done(task, (*args, place), took, 4) != expected
            bad += bool(list(place.rglob("*partial*")))
            runs += 1
            shutil.rmtree(place)
        tally(name, before, bad, runs)

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("set/a.bin", np.random.default_rng(0).bytes(8 << 20))
    data = buffer.getvalue()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    with serve(data) as url:
        began = time.monotonic()
        expected = killer._value(killer.finish(_fetch, url, len(data), md5, root / "fetch-reference"))
        took, before, bad, runs = time.monotonic() - began, killer.kills, 0, 0
        while killer.kills - before < 0.1 * kills:
            place = root / f"fetch-{runs}"
            bad += killer.until_done(_fetch, (url, len(data), md5, place), took, 4) != expected
            bad += bool(list(place.glob("unpacking-*")))
            runs += 1
            shutil.rmtree(place)
        tally("download and unpacking", before, bad, runs)

    began = time.monotonic()
    (root / "sweep-reference").mkdir()
    expected = killer._value(killer.finish(_sweep, folder, root / "sweep-reference"))
    took, before, bad, runs = time.monotonic() - began, killer.kills, 0, 0
    while killer.kills - before < 0.08 * kills:
        place = root / f"sweep-{runs}"
        place.mkdir()
        bad += killer.until_done(_sweep, (folder, place), took, 4) != expected
        runs += 1
    tally("sweep", before, bad, runs)

    found["faults"] |= disk_full(killer, folder, reference, steps)
    found["faults"] |= read_only(killer, folder)
    found["faults"] |= poisons(killer, folder, reference, (1, 2, 5) if kills >= 50 else (2,))
    found["faults"] |= two_processes(killer, folder, tries=5 if kills >= 50 else 1)
    if kills >= 50:
        found["determinism"]["as on other processors, largest score difference"] = processors(root, folder, reference)
    parts = [*found["kills"].values(), found["faults"]["dying worker"]]
    found["total"] = {name: sum(part[name] for part in parts) for name in ("kills", "not the same")}
    return found


@contextlib.contextmanager
def small_disk(root: Path, size: int) -> Iterator[Path | None]:
    """A disk of `size` bytes of its own (root only), else None."""
    root.mkdir(parents=True, exist_ok=True)
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root], capture_output=True)
    try:
        yield root if mount.returncode == 0 else None
    finally:
        if mount.returncode == 0:
            subprocess.run(["umount", "-l", root], check=True)


def _own(answer: dict[str, Any]) -> bool:
    return answer.get("module", "").startswith("vspcn_lib") and "\n" not in answer["text"]


def disk_full(killer: Killer, folder: Path, reference: Path, steps: int) -> dict[str, Any]:
    """Disks of many sizes, so that each write in turn is the one that does not fit; then room, and on with the run."""
    need = sum(f.stat().st_size for f in reference.iterdir()) + (8 << 12)
    tried = refused = bad = 0
    kind = "tmpfs"
    for i in range(steps):
        size = 4096 * max(1, round(need * (i + 1) / steps / 4096))
        with small_disk(killer.root / f"disk-{i}", size) as disk:
            if disk is None:  # not root: no file may grow beyond a limit, the same error to the program
                kind, disk = "file size limit", killer.root / f"disk-{i}"
                found = killer.finish(_train, folder, disk / "run", spoil=[(_small_files, (max(1, size // 4),))])
            else:
                found = killer.finish(_train, folder, disk / "run")
                subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            if "value" not in found:
                tried, refused = tried + 1, refused + _own(found)
                killer._value(killer.finish(_train, folder, disk / "run"))
            bad += bool(same_run(reference, disk / "run"))
    return {"disk full while training": {"by": kind, "tried": tried, "one clear error": refused, "not the same": bad}}


def read_only(killer: Killer, folder: Path) -> dict[str, Any]:
    """A folder that cannot be written to, for every writer."""
    with small_disk(killer.root / "read-only", 1 << 20) as disk:
        if disk is None:
            disk = killer.root / "read-only"
            disk.chmod(0o555)
        else:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        tasks = [(_train, (folder, disk / "run")), (_cache, (folder, disk)), (_record, (killer.root, disk / "r.json")),
                 (_fetch, ("http://127.0.0.1:9/set.zip", 1, "", disk))]
        answers = [killer.finish(task, *args) for task, args in tasks]
    return {"read-only folder": {"tried": len(tasks), "one clear error": sum(map(_own, answers))}}


def _record(root: Path, target: Path) -> str:
    return str(write_record(root / "reference", target))


def poisons(killer: Killer, folder: Path, reference: Path, steps: tuple[int, ...]) -> dict[str, Any]:
    """Clock, NaN at each of `steps` (the third batch is a single image, which is left out), and a small device."""
    found: dict[str, Any] = {}
    out = root = killer.root / "clock"
    answer = killer.finish(_train, folder, out, spoil=[(_jump_clock, ())])
    found["clock jumps of a year at every look"] = {"not the same": bool(same_run(reference, root)),
                                                    "seconds not negative": answer["value"]["seconds"] >= 0}
    named = bad = tried = 0
    for spoil in (_poison_loss, _poison_gradient, _poison_pixels):
        for step in steps:
            out = killer.root / f"{spoil.__name__}-{step}"
            answer = killer.finish(_train, folder, out, 0.0, spoil=[(spoil, (step,))])
            tried, named = tried + 1, named + (_own(answer) and "nan" in answer["text"].lower())
            killer._value(killer.finish(_train, folder, out, 0.0))  # without the poison
            bad += bool(same_run(reference, out))
    for name in ("attributes.csv", "vectors.txt"):
        place = killer.root / f"nan-{name}"
        shutil.copytree(folder, place)
        text = (place / name).read_text()
        number = text.split("\n")[1].replace(",", " ").split()[1]
        (place / name).write_text(text.replace(number, "nan", 1))
        answer = killer.finish(_train, place, killer.root / f"run-nan-{name}")
        tried, named = tried + 1, named + (_own(answer) and "NaN" in answer["text"])
    found["NaN in pixels, loss, gradients, attributes, word vectors"] = {
        "tried": tried, "named in one clear error": named, "not the same after it": bad}
    out = killer.root / "small-device"
    answer = killer.finish(_train, folder, out, spoil=[(_small_device, (1,))])
    difference = np.abs(RunFolder(out).scores()["scores"] - RunFolder(reference).scores()["scores"]).max()
    found["out of device memory"] = {"finished": "value" in answer, "said": answer["value"].get("events", [])[:1],
                                     "largest score difference": float(difference)}
    return found


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def two_processes(killer: Killer, folder: Path, tries: int) -> dict[str, Any]:
    """Two processes train one run; one of them is killed, the other must end by itself with a clear error."""
    def both(out: Path, kill_after: float | None = None) -> list[dict[str, Any]]:
        port = _port()
        pair = [killer.start(_rank, rank, port, folder, out) for rank in (0, 1)]
        if kill_after is not None:
            while not (out / "steps.jsonl").exists() and pair[0][0].is_alive():
                time.sleep(0.01)  # until they have found each other
            pair[1][0].join(kill_after)
            if pair[1][0].is_alive():
                pair[1][0].kill()
                killer.kills += 1
        for process, _ in pair:
            process.join(60)
            if process.is_alive():
                process.kill()
                process.join()
        return [json.loads(answer.read_text()) if answer.exists() else {} for _, answer in pair]

    reference, before = killer.root / "pair-reference", killer.kills
    killer._value(both(reference)[0])
    steps = [row["time"] for row in whole_rows(reference / "steps.jsonl")]
    span, own, bad, hung = steps[-1] - steps[0], 0, 0, 0
    for i in range(tries):
        out, count = killer.root / f"pair-{i}", killer.kills
        answer = both(out, killer.random.uniform(0, span))[0]
        own += killer.kills > count and _own(answer)
        hung += killer.kills > count and not answer
        killer._value(both(out)[0])
        bad += bool(same_run(reference, out))
    return {"dying worker": {"kills": killer.kills - before, "runs": tries, "the other said so": own,
                             "the other hung": hung, "not the same": bad}}


def processors(root: Path, folder: Path, reference: Path) -> dict[str, float]:
    """The same run with the instructions of lesser processors, and with two threads; scores span about +-20."""
    differences = {}
    for name, instructions, threads in (("no vector instructions", "default", 1), ("AVX2", "avx2", 1),
                                        ("AVX-512", "avx512", 1), ("two threads", "", 2)):
        isa = {"default": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}.get(instructions, "")
        changes = {"ATEN_CPU_CAPABILITY": instructions, "ONEDNN_MAX_CPU_ISA": isa} if instructions else {}
        out = root / f"as-{name.replace(' ', '-')}"
        code = (f"import torch, faults; from pathlib import Path; torch.set_num_threads({threads}); "
                f"faults._train(Path({str(folder)!r}), Path({str(out)!r}))")
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent,
                       env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), **changes},
                       check=True, capture_output=True)
        difference = RunFolder(out).scores()["scores"] - RunFolder(reference).scores()["scores"]
        differences[name] = float(np.abs(difference).max())
    return differences


def main() -> None:
    """Run the campaign and print its record, or keep it in a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="a JSON record")
    a = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), a.kills, a.seed, steps=12 if a.kills < 50 else 24)
    options = f"--kills {a.kills} --seed {a.seed}"
    record = {**found, "command": f"PYTHONPATH=tests python tests/campaigns/faults.py {options}",
              "seconds": round(time.monotonic() - began), "environment": environment()}
    keep(record, a.out)


if __name__ == "__main__":
    sys.exit(main())
