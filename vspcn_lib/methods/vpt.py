"""Visual prompt tuning (Jia et al., ECCV 2022): learned tokens beside the patches of a frozen ViT, cls readout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vspcn_lib.config import Config, MethodConfig, ModelConfig, check_range
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.zeroshot import Heads, ZeroShotModel, initial_prompts


@dataclass(frozen=True)
class VPTShallowConfig(MethodConfig):
    """VPT-shallow: the prompts enter block 1 and are then processed like any other token."""

    name: ClassVar[str] = "vpt-shallow"
    reads: ClassVar[tuple[str, ...]] = ("model.embedding", "model.scale", "loss.gamma", "train")
    formerly: ClassVar[dict[str, str]] = {"prompts": "visual_prompts"}
    prompts: int = 16
    """prompts, or prompts a block in VPT-deep; 16 are more than VSPCN has, so that it is no weak opponent"""

    def __post_init__(self) -> None:
        check_range("method.prompts", self.prompts, 1, 512)


@dataclass(frozen=True)
class VPTDeepConfig(VPTShallowConfig):
    """VPT-deep: every block gets prompts of its own, which overwrite what the block before made of the last ones."""

    name: ClassVar[str] = "vpt-deep"


class PromptTuned(ZeroShotModel):
    """[prefix, prompts, patches] through the frozen ViT; a subclass says which prompts, with VSPCN's heads and loss."""

    def __init__(self, backbone: FrozenViT, word_vectors: Tensor, model: ModelConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = Heads(backbone.dim, len(word_vectors), ["cls"], model)

    def layers(self) -> Tensor:
        """The prompts [L,P,D]: of the first L blocks, each of which gets its own."""
        raise NotImplementedError

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to {"cls": [B,D]}."""
        tokens, prefix, layers = self.backbone.embed(images), self.backbone.prefix, self.layers()
        for i, block in enumerate(self.backbone.blocks):
            if i < len(layers):
                patches = tokens[:, prefix + layers.shape[1] * (i > 0):]
                tokens = torch.cat([tokens[:, :prefix], layers[i].expand(len(images), -1, -1), patches], dim=1)
            last = i == len(self.backbone.blocks) - 1
            tokens = self.backbone.last_block(tokens, prefix) if last else block(tokens)
        return {"cls": self.backbone.final_norm(tokens)[:, 0]}


class VPTShallow(PromptTuned):
    """x_1 = B_1([cls, P, patches]), with P [P_v,D] learned (Jia et al., equations 4 and 5)."""

    Settings = VPTShallowConfig

    def __init__(self, backbone: FrozenViT, word_vectors: Tensor, model: ModelConfig,
                 settings: VPTShallowConfig) -> None:
        super().__init__(backbone, word_vectors, model)
        layers = self.depth(backbone)
        self.prompts = nn.Parameter(initial_prompts(layers * settings.prompts, backbone.dim)
                                    .view(layers, settings.prompts, backbone.dim))

    @classmethod
    def reads_words(cls, config: Config) -> bool:
        """Never: attributes come in through the prototypes alone."""
        return False

    @staticmethod
    def depth(backbone: FrozenViT) -> int:
        """How many blocks get prompts of their own."""
        return 1

    def layers(self) -> Tensor:
        """The learned prompts [L,P_v,D]."""
        return self.prompts


class VPTDeep(VPTShallow):
    """x_i = B_i([cls, P_(i-1), patches]) for every block i, with P [M,P_v,D] learned (Jia et al., equation 6)."""

    Settings = VPTDeepConfig

    @staticmethod
    def depth(backbone: FrozenViT) -> int:
        """Every block."""
        return len(backbone.blocks)
