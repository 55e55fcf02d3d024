"""Every kind of ViT that timm has: parity to the bit without prompts, a step with prompts, or one true sentence."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from vspcn_lib.config import Config, ConfigError, ModelConfig, update
from vspcn_lib.encoders import architectures
from vspcn_lib.encoders.architectures import check_plain, inspect, read_file
from vspcn_lib.encoders.backbone import FrozenViT, load_backbone
from vspcn_lib.encoders.weights import BackboneError
from vspcn_lib.model import VSPCN
from vspcn_lib.views.capture import CaptureError, prompt_attention

TINY = {"embed_dim": 48, "depth": 3, "num_heads": 3}
DOCS = (Path(__file__).resolve().parents[2] / "docs" / "encoders.md").read_text()

# timm's name, image side, what makes it small (a hybrid's stem keeps its size), tokens before the patches, patch
WORKS = [
    ("vit_tiny_patch16_224", 64, TINY, 1, 16),
    ("vit_small_patch8_224", 32, TINY, 1, 8),
    ("vit_base_patch32_224", 96, TINY, 1, 32),
    ("vit_small_patch14_dinov2", 56, TINY, 1, 14),  # LayerScale
    ("vit_small_patch14_reg4_dinov2", 56, TINY, 5, 14),  # registers, no position for cls and them
    ("vit_base_patch14_reg1_tipsv2", 42, TINY, 2, 14),
    ("deit_tiny_patch16_224", 48, TINY, 1, 16),
    ("deit_tiny_distilled_patch16_224", 64, TINY, 2, 16),
    ("deit3_small_patch16_224", 64, TINY, 1, 16),  # no position for cls, LayerScale
    ("vit_base_patch16_clip_224", 64, TINY, 1, 16),  # norm before block 1
    ("vit_base_patch16_clip_quickgelu_224", 64, TINY, 1, 16),
    ("vit_xsmall_patch16_clip_224", 32, TINY, 1, 16),
    ("vit_small_patch16_18x2_224", 64, TINY, 1, 16),  # parallel blocks
    ("vit_base_patch16_xp_224", 64, TINY, 1, 16),  # parallel, scaled, qk-norm, RmsNorm
    ("vit_intern300m_patch14_448", 56, TINY, 1, 14),  # qk-norm off, no last norm
    ("vit_base_patch16_radio_v3", 64, TINY, 8, 16),
    ("flexivit_small", 48, TINY, 1, 16),
    ("vit_tiny_r_s16_p8_224", 64, {"depth": 2}, 1, 32),  # hybrid: a convolutional stem
    ("vit_small_r26_s32_224", 64, {"depth": 2}, 1, 32),
    ("test_vit", 64, {}, 1, 16),
    ("vit_tiny_patch16_224", 240, TINY, 1, 16),  # another size than the weights'
    ("vit_tiny_patch16_224", 64, {**TINY, "qk_norm": True}, 1, 16),
    ("vit_tiny_patch16_224", 64, {**TINY, "reg_tokens": 4}, 5, 16),  # registers with a position
    ("vit_tiny_patch16_224", 64, {**TINY, "qkv_bias": False, "init_values": 0.1}, 1, 16),
]
REFUSED = [
    ("vit_base_patch16_siglip_224", "no cls token: its features are attention pooling over the patches"),
    ("vit_base_patch16_siglip_gap_224", "no cls token: its features are the mean over the patches"),
    ("vit_medium_patch16_reg4_gap_256", "no cls token"), ("vit_medium_patch16_gap_240", "no cls token"),
    ("test_vit3", "no cls token"), ("aimv2_1b_patch14_224", "no cls token"),
    ("eva_large_patch14_196", "read as the mean over the patches"), ("beit3_base_patch16_224", "read as the mean"),
    ("eva02_tiny_patch14_224", "rotary positions"), ("vit_small_patch16_dinov3", "rotary positions"),
    ("vit_base_patch16_rope_224", "rotary positions"), ("beit_base_patch16_224", "bias for every pair of places"),
    ("vit_relpos_small_patch16_224", "bias for every pair of places"), ("cait_xxs24_224", "class attention"),
    ("convit_tiny", "first ten blocks run without the cls token"), ("samvit_base_patch16", "no cls token"),
    ("swin_tiny_patch4_window7_224", "timm builds it as SwinTransformer: that is no plain ViT"),
    ("resnet18", "timm builds it as ResNet: that is no plain ViT"),
]


def _random(name: str, size: int, small: dict) -> FrozenViT:
    torch.manual_seed(0)
    vit = timm.create_model(name, num_classes=0, img_size=size, **small)
    with torch.no_grad():  # published starts hold zeros and ones that would hide a part left out
        for parameter in vit.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return FrozenViT(vit, {"tag": name, "source": "random", "sha256": ""})


@pytest.mark.parametrize(("name", "size", "small", "prefix", "patch"), WORKS)
def test_without_prompts_every_vit_is_timms_to_the_bit_and_with_prompts_it_trains(name, size, small, prefix, patch):
    frozen = _random(name, size, small)
    assert inspect(name) == patch == frozen.patch and frozen.prefix == prefix
    assert frozen.patches == (size // patch) ** 2 and not frozen.training
    images = torch.randn(2, 3, size, size)
    plain = VSPCN(frozen, torch.randn(5, 6), ModelConfig(visual_prompts=0, semantic_prompts=0, first_strong_block=1))
    theirs = frozen.vit.forward_features(images)
    assert torch.equal(plain.tokens(images), theirs)
    assert torch.equal(plain.features(images)["cls"], theirs[:, 0])
    config = ModelConfig(visual_prompts=2, semantic_prompts=3, first_strong_block=2)
    model = VSPCN(frozen, torch.randn(5, 6), config).train()
    features = model.features(images)
    assert {k: tuple(v.shape) for k, v in features.items()} == dict.fromkeys(("cls", "visual", "semantic"),
                                                                            (2, frozen.dim))
    whole = model.by_stream(model.tokens(images))  # no row of the last block saved
    for stream, found in features.items():
        torch.testing.assert_close(found, whole[stream], atol=1e-4, rtol=1e-4)
    sum(f.square().sum() for f in features.values()).backward()
    trained = {n: p for n, p in model.trainable().items() if not n.startswith("heads.")}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained.values())
    frozen.unfuse()
    torch.testing.assert_close(model.features(images)["cls"], features["cls"], atol=1e-4, rtol=1e-4)


def test_the_last_token_of_a_distilled_deit_is_carried_unread():
    frozen = _random("deit_tiny_distilled_patch16_224", 32, TINY)
    model = VSPCN(frozen, torch.randn(5, 6), ModelConfig(visual_prompts=0, semantic_prompts=0, first_strong_block=1))
    images = torch.randn(1, 3, 32, 32)
    before = model.features(images)["cls"].clone()
    with torch.no_grad():
        frozen.vit.dist_token.add_(1.0)
    assert not torch.allclose(before, model.features(images)["cls"])  # it is in the sequence
    timms = frozen.vit.forward_head(frozen.vit.forward_features(images), pre_logits=True)
    assert not torch.allclose(timms, model.features(images)["cls"])  # timm's two heads read the mean of both


def test_attention_is_drawn_where_blocks_keep_it_and_refused_by_name_where_not():
    config = ModelConfig(visual_prompts=2, semantic_prompts=3, first_strong_block=2)
    for name in ("deit_tiny_distilled_patch16_224", "vit_base_patch16_clip_quickgelu_224"):
        model = VSPCN(_random(name, 64, TINY), torch.randn(5, 6), config)
        found = prompt_attention(model, torch.randn(2, 3, 64, 64))
        assert {stream: tuple(m.shape) for stream, m in found.items()} == dict.fromkeys(found, (2, 4, 4))
    for name, kind in (("vit_small_patch16_18x2_224", "ParallelThingsBlock"),
                       ("vit_base_patch16_xp_224", "ParallelScalingBlock")):
        model = VSPCN(_random(name, 64, TINY), torch.randn(5, 6), config)
        with pytest.raises(CaptureError, match=f"blocks of {name} are timm's {kind}, which keeps no attention map"):
            prompt_attention(model, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize(("name", "words"), REFUSED)
def test_others_are_refused_by_name_with_the_reason_before_any_work(name, words, monkeypatch):
    monkeypatch.setattr(architectures, "read_file", None)
    with pytest.raises(BackboneError, match=re.escape(words)) as caught:
        load_backbone(name, 224)  # never asks the hub
    assert str(caught.value).startswith(f"{name} cannot be used: ") and "\n" not in str(caught.value)


def test_the_reasons_are_true_of_timms_models():
    """What each sentence claims is looked up in timm's own model, without numbers."""
    with torch.device("meta"):
        make = {name: timm.create_model(name, num_classes=0) for name, _ in REFUSED}
    assert make["convit_tiny"].local_up_to_layer == 10 and len(make["cait_xxs24_224"].blocks_token_only) == 2
    assert make["vit_small_patch16_dinov3"].rope is not None and make["eva02_tiny_patch14_224"].rope is not None
    assert "rope" in type(make["vit_base_patch16_rope_224"].blocks[0]).forward.__code__.co_varnames
    assert make["beit_base_patch16_224"].blocks[0].attn.relative_position_bias_table is not None
    assert make["vit_relpos_small_patch16_224"].blocks[0].attn.rel_pos is not None
    assert getattr(make["samvit_base_patch16"], "cls_token", None) is None


