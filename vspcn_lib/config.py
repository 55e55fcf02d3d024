"""Every setting of a run as one frozen dataclass tree, with the reason beside each default."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal


class ConfigError(ValueError):
    """A setting is unknown or out of range; the message names the field and what is allowed."""


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise `ConfigError` unless low <= value <= high and value is finite."""
    if not low <= value <= high:  # false for NaN
        raise ConfigError(f"{name} = {value} is out of range: choose a value in [{low}, {high}]")


@dataclass(frozen=True)
class DataConfig:
    """What is read: the benchmark, the image size and the attribute vectors."""

    benchmark: str = "birdlets"
    """images, attributes and split: birdlets, cub100, awa35, cub, sun, awa2, or a folder benchmark's path"""
    root: str = ""
    """where the benchmark lies; empty: $VSPCN_DATA, else ../shared/data beside the repository, else ./data"""
    size: int = 112
    """image side in pixels, a multiple of the ViT's patch"""
    images_per_class: int = 0
    """use at most this many images of each class to train and to validate (0: all); test images are never thinned"""
    vectors: str = "glove-50"
    """vectors of attribute phrases: glove-50, glove-300, minilm (sentence embeddings); a file in word2vec or GloVe
    format, or a .npy of one row an attribute; a folder of a sentence-transformers model or of a CLIP text tower"""
    template: str = "The picture shows: {}."
    """the sentence that a sentence encoder reads, {} being the attribute's phrase; word vectors read the words alone"""
    mean: str = ""
    """channel means of pixels in 0..1 that the weights expect, as 0.485,0.456,0.406; empty: what timm's record says"""
    std: str = ""
    """channel standard deviations of pixels in 0..1 that the weights expect; empty: what timm's record says"""

    def __post_init__(self) -> None:
        check_range("data.size", self.size, 16, 2048)
        check_range("data.images_per_class", self.images_per_class, 0, 10**9)


@dataclass(frozen=True)
class MethodConfig:
    """Settings of one method, declared beside its code and `known` once that is imported; VSPCN's are `ModelConfig`."""

    name: ClassVar[str] = "vspcn"
    reads: ClassVar[tuple[str, ...]] = ("model", "loss", "train")
    """what it reads of the other groups, and a record then holds: a group, or one field ("loss.gamma")"""
    formerly: ClassVar[dict[str, str]] = {}
    """own fields that older records keep under another name in the group model: {"prompts": "visual_prompts"}"""
    known: ClassVar[dict[str, type[MethodConfig]]] = {}

    def __init_subclass__(cls) -> None:
        MethodConfig.known[cls.name] = cls


MethodConfig.known[MethodConfig.name] = MethodConfig
# What the protocol reads for every method.
PROTOCOL = {"model.backbone", "model.method", *(f"train.{name}" for name in (
    "seed", "held_out", "batch_size", "precision", "folds", "calibration", "calibration_share"))}


