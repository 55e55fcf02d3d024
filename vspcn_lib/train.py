"""Select on validation classes, retrain on trainval, evaluate once: one flat loop and what surrounds it."""

from __future__ import annotations

import contextlib
import math
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vspcn_lib import losses, metrics
from vspcn_lib.config import Config
from vspcn_lib.model import VSPCN
from vspcn_lib.runs import RunFolder, command_line, environment
from vspcn_lib.splits import Benchmark
from vspcn_lib.workspace import Workspace


class LeakError(RuntimeError):
    """Unseen images were about to reach training, statistics or selection."""


class Interrupted(RuntimeError):
    """The user pressed Ctrl-C; everything up to the last step is saved."""


def guard(bench: Benchmark, indices: np.ndarray, forbidden: np.ndarray, stage: str) -> None:
    """Raise `LeakError` if an image of a `forbidden` class, or any test image, is among `indices`."""
    bad = indices[np.isin(bench.labels[indices], forbidden)]
    test = np.intersect1d(indices, np.concatenate([bench.test_seen, bench.test_unseen]))
    if len(bad) or len(test):
        first = int((bad if len(bad) else test)[0])
        raise LeakError(f"{stage}: {len(bad)} images of unseen classes and {len(test)} test images would be used, "
                        f"first {bench.image_paths[first].name} of class {bench.class_names[bench.labels[first]]}: "
                        "the split is wrong, check it with `data verify`")


