"""`python -m vspcn_lib COMMAND`: the command line, its options read from the config dataclasses."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vspcn_lib.commands import options
    from vspcn_lib.config import Config

HELP = """usage: python -m vspcn_lib COMMAND [options]      (COMMAND --help lists the options)

  demo                 birdlets, linear head and VSPCN: one table, three pictures
  train                select on validation classes, retrain on trainval, evaluate once
  resume RUN           finish an interrupted run with its own settings
  generate RUN         GZSL by synthetic features of unseen classes, from a finished run
  ablate               every row of the ablation table and every baseline, several seeds: records and a table
  sweep                search settings on validation classes (Optuna); several machines can share a study
  calibrate            compare the calibrators of tau by nested validation inside trainval
  evaluate RUN         the metrics of a finished run, from its saved score matrix
  paths RUN            what each path of a finished run is worth: its output or attention replaced in all blocks
  predict RUN IMAGE... top classes of photos, with the attributes that speak for each
  data fetch NAME      download, check and unpack cub, sun or awa2
  data verify NAME     what is there, what is missing; ready only after every comparison (also of your own folder)
  record RUN FILE      keep a finished run as one small JSON file
  exhibit LINEAR RUN FILE
                       keep t-SNE, training curves and attention maps as one small JSON file
  table RECORDS        the table of a folder of records as CSV, LaTeX (booktabs) or Markdown
  figures              redraw every figure from the committed records
  bench                cost of VSPCN against the frozen ViT's: time, memory, FLOPs, growth
