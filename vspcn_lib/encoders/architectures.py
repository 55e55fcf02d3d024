"""Which of timm's models are plain ViTs with a cls token, why the others are refused, and how files are read."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import timm
import torch
from timm.models import get_pretrained_cfg, load_state_dict
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vspcn_lib.data.images import Normalise
from vspcn_lib.encoders.weights import PACKAGED, BackboneError

# Classes of timm whose tokens cannot be joined by prompts, and what stands in the way.
REFUSED = {
    "Eva": "its blocks take rotary positions (RoPE) beside the tokens, and a prompt has no place on the patch grid",
    "Beit": "its attention adds a learned bias for every pair of places on the patch grid, and a prompt has no place",
    "VisionTransformerRelPos": "its attention adds a bias for every pair of places on the patch grid, and a prompt has "
                               "no place",
    "Cait": "its cls token joins the patches only in the last two blocks (class attention)",
    "ConVit": "its first ten blocks run without the cls token, under an attention tied to the patch grid",
    "VisionTransformerSAM": "it has no cls token, and its blocks keep the patches as a grid",
}
HEADS = ("head.", "head_dist.", "visual.proj")  # classifiers and projections, under timm's and OpenAI's names


@cache
def outline(architecture: str) -> VisionTransformer:
    """timm's model without numbers (on PyTorch's meta device): in a fraction of a second, whatever its size.

    Raises `BackboneError` for a name that timm lacks, and for what is no plain ViT with a cls token, with the reason.
    """
    if not timm.is_model(architecture.split(".")[0]):
        near = difflib.get_close_matches(architecture, timm.list_models("*vit*"), n=3, cutoff=0.0)
        raise BackboneError(f"timm has no model '{architecture}'; known are for example {', '.join(near)}")
    try:
        with torch.device("meta"):
            vit = timm.create_model(architecture, pretrained=False, num_classes=0)
    except RuntimeError as error:  # timm's own: an unknown tag
        raise BackboneError(f"timm cannot build '{architecture}': {error}") from error
    check_plain(vit, architecture)
    return vit


def check_plain(vit: nn.Module, name: str) -> None:
    """Raise `BackboneError` with the reason unless prompts can join the tokens and the cls token is what is read."""
    kind = type(vit).__name__
    if not isinstance(vit, VisionTransformer):
        why = f"timm builds it as {kind}: {REFUSED.get(kind, 'that is no plain ViT, whose tokens prompts could join')}"
    elif vit.cls_token is None:
        pooled = "attention pooling" if vit.attn_pool is not None else "the mean"
        why = f"it has no cls token: its features are {pooled} over the patches, and this method's cls stream reads one"
    elif vit.global_pool != "token":
        why = "its weights were trained to be read as the mean over the patches, not at the cls token"
    else:
        return
    raise BackboneError(f"{name} cannot be used: {why}; choose one that docs/encoders.md lists")


def patch_of(vit: VisionTransformer) -> int:
    """Pixels along a side of what becomes one token; in a hybrid the stem's stride times the patch."""
    return vit.patch_embed.feat_ratio()


def inspect(name: str) -> int:
    """The patch in pixels that a setting of `model.backbone` has, at once: no weight is read.

    Raises `BackboneError` for a model that timm lacks, that is refused, or whose file is not there.
    """
    if name in PACKAGED:
        vit = outline(PACKAGED[name].architecture)
    elif name.startswith("packaged:"):
        raise BackboneError(f"--model.backbone {name}: packaged are {', '.join(PACKAGED)}")
    else:
        architecture, at, file = name.partition("@")
        if at and not Path(os.path.expanduser(file)).is_file():
            raise BackboneError(f"--model.backbone {name}: there is no file {Path(os.path.expanduser(file))}")
        vit = outline(architecture)
    return patch_of(vit)