def selection_split(bench: Benchmark, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images of the classes that are not validation classes, split in (fit, held-out), per class."""
    rng, fit, held = np.random.default_rng(seed), [], []
    for c in np.setdiff1d(bench.seen_classes, bench.val_classes):
        images = rng.permutation(bench.train[bench.labels[bench.train] == c])
        cut = max(1, round(share * len(images)))
        held.append(images[:cut])
        fit.append(images[cut:])
    return np.sort(np.concatenate(fit)), np.sort(np.concatenate(held))


def thin(bench: Benchmark, indices: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """At most `per_class` of `indices` for each class, drawn by `seed`; 0 keeps all."""
    if not per_class:
        return indices
    shuffled = np.random.default_rng(seed).permutation(indices)
    labels = bench.labels[shuffled]
    return np.sort(np.concatenate([shuffled[labels == c][:per_class] for c in np.unique(labels)]))


def forward(model: VSPCN, x: Tensor) -> dict[str, Tensor]:
    """Unit embeddings by stream, of images [B,3,H,W] or of cls features [B,D] computed once."""
    return model(x).embedded if x.dim() == 4 else model.heads({"cls": x})


@torch.no_grad()
def score(work: Workspace, model: VSPCN, indices: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The cls score matrix [n, len(classes)] of images `indices`, float32."""
    model.eval()
    rows = torch.as_tensor(work.bench.prototypes[classes], device=work.accelerator.device)
    prototypes = model.heads.prototypes(rows)
    batches, out = work.batches(indices, augment=False), []
    for x, _, _ in tqdm(batches.epoch(0), "scores", len(batches), leave=False):
        with work.accelerator.autocast():
            embedded = forward(model, x)
        out.append(model.heads.scores({"cls": embedded["cls"].float()}, prototypes)["cls"].cpu())
    return torch.cat(out).numpy()


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[dict[str, bool]]:
    """Ctrl-C sets a flag that the loop reads after the step; a second one stops at once."""
    flag = {"stop": False}

    def handler(signum: int, frame: object) -> None:
        if flag["stop"]:
            raise KeyboardInterrupt
        flag["stop"] = True

    try:
        old = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread (a notebook's worker): no handler, the flag stays down
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, old)


def fit(work: Workspace, folder: RunFolder, phase: str, indices: np.ndarray, epochs: int,
        validation: tuple[np.ndarray, np.ndarray] | None = None) -> tuple[VSPCN, list[dict[str, float]]]:
    """Train on `indices` for `epochs`; with `validation` = (held-out, val-class images) measure each epoch.

    Continues from the folder's state if it belongs to `phase`. Returns the model and one row an epoch.
    Raises `Interrupted`, `LeakError`, or FloatingPointError for a loss that is not finite.
    """
    c, bench, acc = work.config, work.bench, work.accelerator
    classes = np.unique(bench.labels[indices])
    guard(bench, indices, np.union1d(bench.unseen_classes, bench.val_classes if validation else []), phase)
    position = torch.full((bench.num_classes,), -1, device=acc.device)
    position[torch.as_tensor(classes, device=acc.device)] = torch.arange(len(classes), device=acc.device)
    attributes = torch.as_tensor(bench.prototypes[classes], device=acc.device)  # seen classes only

    model = work.model()
    batches = work.batches(indices, augment=c.train.augment or not c.model.prompted)
    optimiser = torch.optim.Adam(model.trainable().values(), lr=c.train.lr, weight_decay=c.train.weight_decay,
                                 fused=True)
    total, history, first, skip = c.train.epochs * len(batches), [], 0, 0
    state = folder.load_state()
    if state and state["phase"] == phase:
        model.load_state_dict(state["model"], strict=False)
        optimiser.load_state_dict(state["optimiser"])
        history, first, skip = state["history"], state["epoch"], state["batch"]

    def save(epoch: int, batch: int) -> None:
        if acc.is_main_process:
            folder.save_state({"phase": phase, "epoch": epoch, "batch": batch, "model": model.state(),
                               "optimiser": optimiser.state_dict(), "history": history})

    with stop_on_interrupt() as flag:
        for epoch in range(first, epochs):
            model.train()
            bar = tqdm(batches.epoch(epoch, skip), f"{phase} {epoch + 1}/{epochs}", len(batches), initial=skip,
                       leave=False, disable=not acc.is_main_process)
            for batch, (x, labels, _) in enumerate(bar, skip):
                # Learning rate: linear warm-up over a tenth, then a cosine down to a hundredth of the peak.
                step = epoch * len(batches) + batch
                lr = c.train.lr * min(1.0, (step + 1) / max(1, 0.1 * total))
                lr *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total))
                for group in optimiser.param_groups:
                    group["lr"] = lr

                # Each process takes its share of the batch; one image alone has no batch statistics.
                x, labels = x[acc.process_index::acc.num_processes], labels[acc.process_index::acc.num_processes]
                if len(x) < 2:
                    continue

                with acc.autocast():
                    embedded = forward(model, x)
                embedded = {s: e.float() for s, e in embedded.items()}
                prototypes = model.heads.prototypes(attributes)
                targets = position[labels.to(acc.device)]
                parts = losses.total(model.heads.scores(embedded, prototypes), embedded, targets,
                                     prototypes[targets], c.model.scale, c.loss)

                acc.backward(parts["total"] / c.train.accumulate)
                if (batch + 1) % c.train.accumulate == 0 or batch + 1 == len(batches):
                    used = [p for p in model.trainable().values() if p.grad is not None]
                    if acc.num_processes > 1:
                        for p in used:
                            p.grad = acc.reduce(p.grad, reduction="mean")
                    norm = torch.nn.utils.clip_grad_norm_(used, c.train.clip)
                    optimiser.step()
                    optimiser.zero_grad(set_to_none=True)
                    if acc.is_main_process:
                        row = {k: round(v.item(), 5) for k, v in parts.items()}
                        folder.log("steps.jsonl", {"phase": phase, "step": step, "lr": lr, "norm": norm.item(), **row})
                        bar.set_postfix(loss=f"{row['total']:.3f}")
                    if flag["stop"]:
                        save(epoch, batch + 1)
                        raise Interrupted(f"stopped after step {step}, saved in {folder.path}; continue with\n"
                                          f"  {command_line()} --resume")
            skip = 0
            if validation:
                history.append(validate(work, model, *validation, epoch + 1))
                if acc.is_main_process:
                    folder.log("epochs.jsonl", {"phase": phase, **history[-1]})
                if c.model.prompted:  # the linear head's epochs pass in a blink
                    acc.print(describe(history[-1]))
            save(epoch + 1, 0)
    return model, history


def describe(row: dict[str, float]) -> str:
    """One line on a validation epoch."""
    return "  epoch {epoch}: validation U {U:.1f}  S {S:.1f}  H {H:.1f} at tau {tau:+.2f}".format(**row)


