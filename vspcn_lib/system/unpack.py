"""Archives unpacked without trust: nothing outside the folder, no links, no bombs."""

from __future__ import annotations

import errno
import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm.auto import tqdm

MEMBERS = 1_000_000
FACTOR, FREE = 60, 1 << 28  # photos hardly shrink, tables of numbers perhaps tenfold; a small archive may hold 256 MiB


class UnpackError(RuntimeError):
    """An archive is damaged or hostile; the message names the file and its member."""


class _Counted:
    """A decompressed stream that stops at `limit` bytes, also inside a header that claims gigabytes."""

    def __init__(self, stream: IO[bytes], limit: int, name: str) -> None:
        self.stream, self.left, self.name = stream, limit, name

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        if size > self.left:
            raise UnpackError(f"{self.name} unpacks to far more than it may, or claims to: do not use this file")
        data = self.stream.read(min(size, self.left) if size >= 0 else self.left)
        self.left -= len(data)
        return data


def unpack(file: Path, folder: Path) -> None:
    """Unpack a .zip, .tar or .tar.gz into the empty `folder`.

    Raises `UnpackError` for a member that is absolute, leads outside, is a link, a device or listed twice, for more
    than a million members, for more than 60 times the archive's own bytes (and 256 MiB), and for a damaged archive.
    """
    limit = max(FREE, FACTOR * file.stat().st_size)
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if sum(m.file_size for m in members) > limit:
                    raise UnpackError(f"{file.name} unpacks to {sum(m.file_size for m in members):,} bytes, more than "
                                      f"{limit:,}: do not use this file")
                for info in _checked(file, ((m.filename, m, _zip_kind(m)) for m in members)):
                    archive.extract(info, folder)  # zipfile never writes more than file_size
        else:
            with file.open("rb") as raw:
                packed = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                stream = _Counted(gzip.GzipFile(fileobj=raw) if packed else raw, limit, file.name)
                with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[arg-type]
                    for info in _checked(file, ((m.name, m, _tar_kind(m)) for m in archive)):
                        archive.extract(info, folder, filter="data")
    except tarfile.FilterError as error:
        raise UnpackError(f"{file.name} holds '{error.tarinfo.name}', which lies outside its folder: nothing was "
                          "unpacked, do not use this file") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile, NotImplementedError,
            ValueError, RuntimeError, RecursionError) as error:
        if isinstance(error, UnpackError):
            raise
        raise UnpackError(f"{file.name} is damaged ({error}): delete it and run the command again") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO):
            raise  # the disk's fault; all else is the archive's: impossible offsets, endless names, a file as a folder
        raise UnpackError(f"{file.name} is damaged ({error}): delete it and run the command again") from error


def _checked(file: Path, members: Iterator[tuple[str, Any, str]]) -> Iterator[Any]:
    """The members themselves, each looked at before it is written."""
    seen: set[str] = set()
    path = None
    for name, info, kind in tqdm(members, f"unpacking {file.name}"):
        path = PurePosixPath(name.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1])
        why = ("lies outside its folder" if outside else f"is {kind}" if kind else
               "is listed twice" if str(path) in seen and not name.endswith("/") else
               "is one too many" if len(seen) >= MEMBERS else
               "has a name of control characters" if not name.isprintable() else "")
        if why:
            raise UnpackError(f"{file.name} holds {name[:80]!r}, which {why}: nothing was unpacked, do not use "
                              "this file")
        seen.add(str(path))
        yield info
    if path is None:
        raise UnpackError(f"{file.name} is an archive of nothing, or none: delete it and run the command again")


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16
    if info.flag_bits & 1:
        return "encrypted"
    return "a link" if stat.S_ISLNK(mode) else "a device" if mode and not (
        stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0) else ""


def _tar_kind(info: tarfile.TarInfo) -> str:
    return "a link" if info.islnk() or info.issym() else "" if info.isfile() or info.isdir() else "a device"
