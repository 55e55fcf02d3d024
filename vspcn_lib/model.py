"""VSPCN: a frozen ViT, prompts that fuse with image and attributes, and heads that meet class prototypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vspcn_lib.config import Config, ModelConfig, check_range
from vspcn_lib.encoders.backbone import FrozenViT, TokenLayout
from vspcn_lib.fusion import Context, SemanticAdapter, StrongPromptFusion, WeakPromptFusion
from vspcn_lib.zeroshot import Heads, ZeroShotModel, initial_prompts


class VSPCN(ZeroShotModel):
    """Images [B,3,H,W] to an `Output`; trains prompts, fusion, adapter and heads, never the ViT.

    `word_vectors` [K,G] are the attribute phrases' vectors; the class attributes come in only through
    `heads.prototypes`, so that unseen prototypes are named where they are used. With no prompts the tokens
    are timm's to the bit.
    """

    def __init__(self, backbone: FrozenViT, word_vectors: Tensor, config: ModelConfig) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        dim, attributes = backbone.dim, word_vectors.shape[0]
        visual, semantic = config.visual_prompts, config.semantic_prompts
        self.layout = TokenLayout(backbone.prefix, visual, semantic, backbone.patches)
        self.first_strong = config.first_strong_block - 1
        deep = len(backbone.blocks) - self.first_strong
        streams = ["cls"] + ["visual"] * bool(visual) + ["semantic"] * bool(semantic)
        self.heads = Heads(dim, attributes, streams, config)
        self.reads = tuple(s for s in config.readout.split("+") if s in streams)
        if visual:
            self.visual_prompts = nn.Parameter(initial_prompts(visual, dim))
            self.weak_visual = WeakPromptFusion(dim) if config.weak else None
            self.strong_visual = nn.ModuleList(
                StrongPromptFusion(dim, visual, backbone.patches, config.alpha_v)
                for _ in range(deep if config.strong else 0))
        if semantic:
            self.semantic_prompts = nn.Parameter(initial_prompts(semantic, dim))
            if config.weak or config.strong:
                self.register_buffer("word_vectors", word_vectors.float(), persistent=False)
                self.attribute_tokens = nn.Linear(word_vectors.shape[1], dim)  # S^0
            self.weak_semantic = WeakPromptFusion(dim) if config.weak else None
            self.strong_semantic = nn.ModuleList(
                StrongPromptFusion(dim, semantic, attributes, config.alpha_s)
                for _ in range(deep if config.strong else 0))
            self.adapters = nn.ModuleList(SemanticAdapter(dim, config.alpha_a) for _ in self.strong_semantic
                                          if config.adapter)

    @classmethod
    def build(cls, backbone: FrozenViT, word_vectors: Tensor, config: Config) -> VSPCN:
        """VSPCN of a run: its settings are the group `model` itself."""
        return cls(backbone, word_vectors, config.model)

    @classmethod
    def check(cls, config: Config, backbone: FrozenViT, attributes: int) -> None:
        """Raise `ConfigError` where the first strong block is beyond the last block of the ViT."""
        check_range("model.first_strong_block", config.model.first_strong_block, 1, len(backbone.blocks))

    @classmethod
    def cached(cls, config: Config) -> bool:
        """Without prompts it is the linear head on the frozen ViT's features."""
        return not config.model.visual_prompts + config.model.semantic_prompts

    @classmethod
    def reads_words(cls, config: Config) -> bool:
        """Semantic prompts read them, where something fuses the two."""
        return bool(config.model.semantic_prompts) and (config.model.weak or config.model.strong)

    def shallow(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens [B,T,D] before the first deep block, and S^0 [1,K,D]; neither depends on an alpha."""
        tokens = self.backbone.embed(images)
        prefix, patches = tokens[:, :self.layout.prefix], tokens[:, self.layout.prefix:]
        visual = semantic = tokens[:, :0]
        attributes = None
        if self.layout.visual:
            visual = self.visual_prompts.expand(len(images), -1, -1)
            if self.weak_visual is not None:
                visual = self.weak_visual(visual, tokens)  # F^0: all image tokens
        if self.layout.semantic:
            # Equal for every image until an adapter reads the patches, so kept at batch 1 until then.
            semantic = self.semantic_prompts.expand(1, -1, -1)
            if hasattr(self, "attribute_tokens"):
                attributes = self.attribute_tokens(self.word_vectors).unsqueeze(0)
            if self.weak_semantic is not None:
                semantic = self.weak_semantic(semantic, attributes)
            semantic = semantic.expand(len(images), -1, -1)
        tokens = torch.cat([prefix, visual, semantic, patches], dim=1)
        for block in self.backbone.blocks[:self.first_strong]:
            tokens = self._through(block, tokens)
        return tokens, attributes

    def _through(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """One block of the ViT; with `recompute` only its input is kept for the backward pass."""
        if self.config.recompute and torch.is_grad_enabled():
            return checkpoint(block, tokens, use_reentrant=False)
        return block(tokens)

    def deep(self, tokens: Tensor, attributes: Tensor | None, whole: bool = False) -> Tensor:
        """What `shallow` returned through adapter, strong fusion and the deep blocks, normed.

        [B,read,D], the tokens that heads read (prefix and prompts), or [B,T,D] if `whole`.
        """
        context = None if attributes is None else Context.growing(attributes)
        last = len(self.backbone.blocks) - self.first_strong - 1
        for i, block in enumerate(self.backbone.blocks[self.first_strong:]):
            if self.config.strong:
                prefix, visual, semantic, patches = self.layout.split(tokens)
                seen = Context.of(patches)
                if self.layout.visual:
                    visual, seen = self.strong_visual[i].fuse(visual, seen)
                if self.layout.semantic:
                    if self.config.adapter:
                        context = self.adapters[i].adapt(context, seen)
                    semantic, context = self.strong_semantic[i].fuse(semantic, context)
                tokens = torch.cat([prefix, visual, semantic, patches], dim=1)
            if whole or i < last:
                tokens = self._through(block, tokens)
            else:
                tokens = self.backbone.last_block(tokens, self.layout.read)
        return self.backbone.final_norm(tokens)

    def tokens(self, images: Tensor) -> Tensor:
        """The final, normed sequence [B,T,D] in the order of `layout`."""
        if not self.layout.visual + self.layout.semantic:
            return self.backbone.final_norm(self.backbone.blocks(self.backbone.embed(images)))
        return self.deep(*self.shallow(images), whole=True)

    def by_stream(self, tokens: Tensor) -> dict[str, Tensor]:
        """Final tokens [B,T,D] or [B,read,D] to [B,D] by stream: cls, the mean visual and the mean semantic prompt."""
        layout = self.layout
        prefix, visual, semantic = tokens[:, :layout.read].split([layout.prefix, layout.visual, layout.semantic], dim=1)
        found = {"cls": prefix[:, 0]}
        if layout.visual:
            found["visual"] = visual.mean(1)
        if layout.semantic:
            found["semantic"] = semantic.mean(1)
        return found

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to [B,D] by stream; without prompts through timm's own operations, to the bit."""
        if not self.layout.visual + self.layout.semantic:
            return self.by_stream(self.tokens(images))
        return self.by_stream(self.deep(*self.shallow(images)))
