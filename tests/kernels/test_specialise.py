"""Scalar functions keep their meaning when their loops are written out."""

from __future__ import annotations

import pytest

from weft.kernels.element import ElementError, element
from weft.kernels.specialise import constants, dependencies, specialised

HALF = 0.5


@element
def halved(x):
    return HALF * x


@element
def example(base, tuned, weight):
    """All forms a loop over models may take."""
    total = 0.0
    for i in range(len(tuned)):
        total += weight[i] * tuned[i]
    for k, theta in enumerate(tuned):
        total += theta * weight[k]
    doubled = tuple(2.0 * (theta - base) for theta in tuned)
    for delta, w in zip(doubled, weight):
        for other in tuned:
            total += delta * w * halved(other)
    return total / len(tuned)


@element
def breaks(tuned):
    for theta in tuned:
        if theta > 0.0:
            break
    return theta


@element
def prints(tuned):
    return print(tuned)


def run(source: str, name: str, **globals_: object):
    namespace: dict[str, object] = {"real": float, **globals_}
    exec(source, namespace)
    return namespace[name]


def test_the_written_out_function_is_the_same_function() -> None:
    tuned, weight = (1.5, -2.0, 0.25), (0.5, 1.0, 3.0)
    written = run(specialised(example, 3), "example", halved=halved)
    assert written(0.5, tuned, weight) == example(0.5, tuned, weight)


def test_no_loop_is_left_and_literals_have_the_precision_of_the_merge() -> None:
    source = specialised(example, 2)
    assert "for " not in source
    assert "total = real(0.0)" in source
    assert "/ real(2.0)" in source


def test_what_it_needs_is_found() -> None:
    assert dependencies(example) == [halved]
    assert constants(halved) == {"HALF": 0.5}


def test_a_loop_that_cannot_be_written_out_is_refused() -> None:
    with pytest.raises(SyntaxError, match="no break, continue or else"):
        specialised(breaks, 2)


def test_a_name_that_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(TypeError, match="prints uses 'print', which cannot be compiled"):
        constants(prints)


@element
def counts_to_two(tuned):
    total = 0.0
    for i in range(2):
        total += tuned[i]
    return total


@element
def begins_at_one(tuned):
    total = 0.0
    for i in range(1, len(tuned)):
        total += tuned[i]
    return total


@element
def assigns(tuned):
    total = 0.0
    for theta in tuned:
        theta = 2.0 * theta
        total += theta
    return total


@pytest.mark.parametrize("function", [counts_to_two, begins_at_one, assigns])
def test_what_would_be_compiled_wrongly_is_refused(function) -> None:
    with pytest.raises(SyntaxError):
        specialised(function, 3)


@element
def halves(tuned):
    total = tuned[0]
    while total > 1.0:
        total = 0.5 * total
    return total


@element
def halves_inside(tuned):
    total = 0.0
    for theta in tuned:
        if theta > 0.0:
            while total > 1.0:
                total -= 1.0
    return total


@element
def collects(tuned):
    return [theta for theta in tuned][0]  # noqa: C416, RUF015


@element
def generates(tuned):
    return max(abs(theta) for theta in tuned)


@pytest.mark.parametrize(
    ("function", "line", "loop"),
    [
        (halves, 3, "while total > 1.0:"),
        (halves_inside, 5, "while total > 1.0:"),
        (collects, 2, "[theta for theta in tuned]"),
        (generates, 2, "(abs(theta) for theta in tuned)"),
    ],
)
def test_other_loops_than_over_models_are_refused(function, line: int, loop: str) -> None:
    with pytest.raises(SyntaxError) as error:
        specialised(function, 2)
    assert (
        error.value.msg
        == f"`{loop}` is a loop that cannot be compiled: only `for` and `tuple(...)` over the models can"
    )
    assert error.value.filename == __file__
    assert error.value.lineno == function.__code__.co_firstlineno + line


def test_what_is_no_definition_is_refused() -> None:
    with pytest.raises(ElementError, match="is not a function definition: write it with `def`"):
        specialised(lambda tuned: tuned[0], 2)


def test_a_refusal_says_where() -> None:
    with pytest.raises(ElementError) as error:
        constants(prints)
    assert error.value.place == f"test_specialise.py, line {prints.__code__.co_firstlineno + 2}"
