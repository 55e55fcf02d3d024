"""The command line where homes, letters and shells are not ours: `~` in every path, no HOME, outputs in ASCII."""

import io
import pwd
import sys
from pathlib import Path

import pytest
from world import make_folder

from vspcn_lib.commands.cli import _parse, main
from vspcn_lib.config import ConfigError


@pytest.mark.parametrize(("line", "field", "expected"), [
    ("train --out=~/x", "out", "~/x"), ("predict ~/run ~/a.png b.png", "images", ("~/a.png", "b.png")),
    ("predict ~/run ~/a.png", "run", "~/run"), ("ablate --records=~/r", "records", "~/r"),
    ("sweep model.alpha_v=0:1 --storage=~/s.db", "storage", "~/s.db"), ("data verify ~/mine", "name", "~/mine"),
    ("data verify cub --root=~/d", "root", "~/d"), ("record ~/run ~/r.json", "file", "~/r.json"),
])
def test_the_home_folder_stands_for_a_tilde_in_every_path(line, field, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    command, *args = line.split()
    found = getattr(_parse(command, args), field)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert [str(f) for f in (found if isinstance(found, tuple) else (found,))] == [
        e.replace("~", str(tmp_path)) for e in expected]
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    with pytest.raises(ConfigError, match=r"= ~.*no home folder is known for '~', write the whole path"):
        _parse(command, args)


def test_a_user_without_a_home_is_told_what_to_set(tmp_path, monkeypatch, capsys):
    folder = make_folder(tmp_path / "mine")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    cache = tmp_path / "cache"
    monkeypatch.delenv("VSPCN_CACHE")
    assert main(["data", "verify", str(folder)]) == 2
    assert capsys.readouterr().err.strip().endswith("set VSPCN_CACHE to a folder, or HOME")
    monkeypatch.setenv("VSPCN_CACHE", str(cache))
    monkeypatch.setenv("HOME", "")  # restored afterwards
    monkeypatch.delenv("HOME")
    assert main(["data", "verify", str(folder)]) == 0 and Path.home() == cache


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_letters_that_an_output_lacks_are_escaped_and_nothing_is_lost(encoding, tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "カワセミ")
    for name in ("images/bird_2", "attributes.csv", "splits.json"):
        file = folder / name
        if file.is_dir():
            file.rename(folder / "images" / "Żuraw")
        else:
            file.write_text(file.read_text().replace("bird_2", "Żuraw"), encoding="utf-8")
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    assert main(["data", "verify", str(folder)]) == 0
    sys.stdout.flush()
    text = out.getvalue().decode(encoding)
    assert ("カワセミ" if encoding == "utf-8" else "\\u30ab") in text and text.rstrip().endswith("ready")
