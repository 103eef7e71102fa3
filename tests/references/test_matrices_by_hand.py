"""Methods on whole matrices, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.references import mats, regmean, spectral, svc, wudi


def test_tsv_undoes_what_the_tasks_share() -> None:
    rng = np.random.default_rng(2)
    left, right = np.linalg.qr(rng.normal(size=(6, 4)))[0], np.linalg.qr(rng.normal(size=(5, 4)))[0]
    taus = [left[:, :2] * [3, 2] @ right[:, :2].T, left[:, 2:] * [5, 1] @ right[:, 2:].T]
    assert_allclose(spectral.tsv_matrix(taus), taus[0] + taus[1], atol=1e-12)
    assert_allclose(spectral.tsv_matrix(taus, "eigen"), taus[0] + taus[1], atol=1e-9)
    assert spectral.rank_per_task(np.zeros((49, 60)), 49) == 0
    assert not spectral.tsv_matrix([np.ones((2, 9))] * 3).any()


def test_iso_flattens_the_spectrum() -> None:
    rng = np.random.default_rng(3)
    taus = [rng.normal(size=(5, 7)) for _ in range(3)]
    mean = np.linalg.svd(sum(taus), compute_uv=False).mean()
    assert_allclose(np.linalg.svd(spectral.iso_c_matrix(taus), compute_uv=False), np.full(5, mean))
    assert_allclose(spectral.iso_c_matrix([np.diag([3.0, 1])]), np.diag([2.0, 2]), atol=1e-15)
    assert (spectral.iso_sizes(12, 3, 0.8), spectral.iso_sizes(14, 3, 0.8)) == ((9, 1), (11, 1))
    assert (spectral.iso_sizes(5, 2, 0.8), spectral.iso_sizes(10, 4, 0.0)) == ((5, 0), (2, 2)), "halves to even"
    assert spectral.iso_sizes(2, 3, 0.0) == (2, 0), "three directions do not fit into two"


def test_wudi_goes_downhill_along_the_gradient() -> None:
    rng = np.random.default_rng(4)
    taus = [rng.normal(size=(3, 4)) for _ in range(2)]
    x, step = sum(taus), 1e-6
    slope = wudi.gradient(x, taus)
    for place in np.ndindex(x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[place], behind[place] = x[place] + step, x[place] - step
        assert_allclose((wudi.loss(ahead, taus) - wudi.loss(behind, taus)) / (2 * step), slope[place], rtol=1e-5)
    assert_allclose(wudi.adam(x, taus, 1, 0.01), x - 0.01 * np.sign(slope), rtol=1e-6)
    assert wudi.loss(wudi.adam(x, taus, 20, 0.01), taus) < wudi.loss(x, taus)
    assert not wudi.adam(np.zeros((2, 2)), [np.zeros((2, 2))] * 2, 5, 0.1).any()


def test_svc_of_tasks_that_agree_gives_the_task() -> None:
    tau = np.random.default_rng(5).normal(size=(4, 3))
    base = {"w": np.ones((4, 3))}
    # s = 3 for each of three copies whose sum is merged, so that the factor is 3 / 9.
    merged = svc.svc(base, [{"w": 1 + tau}] * 3, {"w": 1 + 3 * tau})
    assert_allclose(merged["w"], 1 + tau, rtol=1e-12)
    halved = svc.svc(base, [{"w": 1 + tau}] * 3, {"w": 1 + 0.5 * tau}, least=2.0)
    assert_allclose(halved["w"], 1 + 0.25 * tau, rtol=1e-12)


def test_regmean_reproduces_every_model_on_its_inputs() -> None:
    models = [{"l.weight": np.array([[1.0, 2, 7]])}, {"l.weight": np.array([[3.0, 4, 9]])}]
    grams = [{"l": np.diag([1.0, 0, 0])}, {"l": np.diag([0, 1.0, 0])}]
    assert regmean.regmean(models, grams)["l.weight"].tolist() == [[1, 4, 0]], "a dead input gets zero"
    same = [{"l": np.diag([1.0, 1, 1])}] * 2
    assert regmean.regmean(models, same, weight=[1, 3])["l.weight"].tolist() == [[2.5, 3.5, 8.5]]
    assert regmean.shrunk(np.array([[2.0, 1], [1, 4]]), 0.5).tolist() == [[2, 0.5], [0.5, 4]]


def test_mats_is_regmean_without_gradients() -> None:
    rng = np.random.default_rng(6)
    models = [{"l.weight": rng.normal(size=(2, 3))} for _ in range(3)]
    grams = [{"l": (a := rng.normal(size=(5, 3))).T @ a} for _ in range(3)]
    exact = mats.mats(models, grams, factor=0.7)["l.weight"]
    assert_allclose(exact, regmean.regmean(models, grams, factor=0.7)["l.weight"])
    ones = [{"l": np.eye(2)} for _ in range(3)]
    assert_allclose(mats.mats(models, grams, gradients=ones, factor=0.7)["l.weight"], exact)


def test_the_exact_solution_satisfies_the_equation() -> None:
    rng = np.random.default_rng(7)

    def gram(size: int) -> np.ndarray:
        rows = rng.normal(size=(size + 3, size))
        return rows.T @ rows

    models = [{"l.weight": rng.normal(size=(2, 3))} for _ in range(3)]
    inputs, gradients = [{"l": gram(3)} for _ in models], [{"l": gram(2)} for _ in models]
    x = mats.mats(models, inputs, gradients=gradients)["l.weight"]
    left = sum(b["l"] @ x @ a["l"] for a, b in zip(inputs, gradients))
    right = sum(b["l"] @ m["l.weight"] @ a["l"] for a, b, m in zip(inputs, gradients, models))
    assert_allclose(left, right)
    descended = mats.mats(models, inputs, gradients=gradients, steps=200, rtol=1e-13)["l.weight"]
    assert_allclose(descended, x, rtol=1e-9)


def test_conjugate_gradient_is_scipy_s() -> None:
    linalg = pytest.importorskip("scipy.sparse.linalg")
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(9, 8))
    matrix, right, start = rows.T @ rows, rng.normal(size=8), rng.normal(size=8)
    for steps in (0, 1, 3, 5, 100):
        theirs = linalg.cg(matrix, right, x0=start, maxiter=steps)[0] if steps else start
        assert_allclose(mats.conjugate_gradient(lambda x: matrix @ x, right, start, steps), theirs, rtol=1e-8)
    assert mats.conjugate_gradient(lambda x: matrix @ x, np.zeros(8), start, 5).tolist() == [0] * 8
