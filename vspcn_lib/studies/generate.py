"""GZSL by generation: from a finished run's features to a classifier of real seen and synthetic unseen classes."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vspcn_lib import metrics
from vspcn_lib.methods.generative.classifier import Classified, nearest, softmax
from vspcn_lib.methods.generative.features import GenerativeError, Scaler, join
from vspcn_lib.methods.generative.generator import Generator, fit
from vspcn_lib.methods.generative.registry import GENERATORS, GenerateConfig, read_settings
from vspcn_lib.runs.evaluation import evaluate, made_by, test_metrics
from vspcn_lib.runs.finished import check_finished
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.identity import differences
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.features import RealFeatures, extract, is_frozen, trained_digest
from vspcn_lib.train import SAVE_SECONDS, Interrupted, stop_on_interrupt


def own_images(images: int, held_out: int) -> str:
    """The warning for `images` real images read by the model that was trained on all but `held_out` of them."""
    mixed = f", but for {held_out} of {images} that it held out for calibration and that are mixed in"
    return ("the features of real seen images come from the model that was trained on these very images (folds = 0)"
            f"{mixed if held_out else ''}: the seen side may be optimistic")


def generate(run: Path, out: Path, settings: GenerateConfig, resume: bool = False, features: Path | None = None,
             work: Workspace | None = None, stop: Event | None = None) -> dict[str, Any]:
    """Choose the number of synthetic features on validation classes, fit anew on trainval, evaluate once.

    Reads the finished `run`, writes the run folder `out` and returns its result record; a finished one is returned as
    it is. `features` is where those of retrained models are kept (by default beside `out`).
    Raises `RunError` for a run that is not finished or another one than `out` began with, `GenerativeError` for
    features, classes or attributes that do not fit, `Interrupted`.
    """
    start = RunFolder(run)
    config = start.config()
    if start.read_json("result.json") is None:
        raise RunError(f"{run} has no result.json: finish it with `python -m vspcn_lib resume {run}`")
    with RunFolder.open(out, config, resume) as folder:
        kept = folder.read_json("generate.json")
        _check_folder(folder, kept, settings)
        store = features or (Path(kept["features"]) if kept else
                             out.parent / f"features-of-{run.resolve().name}-folds{settings.folds}")
        asked = {"run": str(run.resolve()), "features": str(store.resolve()), "settings": settings.kept()}
        if kept is None:
            # Before any work: whoever resumes what a kill left here must find that it is no run of images.
            folder.write_json("generate.json", asked)
        done = folder.read_json("result.json")
        if done:
            check_finished(folder, done, config, work and work.inputs)
            _check_source(folder, done, run)
            return done
        work, model = load_trained(start, work)
        join(extract(work, model, work.bench.trainval[:1]), settings.streams)  # now: folds may retrain for hours
        real = RealFeatures(run, work, model, start.read_json("selection.json")["best"]["epoch"], settings.folds, store,
                            stop or Event())
        folder.check_inputs({**work.inputs, "trained run": real.digest})
        folder.write_json("generate.json", asked)  # the run and its features may have moved
        folder.write_json("environment.json", made_by(folder))
        begun = time.monotonic() - (folder.load_state() or {}).get("seconds", 0.0)
        generation = Generation(settings, work, folder, real, begun)
        try:
            with stop_on_interrupt(real.stop):
                result = generation.run()
        except Interrupted:
            raise Interrupted("stopped, all work is saved; continue with\n"
                              f"  python -m vspcn_lib resume {out}") from None
        folder.write_json("result.json", result)
        return result


def again(out: Path) -> dict[str, Any]:
    """Finish an interrupted `generate` with its own settings. Raises `RunError` where the run it reads has gone."""
    kept = RunFolder(out).read_json("generate.json")
    return generate(Path(kept["run"]), out, read_settings(kept["settings"]), True, Path(kept["features"]))


def _check_folder(folder: RunFolder, kept: dict[str, Any] | None, settings: GenerateConfig) -> None:
    """Raise `RunError` where the folder, whose generate.json is `kept`, holds a run of images, or was begun with other
    settings, naming them."""
    if kept is None:
        # Not `create`'s rule: a job's log.txt is there before anything is trained.
        if any((folder.path / name).exists() for name in ("result.json", "selection.json", "state.pt", "steps.jsonl")):
            raise RunError(f"{folder.path} holds a run of images, not of generated features: choose another --out")
        return
    began, now = kept["settings"], settings.kept()
    if began != now:
        differ = [n for n in {**began, **now} if began.get(n) != now.get(n)]
        raise RunError(f"{folder.path} was started with another {', '.join(differ)}: resume with the same settings, or "
                       "choose another --out")


def _check_source(folder: RunFolder, done: dict[str, Any], run: Path) -> None:
    """Raise `RunError` where the source of a finished generator was trained anew; without its weights say so."""
    if not (run / "checkpoint.safetensors").exists():
        print(f"{folder.path} is finished; whether {run} is still the run it was made from is unchecked: its weights "
              "have gone", flush=True)
    elif changed := differences(done["inputs"], {"trained run": trained_digest(run)}):
        raise RunError(f"{folder.path} is finished, of another run than there is now: {changed}; put the run back, or "
                       "choose another --out")


class Generation:
    """The protocol of one generated run; every method reads only what its phase may see."""

    def __init__(self, settings: GenerateConfig, work: Workspace, folder: RunFolder, real: RealFeatures,
                 begun: float) -> None:
        self.settings, self.work, self.folder, self.real, self.begun = settings, work, folder, real, begun
        self.seed, self.device = work.config.train.seed, work.accelerator.device

    def run(self) -> dict[str, Any]:
        """Selection, the final fit and the one evaluation: the result record."""
        s, bench = self.settings, self.work.bench
        best = self.select()["best"]
        self.work.say("kept " + describe(best))
        indices, streams = self.real.training()
        scaler, x, classes = self._scaled(indices, streams)
        generator = self._fit("final", x, indices, classes)
        count = self._count(best["ratio"], indices)
        unseen = bench.unseen_classes
        synthetic = generator.sample(self._rows(unseen), count, self.seed)
        layer = self._layer(generator, x, bench.labels[indices], synthetic, unseen, np.arange(bench.num_classes))
        model = Classified(self.real.trained, s.streams, scaler, generator, layer).eval()
        result = {**evaluate(self.work, self.folder, model, best), "trained_on": len(indices), "generator": s.generator,
                  "samples": count, "ratio": best["ratio"],
                  "inputs": self.folder.read_json("inputs.json"), "seconds": round(time.monotonic() - self.begun, 1)}
        saved = self.folder.scores()
        also = test_metrics(saved["scores"], saved["labels"], saved["unseen"], best["with_tau"]["tau"])
        result["with_tau"] = {k: also[k] for k in ("tau", "U", "S", "H")}
        own = not s.folds and not is_frozen(self.real.trained)
        result["warnings"] = [own_images(len(indices), self.real.held_out)] if own else []
        for warning in result["warnings"]:
            self.work.say(f"warning: {warning}")
        self.folder.save_checkpoint(model.state(), self.work.backbone.source)
        return result

    def select(self) -> dict[str, Any]:
        """The ratio of the best H on validation classes, which play unseen; kept in selection.json."""
        selected = self.folder.read_json("selection.json")
        if selected is not None:
            return selected
        s, bench, parts = self.settings, self.work.bench, self.real.selection()
        indices, streams = parts["train"]
        scaler, x, classes = self._scaled(indices, streams)
        generator = self._fit("select", x, indices, classes)
        test = np.concatenate([parts["held_out"][0], parts["val"][0]])
        seen = torch.cat([self._joined(parts[p][1]) for p in ("held_out", "val")])
        space = np.union1d(classes, bench.val_classes)
        labels, unseen = np.searchsorted(space, bench.labels[test]), np.isin(space, bench.val_classes)
        rows, most = [], self._count(max(s.ratios), indices)
        synthetic = generator.sample(self._rows(bench.val_classes), most, self.seed)
        with torch.no_grad():
            seen = generator.space(scaler(seen))
        for ratio in s.ratios:
            count = self._count(ratio, indices)
            layer = self._layer(generator, x, bench.labels[indices], synthetic[:, :count], bench.val_classes, space)
            rows.append({"ratio": ratio, "samples": count, **self._measured(layer(seen).cpu(), labels, unseen)})
            self.work.say("  " + describe(rows[-1]))
        selected = {"best": max(rows, key=lambda row: row["H"]), "epochs": rows}
        self.folder.write_json("selection.json", selected)
        return selected

    def _measured(self, scores: Tensor, labels: np.ndarray, unseen: np.ndarray) -> dict[str, Any]:
        """U, S, H at the tau that the classifier is read by, and at the best tau; AUSUC."""
        sweep = metrics.tau_sweep(scores, labels, unseen)
        with_tau = metrics.best_row(sweep)
        plain = metrics.gzsl_metrics(scores, labels, unseen)
        read = with_tau if self.settings.classifier == "nearest" else {"tau": 0.0, "U": plain.U, "S": plain.S,
                                                                       "H": plain.H}
        return {**read, "CZSL": plain.CZSL, "AUSUC": metrics.area(sweep), "with_tau": with_tau}

    def _scaled(self, indices: np.ndarray, streams: dict[str, Tensor]) -> tuple[Scaler, Tensor, np.ndarray]:
        """The scaler of training features, these scaled [n,D], and the classes they are of.

        Raises `GenerativeError` for features that are not finite, before statistics are taken of them.
        """
        joined = self._joined(streams)
        bad = ~torch.isfinite(joined).all(1)
        if bad.any():
            first = self.work.bench.image_paths[indices[int(bad.nonzero()[0])]]
            raise GenerativeError(f"the features of {int(bad.sum())} of {len(indices)} images are NaN or infinite, "
                                  f"first {first.name}: the weights of {self.real.run} are damaged, train it again")
        scaler = Scaler(joined, self.settings.scaling)
        return scaler, scaler(joined), np.unique(self.work.bench.labels[indices])

    def _joined(self, streams: dict[str, Tensor]) -> Tensor:
        return join(streams, self.settings.streams).to(self.device)

    def _rows(self, classes: np.ndarray) -> Tensor:
        return torch.as_tensor(self.work.bench.prototypes[classes], device=self.device)

    def _count(self, ratio: float, indices: np.ndarray) -> int:
        """Synthetic features a class: `ratio` times the mean number of real features of a seen class."""
        return max(1, round(ratio * len(indices) / len(np.unique(self.work.bench.labels[indices]))))

    def _fit(self, phase: str, x: Tensor, indices: np.ndarray, classes: np.ndarray) -> Generator:
        """The generator of a phase, trained on from where the folder's state has left it. Raises `Interrupted`."""
        s, state = self.settings, self.folder.load_state()
        targets = torch.as_tensor(np.searchsorted(classes, self.work.bench.labels[indices]), device=self.device)

        def save(state: dict[str, Any]) -> None:
            self.folder.save_state({**state, "phase": phase, "epoch": state["step"],
                                    "seconds": time.monotonic() - self.begun})

        names = [self.work.bench.class_names[c] for c in classes]
        found = fit(GENERATORS[s.generator], x, targets, self._rows(classes), s.own, self.seed, save=save, names=names,
                    state=state if state and state["phase"] == phase else None, every=SAVE_SECONDS,
                    stop=self.real.stop.is_set, title=f"{phase}, {s.generator}", quiet=self.work.quiet)
        if found is None:
            raise Interrupted
        return found

    def _layer(self, generator: Generator, x: Tensor, labels: np.ndarray, synthetic: Tensor, unseen: np.ndarray,
               space: np.ndarray) -> torch.nn.Linear:
        """The classifier over the classes `space` of real features [n,D] and synthetic ones [U,m,D] of `unseen`."""
        every = np.concatenate([labels, np.repeat(unseen, synthetic.shape[1])])
        targets = torch.as_tensor(np.searchsorted(space, every), device=self.device)
        with torch.no_grad():
            features = torch.cat([generator.space(x), generator.space(synthetic.flatten(0, 1))])
        if self.settings.classifier == "nearest":
            return nearest(features, targets, len(space))
        return softmax(features, targets, len(space), self.settings.linear, self.seed)


def describe(row: dict[str, Any]) -> str:
    """One line on a number of synthetic features, beside what a tau would give."""
    read, also = metrics.tau_text(row["tau"]), row["with_tau"]
    return ("{samples} synthetic features a class: validation U {U:.1f}  S {S:.1f}  H {H:.1f} at tau ".format(**row)
            + f"{read}; with a tau of {metrics.tau_text(also['tau'])} H {also['H']:.1f}")
