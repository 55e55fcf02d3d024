"""One worker of a shared study: tests/tiny_worker.py FOLDER PLACE NAME; `victim` hangs in its first trial."""

import sys
import time
from pathlib import Path

from tiny_run import tiny_config, tiny_vit

from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies import sweep as sweep_module

folder, place, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
base = tiny_config(folder)
work, select = Workspace.open(base, tiny_vit()), sweep_module.select


def watched(work, folder):
    """`select`, noting what was finished; the victim waits to be killed, the other until the victim has a trial."""
    while name == "other" and not (place / "victim-begun").exists():
        time.sleep(0.05)
    if name == "victim":
        (place / "victim-begun").touch()
        time.sleep(600)
    found = select(work, folder)
    with (place / f"{name}-done").open("a") as file:
        file.write(folder.path.name + "\n")
    return found


sweep_module.select = watched
sweep_module.sweep(base, ["model.alpha_v=0.0,0.5", "loss.lambda_skd=0.1,0.9"], "shared", str(place / "study.db"),
                   place / "runs", place / "records", trials=0, work=work, heartbeat=1)
