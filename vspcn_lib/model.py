"""VSPCN: a frozen ViT, prompts that fuse with image and attributes, and heads that meet class prototypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vspcn_lib.config import Config, ConfigError, ModelConfig, TrainConfig, check_range
from vspcn_lib.encoders.backbone import FrozenViT, TokenLayout
from vspcn_lib.fusion import Context, SemanticAdapter, StrongPromptFusion, WeakPromptFusion
from vspcn_lib.zeroshot import Heads, ZeroShotModel

# Learning rates by role, as multiples of `train.lr`. Fusion's D x D matrices move by 1/D (the maximal-update rule): at
# one rate for all, 200 steps made what fusion adds 20 to 50 times as long as the ViT's tokens, and every image's prompt
# the same. The logits B must reach order 1 within a short training, and start near 0 (docs/paths.md has the trials).
FUSION_RATE, PROMPT_RATE, BIAS_RATE = 40.0, 0.1, 30.0  # the first over D
# What fusion adds at the start, as a share of its prompt's length: with less, training makes it a constant, the same
# for every image; without a rule it is 10 to 50 times as long as the ViT's tokens (docs/paths.md).
WEAK_SHARE, STRONG_SHARE = 0.3, 1.0
PROMPT_NOISE = 0.02  # by this much a channel the visual and the semantic prompt start apart


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
        count = config.fusion_heads or backbone.attention_heads
        if visual:
            self.visual_prompts = nn.Parameter(self._prompts(visual))
            self.weak_visual = WeakPromptFusion(dim, count) if config.weak else None
            self.strong_visual = nn.ModuleList(
                StrongPromptFusion(dim, visual, backbone.patches, config.alpha_v, count)
                for _ in range(deep if config.strong else 0))
        if semantic:
            self.semantic_prompts = nn.Parameter(self._prompts(semantic))
            if config.weak or config.strong:
                self.register_buffer("word_vectors", standardised(word_vectors.float()), persistent=False)
                self.attribute_tokens = nn.Linear(word_vectors.shape[1], dim)  # S^0
            self.weak_semantic = WeakPromptFusion(dim, count) if config.weak else None
            self.strong_semantic = nn.ModuleList(
                StrongPromptFusion(dim, semantic, attributes, config.alpha_s, count)
                for _ in range(deep if config.strong else 0))
            self.adapters = nn.ModuleList(SemanticAdapter(dim, config.alpha_a) for _ in self.strong_semantic
                                          if config.adapter)

    def _prompts(self, count: int) -> Tensor:
        """[count,D], the ViT's own cls token at the input and noise: its blocks know what to do with one.

        Several of a kind get noise as long as the token, or fusion would make them one vector.
        """
        like = next(self.backbone.parameters())
        with torch.no_grad():
            blank = torch.zeros(1, 3, *self.backbone.vit.patch_embed.img_size, device=like.device, dtype=like.dtype)
            cls = self.backbone.embed(blank)[0, 0]  # before the first block it is the same for every image
            cls = cls.float().cpu()
            noise = PROMPT_NOISE if count == 1 else cls.square().mean().sqrt()
        return cls + noise * torch.randn(count, self.backbone.dim)

    @classmethod
    def build(cls, backbone: FrozenViT, word_vectors: Tensor, config: Config) -> VSPCN:
        """VSPCN of a run: its settings are the group `model` itself."""
        return cls(backbone, word_vectors, config.model)

    @classmethod
    def check(cls, config: Config, backbone: FrozenViT, attributes: int) -> None:
        """Raise `ConfigError` where the first strong block is beyond the ViT's last, or heads do not divide its width.
        """
        check_range("model.first_strong_block", config.model.first_strong_block, 1, len(backbone.blocks))
        count = config.model.fusion_heads or backbone.attention_heads
        if backbone.dim % count:
            raise ConfigError(f"model.fusion_heads = {count} does not divide the backbone's width of {backbone.dim}: "
                              "choose a divisor, or 0 for the ViT's own number of heads")

    def paths(self) -> dict[str, list[nn.Module]]:
        """WVPF, SVPF, SSPF and the adapter, first block first; WSPF reads words alone."""
        weak = getattr(self, "weak_visual", None)
        found = {"WVPF": [weak] if weak is not None else [], "SVPF": getattr(self, "strong_visual", ()),
                 "SSPF": getattr(self, "strong_semantic", ()), "adapter": getattr(self, "adapters", ())}
        return {name: list(parts) for name, parts in found.items() if len(parts)}

    def optimiser(self, train: TrainConfig) -> torch.optim.Optimizer:
        """Adam, each parameter at the rate of its role; only heads decay.

        Adam's decay is coupled: it pulls whatever has small gradients to zero at the full rate, which once made every
        learned bias and the query and key of SSPF vanish.
        """
        if not self.layout.visual + self.layout.semantic:
            return super().optimiser(train)
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.trainable().items():
            kind, rate = name.split(".")[0], 1.0  # the heads, and S^0 out of word vectors
            if kind in ("visual_prompts", "semantic_prompts"):
                rate = PROMPT_RATE
            elif kind not in ("heads", "attribute_tokens"):
                learned = kind.startswith("strong_") and name.split(".")[2:] == ["bias"]  # B, not a Linear's bias
                rate = BIAS_RATE if learned else FUSION_RATE / self.backbone.dim
            decay = train.weight_decay if kind == "heads" else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        return torch.optim.Adam([{"params": found, "peak": train.lr * rate, "weight_decay": decay}
                                 for (rate, decay), found in groups.items()], lr=train.lr, fused=True)

    @classmethod
    def cached(cls, config: Config) -> bool:
        """Without prompts it is the linear head on the frozen ViT's features."""
        return not config.model.visual_prompts + config.model.semantic_prompts

    @classmethod
    def reads_words(cls, config: Config) -> bool:
        """Semantic prompts read them, where something fuses the two."""
        return bool(config.model.semantic_prompts) and (config.model.weak or config.model.strong)

    @torch.no_grad()
    def begin(self, images: Tensor) -> None:
        """Let fusion start from what it will read: one pass over training images [B,3,H,W], fusion after fusion.

        What a fusion adds gets its share of the prompt's length; queries of strong fusion are standardised over the
        images. Data-dependent starts are Salimans and Kingma's (NeurIPS 2016) and Mishkin and Matas's (ICLR 2016).
        """
        hooks = []
        for module in self.modules():
            if isinstance(module, WeakPromptFusion | StrongPromptFusion):
                strong = isinstance(module, StrongPromptFusion)
                hooks += module.matching(STRONG_SHARE if strong else WEAK_SHARE, whiten=strong)
        self.eval().features(images)
        for hook in hooks:
            hook.remove()

    def shallow(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens [B,T,D] before the first deep block, and S^0 [1,K,D]; neither depends on an alpha."""
        tokens = self.backbone.embed(images)
        prefix, patches = tokens[:, :self.layout.prefix], tokens[:, self.layout.prefix:]
        visual = semantic = tokens[:, :0]
        attributes = None
        if self.layout.visual:
            visual = self.visual_prompts.expand(len(images), -1, -1)
            if self.weak_visual is not None:  # with a residual: without one all prompts of a kind become the same
                visual = visual + self.weak_visual(visual, tokens)  # F^0: all image tokens
        if self.layout.semantic:
            # Equal for every image until an adapter reads the patches, so kept at batch 1 until then.
            semantic = self.semantic_prompts.expand(1, -1, -1)
            if hasattr(self, "attribute_tokens"):
                attributes = self.attribute_tokens(self.word_vectors).unsqueeze(0)
            if self.weak_semantic is not None:
                semantic = semantic + self.weak_semantic(semantic, attributes)
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


def standardised(vectors: Tensor) -> Tensor:
    """Word vectors [K,G] with mean 0 and deviation 1 over the K attributes in every dimension; equal ones stay 0.

    Attribute phrases share most of their words: as they are, their vectors differ less than they have in common.
    """
    centred = vectors - vectors.mean(0)
    return centred / centred.square().mean(0).sqrt().clamp_min(1e-6)
