"""The nested-validation study: no real test image exists in it, and its numbers are those of its runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from world import make_config, make_folder, make_vit

from vspcn_lib.config import ConfigError, as_dict, read_config, update
from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.metrics import gzsl_metrics, tau_sweep
from vspcn_lib.runs.calibration import NAMES
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.calibration import gaps, nested, nested_split, ranking, study

LINEAR = {"model": {"visual_prompts": 0, "semantic_prompts": 0}}


@pytest.fixture
def work(tmp_path) -> Workspace:
    return Workspace.open(make_config(make_folder(tmp_path / "data"), **LINEAR), make_vit(), quiet=True)


def test_a_nested_split_is_made_of_trainval_images_alone(work):
    bench = work.bench
    for draw in range(5):
        inner = nested_split(bench, draw)
        places = np.array([bench.image_paths.index(path) for path in inner.image_paths])
        assert set(places) == set(bench.trainval)  # no test image, none of a real unseen class
        assert inner.class_names == tuple(bench.class_names[c] for c in bench.seen_classes)
        assert all(inner.class_names[c] == bench.class_names[bench.labels[p]]
                   for c, p in zip(inner.labels, places, strict=True))
        assert len(inner.unseen_classes) == 2 and len(inner.val_classes) == 1  # 3 of 8 of 5 classes, 2 of 5 of the rest
        lists = [inner.trainval, inner.test_seen, inner.test_unseen]
        assert sorted(np.concatenate(lists)) == list(range(len(places)))
    assert len({tuple(nested_split(bench, draw).unseen_classes) for draw in range(8)}) > 1
    few = replace(bench, trainval=bench.trainval[bench.labels[bench.trainval] < 2], val_classes=np.array([1]))
    with pytest.raises(BenchmarkError):
        nested_split(few, 0)
    for seen in (4, 5):  # two classes are left to train on, however many validation classes the benchmark has
        most = replace(bench, trainval=bench.trainval[bench.labels[bench.trainval] < seen], val_classes=np.arange(2))
        assert len(np.unique(most.labels[nested_split(most, 0).train])) >= 2


def test_a_nested_workspace_has_the_pixels_of_its_images_and_no_other(work):
    inner = nested(work, 1)
    assert (inner.pixels == work.pixels[work.bench.trainval]).all()
    (values, done), = inner.known.values()
    assert done.all() and len(values) == len(work.bench.trainval)
    assert not next(iter(work.known.values()))[1][work.bench.test_unseen].any()  # no test image passed the ViT


def test_the_study_scores_every_calibrator_on_every_draw_and_continues(work, tmp_path, capsys):
    record = study(work.config, 2, (1, 2, 0), tmp_path / "runs", tmp_path / "record.json", work)
    assert json.loads((tmp_path / "record.json").read_text())["trials"] == record["trials"]
    assert [(t["draw"], t["folds"]) for t in record["trials"]] == [(d, f) for d in (0, 1) for f in (1, 2, 0)]
    for t in record["trials"]:
        saved = RunFolder(tmp_path / "runs" / f"draw{t['draw']}-folds{t['folds']}").scores()
        matrix = saved["scores"], saved["labels"], saved["unseen"]
        assert t["oracle"] == pytest.approx(tau_sweep(*matrix)["H"].max(), abs=1e-4)
        assert set(t["H"]) == (set(NAMES) if t["folds"] else {"raw"})
        for name, h in t["H"].items():
            assert h == pytest.approx(gzsl_metrics(*matrix, t["tau"][name]).H, abs=0.01) and h <= t["oracle"] + 1e-4
    table = gaps({"tiny": record})
    assert set(table["folds"]) == {1, 2} and (table["gap"] > -1e-3).all()
    again = study(work.config, 2, (1, 2, 0), tmp_path / "runs", tmp_path / "record.json", work)
    assert again["trials"] == record["trials"]  # seconds too: nothing was trained again
    assert str(tmp_path) not in json.dumps({**record, "config": {**record["config"], "data": {}}})


def test_the_ranking_is_the_mean_over_records_of_their_mean_gap():
    def record(*trials: tuple[int, float, float]) -> dict:
        return {"trials": [{"draw": i, "folds": f, "oracle": 50.0, "H": {"raw": 50 - a, "retention": 50 - b}}
                           for i, (f, a, b) in enumerate(trials)]}

    found = ranking({"x": record((1, 4.0, 1.0), (1, 2.0, 3.0), (3, 1.0, 1.0), (0, 9.0, 9.0)),
                     "y": record((1, 1.0, 0.0))})
    assert found[["calibrator", "folds"]].values.tolist() == [["retention", 1], ["raw", 1]]  # y has no three folds
    assert found["mean"].tolist() == [1.0, 2.0] and found["worst"].tolist() == [3.0, 4.0]


def test_bad_numbers_are_named_before_any_work(work, tmp_path):
    for draws, folds, message in ((0, (1,), "--draws"), (1, (-1,), "--folds")):
        with pytest.raises(ConfigError, match=message):
            study(work.config, draws, folds, tmp_path, tmp_path / "r.json", work)
    with pytest.raises(ConfigError, match="one of 1 or more"):
        study(work.config, 1, (0,), tmp_path, tmp_path / "r.json", work)
    with pytest.raises(ConfigError, match=r"train\.folds = 9"):  # three seen classes in each nested split
        study(work.config, 1, (1, 9), tmp_path / "runs", tmp_path / "r.json", work)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="raw holds no image out"):
        study(update(work.config, {"train": {"calibration": "raw"}}), 1, (1,), tmp_path, tmp_path / "r.json", work)


def test_a_config_from_before_there_were_calibrators_kept_the_raw_tau(work):
    saved = as_dict(work.config)
    for field in ("calibration", "calibration_share", "folds"):
        del saved["train"][field]
    assert read_config(saved).train.calibration == "raw" and read_config(saved).train.folds == 1
    assert read_config(as_dict(work.config)).train.calibration == "consensus"
