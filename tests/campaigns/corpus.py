"""The bad-input campaign makes hundreds of malformed or unusual inputs and shows each to its reader.

`PYTHONPATH=tests python tests/campaigns/corpus.py`

An input passes only if the answer is right. What is malformed must be refused within seconds by one sentence of the
library's own that names what is wrong; what people really write (kinds.py) must be read as it is meant, with the words
that it calls for. Anything else (another exception, a wrong result, silence, a hang) is a failure and listed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import hashlib
import io
import json
import pickle
import shutil
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kinds import Right, descriptions, layouts, left_out
from PIL import Image
from safetensors.torch import save
from scipy.io import savemat
from world import make_config, make_folder, make_vit

from vspcn_lib.commands.cli import main as command
from vspcn_lib.config import Config, as_dict, update
from vspcn_lib.data.benchmarks import load_benchmark, read_proposed_split
from vspcn_lib.data.images import decode, image_cache
from vspcn_lib.encoders.backbone import load_backbone
from vspcn_lib.encoders.semantics import attribute_vectors
from vspcn_lib.panels.controls import Slider
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.studies.records import read_records, read_scores
from vspcn_lib.studies.sweep import parse_axis
from vspcn_lib.system.environment import environment
from vspcn_lib.system.files import checked
from vspcn_lib.system.unpack import unpack

Case = tuple[str, Callable[[], Any]] | tuple[str, Callable[[], Any], Right]
"""name, action, and the right answer where that is more than any refusal"""
SECONDS = 5.0  # and never a hang


def _flips(data: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """`data` with a few of its first bytes changed, `count` times."""
    for _ in range(count):
        spoilt = bytearray(data)
        for place in rng.integers(0, min(len(data), 400), 6):
            spoilt[place] = int(rng.integers(256))
        yield bytes(spoilt)


class Evil:
    """What a hostile pickle does: it would write a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


# ---- images ---
def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")


