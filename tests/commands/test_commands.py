"""The command line on bad days: one clear line and an exit status, never a traceback; and its help."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from vspcn_lib.commands.cli import COMMANDS, STOPPED, main
from vspcn_lib.config import Config
from vspcn_lib.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def begun(tmp_path) -> RunFolder:
    """A run folder with scores."""
    folder = RunFolder.create(tmp_path / "run", Config(), False)
    rng = np.random.default_rng(0)
    folder.save_scores(scores=rng.normal(size=(20, 4)), labels=np.arange(20) % 4, unseen=np.arange(4) > 2,
                       tau=np.array(0.1))
    return folder


def _stray(patch, tmp_path):
    (tmp_path / "cache" / "birdlets-v2").mkdir(parents=True)
    (tmp_path / "cache" / "birdlets-v2" / "stray.txt").write_text("x")


def _full(patch, tmp_path):
    def write(*args):
        raise OSError(28, "No space left on device")

    patch.setattr("vspcn_lib.data.birdlets._write", write)


def _no_cache(patch, tmp_path):
    patch.setenv("VSPCN_CACHE", "/proc/nope")


def _unscored(patch, tmp_path):
    (tmp_path / "run" / "scores.npz").unlink()


def _small_vit(patch, tmp_path):
    _no_cache(patch, tmp_path)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=1)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    patch.setattr("vspcn_lib.runs.workspace.load_backbone", lambda *a, **k: _Stop)


class _Stop:
    """Stands in for a backbone that only says its sizes."""

    patch, blocks, dim, attention_heads = 16, [None] * 12, 192, 3


@pytest.mark.parametrize(("args", "spoil", "words"), [
    ("evaluate RUN --tau nan", None, "MetricsError: tau = nan is out of range"),
    ("evaluate RUN/nowhere", None, "run/nowhere is no run folder: config.json is missing"),
    ("evaluate RUN", _unscored, "holds no scores.npz: finish it with `python -m vspcn_lib resume "),
    ("predict RUN", None, "name one file or more"),
    ("train --out OUT", _stray, "birdlets-v2 has files but no complete splits.json"),
    ("train --out OUT", _full, "could not draw birdlets into .*No space left"),
    ("train --out OUT --data.size 32 --model.backbone vit_tiny_patch16_224@VIT", _small_vit,
     "could not draw birdlets into /proc/nope"),
    ("train --out OUT --data.benchmark TINY", _no_cache, "could not write /proc/nope/weights"),
    ("train --out OUT --data.benchmark TINY --data.size 32 --model.backbone vit_tiny_patch16_224@VIT", _small_vit,
     "could not write the image cache /proc/nope"),
    (f"figures --records {ROOT}/records --out /proc/nope", None, "/proc/nope: "),
    ("data fetch cub100", None, "it is no download: put its folder at ../shared/data/cub100"),
    ("data fetch birdlets", None, "the project draws it on first use"),
])
def test_what_goes_wrong_is_one_line_and_status_2(args, spoil, words, begun, tiny_folder, tmp_path, monkeypatch,
                                                  capsys):
    if spoil:
        spoil(monkeypatch, tmp_path)
    places = {"RUN": begun.path, "OUT": tmp_path / "out", "TINY": tiny_folder, "VIT": tmp_path / "vit.safetensors"}
    for name, place in places.items():
        args = args.replace(name, str(place))
    assert main(args.split()) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(words, error) and "Traceback" not in error


def test_verify_follows_the_environment_and_says_by_its_status_whether_all_is_ready(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VSPCN_DATA", str(tmp_path))
    assert main(["data", "verify", "cub100"]) == 2
    text = capsys.readouterr().out
    assert f"cub100 in {tmp_path}" in text and "MISSING" in text and "shared/data/cub100" in text and "NAME" not in text
    for folder in ("CUB_200_2011/images", "xlsa17/data/CUB"):
        (tmp_path / "cub100" / folder).mkdir(parents=True)
    assert main(["data", "verify", "cub100"]) == 2
    assert f"cub100 in {tmp_path / 'cub100'}" in capsys.readouterr().out


@pytest.mark.skipif(not (ROOT.parent / "shared" / "data" / "cub100").is_dir(), reason="../shared/data is absent")
def test_verify_finds_cub100_beside_the_repository(monkeypatch, capsys):
    monkeypatch.delenv("VSPCN_DATA", raising=False)
    assert main(["data", "verify", "cub100"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("ready")


@pytest.mark.parametrize("module", ["tyro", "torch"])  # imported by the command line itself, and by its commands
def test_an_interrupt_during_start_up_is_one_line_and_status_130(module):
    program = f"""
