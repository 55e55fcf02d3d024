"""Presets: the settings that a benchmark is run with, each with the validation numbers that chose it."""

from __future__ import annotations

from typing import Any

from vspcn_lib.config import Config, ConfigError, nearest, update
from vspcn_lib.methods import registry as registry  # `update` on a preset may name any method
from vspcn_lib.runs.heads import ALONE

_HUB = {"model": {"backbone": "vit_base_patch16_224.augreg_in1k"}, "train": {"epochs": 20}}  # the paper's ViT
# The linear head on the frozen ViT: VSPCN without prompts, trained as a linear probe.
LINEAR = {**ALONE,
          "train": {"epochs": 30, "batch_size": 64, "lr": 1e-3, "weight_decay": 0.0, "augment": False}}
# A fold takes seconds here; three lie 1.2 points of H below the nested oracle, one 1.3 (docs/calibration.md).
FOLDS = {"train": {"folds": 3}}

# The numbers that chose a setting below are of the first defaults (eight prompts of a kind, docs/paths.md), but for
# AWA-35 and CLIP. With the present ones validation H is 43.9, 50.8, 48.9 (birdlets, seeds 0 to 2) and 67.2, 66.3, 65.6
# (cub100-small).
# Heads first: validation H 51.6, without 40.6 (15 images a class, 3 epochs, one seed; the same again gave 53.3, so two
# points are noise). lr 3e-3: full 54.3, VPT-deep 52.6; 1e-3: 53.3, 49.3; 1e-2: 52.8, 50.2. Batches of 16: not compared.
_SHORT = {"head_epochs": 30, "batch_size": 16, "lr": 3e-3}
# With eps = 1 the KL pays more than being right: the visual stream's validation H fell to 7, with these two it reached
# 39, cls stayed (51.3, 51.6; 15 images a class, 3 epochs, one seed). Their ratio keeps L_CED's pull at about 0.3.
_RIGHT_FIRST = {"eps": 10.0, "lambda_ced": 3.0}
# Validation H 63.8 with both, 60.7 with cls alone (cub100-small, one seed; ahead in all of eleven other trials too),
# birdlets 49.0 and 43.5. The presets of the paper's benchmarks keep the paper's: not measured there.
_BOTH = {"readout": "cls+semantic"}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # validation H 51.1; without _RIGHT_FIRST and with batches of 32 47.0 (one seed); short, as it is the demo's
    "birdlets": {"data": {"benchmark": "birdlets", "size": 84}, "model": _BOTH, "loss": _RIGHT_FIRST,
                 "train": {**_SHORT, "epochs": 3}},
    "cub100": {"data": {"benchmark": "cub100", "size": 224}, "model": _BOTH, "loss": _RIGHT_FIRST,
               "train": {**_SHORT, "epochs": 8, "precision": "bf16"}},
    "cub100-small": {"data": {"benchmark": "cub100", "size": 112, "images_per_class": 25}, "model": _BOTH,
                     "loss": _RIGHT_FIRST, "train": {**_SHORT, "epochs": 8, "precision": "bf16"}},
    # cub100's settings: with CLIP at 112 px validation H is 73.9 at this lr and 73.5 at 1e-3 (one seed).
    "cub100-clip": {"data": {"benchmark": "cub100", "size": 224},
                    "model": {**_BOTH, "backbone": "packaged:clip-vit-b16"}, "loss": _RIGHT_FIRST,
                    "train": {**_SHORT, "epochs": 8, "precision": "bf16"}},
    # alpha_s 0.5: validation H 44.3, 0.8 has 42.4 (three draws of classes, two seeds, 112 px); the best of fourteen
    # changes, ahead on both seeds, but less than the seeds differ.
    "awa35": {"data": {"benchmark": "awa35", "size": 224}, "model": {**_BOTH, "alpha_s": 0.5}, "loss": _RIGHT_FIRST,
              "train": {**_SHORT, "epochs": 8, "precision": "bf16"}},
    "awa35-small": {"data": {"benchmark": "awa35", "size": 112, "images_per_class": 25},
                    "model": {**_BOTH, "alpha_s": 0.5}, "loss": _RIGHT_FIRST,
                    "train": {**_SHORT, "epochs": 8, "precision": "bf16"}},
    "cub": {"data": {"benchmark": "cub", "size": 224, "vectors": "glove-300"}, **_HUB},
    "sun": {"data": {"benchmark": "sun", "size": 224, "vectors": "glove-300"}, **_HUB, "loss": {"lambda_skd": 0.35}},
    "awa2": {"data": {"benchmark": "awa2", "size": 224, "vectors": "glove-300"}, **_HUB},
}

def preset(name: str) -> Config:
    """The named preset; `NAME-linear` is the linear head on frozen features for the same data.

    Raises `ConfigError` for an unknown name, with the nearest known one.
    """
    base = name.removesuffix("-linear")
    if base not in PRESETS:
        raise ConfigError(f"unknown preset '{name}': did you mean '{nearest(name, PRESETS)}'? known: "
                          f"{', '.join(PRESETS)}, each also with -linear")
    config = update(Config(), PRESETS[base])
    return update(update(config, LINEAR), FOLDS) if base != name else config
