"""The ablation table: every row of `rows.ROWS`, several seeds, one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vspcn_lib.config import Config, ConfigError, as_dict, check_range, update
from vspcn_lib.encoders.architectures import inspect
from vspcn_lib.methods.generative.registry import GenerateConfig
from vspcn_lib.studies.records import anywhere, config_of, markdown, read_records
from vspcn_lib.studies.rows import GENERATED, ROWS, named, row
from vspcn_lib.studies.runner import Data, Job, execute
from vspcn_lib.studies.tables import ablation_table, caption

FAST = {"data": {"images_per_class": 4}, "train": {"epochs": 1}}


def ablate(base: Config, rows: Sequence[str], seeds: int, runs: Path, records: Path, fast: bool = False,
           any_code: bool = False, processes: int = 0) -> dict[str, str]:
    """Run `rows` for seeds 0 .. seeds-1 on top of `base`, print their table, keep one of all rows as records/table.md.

    `fast` only shows that every row runs (`FAST`), two `processes` at a time unless told otherwise; 0 leaves their
    number to `execute`. The tables show runs with these very settings only. Returns the failed runs with their
    reasons. Raises `ConfigError` for an unknown row, a number out of range, or records of other data in `records`.
    """
    check_range("--processes", processes, 0, 1024)
    check_range("--seeds", seeds, 1, 10**6)
    rows = named(rows)
    changes = {**FAST, "data": {**FAST["data"], "size": 3 * inspect(base.model.backbone)}} if fast else {}

    def setting(name: str, seed: int) -> Config:
        return update(row(base, name, seed), changes)

    def generation(name: str) -> tuple[str, GenerateConfig] | tuple[()]:
        if name not in GENERATED:
            return ()
        start, settings = GENERATED[name]
        return start, settings.steps(5) if fast else settings

    jobs = [Job(name, setting(name, seed), *generation(name)) for seed in range(seeds) for name in rows]
    before = read_records(records)
    for job in jobs:
        if job.name in before and config_of(before[job.name]).data != anywhere(job.config).data:
            raise ConfigError(f"{records / job.name}.json is of other data, and would be replaced: choose another "
                              "--records")
    shown = {name: config for name, record in before.items() if record.get("row") in ROWS and as_dict(
        config := config_of(record)) == as_dict(anywhere(setting(record["row"], config.train.seed)))}
    data = Data()
    for name, config in shown.items():  # also of seeds and rows that are not asked for now: they share a table
        data.check(records / f"{name}.json", config, before[name])
    failed = execute(jobs, runs, records, any_code, processes=processes or 2 * fast)
    made = {job.name for job in jobs}
    found = {name: record for name, record in read_records(records).items()
             if name not in failed and record.get("row") in (*ROWS, *GENERATED)
             and record.get("generate") == next((s.kept() for s in generation(record["row"])[1:]), None)
             and as_dict(config_of(record)) == as_dict(
                 anywhere(setting(record["row"], record["config"]["train"]["seed"])))}
    print("\n" + ablation_table({name: found[name] for name in found if name in made}).to_string(index=False))
    if found:  # every row of these settings in the folder: they may have been run one call at a time
        (records / "table.md").write_text(f"{markdown(ablation_table(found))}\n{caption(found)}\n", encoding="utf-8")
    for name, message in failed.items():
        print(f"FAILED {name}: {message}")
    return failed
