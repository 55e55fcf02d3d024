"""Embeddings of test images: kept when a run ends, read again without its model, refused for other data."""

import json

import numpy as np
import pytest
from tiny_run import tiny_config, tiny_vit

from vspcn_lib.config import update
from vspcn_lib.runs.embedded import NAME, read_embedded
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import run
from vspcn_lib.views import embeddings
from vspcn_lib.views.embeddings import cls_embeddings


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_keeps_the_embeddings_that_its_model_gives(tiny_folder, tmp_path, monkeypatch, precision):
    config = update(tiny_config(str(tiny_folder)), {"train": {"precision": precision}})
    out = tmp_path / "run"
    work = Workspace.open(config, tiny_vit(), quiet=True)
    run(config, out, work=work)
    loads = []
    monkeypatch.setattr(embeddings, "load_trained", lambda folder, quiet: loads.append(folder) or load_trained(
        folder, Workspace.open(config, tiny_vit(), quiet=True)))
    kept = cls_embeddings(out)
    assert loads == []
    np.testing.assert_array_equal(kept.indices, np.concatenate([work.bench.test_seen, work.bench.test_unseen]))
    np.testing.assert_array_equal(kept.pixels, work.pixels)
    rounding = 1e-5 if precision == "no" else 2**-7  # bf16 keeps 8 bits
    np.testing.assert_allclose(np.linalg.norm(kept.embedded, axis=1), 1, atol=rounding)

    file, inputs = out / NAME, json.loads((out / "inputs.json").read_text())
    whole = file.read_bytes()
    file.unlink()
    computed = cls_embeddings(out, progress=False)  # as for a run of an older version
    assert len(loads) == 1
    np.testing.assert_allclose(computed.embedded, kept.embedded, atol=1e-5)
    for damaged in (whole[:-5], b"", b"no array"):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match=f"{NAME} is damaged"):
            cls_embeddings(out)
    np.save(file, kept.embedded[1:])
    with pytest.raises(RunError, match="not a row for each test image"):
        read_embedded(RunFolder(out))
    file.write_bytes(whole)
    (out / "inputs.json").write_text(json.dumps({**inputs, "split": "0" * 16}))
    with pytest.raises(RunError, match="of other data than there are now: another split"):
        cls_embeddings(out)
