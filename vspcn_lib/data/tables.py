"""attributes.csv and phrases.csv as spreadsheets of every country write them."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np

from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.system.text import composed, did_you_mean, read_text, shown

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.I)
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def read_table(file: Path) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray, list[str]]:
    """Class names, attribute names, values float32 [C,K] and sentences on how the table was read.

    Fields stand between commas, semicolons or tabs, whichever follows the header's first word; where no number has a
    point, a comma is the decimal sign. UTF-8, or what the byte-order mark says. Names are composed (NFC) and lose
    spaces around them. Raises `BenchmarkError` that names the line of the file and the column.
    """
    if not file.is_file():
        raise BenchmarkError(f"{file} is missing: it needs a header 'class,<attribute>,...' and one row a class")
    rows, lines, separator = _rows(file, "class")
    if len(rows) < 3 or len(rows[0]) < 2 or rows[0][0].lower() != "class":
        raise BenchmarkError(f"{file}: the header must be 'class,<attribute>,...' with one row a class below it "
                             "(semicolons or tabs between fields are fine)")
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(rows[0]):
            raise BenchmarkError(f"{file}, line {line}: {len(row)} fields, the header has {len(rows[0])}")
    if len(set(rows[0])) < len(rows[0]):
        twice = next(n for n in rows[0] if rows[0].count(n) > 1)
        raise BenchmarkError(f"{file}: the column '{shown(twice)}' occurs twice: names must be unique")
    values, decimal = _values(file, rows, lines)
    said = []
    if separator != "," or decimal != ".":
        said.append(f"{file.name}: read with {SEPARATORS[separator]} between fields"
                    + (" and a comma as the decimal sign" if decimal == "," else ""))
    return tuple(row[0] for row in rows[1:]), tuple(rows[0][1:]), values, said


def read_phrases(file: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The optional phrases.csv, `attribute,phrase`: what text encoders read for some or all attributes, by name.

    Raises `BenchmarkError` that names the line of the file.
    """
    if not file.is_file():
        return {}
    rows, lines, _ = _rows(file, "attribute")
    if not rows or [cell.lower() for cell in rows[0]] != ["attribute", "phrase"]:
        raise BenchmarkError(f"{file}: the header must be 'attribute,phrase'")
    found: dict[str, str] = {}
    for line, row in zip(lines[1:], rows[1:], strict=True):
        if len(row) != 2:
            raise BenchmarkError(f"{file}, line {line}: {len(row)} fields, not an attribute and its phrase")
        name, phrase = row
        if name not in names:
            raise BenchmarkError(f"{file}, line {line}: attributes.csv has no '{shown(name)}', "
                                 f"{did_you_mean(name, names, 'take the row out')}")
        if name in found:
            raise BenchmarkError(f"{file}, line {line}: '{shown(name)}' occurs twice: one phrase an attribute")
        if not any(c.isalnum() for c in phrase) or not phrase.isprintable() or len(phrase) > 500:
            raise BenchmarkError(f"{file}, line {line}: {phrase[:40]!r} cannot be the phrase of '{shown(name)}': use "
                                 "1 to 500 printable characters, with a word among them")
        found[name] = phrase
    return found


def _rows(file: Path, first: str) -> tuple[list[list[str]], list[int], str]:
    """The rows that hold something, composed and stripped; the line of the file on which each begins, from 1; and the
    separator that follows the header's word `first`."""
    rows, lines, line = [], [], 1
    try:
        text = read_text(file)
        head, _, rest = text.partition("\n")
        told = re.fullmatch(r"sep=([,;\t])", head.strip("\r\n "), re.I)  # the first line that Excel writes for itself
        text, above = (rest, 1) if told else (text, 0)
        line += above
        word = re.match(rf'\s*"?\s*{first}\s*"?\s*([,;\t])', text, re.I)
        separator = told[1] if told else word[1] if word else ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for found in reader:
            row = [composed(cell).strip(" \t\u00a0") for cell in found]
            if any(row):  # spreadsheets leave rows of nothing at the end
                rows.append(row)
                lines.append(line)
            line = above + reader.line_num + 1  # a quoted field may hold line breaks
    except csv.Error as error:
        raise BenchmarkError(f"{file} is not a CSV table in UTF-8 (line {line}: {error}): save it as one") from error
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{file} is not a CSV table in UTF-8 ({error}): save it as one") from error
    return rows, lines, separator


def _values(file: Path, rows: list[list[str]], lines: list[int]) -> tuple[np.ndarray, str]:
    """The numbers [C,K] and their decimal sign."""
    cells = [cell for row in rows[1:] for cell in row[1:]]
    decimal = "," if any("," in cell for cell in cells) and not any("." in cell for cell in cells) else "."
    for line, row in zip(lines[1:], rows[1:], strict=True):
        for name, cell in zip(rows[0][1:], row[1:], strict=True):
            if not _NUMBER.fullmatch(cell.replace(",", ".") if decimal == "," else cell):
                raise BenchmarkError(f"{file}, line {line}: attribute '{shown(name)}' of class '{shown(row[0])}' is "
                                     f"not a number: '{shown(cell[:40])}'")
    with np.errstate(over="ignore"):  # too large a number becomes infinite, and that is refused by name
        numbers = [[cell.replace(",", ".") for cell in row[1:]] for row in rows[1:]]
        return np.array(numbers, dtype=np.float64).astype(np.float32), decimal