def images(root: Path) -> Iterator[Case]:
    """Every broken kind of every format that Pillow reads here."""
    rng = np.random.default_rng(1)
    good: dict[str, bytes] = {}
    picture = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO"):
        buffer = io.BytesIO()
        with contextlib.suppress(Exception):
            picture.save(buffer, kind)
            good[kind.lower()] = buffer.getvalue()
    made: dict[str, bytes] = {
        "empty.png": b"",
        "text.jpg": b"no image at all",
        "zeros.png": bytes(4096),
        "html.jpg": b"<html>404 not found</html>",
        "bomb.png": _png(60000, 60000),
        "wide.png": _png(2**31 - 1, 1),
        "nothing.png": _png(0, 0),
        "no-data.png": _png(40, 40),
        "half-data.png": _png(40, 40, bytes(2000)),
        "svg.png": b"<svg xmlns='x'/>",
        "json.png": b"{}",
        "newline.jpg": b"\n",
    }
    for kind, data in good.items():
        for share in (0.02, 0.1, 0.3, 0.6):
            if kind not in ("ico", "tga") or share < 0.3:
                made[f"cut-{share}.{kind}"] = data[: max(1, int(share * len(data)))]
        made[f"tail-only.{kind}"] = data[len(data) // 2 :]
        made[f"wrong-head.{kind}"] = b"\xff\x00\xff" + data[3:] if kind != "tga" else b"\xff" * 20
    for name, data in made.items():
        path = root / name
        path.write_bytes(data)
        yield f"{name}", lambda path=path: decode(path, 32)
    folder = root / "folder.png"
    folder.mkdir()
    (root / "loop.png").symlink_to(root / "loop.png")
    for path in (folder, root / "loop.png", root / "missing.png"):
        yield path.name, lambda path=path: decode(path, 32)
    for name, data in {"short.npy": b"\x93NUMPY", "text.npy": b"hello", "empty.npy": b""}.items():
        yield f"cache {name}", lambda data=data: _spoilt_cache(root, data)


def _spoilt_cache(root: Path, data: bytes) -> None:
    place = root / "cache-photo.png"
    Image.new("RGB", (16, 16)).save(place)
    cache = Path(tempfile.mkdtemp(dir=root))
    image_cache([place], 16, root=cache, progress=False)
    next((cache / "images").glob("*.npy")).write_bytes(data)
    image_cache([place], 16, root=cache, progress=False)


# ---- the official layout and .mat files ---
def mats(root: Path) -> Iterator[Case]:
    """att_splits.mat with each entry missing, empty, of another kind, shape or range; and damaged files."""
    good: dict[str, Any] = {
        "att": np.random.default_rng(0).random((4, 5)),
        "allclasses_names": np.array([["a"], ["b"], ["c"], ["d"], ["e"]], dtype=object),
        "trainval_loc": [[1], [2], [3], [4]],
        "test_seen_loc": [[5]],
        "test_unseen_loc": [[6]],
        "train_loc": [[1], [2]],
        "val_loc": [[3], [4]],
    }
    made: dict[str, dict[str, Any]] = {}
    for key in good:
        made[f"without {key}"] = {k: v for k, v in good.items() if k != key}
        made[f"empty {key}"] = {**good, key: np.zeros((0, 0))}
        made[f"text {key}"] = {**good, key: "text" if key != "allclasses_names" else np.zeros((3, 2))}
    for key in (k for k in good if k.endswith("_loc")):
        made[f"zero-based {key}"] = {**good, key: [[0], [1]]}
        made[f"NaN {key}"] = {**good, key: [[np.nan]]}
        made[f"negative {key}"] = {**good, key: [[-5]]}
        made[f"fractions {key}"] = {**good, key: [[1.5], [2.5]]}
        made[f"struct {key}"] = {**good, key: {"x": 1}}
    made["other class count"] = {**good, "att": np.ones((4, 3))}
    made["three-dimensional att"] = {**good, "att": np.ones((4, 5, 2))}
    made["complex att"] = {**good, "att": np.ones((4, 5)) * 1j}
    made["struct att"] = {**good, "att": {"x": 1}}
    for name, values in made.items():
        path = root / f"{name.replace(' ', '-')}.mat"
        savemat(path, values)
        yield name, lambda path=path: read_proposed_split(path)
    savemat(root / "good.mat", good)
    data = (root / "good.mat").read_bytes()
    raw = {
        "empty": b"",
        "text": b"not a matlab file",
        "header only": data[:128],
        "cut": data[:300],
        "version 7.3": b"MATLAB 7.3 MAT-file" + bytes(600) + b"\x89HDF\r\n",
        "zeros": bytes(2000),
        "pickle": pickle.dumps(Evil(root / "mark")),
    }
    raw |= {f"cut at {share:.0%}": data[: int(share * len(data))] for share in (0.3, 0.5, 0.7, 0.9)}
    for name, content in raw.items():
        path = root / f"raw-{name.replace(' ', '-')}.mat"
        path.write_bytes(content)
        yield name, lambda path=path: read_proposed_split(path)
    for name in ("cub", "sun", "awa2"):
        yield f"{name} in an empty folder", lambda name=name: load_benchmark(name, root / "nothing")


# ---- folder benchmarks: CSV and JSON ---
def tables(root: Path) -> Iterator[Case]:
    """attributes.csv, spoilt."""
    base = make_folder(root / "base")
    good = (base / "attributes.csv").read_text()
    head, first, *rest = good.strip().split("\n")
    made = {
        "empty": "",
        "blank": "\n\n\n",
        "header only": head,
        "one row": f"{head}\n{first}",
        "no class column": good.replace("class,", "name,", 1),
        "no attributes": "class\na\nb\n",
        "semicolons below a header with commas": head + "\n" + good.partition("\n")[2].replace(",", ";"),
        "tabs below a header with commas": head + "\n" + good.partition("\n")[2].replace(",", "\t"),
        "points and commas in numbers": good.replace(",", ";").replace(";0.", ";0,", 1),
        "thousands": good.replace(first, "bird_0" + ",1_000" * 6),
        "short row": good.replace(first, "bird_0,1"),
        "long row": good.replace(first, first + ",1"),
        "word for a number": good.replace(first, "bird_0" + ",x" * 6),
        "NaN": good.replace(first, "bird_0" + ",nan" * 6),
        "infinite": good.replace(first, "bird_0" + ",inf" * 6),
        "too large": good.replace(first, "bird_0" + ",1e300" * 6),
        "zeros": good.replace(first, "bird_0" + ",0" * 6),
        "empty cells": good.replace(first, "bird_0" + "," * 6),
        "percent": good.replace(first, "bird_0" + ",5%" * 6),
        "decimal comma": good.replace(first, "bird_0" + ',"0,5"' * 6),
        "hex": good.replace(first, "bird_0" + ",0xff" * 6),
        "class twice": good + first + "\n",
        "class without a name": good.replace("bird_0", "", 1),
        "class of spaces": good.replace("bird_0", "   ", 1),
        "control characters": good.replace("bird_0", "bird\x1b[2J", 1),
        "zero byte": good.replace("bird_0", "bird\0", 1),
        "open quote": good.replace("bird_0", '"bird_0', 1),
        "stray quote": good.replace("bird_0", '"bird"_0', 1),
        "a class missing": "\n".join([head, *rest]) + "\n",
        "attribute twice": good.replace("has_size::small", "has_bill_shape::hooked"),
        "attribute without a name": good.replace("has_size::small", ""),
        "attribute of control characters": good.replace("has_size::small", "a\x07b"),
        "endless name": good.replace("bird_0", "b" * 5000, 1),
        "endless field": good.replace("bird_0", "b" * 200_000, 1),
        "JSON": json.dumps({"class": 1}),
        "HTML": "<table><tr><td>class</td></tr></table>",
        "path for a class": good.replace("bird_0", "../../etc", 1),
    }
    for name, text in made.items():
        yield name, lambda text=text: _folder(root, base, "attributes.csv", text.encode())
    raw = {
        "UTF-16 without a mark": good.encode("utf-16-le"),
        "Latin-1": good.replace("bird_0", "Vögel", 1).encode("latin-1"),
        "binary": bytes(range(256)) * 4,
        "gzip": gzip.compress(good.encode()),
        "spreadsheet": b"PK\x03\x04" + bytes(100),
    }
    for name, data in raw.items():
        yield name, lambda data=data: _folder(root, base, "attributes.csv", data)


def _folder(root: Path, base: Path, name: str, data: bytes) -> None:
    place = Path(tempfile.mkdtemp(dir=root)) / "copy"
    shutil.copytree(base, place)
    (place / name).write_bytes(data)
    load_benchmark(place)


def split_files(root: Path) -> Iterator[Case]:
    """splits.json, spoilt."""
    base = make_folder(root / "base")
    good = json.loads((base / "splits.json").read_text())
    raw = {
        "empty": b"",
        "cut": json.dumps(good).encode()[:200],
        "text": b"trainval: a",
        "binary": b"\xff\xfe\x00",
        "deep": b"[" * 100_000,
        "deep object": b'{"a":' * 50_000,
        "single quotes": str(good).encode(),
        "two documents": b"{} {}",
        "trailing comma": b'{"trainval": [],}',
    }
    made: dict[str, Any] = {"a list": [good], "a number": 3, "null": None, "a string": "trainval", "nothing": {}}
    for key in ("trainval", "test_seen", "test_unseen"):
        for what, value in {
            "missing": None,
            "empty": [],
            "text": "bird_0/0.png",
            "numbers": [1, 2],
            "nested": [["a"]],
            "an object": {"a": 1},
            "nulls": [None],
            "absent file": ["bird_0/99.png"],
            "path outside": ["../../etc/passwd"],
            "absolute path": ["/etc/passwd"],
            "backslashes": ["bird_0\\99.png"],
        }.items():
            made[f"{key}: {what}"] = {**good, key: value}
        made[f"{key}: twice"] = {**good, key: good[key] + good[key][:1]}
    made |= {
        "train and test overlap": {**good, "test_seen": good["trainval"][:2]},
        "unseen class in training": {
            **good,
            "trainval": good["trainval"] + good["test_unseen"][:1],
            "test_unseen": good["test_unseen"][1:],
        },
        "seen class without training images": {**good, "trainval": [f for f in good["trainval"] if "bird_0" not in f]},
    }
    for what, value in {
        "a string": "bird_3",
        "a number": 3,
        "an unknown class": ["wren"],
        "an unseen class": ["bird_7"],
        "all seen classes": [f"bird_{i}" for i in range(5)],
        "none": [],
        "numbers": [3],
        "nested": [["b"]],
        "an object": {"bird_3": 1},
        "twice": ["bird_3", "bird_3"],
    }.items():
        made[f"val_classes: {what}"] = {**good, "val_classes": value}
    for name, data in raw.items():
        yield name, lambda data=data: _folder(root, base, "splits.json", data)
    for name, value in made.items():
        yield name, lambda value=value: _folder(root, base, "splits.json", json.dumps(value).encode())


# ---- archives ---
def archives(root: Path) -> Iterator[Case]:
    """Zip and tar archives: damaged, leading outside, links, devices, bombs."""
    rng = np.random.default_rng(2)

    def zipped(names: dict[str, bytes], **attributes: int) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in names.items():
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED
                for key, value in attributes.items():
                    setattr(info, key, value)
                archive.writestr(info, data)
        return out.getvalue()

    def tarred(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0, head: bytes = b"") -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, size
            archive.addfile(info, io.BytesIO(bytes(size)))
        return head + out.getvalue()

    made: dict[str, bytes] = {
        "empty": b"",
        "text": b"hello",
        "zeros": bytes(10_000),
        "rar": b"Rar!\x1a\x07" + bytes(99),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(99),
        "gzip of text": gzip.compress(b"hello" * 99),
        "gzip cut": gzip.compress(rng.bytes(9000))[:2000],
        "HTML": b"<html>login</html>" * 99,
    }
    for name in (
        "../evil",
        "a/../../evil",
        "/tmp/evil",
        "..\\evil",
        "C:\\evil",
        "a/..",
        "..",
        "a\x1bb",
        "\\\\host\\evil",
    ):
        made[f"zip {name!r}"] = zipped({name: b"x"})
        if "\\" not in name:
            made[f"tar {name!r}"] = tarred(name)
    for name, kind, link in (
        ("symbolic link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link inside", tarfile.SYMTYPE, "a"),
        ("hard link", tarfile.LNKTYPE, "../../x"),
        ("character device", tarfile.CHRTYPE, ""),
        ("block device", tarfile.BLKTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
    ):
        made[f"tar {name}"] = tarred("set/x", kind, link)
    made["zip symbolic link"] = zipped({"set/x": b"/etc/passwd"}, external_attr=0o120777 << 16)
    made["zip device"] = zipped({"set/x": b""}, external_attr=0o020666 << 16)
    made["zip bomb"] = zipped({"set/x": bytes(300 << 20)})
    made["zip bomb in pieces"] = zipped({f"set/{i}": bytes(8 << 20) for i in range(36)})
    made["tar bomb"] = gzip.compress(tarred("set/x", size=300 << 20), 1)
    claim = tarfile.TarInfo("set/x")
    claim.size = 1 << 40
    made["tar that claims a terabyte"] = claim.tobuf() + bytes(2048)
    claim = tarfile.TarInfo("pax")
    claim.type, claim.size = tarfile.XHDTYPE, 1 << 40
    made["tar header that claims a terabyte"] = claim.tobuf(
        tarfile.USTAR_FORMAT if claim.size < 8**11 else tarfile.GNU_FORMAT
    ) + bytes(2048)
    made["zip listed twice"] = _twice()
    locked = bytearray(zipped({"set/x": b"secret"}))
    locked[6] |= 1
    locked[locked.find(b"PK\x01\x02") + 8] |= 1
    made["zip with a password"] = bytes(locked)
    method = bytearray(zipped({"set/x": b"secret"}))
    method[8], method[method.find(b"PK\x01\x02") + 10] = 97, 97
    made["zip of an unknown method"] = bytes(method)
    good = zipped({"set/x": rng.bytes(3000)})
    made |= {f"zip cut at {share:.0%}": good[: int(share * len(good))] for share in (0.2, 0.5, 0.9, 0.99)}
    spoilt = bytearray(good)
    spoilt[100:140] = bytes(40)
    made["zip with a wrong checksum"] = bytes(spoilt)
    good = gzip.compress(tarred("set/x", size=3000))
    made |= {f"tar.gz cut at {share:.0%}": good[: int(share * len(good))] for share in (0.2, 0.5, 0.9)}
    made["zip with an impossible offset"] = base64.b64decode(  # found by fuzzing
        "UEsDBBQAAAAAAHNldC9hLnR4dGhlbGxvUEsBAhQDFAAAAAAAZbd4XYamEDYFAAAABQAAAAkAAAAAAAAAAAAA"
        "AIABAAAAAHNldC9hLnR4dFBLBQYAAAAAAQABADcAAAAsAAAAAAA=")
    made["zip with an endless name"] = zipped({"set/" + "x" * 300: b"x"})
    made["zip with a file as a folder"] = zipped({"set": b"x", "set/x": b"x"})
    made["tar cut"] = tarred("set/x", size=3000)[:1500]
    made["tar with a wrong header"] = tarred("set/x", head=b"")[:20] + b"\xff" * 200 + tarred("set/x")[220:]
    for i, (name, data) in enumerate(made.items()):
        path = root / f"{i}.archive"
        path.write_bytes(data)
        yield name, lambda path=path: unpack(path, Path(tempfile.mkdtemp(dir=root)))


def _twice() -> bytes:
    import warnings

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("set/x", b"1")
        archive.writestr("set/x", b"2")
    return out.getvalue()


# ---- weights, checkpoints, states, scores ---
def checkpoints(root: Path) -> Iterator[Case]:
    """Backbone files, checkpoints, states, score matrices, JSON of a run folder, records."""
    rng = np.random.default_rng(3)
    mark = root / "mark"
    tensors = {"a.weight": torch.zeros(3, 3)}
    blob = save(tensors)
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    evil = pickle.dumps(Evil(mark))
    weird = io.BytesIO()
    torch.save({"x": Evil(mark)}, weird)
    files = {
        "empty": b"",
        "text": b"weights",
        "zeros": bytes(1000),
        "a pickle": evil,
        "a program inside": weird.getvalue(),
        "cut": buffer.getvalue()[:300],
        "of another model": buffer.getvalue(),
        "an archive": _twice(),
    }
    for suffix in ("safetensors", "pth"):
        for name, data in files.items():
            path = root / f"{name.replace(' ', '-')}.{suffix}"
            path.write_bytes(data)
            yield f"backbone .{suffix}: {name}", lambda path=path: load_backbone(f"vit_tiny_patch16_224@{path}", 32)
    heads = {
        "header too long": struct.pack("<Q", 1 << 60) + b"{}",
        "header no JSON": struct.pack("<Q", 5) + b"{{{{{",
        "offsets outside": _header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 9999]}}),
        "offsets backwards": _header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}),
        "unknown type": _header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}),
        "negative shape": _header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
    }
    for name, data in {**heads, "of another model": blob}.items():
        path = root / f"{name.replace(' ', '-')}-2.safetensors"
        path.write_bytes(data)
        yield f"backbone .safetensors: {name}", lambda path=path: load_backbone(f"vit_tiny_patch16_224@{path}", 32)
    yield "backbone: unknown model", lambda: load_backbone(f"vit_of_nobody@{root / 'cut.pth'}", 32)
    yield "backbone: no such file", lambda: load_backbone("vit_tiny_patch16_224@/nowhere.pth", 32)
    yield "backbone: a folder", lambda: load_backbone(f"vit_tiny_patch16_224@{root}", 32)

    config = make_config(root)

    def run_with(name: str, data: bytes, read: Callable[[RunFolder], Any]) -> Any:
        folder = RunFolder.create(Path(tempfile.mkdtemp(dir=root)), config, False)
        (folder.path / name).write_bytes(data)
        return read(folder)

    good = {**files, **heads}
    good.pop("of another model")
    for name, data in good.items():
        yield (
            f"checkpoint: {name}",
            lambda data=data: run_with("checkpoint.safetensors", data, lambda f: f.load_checkpoint(make_vit().source)),
        )
    flipped = bytearray(_checkpoint(root, config))
    flipped[-3] ^= 1
    yield (
        "checkpoint: one bit differs",
        lambda: run_with("checkpoint.safetensors", bytes(flipped), lambda f: f.load_checkpoint(make_vit().source)),
    )
    state = io.BytesIO()
    torch.save({"phase": "select", "epoch": 1}, state)
    states = {
        **files,
        "without a checksum": state.getvalue(),
        "checksum of a pickle": checked(evil),
        "a program inside, with checksum": checked(weird.getvalue()),
        "cut, with checksum": checked(state.getvalue())[:200],
        "one bit differs": _flip(checked(state.getvalue())),
    }
    states.pop("of another model")
    for name, data in states.items():
        yield f"state: {name}", lambda data=data: run_with("state.pt", data, lambda f: f.load_state())
    objects = io.BytesIO()
    np.savez(objects, scores=np.array([Evil(mark)], dtype=object), labels=0, unseen=0, tau=0)
    some = io.BytesIO()
    np.savez(some, scores=np.zeros(3))
    arrays = {**files, "objects inside": objects.getvalue(), "entries missing": some.getvalue()}
    arrays.pop("of another model")
    for name, data in arrays.items():
        yield f"scores: {name}", lambda data=data: run_with("scores.npz", data, lambda f: f.scores())
        path = root / f"{name.replace(' ', '-')}.npz"
        path.write_bytes(data)
        yield f"recorded scores: {name}", lambda path=path: read_scores(path)
    texts = {"empty": b"", "cut": b'{"H": 1', "binary": b"\xff\xfe\0", "deep": b"[" * 100_000}
    for name, data in texts.items():
        for file in ("config.json", "selection.json", "result.json"):
            yield (
                f"{file}: {name}",
                lambda file=file, data=data: run_with(
                    file, data, lambda f: f.config() if file == "config.json" else f.read_json(file)
                ),
            )
    for name, data in {**texts, "a list": b"[1]", "no record": b"{}"}.items():
        place = Path(tempfile.mkdtemp(dir=root))
        (place / "r.json").write_bytes(data)
        yield f"record: {name}", lambda place=place: read_records(place)
    del rng


