"""Benchmarks, images, word vectors and birdlets, on good input and on bad."""

import json
import os
import shutil
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from PIL import Image
from scipy.io import loadmat

from vspcn_lib.data import benchmarks, images
from vspcn_lib.data.benchmarks import find_root, load_benchmark, read_proposed_split
from vspcn_lib.data.birdlets import build_birdlets
from vspcn_lib.data.images import Batches, ImageError, Normalise, decode, image_cache, shuffled
from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.system import digests

COUNTS = {"CUB": (7057, 1764, 2967, 4702, 2355), "SUN": (10320, 2580, 1440, 9280, 1040),
          "AWA2": (23527, 5882, 7913, 16187, 7340)}


@needs_shared
@pytest.mark.parametrize("name", COUNTS)
def test_genuine_splits_have_the_published_counts_and_the_trap_is_avoided(name):
    file = SHARED / "xlsa17" / "xlsa17" / "data" / name / "att_splits.mat"
    if not file.exists():
        file = SHARED / "xlsa17" / "data" / name / "att_splits.mat"
    s = read_proposed_split(file)
    assert tuple(map(len, (s.trainval, s.test_seen, s.test_unseen, s.train, s.val))) == COUNTS[name]
    raw = loadmat(file, variable_names=["train_loc", "val_loc"])
    naive = np.union1d(raw["train_loc"], raw["val_loc"]).astype(int) - 1
    assert np.isin(s.test_seen, naive).all()  # the trap is there in the file ...
    for part in (s.train, s.val):  # ... and not in what the loader returns
        assert not np.intersect1d(part, s.test_seen).size


@needs_shared
def test_cub100_reads_in_the_official_layout():
    b = load_benchmark("cub100")
    assert (len(b.trainval), len(b.test_seen), len(b.test_unseen)) == (3432, 860, 1610)
    assert (len(b.seen_classes), len(b.unseen_classes), len(b.val_classes)) == (73, 27, 26)
    assert b.prototypes.shape == (100, 312) and b.attribute_names[0].startswith("has_bill_shape")
    for i in (0, 3000, 5901):  # the label is the class whose folder holds the image
        assert b.image_paths[i].parent.name == b.class_names[b.labels[i]]
    valid = (SHARED / "cub100/xlsa17/data/CUB/valclasses1.txt")
    if valid.exists():
        assert {b.class_names[c] for c in b.val_classes} == set(valid.read_text().split())


def _splits(folder, change):
    splits = json.loads((folder / "splits.json").read_text())
    change(splits)
    (folder / "splits.json").write_text(json.dumps(splits))


def _row(folder, name, text):
    lines = (folder / "attributes.csv").read_text().splitlines()
    (folder / "attributes.csv").write_text("\n".join(text if x.startswith(name) else x for x in lines if text or
                                                     not x.startswith(name)) + "\n")


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda f: _splits(f, lambda s: s["trainval"].append(s["test_unseen"][0])), "both trainval and test_unseen"),
    (lambda f: _splits(f, lambda s: s["trainval"].append(s["test_unseen"].pop())), "images of unseen classes"),
    (lambda f: _splits(f, lambda s: s["trainval"].append("bird_0/99.png")), "first 'bird_0/99.png'"),
    (lambda f: _splits(f, lambda s: s["trainval"].append(s["trainval"][0])), "names an image twice"),
    (lambda f: _splits(f, lambda s: s.update(test_seen=[])), "'test_seen' must be a list"),
    (lambda f: _splits(f, lambda s: s.update(val_classes=["bird_7"])), "'bird_7' is not a seen class"),
    (lambda f: _splits(f, lambda s: s.update(val_classes=["wren"])), "'wren' has no row"),
    (lambda f: (f / "splits.json").write_text("{"), "not valid JSON"),
    (lambda f: _splits(f, lambda s: s.update(valclasses=["bird_0"])), "'valclasses', did you mean 'val_classes'"),
    (lambda f: (f / "attributes.csv").unlink(), "attributes.csv is missing"),
    (lambda f: _row(f, "bird_2", "bird_2,nan,0,0,0,0,1"), "'bird_2' hold NaN"),
    (lambda f: _row(f, "bird_2", "bird_2,0,0,0,0,0,0"), "'bird_2' hold only zeros"),
    (lambda f: _row(f, "bird_2", "bird_2,x,0,0,0,0,0"), "not a number"),
    (lambda f: _row(f, "bird_2", "bird_2,1"), "line 4: 2 fields"),
    (lambda f: _row(f, "bird_2", "bird_1,1,0,0,0,0,0"), "'bird_2' has images but no row"),
    (lambda f: _row(f, "bird_2", ""), "'bird_2' has images but no row"),
])
def test_bad_folders_are_named(tiny_folder, spoil, words):
    spoil(tiny_folder)
    with pytest.raises(BenchmarkError, match=words):
        load_benchmark(tiny_folder)


