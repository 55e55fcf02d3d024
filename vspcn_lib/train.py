"""Select on validation classes, retrain on trainval, evaluate once: one flat loop and what surrounds it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from vspcn_lib import losses
from vspcn_lib.config import Config
from vspcn_lib.data.images import epoch_rows
from vspcn_lib.methods.registry import method
from vspcn_lib.runs.calibration import averaged, calibration_share, class_folds, hold_out
from vspcn_lib.runs.counts import check_counts, selection_split, thin
from vspcn_lib.runs.evaluation import calibrate, describe, evaluate, guard, made_by, validate
from vspcn_lib.runs.finished import check_built, check_finished
from vspcn_lib.runs.folder import RunError, RunFolder, together
from vspcn_lib.runs.heads import head_alone, numbering, start_heads
from vspcn_lib.runs.kept import Kept
from vspcn_lib.runs.paths import measure
from vspcn_lib.runs.pieces import Pieces
from vspcn_lib.runs.processes import own_rows, sum_gradients
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.system.files import whole_rows
from vspcn_lib.zeroshot import Classes, ZeroShotModel

SAVE_SECONDS = 300.0  # a kill or a power cut costs at most this much work, and never an epoch of hours


class Interrupted(RuntimeError):
    """The user pressed Ctrl-C; everything up to the last step is saved."""


@contextlib.contextmanager
def stop_on_interrupt(stop: Event) -> Iterator[None]:
    """Ctrl-C sets `stop`, which the loop reads after the step; a second one stops at once."""
    def handler(signum: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    try:
        old = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread (a notebook's worker): no handler, only its owner sets `stop`
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


def fit(work: Workspace, folder: RunFolder, phase: str, indices: np.ndarray, epochs: int,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        stop: Event | None = None) -> tuple[ZeroShotModel, list[dict[str, float]]]:
    """Train on `indices` for `epochs`; with `validation` = (held-out, val-class images) measure each epoch.

    `stop` ends it after the current step, as Ctrl-C does. Continues from the folder's state of `phase`.
    Returns the model and one row an epoch.
    Raises `Interrupted`, `LeakError`, `NotFinite` for a loss or gradient, `DeviceFull`; `BenchmarkError` where there is
    too little to train on or to select by, `FeatureError` for NaN out of the ViT, `RunError` for another run's state.
    """
    c, bench, acc = work.config, work.bench, work.accelerator
    classes = np.unique(bench.labels[indices])
    guard(bench, indices, np.union1d(bench.unseen_classes, bench.val_classes if validation else []), phase)
    check_counts(c, bench, phase, indices, validation)
    if method(c).candidates:
        return _solve(work, indices, classes, epochs, validation)
    position = numbering(work, classes)
    known = losses_may_see(work, classes, in_selection=validation is not None)

    model = work.model()
    batches = work.batches(indices, augment=c.train.augment, shuffle=True, shared=True)
    optimiser = model.optimiser(c.train)
    total, history, first, skip = c.train.epochs * len(batches), [], 0, 0
    sizes = [len(rows) for rows in epoch_rows(batches.order, len(indices), c.train.batch_size, c.train.seed, 0)]
    if 1 in sizes:
        work.say(f"{phase}: {sizes.count(1)} of {len(sizes)} batches hold one image, which has no batch statistics: it "
                 "is left out, another one in each epoch")

    def objective(features: dict[str, Tensor], embedded: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        return model.loss(features, embedded, targets, known, c)

    pieces = Pieces(model, acc, work.autocast, c.train.accumulate, c.train.batch_size)
    state = folder.load_state()
    begun = time.monotonic() - (state or {}).get("seconds", 0.0)  # of all sessions and both phases
    if state and state["phase"] == phase:
        try:
            model.load_state_dict(state["model"], strict=False)
            optimiser.load_state_dict(state["optimiser"])
            history, first, skip, pieces.micro = (state[k] for k in ("history", "epoch", "batch", "micro"))
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{folder.path}/state.pt is not of this run, or of another version ({error}): delete "
                           "state*.pt to start the phase anew") from error
    elif not model.cached(c):
        with work.autocast():
            model.begin(work.some_images(indices))
        if c.train.head_epochs and model.heads_first:
            start_heads(work, model, indices, position, objective)
    if acc.is_main_process:
        folder.rewind(phase, first * len(batches) + skip, first)  # what comes again is logged once

    def save(epoch: int, batch: int) -> None:
        # Data order, augmentation and learning rate follow from (seed, epoch, batch): no generator needs keeping.
        if acc.is_main_process:
            folder.save_state({"phase": phase, "epoch": epoch, "batch": batch, "model": model.state(),
                               "optimiser": optimiser.state_dict(), "history": history, "micro": pieces.micro,
                               "seconds": time.monotonic() - begun})

    stop, saved, hidden = stop or Event(), time.monotonic(), work.quiet or not acc.is_main_process
    with stop_on_interrupt(stop):
        for epoch in tqdm(range(first, epochs), phase, epochs, initial=first, leave=False, mininterval=1,
                          disable=hidden or not model.cached(c)):  # one bar: such epochs pass in a blink
            model.train()
            bar = tqdm(batches.epoch(epoch, skip), f"{phase} {epoch + 1}/{epochs}", len(batches), initial=skip,
                       leave=False, disable=hidden or model.cached(c))
            for batch, (x, labels, _) in enumerate(bar, skip):
                # The learning rate of each group of parameters, as the method's schedule has it.
                step = epoch * len(batches) + batch
                for group in optimiser.param_groups:
                    group["lr"] = model.rate(group["peak"], step, total, epoch)

                # Each process gets its share of the images; heads and losses see the features of all of them. One
                # image alone has no batch statistics.
                if len(labels) > 1:
                    micro = pieces.micro
                    targets = position[labels.to(acc.device)]
                    own = targets[torch.as_tensor(own_rows(len(targets), acc), device=acc.device)]
                    parts = pieces.backward(x, known.seen[own], targets, objective)
                    if pieces.micro < micro:
                        folder.log("events.jsonl", {"phase": phase, "step": step, "event": "out of device memory",
                                                    "images_at_once": pieces.micro})
                        work.say(f"{phase}, step {step}: out of device memory; from here {pieces.micro} images at "
                                 f"once, the batch stays {len(x)} and its statistics whole")

                used = {n: p for n, p in model.trainable().items() if p.grad is not None}
                if used and ((batch + 1) % c.train.accumulate == 0 or batch + 1 == len(batches)):
                    stopping = sum_gradients(model, used.values(), acc, stop.is_set())
                    norm = losses.clip_gradients(used, c.train.clip)
                    optimiser.step()
                    optimiser.zero_grad(set_to_none=True)
                    if acc.is_main_process:
                        row = {k: round(v.item(), 5) for k, v in parts.items()}
                        part = model.rate(1.0, step, total, epoch)  # of each group's own peak
                        folder.log("steps.jsonl", {"phase": phase, "step": step, "of_peak_lr": part,
                                                   "norm": norm.item(), **row})
                        bar.set_postfix(loss=f"{row['total']:.3f}", refresh=False)
                    stopping = stopping or (acc.num_processes == 1 and stop.is_set())  # several must agree first
                    if stopping or time.monotonic() - saved > SAVE_SECONDS:
                        save(epoch, batch + 1)
                        saved = time.monotonic()
                    if stopping:
                        raise Interrupted(f"stopped after step {step}, saved; continue with\n"
                                          f"  python -m vspcn_lib resume {folder.path}")
            skip = 0
            if validation:
                history.append(validate(work, model, *validation, epoch + 1))
                if acc.is_main_process:
                    folder.log("epochs.jsonl", {"phase": phase, **history[-1]})
                if not model.cached(c):
                    work.say(describe(history[-1]))
            save(epoch + 1, 0)
            saved = time.monotonic()
    return model, history


def losses_may_see(work: Workspace, classes: np.ndarray, in_selection: bool) -> Classes:
    """The attribute rows of the trained `classes`, and for a method that states so those of the unseen ones.

    In selection the validation classes play unseen; the real unseen classes do not exist yet.
    """
    bench, device = work.bench, work.accelerator.device
    seen = torch.as_tensor(bench.prototypes[classes], device=device)
    if not method(work.config).uses_unseen_prototypes:
        return Classes(seen)
    unseen = bench.val_classes if in_selection else bench.unseen_classes
    return Classes(seen, torch.as_tensor(bench.prototypes[unseen], device=device))


def _solve(work: Workspace, indices: np.ndarray, classes: np.ndarray, epochs: int,
           validation: tuple[np.ndarray, np.ndarray] | None) -> tuple[ZeroShotModel, list[dict[str, float]]]:
    """`fit` for a closed form: an 'epoch' is one of the method's candidates, and the last of `epochs` is kept."""
    bench, device, model, history = work.bench, work.accelerator.device, work.model(), []
    features = work.features(indices).to(device)
    targets = torch.as_tensor(np.searchsorted(classes, bench.labels[indices]), device=device)
    attributes = torch.as_tensor(bench.prototypes[classes], device=device)
    every = list(enumerate(model.candidates, 1))
    for epoch, candidate in every if validation else every[epochs - 1:epochs]:
        chosen = model.solve(features, targets, attributes, candidate)
        if validation:
            history.append({**validate(work, model, *validation, epoch), **chosen})
    return model.eval(), history