def _header(content: dict[str, Any]) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


def _flip(data: bytes) -> bytes:
    spoilt = bytearray(data)
    spoilt[-40] ^= 1
    return bytes(spoilt)


def _checkpoint(root: Path, config: Config) -> bytes:
    folder = RunFolder.create(Path(tempfile.mkdtemp(dir=root)), config, False)
    folder.save_checkpoint({"a": torch.ones(8)}, make_vit().source)
    return (folder.path / "checkpoint.safetensors").read_bytes()


# ---- word vectors ---
def vectors(root: Path) -> Iterator[Case]:
    """Files in word2vec format, and names."""
    good = "2 3\nred 1 2 3\ncrown 3 2 1\n"
    mark = root / "mark"
    made = {
        "empty.txt": b"",
        "header.txt": b"2 3\n",
        "short.txt": b"2 3\nred 1 2\n",
        "words.txt": b"2 3\nred a b c\ncrown d e f\n",
        "negative.txt": b"-2 3\nred 1 2 3\n",
        "zero.txt": b"0 0\n",
        "huge.txt": b"400000000 300000\nred 1 2 3\n",
        "huge-rows.txt": b"99999999999 3\nred 1 2 3\n",
        "binary.txt": bytes(range(256)),
        "nan.txt": b"2 3\nred nan nan nan\ncrown nan 1 1\n",
        "infinite.txt": b"2 3\nred inf inf 1\ncrown 1 1 1\n",
        "fewer.txt": b"5 3\nred 1 2 3\n",
        "unknown.txt": b"1 3\nzebra 1 2 3\n",
        "latin.txt": "1 3\nvögel 1 2 3\n".encode("latin-1"),
        "float-header.txt": b"2.5 3\nred 1 2 3\n",
        "html.vec": b"<html></html>",
        "json.vec": b"{}",
        "cut.bin": b"2 3\nred \0\0",
        "text.bin": b"hello",
        "empty.bin": b"",
        "text.gz": b"hello",
        "cut.gz": gzip.compress(good.encode())[:20],
        "bomb.gz": gzip.compress(b"2 3\n" + b" " * (50 << 20)),
        "empty.gz": b"",
        "vectors.kv": pickle.dumps(Evil(mark)),
        "vectors.pkl": pickle.dumps(Evil(mark)),
        "vectors.model": pickle.dumps(Evil(mark)),
        "spaces.txt": b" \n \n",
        "three.txt": b"2 3 4\nred 1 2 3\n",
        "one.txt": b"2\nred 1 2 3\n",
        "pickle.txt": pickle.dumps(Evil(mark)),
        "long.txt": b"x" * 200_000,
    }
    for name, data in made.items():
        path = root / name
        path.write_bytes(data)
        yield name, lambda path=path: attribute_vectors(["crown_red"], str(path))
    (root / "no-header.txt").write_bytes(b"red 1 2 3\n")  # GloVe's own format
    yield "no header", lambda: attribute_vectors(["crown_red"], str(root / "no-header.txt")), lambda found: (
        found.values.tolist() == [[1, 2, 3]] and "'crown' of 'crown_red'" in found.notes[0])
    for name in ("glove-5", "", "/nowhere.txt", "minilm2", str(root), "glove-50 "):
        yield f"source {name[-20:]!r}", lambda name=name: attribute_vectors(["crown_red"], name)
    for name in ("", "___", "(all)", "has_", "::", "☃", "xqzv_wvut", "\0", "-" * 5000):
        yield f"attribute {name[:12]!r}", lambda name=name: attribute_vectors([name])


