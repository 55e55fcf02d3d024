"""The run folder: what a run was asked, what it did, step by step, and what came out."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vspcn_lib.config import Config, as_dict, update


class RunError(RuntimeError):
    """A run folder cannot be used as asked; the message names the file and what to do."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write instead of `path`, renamed over it at the end: a kill or a full disk leaves the old file whole.

    Raises `RunError` where writing failed (torch reports a full disk as RuntimeError).
    """
    partial = path.with_name(f"partial-{os.getpid()}-{path.name}")  # workers of one study write the same record
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunError(f"could not write {path}: {error}; what was saved before is whole, free some space and "
                       "continue with --resume") from error
    finally:
        partial.unlink(missing_ok=True)


def environment() -> dict[str, Any]:
    """Versions, machine and commit that a record carries; no path and no host name."""
    packages = ("torch", "timm", "accelerate", "numpy", "gensim", "safetensors")
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=here, text=True,
                                capture_output=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return {"commit": commit, "python": platform.python_version(), "device": device,
            "versions": {p: version(p) for p in packages}}


@dataclass(frozen=True)
class RunFolder:
    """config.json, steps.jsonl, epochs.jsonl, checkpoint.safetensors, state.pt, scores.npz, result.json."""

    path: Path

    @classmethod
    def create(cls, path: Path, config: Config, resume: bool) -> RunFolder:
        """Open `path` for a new run, or for the same run again with `resume`.

        Raises `RunError` where a run is there already and `resume` is false, or where its config differs.
        """
        folder = cls(path)
        if (path / "config.json").exists():
            if not resume:
                raise RunError(f"{path} already holds a run: continue it with --resume, or choose another --out")
            if folder.config() != config:
                old, new = as_dict(folder.config()), as_dict(config)
                names = [f"{g}.{k} ({old[g][k]} -> {v})" for g, part in new.items() for k, v in part.items()
                         if old[g][k] != v]
                raise RunError(f"{path} was started with another config: {', '.join(names)}; resume with the same "
                               "settings, or choose another --out")
        else:
            if resume:
                raise RunError(f"{path} holds no run to resume: leave --resume away to start one")
            path.mkdir(parents=True, exist_ok=True)
            folder.write_json("config.json", as_dict(config))
        return folder

    def config(self) -> Config:
        """The config the run was started with. Raises `RunError` when it is missing or unreadable."""
        file = self.path / "config.json"
        try:
            return update(Config(), json.loads(file.read_text()))
        except FileNotFoundError as error:
            raise RunError(f"{self.path} is no run folder: {file.name} is missing") from error
        except json.JSONDecodeError as error:
            raise RunError(f"{file} is not valid JSON: {error}") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        with replacing(self.path / name) as partial:
            partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """A JSON file of the folder, None where it does not exist."""
        file = self.path / name
        return json.loads(file.read_text()) if file.exists() else None

    def log(self, name: str, row: dict[str, Any]) -> None:
        """Append one JSON line (steps.jsonl, epochs.jsonl), with the wall-clock second."""
        with (self.path / name).open("a") as file:
            file.write(json.dumps({**row, "time": round(time.time(), 1)}) + "\n")

    def save_checkpoint(self, state: dict[str, Tensor], backbone: dict[str, str]) -> None:
        """The trained weights as safetensors, with config and backbone in the metadata."""
        meta = {"config": json.dumps(as_dict(self.config())), "backbone": json.dumps(backbone)}
        with replacing(self.path / "checkpoint.safetensors") as partial:
            save_file({n: t.detach().cpu().contiguous() for n, t in state.items()}, partial, metadata=meta)

    def load_checkpoint(self, backbone: dict[str, str]) -> dict[str, Tensor]:
        """The trained weights. Raises `RunError` when missing, damaged, or trained on another backbone."""
        file = self.path / "checkpoint.safetensors"
        try:
            with safe_open(file, framework="pt") as opened:
                meta = opened.metadata()
                state = {n: opened.get_tensor(n) for n in opened.keys()}
        except FileNotFoundError as error:
            raise RunError(f"{file} does not exist: the run has not finished, continue it with --resume") from error
        except Exception as error:
            raise RunError(f"{file} is damaged ({error}): train again, or restore it from a copy") from error
        trained_on = json.loads(meta.get("backbone", "{}"))
        if trained_on.get("sha256") != backbone.get("sha256"):
            raise RunError(f"{file} was trained on backbone {trained_on.get('tag')} "
                           f"({trained_on.get('sha256', '')[:12]}), this is {backbone.get('tag')} "
                           f"({backbone.get('sha256', '')[:12]}): use the same weights")
        return state

    def save_scores(self, **arrays: np.ndarray) -> None:
        """The score matrix and what is needed to read it, once; every metric is computed from it."""
        with replacing(self.path / "scores.npz") as partial:
            np.savez_compressed(partial, **arrays)

    def scores(self) -> dict[str, np.ndarray]:
        """scores, labels, unseen, class_names of the test evaluation. Raises `RunError` when missing."""
        file = self.path / "scores.npz"
        if not file.exists():
            raise RunError(f"{self.path} holds no scores.npz: run `evaluate` or finish the run with --resume")
        with np.load(file, allow_pickle=False) as loaded:
            return {n: loaded[n] for n in loaded.files}

    def save_state(self, state: dict[str, Any]) -> None:
        """Everything needed to continue, as one atomic file."""
        with replacing(self.path / "state.pt") as partial:
            torch.save(state, partial)

    def load_state(self) -> dict[str, Any] | None:
        """The state to continue from, None where the run has not come that far."""
        file = self.path / "state.pt"
        return torch.load(file, map_location="cpu", weights_only=True) if file.exists() else None