@dataclass(frozen=True)
class ModelConfig:
    """The frozen ViT and what VSPCN puts into it (design symbols in brackets)."""

    backbone: str = "packaged:vit-s14"
    """the frozen ViT: packaged:vit-s14 or packaged:clip-vit-b16 (no model hub needed), a timm name (weights from the
    hub), or NAME@FILE, NAME being timm's, of .safetensors, .pth or Google's .npz"""
    method: str = "vspcn"
    """vspcn, or a peer or baseline under the same protocol, whose own settings are the group `method`; without prompts
    vspcn is the linear head on the frozen ViT"""
    visual_prompts: int = 1
    """number of visual prompts [P_v], 0 switches that side off; the paper's bias B_v [N] is for one"""
    semantic_prompts: int = 1
    """number of semantic prompts [P_s], 0 switches that side off"""
    fusion_heads: int = 0
    """attention heads of weak and strong fusion: 0 as many as the ViT's blocks have, 1 the paper's formula"""
    weak: bool = True
    """weak fusion at the input (WVPF, WSPF)"""
    strong: bool = True
    """strong fusion before each deep block (SVPF, SSPF)"""
    adapter: bool = True
    """per-image semantic adapter; without it SSPF reads S^0 in every block"""
    first_strong_block: int = 7
    """first block with strong fusion [l0 + 1], counted from 1; the paper keeps blocks 1..6 shallow"""
    alpha_v: float = 0.3
    """weight of the *attention* in SVPF [a_v] (the formula, not the prose); the paper's 0.05 is 95 % learned bias"""
    alpha_s: float = 0.8
    """weight of the attention in SSPF [a_s]"""
    alpha_a: float = 0.3
    """how much of an attribute token the image rewrites in each block [a_a]; 0.1: SSPF reads the same in all images"""
    embedding: Literal["visual-to-semantic", "semantic-to-visual"] = "visual-to-semantic"
    """where image and prototype meet: in attribute space, or in the ViT's feature space"""
    readout: Literal["cls", "cls+semantic"] = "cls"
    """whose scores classify: the cls token's (the paper), or their mean with the mean semantic prompt's, if any"""
    recompute: bool = False
    """compute the ViT's blocks again in the backward pass instead of keeping their activations: for large inputs"""
    scale: float = 20.0
    """factor on cosine scores; 20 is the reference linear head's, a softmax temperature of 0.05"""

    def __post_init__(self) -> None:
        for name, low, high in (("alpha_v", 0.0, 1.0), ("alpha_s", 0.0, 1.0), ("alpha_a", 0.0, 1.0),
                                ("visual_prompts", 0, 512), ("semantic_prompts", 0, 512), ("fusion_heads", 0, 512),
                                ("first_strong_block", 1, 1000), ("scale", 1e-3, 1e3)):
            check_range(f"model.{name}", getattr(self, name), low, high)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss parts (design: L_BASE + lambda_CED L_CED + lambda_SKD L_SKD)."""

    gamma: float = 0.1
    """weight of L_AR; the MSE is summed over attributes of unit-norm prototypes, so it is O(1)"""
    lambda_ced: float = 0.3
    """weight of L_CED; the first working prototype's value, as the paper gives none"""
    lambda_skd: float = 0.9
    """weight of L_SKD, the paper's value for CUB (0.35 for SUN)"""
    eta1: float = 1.0
    """weight of the JSD inside L_SKD"""
    eta2: float = 1.0
    """weight of the distance inside L_SKD"""
    eps: float = 1.0
    """added to L_CED's KL, which keeps the loss finite where the two distributions agree (KL = 0)"""

    def __post_init__(self) -> None:
        for name in ("gamma", "lambda_ced", "lambda_skd", "eta1", "eta2"):
            check_range(f"loss.{name}", getattr(self, name), 0.0, 1e3)
        check_range("loss.eps", self.eps, 1e-8, 1e3)


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast, how repeatable."""

    epochs: int = 6
    """most epochs to train; the epoch kept is the best on validation classes"""
    head_epochs: int = 0
    """epochs of the heads alone before everything trains (0: none, as the paper); short budgets gain: cub presets"""
    head_lr: float = 1e-3
    """learning rate of `head_epochs` alone, constant; not `lr`, which rows that fine-tune the ViT must lower"""
    batch_size: int = 32
    """images in a batch"""
    lr: float = 1e-3
    """peak learning rate, after a warm-up and before a cosine (paper: 1e-3); prompts, fusion, B have multiples of it"""
    weight_decay: float = 1e-4
    """of Adam, the paper's value; in VSPCN with prompts only the heads decay"""
    clip: float = 1.0
    """largest gradient norm, longer ones are scaled down to it; log-ratio losses give rare spikes"""
    accumulate: int = 1
    """batches to one optimiser step"""
    augment: bool = True
    """random resized crop, flip, colour jitter; ignored for the linear head on frozen features"""
    seed: int = 0
    """of the first weights, the held-out images, the order of images and their augmentation"""
    held_out: float = 0.2
    """share of the remaining training classes' images kept for selection (validation 'seen')"""
    folds: int = 1
    """draws of validation classes to select with: the benchmark's own, then others by seed; each costs a training"""
    calibration: Literal["raw", "retention", "accuracy-kept", "median-shift", "standardised", "quartiles",
                         "score-spread", "temperature", "consensus"] = "consensus"
    """how tau gets from selection to the final model; the default won a nested validation (docs/calibration.md)"""
    calibration_share: float = 0.1
    """share of a class's training images that the final fit leaves out for `calibration`; raw leaves out none"""
    precision: Literal["no", "bf16"] = "no"
    """no: float32; bf16: mixed precision, on hardware that has it"""

    def __post_init__(self) -> None:
        for name, low, high in (("epochs", 1, 10000), ("head_epochs", 0, 10000), ("batch_size", 2, 65536),
                                ("lr", 1e-8, 10.0), ("head_lr", 1e-8, 10.0), ("weight_decay", 0.0, 10.0),
                                ("clip", 1e-6, 1e6), ("accumulate", 1, 1024), ("held_out", 0.05, 0.5),
                                ("seed", 0, 2**31 - 1), ("folds", 1, 100), ("calibration_share", 0.01, 0.5)):
            check_range(f"train.{name}", getattr(self, name), low, high)


@dataclass(frozen=True)
class Config:
    """One run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    method: MethodConfig = field(default_factory=MethodConfig)

    def __post_init__(self) -> None:
        if self.model.method != self.method.name:
            raise ConfigError(f"model.method = {self.model.method!r}, but the settings are those of "
                              f"{self.method.name!r}: change both with `update`")
        vspcn = self.model.method == MethodConfig.name
        if vspcn and self.model.readout != "cls" and self.model.semantic_prompts and not self.loss.lambda_skd:
            raise ConfigError(f"model.readout = {self.model.readout!r} reads the semantic prompts' head, which "
                              "loss.lambda_skd = 0 leaves untrained: set model.readout to cls, or raise the weight")

    def check_patch(self, patch: int) -> None:
        """Raise `ConfigError` where the image size is no multiple of the backbone's `patch`, in pixels."""
        if self.data.size % patch:
            low = self.data.size // patch * patch or patch
            raise ConfigError(f"data.size = {self.data.size} is not a multiple of the patch of {patch} px: "
                              f"choose {low} or {low + patch}")


