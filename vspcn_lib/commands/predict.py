"""The most likely classes of a photo, and the attributes that speak for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from vspcn_lib.config import check_range
from vspcn_lib.data.images import ImageError, decode
from vspcn_lib.runs.evaluation import embed
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.trained import load_alone

CHUNK = 64  # photos that pass the ViT at once: more of them take longer, not more memory


@torch.no_grad()
def predict(run: Path, images: Sequence[Path], top: int = 3) -> str:
    """A text: for each image the `top` classes at the validation tau, each with its strongest attributes.

    A class's score is scale x sum_k embed(f)_k prototype_k, in the precision of the run, for which tau was chosen; the
    attributes named are the largest terms.
    The training photos need not be there. Raises `RunError` for an unfinished run, `ImageError` for a file that is no
    usable image, `ConfigError` for `top` below 1.
    """
    check_range("--top", top, 1, 10**6)
    folder = RunFolder(run)
    if not images:
        raise ImageError("no image to look at: name one file or more after the run folder")
    config, few = folder.config(), len(images) <= CHUNK
    for path in tqdm(images, "reading", leave=False, disable=few):  # bad files first; none is kept, so many may come
        decode(path, config.data.size)
    tau = float(folder.scores()["tau"])
    model, kept = load_alone(folder)
    device = next(model.parameters()).device
    prototypes = model.prototypes(torch.as_tensor(kept.prototypes, device=device))
    semantic = config.model.embedding == "visual-to-semantic"
    lines = []
    for start in tqdm(range(0, len(images), CHUNK), "predicting", leave=False, disable=few):
        chunk = images[start:start + CHUNK]
        pixels = np.stack([decode(path, config.data.size) for path in chunk])
        found = embed(config, model, kept.normalise(torch.from_numpy(pixels).to(device) / 255))
        embedded, scores = model.read(found), model.scores(found, prototypes).cpu().numpy() + tau * kept.unseen
        for i, path in enumerate(chunk):
            lines.append(str(path))
            for c in np.argsort(-scores[i])[:top]:
                kind = "unseen" if kept.unseen[c] else "seen"
                line = f"  {scores[i, c]:6.2f}  {kept.class_names[c]} ({kind})"
                if semantic:  # only there has an attribute an axis of its own
                    terms = (embedded[i] * prototypes[c]).cpu().numpy()
                    names = (kept.attribute_names[k].removeprefix("has_") for k in np.argsort(-terms)[:4])
                    line += ": " + ", ".join(names)
                lines.append(line)
    return "\n".join(lines)
