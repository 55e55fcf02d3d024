"""The benchmark runs, its counts are right, and docs and pictures show the committed records."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from vspcn_lib.bench import bench as bench_module
from vspcn_lib.bench import growth
from vspcn_lib.bench.bench import bench
from vspcn_lib.bench.report import draw, report, table
from vspcn_lib.bench.workloads import NAMES, flops
from vspcn_lib.config import Config, ConfigError, update
from vspcn_lib.system.environment import cores
from vspcn_lib.system.timing import in_turn, summary

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "records" / "bench").glob("*.json"))


def test_steps_and_sweeps_are_measured_into_one_record(tmp_path, monkeypatch):
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    config = update(Config(), {"data": {"size": 32}, "train": {"batch_size": 4},
                               "model": {"backbone": f"vit_tiny_patch16_224@{tmp_path / 'w.safetensors'}"}})
    monkeypatch.setattr(bench_module, "MATRICES", ((60, 8),))
    bench(config, ("steps",), 1, tmp_path / "r.json")
    record = bench(config, ("sweeps",), 1, tmp_path / "r.json")
    assert set(record["parts"]) == {"steps", "sweeps"} and record == json.loads((tmp_path / "r.json").read_text())
    steps = record["parts"]["steps"]
    assert set(steps["train"]) == {*NAMES, "fusion"} and steps["train"]["ViT"]["ratio"] == 1
    assert steps["train"]["ViT"]["GFLOP"] == pytest.approx(2 * steps["infer"]["ViT"]["GFLOP"], rel=0.05)
    assert steps["train"]["VSPCN, fusion plain"]["GFLOP"] > steps["train"]["VSPCN"]["GFLOP"]
    sweep = record["parts"]["sweeps"]["60 x 8"]
    assert sweep["best H exact"] >= sweep["best H grid"] and "AUSUC" in report(record)
    with pytest.raises(ConfigError, match="choose another --out"):
        bench(replace(config, data=replace(config.data, size=48)), ("steps",), 1, tmp_path / "r.json")
    with pytest.raises(ConfigError, match="unknown part 'stesp'"):
        bench(config, ("stesp",), 1, tmp_path / "r.json")


def test_growth_is_measured_along_every_axis(tmp_path, monkeypatch):
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    config = update(Config(), {"data": {"size": 32}, "train": {"batch_size": 4},
                               "model": {"backbone": f"vit_tiny_patch16_224@{tmp_path / 'w.safetensors'}"}})
    for axis, values in {"ATTRIBUTE": (4, 400), "CLASS": (5, 50), "PROMPT": (1, 2), "IMAGE": (6000, 12000),
                         "SEED": (1, 2, 10**6)}.items():
        monkeypatch.setattr(growth, f"{axis}_COUNTS", values)
    monkeypatch.setattr(growth, "SIZES", (32, 70))  # 70 is cut to whole patches
    record = bench(config, ("growth",), 2, tmp_path / "r.json")
    found = record["parts"]["growth"]
    values = {axis: [row["value"] for row in found[axis]] for axis in found if axis != "measured"}
    assert values == {"attributes": [4, 400], "classes": [5, 50], "prompts": [2, 4], "size": [32, 64],
                      "images": [6000, 12000], "seeds": [n for n in (1, 2) if n <= cores()]}
    assert [row["patches"] for row in found["size"]] == [4, 16]
    few, many = found["images"]  # 12,000 images are 430 MiB
    assert many["batches MiB"] < 215, "a pass over mapped images keeps them"
    assert few["scores MiB"] < many["scores MiB"] and all(row["images/s"] > 0 for row in found["seeds"])
    assert report(record).count("x ViT") == 8 and "1: " in report(record)
    assert draw(record, tmp_path / "r.png").stat().st_size > 1000


def test_flops_are_those_of_the_matrix_products():
    a, b = torch.randn(3, 5), torch.randn(5, 7, requires_grad=True)
    assert flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert flops(lambda: (a @ b).sum().backward()) == 2 * (2 * 3 * 5 * 7)  # a takes no gradient


def test_actions_are_measured_in_turn_and_ratios_are_paired():
    order = []
    times = in_turn({n: lambda n=n: order.append(n) for n in "ab"}, 3, torch.device("cpu"), warm=1)
    assert order == list("abababab") and [len(t) for t in times.values()] == [3, 3]
    found = summary({"a": [1.0, 2.0, 4.0], "b": [2.0, 4.0, 12.0]}, "a")
    assert (found["b"]["ratio"], found["b"]["low"], found["b"]["seconds"]) == (2.0, 2.0, 4.0)


@pytest.mark.parametrize("file", RECORDS, ids=lambda p: p.stem)
def test_committed_benchmarks_are_shown_as_measured(file, tmp_path):
    record = json.loads(file.read_text())
    assert table(record) in (ROOT / "docs/cost.md").read_text(), f"docs/cost.md shows another table than {file.name}"
    again = [draw(record, tmp_path / name) for name in ("a.png", "b.png")]
    assert again[0].read_bytes() == again[1].read_bytes()
    kept = file.with_suffix(".png")
    if record["matplotlib"] == matplotlib.__version__:
        a, b = (np.asarray(Image.open(p).convert("RGB"), float) for p in (kept, again[0]))
        assert a.shape == b.shape and np.sqrt(((a - b) ** 2).mean()) <= 2
