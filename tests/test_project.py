"""The project's own promises: imports go one way, lists of packages agree, the command line answers."""

import ast
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vspcn_lib.cli import COMMANDS, _parse, main
from vspcn_lib.runner import DECIDING

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {  # who may import whom
    "config": set(), "attend": set(), "fusion": {"attend"}, "memory": set(), "timing": set(), "files": set(),
    "digests": set(), "environment": set(), "compare": {"config"}, "metrics": set(), "plots": set(),
    "weights": {"files"},
    "images": {"digests", "files"}, "semantics": set(), "birdlets": {"files"}, "splits": set(), "folders": {"splits"},
    "benchmarks": {"birdlets", "folders", "images", "splits"}, "losses": {"config"},
    "runs": {"compare", "config", "files"}, "processes": {"runs"}, "pieces": {"model", "processes"},
    "unpack": set(), "archives": {"benchmarks", "files", "splits", "unpack"},
    "backbone": {"images", "weights"}, "model": {"backbone", "config", "fusion"}, "capture": {"fusion", "model"},
    "workspace": {"splits", "backbone", "baselines", "benchmarks", "config", "images", "memory", "model", "processes",
                  "runs", "semantics"},
    "evaluation": {"environment", "memory", "metrics", "splits", "model", "processes", "runs", "workspace"},
    "train": {"losses", "baselines", "splits", "config", "evaluation", "files", "model", "pieces", "processes", "runs",
              "workspace"},
    "plain": {"fusion", "model"}, "workloads": {"losses", "backbone", "baselines", "config", "memory", "plain"},
    "growth": {"metrics", "backbone", "config", "environment", "images", "memory", "timing", "workloads"},
    "bench": {"environment", "growth", "metrics", "backbone", "config", "evaluation", "images", "memory",
              "records", "runs", "timing", "workloads", "workspace"}, "bench_report": {"plots", "workloads"},
    "trained": {"capture", "model", "runs", "workspace"},
    "demo": {"gallery", "metrics", "plots", "benchmarks", "birdlets", "config", "runs", "train", "trained"},
    "baselines": {"backbone", "config", "model"}, "tables": {"config", "metrics"},
    "sweep": {"config", "environment", "runs", "train", "workspace"},
    "runner": {"config", "environment", "records", "runs", "train"},
    "ablation": {"config", "records", "runner", "tables"},
    "records": {"metrics", "config", "runs"}, "curves": {"files", "plots"},
    "embeddings": {"evaluation", "runs", "trained", "workspace"},
    "exhibits": {"curves", "embeddings", "plots", "records", "runs", "trained"},
    "figures": {"benchmarks", "birdlets", "config", "curves", "gallery", "images", "metrics", "plots", "records",
                "tables", "workspace"},
    "probe": {"config", "model"}, "fields": {"config"}, "controls": {"environment", "fields", "plots", "probe", "runs"},
    "checks": {"config", "runs"}, "gallery": {"plots", "splits"},
    "panels": {"capture", "checks", "controls", "fields", "gallery", "metrics", "model", "plots", "probe", "runs",
               "trained", "workspace"},
    "panels_features": {"capture", "checks", "controls", "embeddings", "fields", "gallery", "model", "plots", "runs",
                        "trained", "workspace"},
    "panels_records": {"checks", "controls", "fields", "gallery", "metrics", "plots"},
    "live": {"config", "controls", "curves", "plots", "runs", "train", "workspace"},
    "predict": {"images", "runs", "trained"}, "options": {"config"}, "__main__": {"cli"}, "__init__": set(),
}


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vspcn_lib"):
            found |= {node.module.split(".")[1]} if "." in node.module else {a.name for a in node.names}
    return found


def test_modules_import_one_way_and_stay_small():
    for path in (ROOT / "vspcn_lib").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, f"{path.name}: two ideas in one module?"
        if path.stem != "cli":
            assert _imported(path) <= IMPORTS[path.stem], path.name


