"""A timm ViT that stays frozen, where its weights come from, and the names of its token positions."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from vspcn_lib.data.images import Normalise, cache_dir
from vspcn_lib.encoders.weights import ARCHITECTURE, WHEEL, BackboneError, packaged_vit_s14, sha256_file


@dataclass(frozen=True)
class TokenLayout:
    """Where cls, visual prompts, semantic prompts and patches lie in [prefix, visual, semantic, patches]."""

    prefix: int
    """cls and, in some ViTs, register tokens"""
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

    `source` records tag, origin and checksum of the weights. Raises `BackboneError` for a ViT without cls
    token or without plain absolute positions.
    """

    def __init__(self, vit: VisionTransformer, source: dict[str, str]) -> None:
        super().__init__()
        if not isinstance(vit, VisionTransformer) or vit.cls_token is None or vit.pos_embed is None:
            raise BackboneError(f"{source.get('tag', 'this model')} is not a plain ViT with a cls token: choose a "
                                "timm vit_* or deit_* model")
        self.vit = vit
        self.source = source
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
        """Patch side in pixels."""
        return self.vit.patch_embed.patch_size[0]

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches (cls, registers)."""
        return self.vit.num_prefix_tokens

    @property
    def patches(self) -> int:
        """Number of patches N at the built image size."""
        return self.vit.patch_embed.num_patches

    @property
    def blocks(self) -> nn.Sequential:
        """The M transformer blocks."""
        return self.vit.blocks

    @property
    def normalise(self) -> Normalise:
        """The pixel mean and standard deviation these weights were trained with."""
        config = getattr(self.vit, "pretrained_cfg", None) or {}
        return Normalise(tuple(config.get("mean", (0.5,) * 3)), tuple(config.get("std", (0.5,) * 3)))

    def embed(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W], normalised, to the tokens before block 1, [B, prefix + N, D]."""
        return self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(images)))

    def last_block(self, tokens: Tensor, keep: int) -> Tensor:
        """The first `keep` rows [B,keep,D] of the last block's output; tokens [B,T,D].

        The other rows take part as keys and values only: no query, no MLP, about two thirds of the block saved.
        A block that is not timm's plain one, or whose attention map a hook wants whole, runs as it is.
        """
        block = self.blocks[-1]
        a = block.attn
        if type(block) is not Block or type(a) is not Attention or a.attn_drop._forward_hooks:
            return block(tokens)[:, :keep]
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


def load_backbone(name: str, size: int, cache: Path | None = None) -> FrozenViT:
    """The frozen ViT `name` for images of `size` px.

    `packaged:vit-s14` needs no model hub; `NAME@FILE` reads a local .safetensors or .pth state of the timm
    model NAME; a bare timm name asks the model hub. Nothing falls back to anything else. Raises
    `BackboneError` with what to do.
    """
    if name == "packaged:vit-s14":
        path = packaged_vit_s14(cache or cache_dir())
        return _from_file(ARCHITECTURE, path, size, {"tag": name, "source": f"{WHEEL}, DINOv2 for saliency"})
    check_name(name)
    if "@" in name:
        architecture, _, file = name.partition("@")
        path = Path(file).expanduser()
        return _from_file(architecture, path, size, {"tag": architecture, "source": path.name})
    try:
        vit = timm.create_model(name, pretrained=True, num_classes=0, img_size=size)
    except Exception as error:
        raise BackboneError(f"could not get weights of '{name}' from the model hub ({type(error).__name__}: "
                            f"{str(error)[:200]}); with a file at hand use --model.backbone {name}@FILE, or "
                            "packaged:vit-s14, which needs only the package index") from error
    digest = _state_digest(vit)
    return FrozenViT(vit, {"tag": name, "source": "model hub", "sha256": digest})


def check_name(name: str) -> None:
    """Raise `BackboneError` for a model that timm lacks or a file that is not there: at once, nothing is read."""
    if name == "packaged:vit-s14":
        return
    architecture, at, file = name.partition("@")
    if at and not Path(file).expanduser().is_file():
        raise BackboneError(f"--model.backbone {name}: there is no file {Path(file).expanduser()}")
    if not timm.is_model(architecture.split(".")[0]):
        near = difflib.get_close_matches(architecture, timm.list_models("*vit*"), n=3, cutoff=0.0)
        raise BackboneError(f"timm has no model '{architecture}'; known are for example {', '.join(near)}")


def _from_file(architecture: str, path: Path, size: int, source: dict[str, str]) -> FrozenViT:
    from timm.models import load_state_dict

    try:
        vit = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=size)
        state: dict[str, Any] = {k: v for k, v in load_state_dict(str(path), weights_only=True).items()
                                 if not k.startswith(("head.", "mask_token"))}
        if "pos_embed" in state and state["pos_embed"].shape != vit.pos_embed.shape:
            # Another image size is another grid; timm's own resampling, as for its pretrained weights.
            prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
            state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], vit.patch_embed.grid_size,
                                                        num_prefix_tokens=prefix)
        vit.load_state_dict(state, strict=True)
    except Exception as error:  # a damaged zip, a pickle that asks for more than tensors, other keys or shapes
        raise BackboneError(f"{path} does not hold the weights of timm's {architecture} as plain tensors "
                            f"({type(error).__name__}: {str(error)[:400]}): give a .safetensors file of that "
                            "model") from error
    bad = [name for name, tensor in vit.state_dict().items() if not torch.isfinite(tensor).all()]
    if bad:
        raise BackboneError(f"{path}: '{bad[0]}' holds NaN or infinite values: get the file again")
    return FrozenViT(vit, {**source, "sha256": sha256_file(path)})


def _state_digest(vit: nn.Module) -> str:
    """A checksum of the tensors themselves, for weights that came over the hub's own cache."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(vit.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
