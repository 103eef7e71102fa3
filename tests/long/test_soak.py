"""One minute of the soak, and whether the soak would see a mistake if there were one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import weft
from tests import reference
from tests.long import soak
from tests.long.bounded import DOUBLE, SINGLE, Bounded, World, exp, larger, select, smaller, tanh
from tests.long.branchless import BranchError, branchless
from tests.long.cases import Case, State, is_float
from tests.long.drawing import METHODS, SHARED, draw
from tests.long.figures import Scope, ranked, shared, total
from tests.long.jobs import Job, plan
from tests.long.judging import judged, scopes
from tests.long.parameters import Beside, Tastes, draw_numbers, draw_options, draw_own, draw_tensors
from tests.long.saving import read_safetensors
from tests.long.verdicts import rounded
from tests.references import catalogue, whole_matrices
from tests.references.draws import draws
from tests.references.sparsifiers import SPARSIFIERS
from weft.algorithms import elections
from weft.algorithms.chain import Chain
from weft.algorithms.elections import COMBINATIONS, ELECTIONS
from weft.algorithms.sparsifier import Sparsifier
from weft.algorithms.ties import Ties, ties
from weft.kernels import exponentials

INTERESTING = [0.0, -0.0, 1.0, -3.0, 0.1, 1 / 3, 65504.0, 1e-30, 2.0**-149, 2.0**-126, 3e38, -1e-45, 1e17]


@pytest.mark.slow
def test_a_minute_of_soaking(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status = soak.main(["--minutes", "1", "--keep", str(tmp_path)])
    with capfd.disabled():
        printed = capfd.readouterr().out.splitlines()
        print(f"\nsoak, {printed[0]}: {printed[-1]}")
    assert status == 0, "\n".join(printed)


# Would it see a mistake?


PARAMETERS = {"density": 0.3, "weight": [1.0, 0.7]}


def inputs(number: int) -> tuple[State, list[State]]:
    rng = np.random.default_rng(number)
    shapes = {"a.weight": (40, 30), "b.bias": (7,), "c.weight": (2, 3)}
    base = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    return base, [
        {n: (t + rng.standard_normal(t.shape) / 10).astype(np.float32) for n, t in base.items()} for _ in "ab"
    ]


def merged_in_memory(number: int) -> tuple[Scope, dict[Job, np.ndarray]]:
    """A scope of TIES, and what Weft makes of it."""
    base, tuned = inputs(number)
    (scope,) = scopes([job_of(name, base, tuned, PARAMETERS) for name in base])
    written = weft.merge(tuned, base=base, method="ties", **PARAMETERS)
    return scope, {job: written[job.name] for job in scope.jobs}


def job_of(name: str, base: State, tuned: list[State], parameters: Any) -> Job:
    method = Ties.resolved(["a", "b"], common=parameters)
    values = [t[name].astype(np.float64) for t in tuned]
    return Job(
        (name,), "float32", method, method.program(), SINGLE, base[name].astype(np.float64), tuple(values), {}, ()
    )


def test_what_is_right_is_found_right() -> None:
    assert not judged(*merged_in_memory(1)).faults


def test_an_element_off_by_a_few_units_in_the_last_place_is_seen() -> None:
    scope, written = merged_in_memory(1)
    job = scope.jobs[0]
    spoilt = written[job].copy()
    spoilt[3, 4] *= 1 + 2.0**-20
    (fault,) = judged(scope, written | {job: spoilt}).faults
    assert (fault.tensor, fault.index, fault.count, fault.who) == (job.name, (3, 4), 1, "Weft")
    assert fault.written == spoilt[3, 4]
    assert fault.low <= fault.expected <= fault.high


def test_nan_is_never_right() -> None:
    scope, written = merged_in_memory(2)
    spoilt = written[scope.jobs[1]].copy()
    spoilt[0] = np.nan
    assert [fault.index for fault in judged(scope, written | {scope.jobs[1]: spoilt}).faults] == [(0,)]


@pytest.mark.parametrize(
    "changes", [{"density": 0.301}, {"elect": "frequency"}, {"scope": "tensor"}, {"scale": 1.0001}, {"combine": "sum"}]
)
def test_a_slightly_different_merge_is_seen(changes: dict[str, Any]) -> None:
    scope, _ = merged_in_memory(3)
    base, tuned = inputs(3)
    other = weft.merge(tuned, base=base, method="ties", **{**PARAMETERS, **changes})
    assert judged(scope, {job: other[job.name] for job in scope.jobs}).faults


def test_a_reference_that_says_something_else_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    scope, written = merged_in_memory(4)
    monkeypatch.setattr(reference, "fill_zero_signs", lambda sign: np.where(sign == 0, 1.0, sign))
    monkeypatch.setattr(reference, "divide", lambda top, bottom: top / np.where(bottom == 0, 1.0, bottom + 1e-6))
    assert {fault.who for fault in judged(scope, written).faults} == {"reference against formula"}


def test_between_two_right_answers_nothing_is_right() -> None:
    """Two models vote with weights that cancel but for rounding: the sign may go either way, and nowhere between."""
    base, tuned = {"w": np.zeros(2, np.float32)}, [{"w": np.full(2, x, np.float32)} for x in (0.3, -0.1)]
    parameters = {"density": 1.0, "weight": [1.0, 3.0000000000000004], "combine": "max"}
    scope = scopes([job_of("w", base, tuned, parameters)])[0]
    heights = [abs(float(np.float32(x)) * w) for x, w in ((0.3, 1.0), (0.1, 3.0))]

    assert is_right(scope, np.full(2, heights[0], np.float32))
    assert is_right(scope, np.full(2, -heights[1], np.float32))
    assert not is_right(scope, np.full(2, 0.1, np.float32))


def test_a_case_that_fails_is_told_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.long import checking

    def spoilt(parts: Any, place: Path, **options: Any) -> None:
        merge_to(parts, place, **options)
        files = [place] if place.is_file() else place.glob("*.safetensors")
        for file in (f for f in files if any(t.size for t in read_safetensors(f).values())):
            data = bytearray(file.read_bytes())
            data[-1] ^= 0x10
            file.write_bytes(data)

    merge_to = weft.merge_to
    monkeypatch.setattr(weft, "merge_to", spoilt, raising=False)
    monkeypatch.setattr(checking, "_same_in_memory", lambda *_: None)
    number = next(k for k in range(0, 1000, SHARED) if is_plain(draw(5, k)))
    assert soak.main(["--seed", "5", "--case", str(number), "--keep", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert f"FAILED --seed 5 --case {number}" in printed
    assert re.search(r"Weft: tensor '.*' at \[.*\] \(1 elements in all\): written .*, reference ", printed)
    assert next(tmp_path.glob(f"soak-5-{number}-*/case.json")).exists()


def is_plain(case: Case) -> bool:
    """Whether nothing is tied, passed through or dropped, there is something to merge, and rounding changes little."""
    tensors = case.reference.tensors.values()
    bare = not (case.reference.tied or case.rules or case.before or case.after)
    return bare and case.method in SMOOTH and all(map(is_float, tensors)) and any(t.size for t in tensors)


SMOOTH = ("linear", "task_arithmetic", "median", "passthrough", "nearswap", "ram", "fisher")


def test_a_method_without_a_reference_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = next(k for k in range(0, 1000, SHARED) if draw(6, k).method == "median" and merges(6, k))
    monkeypatch.delitem(catalogue.REFERENCES, "median")  # type: ignore[arg-type]
    assert soak.main(["--seed", "6", "--case", str(number), "--keep", str(tmp_path)]) == 1
    assert "error: method median has no reference in tests/references" in capsys.readouterr().out


def merges(seed: int, number: int) -> bool:
    return any(isinstance(item, Job) and item.method.name == "median" for item in plan(draw(seed, number)))


def single(method: str, dtype: str = "float32", **parameters: Any) -> tuple[Scope, Any]:
    """A matrix as the soak sees it, and what Weft makes of it."""
    rng = np.random.default_rng(12)
    base = {"layers.0.w": rng.standard_normal((24, 17)).astype(dtype)}
    tuned = [{n: (t + rng.standard_normal(t.shape) / 10).astype(dtype) for n, t in base.items()} for _ in "ab"]
    chain = Chain(weft.method(method).resolved(["a", "b"], common=parameters))
    values = [t["layers.0.w"].astype(np.float64) for t in tuned]
    precision = SINGLE if dtype == "float32" else DOUBLE
    origin = base["layers.0.w"].astype(np.float64)
    names = ("layers.0.w",)
    job = Job(names, dtype, chain.method, chain.program(), precision, origin, tuple(values), {}, ())
    return Scope([job]), weft.merge(tuned, base=base, method=method, **parameters)["layers.0.w"]


def is_right(scope: Scope, written: Any) -> bool:
    return not judged(scope, {scope.jobs[0]: written}).faults


WHOLE = ["tsv", "iso_c", "iso_cts", "wudi", "svc"]
OTHERS = ["dare", "della", "breadcrumbs", "dppa", "apl", "model_stock", "slerp", "karcher", "pcb", "sce", "ram+"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", [*WHOLE, *OTHERS])
def test_an_error_of_one_element_of_any_method_is_seen(method: str, dtype: str) -> None:
    scope, written = single(method, dtype)
    assert is_right(scope, written)
    spoilt = written.copy()
    spoilt[3, 4] += 0.05
    assert not is_right(scope, spoilt)


@pytest.mark.parametrize(
    ("method", "ours", "theirs"),
    [
        ("dare", {"seed": 1}, {"seed": 2}),
        ("della", {"epsilon": 0.1}, {"epsilon": 0.11}),
        ("breadcrumbs", {"density": 0.5}, {"density": 0.55}),
        ("dppa", {"sparse": 0.9}, {"sparse": 0.85}),
        ("apl", {"drop": 0.5}, {"drop": 0.51}),
        ("tsv", {"scale": 1.0}, {"scale": 1.001}),
        ("iso_cts", {"fraction": 0.8}, {"fraction": 0.6}),
        ("wudi", {"iterations": 20, "rate": 1e-3}, {"iterations": 21, "rate": 1e-3}),
        ("svc", {"alpha": 0.3}, {"alpha": 0.301}),
        ("model_stock", {"average": "cosine", "scope": "row"}, {"clamp": True, "scope": "row"}),
    ],
)
def test_other_parameters_of_any_method_are_seen(method: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    scope, written = single(method, **ours)
    assert is_right(scope, written)
    assert not is_right(scope, single(method, **theirs)[1])


def test_the_draws_of_the_reference_are_uniform() -> None:
    """So that a merge that agrees with them keeps as much as it should: within five deviations of the binomial."""
    for share in (0.1, 0.5, 0.99):
        kept = np.count_nonzero(draws(3, 1, "w", (500, 400)) < share)
        assert abs(kept - 200_000 * share) < 5 * np.sqrt(200_000 * share * (1 - share))


# Is everything drawn?


def test_every_method_and_every_option_is_drawn() -> None:
    beside = Beside({"a.weight": (3, 5), "b": (7,)}, {})
    for method in METHODS:
        kind, drawn = weft.method(method), []
        for number in range(80):
            tastes = Tastes(np.random.default_rng([number, 1]), np.random.default_rng([number, 2]))
            drawn.append(draw_options(kind, tastes.options) | draw_own(kind, tastes.numbers))
            drawn[-1] |= draw_numbers(kind, ["a", "b"], tastes.numbers, 0.6)
            drawn[-1] |= draw_tensors(kind, beside, 2, tastes, 0.9)
        for name, schema in kind.model_json_schema()["properties"].items():
            found = [parameters[name] for parameters in drawn if name in parameters]
            assert found, f"{method}: {name} is never drawn"
            assert set(schema.get("enum", ())) <= set(map(str, found)), f"{method}: {name}"


def test_cases_are_of_every_kind() -> None:
    cases = [draw(7, number) for number in range(0, 60 * SHARED, SHARED)]
    assert len({case.method for case in cases}) > 15
    assert {case.before["method"] for case in cases if case.before} <= set(METHODS)
    assert any(case.before for case in cases)
    assert any(case.after for case in cases)


def test_every_method_has_a_reference() -> None:
    whole = {*whole_matrices.CHANGES, "regmean", "mats", "arcee_fusion", "svc"}
    assert set(METHODS) <= {*catalogue.REFERENCES, *whole}
    assert {n for n in METHODS if issubclass(weft.method(n), Sparsifier)} == {*SPARSIFIERS, "apl"}


def test_a_case_is_the_same_every_time() -> None:
    one, other = draw(8, 3), draw(8, 3)
    assert repr(one.parameters) == repr(other.parameters)
    assert one.rules == other.rules
    for a, b in zip(one.all, other.all, strict=True):
        assert {n: t.tobytes() for n, t in a.tensors.items()} == {n: t.tobytes() for n, t in b.tensors.items()}


# Do the bounds hold?

numbers = st.one_of(
    st.sampled_from(INTERESTING), st.floats(-100, 100, width=32), st.floats(-(2.0**100), 2.0**100, width=32)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(numbers, min_size=4, max_size=4), st.lists(st.integers(0, 8), min_size=1, max_size=8))
def test_float32_never_leaves_the_bound(start: list[float], steps: list[int]) -> None:
    """Any chain of operations, in float32 by numpy and in `Bounded` numbers."""
    world = World(SINGLE)
    exact: list[Any] = [world.number(x) for x in start]
    single: list[Any] = [np.float32(x) for x in start]
    for k, step in enumerate(steps):
        with np.errstate(all="ignore"):
            exact[k % 4] = operation(step, exact[k % 4], exact[(k + 1) % 4])
            single[k % 4] = operation(step, single[k % 4], single[(k + 1) % 4])
        within(exact[k % 4], single[k % 4])


@settings(deadline=None)
@given(st.floats(-30, 30, width=32))
def test_exponentials_of_the_merge_never_leave_the_bound(x: float) -> None:
    """Both formats, by Weft's own compiled functions."""
    for compiled, bound in ((exponentials.exp_float32, exp), (exponentials.tanh_float32, tanh)):
        within(bound(World(SINGLE).number(x)), np.float32(compiled(np.float32(x))))
    for compiled, bound in ((exponentials.exp_float64, exp), (exponentials.tanh_float64, tanh)):
        within(bound(World(DOUBLE).number(x)), compiled(x))


