"""A folder benchmark as people really have it: one meaning in many spellings, and nothing left out in silence."""

import json
import os
import shutil
import unicodedata

import numpy as np
import pytest
from described import CLASSES, FILES, LISTS, VALUES, describe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vspcn_lib.data import walk
from vspcn_lib.data.benchmarks import load_benchmark
from vspcn_lib.data.folders import read_folder
from vspcn_lib.data.splits import Benchmark, BenchmarkError
from vspcn_lib.data.walk import files_below


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Benchmark:
    return load_benchmark(describe(tmp_path_factory.mktemp("described") / "x"))


FORM = st.sampled_from(["NFC", "NFD"])


@given(st.fixed_dictionaries({
    "separator": st.sampled_from([",", ";", "\t"]), "decimal": st.sampled_from([".", ","]),
    "encoding": st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), "ends": st.sampled_from(["\n", "\r\n", "\r"]),
    "forms": st.tuples(FORM, FORM, FORM), "order": st.none() | st.integers(0, 99), "padded": st.booleans(),
    "links": st.sets(st.sampled_from(["files", "Grünfink", "a", "zebra", "kind_6"])).map(tuple),
    "slash": st.sampled_from(["/", "\\"]), "ascii_json": st.booleans()}))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_description_of_a_benchmark_is_the_same_benchmark(tmp_path_factory, plain, way):
    bench = load_benchmark(describe(tmp_path_factory.mktemp("described") / "x", **way))
    assert bench.split_hash == plain.split_hash and bench.class_names == plain.class_names == tuple(sorted(CLASSES))
    assert bench.attribute_names == plain.attribute_names
    np.testing.assert_array_equal(bench.prototypes, plain.prototypes)
    assert [p.read_bytes() for p in bench.image_paths] == [p.read_bytes() for p in plain.image_paths]
    assert not [n for n in bench.notes if "passed over" in n]


def test_the_plain_description_means_what_it_says(plain):
    for i, path in enumerate(plain.image_paths):  # by the bytes, which number FILES
        name = FILES[int(path.read_bytes())]
        assert plain.class_names[plain.labels[i]] == name.rpartition("/")[0]
        part = next(key for key, files in LISTS.items() if name in files)
        assert i in getattr(plain, part)
    for c, row in zip(CLASSES, VALUES, strict=True):
        np.testing.assert_allclose(plain.prototypes[plain.class_names.index(c)], row, rtol=1e-6)
    assert {plain.class_names[c] for c in plain.val_classes} == {"Żuraw", "grizzly+bear"}


def test_another_split_or_label_is_another_hash(tmp_path, plain):
    folder = describe(tmp_path / "x")
    splits = json.loads((folder / "splits.json").read_text())
    splits["trainval"].append(splits["test_seen"].pop())
    (folder / "splits.json").write_text(json.dumps(splits))
    assert load_benchmark(folder).split_hash != plain.split_hash


def test_what_is_passed_over_is_counted_by_kind_and_an_emptied_class_is_said(tiny_folder):
    images = tiny_folder / "images"
    (tiny_folder / "splits.json").unlink()
    for k in range(6):
        (images / "bird_2" / f"{k}.png").rename(images / "bird_2" / str(k))
    (images / "bird_1" / "0.png").rename(images / "bird_1" / "IMG_0.HEIC")
    (images / "bird_1" / "1.png").rename(images / "bird_1" / "1.jpg.1")
    (images / "bird_3" / "0.png").write_bytes(b"")
    (images / "bird_3" / "gone.png").symlink_to(images / "nowhere.png")
    (images / "bird_3" / "me.png").symlink_to(images / "bird_3" / "me.png")
    (images / "bird_3" / "round").symlink_to(images)
    shutil.copy(images / "bird_4" / "0.png", images / "overview.png")
    (images / "bird_4" / ".DS_Store").write_bytes(b"x")
    os.mkfifo(images / "bird_4" / "pipe.png")
    bench = load_benchmark(tiny_folder)
    for words in ("6 without a suffix (first 'bird_2/0')", "1 of suffix .heic (first 'bird_1/IMG_0.HEIC')",
                  "1 of suffix .1 (first 'bird_1/1.jpg.1')", "1 empty (first 'bird_3/0.png')",
                  "2 links to nothing (first 'bird_3/gone.png')", "1 hidden (first 'bird_4/.DS_Store')",
                  "1 links to a folder that they lie in (first 'bird_3/round')",
                  "1 outside any class folder (first 'overview.png')", "1 neither files nor folders (first 'bird_4/pip",
                  "class 'bird_2' has no image left", "1 of 8 classes have attributes but neither"):
        assert words in bench.note, words
    assert len(bench.image_paths) == 48 - 6 - 2 - 1
    lost = bench.class_names.index("bird_2")
    assert lost in bench.unseen_classes and bench.unseen_mask[lost] and lost not in bench.labels
    assert "(1 of the unseen without test images)" in bench.described


def test_folders_that_cannot_be_read_are_named(tiny_folder, monkeypatch):
    real = os.scandir
    monkeypatch.setattr(walk.os, "scandir", lambda place: real(place) if "bird_7" not in place else (
        _ for _ in ()).throw(PermissionError(place)))
    assert files_below(tiny_folder / "images").passed == {"folders that cannot be read": ["bird_7"]}