def test_the_docs_list_the_same():
    for name in {name for name, *_ in [*WORKS, *REFUSED]}:
        assert f"`{name}`" in DOCS, name


def test_a_vit_without_cls_token_is_refused_however_it_is_made():
    with pytest.raises(BackboneError, match="no cls token"):
        FrozenViT(timm.create_model("vit_base_patch16_siglip_224", num_classes=0, depth=1), {"tag": "siglip"})
    with pytest.raises(BackboneError, match=r"this model cannot be used: .*not at the cls token"):
        check_plain(timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, global_pool="avg"), "this model")


def test_sizes_and_blocks_that_do_not_fit_are_said_before_the_weights_are_read(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"")
    patch = inspect(f"vit_tiny_r_s16_p8_224@{tmp_path / 'w.pth'}")
    assert patch == 32
    with pytest.raises(ConfigError, match="not a multiple of the patch of 32 px: choose 64 or 96"):
        update(Config(), {"data": {"size": 72}}).check_patch(patch)
    for name, words in (("vit_smal_patch14", "timm has no model 'vit_smal_patch14'"),
                        ("vit_tiny_patch16_224.nobody", "timm cannot build"),
                        ("packaged:vit-b", "packaged are packaged:vit-s14, packaged:clip-vit-b16"),
                        ("vit_tiny_patch16_224@/nowhere.safetensors", "there is no file")):
        with pytest.raises(BackboneError, match=words):
            inspect(name)