def operation(step: int, a: Any, b: Any) -> Any:
    if step < 5:
        return [lambda: a + b, lambda: a - b, lambda: a * b, lambda: a / b, lambda: abs(a)][step]()
    if isinstance(a, Bounded):
        return {5: larger, 6: smaller}.get(step, lambda x, y: select(x > y, x, y))(a, b)
    return {5: np.maximum, 6: np.minimum}.get(step, lambda x, y: x if x > y else y)(a, b)


def within(exact: Bounded, single: np.float32) -> None:
    if np.isfinite(exact.error):
        assert abs(float(single) - float(exact.value)) <= float(exact.error) * (1 + 1e-9)


def test_exact_operations_have_no_error() -> None:
    x = World(SINGLE).number(np.array([0.5, 3.0, -1.25]))
    assert not (x + x * 4.0 - 2.0).error.any()
    assert ((x * 4.0) == x * 2.0 + x * 2.0).value.all()
    assert not ((x * 4.0) == x * 2.0 + x * 2.0).unsure.any()


@pytest.mark.parametrize("elect", ELECTIONS)
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_the_branchless_formula_is_the_formula(elect: str, combine: str) -> None:
    """Over arrays of exact numbers it gives what the scalar function gives one by one, in Python."""
    rng = np.random.default_rng(9)
    base, *tuned = rng.integers(-8, 9, (5, 200)) / 4
    steps = Ties.resolved(list("abcd"), common={"elect": elect, "combine": combine}).program().functions
    figures = {
        "threshold": (0.5,) * 4,
        "center": (0.0,) * 4,
        "weight": (1.0, 0.5, -2.0, 0.0),
        "norm": (1.0, 2.0, 4.0, 8.0),
    }
    rest = {"majority": -1.0, "scale": 0.5}
    world = World(DOUBLE)
    lifted = {name: tuple(map(world.number, values)) for name, values in figures.items()}
    ours = branchless(ties)(
        world.number(base), tuple(map(world.number, tuned)), last=False, **lifted,
        **{name: world.number(x) for name, x in rest.items()}, **{n: branchless(f) for n, f in steps.items()},
    )  # fmt: skip
    theirs = [ties(b, row, last=False, **figures, **rest, **steps) for b, *row in zip(base, *tuned, strict=True)]
    np.testing.assert_allclose(ours.value, theirs, rtol=1e-15)
    assert not ours.forked.any() or elect.startswith("norm")  # whose quotients may tie but for rounding


