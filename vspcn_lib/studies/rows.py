"""The table of ablation rows: what each row changes in the settings it is run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vspcn_lib.config import Config, ConfigError, nearest, update
from vspcn_lib.methods.generative.registry import GenerateConfig
from vspcn_lib.studies.presets import LINEAR

_NO_SEMANTIC = {"semantic_prompts": 0, "readout": "cls"}
# PSVMA and ZSLViT are released without clipping. Their gradients' norms are some hundred: at 1, SGD would stand still.
_RELEASED = {"batch_size": 32, "clip": 1e6}
_NO_FUSION = {"weak": False, "strong": False, "adapter": False}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    # the paper's six
    "ViT only": LINEAR,
    "visual prompt": {"model": _NO_SEMANTIC},
    "semantic prompt": {"model": {"visual_prompts": 0}},
    "both, no fusion": {"model": _NO_FUSION},
    "full": {},
    "full, no adapter": {"model": {"adapter": False}},
    # one part less
    "full, cls readout": {"model": {"readout": "cls"}},
    "weak fusion only": {"model": {"strong": False, "adapter": False}},
    "strong fusion only": {"model": {"weak": False}},
    "no CED": {"loss": {"lambda_ced": 0.0}},
    "no SKD": {"loss": {"lambda_skd": 0.0}, "model": {"readout": "cls"}},  # the semantic head has no other loss
    "no AR": {"loss": {"gamma": 0.0}},
    # baselines: VPT with 16 prompts, more than VSPCN's two; learning rates that fine-tuning of a whole ViT survives
    "ESZSL": {"model": {"method": "eszsl"}, "train": {"batch_size": LINEAR["train"]["batch_size"]}},
    "VPT-shallow": {"model": {"method": "vpt-shallow"}},
    "VPT-deep": {"model": {"method": "vpt-deep"}},
    "SP": {"model": {"method": "sp"}},
    "fine-tune 2 blocks": {"model": {"method": "finetune"}, "method": {"tuned_blocks": 2}, "train": {"lr": 1e-4}},
    "fine-tune all": {"model": {"method": "finetune"}, "method": {"tuned_blocks": 1000}, "train": {"lr": 1e-4}},
    # The peers, with the batch sizes of their releases, and where validation preferred it another rate than the
    # released one (records/tried/peers.csv; what the released rates give: records/peers). MSDN's epochs are of kept
    # tokens, and on CUB-100 about as many steps as its release takes on CUB (4,234).
    "PSVMA": {"model": {"method": "psvma"}, "method": {"lr": 1e-4}, "train": _RELEASED},
    "PSVMA, frozen": {"model": {"method": "psvma"}, "method": {"train_backbone": False}, "train": _RELEASED},
    "ZSLViT": {"model": {"method": "zslvit"}, "train": _RELEASED},
    "ZSLViT, frozen": {"model": {"method": "zslvit"}, "method": {"train_backbone": False, "lr": 1e-3},
                       "train": _RELEASED},
    "MSDN": {"model": {"method": "msdn"}, "method": {"lr": 3e-4}, "train": {"batch_size": 50, "epochs": 130}},
}
GROUPS = {"peers": tuple(list(ROWS)[list(ROWS).index("PSVMA"):])}


def named(rows: Sequence[str]) -> tuple[str, ...]:
    """`rows`, with the members of a group of `GROUPS` in the place of its name."""
    return tuple(name for given in rows for name in GROUPS.get(given, (given,)))


# the generative partner: the finished run of a row, the generator of unseen features that starts from it
GENERATED: dict[str, tuple[str, GenerateConfig]] = {
    f"{name} + {title}": (start, GenerateConfig(generator=generator))
    for name, start in (("ViT only", "ViT only"), ("VSPCN", "full"))
    for title, generator in (("CE-GZSL", "cegzsl"), ("VAE", "vae"), ("flow", "flow"))}


def row(base: Config, name: str, seed: int = 0) -> Config:
    """The config of one row of the ablation table: `base` with the row's changes and the seed.

    That of a `GENERATED` row is the config of the run it starts from.

    Raises `ConfigError` for an unknown row, with the nearest known one.
    """
    known = [*ROWS, *GENERATED]
    if name not in known:
        raise ConfigError(f"unknown row '{name}': did you mean '{nearest(name, known)}'? known: {', '.join(known)}")
    name = GENERATED[name][0] if name in GENERATED else name
    return update(base, {**ROWS[name], "train": {**ROWS[name].get("train", {}), "seed": seed}})
