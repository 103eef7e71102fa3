"""What the golden cases do not reach, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.references import (
    blends,
    breadcrumbs,
    consensus,
    dare,
    della,
    dppa,
    fusing,
    mergekit,
    model_stock,
    pcb,
    ram,
    sce,
    sphere,
)
from tests.references.common import State


def state(*values: float) -> State:
    return {"x": np.array(values)}


ZEROS = state(0, 0, 0, 0)


# --- drop and rescale ------------------------------------------------------------------------------------------------


def test_dare_keeps_and_divides() -> None:
    masks = [{"x": np.array([True, False, True, False])}]
    given = {"density": [0.25], "weight": [0.5], "masks": masks}
    assert dare.dare(ZEROS, [state(1, 2, -3, 4)], scale=3, **given)["x"].tolist() == [6, 0, -18, 0]
    assert dare.dare(ZEROS, [state(1, 2, -3, 4)], rescale=False, **given)["x"].tolist() == [0.5, 0, -1.5, 0]


def test_dare_by_magnitude_drops_ties() -> None:
    kept = dare.kept_by_magnitude(np.array([1.0, -2, 2, 3]), 0.5)
    assert kept.tolist() == [False, False, False, True]
    assert dare.kept_by_magnitude(np.array([1.0, 2]), 0.4).all()
    assert dare.kept_below(np.array([0.0, 0.29, 0.3]), 0.3).tolist() == [True, True, False]


def test_della_probabilities_are_linear_in_the_rank() -> None:
    chance = della.keep_probabilities(np.array([[3.0, -1, 2], [-5, 6, 4]]), 0.5, 0.2)
    assert_allclose(chance, [[0.7, 0.3, 0.5], [0.5, 0.7, 0.3]])
    assert_allclose(della.keep_probabilities(np.array([3.0, -1]), 0.5, 0.2, by="value"), [0.7, 0.3])
    assert della.keep_probabilities(np.array([[3.0], [1]]), 0.5, 0.2).tolist() == [[0.5], [0.5]]
    assert della.keep_probabilities(np.array([3.0, 1]), 1.0, 0.2).tolist() == [1, 1]


def test_della_divides_by_the_weights_that_agree() -> None:
    masks = [{"x": np.full(2, True)}] * 3
    models = [state(1, 5), state(3, -1), state(-1, -4)]
    given = {"masks": masks, "density": [1.0] * 3, "epsilon": [0.0] * 3, "weight": [1.0, 3.0, 1.0]}
    # 1 + 9 - 1 > 0: (1 + 9) / 4. 5 - 3 - 4 < 0: (-3 - 4) / 4.
    assert della.della(state(0, 0), models, **given)["x"].tolist() == [2.5, -1.75]
    assert della.della(state(0, 0), models, normalize=False, **given)["x"].tolist() == [10, -7]
    assert_allclose(della.della(state(0, 0), models, elect=False, **given)["x"], [9 / 5, -2 / 5])


def test_fusing_with_nothing_to_divide_by() -> None:
    undecided = np.array([[2.0], [-2.0]])
    assert fusing.fused(undecided, [1, 1], elect=True, normalize=True).tolist() == [2], "a sum of zero elects plus"
    assert fusing.fused(undecided, [1, -1], elect=False, normalize=True).tolist() == [4], "weights that cancel count 1"
    tiny = np.array([[2.0], [2.0]])
    assert fusing.fused(tiny, [1e-9, 0], elect=False, normalize=True).tolist() == [2e-9]
    assert_allclose(fusing.fused(tiny, [1e-9, 0], elect=True, normalize=True), [2])


def test_breadcrumbs_masks_the_top_and_the_bottom_of_a_row() -> None:
    tau = np.array([[1.0, -5, 3, 4, 2], [50, 10, 40, 20, 30]])
    assert breadcrumbs.masked(tau, 0.4, 0.2).tolist() == [[0, 0, 3, 4, 0], [0, 0, 40, 0, 30]]
    assert breadcrumbs.masked(tau, 0.4, 0.2, remove_first=False).tolist() == [[0, 0, 0, 4, 0], [0, 0, 40, 0, 0]]
    assert breadcrumbs.masked(np.array(7.0), 0.1, 0.9).tolist() == 7
    assert breadcrumbs.masked(tau[0], 0.8, 0.6).tolist() == [1, 0, 0, 0, 2]


def test_mergekit_sparsifiers() -> None:
    tau = np.array([[1.0, -5], [3, 4], [2, 6]])
    assert mergekit.magnitude(tau, 0.5).tolist() == [[0, -5], [0, 4], [0, 6]]
    assert mergekit.magnitude(tau, 0.01).tolist() == [[0, 0], [0, 0], [0, 6]]
    assert mergekit.magnitude(tau, 0).tolist() == [[0, 0], [0, 0], [0, 0]]
    assert mergekit.outliers_removed(tau, 0.5, 0.2).tolist() == [[0, -5], [3, 4], [0, 0]]
    assert mergekit.outliers_removed(tau, 0.5, 0.0).tolist() == [[0, -5], [0, 4], [0, 6]]
    # 5 of 6 stay: of the 2 outliers that gamma asks for only 1 can go.
    assert mergekit.outliers_removed(tau, 0.9, 0.4).tolist() == [[1, -5], [3, 4], [2, 0]]
    assert_allclose(mergekit.magnitude(tau, 0.5, "l1"), np.array([[0, -5], [0, 4], [0, 6]]) * 21 / 15)
    assert_allclose(mergekit.magnitude(tau, 0.5, "linf"), [[0, -5], [0, 4], [0, 6]])
    assert_allclose(mergekit.magnitude(tau * 1e-9, 0.5, "l1").sum(), 5e-9)


def test_dppa_gives_the_layer_with_outliers_more() -> None:
    calm, wild = np.tile([1.0, -1], 8).reshape(2, 8), np.ones((2, 8))
    wild[0, 0] = 100
    delta, layers = {"a": calm, "b": wild, "norm": np.ones(3)}, [["a"], ["b"]]
    assert_allclose(dppa.layer_densities(delta, layers, 0.8, 0.08), [0.12, 0.28])
    density = dppa.linear_densities(delta, layers, 0.8)
    assert_allclose([density["a"], density["b"]], [0.04, 0.36])
    pruned = dppa.pruned(delta, layers, 0.8)
    assert np.count_nonzero(pruned["a"]) == 0, "all are tied with the threshold"
    assert np.count_nonzero(pruned["b"]) == 1
    assert pruned["norm"].tolist() == [1, 1, 1]


def test_dppa_is_defined_where_the_official_code_fails() -> None:
    flat = {"a": np.arange(1.0, 11), "b": np.arange(1.0, 11)}
    assert_allclose(list(dppa.linear_densities(flat, [["a"], ["b"]], 0.8).values()), [0.2, 0.2], rtol=1e-12)
    assert (dppa.clamped(-0.1, 20), dppa.clamped(1.2, 20)) == (0.05, 1)
    assert np.count_nonzero(dppa.pruned_tensor(np.arange(1.0, 11), 1.3)) == 9
    assert np.count_nonzero(dppa.pruned_tensor(np.arange(1.0, 11), -0.3)) == 0


def test_dppa_amplifies_in_partitions() -> None:
    sparser, denser = state(9, 0, 0), state(9, -8, 0)
    assert dppa.amplified(sparser, denser, 1.8, 1.0)["x"].tolist() == [16.2, -8, 0]
    assert dppa.amplified(sparser, denser, 1.0, 1.5)["x"].tolist() == [13.5, -12, 0]


def test_pcb_of_one_model_keeps_the_largest() -> None:
    merged = pcb.pcb(state(*[0] * 10), [state(*range(1, 11))], ratio=0.3)
    # Magnitudes are clipped to 9 at the top; scores up to the eighth value are dropped.
    assert merged["x"].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 9, 9]


# --- agreement -------------------------------------------------------------------------------------------------------


def test_consensus_keeps_what_two_tasks_need() -> None:
    models = [state(1, 4, 0, -1), state(1, 0, 0, 2), state(1, 0.5, 3, 2)]
    # Sums 3, 4.5, 3, 3. |tau| >= share * |sum - tau|:
    # first 1 >= .5 * 2 (all), then 4 >= .25, 0 >= 2.25, .5 >= 2; third alone; -1: 1 >= 2, 2 >= .5, 2 >= .5.
    given = {"share": [0.5] * 3, "weight": [1.0] * 3, "scale": 2.0}
    assert consensus.consensus(ZEROS, models, agree=2, **given)["x"].tolist() == [6, 0, 0, 6]
    assert consensus.consensus(ZEROS, models, agree=3, **given)["x"].tolist() == [6, 0, 0, 0]
    assert consensus.consensus(ZEROS, models, agree=1, **given)["x"].tolist() == [6, 9, 6, 6]
    assert consensus.consensus(ZEROS, models, agree=0, **given)["x"].tolist() == [6, 9, 6, 6]


def test_sce() -> None:
    models = [state(4, 2, 1, 1), state(-4, 4, 1, 3)]
    # Variances 16, 1, 0, 1: half of three varying positions is one, the first, whose sum 0 elects plus.
    assert sce.sce(ZEROS, models, select=0.5)["x"].tolist() == [4, 0, 0, 0]
    # Energies 22 / 64 and 42 / 64; the first entry of the second model disagrees.
    assert_allclose(sce.sce(ZEROS, models)["x"], [4, (2 * 22 + 4 * 42) / 64, 1, (22 + 3 * 42) / 64])
    tiny = [{"x": model["x"] * 1e-4} for model in models]
    assert_allclose(sce.sce(ZEROS, tiny)["x"], np.array([4, 3, 1, 2]) * 1e-4)
    assert_allclose(sce.sce(ZEROS, tiny, least=0)["x"] * 1e4, sce.sce(ZEROS, models)["x"])


def test_ram_counts_the_models_that_moved() -> None:
    base = {"x": np.zeros(3), "y": np.zeros(2)}
    models = [{"x": np.array([1.0, 2, 0]), "y": np.array([4.0, 1e-6])}, {"x": np.array([3.0, 0, 0]), "y": np.zeros(2)}]
    assert {n: v.tolist() for n, v in ram.ram(base, models).items()} == {"x": [2, 2, 0], "y": [4, 0]}
    # The first model: 1 shared, 2 unique, ratio 1/2; in x alone 1 and 1, in y 0 and 1. The second has no unique one.
    whole = ram.ram_plus(base, models, r=0.1, alpha=0.8)
    assert_allclose([*whole["x"], *whole["y"]], [2, 2 * 1.05, 0, 4 * 1.05, 0])
    parts = ram.ram_plus(base, models, r=0.1, alpha=0.8, scope="tensor")
    assert_allclose([*parts["x"], *parts["y"]], [2, 2 * 1.08, 0, 4, 0])


def test_blends() -> None:
    assert blends.passthrough([state(1, -2)], factor=0.5)["x"].tolist() == [0.5, -1]
    four = [state(4, 1), state(1, 1), state(2, 0), state(9, 5)]
    assert blends.median(four)["x"].tolist() == [3, 1]
    assert blends.median(four, lower=True)["x"].tolist() == [2, 1]
    assert blends.median(four[:3])["x"].tolist() == [2, 1]
    near = blends.nearswap(state(0, 0, 1), [state(4, 1, 1)], t=2)
    assert near["x"].tolist() == [2, 1, 1]


def test_arcee_fusion_copies_what_stands_out() -> None:
    start = np.zeros((2, 4))
    tuned = start.copy()
    tuned[1, 2] = 1.0
    p = math.e / (3 + math.e)
    divergence = p * math.log(4 * p) + 3 / (3 + math.e) * math.log(4 / (3 + math.e))
    assert_allclose(blends.divergence(tuned, start), [[0], [divergence]], atol=1e-15)
    assert_allclose(blends.divergence(start + 5, start), np.zeros((2, 1)), atol=1e-15)
    base, model = {"w": start, "v": np.zeros(2)}, {"w": tuned, "v": np.array([1.0, -1])}
    fused = blends.arcee_fusion(base, [model])
    # In w all other importances are 0, as is the threshold. In v the importances are equal and so is the threshold.
    assert_array_equal(fused["w"], tuned)
    assert_array_equal(fused["v"], model["v"])


def test_arcee_fusion_takes_lower_quantiles() -> None:
    """Six importances: 0, 0, 0, s, 2 s, 9 s."""
    start = np.zeros((2, 3))
    tuned = np.array([[0.0, 0, 0], [1, 2, 9]])
    score = np.sort(blends.importance(tuned, start), axis=None)
    assert score[:4].tolist() == [0, 0, 0, score[3]]
    # Of six the quartiles are the second and the fourth: 0 and score[3], the median 0. Only 9 reaches 1.5 * score[3].
    assert_allclose(score[4] / score[3], 2)
    fused = blends.arcee_fusion({"w": start}, [{"w": tuned}])["w"]
    assert fused.tolist() == [[0, 0, 0], [0, 2, 9]]


# --- on the sphere ---------------------------------------------------------------------------------------------------


def direction(degrees: float, length: float = 1) -> State:
    return state(length * math.cos(math.radians(degrees)), length * math.sin(math.radians(degrees)))


def degrees_of(merged: State) -> float:
    return math.degrees(math.atan2(merged["x"][1], merged["x"][0]))


def test_slerp_divides_the_angle() -> None:
    assert_allclose(sphere.slerp(direction(0), [direction(80)], t=0.25)["x"], direction(20)["x"])
    assert_allclose(sphere.slerp(direction(0), [direction(1)], t=0.5)["x"], (direction(0)["x"] + direction(1)["x"]) / 2)
    assert sphere.slerp(state(0, 0), [state(4, 2)], t=0.25)["x"].tolist() == [1, 0.5]
    assert sphere.slerp(state(1, 0), [state(-4, 0)], t=0.5)["x"].tolist() == [-1.5, 0], "opposite: along the line"
    between = sphere.slerp_changes(state(5, 5), [state(6, 5), state(5, 6)], t=0.5)
    assert_allclose(between["x"], state(5 + math.sqrt(0.5), 5 + math.sqrt(0.5))["x"])


def test_the_scope_says_what_a_vector_is() -> None:
    base = {"a": np.array([[1.0, 0], [0, 1]]), "b": np.array([0.0, 1])}
    model = {"a": np.array([[0.0, 1], [1, 0]]), "b": np.array([0.0, 1])}
    half = math.sqrt(0.5)
    rows = sphere.slerp(base, [model], t=0.5, scope="row")
    assert_allclose(rows["a"], np.full((2, 2), half))
    assert_allclose(rows["b"], [0, 1])
    tensors = sphere.slerp(base, [model], t=0.5)
    assert_allclose(tensors["a"], np.full((2, 2), half))
    whole = sphere.slerp(base, [model], t=0.5, scope="model")
    # cos 1/3 over all: both coefficients are sin(theta / 2) / sin theta = 1 / (2 cos(theta / 2)).
    half_angle = 1 / (2 * math.cos(math.acos(1 / 3) / 2))
    assert_allclose(whole["a"], np.full((2, 2), half_angle))
    assert_allclose(whole["b"], [0, 2 * half_angle])


def test_karcher_of_two_is_slerp_and_multislerp_is_not() -> None:
    far = 74.1 / 0.8
    pair = [direction(0), direction(far, 3)]
    mean = sphere.karcher(pair, weight=[0.2, 0.8])
    assert_allclose(degrees_of(mean), 74.1)
    assert_allclose(np.linalg.norm(mean["x"]), 0.2 + 0.8 * 3)
    assert_allclose(degrees_of(sphere.multislerp(pair, weight=[1, 4])), 78.4, atol=0.1)


def test_the_gradient_vanishes_at_the_karcher_mean() -> None:
    points = np.random.default_rng(1).normal(size=(4, 6)) + 1
    models, weight = [{"x": point} for point in points], np.array([0.1, 0.2, 0.3, 0.4])

    def spread(at: np.ndarray) -> float:
        units = points / np.linalg.norm(points, axis=1, keepdims=True)
        return float(weight @ np.arccos(units @ at / np.linalg.norm(at)) ** 2)

    mean = sphere.karcher(models, weight=list(weight))["x"]
    for step in np.eye(6) * 1e-4:
        assert spread(mean + step) > spread(mean)
        assert spread(mean - step) > spread(mean)
        assert abs(spread(mean + step) - spread(mean - step)) < 1e-11


def test_karcher_edges() -> None:
    assert sphere.karcher([state(0, 0), state(0, 2)], weight=[1, 1])["x"].tolist() == [0, 1], "zero counts as length"
    assert sphere.karcher([state(0, 0)] * 2, weight=[1, 1])["x"].tolist() == [0, 0]
    assert_allclose(sphere.karcher([state(2, 1)] * 3, weight=[1, 2, 3])["x"], [2, 1])
    changes = sphere.karcher([state(6, 5), state(5, 6)], weight=[1, 1], base=state(5, 5))
    assert_allclose(changes["x"], [5 + math.sqrt(0.5)] * 2)


def test_multislerp_edges() -> None:
    assert sphere.multislerp([state(3, 4)], weight=[0.1], base=state(1, 1))["x"].tolist() == [3, 4]
    assert sphere.multislerp([state(1, 0), state(-3, 0)], weight=[1, 1])["x"].tolist() == [-1, 0]
    with pytest.raises(ValueError, match="directions is zero"):
        sphere.multislerp([direction(0), direction(120), direction(240)], weight=[1, 1, 1])


def test_model_stock_by_scope() -> None:
    models = [{"a": np.array([[1.0, 0], [0, 1]])}, {"a": np.array([[1.0, 0], [1, 0]])}]
    base = {"a": np.zeros((2, 2))}
    # Cosines of the rows 1 and 0, of the tensor 1/2: t = 1 and 0, or 2/3.
    rows = model_stock.model_stock(base, models, average="cosine", scope="row")
    assert_allclose(rows["a"], [[1, 0], [0, 0]])
    for average in ("angle", "cosine"):
        for scope in ("tensor", "model"):
            merged = model_stock.model_stock(base, models, average=average, scope=scope)
            assert_allclose(merged["a"], np.array([[1, 0], [0.5, 0.5]]) * 2 / 3, rtol=1e-7)


def test_model_stock_averages_angles_or_cosines() -> None:
    models = [direction(0), direction(0), direction(90)]
    mean = (direction(0)["x"] * 2 + direction(90)["x"]) / 3
    # Angles 0, 90, 90: 60 on average, cosine 1/2, t = 3/4. Cosines 1, 0, 0: 1/3, t = 3/5.
    assert_allclose(model_stock.model_stock(state(0, 0), models)["x"], mean * 0.75, rtol=1e-3)
    assert_allclose(model_stock.model_stock(state(0, 0), models, average="cosine")["x"], mean * 0.6, atol=1e-15)
    away = [direction(0), direction(120)]
    assert_allclose(model_stock.model_stock(state(0, 0), away, average="cosine")["x"], -direction(60)["x"])
    assert_allclose(model_stock.model_stock(state(0, 0), away, clamp=True)["x"], [0, 0], atol=1e-15)
