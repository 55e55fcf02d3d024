"""`python -m vspcn_lib COMMAND`: the command line, its options read from the config dataclasses."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from vspcn_lib.config import ROWS, Config, ConfigError, preset

HELP = """usage: python -m vspcn_lib COMMAND [options]      (COMMAND --help lists the options)

  demo                 birdlets, linear head and VSPCN: one table, three pictures
  train                select on validation classes, retrain on trainval, evaluate once
  resume RUN           finish an interrupted run with its own settings
  ablate               every row of the ablation table and every baseline, several seeds: records and a table
  sweep                search settings on validation classes (Optuna); several machines can share a study
  evaluate RUN         the metrics of a finished run, from its saved score matrix
  predict RUN IMAGE... top classes of photos, with the attributes that speak for each
  data fetch NAME      download, check and unpack cub, sun or awa2
  data verify NAME     what is there, what is missing, whether the counts are the published ones
  record RUN FILE      keep a finished run as one small JSON file
  figures              redraw every figure from the committed records
  bench                cost of VSPCN against the frozen ViT's: time, memory, FLOPs, growth
"""


@dataclass(frozen=True)
class Train:
    """Select epoch and tau on validation classes, retrain on trainval, evaluate once on test."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    preset: str = "birdlets"
    """start from these settings: birdlets, cub100, cub100-small, cub, sun, awa2, each also with -linear"""
    out: Path = Path("outputs/run")
    """run folder"""
    resume: bool = False
    """continue the run in --out"""


@dataclass(frozen=True)
class Evaluate:
    """Every metric of a finished run, computed from its saved score matrix."""

    run: tyro.conf.Positional[Path]
    tau: float | None = None
    """calibration in score units; default: the run's validation tau"""


@dataclass(frozen=True)
class Predict:
    """The most likely classes of image files, and the attributes that speak for each."""

    run: tyro.conf.Positional[Path]
    images: tyro.conf.Positional[tuple[Path, ...]]
    top: int = 3
    """classes to show an image"""


@dataclass(frozen=True)
class Data:
    """Fetch or verify a benchmark."""

    action: tyro.conf.Positional[str]
    """fetch or verify"""
    name: tyro.conf.Positional[str]
    """cub, sun, awa2 or cub100"""
    root: Path = Path("data")
    """folder that holds the benchmarks"""


@dataclass(frozen=True)
class Resume:
    """Finish the run of a folder with the config it was started with."""

    run: tyro.conf.Positional[Path]


