"""Official archives: fetched with resume, checked, unpacked safely; and one screen on what is there."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm.auto import tqdm

from vspcn_lib.benchmarks import LAYOUTS, load_benchmark, read_proposed_split
from vspcn_lib.files import exclusive
from vspcn_lib.splits import BenchmarkError
from vspcn_lib.unpack import UnpackError, unpack


class ArchiveError(RuntimeError):
    """A download or archive cannot be used; the message names it and what to do."""


@dataclass(frozen=True)
class Archive:
    """One file to fetch; `size` in bytes and `md5` where the publisher states them, `makes` what it unpacks to."""

    url: str
    """over TLS, on this machine alone without"""
    makes: str
    size: int | None = None
    md5: str | None = None
    holds: tuple[tuple[str, str], ...] = ()
    """sha256 of files inside it, by their path, where the archive's own is not published"""

    @property
    def filename(self) -> str:
        """The last part of the address."""
        return Path(urlsplit(self.url).path).name


SPLITS = Archive("https://datasets.d2.mpi-inf.mpg.de/xian/xlsa17.zip", "xlsa17", holds=(
    ("xlsa17/data/CUB/att_splits.mat", "6d1c673088584fb1d8ea0e572c0566929a816309d1b456424c1096dce90c78e9"),
    ("xlsa17/data/AWA2/att_splits.mat", "dfe0e4f26ef5debaa77eff823a9316ac110e9b809b70d19c72dd11404f7be357"),
    ("xlsa17/data/SUN/att_splits.mat", "90dcb2a60704ce1117ba1897523ba78dc6b625e606008918c4eade9cd8a5bf43")))
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "cub": (SPLITS, Archive("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                            "CUB_200_2011", 1_150_585_339, "97eceeb196236b17998738112f37df78")),
    "awa2": (SPLITS, Archive("https://cvml.ista.ac.at/AwA2/AwA2-data.zip", "Animals_with_Attributes2")),
    "sun": (SPLITS, Archive("https://cs.brown.edu/~gmpatter/Attributes/SUNAttributeDB.tar.gz", "SUNAttributeDB"),
            Archive("https://cs.brown.edu/~gmpatter/Attributes/SUNAttributeDB_Images.tar.gz", "images")),
}


def fetch(name: str, root: Path, archives: tuple[Archive, ...] | None = None) -> None:
    """Download, check and unpack the archives of `name` below `root`; finished parts are kept.

    Raises `ArchiveError` for an unknown name, no network, a full disk, a wrong size or checksum, or an archive
    member that would land outside its folder.
    """
    if archives is None:
        if name not in ARCHIVES:
            raise ArchiveError(f"nothing to fetch for '{name}': choose one of {', '.join(ARCHIVES)}")
        archives = ARCHIVES[name]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / ".fetch.lock", wait=True):  # a second process finds the work done
            for stale in root.glob("unpacking-*"):  # of a process that was killed
                shutil.rmtree(stale, ignore_errors=True)
            for archive in archives:
                if (root / archive.makes).exists():
                    print(f"{archive.makes} is already in {root}")
                else:
                    _unpack(archive, _download(archive, root), root)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ArchiveError(f"the disk of {root} is full: free some space and run the same command again, it "
                               "continues where it stopped") from error
        raise ArchiveError(f"could not write to {root} ({error.strerror or error}): choose another --root, or make it "
                           "writable") from error
    except UnpackError as error:
        raise ArchiveError(str(error)) from error


def _download(archive: Archive, root: Path) -> Path:
    """The checked file; a broken download continues from its .part."""
    file, part = root / archive.filename, root / f"{archive.filename}.part"
    if not file.exists():
        have = part.stat().st_size if part.exists() else 0
        if archive.size and archive.size - have > shutil.disk_usage(root).free:
            raise ArchiveError(f"{archive.filename} needs {(archive.size - have) / 1e9:.1f} GB more, the disk of "
                               f"{root} has {shutil.disk_usage(root).free / 1e9:.1f} GB: free some space")
        if not archive.size or have < archive.size:
            _stream(archive, part, have)
        _check(archive, part)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(part, file)
    return file


