"""Where a peer looks: MSDN's attention of attributes to regions, for the images that VSPCN's prompts look at too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vspcn_lib.methods.msdn import MSDN


@dataclass(frozen=True)
class Regions:
    """What MSDN's attribute-to-visual net makes of images, arrays."""

    maps: np.ndarray
    """A1 [B,K,side,side]: the weights of the regions for each attribute, each map summing to 1"""
    psi: np.ndarray
    """[B,K]: how strongly each attribute is found there"""

    def terms(self, rows: np.ndarray) -> np.ndarray:
        """psi_k a_ck [B,K]: what each attribute adds to the score of the class with unit attribute row a_c, [B,K]."""
        return self.psi * rows

    def of_class(self, rows: np.ndarray) -> np.ndarray:
        """One map an image, [B,side,side]: sum_k a_ck A1_k / sum_k a_ck, attributes weighted by those of a class."""
        weights = np.maximum(rows, 0)
        return np.einsum("bk,bkij->bij", weights / weights.sum(1, keepdims=True), self.maps)


@torch.no_grad()
def region_attention(model: MSDN, images: Tensor) -> Regions:
    """`Regions` of normalised images [B,3,H,W]."""
    model.eval()
    features = model.features(images)
    to_visual, _ = model.heads.attention(features["regions"])
    side = round(to_visual.shape[-1] ** 0.5)
    return Regions(to_visual.unflatten(-1, (side, side)).float().cpu().numpy(),
                   model.heads(features)["attribute_to_visual"].float().cpu().numpy())


def shared(first: np.ndarray, second: np.ndarray) -> float:
    """The share of two maps that each sum to 1 that lies in the same places: sum min(p,q), 1 for equal maps."""
    return float(np.minimum(first, second).sum())
