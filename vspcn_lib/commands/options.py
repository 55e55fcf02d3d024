"""What each command of the command line takes; the docstrings are its help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vspcn_lib.config import Config
from vspcn_lib.methods.generative.registry import GenerateConfig
from vspcn_lib.studies.rows import ROWS

RunArgument = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
FileArgument = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True)
class Train:
    """Select epoch and tau on validation classes, retrain on trainval, evaluate once on test."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    preset: str = "birdlets"
    """start from these settings: birdlets, cub100, cub100-small, cub100-clip, awa35, awa35-small, cub, sun, awa2, each
    also with -linear"""
    out: Path = Path("outputs/run")
    """run folder"""
    resume: bool = False
    """continue the run in --out"""


@dataclass(frozen=True)
class Evaluate:
    """Every metric of a finished run, computed from its saved score matrix."""

    run: RunArgument
    """folder of the run"""
    tau: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")] = None
    """calibration in score units; default: the run's own tau"""


@dataclass(frozen=True)
class Paths:
    """What each path of a finished run is worth: its output or attention replaced in all blocks at once; and block by
    block how long tokens are and how far attention spreads."""

    run: RunArgument
    """folder of the run"""
    images: int = 256
    """test images, evenly from all classes: 256 take about a minute on two cores at 112 px"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """folder for paths.json and paths.png; default: the run's own"""


@dataclass(frozen=True)
class Predict:
    """The most likely classes of image files, and the attributes that speak for each."""

    run: RunArgument
    """folder of a finished run"""
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(
        metavar="IMAGE...", help_behavior_hint="(one or more)")]
    """image files, of any size"""
    top: int = 3
    """classes to show an image"""


@dataclass(frozen=True)
class Data:
    """Fetch or verify a benchmark."""

    action: Annotated[tyro.conf.Positional[Literal["fetch", "verify"]], tyro.conf.arg(metavar="ACTION")]
    """fetch: download, check and unpack; verify: what is there, what is missing (exit status 2 until it is ready)"""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """cub, sun, awa2, or (verify only) cub100, awa35, birdlets or the path of your own folder"""
    root: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """folder that holds the benchmarks; default: $VSPCN_DATA, else ../shared/data beside the repository where they are
    there, else ./data"""


@dataclass(frozen=True)
class Resume:
    """Finish the run of a folder with the config it was started with."""

    run: RunArgument
    """folder of the run"""


@dataclass(frozen=True)
class Generate:
    """Train a generator on a finished run's features; classify real seen and synthetic unseen ones, evaluate once."""

    run: RunArgument
    """folder of a finished run"""
    config: Annotated[GenerateConfig, tyro.conf.arg(name="")] = field(default_factory=GenerateConfig)
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """run folder; default: RUN-GENERATOR, beside RUN"""
    features: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """where features of retrained models are kept for the next generator; default: beside the run folder"""
    resume: bool = False
    """continue the run in --out"""


@dataclass(frozen=True)
class Ablate:
    """The ablation table: every row and baseline under one protocol; finished runs are skipped."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    preset: str = "birdlets"
    """settings that the rows change"""
    rows: tuple[str, ...] = tuple(ROWS)
    """rows to run, in this order; peers: the five rows of PSVMA, ZSLViT and MSDN; also the generated ones: "VSPCN +
    CE-GZSL", "VSPCN + VAE", "VSPCN + flow", and the same on "ViT only" """
    seeds: int = 3
    """seeds 0 .. N-1"""
    fast: bool = False
    """only show that every row runs: 3 x 3 patches, 4 images a class, one epoch; the numbers mean nothing"""
    any_code: bool = False
    """take a finished run with the same config even if the code has changed since"""
    processes: int = 0
    """runs at a time; 0: one on each GPU, or one for every four cores. On two cores two runs at a time made 1.4 times
    as many an hour as one after the other; each takes 2 to 6 GiB"""
    out: Path = Path("outputs/ablate")
    """run folders"""
    records: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """one JSON record a run, and the table; default: outputs/ablate/PRESET, with -fast where that is asked for"""


@dataclass(frozen=True)
class Sweep:
    """Search settings on validation classes; test images are never read. An interrupted study continues."""

    axes: tyro.conf.Positional[tuple[str, ...]]
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
class Calibrate:
    """Compare the calibrators of tau by nested validation inside trainval; an interrupted study continues."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    preset: str = "birdlets-linear"
    """settings to train with"""
    draws: int = 6
    """draws of classes that play unseen in the outer test"""
    folds: tuple[int, ...] = (1, 3, 0)
    """numbers of validation-class folds to compare; 0 is one fold without a hold-out, for what the hold-out costs"""
    out: Path = Path("outputs/calibrate")
    """run folders"""
    record: Path = Path("outputs/calibrate.json")
    """the study's record"""


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
    """folder for both runs and the pictures; what is finished in it is kept"""
    seed: int = 0
    """seed of both trainings"""


@dataclass(frozen=True)
class Record:
    """Keep a finished run as one small JSON file: config, result, selection, tau sweep."""

    run: RunArgument
    """folder of a finished run"""
    file: FileArgument
    """the record to write"""


@dataclass(frozen=True)
class Exhibit:
    """Keep what a finished run shows as one small JSON file: t-SNE, training curves, attention maps (birdlets)."""

    linear: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LINEAR")]
    """the linear head's run folder"""
    run: RunArgument
    """VSPCN's run folder"""
    file: FileArgument
    """the exhibit to write"""


@dataclass(frozen=True)
class Figures:
    """Redraw every figure, and print the table, from the committed records."""

    records: Path = Path("records")
    """folder of the records"""
    out: Path = Path("figures")
    """where figures and results.md go"""


@dataclass(frozen=True)
class Table:
    """The table of a folder of records: the ablation's where its records have rows, else mean and spread over seeds."""

    records: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECORDS")] = Path("records")
    """folder of the records"""
    format: Literal["csv", "latex", "markdown"] = "csv"
    """latex: booktabs"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """file to write; default: print it"""