def _published(name: str, vit: torch.nn.Module, folder: Path) -> Path:
    """Weights in the form in which their authors publish them."""
    state = {k: v.contiguous().clone() for k, v in vit.state_dict().items()}
    if name == "deit3_small_patch16_224":  # DeiT III calls LayerScale gamma_1, and nests
        state = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", k): v for k, v in state.items()}
        torch.save({"model": state}, folder / "w.pth")
    elif name == "vit_small_patch14_reg4_dinov2":  # DINOv2's own names, and a place for cls in pos_embed
        cls, place = state.pop("cls_token"), torch.randn(1, 1, vit.embed_dim)
        state |= {"register_tokens": state.pop("reg_token"), "cls_token": cls - place,
                  "pos_embed": torch.cat([place, state["pos_embed"]], 1), "mask_token": torch.zeros(1, vit.embed_dim)}
        torch.save(state, folder / "w.pth")
    elif name == "vit_base_patch16_clip_224":  # OpenAI's names
        swaps = [("patch_embed.proj", "conv1"), ("pos_embed", "positional_embedding"), ("norm_pre", "ln_pre"),
                 ("blocks.", "transformer.resblocks."), ("norm1", "ln_1"), ("norm2", "ln_2"), ("qkv.", "in_proj_"),
                 ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("attn.proj", "attn.out_proj"),
                 ("cls_token", "class_embedding")]
        out = {"visual.proj": torch.randn(vit.embed_dim, 8)}
        for key, value in state.items():
            if key.startswith("head."):
                continue
            for ours, openais in swaps:
                key = key.replace(ours, openais)
            key = key.replace("norm.", "ln_post.") if key.startswith("norm.") else key
            out[f"visual.{key}"] = value[0] if key == "positional_embedding" else (
                value[0, 0] if key == "class_embedding" else value)
        torch.save(out, folder / "w.pth")
    else:
        save_file(state, folder / "w.safetensors")
    return next(folder.glob("w.*"))


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "flexivit_small",
                                  "vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224", "vit_tiny_patch16_224"])