def test_folders_within_a_class_count_as_the_class_and_links_twice_are_no_loop(tiny_folder):
    images = tiny_folder / "images"
    (images / "bird_0" / "more").mkdir()
    (images / "bird_0" / "0.png").rename(images / "bird_0" / "more" / "0.png")
    splits = (tiny_folder / "splits.json").read_text()
    (tiny_folder / "splits.json").write_text(splits.replace("bird_0/0.png", "bird_0/more/0.png"))
    bench = load_benchmark(tiny_folder)
    assert "1 images lie in folders within their class's folder" in bench.note and len(bench.trainval) == 20
    for name in ("bird_6", "bird_7"):  # two classes that are one folder: both are read, the photos are compared later
        shutil.rmtree(images / name)
        (images / name).symlink_to(images / "bird_5")
    assert (np.bincount(load_benchmark(tiny_folder).labels) == 6).all()


def _rename_rows(folder, old, new):
    file = folder / "attributes.csv"
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda f: _rename_rows(f, "bird_3,", "Bird_3,"), "'bird_3' has images but no row .*did you mean its row 'Bird_3'"),
    (lambda f: _rename_rows(f, "bird_3,", "bird-3,"), "did you mean its row 'bird-3'"),
    (lambda f: _rename_rows(f, "bird_3,", "brid_3,"), "did you mean its row 'brid_3'"),
    (lambda f: _rename_rows(f, "bird_3,", "x,"), "'bird_3' has images but no row .*add it"),
    (lambda f: (f / "images" / "bird_3").rename(f / "images" / "Bird_3"), "'Bird_3' has .*mean its row 'bird_3'"),
    (lambda f: ((f / "images" / "all").mkdir(), (f / "images" / "bird_3").rename(f / "images" / "all" / "bird_3")),
     "images/all/bird_3 lies too deep for the class 'bird_3'; move it to images/bird_3"),
    (lambda f: shutil.copytree(f / "images" / "bird_3", f / "images" / "bird_3 "), "both 'bird_3 ?' and 'bird_3 ?'"),
    (lambda f: (f / "splits.json").write_text((f / "splits.json").read_text().replace("bird_3/0.png", "Bird_3/0.PNG")),
     "'Bird_3/0.PNG'; did you mean 'bird_3/0.png'"),
    (lambda f: (f / "splits.json").write_text((f / "splits.json").read_text().replace('["bird_3"', '["Bird_3"')),
     "val class 'Bird_3' has no row .*did you mean 'bird_3'"),
    (lambda f: (f / "splits.json").write_text('{"trainval": [], "trainval": []}'), "'trainval' stands there twice"),
    (lambda f: (f / "images" / "bird_3" / "0.png").write_bytes(b""), "first 'bird_3/0.png', passed over as empty"),
    (lambda f: _rename_rows(f, (f / "attributes.csv").read_text().splitlines()[3].split(",")[1], "1.234,5"),
     "7 fields|8 fields"),
    (lambda f: (f / "attributes.csv").write_text((f / "attributes.csv").read_text().replace(",", ";").replace(
        "bird_3;0.", "bird_3;1.000,")), "of class 'bird_3' is not a number: '1.000,"),
    (lambda f: _rename_rows(f, "bird_3,", "bird_3 \u202e,"), r"did you mean its row 'bird_3 \\u202e'"),
])
def test_near_misses_are_named(tiny_folder, spoil, words):
    spoil(tiny_folder)
    with pytest.raises(BenchmarkError, match=words):
        load_benchmark(tiny_folder)


def test_two_spellings_of_one_folder_or_file_are_named(tmp_path):
    folder = describe(tmp_path / "x")
    twin = unicodedata.normalize("NFD", "Grünfink")
    (folder / "images" / twin).mkdir()
    (folder / "images" / twin / "9.png").write_bytes(b"x")
    with pytest.raises(BenchmarkError, match="which are one class name, 'Grünfink'"):
        load_benchmark(folder)
    shutil.rmtree(folder / "images" / twin)
    (folder / "images" / "zebra" / unicodedata.normalize("NFD", "é.png")).write_bytes(b"x")
    with pytest.raises(BenchmarkError, match="two files of one name but for Unicode's forms"):
        load_benchmark(folder)


def test_a_file_name_that_is_not_utf8_works_and_can_be_listed(tiny_folder):
    os.rename(os.fsencode(tiny_folder / "images" / "bird_1" / "0.png"),
              os.fsencode(tiny_folder / "images" / "bird_1") + b"/V\xf6gel.png")
    splits = json.loads((tiny_folder / "splits.json").read_text())
    splits["trainval"] = [f.replace("bird_1/0.png", "bird_1/V\udcf6gel.png") for f in splits["trainval"]]
    (tiny_folder / "splits.json").write_text(json.dumps(splits))
    bench = load_benchmark(tiny_folder)
    assert len(bench.trainval) == 20 and len(bench.split_hash) == 16
    (tiny_folder / "splits.json").unlink()
    load_benchmark(tiny_folder).note.encode()
    os.rename(tiny_folder / "images" / "bird_1", os.fsencode(tiny_folder / "images") + b"/V\xf6gel")
    with pytest.raises(BenchmarkError, match=r"class 'V\\udcf6gel' has images but no row") as caught:
        load_benchmark(tiny_folder)
    str(caught.value).encode()