def validate(work: Workspace, model: VSPCN, held_out: np.ndarray, pseudo: np.ndarray, epoch: int) -> dict[str, float]:
    """U, S, H at the tau of the best H on pseudo-unseen validation classes and held-out training images."""
    bench = work.bench
    indices = np.concatenate([held_out, pseudo])
    guard(bench, indices, bench.unseen_classes, "selection")
    classes = bench.seen_classes
    scores = score(work, model, indices, classes)
    labels, unseen = np.searchsorted(classes, bench.labels[indices]), np.isin(classes, bench.val_classes)
    sweep = metrics.tau_sweep(scores, labels, unseen)
    row = sweep.iloc[int(sweep["H"].to_numpy().argmax())]
    return {"epoch": epoch, **{k: float(row[k]) for k in ("tau", "U", "S", "H")},
            "AUSUC": metrics.ausuc(scores, labels, unseen)}


def run(config: Config, out: Path, resume: bool = False, work: Workspace | None = None) -> dict[str, Any]:
    """The whole protocol: select epoch and tau on validation classes, retrain on trainval, evaluate once.

    Writes the run folder `out` and returns its result record; a finished run is returned as it is.
    """
    folder = RunFolder.create(out, config, resume)
    done = folder.read_json("result.json")
    if done:
        return done
    work = work or Workspace.open(config)
    t, bench, start = config.train, work.bench, time.time()
    selected = folder.read_json("selection.json")
    if selected is None:
        inner, held_out = selection_split(bench, t.held_out, t.seed)
        inner = thin(bench, inner, config.data.images_per_class, t.seed)
        validation = (thin(bench, held_out, config.data.images_per_class, t.seed),
                      thin(bench, bench.val, config.data.images_per_class, t.seed))
        _, history = fit(work, folder, "select", inner, t.epochs, validation)
        selected = {"best": max(history, key=lambda row: row["H"]), "epochs": history}
        folder.write_json("selection.json", selected)
    work.accelerator.print("kept" + describe(selected["best"]))
    trainval = thin(bench, bench.trainval, config.data.images_per_class, t.seed)
    model, _ = fit(work, folder, "final", trainval, selected["best"]["epoch"])
    folder.save_checkpoint(model.state(), work.backbone.source)
    result = evaluate(work, folder, model, selected["best"])
    result["seconds"] = round(time.time() - start, 1)
    folder.write_json("result.json", result)
    return result


def evaluate(work: Workspace, folder: RunFolder, model: VSPCN, selected: dict[str, float]) -> dict[str, Any]:
    """Score the test images once, save the matrix, and compute every metric from it, with its provenance."""
    bench = work.bench
    test = np.concatenate([bench.test_seen, bench.test_unseen])
    scores = score(work, model, test, np.arange(bench.num_classes))
    labels, unseen = bench.labels[test], bench.unseen_mask
    folder.save_scores(scores=scores, labels=labels, unseen=unseen, indices=test, tau=np.array(selected["tau"]))
    return {
        **test_metrics(scores, labels, unseen, selected["tau"]),
        "validation": selected, "score_space": f"cls cosine x {work.config.model.scale:g}",
        "parameters": {"trainable": sum(p.numel() for p in model.trainable().values()),
                       "total": sum(p.numel() for p in model.parameters())},
        "images": {"trainval": len(thin(bench, bench.trainval, work.config.data.images_per_class, 0)),
                   "test_seen": len(bench.test_seen), "test_unseen": len(bench.test_unseen)},
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "benchmark": bench.name, "split": bench.split_hash, "note": bench.note,
        "backbone": work.backbone.source, "vectors": work.vector_source,
        "seed": work.config.train.seed, "environment": environment(),
    }


def test_metrics(scores: np.ndarray, labels: np.ndarray, unseen: np.ndarray, tau: float) -> dict[str, Any]:
    """U, S, H at the validation tau, the same at the oracle tau (test labels!), CZSL and AUSUC."""
    sweep = metrics.tau_sweep(scores, labels, unseen)
    oracle = metrics.best_tau(sweep)
    chosen, best = (metrics.gzsl_metrics(scores, labels, unseen, t) for t in (tau, oracle))
    return {"tau": tau, "U": chosen.U, "S": chosen.S, "H": chosen.H, "CZSL": chosen.CZSL,
            "AUSUC": metrics.ausuc(scores, labels, unseen),
            "oracle": {"tau": oracle, "U": best.U, "S": best.S, "H": best.H}}
