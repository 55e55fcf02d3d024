"""The run folder: what a run was asked, what it did, step by step, and what came out."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vspcn_lib.config import Config, ConfigError, as_dict, read_config
from vspcn_lib.runs.compare import changed_fields
from vspcn_lib.runs.identity import differences, unchecked
from vspcn_lib.system import files
from vspcn_lib.system.digests import tensor_digest
from vspcn_lib.system.files import Busy, Damaged, checked, exclusive, sync_folder, whole_rows

_FIRST = ("inputs.json", "environment.json", "generate.json")  # of these, config.json and the lock alone: no run yet


class RunError(RuntimeError):
    """A run folder cannot be used as asked; the message names the file and what to do."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write instead of `path`, renamed over it at the end: a kill or a full disk leaves the old file whole.

    Raises `RunError` where writing failed (torch reports a full disk as RuntimeError).
    """
    partial = path.with_name(f"partial-{os.getpid()}-{path.name}")  # workers of one study write the same record
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunError(f"could not write {path}: {error}; what was saved before is whole, free some space and "
                       "continue with --resume") from error
    finally:
        with suppress(OSError):  # a folder that cannot be written to keeps its reason above
            partial.unlink(missing_ok=True)


@contextmanager
def together() -> Iterator[None]:
    """What the processes of one run do together. Raises `RunError` where one of them has died."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise RunError("another process of this run has died or cannot be reached; what was saved is whole, start all "
                       f"processes again with --resume ({reason})") from error