def select(work: Workspace, folder: RunFolder, stop: Event | None = None) -> dict[str, Any]:
    """The first half of the protocol: epoch and tau of the best H on validation classes; kept in selection.json.

    Returns {"best": row, "epochs": rows}, and where the model reads images again and again "head": the row of its heads
    alone on the frozen ViT. No test image is read, so settings may be compared by best["H"].
    """
    if missing := folder.check_inputs(work.inputs, work.accelerator.is_main_process):
        work.say(f"{folder.path} began under an older version, which did not keep {', '.join(missing)}: unchecked")
    selected = folder.read_json("selection.json")
    if selected is None:
        t, most, histories, selected = work.config.train, work.config.data.images_per_class, [], {}
        for i, bench in enumerate(class_folds(work.bench, t.folds, t.seed), 1):
            phase = "select" if i == 1 else f"select {i}"
            inner, held_out = selection_split(bench, t.held_out, t.seed)
            inner = thin(bench, inner, most, t.seed)
            validation = thin(bench, held_out, most, t.seed), thin(bench, bench.val, most, t.seed)
            history = folder.read_json(f"{phase}.json")  # of a fold that an earlier session finished
            if history is None:
                _, history = fit(replace(work, bench=bench), folder, phase, inner, t.epochs, validation, stop)
                if work.accelerator.is_main_process and t.folds > 1:
                    folder.write_json(f"{phase}.json", history)
            histories.append(history)
            if i == 1 and not method(work.config).cached(work.config):
                selected["head"] = head_alone(replace(work, bench=bench), inner, validation)
        rows = averaged(histories)
        selected |= {"best": max(rows, key=lambda row: row["H"]), "epochs": rows}
        if work.accelerator.is_main_process:
            folder.write_json("selection.json", selected)
        if "head" in selected:
            best, head = selected["best"]["H"], selected["head"]["H"]
            worse = f". That is more than {best:.1f}: what was trained besides made it worse" if head > best else ""
            work.say(f"its heads alone on the frozen ViT: validation H {head:.1f}{worse}")
    return selected


