"""Where the model of a finished run looks in unseen images."""

from __future__ import annotations

import numpy as np
import torch

from vspcn_lib.model import VSPCN
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.views.capture import prompt_attention


def unseen_attention(work: Workspace, model: VSPCN, birds: int = 4) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Indices of a few unseen images, and where cls, visual and semantic prompts of the last block look in them."""
    unseen = work.bench.test_unseen
    chosen = unseen[np.linspace(0, len(unseen) - 1, birds).astype(int)]
    images = torch.cat([x for x, _, _ in work.batches(chosen, augment=False).epoch(0)])
    return chosen, {s: m.numpy() for s, m in prompt_attention(model, images).items()}
