"""attributes.csv and phrases.csv: an error names the line of the file, whatever stands above it."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.data.tables import read_phrases, read_table

NAMES = ("a", "b", "c")
ABOVE = st.lists(st.sampled_from(["good", "", "  ", ",,,", ";;;", '"br\nok\n{n}"{s}1{s}1{s}1']), max_size=6)


def _line(text: str, mark: str) -> int:
    """The line on which an editor shows `mark`."""
    return next(n for n, line in enumerate(text.split("\n"), 1) if mark in line)


@given(ABOVE, st.booleans(), st.sampled_from([",", ";"]), st.sampled_from(["\n", "\r\n"]),
       st.sampled_from(["MARK{s}1", "MARK{s}1{s}x{s}1"]), st.integers(0, 2))
@settings(deadline=None, max_examples=60)
def test_a_wrong_row_of_attributes_is_named_by_its_line(above, told, s, ends, wrong, blank):
    rows = [f"bird_{n}{s}1{s}1{s}1" if row == "good" else row.replace(",", s).replace(";", s).format(n=n, s=s)
            for n, row in enumerate(above)]
    text = "\n".join([*[f"sep={s}"] * told, *[""] * blank, s.join(["class", *NAMES]), f"wren{s}1{s}1{s}1", *rows,
                      wrong.format(s=s), f"last{s}1{s}1{s}1", ""])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "attributes.csv"
        file.write_bytes(text.replace("\n", ends).encode("utf-8-sig"))
        with pytest.raises(BenchmarkError, match=rf"attributes.csv, line {_line(text, 'MARK')}: "):
            read_table(file)
        file.write_bytes(text.replace(wrong.format(s=s), f'"MA"RK{s}1').replace("\n", ends).encode())  # no CSV
        with pytest.raises(BenchmarkError, match=rf"not a CSV table in UTF-8 \(line {_line(text, 'MARK')}: "):
            read_table(file)


@pytest.mark.parametrize("wrong", ["MARK,a bird", "b", "a,MARK again", "b,-", "b,one,two"])
@pytest.mark.parametrize("above", ["", "\n", "\n\n,\n", "sep=,\n", "sep=,\n\n"])
def test_a_wrong_row_of_phrases_is_named_by_its_line(above, wrong, tmp_path):
    text = f"{above}attribute,phrase\n\na,a bird\n{above.removeprefix('sep=,')}{wrong}\n"
    (tmp_path / "phrases.csv").write_text(text)
    with pytest.raises(BenchmarkError, match=rf"phrases.csv, line {text.count(chr(10))}: "):
        read_phrases(tmp_path / "phrases.csv", NAMES)
