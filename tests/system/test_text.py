"""Text with marks at its beginning, names in two forms, names that are nearly right."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vspcn_lib.system.text import composed, did_you_mean, nearest, read_text, shown


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_text_is_read_as_its_mark_says(tmp_path, encoding, ends):
    data = ends.join(["größe", "カワセミ", ""]).encode(encoding)
    (tmp_path / "x").write_bytes((b"\xfe\xff" if encoding == "utf-16-be" else b"") + data)
    assert read_text(tmp_path / "x") == "größe\nカワセミ\n"


@given(st.text())
def test_what_is_shown_can_be_written_anywhere_and_both_forms_are_one(text):
    assert shown(text).isprintable() and shown(text).encode() is not None
    assert composed(unicodedata.normalize("NFD", text)) == composed(text)


def test_names_that_are_nearly_right_are_found():
    known = ["grizzly+bear", "killer+whale", "Kind3", "test_unseen"]
    for name, meant in (("Grizzly bear", "grizzly+bear"), ("killer_whale ", "killer+whale"), ("kind3", "Kind3"),
                        ("test_unsen", "test_unseen"), ("zebra", None)):
        assert nearest(name, known) == meant
    assert did_you_mean("zebra", known, "add it") == "add it" and shown("V\udcf6gel\n") == "V\\udcf6gel\\n"
