"""A finished run opened again: its workspace, its trained model."""

from __future__ import annotations

import torch

from vspcn_lib.encoders.backbone import load_backbone
from vspcn_lib.methods.registry import build
from vspcn_lib.runs.finished import check_built
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.kept import Kept
from vspcn_lib.runs.processes import state as processes
from vspcn_lib.runs.workspace import Workspace, placed
from vspcn_lib.zeroshot import ZeroShotModel


def load_trained(folder: RunFolder, work: Workspace | None = None,
                 quiet: bool = False) -> tuple[Workspace, ZeroShotModel]:
    """The workspace and the trained model of a finished run; `quiet`: without the line that names data and backbone.

    Raises `RunError` where config, backbone, data or the names and shapes of the weights are not those of the run.
    """
    if (folder.path / "generate.json").exists():
        raise RunError(f"{folder.path} holds a generator, no model of images: name the run that it started from")
    check_built(folder)
    if work is None:
        work = Workspace.open(folder.config(), quiet=quiet)
        work.quiet = False  # bars of what comes are shown
    return work, _trained(folder, work.model(), work.backbone.source, work.inputs)


def load_alone(folder: RunFolder) -> tuple[ZeroShotModel, Kept]:
    """The trained model of a finished run and what it keeps of its benchmark, without one photo of that.

    A run of an older version keeps nothing, and asks for the benchmark. Raises `RunError` as `load_trained` does.
    """
    check_built(folder)
    config, kept = folder.config(), Kept.read(folder.path)
    if kept is None:
        work, model = load_trained(folder)
        return model, Kept.of(work)
    device = processes().device
    backbone = placed(load_backbone(config.model.backbone, config.data.size), config, device)
    model = build(backbone, torch.from_numpy(kept.word_vectors), config)
    return _trained(folder, model, backbone.source, kept.inputs).to(device), kept


def _trained(folder: RunFolder, model: ZeroShotModel, backbone: dict[str, str],
             inputs: dict[str, str]) -> ZeroShotModel:
    """`model` with the weights of the run's checkpoint, which must be of this `backbone` and these `inputs`."""
    state, own = folder.load_checkpoint(backbone, inputs), model.state()
    wrong = sorted({n for n in state.keys() | own.keys()
                    if n not in state or n not in own or state[n].shape != own[n].shape})
    if wrong:
        raise RunError(f"{folder.path / 'checkpoint.safetensors'} does not hold the weights of this model "
                       f"({len(wrong)} missing, unknown or of another shape, first '{wrong[0]}'): train again, or "
                       "restore it from a copy")
    model.load_state_dict(state, strict=False)  # the frozen ViT is not in it
    return model.eval()