def update(config: Config, changes: dict[str, dict[str, Any]]) -> Config:
    """`config` with `changes` ({"model": {"alpha_v": 0.1}}) applied; another `model.method` brings its own settings.

    Raises `ConfigError` for unknown groups and fields, wrong types and values out of range.
    """
    known = [f.name for f in dataclasses.fields(Config)]
    if not isinstance(changes, dict):
        raise ConfigError(f"settings must be groups ({', '.join(known)}) of fields, not {type(changes).__name__}")
    parts = {}
    for group, values in changes.items():
        if group not in known:
            raise ConfigError(f"unknown group '{group}': known are {', '.join(known)}")
        if not isinstance(values, dict):
            raise ConfigError(f"the group '{group}' must hold fields and their values, not {type(values).__name__}")
    name = changes.get("model", {}).get("method", config.model.method)
    if not isinstance(name, str) or name not in MethodConfig.known:
        raise ConfigError(f"model.method = {name!r}: choose one of {', '.join(MethodConfig.known)}")
    if name != config.model.method:
        changes = {**changes, "method": changes.get("method", {})}
    for group, values in changes.items():
        part = getattr(config, group)
        if group == "method" and name != config.model.method:
            part = MethodConfig.known[name]()
        hints = {f.name: typing.get_type_hints(type(part))[f.name] for f in dataclasses.fields(part)}
        for key, value in values.items():
            if key not in hints:
                near = f"did you mean '{group}.{nearest(key, hints)}'?" if hints else f"{name} has none of its own"
                raise ConfigError(f"unknown field '{group}.{key}': {near}")
            _check_type(f"{group}.{key}", value, hints[key])
        parts[group] = replace(part, **values)
    return replace(config, **parts)


def read_config(found: Any) -> Config:
    """The config that `as_dict` wrote, also by an earlier version; raises `ConfigError` as `update` does."""
    for group, value in (("train", {"calibration": "raw"}), ("model", {"fusion_heads": 1})):  # before the choice
        if isinstance(found, dict) and isinstance(found.get(group), dict):
            found = {**found, group: {**value, **found[group]}}
    model = found.get("model", {}) if isinstance(found, dict) else {}
    name = model.get("method", MethodConfig.name) if isinstance(model, dict) else None
    method = MethodConfig.known.get(name) if isinstance(name, str) else None
    if method is None or "method" in found:
        return update(Config(), found)
    model = dict(model)  # written before methods had settings of their own: all of them lay in one group
    own = {field: model[old] for field, old in method.formerly.items() if old in model}
    model.pop("tuned_blocks", None)
    groups = {**found, "model": model}
    kept = {g: {k: v for k, v in values.items() if g == "data" or _is_read(method, g, k)}
            if isinstance(values, dict) else values for g, values in groups.items()}
    return update(Config(), {**kept, **({"method": own} if own else {})})


def nearest(name: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def _check_type(name: str, value: Any, hint: Any) -> None:
    if typing.get_origin(hint) is Literal:
        if not isinstance(value, str) or value not in typing.get_args(hint):
            raise ConfigError(f"{name} = {value!r}: choose one of {', '.join(typing.get_args(hint))}")
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return
    elif type(value) is not hint:
        raise ConfigError(f"{name} = {value!r} must be {hint.__name__}")


def _is_read(method: type[MethodConfig], group: str, key: str) -> bool:
    """Whether a method reads a field, or the protocol does."""
    return not {group, f"{group}.{key}"}.isdisjoint({*method.reads, *PROTOCOL})


def as_dict(config: Config) -> dict[str, dict[str, Any]]:
    """The config as nested plain values, for JSON records: what the method reads, and its own settings."""
    groups = dataclasses.asdict(config)
    own = groups.pop("method")
    read = {g: {k: v for k, v in values.items() if g == "data" or _is_read(type(config.method), g, k)}
            for g, values in groups.items()}
    return {**read, **({"method": own} if own else {})}


def unread(config: Config, base: Config) -> list[str]:
    """Fields that were changed from `base` but that the method of `config` does not read, as "loss.eta1"."""
    before, after, read = dataclasses.asdict(base), dataclasses.asdict(config), as_dict(config)
    return [f"{g}.{k}" for g in read for k, v in after[g].items() if k not in read[g] and v != before[g][k]]


def data_root(config: DataConfig) -> Path | None:
    """The folder the user named, or None for the default search."""
    return Path(config.root).expanduser() if config.root else None
