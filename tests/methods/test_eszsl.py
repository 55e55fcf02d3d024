"""ESZSL: the closed form against NumPy."""

import numpy as np
import torch
from world import make_model


def test_eszsl_equals_its_formula(tiny_vit):
    rng = np.random.default_rng(0)
    x, s = rng.normal(2, 3, (40, 32)), rng.uniform(0, 1, (5, 6))
    y = rng.integers(0, 5, 40)
    model = make_model(tiny_vit, "eszsl")
    model.solve(torch.tensor(x), torch.tensor(y), torch.tensor(s), (10.0, 0.1))
    z, unit = (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + 1e-5), s / np.linalg.norm(s, axis=1, keepdims=True)
    signs = np.where(np.arange(5) == y[:, None], 1.0, -1.0)
    v = np.linalg.inv(z.T @ z + 10 * np.eye(32)) @ z.T @ signs @ unit @ np.linalg.inv(unit.T @ unit + 0.1 * np.eye(6))
    model.eval()
    found = model.heads.scores(model.heads({"cls": torch.tensor(x).float()}),
                               model.heads.prototypes(torch.tensor(s).float()))["cls"]
    np.testing.assert_allclose(found.numpy(), z @ v @ unit.T, atol=1e-3)