"""


def _named(args: list[str], option: str, default: str) -> str:
    """The value of an option that is read first, since it decides the defaults that the others change."""
    for i, arg in enumerate(args):
        if arg == option and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"{option}="):
            return arg.split("=", 1)[1]
    return default


def _parse(command: str, args: list[str]) -> Any:
    """The options of a command; an option that the chosen method does not read is named."""
    import tyro

    from vspcn_lib.commands import options
    from vspcn_lib.config import unread, update
    from vspcn_lib.studies.presets import preset

    form = getattr(options, command.capitalize())
    prog = f"python -m vspcn_lib {command}"
    if not hasattr(form, "preset"):
        return _at_home(tyro.cli(form, args=args, prog=prog))
    chosen = _named(args, "--preset", form.preset)
    base = preset(chosen)
    base = update(base, {"model": {"method": _named(args, "--model.method", base.model.method)}})
    given = {"axes": tyro.MISSING} if command == "sweep" else {}
    found = tyro.cli(form, args=args, prog=prog, default=form(**given, config=base, preset=chosen))
    for field in unread(found.config, base):
        print(f"--{field.replace('_', '-')} has no effect: {found.config.model.method} does not read it",
              file=sys.stderr)
    return _at_home(found)


def _at_home(options: Any) -> Any:
    """The options with `~` as the home folder in every path: a shell leaves it as it is after `--out=`."""
    from vspcn_lib.config import ConfigError

    def expand(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(expand(name, part) for part in value)
        if not isinstance(value, str | Path) or not str(value).startswith("~"):
            return value
        found = os.path.expanduser(value)
        if found.startswith("~"):
            raise ConfigError(f"{name} = {value}: no home folder is known for '{found.split('/')[0]}', write the whole "
                              "path")
        return type(value)(found)

    return replace(options, **{f.name: expand(f.name, getattr(options, f.name)) for f in fields(options)})


def _find_home() -> None:
    """Give a user without a home folder (a bare container) the cache's: gensim asks for one when it is imported.

    Raises `ConfigError` where there is neither.
    """
    from vspcn_lib.config import ConfigError

    if os.path.expanduser("~") == "~":
        if not os.environ.get("VSPCN_CACHE"):
            raise ConfigError("this user has no home folder to keep caches in: set VSPCN_CACHE to a folder, or HOME")
        os.environ["HOME"] = os.environ["VSPCN_CACHE"]


def _train(a: options.Train) -> None:
    from vspcn_lib.train import run

    result = run(a.config, a.out, a.resume)
    print("\n" + _table(a.config, result))
    print(f"tau {result['tau']:+.3f} by {result.get('calibration', {'by': 'raw'})['by']}, oracle tau "
          f"{result['oracle']['tau']:+.3f} (chosen on test labels: not a result)\n{a.out}")


def _table(config: Config, result: dict[str, Any], more: str = "") -> str:
    from vspcn_lib.commands.demo import table
    from vspcn_lib.config import as_dict
    from vspcn_lib.studies.records import method

    return table({f"{result['benchmark']}: {method({'config': as_dict(config)})}{more}": result})


def _evaluate(a: options.Evaluate) -> None:
    from vspcn_lib.runs.evaluation import test_metrics
    from vspcn_lib.runs.folder import RunFolder

    saved = RunFolder(a.run).scores()
    tau = float(saved["tau"]) if a.tau is None else a.tau
    print(json.dumps(test_metrics(saved["scores"], saved["labels"], saved["unseen"], tau), indent=1))


def _paths(a: options.Paths) -> None:
    from vspcn_lib.config import check_range
    from vspcn_lib.views.paths import examine

    check_range("--images", a.images, 16, 10**9)
    print(examine(a.run, a.images, a.out))


def _predict(a: options.Predict) -> None:
    from vspcn_lib.commands.predict import predict

    print(predict(a.run, a.images, a.top))


def _data(a: options.Data) -> int:
    from vspcn_lib.data import archives
    from vspcn_lib.data.verify import verify

    if a.action == "fetch":
        archives.fetch(a.name, a.root)
        return 0
    text, ready = verify(a.name, a.root)
    print(text)
    return 0 if ready else 2


def _resume(a: options.Resume) -> None:
    from vspcn_lib.runs.folder import RunFolder
    from vspcn_lib.train import run

    config = RunFolder(a.run).config()
    if (a.run / "generate.json").exists():
        from vspcn_lib.studies.generate import again

        _show_generated(config, again(a.run), a.run)
        return
    print("\n" + _table(config, run(config, a.run, resume=True)))


def _generate(a: options.Generate) -> None:
    from vspcn_lib.runs.folder import RunFolder
    from vspcn_lib.studies.generate import generate

    run = a.run if a.run.name.strip(".") else a.run.resolve()  # "." and ".." have no name of their own
    out = a.out or run.with_name(f"{run.name}-{a.config.generator}")
    _show_generated(RunFolder(a.run).config(), generate(a.run, out, a.config, a.resume, a.features), out)


def _show_generated(config: Config, result: dict[str, Any], out: Path) -> None:
    from vspcn_lib.metrics import tau_text

    print("\n" + _table(config, result, f" + {result['generator']}"))
    print(f"{result['samples']} synthetic features a class, tau {tau_text(result['tau'])}; with a tau of "
          + f"{tau_text(result['with_tau']['tau'])}, chosen on validation too, "
          + "U {U:.1f}  S {S:.1f}  H {H:.1f}".format(**result["with_tau"]))
    print(*(f"warning: {warning}" for warning in result["warnings"]), out, sep="\n")


def _ablate(a: options.Ablate) -> int:
    from vspcn_lib.studies.ablation import ablate

    records = a.records or Path("outputs/ablate") / f"{a.preset}{'-fast' * a.fast}"
    return len(ablate(a.config, a.rows, a.seeds, a.out, records, a.fast, a.any_code, a.processes)) > 0


def _sweep(a: options.Sweep) -> None:
    from vspcn_lib.studies.sweep import sweep

    table = sweep(a.config, list(a.axes), a.study, a.storage, a.out, a.records, a.trials)
    print("\n" + table.head(20).to_string(index=False, float_format="{:.3f}".format))


def _calibrate(a: options.Calibrate) -> None:
    from vspcn_lib.studies.calibration import ranking, study

    record = study(a.config, a.draws, a.folds, a.out, a.record)
    print("\nmean gap to the oracle, points of H\n"
          + ranking({record["benchmark"]: record}).to_string(index=False, float_format="{:.2f}".format))


def _bench(a: options.Bench) -> None:
    from vspcn_lib.bench.bench import bench
    from vspcn_lib.bench.report import draw, report

    record = bench(a.config, a.parts, a.rounds, a.out)
    print(report(record), draw(record, a.out.with_suffix(".png")), sep="\n")


def _demo(a: options.Demo) -> None:
    from vspcn_lib.commands.demo import demo

    demo(a.out, a.seed)


def _record(a: options.Record) -> None:
    from vspcn_lib.studies.records import write_record

    print(write_record(a.run, a.file))


def _exhibit(a: options.Exhibit) -> None:
    from vspcn_lib.views.exhibits import write_exhibit

    print(write_exhibit({"ViT only": a.linear, "VSPCN": a.run}, a.file))


def _table_of(a: options.Table) -> None:
    from vspcn_lib.studies.records import markdown, read_records, summary
    from vspcn_lib.studies.tables import ablation_table, latex

    records = read_records(a.records)
    rows = bool(records) and all("row" in record for record in records.values())
    table = ablation_table(records) if rows else summary(records)
    text = {"csv": lambda t: t.to_csv(index=False), "latex": latex, "markdown": markdown}[a.format](table)
    if a.out is None:
        print(text, end="")
    else:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(text)
        print(a.out)


def _figures(a: options.Figures) -> None:
    from vspcn_lib.studies.records import markdown, read_records, summary
    from vspcn_lib.studies.sameness import remarks
    from vspcn_lib.views.figures import draw_figures, fill_tables

    found = read_records(a.records)
    table, said = summary(found), remarks(found)
    print(table.to_string(index=False), *said, sep="\n")
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "results.md").write_text(markdown(table) + "".join(f"\n{line}.\n" for line in said), encoding="utf-8")
    for path in [*draw_figures(a.records, a.out), *fill_tables(a.out.parent)]:
        print(path)


STOPPED = "stopped; a run that has begun continues with `python -m vspcn_lib resume RUN`"
COMMANDS = {"demo": _demo, "train": _train, "evaluate": _evaluate, "paths": _paths, "predict": _predict, "data": _data,
            "bench": _bench, "resume": _resume, "generate": _generate, "ablate": _ablate, "sweep": _sweep,
            "calibrate": _calibrate, "record": _record, "exhibit": _exhibit, "figures": _figures, "table": _table_of}


def main(argv: list[str] | None = None) -> int:
    """Run one command; a mistake of the user is one clear line and exit status 2, Ctrl-C one and 130: no traceback."""
    for stream in (sys.stdout, sys.stderr):  # letters that an output lacks are escaped: no result is lost to them
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if args[0] not in COMMANDS:
        print(f"unknown command '{args[0]}': choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        _find_home()
        return COMMANDS[args[0]](_parse(args[0], args[1:])) or 0
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130
    except OSError as error:  # a disk, a right, a connection that no module speaks of: not a fault of the program
        print(f"{error.filename}: {error.strerror}; choose another place, or mend this one"
              if error.filename and error.strerror else str(error), file=sys.stderr)
        return 2
    except Exception as error:
        if type(error).__module__.startswith("vspcn_lib"):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 130 if type(error).__name__ == "Interrupted" else 2
        raise
