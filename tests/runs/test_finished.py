"""A model that an older version built in another way does not open as if it were of this one."""

import json

import pytest
from world import make_config

from vspcn_lib.runs.finished import check_built
from vspcn_lib.runs.folder import RunError, RunFolder


@pytest.mark.parametrize(("model", "refused"), [
    ({}, True), ({"strong": False, "adapter": False}, True),
    ({"weak": False, "strong": False, "adapter": False}, False),
    ({"visual_prompts": 0, "semantic_prompts": 0}, False), ({"method": "vpt-deep"}, False)])
def test_only_a_fused_model_of_an_older_version_is_refused(tiny_folder, tmp_path, model, refused):
    folder = RunFolder.create(tmp_path / "run", make_config(tiny_folder, model=model), resume=False)
    check_built(folder)
    kept = json.loads((folder.path / "config.json").read_text())
    kept["model"].pop("fusion_heads", None)
    (folder.path / "config.json").write_text(json.dumps(kept))
    assert folder.config().model.fusion_heads == 1
    if refused:
        with pytest.raises(RunError, match="built fusion in another way"):
            check_built(folder)
    else:
        check_built(folder)
