"""The same photo twice, by content; and the identity of a benchmark's photos."""

import shutil
from dataclasses import replace

import pytest
from world import make_config, make_vit

from vspcn_lib.data import images
from vspcn_lib.data.benchmarks import load_benchmark
from vspcn_lib.data.photos import compare_photos, photo_identity
from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.system import digests


def test_the_same_photo_under_two_labels_is_refused_before_anything_is_decoded(tiny_folder, monkeypatch):
    photos = tiny_folder / "images"
    shutil.copy(photos / "bird_1" / "1.png", photos / "bird_6" / "2.png")  # training, and the unseen test
    shutil.copy(photos / "bird_0" / "0.png", photos / "bird_0" / "5.png")
    monkeypatch.setattr(images, "decode", lambda *a: pytest.fail("decoded"))
    with pytest.raises(BenchmarkError, match=r"same photo.* two labels, once.*trainval 'bird_1' \(.*bird_1/1.png\) = "
                                             r"test_unseen 'bird_6' \(.*bird_6/2.png\).*1 more are in two lists"):
        Workspace.open(make_config(tiny_folder), make_vit())
    kept = compare_photos(replace(load_benchmark(tiny_folder), published=True))  # not ours to mend
    assert "the published lists are kept as they are" in kept.note and "in two lists, once" in kept.note


def test_the_same_photo_under_one_label_is_a_note_that_a_run_prints(tiny_folder, capsys):
    photos = tiny_folder / "images"
    shutil.copy(photos / "bird_0" / "0.png", photos / "bird_0" / "5.png")  # trainval and test_seen
    shutil.copy(photos / "bird_7" / "0.png", photos / "bird_7" / "5.png")
    work = Workspace.open(make_config(tiny_folder), make_vit())
    assert "is in two lists, once, first trainval 'bird_0'" in work.bench.note
    assert "is in one list twice, once, first test_unseen 'bird_7'" in work.bench.note
    assert "is in two lists, once" in capsys.readouterr().out


def test_photos_in_no_list_are_not_compared(tiny_folder):
    shutil.copy(tiny_folder / "images" / "bird_1" / "1.png", tiny_folder / "images" / "bird_6" / "9.png")
    assert "same photo" not in compare_photos(load_benchmark(tiny_folder)).note


def test_the_identity_follows_content_and_is_read_once(tiny_folder, tmp_path, monkeypatch):
    bench = load_benchmark(tiny_folder)
    first = photo_identity(bench)
    monkeypatch.setattr(digests, "_sha256", lambda path: pytest.fail("read again"))
    assert photo_identity(bench) == first and len(first) == 64
    monkeypatch.undo()
    monkeypatch.setenv("VSPCN_CACHE", str(tmp_path / "other"))
    shutil.copytree(tiny_folder, tmp_path / "moved")
    assert photo_identity(load_benchmark(tmp_path / "moved")) == first
    shutil.copy(tiny_folder / "images" / "bird_7" / "0.png", tiny_folder / "images" / "bird_0" / "0.png")
    assert photo_identity(bench) != first