@dataclass(frozen=True)
class Ablate:
    """The ablation table: every row and baseline under one protocol; finished runs are skipped."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    preset: str = "birdlets"
    """settings that the rows change"""
    rows: tuple[str, ...] = tuple(ROWS)
    """rows to run, in this order"""
    seeds: int = 3
    """seeds 0 .. N-1"""
    fast: bool = False
    """only show that every row runs: 56 px, 4 images a class, one epoch; the numbers mean nothing"""
    any_code: bool = False
    """take a finished run with the same config even if the code has changed since"""
    out: Path = Path("outputs/ablate")
    """run folders"""
    records: Path = Path("outputs/ablate/records")
    """one JSON record a run, and the table"""


@dataclass(frozen=True)
class Sweep:
    """Search settings on validation classes; test images are never read. An interrupted study continues."""

    axes: tuple[str, ...]
    """model.alpha_v=0:1, loss.lambda_skd=0.05:2:log, or model.alpha_v=0,0.05,0.5 (all lists: the whole grid)"""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    preset: str = "birdlets"
    """settings that the axes change"""
    trials: int = 20
    """trials of the study in all; a grid has as many as it has points"""
    study: str = "sweep"
    """name of the study and of its record"""
    storage: str = "outputs/sweep/studies.db"
    """a file, or a database URL (postgresql://...) that many machines share"""
    out: Path = Path("outputs/sweep")
    """run folders"""
    records: Path = Path("outputs/sweep/records")
    """one JSON record a study"""


@dataclass(frozen=True)
class Bench:
    """Measure VSPCN beside the frozen ViT: steps, memory, data, sweeps, growth; one JSON record, a table, a picture."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    preset: str = "cub100-small"
    """settings to measure"""
    rounds: int = 15
    """times that every workload is measured, in turn; medians count"""
    parts: tuple[str, ...] = ("steps", "memory", "data", "evaluation", "sweeps", "growth")
    """parts to measure; a record keeps the parts measured before"""
    out: Path = Path("outputs/bench.json")
    """record; the picture gets the same name"""


@dataclass(frozen=True)
class Demo:
    """Linear head and VSPCN on birdlets: one table, three pictures."""

    out: Path = Path("outputs/demo")
    seed: int = 0


@dataclass(frozen=True)
class Record:
    """Keep a finished run as one small JSON file: config, result, selection, tau sweep."""

    run: tyro.conf.Positional[Path]
    file: tyro.conf.Positional[Path]


@dataclass(frozen=True)
class Figures:
    """Redraw every figure, and print the table, from the committed records."""

    records: Path = Path("records")
    out: Path = Path("figures")


def _named_preset(args: list[str], default: str) -> str:
    """The preset asked for, read first: it decides the defaults that the other options change."""
    for i, arg in enumerate(args):
        if arg == "--preset" and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith("--preset="):
            return arg.split("=", 1)[1]
    return default


def _parse(command: type, args: list[str]):
    name = command.__name__.lower()
    prog = f"python -m vspcn_lib {name}"
    if command in (Train, Bench, Ablate, Sweep):
        chosen = _named_preset(args, command.preset)
        base = {"axes": tyro.MISSING} if command is Sweep else {}
        return tyro.cli(command, args=args, prog=prog, default=command(**base, config=preset(chosen), preset=chosen))
    return tyro.cli(command, args=args, prog=prog)


def _train(a: Train) -> None:
    from vspcn_lib.demo import table
    from vspcn_lib.train import run

    result = run(a.config, a.out, a.resume)
    print("\n" + table({a.preset: result}))
    print(f"validation tau {result['tau']:+.3f}, oracle tau {result['oracle']['tau']:+.3f} (chosen on test labels: "
          f"not a result)\n{a.out}")


def _evaluate(a: Evaluate) -> None:
    from vspcn_lib.evaluation import test_metrics
    from vspcn_lib.runs import RunFolder

    saved = RunFolder(a.run).scores()
    tau = float(saved["tau"]) if a.tau is None else a.tau
    print(json.dumps(test_metrics(saved["scores"], saved["labels"], saved["unseen"], tau), indent=1))


def _predict(a: Predict) -> None:
    from vspcn_lib.predict import predict

    print(predict(a.run, a.images, a.top))


def _data(a: Data) -> None:
    from vspcn_lib import archives

    if a.action == "fetch":
        archives.fetch(a.name, a.root)
    elif a.action == "verify":
        print(archives.verify(a.name, a.root))
    else:
        raise ConfigError(f"unknown action '{a.action}': choose fetch or verify")


def _resume(a: Resume) -> None:
    from vspcn_lib.demo import table
    from vspcn_lib.runs import RunFolder
    from vspcn_lib.train import run

    print("\n" + table({a.run.name: run(RunFolder(a.run).config(), a.run, resume=True)}))


def _ablate(a: Ablate) -> int:
    from vspcn_lib.ablation import ablate

    return len(ablate(a.config, a.rows, a.seeds, a.out, a.records, a.fast, a.any_code)) > 0


def _sweep(a: Sweep) -> None:
    from vspcn_lib.sweep import sweep

    table = sweep(a.config, list(a.axes), a.study, a.storage, a.out, a.records, a.trials)
    print("\n" + table.head(20).to_string(index=False, float_format="{:.3f}".format))


def _bench(a: Bench) -> None:
    from vspcn_lib.bench import bench
    from vspcn_lib.bench_report import draw, report

    record = bench(a.config, a.parts, a.rounds, a.out)
    print(report(record), draw(record, a.out.with_suffix(".png")), sep="\n")


def _demo(a: Demo) -> None:
    from vspcn_lib.demo import demo

    demo(a.out, a.seed)


def _record(a: Record) -> None:
    from vspcn_lib.records import write_record

    print(write_record(a.run, a.file))


def _figures(a: Figures) -> None:
    from vspcn_lib.records import draw_figures, markdown, read_records, summary

    table = summary(read_records(a.records))
    print(table.to_string(index=False))
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "results.md").write_text(markdown(table))
    for path in draw_figures(a.records, a.out):
        print(path)


COMMANDS = {"demo": (Demo, _demo), "train": (Train, _train), "evaluate": (Evaluate, _evaluate),
            "predict": (Predict, _predict), "data": (Data, _data), "bench": (Bench, _bench),
            "resume": (Resume, _resume), "ablate": (Ablate, _ablate), "sweep": (Sweep, _sweep),
            "record": (Record, _record), "figures": (Figures, _figures)}


def main(argv: list[str] | None = None) -> int:
    """Run one command; a mistake of the user is one clear line and exit status 2, never a traceback."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if args[0] not in COMMANDS:
        print(f"unknown command '{args[0]}': choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command, act = COMMANDS[args[0]]
    try:
        return act(_parse(command, args[1:])) or 0
    except Exception as error:
        if type(error).__module__.startswith("vspcn_lib"):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
        raise