@dataclass(frozen=True)
class RunFolder:
    """What a run is on disk: config.json, inputs.json, environment.json (of a generator generate.json); the logs
    steps.jsonl, epochs.jsonl, events.jsonl; selection.json (and one file a class fold), state.pt and the one before it;
    checkpoint.safetensors, classes.npz, embedded.npy, scores.npz, result.json. `lock` is held by who writes them."""

    path: Path

    @classmethod
    @contextmanager
    def open(cls, path: Path, config: Config, resume: bool, wait: bool = False) -> Iterator[RunFolder]:
        """`create`, and the run's lock until the `with` ends; of several processes of one run the first holds it.

        Raises `RunError` as `create` does, and where another process writes this run (with `wait`: waits for it).
        """
        if int(os.environ.get("RANK", 0)):
            yield cls(path)
            return
        if resume and not (path / "config.json").exists():
            raise RunError(f"{path} holds no run to resume: leave --resume away to start one")
        with ExitStack() as held:
            try:
                path.mkdir(parents=True, exist_ok=True)
                held.enter_context(exclusive(path / "lock", wait))
                for stale in path.glob("partial-*"):  # of a process that was killed
                    stale.unlink()
            except Busy as error:
                raise RunError(f"{path} is being written by another process: wait until it ends, or choose another "
                               "--out") from error
            except OSError as error:
                raise RunError(f"{path} cannot be written ({error.strerror or error}): choose another --out, or make "
                               "the folder writable") from error
            yield cls.create(path, config, resume)

    @classmethod
    def create(cls, path: Path, config: Config, resume: bool) -> RunFolder:
        """Open `path` for a new run, or for the same run again with `resume`.

        A folder where nothing has been trained yet (a mistyped setting, say) is taken for a new run as it is.
        Raises `RunError` where a run is there already and `resume` is false, or where its config differs.
        """
        folder = cls(path)
        begun = {"config.json"} < {p.name for p in path.iterdir()} - {*_FIRST, "lock"} if path.is_dir() else False
        if (path / "config.json").exists() and (resume or begun):
            if not resume:
                raise RunError(f"{path} already holds a run: continue it with --resume, or choose another --out")
            if changed := changed_fields(folder.config(), config):
                raise RunError(f"{path} was started with another config: {changed}; resume with the same settings, or "
                               "choose another --out")
        else:
            if resume:
                raise RunError(f"{path} holds no run to resume: leave --resume away to start one")
            path.mkdir(parents=True, exist_ok=True)
            for old in _FIRST:
                (path / old).unlink(missing_ok=True)
            folder.write_json("config.json", as_dict(config))
        return folder

    def config(self) -> Config:
        """The config the run was started with. Raises `RunError` when it is missing or unreadable."""
        found = self.read_json("config.json")
        if found is None:
            raise RunError(f"{self.path} is no run folder: config.json is missing")
        try:
            return read_config(found)
        except ConfigError as error:
            raise RunError(f"{self.path / 'config.json'} is not a config of this version: {error}") from error

    def check_inputs(self, inputs: dict[str, str], main: bool = True) -> list[str]:
        """Keep the checksums of what the run reads (`Workspace.inputs`), or compare them with those it began with.

        Only the `main` process writes. Returns the kinds of data that a run of an older version did not keep, and that
        nothing can be said of. Raises `RunError` that names what has changed.
        """
        began = self.read_json("inputs.json")
        if began is None and main:
            self.write_json("inputs.json", inputs)
        if not isinstance(began or inputs, dict):
            raise RunError(f"{self.path / 'inputs.json'} holds no checksums: restore it from a copy, or delete it")
        if changed := differences(began or inputs, inputs):
            raise RunError(f"{self.path} began with other data, this is {changed}: put back what was changed, or "
                           "choose another --out")
        return unchecked(began or inputs)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        with replacing(self.path / name) as partial:
            partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """A JSON file of the folder, None where it does not exist. Raises `RunError` for one that is damaged."""
        file = self.path / name
        try:
            return json.loads(file.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{file} is not valid JSON ({str(error)[:200]}): restore it from a copy, or delete the "
                           "folder and train again") from error

    def log(self, name: str, row: dict[str, Any]) -> None:
        """Append one JSON line to a log of the run (`name`), with the wall-clock second."""
        try:
            with (self.path / name).open("a") as file:
                file.write(json.dumps({**row, "time": round(time.time(), 1)}) + "\n")
        except OSError as error:
            raise RunError(f"could not write {self.path / name} ({error.strerror}): what was saved before is whole, "
                           "free some space and continue with --resume") from error

    def rewind(self, phase: str, steps: int, epochs: int) -> None:
        """Drop what the logs say of `phase` after `steps` steps and `epochs` epochs, and torn lines: it comes again."""
        for name, first in (("steps.jsonl", lambda row: row.get("step", -1) < steps),
                            ("events.jsonl", lambda row: row.get("step", -1) < steps),
                            ("epochs.jsonl", lambda row: row.get("epoch", 0) <= epochs)):
            file = self.path / name
            rows = [row for row in whole_rows(file) if row.get("phase") != phase or first(row)]
            text = "".join(json.dumps(row) + "\n" for row in rows).encode()
            if file.exists() and file.read_bytes() != text:
                with replacing(file) as partial:
                    partial.write_bytes(text)

    def save_checkpoint(self, state: dict[str, Tensor], backbone: dict[str, str]) -> None:
        """The trained weights as safetensors, with config, backbone and inputs in the metadata."""
        plain = {n: t.detach().cpu().contiguous() for n, t in state.items()}
        meta = {"config": json.dumps(as_dict(self.config())), "backbone": json.dumps(backbone),
                "inputs": json.dumps(self.read_json("inputs.json")), "sha256": tensor_digest(plain)}
        with replacing(self.path / "checkpoint.safetensors") as partial:
            save_file(plain, partial, metadata=meta)

    def load_checkpoint(self, backbone: dict[str, str], inputs: dict[str, str] | None = None) -> dict[str, Tensor]:
        """The trained weights.

        Raises `RunError` when missing, damaged, of another config, or trained on another backbone or other `inputs`.
        """
        file = self.path / "checkpoint.safetensors"
        try:
            with safe_open(file, framework="pt") as opened:
                meta = opened.metadata() or {}
                state = {n: opened.get_tensor(n) for n in opened.keys()}
            trained_on, began = (dict(json.loads(meta.get(k, "null")) or {}) for k in ("backbone", "inputs"))
            trained_with = read_config(json.loads(meta.get("config", "{}")))
            if meta.get("sha256", found := tensor_digest(state)) != found:  # records of the first version carry none
                raise Damaged(f"the checksum of its weights is {found[:12]}")
        except FileNotFoundError as error:
            raise RunError(f"{file} does not exist: the run has not finished, continue it with --resume") from error
        except Exception as error:
            raise RunError(f"{file} is damaged ({error}): train again, or restore it from a copy") from error
        if trained_on.get("sha256") != backbone.get("sha256"):
            raise RunError(f"{file} was trained on backbone {trained_on.get('tag')} "
                           f"({trained_on.get('sha256', '')[:12]}), this is {backbone.get('tag')} "
                           f"({backbone.get('sha256', '')[:12]}): use the same weights")
        if changed := changed_fields(trained_with, self.config()):
            raise RunError(f"{file} is of another config than the run's config.json: {changed}; put the files of "
                           "one run together")
        if began and inputs and (changed := differences(began, inputs)):  # the first version's carry none
            raise RunError(f"{file} was trained on other data, this is {changed}: put back what was changed, or train "
                           "again")
        return state

    def save_scores(self, **arrays: np.ndarray) -> None:
        """The score matrix and what is needed to read it, once; every metric is computed from it."""
        with replacing(self.path / "scores.npz") as partial:
            np.savez_compressed(partial, **arrays)

    def scores(self) -> dict[str, np.ndarray]:
        """scores, labels, unseen, class_names of the test evaluation. Raises `RunError` when missing."""
        file = self.path / "scores.npz"
        if not file.exists():
            self.config()  # the reason, where this is no run folder
            raise RunError(f"{self.path} holds no scores.npz: finish it with `python -m vspcn_lib resume {self.path}`")
        return read_scores(file)

    def save_state(self, state: dict[str, Any]) -> None:
        """Everything needed to continue, checksummed; the state before it stays beside it as state-previous.pt."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        for name in ("steps.jsonl", "epochs.jsonl", "events.jsonl"):  # nothing before a state is ever written again
            if (self.path / name).exists():
                with (self.path / name).open("rb") as log:
                    os.fsync(log.fileno())
        file = self.path / "state.pt"
        with replacing(self.path / "state-next.pt") as partial:
            partial.write_bytes(checked(buffer.getvalue()))
        try:
            if file.exists():
                os.replace(file, self.path / "state-previous.pt")
            os.replace(self.path / "state-next.pt", file)
            sync_folder(self.path)
        except OSError as error:
            raise RunError(f"could not rename {file} ({error.strerror}): continue with --resume") from error

    def load_state(self) -> dict[str, Any] | None:
        """The latest whole state to continue from, None where the run has not come that far.

        A damaged one is refused with a sentence and the one before it taken. Raises `RunError` where none is whole.
        """
        refused = ""
        for name in ("state-next.pt", "state.pt", "state-previous.pt"):  # next: killed between two renames
            file = self.path / name
            try:
                whole = io.BytesIO(files.unchecked(file.read_bytes()))
                state = torch.load(whole, map_location="cpu", weights_only=True)
            except FileNotFoundError:
                continue
            except Exception as error:
                refused = f"{file} is damaged ({error})"
                continue
            if refused:
                print(f"{refused}: continuing from {name}, phase {state['phase']}, epoch {state['epoch']}", flush=True)
            return state
        if refused:
            raise RunError(f"{refused} and no earlier state is whole: delete state*.pt, then --resume starts this "
                           "phase anew, with the same numbers")
        return None


def read_scores(file: Path) -> dict[str, np.ndarray]:
    """A saved score matrix: scores, labels, unseen, indices, tau. Raises `RunError` where it is missing or damaged."""
    try:
        with np.load(file, allow_pickle=False) as loaded:
            found = {n: loaded[n] for n in loaded.files}
        if not {"scores", "labels", "unseen", "tau"} <= set(found):
            raise Damaged(f"it holds only {', '.join(found) or 'nothing'}")
        if not all(isinstance(a, np.ndarray) for a in found.values()):
            raise Damaged("it holds other files than arrays")
    except FileNotFoundError as error:
        raise RunError(f"{file} does not exist: copy scores.npz of a finished run there") from error
    except Exception as error:  # zipfile, zlib and NumPy fail in many ways
        raise RunError(f"{file} is damaged ({str(error)[:120]}): delete it and result.json, and continue the run with "
                       "--resume") from error
    return found
