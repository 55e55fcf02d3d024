"""Text as people's files have it: marks at the beginning, two spellings of one letter, names that are nearly right."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from pathlib import Path

_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, or in what its byte-order mark says, with \\n between lines and no mark.

    Raises OSError where it cannot be read, UnicodeDecodeError where it is in another encoding.
    """
    data = file.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS writes `u` and two dots where others write `ü`."""
    return unicodedata.normalize("NFC", name)


def shown(name: object) -> str:
    """A name fit for any file and screen: bytes that are no UTF-8, and control characters, as backslash escapes."""
    text = str(name).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that `name` may be meant as: the same but for case, spaces and signs, else the most similar."""
    byletters = {}
    for other in known:
        byletters.setdefault(letters(other), other)
    found = difflib.get_close_matches(letters(name), byletters, n=1, cutoff=cutoff)
    return byletters[found[0]] if found else None


def letters(name: str) -> str:
    """A name's letters and digits alone, without case, by which near misses are found; itself if it has none."""
    return "".join(c for c in composed(name).casefold() if c.isalnum()) or name


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """`did you mean 'NAME'?` where a known name is near, else `otherwise`."""
    near = nearest(name, known)
    return f"did you mean '{shown(near)}'?" if near is not None else otherwise
