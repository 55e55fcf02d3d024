"""A finished run opened again: its workspace and its trained model."""

from __future__ import annotations

from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.zeroshot import ZeroShotModel


def load_trained(folder: RunFolder, work: Workspace | None = None) -> tuple[Workspace, ZeroShotModel]:
    """The workspace and the trained model of a finished run.

    Raises `RunError` where config, backbone, data or the names and shapes of the weights are not those of the run.
    """
    if (folder.path / "generate.json").exists():
        raise RunError(f"{folder.path} holds a generator, no model of images: name the run that it started from")
    work = work or Workspace.open(folder.config())
    model = work.model()
    state, own = folder.load_checkpoint(work.backbone.source, work.inputs), model.state()
    wrong = sorted({n for n in state.keys() | own.keys()
                    if n not in state or n not in own or state[n].shape != own[n].shape})
    if wrong:
        raise RunError(f"{folder.path / 'checkpoint.safetensors'} does not hold the weights of this model "
                       f"({len(wrong)} missing, unknown or of another shape, first '{wrong[0]}'): train again, or "
                       "restore it from a copy")
    model.load_state_dict(state, strict=False)  # the frozen ViT is not in it
    return work, model.eval()