def test_files_load_as_their_authors_publish_them(name, tmp_path, monkeypatch):
    patch = inspect(name)
    build = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda n, **kw: build(n, **{**kw, **TINY}))
    torch.manual_seed(0)
    classes = 0 if "dinov2" in name else 7  # DINOv2 comes without a classifier
    vit = timm.create_model(name, num_classes=classes, img_size=4 * patch).eval()
    for parameter in vit.parameters():
        parameter.data.normal_()
    path = _published(name, vit, tmp_path)
    frozen = load_backbone(f"{name}@{path}", 4 * patch)
    images = torch.randn(1, 3, 4 * patch, 4 * patch)
    torch.testing.assert_close(frozen.vit.forward_features(images), vit.forward_features(images), atol=1e-4, rtol=1e-4)
    larger = load_backbone(f"{name}@{path}", 6 * patch)  # positions resampled as timm's own loading does it
    overlay = {"file": str(path)}
    timms = timm.create_model(name, pretrained=True, num_classes=0, img_size=6 * patch, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(a, b) for a, b in zip(larger.vit.state_dict().values(), timms.state_dict().values(),
                                                 strict=True))
    assert len(frozen.source["sha256"]) == 64 and larger.patches == 36


def test_googles_npz_loads_and_a_file_of_other_depth_does_not(tmp_path, monkeypatch):
    build = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda n, **kw: build(n, **{**TINY, **kw}))
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64).eval()
    state, entries = {k: torch.randn_like(v) for k, v in vit.state_dict().items()}, {}
    vit.load_state_dict(state)
    state = {k: v.numpy() for k, v in state.items()}
    width, heads = TINY["embed_dim"], TINY["num_heads"]
    entries["embedding/kernel"] = state["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    entries |= {"embedding/bias": state["patch_embed.proj.bias"], "cls": state["cls_token"],
                "Transformer/posembed_input/pos_embedding": state["pos_embed"]}
    kinds = (("scale", "weight"), ("bias", "bias"))
    entries |= {f"Transformer/encoder_norm/{a}": state[f"norm.{b}"] for a, b in kinds}
    for i in range(TINY["depth"]):
        theirs, ours = f"Transformer/encoderblock_{i}", f"blocks.{i}"
        for a, b in kinds:
            entries[f"{theirs}/LayerNorm_0/{a}"] = state[f"{ours}.norm1.{b}"]
            entries[f"{theirs}/LayerNorm_2/{a}"] = state[f"{ours}.norm2.{b}"]
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for j, part in enumerate(("query", "key", "value")):
            rows = slice(j * width, (j + 1) * width)
            entries[f"{attention}/{part}/kernel"] = state[f"{ours}.attn.qkv.weight"][rows].T.reshape(width, heads, -1)
            entries[f"{attention}/{part}/bias"] = state[f"{ours}.attn.qkv.bias"][rows].reshape(heads, -1)
        entries[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(heads, -1, width)
        entries[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for j, layer in enumerate(("fc1", "fc2")):
            entries[f"{theirs}/MlpBlock_3/Dense_{j}/kernel"] = state[f"{ours}.mlp.{layer}.weight"].T
            entries[f"{theirs}/MlpBlock_3/Dense_{j}/bias"] = state[f"{ours}.mlp.{layer}.bias"]
    np.savez(tmp_path / "ViT.npz", **entries)
    found = read_file("vit_tiny_patch16_224", tmp_path / "ViT.npz", 64).state_dict()
    assert all(torch.equal(found[name], torch.from_numpy(value)) for name, value in state.items())
    with pytest.raises(BackboneError, match=r"ViT.npz holds weights for patches of 16 px, .* of 32 px: .*patch16"):
        read_file("vit_small_patch32_224", tmp_path / "ViT.npz", 64)
    monkeypatch.setitem(TINY, "depth", 2)
    with pytest.raises(BackboneError, match="the file holds 3 blocks, the model has 2"):
        read_file("vit_tiny_patch16_224", tmp_path / "ViT.npz", 64)


@pytest.mark.parametrize(("made", "kw", "asked", "ask"), [
    ("vit_small_patch16_224", {}, "vit_small_patch32_224", "vit_small_patch16_224"),
    ("vit_small_patch16_224", {}, "vit_small_patch8_224.dino", "vit_small_patch16_224"),
    ("vit_base_patch16_clip_224", {}, "vit_base_patch32_clip_224", "vit_base_patch16_clip_224"),  # OpenAI's names
    ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}, "vit_small_patch14_reg4_dinov2", ""),
    ("flexivit_small", {"patch_size": 32}, "flexivit_small", ""),
])
def test_weights_for_another_patch_are_refused_and_never_resampled(made, kw, asked, ask, tmp_path, monkeypatch):
    build, side, own = timm.create_model, kw.get("patch_size", 16), [inspect(name) for name in (made, asked)][1]
    monkeypatch.setattr(timm, "create_model", lambda n, **more: build(n, **{**more, **TINY}))
    path = _published(made, build(made, img_size=4 * side, num_classes=0, **kw, **TINY), tmp_path)
    words = f"{path} holds weights for patches of {side} px, timm's {asked} has patches of {own} px: ask for "
    with pytest.raises(BackboneError, match=re.escape(words + (f"--model.backbone {ask}@w." if ask else "the timm"))):
        load_backbone(f"{asked}@{path}", 4 * own)
    if ask:
        load_backbone(f"{ask}@{path}", 4 * side)


