"""A finished run is returned as it is only where its data are still the same."""

from __future__ import annotations

from typing import Any

from vspcn_lib.config import Config
from vspcn_lib.data.images import ImageError
from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.encoders.semantics import SemanticsError
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.identity import differences, look_up, of_result


def check_finished(folder: RunFolder, result: dict[str, Any], config: Config, inputs: dict[str, str] | None) -> None:
    """Raise `RunError` that names what the data of `config` (`inputs` where they are open) have become since the run.

    Data that cannot be read any more are said to be unchecked: the result still is what it was.
    """
    known = {**of_result(result), **(folder.read_json("inputs.json") or {})}
    try:
        now = inputs or look_up(config, backbone=False)
    except (BenchmarkError, ImageError, SemanticsError) as error:
        print(f"{folder.path} is finished; whether its data are still the same is unchecked: {error}", flush=True)
        return
    if changed := differences(known, now):
        raise RunError(f"{folder.path} is finished, of other data than there are now: {changed}; put back what was "
                       "changed, or choose another --out")


def check_built(folder: RunFolder) -> None:
    """Raise `RunError` for a VSPCN of a version that built fusion in another way: its weights mean nothing here."""
    raw, model = folder.read_json("config.json") or {}, folder.config().model
    fused = (model.visual_prompts or model.semantic_prompts) and (model.weak or model.strong)
    if model.method == "vspcn" and fused and "fusion_heads" not in raw.get("model", {}):
        raise RunError(f"{folder.path} was begun by a version that built fusion in another way: its scores and its "
                       "record stay readable, its model does not open; train it anew in another folder")
