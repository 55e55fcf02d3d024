"""The three numbers on synthetic features, against SciPy's matrix root and loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from vspcn_lib.views.generated import coverage, frechet, quality, two_sample


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**20), st.integers(1, 4), st.integers(6, 20), st.integers(6, 20))
def test_the_frechet_distance_is_that_of_the_matrix_root(seed, dim, n, m):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, dim)), 1 + 2 * rng.normal(size=(m, dim))
    a, b = (np.cov(s, rowvar=False).reshape(dim, dim) for s in (x, y))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet(x, y) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x + 3) == pytest.approx(9 * dim)


def test_few_samples_in_many_dimensions_are_no_trouble():
    x = np.random.default_rng(0).normal(size=(5, 300))
    assert frechet(x, x) == pytest.approx(0, abs=1e-9) and np.isfinite(frechet(x, x[:3] + 1))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**20), st.integers(2, 9), st.integers(2, 9))
def test_neighbours_are_those_of_the_loops(seed, n, m):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + 0.5
    points = [(p, 0) for p in x] + [(p, 1) for p in y]
    right = 0
    for i, (p, kind) in enumerate(points):
        others = [(np.linalg.norm(p - q), other) for j, (q, other) in enumerate(points) if j != i]
        right += min(others)[1] == kind
    assert two_sample(x, y) == pytest.approx(100 * right / (n + m))
    covered = 0
    for i, p in enumerate(x):
        near = sorted(np.linalg.norm(p - q) for j, q in enumerate(x) if j != i)
        covered += min(np.linalg.norm(p - q) for q in y) <= near[min(2, n - 1) - 1]
    assert coverage(x, y, 2) == pytest.approx(100 * covered / n)


def test_what_the_numbers_mean():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    assert abs(two_sample(x, y) - 50) < 8 and two_sample(x, y + 100) == 100
    assert coverage(x, y) > 90 and coverage(x, y + 100) == 0
    found = quality(np.concatenate([x, y + 9]), np.repeat([4, 7], 300), {4: y, 7: x})
    assert found[4]["frechet"] < 0.1 < 50 < found[7]["frechet"] and found[7]["1-NN"] == 100
