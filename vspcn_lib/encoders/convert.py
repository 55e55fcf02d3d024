"""The packaged ONNX files under timm's names: each function reads one layout and drops nothing of the ViT."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def vit_s14(onnx_file: Path) -> dict[str, Tensor]:
    """A DINOv2 ViT-S/14 in float32, strict for timm's `vit_small_patch14_dinov2`.

    q, k, v and MLP matrices are anonymous initialisers; the MatMul node that reads one names it, and ONNX
    stores them transposed.
    """
    graph, found = _read(onnx_file)
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/encoder"):
            for name in node.input:
                if name in found:
                    found[f"{_path(node.name)}.weight"] = found[name].T
    # The position embedding was split by constant folding: one row for cls, 37 x 37 for the patches.
    folded = {a.shape[1]: n for n, a in found.items()
              if n.startswith("onnx::") and a.ndim == 3 and a.shape[0] == 1 and a.shape[2] == 384}
    state = {
        "cls_token": found["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate([found[folded[1]], found[folded[37 * 37]]], axis=1),
        **_both("patch_embed.proj", found, "backbone.embeddings.patch_embeddings.projection"),
        **_both("norm", found, "backbone.layernorm"),
    }
    for old, new in _layers(found, "backbone.encoder.layer"):
        for kind in ("weight", "bias"):
            qkv = [found[f"{old}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{new}.attn.qkv.{kind}"] = np.concatenate(qkv)
        state |= _both(f"{new}.attn.proj", found, f"{old}.attention.output.dense")
        for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            state |= _both(f"{new}.{part}", found, f"{old}.{part}")
        for part in (1, 2):
            state[f"{new}.ls{part}.gamma"] = found[f"{old}.layer_scale{part}.lambda1"]
    return _tensors(state)


def clip_vit_b16(onnx_file: Path) -> dict[str, Tensor]:
    """CLIP's image tower, strict for timm's `vit_base_patch16_clip_quickgelu_224` with a bias-free head of 512.

    Every matrix is int8 [in,out] with zero point 0 and one scale for each output: W[o,i] = scale[o] int8[i,o], in
    float32. Embeddings, norms and biases are float32 already. `head.weight` is CLIP's projection to the space that
    its image and text towers share: kept in the file, so that it holds the whole tower; the workbench reads the
    768 features before it, as of every other ViT.
    """
    graph, found = _read(onnx_file)
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            stem = node.input[1].removesuffix("_quantized")
            if found[f"{stem}_zero_point"].any():
                raise ValueError(f"{onnx_file.name}: {stem} is not symmetric")
            found[f"{_path(node.name)}.weight"] = dequantised(found[f"{stem}_quantized"], found[f"{stem}_scale"])
    state = {
        "cls_token": found["vision_model.embeddings.class_embedding"][None, None],
        "pos_embed": found["vision_model.embeddings.position_embedding.weight"][None],
        "patch_embed.proj.weight": found["vision_model.embeddings.patch_embedding.weight"],
        **_both("norm_pre", found, "vision_model.pre_layrnorm"),
        **_both("norm", found, "vision_model.post_layernorm"),
        "head.weight": found["visual_projection.weight"],
    }
    for old, new in _layers(found, "vision_model.encoder.layers"):
        for kind in ("weight", "bias"):
            qkv = [found[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{new}.attn.qkv.{kind}"] = np.concatenate(qkv)
        for part, name in (("attn.proj", "self_attn.out_proj"), ("norm1", "layer_norm1"), ("norm2", "layer_norm2"),
                           ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
            state |= _both(f"{new}.{part}", found, f"{old}.{name}")
    return _tensors(state)


def dequantised(quantised: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int8 [in,out] and one scale for each output [out] to a PyTorch weight float32 [out,in]."""
    return (quantised.astype(np.float32) * scale).T


def _read(onnx_file: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """The graph, and every initialiser by name."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(onnx_file)).graph
    return graph, {i.name: numpy_helper.to_array(i) for i in graph.initializer}


def _path(node: str) -> str:
    """The module that a MatMul node belongs to: /a/b/MatMul_quant -> a.b."""
    return node.strip("/").rsplit("/", 1)[0].replace("/", ".")


def _both(new: str, found: dict[str, np.ndarray], old: str) -> dict[str, np.ndarray]:
    """Weight and bias of one module under its new name."""
    return {f"{new}.{kind}": found[f"{old}.{kind}"] for kind in ("weight", "bias")}


def _layers(found: dict[str, np.ndarray], stem: str) -> list[tuple[str, str]]:
    """The old and the new name of every block, in order."""
    numbers = {int(m[1]) for m in (re.match(rf"{re.escape(stem)}\.(\d+)\.", n) for n in found) if m}
    return [(f"{stem}.{i}", f"blocks.{i}") for i in sorted(numbers)]


def _tensors(state: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(value, dtype=np.float32, order="C")) for name, value in state.items()}