def test_a_formula_that_cannot_be_written_so_is_refused() -> None:
    with pytest.raises(BranchError, match="a way out of an if"):
        branchless(early)


def early(x: float) -> float:
    if x > 0.0:
        return 1.0
    return elections.sign_of(x)


@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=30), st.data())
def test_order_statistics_of_exact_numbers_are_exact(numbers: list[float], data: st.DataObject) -> None:
    values, nothing = np.array(numbers), np.zeros(len(numbers))
    rank = data.draw(st.integers(1, len(numbers)))
    assert (ranked(values, nothing, rank).value, ranked(values, nothing, rank).error) == (sorted(numbers)[rank - 1], 0)
    assert total(np.round(values), nothing)[0] == total(np.round(values), nothing)[2] == sum(map(round, numbers))


def test_a_share_is_told_with_the_doubt_of_float64() -> None:
    values = np.array([3.0, 4.0, 0.0, 12.0])
    for share, expected in ((0.5, 12.0), (144 / 169 + 1e-9, 4.0), (1.0, 3.0), (0.0, 12.0)):
        figure = shared(values, np.zeros(4), share, SINGLE)
        assert (figure.value, figure.error) == (expected, 0.0), share
    assert shared(values, np.zeros(4), 144 / 169, SINGLE).error == 8.0  # exactly there, float64 cannot tell


def test_rounding_to_bfloat16_happens_once() -> None:
    middle = 1 + 2.0**-8
    assert rounded(np.array([middle, middle + 2.0**-50, middle - 2.0**-50]), "bfloat16").tolist() == [1, 1 + 2**-7, 1]
