"""Every method by name; the one place, with the table of rows, that says their names."""

from __future__ import annotations

from torch import Tensor

from vspcn_lib.config import Config, ConfigError
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.methods.eszsl import ESZSL
from vspcn_lib.methods.finetune import FineTuned
from vspcn_lib.methods.sp import SP
from vspcn_lib.methods.vpt import VPTDeep, VPTShallow
from vspcn_lib.model import VSPCN
from vspcn_lib.zeroshot import ZeroShotModel

METHODS: dict[str, type[ZeroShotModel]] = {m.Settings.name: m for m in (
    VSPCN, ESZSL, VPTShallow, VPTDeep, SP, FineTuned)}


def method(config: Config) -> type[ZeroShotModel]:
    """The class of the method that a config names."""
    return METHODS[config.model.method]


def build(backbone: FrozenViT, word_vectors: Tensor, config: Config) -> ZeroShotModel:
    """The model of a config; word vectors [K,G]. Raises `ConfigError` where settings do not fit."""
    if method(config).reads_words(config) and not word_vectors.shape[1]:
        raise ConfigError(f"model.method = {config.model.method!r} reads attribute vectors, and there are none here: "
                          "begin with settings that read them, or give --data.vectors FILE.npy")
    return method(config).build(backbone, word_vectors, config)