def run(config: Config, out: Path, resume: bool = False, work: Workspace | None = None,
        stop: Event | None = None) -> dict[str, Any]:
    """The whole protocol: select epoch and tau on validation classes, retrain on trainval, calibrate, evaluate once.

    Writes the run folder `out` and returns its result record; with `resume` a finished run is returned as it is.
    Raises `RunError` where `out` holds a run and `resume` is false, or one of other settings or data, and whatever
    `Workspace.open` and `fit` raise.
    """
    with RunFolder.open(out, config, resume) as folder:
        if folder.read_json("generate.json") is not None:
            raise RunError(f"{out} holds a generator of features, not a run of images: `python -m vspcn_lib resume "
                           f"{out}` finishes it, or choose another --out")
        done = folder.read_json("result.json")
        if done:
            check_finished(folder, done, config, work and work.inputs)
            return done
        if resume:
            check_built(folder)
        work = work or Workspace.open(config)
        with together():
            work.accelerator.wait_for_everyone()
        if work.accelerator.is_main_process:
            folder.write_json("environment.json", made_by(folder))  # now: the code may be edited while this runs
        earlier = (folder.load_state() or {}).get("seconds", 0.0)  # of the sessions before this one
        trainval = thin(work.bench, work.bench.trainval, config.data.images_per_class, config.train.seed)
        trainval, held = hold_out(work.bench, trainval, calibration_share(config.train), config.train.seed)
        start, selected = time.monotonic(), select(work, folder, stop)  # a clock that nobody can set
        best = selected["best"]
        work.say("kept" + describe(best))
        model, _ = fit(work, folder, "final", trainval, best["epoch"], stop=stop)
        calibrated = calibrate(work, model, held, best)
        result = {**evaluate(work, folder, model, best, calibrated), "trained_on": len(trainval),
                  "inputs": folder.read_json("inputs.json"), "seconds": round(earlier + time.monotonic() - start, 1)}
        result |= {"head": selected["head"]} if "head" in selected else {}
        events = whole_rows(folder.path / "events.jsonl")  # what a reader of the numbers should know
        result |= {"events": events} if events else {}
        if work.accelerator.is_main_process:
            Kept.of(work).write(folder.path)
            folder.save_checkpoint(model.state(), work.backbone.source)
            if worth := measure(work, model, tau=calibrated["tau"]):
                result["paths"] = worth
            folder.write_json("result.json", result)
        with together():
            work.accelerator.wait_for_everyone()
        return result