def test_a_key_hashes_every_module_that_a_run_comes_through():
    reached, new = set(), {"train"}
    while new:
        reached |= new
        new = {m for name in new for m in IMPORTS[name]} - reached
    bookkeeping = {"config", "files", "runs", "compare", "digests", "environment", "memory"}  # a config is hashed too
    assert set(DECIDING) == reached - bookkeeping


def test_environment_constraints_and_pyproject_agree():
    text = (ROOT / "environment.yml").read_text()
    assert "-e .[notebooks,dev]" in text and text.count("\n  - ") == 4  # channel, python, pip, pip's list: nothing else
    project = (ROOT / "pyproject.toml").read_text()
    names = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().split()}
    assert "http" not in (ROOT / "constraints.txt").read_text()
    for name in names - {"torchvision"}:  # that one comes with timm
        assert f'"{name}' in project, f"{name} is constrained but not asked for"


@pytest.mark.parametrize(("args", "words"), [
    (["train", "--preset", "cub10"], "did you mean 'cub100'"), (["trian"], "unknown command"),
    (["data", "fetch", "imagenet"], "choose one of cub"), (["sweep"], "no axis to sweep"),
    (["sweep", "model.alpha_w=0:1"], "did you mean 'model.alpha_v'"),
    (["evaluate", "/nowhere"], "/nowhere is no run folder"),
])
def test_mistakes_are_one_clear_line(args, words, capsys):
    assert main(args) == 2
    assert words in capsys.readouterr().err


def test_every_command_of_the_readme_parses():
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("python -m vspcn_lib ")]
    assert len(lines) >= 8
    for line in lines:
        name, *args = shlex.split(line.split("#")[0])[3:]
        _parse(COMMANDS[name][0], args)


def test_help_reads_well():
    command = [sys.executable, "-m", "vspcn_lib", "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--model.alpha-v" in done.stdout and "SVPF" in done.stdout


def test_committed_notebooks_are_run_in_order_small_and_without_widget_state():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert [p.name[:2] for p in notebooks] == [f"{i:02d}" for i in range(1, 11)]
    for path in notebooks:
        notebook = json.loads(path.read_text())
        cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
        assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1)), f"{path.name}: run it again"
        text = path.read_text()
        assert "widget-view" not in text and "widgets" not in notebook["metadata"] and "Traceback" not in text
        assert "/root" not in text and "/home" not in text and path.stat().st_size < 300_000, path.name
        first, last = notebook["cells"][0], notebook["cells"][-1]
        assert "?" in "".join(first["source"]).splitlines()[0] or path.name[:2] in ("09", "10"), path.name
        assert "**Verdict.**" in "".join(last["source"]), path.name
        for cell in cells:  # thin: no code of the library's is written a second time
            for node in ast.walk(ast.parse("".join(cell["source"]).replace("\n%", "\n#"))):
                assert not isinstance(node, ast.ClassDef | ast.FunctionDef), path.name


def test_notebooks_delete_only_folders_of_their_own():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        tree = ast.parse("\n".join("".join(c["source"]) for c in cells))
        own = {node.targets[0].id for node in ast.walk(tree) if isinstance(node, ast.Assign)
               and ast.unparse(node.value).startswith("Path('../outputs/notebooks/")}
        again = [node.targets[0].id for node in ast.walk(tree) if isinstance(node, ast.Assign)
                 and isinstance(node.targets[0], ast.Name) and node.targets[0].id in own]
        deleted = {ast.unparse(node.args[0]) for node in ast.walk(tree)
                   if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("rmtree")}
        assert deleted <= own and sorted(again) == sorted(own), path.name  # fixed names, assigned once
        for node in ast.walk(tree):  # and nothing is written but there: a reader's folder is only read
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("write_text"):
                assert ast.unparse(node.func).split(" ")[0].lstrip("(") in own, path.name
