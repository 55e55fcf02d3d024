"""The three numbers on synthetic features, against SciPy's matrix root and loops."""

from copy import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from world import make_config, make_folder, make_vit

from vspcn_lib.methods.generative.registry import read_settings
from vspcn_lib.panels.generated import Generated, Seen, generated_run
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.generate import generate
from vspcn_lib.train import run
from vspcn_lib.views.generated import Opened, coverage, frechet, halves, means, quality, two_sample


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


def test_distances_of_means_and_two_halves_are_those_of_the_loops():
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat([3, 5, 8], 9))
    real = rng.normal(size=(27, 4)) + labels[:, None]
    synthetic = {c: rng.normal(size=(7, 4)) + c for c in (3, 5, 8)}
    found = means(real, labels, synthetic)
    for c, drawn in synthetic.items():
        far = {d: np.linalg.norm(drawn.mean(0) - real[labels == d].mean(0)) for d in synthetic}
        assert found[c]["own"] == pytest.approx(far[c])
        assert found[c]["other"] == pytest.approx(min(v for d, v in far.items() if d != c))
    own = real[labels == 5]
    assert halves(real, labels, np.array([5, 8]))[5] == {
        "frechet": frechet(own[::2], own[1::2]), "1-NN": two_sample(own[:8:2], own[1::2]),
        "coverage": coverage(own[::2], own[1::2])}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A finished `generate` of a tiny linear head, opened again."""
    base = tmp_path_factory.mktemp("opened")
    changes = {"model": {"visual_prompts": 0, "semantic_prompts": 0}, "train": {"epochs": 1}}
    work = Workspace.open(make_config(make_folder(base / "tiny"), **changes), make_vit(), quiet=True)
    run(work.config, base / "run", work=work)
    flow = read_settings({"ratios": [1, 3], "flow": {"steps": 5, "hidden": 8}, "linear": {"epochs": 2}})
    generate(base / "run", base / "out", flow, work=work)
    return Opened(RunFolder(base / "out"), work)


def test_an_opened_run_classifies_as_it_was_evaluated_and_samples_what_it_was_trained_on(opened):
    saved = opened.folder.scores()
    scores = opened.model.layer(opened.model.generator.space(opened.real)).numpy()
    np.testing.assert_allclose(scores, saved["scores"], atol=1e-5)
    np.testing.assert_array_equal(opened.labels, saved["labels"])
    unseen = opened.work.bench.unseen_classes
    np.testing.assert_array_equal(opened.sample(unseen, 9)[:, :4], opened.sample(unseen, 4))
    found = opened.quality()
    assert set(found) == set(unseen.tolist()) and all(np.isfinite([*q.values()]).all() for q in found.values())
    with pytest.raises(RunError, match="is no finished run of `generate`"):
        Opened(RunFolder(opened.folder.path.parent / "run"))


def test_the_panel_shows_one_class_and_the_recorded_curve(opened):
    parts = Generated(opened, each=3)
    assert len(parts.layout) == len(parts.labels) == 2 * 3 * 3 and parts.synthetic.sum() == 9
    state = Seen(parts.names[1], parts.curve["samples"][1])
    result = parts.compute(state)
    row = next(r for r in opened.selection["epochs"] if r["samples"] == state.samples)
    assert (result["U"], result["S"], result["H"]) == (row["U"], row["S"], row["H"])
    assert result["own"] == opened.quality()[int(opened.work.bench.unseen_classes[1])]
    axes = parts.draw(state, result).axes
    assert f"{state.samples} synthetic features a class" in parts.describe(state, result)
    assert [len(c.get_offsets()) for c in axes[0].collections] == [6, 6, 3, 3]  # others grey, the class in colour
    assert parts.best == opened.selection["best"]["samples"] and axes[1].get_lines()[4].get_xdata()[0] == parts.best
    table = parts.table(state, result).set_index("class")
    assert table.loc[state.kind, "to its real mean"] == result["own"]["own"] and len(table) == len(parts.names) + 2
    assert table.iloc[:-2].mean().tolist() == pytest.approx(table.loc["mean of these classes"].tolist())


def test_an_unseen_class_without_test_images_is_left_out_of_the_comparison(opened):
    first, *rest = opened.work.bench.unseen_classes.tolist()
    bare, there = copy(opened), opened.labels != first
    bare.labels, bare.real = opened.labels[there], opened.real[torch.from_numpy(there)]
    found, whole = bare.drawn(4), opened.drawn(4)
    assert list(found) == rest and all((found[c] == whole[c]).all() for c in rest)
    parts = Generated(bare, each=3)
    assert list(parts.quality) == rest and len(parts.names) == 2
    assert all(np.isfinite([*q.values()]).all() for q in parts.quality.values())
    assert len(parts.layout) == len(parts.labels) == 2 * 2 * 3


def test_a_finished_generation_is_not_made_again(opened):
    assert generated_run(opened.folder.path.parent / "run", opened.folder.path) == opened.folder.path
