"""What the benchmark runs: training step and inference of VSPCN and of everything it is measured against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vspcn_lib.bench.plain import PlainVSPCN
from vspcn_lib.config import Config, update
from vspcn_lib.encoders.backbone import FrozenViT, load_backbone
from vspcn_lib.methods.registry import method
from vspcn_lib.studies.rows import GROUPS, ROWS
from vspcn_lib.system.memory import keep_freed_memory, peak_mib
from vspcn_lib.zeroshot import Classes

ATTRIBUTES = {"birdlets": 82, "sun": 102, "awa2": 85}  # CUB and cub100: 312
FLOOR = "ViT"
OTHERS = {"VSPCN": {}, "VSPCN, no fusion": {"model": {"weak": False, "strong": False, "adapter": False}},
          "VSPCN, fusion plain": {}, "VPT-deep": {"model": {"method": "vpt-deep"}},
          **{name: ROWS[name] | {"train": {}} for name in ("fine-tune all", *GROUPS["peers"])}}
NAMES = (FLOOR, *OTHERS)


@dataclass(frozen=True)
class Workload:
    """One training step and one inference pass over the same random images: cost does not depend on their values."""

    train: Callable[[], object]
    infer: Callable[[], object]


def place() -> torch.device:
    """The device that is measured: CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def workload(name: str, config: Config, vit: FrozenViT, attributes: int, classes: int = 100) -> Workload:
    """The workload `name` of NAMES for `config` on the ViT's device.

    "ViT" is the floor: forward and backward to its input, and its plain forward, as timm has them. VPT-deep gets as
    many prompts a block as VSPCN has in all; a method that reads each image once trains on what it kept.
    """
    device, size = next(vit.parameters()).device, config.data.size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(config.train.batch_size, 3, size, size, generator=generator).to(device)
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32

    def cast() -> torch.autocast:
        return torch.autocast(device.type, dtype, dtype == torch.bfloat16)

    if name == FLOOR:
        def train() -> None:
            with cast():
                tokens = vit.embed(images).requires_grad_()
                out = vit.final_norm(vit.blocks(tokens))
            out[:, 0].float().square().sum().backward()

        def infer() -> torch.Tensor:
            with torch.no_grad(), cast():
                return vit.vit(images)

        return Workload(train, infer)

    changes = dict(OTHERS[name])
    if name == "VPT-deep":
        changes["method"] = {"prompts": config.model.visual_prompts + config.model.semantic_prompts}
    settings, words = update(config, changes), torch.randn(attributes, 50, generator=generator)
    model = (PlainVSPCN if "plain" in name else method(settings)).build(vit, words, settings).to(device)
    optimiser = model.optimiser(settings.train)
    targets = torch.randint(classes, (len(images),), generator=generator).to(device)
    known = Classes(*torch.rand(2, classes, attributes, generator=generator).to(device))
    kept = model.frozen(images) if model.cached(settings) else None

    def train() -> None:
        model.train()
        with cast():
            features = model.training_features(images, known.seen[targets]) if kept is None else model.unfrozen(kept)
            embedded = model.embed(features)
        model.loss(features, embedded, targets, known, settings)["total"].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def infer() -> torch.Tensor:
        model.eval()
        with torch.no_grad():
            with cast():
                embedded = model(images).embedded
            return model.scores(embedded, model.prototypes(known.seen))

    return Workload(train, infer)


class _Counter(TorchDispatchMode):
    """Adds up PyTorch's own formulas for what runs; its FlopCounterMode also follows modules, not needed here."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops(action: Callable[[], object]) -> int:
    """Floating-point operations of one call, counted as it runs: matrix products, attention and convolutions."""
    with sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
        action()
    return counter.total


def peak(name: str, config: Config, attributes: int, train: bool) -> dict[str, float]:
    """Peak MiB of three passes of a workload, and what of it came after loading; for a process of its own."""
    keep_freed_memory()
    device = place()
    vit = load_backbone(config.model.backbone, config.data.size).to(device)
    work = workload(name, config, vit, attributes)
    before = peak_mib(device)
    for _ in range(3):
        (work.train if train else work.infer)()
    return {"peak": round(peak_mib(device), 1), "passes": round(peak_mib(device) - before, 1)}
