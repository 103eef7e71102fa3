"""Methods on the singular vectors of task matrices: the official code, the independent reference, cases by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import weft
from tests.drawing import StateDict, base_and_tuned
from tests.golden_cases import Case, cases
from tests.references import spectral, svc, wudi

TSV, ISO, WUDI, SVC = cases("tsv"), cases("iso"), cases("wudi"), cases("svc")
MERGED = [case for case in TSV.values() if "tsvm" in case.id]


class Listener(weft.Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def warning(self, text: str) -> None:
        self.heard.append(text)


def official(case: Case) -> StateDict:
    """What the official code made of the base."""
    groups = case.groups()
    if "out" in groups:
        return groups["out"]
    return {name: case.base[name] + delta for name, delta in groups["delta"].items()}


def test_every_case_is_here() -> None:
    assert (len(MERGED), len(ISO), len(WUDI), len(SVC)) == (4, 3, 1, 1)


@pytest.mark.parametrize("orthogonalise", ["svd", "eigen"])
@pytest.mark.parametrize("case", MERGED, ids=lambda c: c.id)
def test_tsv(case: Case, orthogonalise: str) -> None:
    merged = weft.merge(case.models, base=case.base, method="tsv", orthogonalise=orthogonalise)
    theirs = official(case)
    if "tiny.weight" in theirs:
        # The official code leaves a matrix with fewer rows than tasks unchanged without a word; ours averages it.
        assert np.array_equal(theirs.pop("tiny.weight"), case.base["tiny.weight"])
        mean = np.mean([model["tiny.weight"] for model in case.models], axis=0)
        np.testing.assert_allclose(merged.pop("tiny.weight"), mean, rtol=1e-5, atol=1e-6)
    case.assert_close(merged, theirs)


@pytest.mark.parametrize("case", ISO.values(), ids=lambda c: c.id)
def test_iso(case: Case) -> None:
    method = "iso_cts" if "iso_cts" in case.id else "iso_c"
    options = {"fraction": case.options["common_space_fraction"]} if method == "iso_cts" else {}
    merged = weft.merge(case.models, base=case.base, method=method, scale=case.options["alpha"], **options)
    case.assert_close(merged, official(case))


@pytest.mark.parametrize("case", WUDI.values(), ids=lambda c: c.id)
def test_wudi(case: Case) -> None:
    merged = weft.merge(case.models, base=case.base, method="wudi", iterations=case.options["iter_num"])
    case.assert_close(merged, official(case))


@pytest.mark.parametrize("case", SVC.values(), ids=lambda c: c.id)
def test_svc(case: Case) -> None:
    """After task arithmetic, and alone."""
    after = {"method": "svc", "alpha": case.options["alpha"]}
    scale = case.options["task_arithmetic_scaling"]
    merged = weft.merge(case.models, base=case.base, method="task_arithmetic", scale=scale, after=after)
    theirs = case.outputs("out")
    before = case.inputs("merged")
    case.assert_close(merged, {name: theirs.get(name, before[name]) for name in before})
    alone = weft.merge(case.models, base=case.base, method="svc", scale=scale, alpha=case.options["alpha"])
    assert all(np.array_equal(alone[name], merged[name]) for name in merged)


def assert_close(ours: StateDict, theirs: StateDict, rtol: float = 1e-9) -> None:
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name].astype(np.float64), expected, rtol=rtol, atol=rtol / 100, err_msg=name)


def drawn(seed: int, models: int) -> tuple[StateDict, list[StateDict]]:
    """Without tensors that hold nothing, and without matrices that have fewer rows than there are models."""
    base, tuned = base_and_tuned(seed, models)
    kept = {name for name, t in base.items() if t.size and (t.ndim != 2 or min(t.shape) >= models)}
    return {n: base[n] for n in kept}, [{n: t[n] for n in kept} for t in tuned]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("models", [1, 2, 3, 5])
def test_against_the_reference(seed: int, models: int) -> None:
    base, tuned = drawn(seed, models)
    ours = weft.merge(tuned, base=base, method="tsv", scale=0.7)
    assert_close(ours, spectral.tsv(base, tuned, scale=0.7))
    ours = weft.merge(tuned, base=base, method="tsv", orthogonalise="eigen")
    assert_close(ours, spectral.tsv(base, tuned, decorrelate="eigen"), rtol=1e-6)
    assert_close(weft.merge(tuned, base=base, method="iso_c", scale=1.3), spectral.iso_c(base, tuned, scale=1.3))
    ours = weft.merge(tuned, base=base, method="wudi", iterations=20, rate=1e-3)
    assert_close(ours, wudi.wudi(base, tuned, steps=20, rate=1e-3))


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("models", [1, 2, 5])
def test_iso_cts_against_the_reference(models: int, fraction: float) -> None:
    base, tuned = drawn(9, models)
    ours = weft.merge(tuned, base=base, method="iso_cts", fraction=fraction)
    assert_close(ours, spectral.iso_cts(base, tuned, fraction=fraction))


@pytest.mark.parametrize("method", ["linear", "ties", "task_arithmetic", "tsv"])
def test_svc_against_the_reference(method: str) -> None:
    base, tuned = drawn(3, 3)
    merged = weft.merge(tuned, base=base, method=method)
    ours = weft.merge(tuned, base=base, method=method, after={"method": "svc", "alpha": 0.3})
    assert_close(ours, svc.svc(base, tuned, merged, least=0.3), rtol=1e-8)
    assert any(not np.allclose(ours[name], merged[name]) for name in base)


def test_weights_multiply_task_vectors_and_zero_is_no_task() -> None:
    base, tuned = drawn(5, 3)
    ours = weft.merge(tuned, base=base, method="tsv", weight=[2, 0, 0.5])
    assert_close(ours, spectral.tsv(base, [tuned[0], tuned[2]], weight=[2, 0.5]))


@pytest.mark.parametrize("method", ["tsv", "iso_c", "iso_cts"])
def test_text_projections_are_averaged(method: str) -> None:
    base, tuned = drawn(5, 3)
    named = [{f"text_projection.{n}": t for n, t in state.items()} for state in (base, *tuned)]
    merged = weft.merge(named[1:], base=named[0], method=method, scale=0.5)
    exact = weft.merge(named[1:], base=named[0], method="task_arithmetic", scale=0.5 / 3)
    assert_close(merged, exact)
    other = weft.merge(named[1:], base=named[0], method=method, scale=0.5, exclude=[])
    assert not np.allclose(other["text_projection.layers.2.w"], exact["text_projection.layers.2.w"])


def diagonal(*values: float) -> StateDict:
    return {"w": np.diag(np.array(values, np.float64))}


def test_tsv_by_hand() -> None:
    """Two tasks on 4 x 4 keep two directions each. They are axes, shared by nobody, so nothing has to be turned.

    Task a moves 4 and 3 (and 1, which is too weak) along axes 0, 1, 2; task b moves 2 and 5 along axes 2 and 3.
    """
    a, b = diagonal(4, 3, 1, 0), diagonal(0, 0, 2, 5)
    merged = weft.merge([a, b], base=diagonal(0, 0, 0, 0), method="tsv")["w"]
    np.testing.assert_allclose(merged, np.diag([4.0, 3.0, 2.0, 5.0]), atol=1e-12)


def test_tsv_of_the_same_direction() -> None:
    """Both tasks move along one axis, by 4 and 2: U = [e e], whose polar factor is [e e] / sqrt 2; so (4 + 2) / 2."""
    merged = weft.merge([diagonal(4, 0), diagonal(2, 0)], base=diagonal(0, 0), method="tsv")["w"]
    np.testing.assert_allclose(merged, np.diag([3.0, 0.0]), atol=1e-12)


def test_iso_by_hand() -> None:
    """The sum is diag(6, 2, 1): the mean is 3. With 2/3 common: axes 0 and 1; each task one of its own, or none."""
    tasks = [diagonal(6, 0, 0), diagonal(0, 2, 0), diagonal(0, 0, 1)]
    base = diagonal(0, 0, 0)
    np.testing.assert_allclose(weft.merge(tasks, base=base, method="iso_c")["w"], np.diag([3.0] * 3), atol=1e-12)
    merged = weft.merge(tasks, base=base, method="iso_cts", fraction=1.0)["w"]
    np.testing.assert_allclose(merged, np.diag([3.0] * 3), atol=1e-12)


def test_svc_by_hand() -> None:
    """Sum diag(4, 4) of diag(4, 0), diag(0, 1), diag(0, 3). Axis 0: s = 1, 0, 0, of which 0.5 at least: 3 / 2 times 4.

    Axis 1: s = 0 -> 0.5, 4 / 1 = 4, 4 / 3: 3 / (35 / 6) times 4.
    """
    tasks = [diagonal(4, 0), diagonal(0, 1), diagonal(0, 3)]
    merged = weft.merge(tasks, base=diagonal(0, 0), method="svc", alpha=0.5)["w"]
    np.testing.assert_allclose(merged, np.diag([6.0, 4 * 3 / (0.5 + 4 + 4 / 3)]), atol=1e-12)


def test_wudi_by_hand() -> None:
    """One step of Adam moves every entry that has a gradient by the rate, against its sign.

    The tasks 2 and 1 on one number: X = 3, the gradient is 2 (3 - 2) + 2 (3 - 1) > 0.
    """
    one = {"w": np.array([[2.0]])}, {"w": np.array([[1.0]])}
    merged = weft.merge(list(one), base={"w": np.array([[0.0]])}, method="wudi", iterations=1, rate=0.5)["w"]
    np.testing.assert_allclose(merged, [[2.5]], rtol=1e-8)


def test_wudi_lets_a_task_that_did_not_move_count_nothing() -> None:
    base, tuned = drawn(5, 2)
    alone = weft.merge(tuned[:1], base=base, method="wudi", iterations=5, rate=1e-2)
    beside = weft.merge([*tuned[:1], base], base=base, method="wudi", iterations=5, rate=1e-2)
    for name in base:
        factor = 1 if base[name].ndim == 2 else 0.5
        np.testing.assert_allclose(beside[name] - base[name], factor * (alone[name] - base[name]), atol=1e-12)


@pytest.mark.parametrize("method", ["tsv", "iso_c", "iso_cts", "svc"])
def test_a_low_rank_change_stays_where_it_is(method: str) -> None:
    """LoRA: what a decomposition returns for directions in which nothing moves does not reach the result."""
    rng = np.random.default_rng(0)
    base = {"w": rng.standard_normal((40, 30)).astype(np.float32)}
    left, right = rng.standard_normal((40, 2)), rng.standard_normal((2, 30))
    tuned = [{"w": (base["w"] + left @ np.diag([1, i]) @ right).astype(np.float32)} for i in (1, 2, 3)]
    moved = weft.merge(tuned, base=base, method=method)["w"].astype(np.float64) - base["w"]
    outside = moved - left @ np.linalg.pinv(left) @ moved
    assert np.linalg.norm(outside) < 2e-5 * np.linalg.norm(moved)


def test_directions_in_which_nothing_moves_are_told() -> None:
    listener = Listener()
    weft.merge([diagonal(4, 0), diagonal(2, 0)], base=diagonal(0, 0), method="iso_c", progress=listener)
    assert listener.heard == ["1 matrices have directions in which no task vector moves; those stay where they are"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3, 3), (2, 400), (400, 2), (60, 1)])
@pytest.mark.parametrize("method", ["tsv", "iso_c", "iso_cts", "wudi", "svc"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_awkward_matrices(method: str, shape: tuple[int, int], dtype: str) -> None:
    """One row, one column, zero changes of one or of all: finite, and zero changes give the base."""
    rng = np.random.default_rng(1)
    base = {"w": rng.standard_normal(shape).astype(dtype)}
    tuned = [{"w": (base["w"] + 0.1 * rng.standard_normal(shape)).astype(dtype)} for _ in range(2)]
    options: dict[str, Any] = {"base": base, "method": method}
    assert np.isfinite(weft.merge([*tuned, base], **options)["w"]).all()
    assert np.array_equal(weft.merge([base, base], **options)["w"], base["w"])


def test_a_task_without_weight_for_anybody_is_refused() -> None:
    with pytest.raises(weft.InputError, match="all weights are 0, so there is no task"):
        weft.merge([diagonal(1)], base=diagonal(0), method="tsv", weight=0)


@pytest.mark.parametrize(
    ("after", "problem"),
    [
        ("tsv", "after: tsv merges models"),
        ("scv", "after: there is no correction 'scv'"),
        ({"method": "svc", "weight": 2}, "after: svc has no parameter 'weight'"),
        ({"method": "svc", "alpha": 0}, "method svc: alpha is 0"),
    ],
)
def test_what_cannot_come_after(after: Any, problem: str) -> None:
    with pytest.raises(weft.InputError, match=problem):
        weft.merge([diagonal(1)], base=diagonal(0), method="linear", after=after)


def test_two_corrections_are_one_too_many() -> None:
    with pytest.raises(weft.InputError, match="after: svc comes after svc, which corrects the merged tensors itself"):
        weft.merge([diagonal(1)], base=diagonal(0), method="svc", after="svc")


def test_a_correction_needs_a_base() -> None:
    with pytest.raises(weft.InputError, match="needs a base model"):
        weft.merge([diagonal(1)], method="linear", after="svc")


def test_a_sparsifier_may_come_before() -> None:
    """DARE that drops nothing of the task vectors but multiplies by a mask: the same as merging the masked models."""
    base, tuned = drawn(7, 3)
    rng = np.random.default_rng(2)
    masks = [{n: (rng.random(t.shape) < 0.5).astype(np.float64) for n, t in base.items()} for _ in tuned]
    masked = [{n: base[n] + m[n] * (t[n] - base[n]) for n in base} for t, m in zip(tuned, masks)]
    before = {"method": "dare", "mask": masks, "rescale": False}
    ours = weft.merge(tuned, base=base, method="tsv", before=before)
    assert_close(ours, spectral.tsv(base, masked), rtol=1e-7)