def test_duplicate_class_names_are_named(tiny_folder):
    with (tiny_folder / "attributes.csv").open("a") as file:
        file.write("bird_1,1,0,0,0,0,0\n")
    with pytest.raises(BenchmarkError, match="'bird_1' occurs twice"):
        load_benchmark(tiny_folder)


def test_a_missing_dataset_and_an_unknown_name_say_what_to_do(tmp_path):
    with pytest.raises(BenchmarkError, match="data fetch cub"):
        load_benchmark("cub", tmp_path)
    with pytest.raises(BenchmarkError, match="did you mean 'cub100'"):
        load_benchmark("cub10")


def test_stray_files_of_a_folder_are_passed_over(tiny_folder):
    before = load_benchmark(tiny_folder).split_hash
    (tiny_folder / "images" / ".DS_Store").write_bytes(b"x")
    (tiny_folder / "images" / "bird_0" / ".DS_Store").write_bytes(b"x")
    (tiny_folder / "images" / "bird_0" / "Thumbs.db").write_bytes(b"x")
    (tiny_folder / "images" / "notes.txt").write_text("x")
    (tiny_folder / "images" / ".cache").mkdir()
    (tiny_folder / "images" / ".cache" / "0.png").write_bytes(b"x")
    assert load_benchmark(tiny_folder).split_hash == before
    extra = tiny_folder / "images" / "bird_0" / "9.JPG"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(extra, "jpeg")
    assert extra in load_benchmark(tiny_folder).image_paths


def test_birdlets_are_a_benchmark_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "build_birdlets", partial(build_birdlets, species=6, images_per_species=5, size=16))
    bench = load_benchmark("birdlets")
    assert bench.name == "birdlets" and bench.num_classes == 6 and (tmp_path / "cache").is_dir()


def test_the_root_is_looked_for_in_one_order(tmp_path, monkeypatch):
    def place(folder):
        (folder / "CUB_200_2011" / "images").mkdir(parents=True)
        return folder

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VSPCN_DATA", raising=False)
    (tmp_path / "repository" / "vspcn_lib").mkdir(parents=True)
    monkeypatch.setattr(benchmarks, "__file__", str(tmp_path / "repository" / "vspcn_lib" / "data" / "benchmarks.py"))
    assert find_root("cub100") == Path("data")  # nothing anywhere
    assert find_root("cub100", tmp_path / "x") == tmp_path / "x"
    place(tmp_path / "data")
    assert find_root("cub100") == Path("data")
    place(tmp_path / "data" / "cub100")
    assert find_root("cub100") == Path("data/cub100") and find_root("cub") == Path("data")
    beside = place(tmp_path / "shared" / "data" / "cub100")
    assert find_root("cub100") == beside and find_root("cub") == Path("data")
    monkeypatch.setenv("VSPCN_DATA", str(tmp_path / "env"))
    assert find_root("cub100") == tmp_path / "env"  # what the user says is not passed over
    place(tmp_path / "env" / "cub100")
    assert find_root("cub100") == tmp_path / "env" / "cub100"
    assert find_root("cub100", place(tmp_path / "own")) == tmp_path / "own"


def test_absent_splits_are_drawn_and_said(tiny_folder):
    (tiny_folder / "splits.json").unlink()
    a, b = load_benchmark(tiny_folder), load_benchmark(tiny_folder)
    assert "drew" in a.note and a.split_hash == b.split_hash
    assert not np.intersect1d(a.seen_classes, a.unseen_classes).size


def test_decode_makes_plain_rgb_of_every_kind(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(decode(tmp_path / "rgb.png", 16), rgb.transpose(2, 0, 1))
    grey = rgb[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(decode(tmp_path / "grey.png", 16), np.stack([grey] * 3))
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(decode(tmp_path / "deep.png", 16), np.stack([grey] * 3))
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert decode(tmp_path / "cmyk.jpg", 8).shape == (3, 8, 8)
    half = np.zeros((16, 16, 3), np.uint8)
    half[:, 8:] = 255  # white on the right; EXIF 3 = turned by 180 degrees
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(half).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(decode(tmp_path / "turned.png", 16), half[:, ::-1].transpose(2, 0, 1))


def test_deep_images_are_scaled_as_their_format_says_or_refused(tmp_path):
    grey = np.random.default_rng(1).integers(0, 256, (16, 16)).astype(np.uint16)
    deep = grey * 256 + 255 - grey
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    (tmp_path / "deep.pgm").write_bytes(b"P5 16 16 65535\n" + deep.astype(">u2").tobytes())
    big = Image.frombytes("I;16B", (16, 16), deep.astype(">u2").tobytes())
    big.save(tmp_path / "big.tif")
    for name in ("deep.tif", "deep.pgm", "big.tif"):
        np.testing.assert_array_equal(decode(tmp_path / name, 16), np.stack([grey] * 3), name)
    Image.fromarray(grey.astype(np.int32) * 2**20).save(tmp_path / "long.tif")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "float.tif")
    for name, words in (("long.tif", "holds 32-bit numbers"), ("float.tif", "holds floating-point numbers")):
        with pytest.raises(ImageError, match=f"{name} {words}.*save it with 8 or 16 bits"):
            decode(tmp_path / name, 16)


def _huge_png() -> bytes:
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 11000, 11000, 8, 2, 0, 0, 0))


