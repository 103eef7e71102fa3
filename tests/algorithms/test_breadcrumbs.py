"""Model Breadcrumbs: what the official code and mergekit compute, and the edges of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import weft
from tests.algorithms.sparse import assert_close, changed, models, same_bytes
from tests.golden_cases import Case, cases
from tests.references import breadcrumbs as reference
from tests.references import mergekit
from weft.errors import InputError

GOLDEN = cases("breadcrumbs")


@pytest.mark.parametrize("case", GOLDEN.values(), ids=lambda c: c.id)
def test_golden(case: Case) -> None:
    options = case.options
    given = {
        "density": options["top_k_keep_beta"],
        "gamma": options["top_k_remove_gamma"],
        "remove_first": options["remove_first"],
    }
    ours = weft.merge(case.models, base=case.base, method="breadcrumbs", scale=options["alpha"], **given)
    case.assert_close(ours, case.outputs("out"))
    for i, model in enumerate(case.models):
        alone = weft.merge([model], base=case.base, method="breadcrumbs", **given)
        masked = case.outputs(f"masked{i}")
        case.assert_close(alone, {name: case.base[name] + masked[name] for name in masked})


def test_golden_mergekit() -> None:
    """But for `b`, which the snapshot that made it zeroes because int(gamma n) = 0; 0.1.5 does not."""
    case = cases("mergekit")["mergekit/mk_breadcrumbs"]
    options = case.options
    given = {"density": options["density"], "gamma": options["gamma"], "scope": "tensor"}
    ours = weft.merge(
        case.models, base=case.base, method="breadcrumbs", weight=options["weights"], scale=options["lambda"], **given
    )
    theirs = case.outputs("out")
    assert (theirs.pop("b") == case.base["b"]).all()
    assert (ours.pop("b") != case.base["b"]).any()
    case.assert_close(ours, theirs)


@pytest.mark.parametrize("index", [2, 3])
def test_golden_mergekit_sparsify(index: int) -> None:
    case = cases("mergekit")["mergekit/mk_sparsify"]
    given = case.entry["parts"][index]["kwargs"]
    ours = changed({"x": case.output(f"in{index}")}, "breadcrumbs", scope="tensor", **given)
    case.assert_close(ours, {"x": case.output(f"out{index}")})


@pytest.mark.parametrize("remove_first", [True, False])
def test_against_the_reference(remove_first: bool) -> None:
    base, tuned = models(1, 4)
    density, gamma, weight = [0.15, 0.5, 0.9, 1.0], [0.006, 0.1, 0.3, 0.0], [1.0, -0.5, 2.0, 0.3]
    ours = weft.merge(
        tuned,
        base=base,
        method="breadcrumbs",
        density=density,
        gamma=gamma,
        weight=weight,
        scale=0.4,
        remove_first=remove_first,
    )
    given = {"keep": density, "remove": gamma, "weight": weight}
    assert_close(ours, reference.breadcrumbs(base, tuned, scale=0.4, remove_first=remove_first, **given))


@pytest.mark.parametrize(
    ("density", "gamma"), [(0.15, 0.006), (0.5, 0.2), (0.9, 0.3), (1.0, 0.5), (0.0, 0.1), (0.3, 1.0)]
)
def test_a_whole_tensor_against_the_reference(density: float, gamma: float) -> None:
    base, tuned = models(2, 1)
    ours = weft.merge(tuned, base=base, method="breadcrumbs", scope="tensor", density=density, gamma=gamma)
    kept = {n: mergekit.outliers_removed(tuned[0][n] - t, density, gamma) for n, t in base.items()}
    assert_close(ours, {name: base[name] + kept[name] for name in base})


def test_by_hand() -> None:
    """Ten entries, gamma 0.2 leaves out 10 and -9, density 0.3 keeps the next three."""
    delta = {"w": np.array([[10.0, 1, -9, 2, 8, -3, 7, 4, -6, 5]])}
    ours = changed(delta, "breadcrumbs", density=0.3, gamma=0.2)["w"]
    assert ours.tolist() == [[0, 0, 0, 0, 8, 0, 7, 0, -6, 0]]
    last = changed(delta, "breadcrumbs", density=0.3, gamma=0.2, remove_first=False)["w"]
    assert last.tolist() == [[0, 0, 0, 0, 8, 0, 0, 0, 0, 0]], "of 10, -9 and 8 the two largest go"


def test_counts_are_those_of_exact_shares() -> None:
    """int(100 * 0.29) is 28, which float32 would make 29."""
    kept = changed({"w": np.arange(1, 101, dtype=np.float32)}, "breadcrumbs", density=0.29, gamma=0.29)["w"]
    assert np.count_nonzero(kept) == 28
    assert kept.max() == 72


def test_rows_too_short_for_gamma_lose_none_of_their_largest() -> None:
    delta = {"w": np.array([[3.0, 1.0], [1.0, 2.0]]), "number": np.array(5.0), "one": np.array([[4.0]])}
    ours = changed(delta, "breadcrumbs", density=0.5, gamma=0.4)
    assert ours["w"].tolist() == [[3.0, 0.0], [0.0, 2.0]]
    assert ours["number"] == 5.0, "a tensor of no dimension is kept"
    assert ours["one"].tolist() == [[0.0]], "int(1 * 0.5) of one is none, as in the official code"


def test_of_equal_magnitudes_the_later_is_the_larger() -> None:
    delta = {"w": np.array([2.0, 2.0, 2.0, -2.0])}
    assert changed(delta, "breadcrumbs", density=0.5, gamma=0.25)["w"].tolist() == [0, 2, 2, 0]
    assert changed(delta, "breadcrumbs", density=0.5, gamma=0.25, scope="tensor")["w"].tolist() == [0, 0, 0, 0]


def test_before_ties() -> None:
    base, tuned = models(3, 3)
    masked = [{n: base[n] + reference.masked(m[n] - base[n], 0.4, 0.1) for n in base} for m in tuned]
    before = {"method": "breadcrumbs", "density": 0.4, "gamma": 0.1}
    ours = weft.merge(tuned, base=base, method="ties", before=before, density=0.3)
    assert_close(ours, weft.merge(masked, base=base, method="ties", density=0.3), rtol=1e-10)


def test_a_share_above_one_is_refused() -> None:
    base, tuned = models(4, 1)
    with pytest.raises(InputError, match=r"gamma is 2; it should be at most 1"):
        weft.merge(tuned, base=base, method="breadcrumbs", gamma=2)


@pytest.mark.parametrize("scope", ["row", "tensor"])
@pytest.mark.parametrize("shape", [(700, 130), (3, 70001), (5, 3, 400)], ids=str)
def test_the_same_bytes_for_any_tile_and_worker(scope: str, shape: tuple[int, ...], tmp_path: Any) -> None:
    base, tuned = models(5, 2, {"w": shape, "b": (70001,)})
    parts = {"method": "breadcrumbs", "base": base, "models": tuned, "parameters": {"scope": scope}}
    same_bytes(parts, weft.merge(tuned, base=base, method="breadcrumbs", scope=scope), tmp_path)
