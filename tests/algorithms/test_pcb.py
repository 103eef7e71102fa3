"""PCB-Merging against the authors' code, an independent reference and a pencil."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.algorithms.comparing import assert_close, counts, few, merged, seeds, state
from tests.drawing import base_and_tuned
from tests.golden_cases import Case, cases
from tests.references import pcb as reference
from weft.algorithms.pcb import between_sums, score, sum_of_changes

SCRIPTS = {"pcb-merging.py": "reference", "nlp": "nlp", "vision_main": "vision", "vision_ES": "vision_es"}
GOLDEN = list(cases("pcb").values())


def test_every_script_has_a_case() -> None:
    assert {case.entry["variant"] for case in GOLDEN} == set(SCRIPTS)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: c.id)
def test_the_authors_code(case: Case) -> None:
    factor = case.options["lambda"]
    options = {"weight": factor} if isinstance(factor, list) else {"scale": factor}
    variant = SCRIPTS[case.entry["variant"]]
    ours = merged("pcb", case.base, case.models, variant=variant, ratio=case.options["ratio"], **options)
    case.assert_close(ours, case.outputs("merged"))


@few
@given(
    seeds,
    counts,
    st.floats(0.05, 1),
    st.sampled_from(sorted(reference.VARIANTS)),
    st.floats(-2, 2),
    st.data(),
)
def test_the_reference(seed: int, models: int, ratio: float, variant: str, scale: float, data: st.DataObject) -> None:
    base, tuned = base_and_tuned(seed, models)
    if variant.startswith("vision"):
        weight = data.draw(st.lists(st.floats(-2, 2), min_size=models, max_size=models))
        options, theirs = {"weight": weight}, weight
    else:
        options, theirs = {"scale": scale}, scale
    ours = merged("pcb", base, tuned, variant=variant, ratio=ratio, **options)
    assert_close(ours, reference.pcb(base, tuned, ratio=ratio, scale=theirs, variant=variant))


def test_tensor_by_tensor_is_the_whole_model_of_one_tensor() -> None:
    base, tuned = base_and_tuned(4, 3)
    ours = merged("pcb", base, tuned, ratio=0.3, scope="tensor")
    for name in base:
        alone = [{name: model[name]} for model in tuned]
        np.testing.assert_array_equal(ours[name], merged("pcb", {name: base[name]}, alone, ratio=0.3)[name])


def test_step_by_step() -> None:
    """Two models, four entries, q = 0.0001: magnitudes are clamped to the smallest and the second largest.

    a: 4 1 2 3 -> 3 1 2 3, scaled 1 0 1/2 1. b: 1 2 -3 0 -> 1 2 -2 0, scaled 1/2 1 1 0. The sums are 5 3 -1 3.
    """
    base, a, b = state(0, 0, 0, 0), state(4, 1, 2, 3), state(1, 2, -3, 0)
    one = [math.exp(2 * u * u) * math.tanh(t * s) for u, t, s in zip((1, 0, 0.5, 1), (4, 1, 2, 3), (5, 3, -1, 3))]
    two = [math.exp(2 * u * u) * math.tanh(t * s) for u, t, s in zip((0.5, 1, 1, 0), (1, 2, -3, 0), (5, 3, -1, 3))]

    def share(scores: list[float], entry: int) -> float:
        low, high = sorted(scores)[2], max(scores)  # of four, half are dropped: up to the entry at index 2
        return (max(scores[entry], low) - low) / (high - low)

    s = [(share(one, i), share(two, i)) for i in range(4)]
    clamped = [(3, 1), (1, 2), (2, -2), (3, 0)]
    expected = [(p * x + q * y) / max(p + q, 1e-12) for (p, q), (x, y) in zip(s, clamped)]
    ours = merged("pcb", base, [a, b], ratio=0.5)["w"]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    assert np.count_nonzero(ours) == 2


def test_a_model_that_changed_nothing_or_all_alike_has_no_say() -> None:
    base, tuned = base_and_tuned(5, 2)
    raised = {name: t + 0.25 for name, t in base.items()}
    both = merged("pcb", base, [*tuned, base], ratio=0.4)
    assert all(np.isfinite(t).all() for t in both.values())
    constant = merged("pcb", {"w": np.zeros(5)}, [{"w": np.full(5, 0.25)}])["w"]
    assert constant.tolist() == [0.0] * 5
    assert all(np.isfinite(t).all() for t in merged("pcb", base, [raised, base]).values())


def test_a_ratio_of_nothing_leaves_the_base() -> None:
    base, tuned = base_and_tuned(6, 3)
    assert_close(merged("pcb", base, tuned, ratio=0), base)


def test_many_models_overflow_nothing() -> None:
    """e^n alone would leave float32 with 89 models, float64 with 710."""
    tuned, low, high = (1.0,) * 1000, (0.0,) * 1000, (1.0,) * 1000
    assert score(0.0, tuned, 3.0, low, high, sum_of_changes, between_sums) == 1.0
    assert score(0.0, (0.0, *tuned[1:]), 0.0, low, high, sum_of_changes, between_sums) == 0.0