# ---- settings ---
def configs(root: Path) -> Iterator[Case]:
    """Config trees, axes of a sweep, control values, command lines."""
    tree = as_dict(Config())
    wrong: dict[type, tuple[Any, ...]] = {
        int: (-1, 10**12, 1.5, "3", None, True, [3]),
        str: (3, None, ["a"], {"a": 1}),
        bool: (1, "yes", None),
        float: (-1.0, float("nan"), float("inf"), 1e9, "0.1", None, True, [0.1]),
    }
    for group, part in tree.items():
        for key, value in part.items():
            for bad in wrong[type(value)]:
                yield f"{group}.{key} = {bad!r}", lambda g=group, k=key, b=bad: update(Config(), {g: {k: b}})
    for name, tree in {
        "a list": [],
        "text": "model",
        "null": None,
        "group a list": {"model": []},
        "group null": {"loss": None},
        "unknown group": {"modell": {}},
        "unknown field": {"model": {"alpha": 1.0}},
        "group a number": {"data": 3},
        "field of another group": {"data": {"lr": 0.1}},
    }.items():
        yield name, lambda tree=tree: update(Config(), tree)
    for axis in (
        "",
        "=",
        "alpha",
        "model.alpha_v",
        "model.alpha_v=",
        "model.alpha_v=1:0",
        "model.alpha_v=0:1:2",
        "a.b=1",
        "model.alpha_v=0:x",
        "model.alpha_v=,",
        "model.=1",
        ".alpha_v=1",
        "model.alpha_v=0:1:log:log",
        "model.weak=2",
        "train.epochs=1.5,2",
        "model.alpha_v=nan,1",
        "model.__class__=1",
        "train.lr=-1:1",
    ):
        yield f"axis {axis!r}", lambda axis=axis: parse_axis(axis)
    slider = Slider("alpha", 0.0, 1.0, 0.05)
    whole = Slider("image", 0, 23, 1)
    for typed in (
        "",
        " ",
        "x",
        "1,5",
        "2",
        "-0.1",
        "nan",
        "inf",
        "-inf",
        "1e99",
        "0x1",
        "1/2",
        "None",
        "½",
        "1 2",
        "\0",
        "<b>1</b>",
        "1" * 5000,
    ):
        yield f"slider {typed[:9]!r}", lambda typed=typed: slider.parse(typed)
    for typed in ("0.5", "24", "-1", "1.5", "", "one", "9" * 5000):
        yield f"whole-number slider {typed[:9]!r}", lambda typed=typed: whole.parse(typed)
    lines = [
        ["trian"],
        ["train", "--preset", "cub10"],
        ["evaluate", str(root / "no")],
        ["resume", str(root / "no")],
        ["record", str(root / "no"), str(root / "r.json")],
        ["predict", str(root / "no"), "x.jpg"],
        ["data", "fetch", "imagenet"],
        ["data", "look", "cub"],
        ["data", "verify", "imagenet"],
        ["figures", "--records", str(root / "empty")],
        ["ablate", "--rows", "nothing"],
        ["sweep", "--axes", "model.alpha_v=0:1", "--study", "../../evil"],
        ["sweep", "--axes", "model.alpha_v=0:1", "--study", ""],
        ["sweep", "--axes", "model.alpha_v=0:1", "--storage", "nosuchdb://x/y"],
        ["train", "--data.benchmark", str(root / "no")],
        ["train", "--model.backbone", "vit_x@no.pth"],
        ["train", "--resume", "--out", str(root / "no")],
        ["train", "--data.vectors", "glove-5"],
    ]
    for line in lines:
        yield "command " + " ".join(w if len(w) < 20 else "…" for w in line), lambda line=line: _command(line)


