"""What a VSPCN step costs beside the same frozen ViT: a benchmark, never a test."""

from __future__ import annotations

import statistics
import time

import torch
from tqdm.auto import tqdm

from vspcn_lib import losses
from vspcn_lib.backbone import load_backbone
from vspcn_lib.config import Config
from vspcn_lib.model import VSPCN

ATTRIBUTES = {"birdlets": 82, "sun": 102, "awa2": 85}  # CUB and cub100: 312


def step_ratio(config: Config, rounds: int, classes: int = 100) -> str:
    """Median seconds of both steps, measured in turn so that a busy machine slows both, and their ratio.

    The reference step is the frozen ViT's forward and the backward to its input, the least any prompt method
    pays. Random images and attributes: the cost does not depend on their values.
    """
    attributes = ATTRIBUTES.get(config.data.benchmark, 312)
    vit = load_backbone(config.model.backbone, config.data.size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = VSPCN(vit, torch.randn(attributes, 50), config.model).to(device).train()
    optimiser = torch.optim.Adam(model.trainable().values(), lr=config.train.lr, fused=True)
    images = torch.randn(config.train.batch_size, 3, config.data.size, config.data.size, device=device)
    targets = torch.randint(classes, (len(images),), device=device)
    rows = torch.rand(classes, attributes, device=device)

    def frozen() -> None:
        tokens = vit.embed(images).requires_grad_()
        vit.final_norm(vit.blocks(tokens))[:, 0].square().sum().backward()

    def vspcn() -> None:
        embedded = model(images).embedded
        prototypes = model.heads.prototypes(rows)
        losses.total(model.heads.scores(embedded, prototypes), embedded, targets, prototypes[targets],
                     config.model.scale, config.loss)["total"].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def seconds(step) -> float:
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    frozen(), vspcn()  # warm up
    pairs = [(seconds(frozen), seconds(vspcn)) for _ in tqdm(range(rounds), "rounds", leave=False)]
    base, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    return (f"{config.data.size} px, batch {len(images)}, {attributes} attributes, {device.type}\n"
            f"frozen ViT forward + backward to its input {base:8.3f} s\n"
            f"VSPCN training step                        {ours:8.3f} s   ratio {ours / base:.2f}")
