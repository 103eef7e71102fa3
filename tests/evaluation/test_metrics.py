"""Metrics against cases computed by hand, and what they make of nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weft.evaluation.metrics import METRICS, Predictions, fitting, measured, share


def classes(chosen: list[int], right: list[int], count: int) -> Predictions:
    return Predictions(np.eye(count)[chosen], np.array(right))


def test_classification_by_hand() -> None:
    """Confusion: class 0 right 2 of 3, class 1 right 1 of 1, class 2 never chosen."""
    told = measured("classification", classes([0, 0, 1, 1, 0], [0, 0, 0, 1, 2], 3))
    assert told["accuracy"] == pytest.approx(3 / 5)
    assert told["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    # Gorodkin: c s - sum p t over the roots; c = 3, s = 5, p = (3, 2, 0), t = (3, 1, 1)
    assert told["matthews"] == pytest.approx((3 * 5 - 11) / math.sqrt((25 - 13) * (25 - 11)))


def test_macro_f1_is_the_mean_over_classes_that_occur() -> None:
    told = measured("classification", classes([0, 1], [0, 1], 7))
    assert told["macro_f1"] == 1.0


def test_regression_by_hand() -> None:
    told = measured("regression", Predictions(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])))
    assert told["pearson"] == pytest.approx((4 / 3 - 1 / 3) / math.sqrt(14 / 3 * 2))
    assert told["spearman"] == pytest.approx(0.5)


def test_what_never_varies_correlates_with_nothing() -> None:
    told = measured("regression", Predictions(np.array([1.0, 1.0]), np.array([0.0, 1.0])))
    assert told == {"pearson": 0.0, "spearman": 0.0, "pearson_and_spearman": 0.0}


def test_language_modelling_by_hand() -> None:
    """Two texts: 2 tokens at probability 1/4, one at 1/16; 3 bytes in all."""
    nats = np.array([2 * math.log(4), math.log(16)])
    told = measured("language-modelling", Predictions(nats, np.array([2.0, 1.0]), np.array([2, 1])))
    assert told["perplexity"] == pytest.approx(256 ** (1 / 3))
    assert told["bits_per_byte"] == pytest.approx(8 / 3)


def test_multiple_choice_by_hand() -> None:
    """The long choice is less likely as a whole and likelier by the character."""
    scores, sizes = np.array([[-4.0, -6.0], [-1.0, -np.inf]]), np.array([[2, 6], [1, 1]])
    told = measured("multiple-choice", Predictions(scores, np.array([1, 0]), sizes))
    assert told == {"accuracy": 0.5, "accuracy_by_length": 1.0}


def test_every_kind_has_a_metric_and_every_metric_a_kind() -> None:
    kinds = {kind for metric in METRICS.values() for kind in metric.kinds}
    assert all(fitting(kind) for kind in kinds)
    assert len(kinds) == 5


def test_shares_of_the_expert() -> None:
    assert share("accuracy", 0.4, 0.8) == 0.5
    assert share("perplexity", 30.0, 10.0) == pytest.approx(1 / 3)
    assert share("pearson", 0.3, -0.1) is None