def test_bad_images_are_all_named_at_once_and_leave_nothing(tmp_path):
    good = tmp_path / "a" / "good.jpg"
    good.parent.mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8) + 99).save(good)
    bad = {"empty.jpg": b"", "cut.jpg": good.read_bytes()[:-200], "text.jpg": b"hello", "huge.png": _huge_png()}
    for name, data in bad.items():
        (good.parent / name).write_bytes(data)
    paths = [good, *(good.parent / n for n in bad)]
    with pytest.raises(ImageError) as caught:
        image_cache(paths, 16, root=tmp_path / "c", progress=False)
    assert "4 of 5 images" in str(caught.value) and all(n in str(caught.value) for n in bad)
    assert {p.name for p in (tmp_path / "c" / "images").iterdir()} == {"lock", "digests"}


def test_the_cache_decodes_once_and_notices_a_changed_file(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    first = np.array(image_cache([path], 8, root=tmp_path, progress=False))
    with monkeypatch.context() as m:
        m.setattr(images, "decode", lambda *a: pytest.fail("decoded again"))
        np.testing.assert_array_equal(image_cache([path], 8, root=tmp_path, progress=False), first)
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(path)
    assert image_cache([path], 8, root=tmp_path, progress=False).max() == 200


def test_the_cache_follows_content_not_names_or_time_stamps(tmp_path, monkeypatch):
    paths = [tmp_path / "a" / f"{i}.ppm" for i in range(3)]
    paths[0].parent.mkdir()
    for i, path in enumerate(paths):
        Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(path)

    def read(files):
        return np.array(image_cache(files, 8, root=tmp_path, progress=False)).mean((1, 2, 3)).tolist()

    assert read(paths) == [0, 10, 20]
    with monkeypatch.context() as m:  # warm: nothing is read, nothing decoded
        m.setattr(digests, "_sha256", lambda path: pytest.fail("read again"))
        m.setattr(images, "decode", lambda *a: pytest.fail("decoded again"))
        assert read(paths) == [0, 10, 20]
    with monkeypatch.context() as m:  # elsewhere, under other names: known by content
        m.setattr(images, "decode", lambda *a: pytest.fail("decoded again"))
        shutil.copytree(paths[0].parent, tmp_path / "b")
        moved = [p.rename(p.with_name(f"other{p.name}")) for p in sorted((tmp_path / "b").iterdir())]
        assert read(moved) == [0, 10, 20]
    before = paths[1].stat()
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(paths[1])  # same length, and the old time stamp put back
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert paths[1].stat().st_size == before.st_size and paths[1].stat().st_mtime_ns == before.st_mtime_ns
    seen = []
    with monkeypatch.context() as m:  # only the changed file is read
        real = digests._sha256
        m.setattr(digests, "_sha256", lambda path: seen.append(path) or real(path))
        assert read(paths) == [0, 99, 20]
    assert seen == [str(paths[1])]
    for index in (tmp_path / "images" / "digests").iterdir():
        index.write_text('[["torn')
    assert read(paths) == [0, 99, 20]


def test_batches_normalise_exactly_and_augment_repeatably():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 16, 16), dtype=np.uint8)
    labels, n = np.arange(7), Normalise((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    plain = Batches(pixels, labels, labels, 3, normalise=n, device="cpu")
    x = torch.cat([b[0] for b in plain.epoch(0)]).double().numpy()
    expected = (pixels / 255 - np.reshape(n.mean, (3, 1, 1))) / np.reshape(n.std, (3, 1, 1))
    np.testing.assert_allclose(x, expected, atol=1e-5)
    mixed = Batches(pixels, labels, labels, 3, normalise=n, device="cpu", augment=True, seed=4,
                    order=lambda rng: shuffled(len(labels), 3, rng))
    whole, tail = list(mixed.epoch(2)), list(mixed.epoch(2, start=1))
    assert len(whole) == len(mixed) == 3 and sorted(np.concatenate([b[2] for b in whole])) == list(range(7))
    for a, b in zip(whole[1:], tail, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert not torch.equal(whole[0][0], next(iter(mixed.epoch(3)))[0])
