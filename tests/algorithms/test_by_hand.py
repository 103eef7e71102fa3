"""Cases small enough to check with a pencil, run through the engine and through the plain scalar functions."""

from __future__ import annotations

import numpy as np

import weft
from weft.algorithms.fisher import fisher_average
from weft.algorithms.linear import weighted_average
from weft.algorithms.task_arithmetic import task_arithmetic

BASE = {"w": np.array([1.0, 1.0, 1.0, 1.0])}
A = {"w": np.array([5.0, 0.0, 1.5, 1.0])}  # task vector  4, -1,  0.5, 0
B = {"w": np.array([-1.0, 4.0, 1.2, 1.0])}  # task vector -2,  3,  0.2, 0
C = {"w": np.array([2.0, 2.0, 1.1, 1.0])}  # task vector  1,  1,  0.1, 0


def test_ties_step_by_step() -> None:
    """Density 0.5 of 4 entries: m = 4 - 2 = 2, the 2nd smallest magnitude is the threshold.

    A: magnitudes 0, 0.5, 1, 4, threshold 0.5, keeps 4, -1, 0.5. B: 0, 0.2, 2, 3, threshold 0.2, keeps -2, 3, 0.2.
    C: 0, 0.1, 1, 1, threshold 0.1, keeps 1, 1, 0.1. Sums: 3 (+), 3 (+), 0.8 (+), 0 (the majority, +).
    Means over those that agree: (4 + 1) / 2, (3 + 1) / 2, (0.5 + 0.2 + 0.1) / 3, nothing.
    """
    merged = weft.merge([A, B, C], base=BASE, method="ties", density=0.5)["w"]
    np.testing.assert_allclose(merged, [1 + 2.5, 1 + 2.0, 1 + 0.8 / 3, 1.0], rtol=1e-15)


def test_ties_weights_count_in_the_election_and_in_the_mean() -> None:
    """Weights 1, 3, 1 on entry 0: 4, -6, 1 sums to -1, so B alone agrees: -6 / 3. Entry 1: -1, 9, 1: (9 + 1) / 4."""
    merged = weft.merge([A, B, C], base=BASE, method="ties", density=1, weight=[1, 3, 1])["w"]
    np.testing.assert_allclose(merged[:2], [1 - 2.0, 1 + 2.5], rtol=1e-15)


def test_an_exact_tie_takes_the_majority_sign() -> None:
    """Entry 0 cancels; entries 1 and 2 elect minus, so entry 0 becomes the mean of its negative changes."""
    base = {"w": np.zeros(3)}
    a, b = {"w": np.array([2.0, -1.0, -1.0])}, {"w": np.array([-2.0, -3.0, -1.0])}
    assert weft.merge([a, b], base=base, method="ties", density=1)["w"].tolist() == [-2.0, -2.0, -1.0]


def test_task_arithmetic_subtracts() -> None:
    """1 + 0.5 * (4 - (-2)) = 4 on entry 0."""
    merged = weft.merge([A, B], base=BASE, method="task_arithmetic", weight=[1, -1], scale=0.5)["w"]
    assert merged[0] == 4.0 == task_arithmetic(1.0, (5.0, -1.0), (1.0, -1.0), 0.5)


def test_linear_weights() -> None:
    """(5 + 3 * -1) / 4 = 0.5."""
    assert weft.merge([A, B], weight=[1, 3])["w"][0] == 0.5 == weighted_average((5.0, -1.0), (1.0, 3.0), 4.0)


def test_fisher_weighs_by_information() -> None:
    """Fishers 1 and 3 without norms: (1 * 5 + 3 * -1) / 4 = 0.5; with both norms 2 it is the same."""
    one, three = {"w": np.array([1.0, 0, 0, 0])}, {"w": np.array([3.0, 0, 0, 0])}
    merged = weft.merge([A, B], method="fisher", fisher=[one, three], normalize=False, floor=0)["w"]
    assert merged[0] == 0.5 == fisher_average((5.0, -1.0), (1.0, 3.0), (1.0, 1.0), (2.0, 2.0), (0.0, 0.0))
    assert merged[1] == 2.0, "nobody knows: the mean of 0 and 4"


def test_fisher_norms_make_models_equal() -> None:
    """Each Fisher has one entry, so after division by the norm both count 1: the mean of 5 and -1."""
    one, three = {"w": np.array([1.0, 0, 0, 0])}, {"w": np.array([3.0, 0, 0, 0])}
    assert weft.merge([A, B], method="fisher", fisher=[one, three])["w"][0] == 2.0


def test_fisher_weights_may_be_tiny() -> None:
    """Only their ratios matter, so that none may vanish in a product."""
    models = [{"w": np.array([0.0, 4.0], np.float32)}, {"w": np.array([4.0, 0.0], np.float32)}]
    fishers = [{"w": np.array([1e-30, 3e-30], np.float32)}, {"w": np.array([3e-30, 1e-30], np.float32)}]
    merged = weft.merge(models, method="fisher", fisher=fishers, weight=1e-40, normalize=False, floor=0)
    np.testing.assert_allclose(merged["w"], [3.0, 3.0], rtol=1e-6)
