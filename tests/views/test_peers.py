"""MSDN's attention beside VSPCN's, against NumPy; and a method without a cls token is refused where one is needed."""

import numpy as np
import pytest
import torch
from world import make_config, make_folder, make_model, make_vit

from vspcn_lib.config import as_dict, update
from vspcn_lib.panels.checks import PanelError
from vspcn_lib.panels.peers import Beside, PeerAttention, peer_attention_panel, taken
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import run
from vspcn_lib.views import embeddings
from vspcn_lib.views.capture import evenness, prompt_attention
from vspcn_lib.views.peers import region_attention, shared


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The tiny benchmark, VSPCN untrained, and MSDN with random weights."""
    config = make_config(make_folder(tmp_path_factory.mktemp("peers") / "tiny"))
    work = Workspace.open(config, make_vit(), quiet=True)
    peer = make_model(make_vit(), "msdn")
    torch.manual_seed(1)
    with torch.no_grad():
        for p in peer.trainable().values():
            p.normal_()
    return work, work.model().eval(), peer


def test_attributes_look_where_the_equations_say(world):
    _, _, peer = world
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        f = peer.features(images)["regions"].double().numpy()
    v, w1, w2 = (p.detach().double().numpy() for p in (peer.heads.attribute_vectors, peer.heads.w1, peer.heads.w2))
    f = f / np.linalg.norm(f, axis=-1, keepdims=True)
    logits = np.einsum("kg,gd,brd->bkr", v, w2, f)
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    found = region_attention(peer, images)
    np.testing.assert_allclose(found.maps.reshape(2, 6, 16), expected, atol=1e-5)
    np.testing.assert_allclose(found.psi, (expected * np.einsum("kg,gd,brd->bkr", v, w1, f)).sum(-1), rtol=1e-4,
                               atol=1e-4)
    rows = np.array([[0.6, 0, 0, 0.8, 0, -1], [0, 1, 0, 0, 0, 0]])
    of_class = found.of_class(rows)
    np.testing.assert_allclose(of_class[0], (0.6 * found.maps[0, 0] + 0.8 * found.maps[0, 3]) / 1.4, rtol=1e-6)
    np.testing.assert_allclose(of_class[1], found.maps[1, 1], rtol=1e-6)


def test_what_two_maps_share_and_how_even_one_is():
    even, one = np.full((2, 2), 0.25), np.array([[1.0, 0], [0, 0]])
    assert evenness(even) == pytest.approx(1) and evenness(one) == 0
    assert shared(even, even) == 1 and shared(even, one) == 0.25 and shared(one, one[::-1]) == 0


def test_the_panel_shows_both_methods_on_the_same_image(world):
    work, ours, peer = world
    took = {int(i): "right" for i in work.bench.test_unseen}
    parts = PeerAttention(work, ours, peer, {"VSPCN": took, "MSDN": took}, 6)
    assert len(parts.indices) == 6 and parts.streams == ("cls", "visual", "semantic")
    images = work.backbone.normalise(torch.from_numpy(np.array(work.pixels[parts.indices[2]]))[None] / 255)
    state = Beside(2, "visual", 3)
    result = parts.compute(state)
    np.testing.assert_allclose(result["ours"], prompt_attention(ours, images)["visual"][0].numpy(), atol=1e-6)
    row = work.bench.prototypes[work.bench.labels[parts.indices[2]]]
    third = sorted(np.flatnonzero(row > 0), key=lambda k: -result["terms"][k])[2]
    assert result["attribute"] == third and parts.words[third] in parts.describe(state, result)
    np.testing.assert_allclose(result["theirs"], region_attention(peer, images).maps[0, third], atol=1e-6)
    every = parts.compute(Beside(2, "cls", 0))
    assert every["attribute"] is None and every["theirs"].sum() == pytest.approx(1)
    said = parts.describe(Beside(2, "cls", 0), every)
    assert f"VSPCN {evenness(every['ours']):.2f}, MSDN {evenness(every['theirs']):.2f}" in said
    assert "weighted by those of the class" in parts.describe(Beside(2, "cls", 0), every)
    assert len(parts.draw(state, result).axes) == 4


def test_a_run_without_a_cls_token_or_of_another_method_is_refused_by_name(world, tmp_path, monkeypatch):
    work, _, _ = world
    config = update(work.config, {"model": {"method": "msdn"}, "train": {"epochs": 1}})
    peer = Workspace.open(config, make_vit(), quiet=True)
    run(config, tmp_path / "msdn", work=peer)
    model = make_model(make_vit(), "msdn")
    monkeypatch.setattr(embeddings, "load_trained", lambda folder, quiet: (peer, model))
    with pytest.raises(RunError, match="is a run of msdn, which embeds attribute_to_visual, visual_to_attribute and no "
                                       "cls token"):
        embeddings.cls_embeddings(tmp_path / "msdn")
    with pytest.raises(PanelError, match="is a run of the method 'msdn', which has none of VSPCN's prompts"):
        peer_attention_panel(tmp_path / "msdn", tmp_path / "msdn")
    names = [str(c) for c in range(8)]
    took = taken(tmp_path / "msdn", names)
    saved = RunFolder(tmp_path / "msdn").scores()
    assert sorted(took) == sorted(saved["indices"].tolist()) and set(took.values()) <= {"right", *names}
    ours = RunFolder(tmp_path / "ours")
    ours.write_json("config.json", as_dict(work.config))
    with pytest.raises(PanelError, match="is a run of the method 'vspcn': only MSDN's attention"):
        peer_attention_panel(ours.path, ours.path)