def read_file(architecture: str, path: Path, size: int) -> VisionTransformer:
    """timm's model with the weights of a file, read as timm itself reads it, but strictly: no key more, none missing.

    .safetensors and .pth in timm's names or their authors' (DeiT, DINOv2, OpenAI and others that timm converts), and
    Google's .npz; positions are resampled to `size` px as timm does. Classifiers are dropped. Raises `BackboneError`,
    also for weights made for patches of another side, which timm would resample into another model.
    """
    wanted = {"num_classes": 0, "img_size": size}
    try:
        if path.suffix == ".npz":
            vit = timm.create_model(architecture, pretrained=False, **wanted)
            with np.load(path, allow_pickle=False) as entries:  # timm copies as many blocks as the model has
                found = {n.split("encoderblock_")[1].split("/")[0] for n in entries if "encoderblock_" in n}
                shapes = [entries[n].shape[::-1] for n in entries if n.endswith("embedding/kernel")]
            if found and len(found) != len(vit.blocks):
                raise ValueError(f"the file holds {len(found)} blocks, the model has {len(vit.blocks)}")
            vit.load_pretrained(str(path))
        else:
            state = load_state_dict(str(path), weights_only=True)
            state = OrderedDict((k, v) for k, v in state.items() if not k.startswith(HEADS))
            shapes = [tuple(getattr(v, "shape", ())) for v in state.values()]
            shapes += [(v.shape[0], 3, *2 * (math.isqrt(v.shape[1] // 3),)) for k, v in state.items()
                       if k.endswith("patch_generator.embedder.weight")]  # RADIO's, as one matrix
            # Equal numbers of classes, none, keep timm from loading loosely.
            overlay = {"state_dict": state, "num_classes": 0}
            vit = timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=overlay, **wanted)
    except Exception as error:  # a damaged zip, a pickle that asks for more than tensors, other keys or shapes
        raise BackboneError(f"{path} does not hold the weights of timm's {architecture} as plain tensors "
                            f"({type(error).__name__}: {str(error)[:400]}): give a .safetensors file of that "
                            "model") from error
    _check_patch(vit, shapes, architecture, path)
    vit.pretrained_cfg = {}  # it would keep the file's tensors alive
    bad = [name for name, tensor in vit.state_dict().items() if not torch.isfinite(tensor).all()]
    if bad:
        raise BackboneError(f"{path}: '{bad[0]}' holds NaN or infinite values: get the file again")
    return vit


def _check_patch(vit: VisionTransformer, shapes: Sequence[tuple[int, ...]], architecture: str, path: Path) -> None:
    """Raise `BackboneError` where a file's patch embedding has other sides than the model's.

    Of a ViT's tensors it alone has the shape [D, channels, side, side], so it is found under every author's name.
    """
    own = tuple(vit.patch_embed.proj.weight.shape)
    sides = {shape[2:] for shape in shapes if len(shape) == 4 and shape[:2] == own[:2]}
    if not sides or own[2:] in sides:
        return
    stride = patch_of(vit) // own[2]  # of a hybrid's stem
    side = max(max(found) for found in sides) * stride
    name = architecture.partition(".")[0]
    other = re.sub(r"patch\d+", f"patch{side}", name)
    ask = (f"ask for --model.backbone {other}@{path.name}" if other != name and timm.is_model(other) else
           "ask for the timm model that they were trained as")
    raise BackboneError(f"{path} holds weights for patches of {side} px, timm's {architecture} has patches of "
                        f"{patch_of(vit)} px: {ask}")


def channels(name: str, text: str) -> tuple[float, ...] | None:
    """Three numbers for red, green and blue out of "0.485,0.456,0.406", None for "". Raises `BackboneError`."""
    if not text:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    return _checked(name, found, text)


def _checked(name: str, found: object, given: object) -> tuple[float, ...]:
    """`found` as three floats of a pixel scale; `given` is how the field `name` has it. Raises `BackboneError`."""
    low = 1e-3 if name.endswith("std") else 0.0  # pixels are divided by it
    numbers = [n for n in found if type(n) in (int, float)] if isinstance(found, (tuple, list)) else []
    if len(numbers) != 3 or len(found) != 3 or not all(low <= n <= 1 for n in numbers):  # false for NaN
        raise BackboneError(f"{name} = {repr(given)[:80]} must be three numbers in [{low}, 1], as 0.485,0.456,0.406")
    return tuple(map(float, numbers))


def pixel_record(architecture: str, path: Path | None = None) -> tuple[Normalise, str, str]:
    """The pixel mean and deviation that weights were trained with, the record that says so, and a warning or "".

    A timm config.json beside the file comes before timm's table; there NAME.TAG is exact, and a bare NAME is its first
    tag. Raises `BackboneError` for a config.json that cannot be read, or whose numbers are no pixel scale.
    """
    name, _, tag = architecture.partition(".")
    beside = path.parent / "config.json" if path else None
    if beside and beside.is_file():
        try:
            found = json.loads(beside.read_text(encoding="utf-8"))
            own = found["pretrained_cfg"] if found.get("architecture") == name else None
            if own:
                scale = [_checked(f"{beside}: pretrained_cfg.{f}", own[f], own[f]) for f in ("mean", "std")]
                return Normalise(*scale), beside.name, ""
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
            raise BackboneError(f"{beside} is no record of timm's for {path.name} ({type(error).__name__}: {error}): "
                                "mend it, or take it away") from error
    record = get_pretrained_cfg(architecture)
    if record is None:
        return Normalise((0.5,) * 3, (0.5,) * 3), "no record", f"timm keeps no record of {architecture}"
    scale = Normalise(tuple(record.mean), tuple(record.std))
    note = ""
    tags = [t for t in timm.list_pretrained(f"{name}.*") if t.split(".")[0] == name]
    others = [t for t in tags if (tuple(get_pretrained_cfg(t).mean), tuple(get_pretrained_cfg(t).std))
              != (scale.mean, scale.std)]
    if path and not tag and others:
        note = (f"weights called {name} were trained with different pixel means: taken is timm's record of "
                f"{name}.{record.tag}, {others[0]} has another; name the tag ({others[0]}@FILE), or set data.mean and "
                "data.std")
    elif record.interpolation != "bicubic":
        note = f"{architecture} was trained on {record.interpolation} images; the workbench scales all bicubic"
    return scale, f"timm's record of {name}{'.' + record.tag if record.tag else ''}", note
