"""The project's own promises: imports go one way, lists of packages agree, the command line answers."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import vspcn_lib
from vspcn_lib import metrics
from vspcn_lib.commands.cli import _parse, main
from vspcn_lib.studies import code
from vspcn_lib.studies.code import imported

ROOT = Path(__file__).resolve().parents[1]
CORE = {"config", "fusion", "attend", "losses", "zeroshot", "model", "metrics", "train"}
HOUSE = {  # a wing or a file of the core, and what it may import; each also what stands below it in its own line
    "system": "", "config": "", "metrics": "", "attend": "",
    "data": "system config", "fusion": "attend", "losses": "config", "encoders": "data",
    "zeroshot": "encoders fusion losses", "model": "zeroshot", "methods": "model",
    "runs": "methods metrics", "train": "runs", "studies": "train", "views": "studies",
    "panels": "views", "bench": "views", "commands": "panels bench",
}
def _room(name: str) -> str:
    return name.split("/")[0]


def _below(room: str) -> set[str]:
    """Every room that `room` may import from: what the list names, and all that stands below it."""
    return set(HOUSE[room].split()).union(*(_below(r) for r in HOUSE[room].split()), set())


def _wrong(house: Path) -> list[str]:
    """Every import that runs up or sideways, and every circle inside a wing."""
    arrows = {str(p.relative_to(house))[:-3]: imported(p) for p in house.rglob("*.py")
              if p.name not in ("__init__.py", "__main__.py")}
    found = [f"{a} imports {b}" for a, names in arrows.items() for b in names
             if _room(b) != _room(a) and _room(b) not in _below(_room(a))]
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        found.append(f"a circle: {' -> '.join(error.args[1])}")
    return found


def test_imports_go_one_way(tmp_path):
    assert _wrong(code.HOUSE) == []
    for planted in ("data/images.py from vspcn_lib.train import run",
                    "studies/code.py from vspcn_lib.panels import fields",
                    "losses.py from vspcn_lib import metrics",
                    "runs/folder.py from vspcn_lib.runs.workspace import Workspace",
                    "system/files.py from vspcn_lib.config import Config"):
        file, line = planted.split(" ", 1)
        copy = tmp_path / file / "vspcn_lib"
        shutil.copytree(code.HOUSE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        with (copy / file).open("a") as text:
            text.write(f"\n\ndef late():\n    {line}\n")
        assert _wrong(copy), planted


def test_modules_stay_small_and_every_wing_says_what_it_is_for():
    for path in code.HOUSE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, f"{path.name}: two ideas in one module?"
    top = {p.stem for p in code.HOUSE.glob("*.py")} - {"__init__", "__main__"}
    wings = {p.name for p in code.HOUSE.iterdir() if (p / "__init__.py").exists()}
    assert top == CORE and top | wings == set(HOUSE)
    for wing in wings:
        tree = ast.parse((code.HOUSE / wing / "__init__.py").read_text())
        assert len(tree.body) == 1 and ast.get_docstring(tree).endswith("."), wing


def test_what_decides_a_runs_numbers_is_found_from_the_imports():
    ours, vpt = code.deciding("train", "model"), code.deciding("train", "methods/vpt")
    assert {"train", "zeroshot", "losses", "metrics", "data/images", "encoders/semantics", "runs/evaluation"} <= {
        *ours} & {*vpt}
    assert {*ours} - {*vpt} == {"model", "fusion", "attend"} and {*vpt} - {*ours} == {"methods/vpt"}
    assert not [f for f in ours if f.startswith(("system/", "studies/", "views/"))]


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


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_command_of_the_pages_parses():
    every = [line for page in PAGES for line in page.read_text().splitlines()]
    lines = [line for line in every if line.startswith("python -m vspcn_lib ")]
    assert len(lines) >= 6
    for line in lines:
        name, *args = shlex.split(line.split("#")[0])[3:]
        _parse(name, args)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_are_short_and_their_links_lead_somewhere(page):
    text = page.read_text()
    assert len(text.splitlines()) <= (130 if page.name == "README.md" else 150)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_installed_command_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["vspcn"].partition(":")
    assert getattr(import_module(module), name) is main


def test_importing_the_package_loads_nothing():
    code = "import sys, vspcn_lib; print([m for m in ('torch', 'numpy', 'timm', 'gensim') if m in sys.modules])"
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert heavy.stdout.strip() == "[]"
    assert vspcn_lib.gzsl_metrics is metrics.gzsl_metrics
    assert all(getattr(vspcn_lib, name) is not None for name in vspcn_lib.__all__)
    with pytest.raises(AttributeError, match="its public names are preset"):
        vspcn_lib.presett  # noqa: B018


def test_help_reads_well():
    command = [sys.executable, "-m", "vspcn_lib", "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--model.alpha-v" in done.stdout and "SVPF" in done.stdout


def test_committed_notebooks_are_run_in_order_small_and_without_widget_state():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    numbers = [p.name[:2] for p in notebooks]
    assert {f"{i:02d}" for i in range(14)} <= set(numbers) and len(numbers) == len(set(numbers))
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
        ours = [line for c in cells for line in "".join(c["source"]).splitlines() if "vspcn_lib import" in line]
        assert len(ours) <= 2 and "from vspcn_lib." not in text, f"{path.name}: import from vspcn_lib itself, once"
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
