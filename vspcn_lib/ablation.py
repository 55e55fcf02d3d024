"""The ablation table: every row of `config.ROWS`, several seeds, one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vspcn_lib.config import Config, as_dict, check_range, row, update
from vspcn_lib.records import markdown, read_records
from vspcn_lib.runner import Job, execute
from vspcn_lib.tables import ablation_table, caption

FAST = {"data": {"size": 42, "images_per_class": 4}, "train": {"epochs": 1}}


def ablate(base: Config, rows: Sequence[str], seeds: int, runs: Path, records: Path, fast: bool = False,
           any_code: bool = False, processes: int = 0) -> dict[str, str]:
    """Run `rows` for seeds 0 .. seeds-1 on top of `base`, print their table, keep one of all rows as records/table.md.

    `fast` only shows that every row runs (`FAST`), two `processes` at a time unless told otherwise; 0 leaves their
    number to `execute`. Returns the failed runs with their reasons. Raises `ConfigError` for an unknown row, or a
    number of processes below 0.
    """
    check_range("--processes", processes, 0, 1024)
    jobs = [Job(name, row(base, name, seed)) for seed in range(seeds) for name in rows]
    if fast:
        jobs = [Job(job.row, update(job.config, FAST)) for job in jobs]
    failed = execute(jobs, runs, records, any_code, processes=processes or (2 if fast else None))
    made = {job.name for job in jobs}
    data = as_dict(jobs[0].config)["data"] if jobs else None
    found = {name: record for name, record in read_records(records).items()
             if "row" in record and record["config"]["data"] == data}
    print("\n" + ablation_table({name: found[name] for name in found if name in made}).to_string(index=False))
    if found:  # every row of this data in the folder: they may have been run one call at a time
        (records / "table.md").write_text(f"{markdown(ablation_table(found))}\n{caption(found)}\n")
    for name, message in failed.items():
        print(f"FAILED {name}: {message}")
    return failed