class CommandRefused(ValueError):
    """Stands for exit status 2 and the one line that the command printed."""


CommandRefused.__module__ = "vspcn_lib.commands.cli"


def _command(line: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command(line)
        except SystemExit as stop:  # tyro's own refusal, in a box
            status = stop.code
    if status:
        raise CommandRefused(err.getvalue().strip().splitlines()[-1] if err.getvalue().strip() else "")


CLASSES: dict[str, Callable[[Path], Iterator[Case]]] = {
    "images and their cache": images,
    ".mat files": mats,
    "attributes.csv": tables,
    "splits.json": split_files,
    "descriptions of one benchmark": descriptions,
    "official layouts": layouts,
    "left out, twice, nearly right, too few": left_out,
    "archives": archives,
    "weights, checkpoints, states, scores, records": checkpoints,
    "word vectors and attribute names": vectors,
    "settings, axes, control values, commands": configs,
}


PASSED = ("refused", "read")


def judge(name: str, act: Callable[[], Any], right: Right = "") -> tuple[str, str, float]:
    """("refused", the sentence, seconds), ("read", ...) where that is right, or another verdict with what happened.

    `right`: words that the refusal must hold, or what must be true of what is read.
    """
    began = time.monotonic()
    try:
        found = act()
        good = callable(right) and right(found)
        verdict, text = ("read", "") if good else ("read wrongly" if callable(right) else "accepted", str(found))
    except Exception as error:
        own = type(error).__module__.startswith("vspcn_lib") or (
            name.startswith(("slider", "whole-number")) and type(error) is ValueError
        )  # shown in the panel as a sentence
        text = f"{type(error).__name__}: {error}"
        good = own and len(str(error)) > 10 and not callable(right) and right in str(error)
        verdict = "refused" if good else "refused for another reason" if own else "foreign error"
    seconds = time.monotonic() - began
    return ("slow" if verdict in PASSED and seconds > SECONDS else verdict), text, seconds


def campaign(root: Path) -> dict[str, Any]:
    """Every case below the empty folder `root`: counts by class and verdict, an example of each class, all failures."""
    found: dict[str, Any] = {"classes": {}, "failures": []}
    for kind, cases in CLASSES.items():
        place = root / hashlib.sha256(kind.encode()).hexdigest()[:8]
        place.mkdir()
        counts, longest, example = Counter(), 0.0, ""
        for name, act, *right in cases(place):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                verdict, text, seconds = judge(name, act, *right)
            counts[verdict] += 1
            longest = max(longest, seconds)
            text = text.replace(str(place) + "/", "").replace(str(root) + "/", "")
            if verdict not in PASSED:
                found["failures"].append(f"{kind} | {name} | {verdict} | {text[:200]}")
            elif verdict == "refused" and (not example or counts["refused"] == 12):
                example = f"{name}: {text.splitlines()[0][:220]}"
        if (place / "mark").exists():
            found["failures"].append(f"{kind} | a pickle was run")
        found["classes"][kind] = {**counts, "longest seconds": round(longest, 2), "example": example}
    found["total"] = {
        "tried": sum(v for c in found["classes"].values() for v in c.values() if isinstance(v, int)),
        **{verdict: sum(c.get(verdict, 0) for c in found["classes"].values()) for verdict in PASSED},
    }
    return found


def main() -> int:
    """Run the campaign and print its record, or keep it in a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="a JSON record")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder))
    record = {**found, "command": "PYTHONPATH=tests python tests/campaigns/corpus.py", "environment": environment()}
    text = json.dumps(record, indent=1, ensure_ascii=False)
    print(text)
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(text + "\n")
    return len(found["failures"]) > 0


if __name__ == "__main__":
    sys.exit(main())
