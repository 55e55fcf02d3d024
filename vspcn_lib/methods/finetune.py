"""Fine-tuning: a copy of the ViT whose last blocks, or all of it, train with VSPCN's heads and loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vspcn_lib.config import Config, MethodConfig, ModelConfig, check_range
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.zeroshot import Heads, ZeroShotModel


@dataclass(frozen=True)
class FineTuneConfig(MethodConfig):
    """How much of the ViT trains."""

    name: ClassVar[str] = "finetune"
    reads: ClassVar[tuple[str, ...]] = ("model.embedding", "model.scale", "loss.gamma", "train")
    formerly: ClassVar[dict[str, str]] = {"tuned_blocks": "tuned_blocks"}
    tuned_blocks: int = 2
    """the last blocks that train; as many as the ViT has, or more, means every parameter"""

    def __post_init__(self) -> None:
        check_range("method.tuned_blocks", self.tuned_blocks, 1, 1000)


class FineTuned(ZeroShotModel):
    """f = ViT(x)[cls], its last `tuned_blocks` blocks and final norm trained; all of them: every parameter."""

    Settings = FineTuneConfig

    def __init__(self, backbone: FrozenViT, word_vectors: Tensor, model: ModelConfig,
                 settings: FineTuneConfig) -> None:
        super().__init__()
        self.tuned = copy.deepcopy(backbone)  # the shared one stays frozen
        if settings.tuned_blocks >= len(backbone.blocks):
            self.tuned.vit.requires_grad_(True)
        for part in [*self.tuned.blocks[-settings.tuned_blocks:], self.tuned.vit.norm]:
            part.requires_grad_(True)
        self.heads = Heads(backbone.dim, len(word_vectors), ["cls"], model)

    @classmethod
    def reads_words(cls, config: Config) -> bool:
        """Never: attributes come in through the prototypes alone."""
        return False

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to {"cls": [B,D]}."""
        return {"cls": self.tuned.final_norm(self.tuned.blocks(self.tuned.embed(images)))[:, 0]}