def test_marks_of_unknown_and_equal_rows_are_said(tiny_folder):
    lines = (tiny_folder / "attributes.csv").read_text().splitlines()
    cells = lines[3].split(",")
    whole = [*lines]
    lines[3] = ",".join([cells[0], "-1", "-1", *cells[3:]])
    values = np.array(lines[7].split(",")[1:], float)
    lines[8] = ",".join(["bird_7", *(f"{v:.6f}" for v in values / 2)])  # the same direction
    (tiny_folder / "attributes.csv").write_text("\n".join(lines))
    note = load_benchmark(tiny_folder).note
    assert "2 attribute values of 1 classes are negative" in note and "of 'bird_2', -1)" in note
    assert "2 classes have the same attribute row as another, up to a factor: 'bird_6' and 'bird_7'" in note
    whole[3] = ",".join([cells[0], *["-1"] * 6])
    (tiny_folder / "attributes.csv").write_text("\n".join(whole))
    with pytest.raises(BenchmarkError, match="class 'bird_2' hold only -1, the mark of 'unknown'"):
        load_benchmark(tiny_folder)
    signs = np.random.default_rng(3).choice([-1, 1], (8, 6))
    signs[:, :4] = (np.arange(8)[:, None] >> np.arange(4) & 1) * 2 - 1
    signs[0, 5] = 1
    rows = [",".join([f"bird_{i}", *map(str, row)]) for i, row in enumerate(signs)]
    (tiny_folder / "attributes.csv").write_text("\n".join([whole[0], *rows]))
    assert "unknown" not in load_benchmark(tiny_folder).note  # absent and present


def _only(folder, keep):
    splits = json.loads((folder / "splits.json").read_text())
    (folder / "splits.json").write_text(json.dumps({**splits, **keep(splits)}))


@pytest.mark.parametrize(("keep", "words"), [
    (lambda s: {"trainval": [f for f in s["trainval"] if f.endswith("/0.png")]}, "has one trainval image, so none can"),
    (lambda s: {"val_classes": ["bird_1", "bird_2", "bird_3", "bird_4"]}, "'bird_0' is the only seen class that is no"),
    (lambda s: {p: [f for f in s[p] if f[:6] in ("bird_0", "bird_3")] for p in ("trainval", "test_seen")}
     | {"val_classes": ["bird_3"]}, "'bird_0' is the only seen class that is no"),
])
def test_counts_too_small_to_select_are_named(tiny_folder, keep, words):
    _only(tiny_folder, keep)
    with pytest.raises(BenchmarkError, match=words):
        load_benchmark(tiny_folder)


def test_small_counts_that_work_are_said(tiny_folder):
    _only(tiny_folder, lambda s: {"val_classes": ["bird_3"], "test_unseen": [f for f in s["test_unseen"] if "_7" in f],
                                  "trainval": [f for f in s["trainval"] if "bird_0" not in f or f.endswith("/0.png")],
                                  "test_seen": [f for f in s["test_seen"] if "bird_1" not in f]})
    bench = load_benchmark(tiny_folder)
    for words in ("'bird_7' is the only unseen class with test images", "'bird_3' is the only validation class",
                  "1 of 5 seen classes have a single trainval image (first 'bird_0')",
                  "1 of 5 seen classes have no test_seen image (first 'bird_1'): S is the mean over the other 4",
                  "17 of 48 images are in none of the lists", "2 of 8 classes have attributes but neither"):
        assert words in bench.note, words


@given(st.lists(st.integers(0, 7), min_size=1, max_size=14), st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_a_drawn_split_passes_our_own_check_or_is_refused_for_its_counts(tmp_path_factory, counts, listed):
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    rows = [f"c{i:02d},{a:.4f},{b:.4f}" for i, (a, b) in enumerate(rng.uniform(0.1, 1, (len(counts), 2)))]
    (folder / "attributes.csv").write_text("\n".join(["class,a,b", *rows]) + "\n")
    for i, count in enumerate(counts):
        (folder / "images" / f"c{i:02d}").mkdir(parents=True)
        for k in range(count):
            (folder / "images" / f"c{i:02d}" / f"{k}.png").write_bytes(b"x")
    there = sorted(c for c in counts if c)
    enough = len(there) >= 4 and (there[-1] >= 3 or there[-2] >= 2)
    if not enough:
        with pytest.raises(BenchmarkError, match=r"too few to draw a split|holds no images|the header must be"):
            load_benchmark(folder)
        return
    bench = load_benchmark(folder)
    for c in bench.seen_classes:
        assert (bench.labels[bench.trainval] == c).any()
    assert sorted(np.concatenate([bench.trainval, bench.test_seen, bench.test_unseen])) == list(range(sum(counts)))
    assert read_folder(folder).split_hash == bench.split_hash