def test_radios_patch_embedding_is_one_matrix_and_is_checked_too(tmp_path, monkeypatch):
    name, at, path = "vit_base_patch16_radio_v3", "radio_model.model.", tmp_path / "w.pth"
    build, _ = timm.create_model, inspect(name)
    monkeypatch.setattr(timm, "create_model", lambda n, **kw: build(n, **{**kw, **TINY}))
    blocks = {at + k: v for k, v in build(name, img_size=64, **TINY).state_dict().items() if k.startswith("blocks.")}
    for side in (16, 8):
        torch.save({**blocks, at + "patch_generator.embedder.weight": torch.randn(48, 3 * side**2),
                    at + "patch_generator.pos_embed": torch.randn(1, 16, 48),
                    at + "patch_generator.cls_token.token": torch.randn(8, 48)}, path)
        if side == 16:
            assert load_backbone(f"{name}@{path}", 64).prefix == 8
    with pytest.raises(BackboneError, match=rf"patches of 8 px, timm's {name} has patches of 16 px: ask for the timm"):
        load_backbone(f"{name}@{path}", 64)


def test_a_file_is_read_strictly(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224", depth=12, embed_dim=192)
    state = vit.state_dict()
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    frozen = load_backbone(f"vit_tiny_patch16_224@{path}", 64)
    assert frozen.patches == 16 and frozen.vit.pretrained_cfg == {}
    for name, change, words in (("vit_small_patch16_224", {}, "does not hold the weights"),
                                ("vit_tiny_patch16_224", {"blocks.3.attn.proj.bias": None}, "blocks.3.attn.proj.bias"),
                                ("vit_tiny_patch16_224", {"extra.weight": torch.ones(2)}, "extra.weight"),
                                ("vit_tiny_patch16_224", {"norm.bias": torch.full((192,), torch.nan)},
                                 "'norm.bias' holds NaN")):
        save_file({k: v for k, v in {**state, **change}.items() if v is not None}, path)
        with pytest.raises(BackboneError, match=words):
            load_backbone(f"{name}@{path}", 64)


def test_pixels_are_scaled_as_the_weights_own_record_says_or_as_set(tmp_path):
    state = timm.create_model("deit_tiny_patch16_224", num_classes=0, img_size=32).state_dict()
    path = tmp_path / "w.safetensors"
    save_file(state, path)

    def scale(name: str, **kw) -> tuple:
        frozen = load_backbone(f"{name}@{path}", 32, **kw)
        for numbers in (frozen.normalise.mean, frozen.normalise.std):
            assert " ".join(map(str, numbers)) in frozen.source["pixels"]
        return frozen.normalise.mean[0], frozen.normalise.std[0], frozen.source["pixels"].split("(")[1]

    assert scale("vit_tiny_patch16_224") == (
        0.5, 0.5, "timm's record of vit_tiny_patch16_224.augreg_in21k_ft_in1k)")
    assert scale("deit_tiny_patch16_224") == (0.485, 0.229, "timm's record of deit_tiny_patch16_224.fb_in1k)")
    assert scale("vit_tiny_patch16_224", mean="0.4,0.5,0.6", std="0.1,0.2,0.3") == (0.4, 0.1, "set by hand)")
    assert scale("vit_tiny_patch16_224", std="0.1,0.2,0.3")[:2] == (0.5, 0.1)
    (tmp_path / "config.json").write_text('{"architecture": "deit_tiny_patch16_224", "pretrained_cfg": '
                                          '{"mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1]}}')
    assert scale("deit_tiny_patch16_224") == (0.1, 0.3, "config.json)")
    assert scale("vit_tiny_patch16_224")[0] == 0.5  # the record is another model's
    (tmp_path / "config.json").write_text('{"architecture": "deit_tiny_patch16_224", "pretrained_cfg": [3]}')
    with pytest.raises(BackboneError, match=r"config.json is no record of timm's for w.safetensors \(TypeError"):
        scale("deit_tiny_patch16_224")
    _, _, note = architectures.pixel_record("vit_base_patch16_224", path.parent / "x" / "w.pth")
    assert "different pixel means" in note and "@FILE" in note
    assert architectures.pixel_record("vit_base_patch16_224.mae", path.parent / "x" / "w.pth")[2] == ""
    assert "bilinear" in architectures.pixel_record("vit_base_patch16_224_miil")[2]


@pytest.mark.parametrize("text", ["[0, 0, 0]", "[NaN, 0.5, 0.5]", "[0.5, 0.5, 0.5, 0.5]", "[0.5]", "[124, 116, 104]",
                                  '"555"', "3", '["0.5", "0.5", "0.5"]', "[true, true, true]", "null", "{}",
                                  "[0.5, 0.5, 0.5, null]", "[-0.1, 0.5, 0.5]"])
@pytest.mark.parametrize("field", ["mean", "std"])
def test_a_record_beside_the_weights_that_is_no_pixel_scale_is_refused_by_file_and_field(field, text, tmp_path):
    good, name = {"mean": "[0, 0.2, 1]", "std": "[0.1, 0.2, 1]"}, "deit_tiny_patch16_224"

    def read(own):
        fields = ", ".join(f'"{f}": {n}' for f, n in {**good, **own}.items())
        (tmp_path / "config.json").write_text(f'{{"architecture": "{name}", "pretrained_cfg": {{{fields}}}}}')
        return architectures.pixel_record(name, tmp_path / "w.safetensors")

    assert (read({})[0].mean, read({})[0].std) == ((0.0, 0.2, 1.0), (0.1, 0.2, 1.0))
    if (field, text) == ("mean", "[0, 0, 0]"):  # pixels in 0..1 as they are
        assert read({field: text})[0].mean == (0, 0, 0)
        return
    with pytest.raises(BackboneError, match=rf"config.json: pretrained_cfg.{field} = .* must be three numbers in \["):
        read({field: text})


@pytest.mark.parametrize(("field", "text"), [("mean", "0.5"), ("mean", "a,b,c"), ("std", "0,0.2,0.2"),
                                             ("mean", "nan,0,0"), ("std", "0.2,0.2,2")])
def test_a_pixel_scale_that_is_none_is_refused(field, text):
    with pytest.raises(BackboneError, match=f"data.{field} = '{text}' must be three numbers"):
        load_backbone("vit_tiny_patch16_224", 64, **{field: text})  # before anything is asked of the hub
