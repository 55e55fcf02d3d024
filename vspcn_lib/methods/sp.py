"""One semantic prompt: the mean attribute vector, projected, as a token beside the patches of a frozen ViT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from vspcn_lib.config import MethodConfig, ModelConfig
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.methods.vpt import PromptTuned


@dataclass(frozen=True)
class SPConfig(MethodConfig):
    """The pooled semantic prompt has no settings of its own."""

    name: ClassVar[str] = "sp"
    reads: ClassVar[tuple[str, ...]] = ("model.embedding", "model.scale", "loss.gamma", "train")


class SP(PromptTuned):
    """P = Linear(mean of the K attribute vectors) [1,D] enters block 1; the plainest use of words as a prompt."""

    Settings = SPConfig

    def __init__(self, backbone: FrozenViT, word_vectors: Tensor, model: ModelConfig, settings: SPConfig) -> None:
        super().__init__(backbone, word_vectors, model)
        self.register_buffer("word_vectors", word_vectors.float(), persistent=False)
        self.pooled = nn.Linear(word_vectors.shape[1], backbone.dim)

    def layers(self) -> Tensor:
        """The projected mean vector [1,1,D]."""
        return self.pooled(self.word_vectors.mean(0))[None, None]
