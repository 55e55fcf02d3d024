"""Heads alone, on features that each image gave once: as the start of a run, and as what it must be worth more than."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from vspcn_lib.config import update
from vspcn_lib.data.images import shuffled
from vspcn_lib.runs.evaluation import validate
from vspcn_lib.runs.pieces import Objective
from vspcn_lib.runs.workspace import FeatureBatches, Workspace
from vspcn_lib.zeroshot import Classes, ZeroShotModel

# VSPCN without prompts: heads on the frozen ViT's cls feature.
ALONE = {"model": {"method": "vspcn", "visual_prompts": 0, "semantic_prompts": 0, "readout": "cls"},
         "loss": {"lambda_ced": 0.0, "lambda_skd": 0.0, "gamma": 0.0}}


def numbering(work: Workspace, classes: np.ndarray) -> Tensor:
    """The place of each of the benchmark's classes [C] among the trained `classes`, -1 for the others."""
    position = torch.full((work.bench.num_classes,), -1, device=work.accelerator.device)
    position[torch.as_tensor(classes, device=position.device)] = torch.arange(len(classes), device=position.device)
    return position


def head_alone(work: Workspace, indices: np.ndarray, validation: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """The validation row (U, S, H, tau, AUSUC) of heads trained alone on the frozen ViT, 30 epochs on `indices`.

    What prompts, fusion or a tuned ViT should be worth more than, on the very same images; it costs one pass over them.
    """
    alone = replace(work, config=update(work.config, {**ALONE, "train": {"head_epochs": 30}}))
    classes = np.unique(work.bench.labels[indices])
    position = numbering(work, classes)
    known = Classes(torch.as_tensor(work.bench.prototypes[classes], device=position.device))
    model = alone.model()

    def objective(features: dict[str, Tensor], embedded: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        return model.loss(features, embedded, targets, known, alone.config)

    train_heads(alone, model, alone.features(indices).unsqueeze(1), ["cls"], indices, position, objective)
    row = validate(alone, model, *validation, 30)
    return {name: row[name] for name in ("U", "S", "H", "tau", "AUSUC")}


def start_heads(work: Workspace, model: ZeroShotModel, indices: np.ndarray, position: Tensor,
                objective: Objective) -> None:
    """Train the heads alone for `head_epochs`, on the features [n,D] by stream that the model gives at its start.

    Linear probing before fine-tuning (Kumar et al., ICLR 2022): random heads would push their noise into prompts
    and fusion for the first epochs. Each image passes the ViT once, so this costs a third of an epoch.
    """
    found = []
    model.eval()
    with torch.no_grad(), work.autocast():
        plain = work.batches(indices, augment=False)
        for x, _, _ in tqdm(plain.epoch(0), "features", len(plain), leave=False, disable=work.quiet):
            features = model.features(x)
            found.append(torch.stack(list(features.values()), 1).float().cpu())
    train_heads(work, model, torch.cat(found), list(features), indices, position, objective)


def train_heads(work: Workspace, model: ZeroShotModel, found: Tensor, streams: list[str], indices: np.ndarray,
                position: Tensor, objective: Objective) -> None:
    """`head_epochs` over features [n,streams,D] of the images `indices`; `position` [classes] numbers their classes."""
    c = work.config
    model.train()
    # As the linear head on frozen features: batches of 64, no weight decay.
    optimiser = torch.optim.Adam(model.heads.parameters(), lr=c.train.head_lr)
    batches = FeatureBatches(found, work.bench.labels, indices, 64, c.train.seed, partial(shuffled, len(indices), 64),
                             work.accelerator.device)
    for epoch in range(c.train.head_epochs):
        for x, labels, _ in batches.epoch(epoch):
            if len(x) > 1:  # one image alone has no batch statistics
                optimiser.zero_grad(set_to_none=True)
                features = dict(zip(streams, x.unbind(1), strict=True))
                objective(features, model.embed(features), position[labels])["total"].backward()
                optimiser.step()
    optimiser.zero_grad(set_to_none=True)
