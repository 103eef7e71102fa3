"""The references against every tensor that the official code stored."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden_cases import Case, cases
from tests.references import mats
from tests.references.common import change
from tests.references.goldens import ACCIDENTS, METHODS, answers, every_case, official

CASES = {case.id: case for case in every_case()}
COUNTS = [2, 4, 2, 2, 1, 7, 2, 7, 5, 3, 1, 1, 2, 17]


def test_every_case_is_here() -> None:
    assert [len(cases(method)) for method in METHODS] == COUNTS


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
def test_the_reference_gives_all_that_the_official_code_gave(case: Case) -> None:
    ours, theirs = answers(case), official(case)
    assert theirs
    assert set(theirs) <= set(ours)
    for group, expected in theirs.items():
        mended = ACCIDENTS.get(case.id, {}).get(group, {})
        mine = {name: value for name, value in ours[group].items() if name not in mended}
        case.assert_close(mine, {name: value for name, value in expected.items() if name not in mended})


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
def test_answers_are_float64(case: Case) -> None:
    values = [np.asarray(value) for state in answers(case).values() for value in state.values()]
    assert {value.dtype for value in values} == {np.dtype(np.float64)}


def test_the_accident_of_breadcrumbs_is_a_change_of_zero() -> None:
    """int(0.05 * 12) = 0 outliers to remove: the snapshot loses the tensor, we keep the 8, 6 and 7 largest of 12."""
    case = CASES["mergekit/mk_breadcrumbs"]
    np.testing.assert_array_equal(case.outputs("out")["b"], case.base["b"])
    weights, densities, expected = case.options["weights"], case.options["density"], np.zeros(12)
    for model, weight, density in zip(case.models, weights, densities):
        tau = change(case.base, model)["b"]
        keep = np.abs(tau) >= np.sort(np.abs(tau))[12 - int(density * 12)]
        expected += weight * np.where(keep, tau, 0)
    ours = answers(case)["out"]["b"]
    np.testing.assert_allclose(ours, case.base["b"] + case.options["lambda"] * expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["mats/m09", "mats/m11"])
def test_the_exact_solution_is_where_the_official_descent_arrives(name: str) -> None:
    case = CASES[name]
    gradients = case.each("output_grad_gram") if case.options["use_backward"] else None
    exact = mats.mats(case.models, case.each("input_gram"), gradients=gradients)
    for tensor, distance in case.entry["max_abs_distance_to_direct_float64_solution"].items():
        measured = np.max(np.abs(exact[tensor] - case.outputs("merged")[tensor]))
        np.testing.assert_allclose(measured, distance, rtol=1e-3, atol=1e-8)


def test_a_mask_tells_which_entries_are_kept() -> None:
    for case in CASES.values():
        for i, masks in enumerate(case.masks if case.models else []):
            assert set(masks) <= set(case.models[i])
            assert all(mask.dtype == bool and mask.shape == case.base[name].shape for name, mask in masks.items())
