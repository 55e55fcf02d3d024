"""Files that survive: locks that die with their process, lines that may be torn, blocks that carry their checksum."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MAGIC = b"vspcn checked 1 "  # then 64 hex digits of sha256, a line break, and the data


class Busy(RuntimeError):
    """Another process holds the lock."""


class Damaged(ValueError):
    """A file does not hold what was written to it; the message says in what way."""


@contextmanager
def exclusive(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, which the system frees when the process dies, however it dies.

    Raises `Busy` where another process (or another `exclusive` of this one) holds it and `wait` is false. On Windows,
    and on a file system without locks, nothing is held: two writers are then the user's affair. The lock file stays.
    """
    with path.open("a+b") as file:
        if fcntl is None:
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Busy(str(path)) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield


def build_folder(folder: Path, complete: Callable[[Path], bool], write: Callable[[Path], None]) -> None:
    """Have `write(partial)` make `folder`, which gets its name only when it is whole.

    A second process waits and finds it done; what a killed one left behind is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    with exclusive(folder.with_name(f".{folder.name}.lock"), wait=True):
        for stale in folder.parent.glob(f"{folder.name}.*.partial"):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            if not complete(folder):
                write(partial)
                os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the renames inside `folder` survive a power cut; Windows opens no folders, so nothing is done there."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checked(data: bytes) -> bytes:
    """`data` behind a line that carries its sha256."""
    return MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def unchecked(data: bytes) -> bytes:
    """What `checked` was given. Raises `Damaged` where a single bit differs."""
    head, _, rest = data.partition(b"\n")
    if not head.startswith(MAGIC):
        raise Damaged("it does not begin with a checksum")
    found = hashlib.sha256(rest).hexdigest()
    if head.removeprefix(MAGIC).decode("ascii", "replace") != found:
        raise Damaged(f"its checksum is {found[:12]}, not the one it was written with")
    return rest


def whole_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; a line torn by a kill or a full disk is left out. Empty where there is no file."""
    rows = []
    for line in file.read_bytes().split(b"\n") if file.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:  # torn, or not text at all
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
