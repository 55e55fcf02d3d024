"""A finished run opened again: its workspace, its trained model, and where that looks in unseen images."""

from __future__ import annotations

import numpy as np
import torch

from vspcn_lib.model import VSPCN
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.views.capture import prompt_attention


def load_trained(folder: RunFolder, work: Workspace | None = None, quiet: bool = False) -> tuple[Workspace, VSPCN]:
    """The workspace and the trained model of a finished run; `quiet`: without the line that names data and backbone.

    Raises `RunError` where config, backbone, data or the names and shapes of the weights are not those of the run.
    """
    if work is None:
        work = Workspace.open(folder.config(), quiet=quiet)
        work.quiet = False  # bars of what comes are shown
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


def unseen_attention(work: Workspace, model: VSPCN, birds: int = 4) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Indices of a few unseen images, and where cls, visual and semantic prompts of the last block look in them."""
    unseen = work.bench.test_unseen
    chosen = unseen[np.linspace(0, len(unseen) - 1, birds).astype(int)]
    images = torch.cat([x for x, _, _ in work.batches(chosen, augment=False).epoch(0)])
    return chosen, {s: m.numpy() for s, m in prompt_attention(model, images).items()}