import runpy, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["vspcn_lib", "evaluate", "/nowhere"]
runpy.run_module("vspcn_lib", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 130
    assert done.stderr.strip() in (STOPPED, "stopped before anything began")


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr("vspcn_lib.train.run", lambda *a, **k: signal.raise_signal(signal.SIGINT))
    assert main(["train"]) == 130
    assert capsys.readouterr().err.strip() == STOPPED


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_help_names_its_arguments_and_says_what_each_is(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    usage = text[:text.index("\n\n")]
    assert not re.search(r"(?<!-)\b(PATH|STR) (PATH|STR)|\[-h\] (PATH|STR)|\{None\}", usage), usage
    bare = re.findall(r"(--[\w.-]+ \w+|\b[A-Z]{3,}) +\((?:default|required)", text)
    assert not bare, f"no word on {bare}"
    assert not re.search(r"  \[(P_|a_|l0)", text)  # what it is comes before its symbol


def test_metavars_are_the_words_of_the_overview(capsys):
    for args, usage in {"predict": "RUN IMAGE...", "data": "ACTION NAME", "record": "RUN FILE", "resume": "RUN",
                        "exhibit": "LINEAR RUN FILE", "evaluate": "RUN"}.items():
        with pytest.raises(SystemExit):
            main([args, "--help"])
        assert f"{args} [-h] {usage}" in capsys.readouterr().out.splitlines()[0]


def test_an_unknown_action_is_refused_before_anything_runs(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "get", "cub"])
    assert stopped.value.code == 2


def test_locks_are_left_out_where_the_system_has_none(tmp_path):
    program = f"""
import sys
sys.modules["fcntl"] = None
from pathlib import Path
from vspcn_lib.system.files import exclusive
with exclusive(Path({str(tmp_path / 'lock')!r})), exclusive(Path({str(tmp_path / 'lock')!r}), wait=True):
    print("held")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "held", done.stderr


def _commits(value):
    if isinstance(value, dict):
        yield from (v for k, v in value.items() if k == "commit")
        for part in value.values():
            yield from _commits(part)
    elif isinstance(value, list):
        for part in value:
            yield from _commits(part)


def test_records_are_of_committed_code():
    files = sorted((ROOT / "records").rglob("*.json"))
    commits = {file.stem: set(_commits(json.loads(file.read_text()))) for file in files}
    assert files and any(commits.values())
    dirty = {name for name, found in commits.items() if any(c.endswith("-dirty") or c == "unknown" for c in found)}
    assert not dirty, f"commit, then run again: {', '.join(sorted(dirty))}"


def test_a_table_of_records_is_printed_or_written_in_three_forms(tmp_path, capsys):
    records = ROOT / "records" / "ablation" / "cub100"
    texts = {}
    for form in ("csv", "latex", "markdown"):
        assert main(["table", str(records), "--format", form]) == 0
        texts[form] = capsys.readouterr().out
    assert texts["csv"].startswith("row,U,S,H") and "ViT only" in texts["csv"]
    assert texts["latex"].count("rule") == 3 and r"$\pm$" in texts["latex"] and texts["markdown"].startswith("| row |")
    target = tmp_path / "deep" / "table.tex"
    assert main(["table", str(records), "--format", "latex", "--out", str(target)]) == 0
    assert target.read_text() == texts["latex"]
    assert main(["table", str(ROOT / "records"), "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("benchmark,method,")
    assert main(["table", str(tmp_path / "nothing")]) == 2 and "no record to show" in capsys.readouterr().err