def _secure(url: str) -> bool:
    """Whether nobody on the way can change what comes from `url`."""
    return urlsplit(url).scheme == "https" or urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _stream(archive: Archive, part: Path, have: int) -> None:
    host = urlsplit(archive.url).netloc
    if not _secure(archive.url):
        raise ArchiveError(f"{archive.url} is no https address: what comes from it could be changed on the way")
    try:
        headers = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(archive.url, headers=headers, stream=True, timeout=60) as answer:
            if answer.status_code == 416:  # nothing left to send: the checksum decides
                return
            answer.raise_for_status()
            if not _secure(answer.url):
                raise ArchiveError(f"{host} sent the download on to {answer.url}, which is no https address: get the "
                                   f"file by hand and put it into {part.parent}")
            if answer.status_code != 206:  # the server cannot resume: from the start
                have = 0
            total = have + int(answer.headers.get("Content-Length", 0)) or None
            with part.open("ab" if have else "wb") as out, tqdm(
                    total=total, initial=have, unit="B", unit_scale=True, desc=archive.filename) as bar:
                for piece in answer.iter_content(1 << 20):
                    have += len(piece)
                    if archive.size and have > archive.size:
                        break  # more than published: the check below names it
                    out.write(piece)
                    bar.update(len(piece))
    except requests.RequestException as error:
        raise ArchiveError(f"could not download {archive.filename} from {host} ({type(error).__name__}): check the "
                           f"network and run the same command again, {part.name} is kept; or put the file into "
                           f"{part.parent} by hand") from error


def _check(archive: Archive, part: Path) -> None:
    size = part.stat().st_size
    with part.open("rb") as file:
        md5 = partial(hashlib.md5, usedforsecurity=False)  # the publishers' choice: it tells damage, TLS tells fraud
        found = hashlib.file_digest(file, md5).hexdigest()
    if archive.size and size < archive.size:
        raise ArchiveError(f"{archive.filename} ended at {size:,} of {archive.size:,} bytes: run the command again, it "
                           "continues there")
    if (archive.size and size != archive.size) or (archive.md5 and found != archive.md5):
        bad = part.with_suffix(".bad")
        os.replace(part, bad)
        raise ArchiveError(f"checksum mismatch for {archive.filename}: expected {archive.size} bytes, md5 "
                           f"{archive.md5}; found {size} bytes, md5 {found}; it was moved to {bad.name}, run the "
                           "command again")
    print(f"{archive.filename}: {size:,} bytes, md5 {found}" + ("" if archive.md5 else " (none published to compare)"))


def _unpack(archive: Archive, file: Path, root: Path) -> None:
    """Unpack beside `root`'s content, then move each top folder in, so nothing half-unpacked looks finished."""
    with tempfile.TemporaryDirectory(dir=root, prefix="unpacking-") as folder:
        unpack(file, Path(folder))
        for name, sha256 in archive.holds:
            inside = Path(folder) / name
            found = hashlib.sha256(inside.read_bytes()).hexdigest() if inside.is_file() else "no such file"
            if found != sha256:
                raise ArchiveError(f"checksum mismatch for {name} in {file.name}: expected sha256 {sha256}, found "
                                   f"{found}; delete {file.name} and run the command again")
        os.sync()  # the files are on the disk before their folder gets its name
        tops = sorted(Path(folder).iterdir(), key=lambda top: top.name == archive.makes)  # what tells "done" comes last
        for top in tops:
            if not (root / top.name).exists():
                os.replace(top, root / top.name)
    if not (root / archive.makes).exists():
        raise ArchiveError(f"{file.name} unpacked to {', '.join(t.name for t in tops)[:200] or 'nothing'}, not to "
                           f"{archive.makes}: it is another file")


def verify(name: str, root: Path) -> str:
    """One screen: what of `name` is below `root`, what is missing, and whether the counts are the published ones."""
    if name not in LAYOUTS:
        raise ArchiveError(f"nothing known about '{name}': choose one of {', '.join(LAYOUTS)}")
    layout, lines = LAYOUTS[name], [f"{name} in {root}"]
    splits = root / "xlsa17" / "data" / layout.splits
    for path in (root / layout.images, splits / "att_splits.mat", splits / "res101.mat"):
        lines.append(f"  {'there  ' if path.exists() else 'MISSING'}  {path.relative_to(root)}")
    try:
        split = read_proposed_split(splits / "att_splits.mat")
        found = (len(split.trainval), len(split.test_seen), len(split.test_unseen))
        for part, a, b in zip(("trainval", "test_seen", "test_unseen"), found, layout.counts, strict=True):
            lines.append(f"  {part:<12}{a:>7}  published {b:>7}  {'equal' if a == b else 'DIFFERENT'}")
        bench = load_benchmark(name, root)
        lines.append(f"  {len(bench.image_paths)} images, {len(bench.seen_classes)} seen + {len(bench.unseen_classes)} "
                     f"unseen classes, {len(bench.attribute_names)} attributes, split {bench.split_hash}: ready")
    except BenchmarkError as error:
        lines.append(f"  not ready: {error}")
    return "\n".join(lines)
