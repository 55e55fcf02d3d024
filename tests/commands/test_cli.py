"""The real entry points, start to finish, with a small timm ViT from a local file."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from vspcn_lib.commands.cli import main
from vspcn_lib.data.benchmarks import load_benchmark
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.studies.records import markdown, read_records, summary
from vspcn_lib.views.figures import draw_figures, fill_tables


@pytest.fixture
def options(tiny_folder: Path, tmp_path: Path) -> list[str]:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    return ["--data.benchmark", str(tiny_folder), "--data.size", "32", "--train.epochs", "1", "--train.batch-size", "8",
            "--model.backbone", f"vit_tiny_patch16_224@{tmp_path / 'vit.safetensors'}"]


def test_train_evaluate_predict_record_figures(options, tiny_folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--preset", "birdlets", "--out", str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert "by consensus, oracle tau" in printed
    assert "\ntiny: VSPCN, 32 px, vit_tiny_patch16_224 " in printed  # not the preset's name
    assert main(["evaluate", str(out)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["H"] == pytest.approx(json.loads((out / "result.json").read_text())["H"])
    photo = tiny_folder / "images" / "bird_6" / "0.png"
    assert main(["predict", str(out), str(photo), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert str(photo) in lines and sum("bird_" in x and "seen): " in x for x in lines) == 2
    saved, paths = RunFolder(out).scores(), [str(p) for p in load_benchmark(str(tiny_folder)).image_paths]
    its_row = saved["scores"][saved["indices"].tolist().index(paths.index(str(photo)))] + saved["tau"] * saved["unseen"]
    shown = [float(x.split()[0]) for x in lines if "bird_" in x and "seen): " in x]
    assert shown == pytest.approx(np.sort(its_row)[::-1][:2].tolist(), abs=0.006)  # what was evaluated is what predicts
    assert main(["predict", str(out), str(tmp_path / "none.jpg")]) == 2
    assert "none.jpg does not exist" in capsys.readouterr().err
    assert main(["record", str(out), str(tmp_path / "records" / "a.json")]) == 0
    exhibit = tmp_path / "records" / "exhibits" / "tiny.json"
    assert main(["exhibit", str(out), str(out), str(exhibit)]) == 0
    kept = json.loads(exhibit.read_text())
    layouts = kept["tsne"]["layouts"]
    assert layouts["ViT only"] == layouts["VSPCN"] and len(layouts["VSPCN"]) == len(kept["tsne"]["labels"]) == 28
    assert "attention" not in kept  # its photos could not be published
    assert main(["figures", "--records", str(tmp_path / "records"), "--out", str(tmp_path / "figures")]) == 0
    for name in ("seen_unseen", "training", "tsne"):
        assert (tmp_path / "figures" / f"{name}_tiny.png").stat().st_size > 10_000
    assert main(["exhibit", str(out), str(tmp_path / "none"), str(exhibit)]) == 2
    assert "none has no result.json" in capsys.readouterr().err
    assert main(["train", "--preset", "birdlets", "--out", str(out), *options]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_bench_prints_a_ratio(options, tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main(["bench", "--rounds", "1", "--parts", "steps", "evaluation", "--out", str(out), *options]) == 0
    assert "training step | × ViT" in capsys.readouterr().out and out.with_suffix(".png").stat().st_size > 10_000


def test_committed_records_redraw_and_carry_their_proof(tmp_path):
    root = Path(__file__).resolve().parents[2]
    records = read_records(root / "records")
    assert records and draw_figures(root / "records", tmp_path)
    for name, record in records.items():
        r = record["result"]
        assert {"split", "seed", "backbone", "vectors", "environment", "oracle", "validation"} <= set(r), name
        best = max(2 * u * s / (u + s) if u + s else 0.0 for u, s in zip(record["sweep"]["U"], record["sweep"]["S"],
                                                                          strict=True))
        assert best == pytest.approx(r["oracle"]["H"], abs=0.01), name
        assert r["backbone"]["sha256"] and ': "/' not in json.dumps(record)  # no path of a machine


def test_the_pages_show_the_records_own_tables(tmp_path):
    root = Path(__file__).resolve().parents[2]
    table = markdown(summary(read_records(root / "records")))
    kept = (root / "figures" / "results.md").read_text()
    assert kept.startswith(table), "run make figures"
    for page in (root / "README.md", root / "docs/results.md"):
        assert kept in page.read_text(), f"{page.name}: run make figures"
    (tmp_path / "docs").mkdir()
    (tmp_path / "t.md").write_text("| a |\n")
    (tmp_path / "docs/p.md").write_text("x\n<!-- table: t.md -->\nold\n<!-- /table -->\ny\n")
    assert fill_tables(tmp_path) == [tmp_path / "docs/p.md"] and fill_tables(tmp_path) == []
    assert (tmp_path / "docs/p.md").read_text() == "x\n<!-- table: t.md -->\n| a |\n<!-- /table -->\ny\n"
