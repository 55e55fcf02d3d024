"""The official layouts: lists written on other machines, contradictions between them, and what `verify` says."""

import shutil

import numpy as np
import pytest
from described import OFFICIAL, OFFICIAL_ATTRIBUTES, official
from world import make_folder

from vspcn_lib.commands.cli import main
from vspcn_lib.data import benchmarks
from vspcn_lib.data.archives import ArchiveError
from vspcn_lib.data.benchmarks import load_benchmark
from vspcn_lib.data.official import attribute_names, compare_labels
from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.data.verify import verify


@pytest.mark.parametrize("way", [
    {"prefix": "D:\\data\\CUB_200_2011\\images\\", "separator": "\\"}, {"prefix": "images/"}, {"prefix": ""},
    {"prefix": "./"}, {"prefix": "/home/u/images/CUB_200_2011/images/"}, {"prefix": "images\\", "separator": "\\"},
    {"numbers": False}, {"mark": b"\xef\xbb\xbf"}])
def test_lists_written_elsewhere_are_read_the_same(tmp_path, way):
    plain = load_benchmark("cub", official(tmp_path / "plain"))
    bench = load_benchmark("cub", official(tmp_path / "way", **way))
    assert bench.split_hash == plain.split_hash and bench.attribute_names == tuple(OFFICIAL_ATTRIBUTES)
    assert [p.relative_to(tmp_path / "way") for p in bench.image_paths] == [
        p.relative_to(tmp_path / "plain") for p in plain.image_paths]
    assert "are not the published (7057, 1764, 2967)" in bench.note and not bench.published


@pytest.mark.parametrize(("way", "words"), [
    ({"prefix": "/elsewhere/pictures/"}, "which has no '/images/' in it"),
    ({"prefix": "/x/images/other/"}, "48 of 48 images are missing"),
    ({"labels": [2, 1, 3, 4, 5, 6, 7, 8]}, r"folder '001.Kind_0' are labelled '002.Kind_1' \(label 2\), first "
                                          r"001.Kind_0/0.png.* do not belong together"),
    ({"names": [OFFICIAL[1], OFFICIAL[0], *OFFICIAL[2:]]},
     "'001.Kind_0' are labelled '002.Kind_1' .*that of '001.Kind_0'"),
    ({"names": OFFICIAL[::-1], "rows": [*range(7, -1, -1)]}, "are labelled '008.Kind_7'"),
    ({"rows": [1, 0, *range(2, 8)]}, "attributes of '001.Kind_0' are those of '002.Kind_1' in .*different orders"),
])
def test_contradictions_are_named(tmp_path, way, words):
    root = official(tmp_path / "x", **way)
    with pytest.raises(BenchmarkError, match=words):
        load_benchmark("cub", root)
    text, ready = verify("cub", root)
    assert not ready and "not ready: " in text


def test_folders_that_name_no_class_are_said_and_suns_nesting_is_understood():
    labels = np.array([0, 1, 1, 2])
    classes = ("abbey", "airport_indoor", "zoo")
    assert compare_labels("sun", ["a/abbey/1", "a/airport/indoor/1", "a/airport/indoor/2", "z/zoo/1"], labels,
                          classes) == []
    with pytest.raises(BenchmarkError, match="2 images of the folder 'a/airport/indoor' are labelled 'zoo'"):
        compare_labels("sun", ["a/abbey/1", "a/airport/indoor/1", "a/airport/indoor/2", "z/zoo/1"],
                       np.array([0, 2, 2, 2]), classes)
    said = compare_labels("sun", ["a/abbey/1", "x/1", "x/2", "z/zoo/1"], labels, classes)
    assert len(said) == 1 and "1 image folders (first 'x') are called after no class" in said[0]


@pytest.mark.parametrize(("text", "words"), [("1 red\nblue\n", "line 2: 'blue'"), ("2 red\n1 blue", "line 1: '2 red'")])
def test_attribute_names_have_all_their_numbers_or_none(tmp_path, text, words):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(BenchmarkError, match=words):
        attribute_names(tmp_path / "a.txt")


def test_verify_says_ready_only_after_every_comparison(tmp_path, monkeypatch):
    root = official(tmp_path / "x")
    text, ready = verify("cub", root)
    assert not ready and "DIFFERENT" in text and text.endswith("not ready: the counts are not the published ones")
    layout = benchmarks.LAYOUTS["cub"]
    monkeypatch.setitem(benchmarks.LAYOUTS, "cub", benchmarks.replace(layout, counts=(20, 10, 18)))
    text, ready = verify("cub", root)
    assert ready and text.endswith("  ready") and "5 seen + 3 unseen classes" in text
    photo = root / "CUB_200_2011" / "images" / OFFICIAL[0] / "0.png"
    whole = photo.read_bytes()
    photo.write_bytes(whole[:-30])
    text, ready = verify("cub", root)
    assert not ready and "not ready: 1 photos cannot be read" in text and "0.png" in text
    photo.write_bytes(b"")
    assert not verify("cub", root)[1]


def test_verify_knows_ones_own_folder(tmp_path, capsys):
    folder = make_folder(tmp_path / "mine")
    assert main(["data", "verify", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "there    splits.json" in text and "trainval         20 images in 5 classes" in text
    assert text.rstrip().endswith("ready") and load_benchmark(folder).split_hash in text
    shutil.copy(folder / "images" / "bird_1" / "0.png", folder / "images" / "bird_7" / "0.png")
    assert main(["data", "verify", str(folder)]) == 2
    assert "not ready: mine: the same photo, byte for byte, has two labels" in capsys.readouterr().out
    (folder / "attributes.csv").unlink()
    text, ready = verify(str(folder))
    assert not ready and "MISSING  attributes.csv" in text
    with pytest.raises(ArchiveError, match="no such folder: did you mean 'cub100'"):
        verify("cub10")
