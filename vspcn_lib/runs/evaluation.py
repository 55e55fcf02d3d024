"""What is measured on held-out images: the leak guard, score matrices, validation rows and the test record."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from vspcn_lib import metrics
from vspcn_lib.config import Config
from vspcn_lib.data.splits import Benchmark
from vspcn_lib.runs import calibration
from vspcn_lib.runs.embedded import keep_embedded
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.processes import gather, share
from vspcn_lib.runs.workspace import Workspace, autocast
from vspcn_lib.system.environment import environment
from vspcn_lib.system.memory import peak_mib, room
from vspcn_lib.zeroshot import ZeroShotModel


class LeakError(RuntimeError):
    """Unseen images were about to reach training, statistics or selection."""


class ScoreError(ValueError):
    """A model returns scores that are not finite; the message names an image."""


def guard(bench: Benchmark, indices: np.ndarray, forbidden: np.ndarray, stage: str) -> None:
    """Raise `LeakError` if an image of a `forbidden` class, or any test image, is among `indices`."""
    bad = indices[np.isin(bench.labels[indices], forbidden)]
    test = np.intersect1d(indices, np.concatenate([bench.test_seen, bench.test_unseen]))
    if len(bad) or len(test):
        first = int((bad if len(bad) else test)[0])
        raise LeakError(f"{stage}: {len(bad)} images of unseen classes and {len(test)} test images would be used, "
                        f"first {bench.image_paths[first].name} of class {bench.class_names[bench.labels[first]]}: "
                        "the split is wrong, check it with `data verify`")


def forward(model: ZeroShotModel, x: Tensor) -> dict[str, Tensor]:
    """Embeddings by stream, of images [B,3,H,W] or of what a cached method kept of them, [B,...]."""
    return model.embed(model.features(x) if x.dim() == 4 else model.unfrozen(x))


def embed(config: Config, model: ZeroShotModel, x: Tensor) -> dict[str, Tensor]:
    """`forward` in the precision of the config, in which tau is chosen and every image is read.

    Images of a `cached` method pass through what is kept of them in float32, as `Workspace.features` keeps it.
    """
    with autocast(config, x.device):
        return forward(model, model.frozen(x).float() if x.dim() == 4 and model.cached(config) else x)


@torch.inference_mode()
def score(work: Workspace, model: ZeroShotModel, indices: np.ndarray, classes: np.ndarray,
          kept: list[np.ndarray] | None = None) -> np.ndarray:
    """The score matrix [n, len(classes)] of images `indices`, float32; each process scores its share of them.

    The cls embeddings [B,E] of its batches, of the same pass, are appended to `kept`. A matrix larger than a quarter
    of the memory lies in a mapped file, which the metrics read in chunks.
    """
    model.eval()
    acc = work.accelerator
    rows = torch.as_tensor(work.bench.prototypes[classes], device=acc.device)
    prototypes = model.prototypes(rows)
    mine = share(indices, acc)
    batches, out, done = work.batches(mine, augment=False), room((len(mine), len(classes))), 0
    hidden = work.quiet or not acc.is_main_process or model.cached(work.config)  # kept features pass in a blink
    for x, _, _ in tqdm(batches.epoch(0), "scores", len(batches), leave=False, disable=hidden):
        embedded = embed(work.config, model, x)
        out[done:done + len(x)] = model.scores(embedded, prototypes).cpu()
        if kept is not None and "cls" in embedded:
            kept.append(embedded["cls"].float().cpu().numpy())
        done += len(x)
    if acc.num_processes > 1:
        out = gather(torch.from_numpy(out).to(acc.device), len(indices), acc).cpu().numpy()
    bad = next((i for i, row in enumerate(out) if not np.isfinite(row).all()), None)
    if bad is not None:
        raise ScoreError(f"the scores of {work.bench.image_paths[indices[bad]]} are NaN or infinite: so are the "
                         "weights or the word vectors; train again with a lower train.lr")
    return out


def describe(row: dict[str, float]) -> str:
    """One line on a validation epoch."""
    tau = metrics.tau_text(row["tau"])
    return "  epoch {epoch}: validation U {U:.1f}  S {S:.1f}  H {H:.1f} at tau {}".format(tau, **row)


def validate(work: Workspace, model: ZeroShotModel, held_out: np.ndarray, pseudo: np.ndarray,
             epoch: int) -> dict[str, Any]:
    """U, S, H at the tau of the best H on pseudo-unseen validation classes and held-out training images.

    `carried` is what each calibrator takes of that tau to the final model; it reads the held-out images alone.
    """
    bench = work.bench
    indices = np.concatenate([held_out, pseudo])
    guard(bench, indices, bench.unseen_classes, "selection")
    classes = bench.seen_classes
    scores = score(work, model, indices, classes)
    labels, unseen = np.searchsorted(classes, bench.labels[indices]), np.isin(classes, bench.val_classes)
    sweep = metrics.tau_sweep(scores, labels, unseen)
    row = metrics.best_row(sweep)
    return {"epoch": epoch, **row, "AUSUC": metrics.area(sweep),
            "carried": calibration.carry(row["tau"], calibration.Held.of(scores, labels, unseen))}


def calibrate(work: Workspace, model: ZeroShotModel, held: np.ndarray, selected: dict[str, Any]) -> dict[str, Any]:
    """The final model's tau, and what each calibrator would make of the `selected` row.

    Reads the `held` training images, which the model never saw, against the prototypes of all classes. Raises
    `LeakError` where one of them is of an unseen class or a test image.
    """
    bench, name = work.bench, work.config.train.calibration
    if name == "raw":
        return {"by": name, "tau": selected["tau"], "held_out": 0, "taus": {"raw": selected["tau"]}}
    guard(bench, held, bench.unseen_classes, "calibration")
    scores = score(work, model, held, np.arange(bench.num_classes))
    seen = calibration.Held(scores, bench.labels[held], bench.unseen_mask)
    silent, carried = calibration.silent(name, selected["carried"]), selected["carried"]
    known = [n for n in calibration.NAMES if n in carried or n in (name, "consensus")]
    taus = {n: calibration.land(n, carried, seen) for n in known}
    if silent:
        work.say(f"{', '.join(silent)} could carry no tau over, because selection's held-out images gave "
                 "no unit for it: median-shift took its place")
    return {"by": name, "tau": taus[name], "held_out": len(held), **({"silent": silent} if silent else {}),
            "retention": {"selection": carried["retention"],
                          "final": calibration.retention(seen).to(taus[name])}, "taus": taus}


def evaluate(work: Workspace, folder: RunFolder, model: ZeroShotModel, selected: dict[str, Any],
             calibrated: dict[str, Any] | None = None) -> dict[str, Any]:
    """Score the test images once, save the matrix, and compute every metric from it, with its provenance.

    At the tau of `calibrate`, or without it at that of the `selected` row.
    """
    bench, tau = work.bench, (calibrated or selected)["tau"]
    test = np.concatenate([bench.test_seen, bench.test_unseen])
    kept: list[np.ndarray] = []
    scores = score(work, model, test, np.arange(bench.num_classes), kept)
    labels, unseen = bench.labels[test], bench.unseen_mask
    if work.accelerator.is_main_process:
        folder.save_scores(scores=scores, labels=labels, unseen=unseen, indices=test, tau=np.array(tau),
                           class_names=np.array(bench.class_names, dtype=str))
        if kept and work.accelerator.num_processes == 1:  # of several each has only its share
            keep_embedded(folder, np.concatenate(kept))
    return {
        **test_metrics(scores, labels, unseen, tau),
        **({"calibration": calibrated} if calibrated else {}), "validation": selected, "score_space": model.score_space,
        "parameters": {"trainable": sum(p.numel() for p in model.trainable().values()),
                       "total": sum(p.numel() for p in model.parameters())},
        "images": {"test_seen": len(bench.test_seen), "test_unseen": len(bench.test_unseen)},
        "peak_gib": round(peak_mib(work.accelerator.device) / 2**10, 2),
        "benchmark": bench.name, "split": bench.split_hash, "note": bench.note,
        "backbone": work.backbone.source, "vectors": work.vector_source,
        "vector_notes": list(work.vector_notes),
        "seed": work.config.train.seed, "environment": made_by(folder),
    }


def made_by(folder: RunFolder) -> dict[str, Any]:
    """`environment()` as the run began (environment.json); its commit is FIRST..LAST where that changed."""
    now = environment()
    first = folder.read_json("environment.json") or now
    same = first["commit"].endswith(now["commit"])
    return first if same else {**first, "commit": f"{first['commit']}..{now['commit']}"}


def test_metrics(scores: np.ndarray, labels: np.ndarray, unseen: np.ndarray, tau: float) -> dict[str, Any]:
    """U, S, H at `tau`, the same at the oracle tau (test labels!), how far H is below it, CZSL and AUSUC."""
    sweep = metrics.tau_sweep(scores, labels, unseen)
    oracle = metrics.best_tau(sweep)
    chosen, best = (metrics.gzsl_metrics(scores, labels, unseen, t) for t in (tau, oracle))
    return {"tau": tau, "U": chosen.U, "S": chosen.S, "H": chosen.H, "CZSL": chosen.CZSL,
            "AUSUC": metrics.area(sweep), "gap": best.H - chosen.H,
            "oracle": {"tau": oracle, "U": best.U, "S": best.S, "H": best.H}}
