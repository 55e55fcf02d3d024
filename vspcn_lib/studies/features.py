"""Features of real images by models that were not trained on them: from held-out folds, kept beside the runs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from vspcn_lib.data.splits import Benchmark
from vspcn_lib.methods.generative.features import STREAMS
from vspcn_lib.runs.counts import selection_split, thin
from vspcn_lib.runs.evaluation import guard
from vspcn_lib.runs.folder import RunError, RunFolder, replacing
from vspcn_lib.runs.identity import differences
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.system.files import exclusive
from vspcn_lib.train import fit
from vspcn_lib.zeroshot import ZeroShotModel


def is_frozen(model: ZeroShotModel) -> bool:
    """Whether nothing before the heads trains: then features are the same whatever the model was trained on."""
    return all(name.startswith("heads.") for name in model.trainable())


@torch.no_grad()
def extract(work: Workspace, model: ZeroShotModel, indices: np.ndarray) -> dict[str, Tensor]:
    """The features [n,D] of images by stream, float32 on the CPU."""
    model.eval()
    found: dict[str, list[Tensor]] = {}
    batches = work.batches(indices, augment=False)
    for x, _, _ in tqdm(batches.epoch(0), "features", len(batches), leave=False, disable=work.quiet):
        with work.autocast():
            streams = model.features(x) if x.dim() == 4 else model.unfrozen(x)
        for name in STREAMS:
            if name in streams:
                found.setdefault(name, []).append(streams[name].float().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def trained_digest(run: Path) -> str:
    """sha256 of the trained weights of a run. Raises `RunError` where they are missing."""
    file = run / "checkpoint.safetensors"
    if not file.exists():
        raise RunError(f"{file} does not exist: restore it from a copy, or train that run anew in another folder")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def deal(bench: Benchmark, indices: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    """`indices` dealt to `folds` lists, the images of every class in turn, in an order drawn by `seed`."""
    rng, fold = np.random.default_rng(seed), np.empty(len(indices), int)
    for c in np.unique(bench.labels[indices]):
        own = rng.permutation(np.flatnonzero(bench.labels[indices] == c))
        fold[own] = (rng.integers(folds) + np.arange(len(own))) % folds
    return [indices[fold == k] for k in range(folds)]


@dataclass
class RealFeatures:
    """Features of the images that a finished run may be read by; what takes a training is kept in `store`."""

    run: Path
    work: Workspace
    trained: ZeroShotModel
    """the model of the run, trained on trainval but for what it held out for calibration"""
    epochs: int
    """that it was trained for; models of folds are trained as long"""
    folds: int
    store: Path
    stop: Event

    @property
    def retrained(self) -> int:
        """The folds that models are retrained for: features of a frozen ViT need none."""
        return 0 if is_frozen(self.trained) else self.folds

    @property
    def digest(self) -> str:
        """That of the run's weights: features of another run are refused."""
        return trained_digest(self.run)

    @property
    def held_out(self) -> int:
        """How many images of trainval the model of the run left out for calibration; an older run left out none."""
        return (RunFolder(self.run).read_json("result.json") or {}).get("calibration", {}).get("held_out", 0)

    def selection(self) -> dict[str, tuple[np.ndarray, dict[str, Tensor]]]:
        """Images and features of the three parts of selection: train, held_out, val (the pseudo-unseen classes).

        The run's own model has seen the validation classes, so one is retrained without them, as in the run's own
        selection; none of it reads a test image or an unseen class.
        """
        bench, t, most = self.work.bench, self.work.config.train, self.work.config.data.images_per_class
        inner, held = selection_split(bench, t.held_out, t.seed)
        inner, held, val = (thin(bench, part, most, t.seed) for part in (inner, held, bench.val))
        guard(bench, inner, np.union1d(bench.unseen_classes, bench.val_classes), "selection")
        guard(bench, np.concatenate([held, val]), bench.unseen_classes, "selection")
        parts = {"held_out": held, "val": val} | ({} if self.retrained else {"train": inner})
        return {**self._train("select", inner, (held, val)), **self._read("select", parts, inner, (held, val))}

    def training(self) -> tuple[np.ndarray, dict[str, Tensor]]:
        """Images and features of trainval; without folds those that the run's model held out are mixed in."""
        bench, c = self.work.bench, self.work.config
        trainval = thin(bench, bench.trainval, c.data.images_per_class, c.train.seed)
        guard(bench, trainval, bench.unseen_classes, "final")
        if self.retrained:
            return self._train("final", trainval, None)["train"]
        return trainval, extract(self.work, self.trained, trainval)

    def _train(self, phase: str, indices: np.ndarray,
               validation: tuple[np.ndarray, np.ndarray] | None) -> dict[str, tuple[np.ndarray, dict[str, Tensor]]]:
        """{"train": images and features}, each fold's from a model of the others; nothing without folds."""
        if not self.retrained:
            return {}
        folds = deal(self.work.bench, indices, self.retrained, self.work.config.train.seed)
        found = [self._read(f"{phase}-fold{k}", {"train": fold}, np.setdiff1d(indices, fold), validation)["train"]
                 for k, fold in enumerate(folds) if len(fold)]
        return {"train": (np.concatenate([images for images, _ in found]),
                          {s: torch.cat([features[s] for _, features in found]) for s in found[0][1]})}

    def _read(self, name: str, parts: dict[str, np.ndarray], trained_on: np.ndarray,
              validation: tuple[np.ndarray, np.ndarray] | None) -> dict[str, tuple[np.ndarray, dict[str, Tensor]]]:
        """Features of `parts` from a model trained on `trained_on` alone; read from the store where they lie there."""
        if is_frozen(self.trained):  # any model gives these
            return {part: (images, extract(self.work, self.trained, images)) for part, images in parts.items()}
        self.store.mkdir(parents=True, exist_ok=True)
        with exclusive(self.store / "lock", wait=True):  # several generators of one run share what is trained here
            file = self.store / f"{name}.safetensors"
            if not file.exists():
                training = RunFolder(self.store / name)
                training.path.mkdir(exist_ok=True)
                self._check_begun(training, trained_on)
                model, _ = fit(self.work, training, name.split("-")[0], trained_on, self.epochs, validation, self.stop)
                kept = {f"{part}.{s}": f for part, images in parts.items()
                        for s, f in extract(self.work, model, images).items()}
                with replacing(file) as partial:
                    save_file(kept, partial, metadata={"run": self.digest})
                shutil.rmtree(training.path)  # what it left off at is not needed again
            return dict(self._stored(file, parts))

    def _check_begun(self, training: RunFolder, images: np.ndarray) -> None:
        """Keep what a training of the store is for. Raises `RunError` where it was begun for other things."""
        now = {"source run": self.digest, "set of images": hashlib.sha256(np.sort(images).tobytes()).hexdigest()}
        began = training.read_json("inputs.json")
        if began is None and any(training.path.glob("state*.pt")):
            raise RunError(f"{training.path} holds a half-trained model, and nothing says of which source run: delete "
                           "that folder, it will be trained again")
        if changed := differences(began or {}, now):
            raise RunError(f"{training.path} holds a half-trained model of {changed}: name another --features folder, "
                           "or delete this one")
        training.write_json("inputs.json", now)

    def _stored(self, file: Path, parts: dict[str, np.ndarray]) -> Iterator[
            tuple[str, tuple[np.ndarray, dict[str, Tensor]]]]:
        """What a file of the store holds of `parts`. Raises `RunError` for a damaged file and one of another run."""
        try:
            with safe_open(file, framework="pt") as opened:
                of = (opened.metadata() or {}).get("run", "")
                tensors = {n: opened.get_tensor(n) for n in opened.keys()}
        except (SafetensorError, OSError) as error:
            raise RunError(f"{file} is damaged ({error}): delete it, it will be made again") from error
        if of != self.digest:
            raise RunError(f"{file} holds features of another run ({of[:12]}, {self.run} is {self.digest[:12]}): name "
                           "another --features folder, or delete this one")
        for part, images in parts.items():
            own = {n.split(".", 1)[1]: t for n, t in tensors.items() if n.startswith(f"{part}.")}
            if not own or any(len(t) != len(images) for t in own.values()):
                raise RunError(f"{file} does not hold the features of {len(images)} '{part}' images: delete it, it "
                               "will be made again")
            yield part, (images, own)
