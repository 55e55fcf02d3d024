"""Pictures of a benchmark, also of one with classes that have a prototype alone."""

import json

from world import make_folder

from vspcn_lib.data.folders import read_folder
from vspcn_lib.views.gallery import species_gallery


def test_a_class_without_images_has_an_empty_tile_with_its_name(tmp_path):
    folder = make_folder(tmp_path / "tiny")
    splits = json.loads((folder / "splits.json").read_text())
    splits["test_unseen"] = [name for name in splits["test_unseen"] if not name.startswith("bird_6/")]
    (folder / "splits.json").write_text(json.dumps(splits))
    for file in (folder / "images" / "bird_6").iterdir():
        file.unlink()
    bench = read_folder(folder)
    assert 6 in bench.unseen_classes and 6 not in bench.labels
    tiles = species_gallery(bench, columns=4).axes
    assert [ax.get_title() for ax in tiles] == [f"bird\n{i}" for i in range(8)]
    assert [len(ax.get_images()) for ax in tiles] == [1] * 6 + [0, 1]
