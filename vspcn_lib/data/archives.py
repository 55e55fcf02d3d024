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

from vspcn_lib.data.benchmarks import LAYOUTS, UNFETCHED, find_root, load_benchmark
from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.system.files import exclusive
from vspcn_lib.system.unpack import UnpackError, unpack


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


def fetch(name: str, root: Path | None = None, archives: tuple[Archive, ...] | None = None) -> None:
    """Download, check and unpack the archives of `name` below `root` (`find_root`); whole parts are kept, others
    completed.

    Raises `ArchiveError` for an unknown name, no network, a full disk, a wrong size or checksum, or an archive
    member that would land outside its folder.
    """
    if archives is None:
        if name not in ARCHIVES:
            why = UNFETCHED.get(name, f"choose one of {', '.join(ARCHIVES)}")
            raise ArchiveError(f"nothing to fetch for '{name}': {why}")
        archives = ARCHIVES[name]
    root = find_root(name, root) if name in LAYOUTS else Path(root or "data")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / ".fetch.lock", wait=True):  # a second process finds the work done
            for stale in root.glob("unpacking-*"):  # of a process that was killed
                shutil.rmtree(stale, ignore_errors=True)
            for archive in archives:
                if (root / archive.makes).exists() and (_holds(archive, name, root) or not _lacks(name, root)):
                    print(f"{archive.makes} is already in {root}")
                else:
                    _unpack(archive, _download(archive, root), root)
            if lacks := _lacks(name, root):
                raise ArchiveError(f"everything is unpacked, and yet {lacks}; move "
                                   f"{', '.join(a.makes for a in archives)} out of {root} and run the command again")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ArchiveError(f"the disk of {root} is full: free some space and run the same command again, it "
                               "continues where it stopped") from error
        raise ArchiveError(f"could not write to {root} ({error.strerror or error}): choose another --root, or make it "
                           "writable") from error
    except UnpackError as error:
        raise ArchiveError(str(error)) from error


def _holds(archive: Archive, name: str, root: Path) -> bool:
    """Whether `archive` is the one of the split files, and those of `name` lie in `root` as published."""
    own = [(root / f, s) for f, s in archive.holds if name in LAYOUTS and f"/{LAYOUTS[name].splits}/" in f]
    return bool(own) and all(f.is_file() and _sha256(f) == s and f.with_name("res101.mat").is_file() for f, s in own)


def _lacks(name: str, root: Path) -> str:
    """What an official benchmark still lacks to be read, empty if nothing; of another name nothing is known."""
    try:
        if name in LAYOUTS:
            load_benchmark(name, root)
    except BenchmarkError as error:
        return str(error)
    return ""


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _download(archive: Archive, root: Path) -> Path:
    """The checked file, also one that was there before; a broken download continues from its .part."""
    file, part = root / archive.filename, root / f"{archive.filename}.part"
    if file.exists() and archive.size and file.stat().st_size < archive.size:
        os.replace(file, part)  # put there by hand, and not whole
    if file.exists():
        _check(archive, file)
    else:
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
        kept = f", {part.name} is kept" if part.exists() else ""
        raise ArchiveError(f"could not download {archive.filename} from {host} ({type(error).__name__}): check the "
                           f"network and run the same command again{kept}; or put the file into {part.parent} by "
                           "hand") from error


def _check(archive: Archive, part: Path) -> None:
    size = part.stat().st_size
    with part.open("rb") as file:
        md5 = partial(hashlib.md5, usedforsecurity=False)  # the publishers' choice: it tells damage, TLS tells fraud
        found = hashlib.file_digest(file, md5).hexdigest()
    if archive.size and size < archive.size:
        raise ArchiveError(f"{archive.filename} ended at {size:,} of {archive.size:,} bytes: run the command again, it "
                           "continues there")
    if (archive.size and size != archive.size) or (archive.md5 and found != archive.md5):
        bad = part.with_name(f"{archive.filename}.bad")
        os.replace(part, bad)
        raise ArchiveError(f"checksum mismatch for {archive.filename}: expected {archive.size} bytes, md5 "
                           f"{archive.md5}; found {size} bytes, md5 {found}; it was moved to {bad.name}, run the "
                           "command again")
    print(f"{archive.filename}: {size:,} bytes, md5 {found}" + ("" if archive.md5 else " (none published to compare)"))


def _unpack(archive: Archive, file: Path, root: Path) -> None:
    """Unpack beside `root`'s content, then move each top folder in, so nothing half-unpacked looks finished.

    A folder that is there already gets the files that it lacks, and those of another size or checksum.
    """
    with tempfile.TemporaryDirectory(dir=root, prefix="unpacking-") as folder:
        unpack(file, Path(folder))
        for name, sha256 in archive.holds:
            inside = Path(folder) / name
            found = _sha256(inside) if inside.is_file() else "no such file"
            if found != sha256:
                raise ArchiveError(f"checksum mismatch for {name} in {file.name}: expected sha256 {sha256}, found "
                                   f"{found}; delete {file.name} and run the command again")
        os.sync()  # the files are on the disk before their folder gets its name
        tops = sorted(Path(folder).iterdir(), key=lambda top: top.name == archive.makes)  # what tells "done" comes last
        for top in tops:
            _merge(top, root / top.name, {root / name for name, _ in archive.holds})
    if not (root / archive.makes).exists():
        raise ArchiveError(f"{file.name} unpacked to {', '.join(t.name for t in tops)[:200] or 'nothing'}, not to "
                           f"{archive.makes}: it is another file")


def _merge(source: Path, target: Path, checked: set[Path]) -> None:
    """Move what `target` lacks of `source`, file by file; what else is in there stays."""
    if not target.exists() or (source.is_file() and target.is_file() and (
            target in checked or source.stat().st_size != target.stat().st_size)):
        os.replace(source, target)
    elif source.is_dir():
        for part in source.iterdir():
            _merge(part, target / part.name, checked)

