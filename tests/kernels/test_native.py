"""Compiled functions called without their compiler: the same answers, from disk, and nothing else runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from weft.kernels import native as machine
from weft.kernels.native import Native, fields_are_where_numpy_declares_them, kind_of, native


@native
def weighed(values, by, power, out):
    """Everything that may be handed over: arrays of one and two dimensions, whole numbers and floats."""
    for i in range(len(values)):
        out[i] = values[i] * by[i % by.shape[0], power % by.shape[1]] + 0.5
    return len(values) + power


@native
def masked(bits, mask):
    own = bits.dtype.type(mask)
    for i in range(len(bits)):
        bits[i] &= own


def test_it_computes_what_python_does() -> None:
    values, by = np.arange(7.0), np.arange(6.0).reshape(2, 3)
    out, expected = np.empty(7), np.empty(7)
    assert weighed(values, by, 4, out) == weighed.dispatcher.py_func(values, by, 4, expected) == 11
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_one_function_serves_many_types(dtype: type) -> None:
    """Whole numbers are 64 bits, and those of the highest half are not cut off."""
    top = int(np.iinfo(dtype).max)
    bits = np.array([1, 3, top], dtype)
    masked(bits, top - 1)
    assert bits.tolist() == [0, 2, top - 1]


def test_an_array_that_is_not_in_order_is_refused() -> None:
    values, by = np.arange(7.0), np.arange(6.0).reshape(2, 3)
    with pytest.raises(TypeError, match=r"weighed: argument 2 has shape \(3, 2\) .*; it takes arrays in C order"):
        weighed(values, by.T, 0, np.empty(7))
    with pytest.raises(TypeError, match="argument 4"):
        weighed(values, by, 0, np.empty(14)[::2])


@pytest.mark.parametrize("shape", [(), (4, 1), (2, 2)])
def test_an_array_of_other_dimensions_is_refused(shape: tuple[int, ...]) -> None:
    """Also where the first call was with what it takes."""
    assert masked(np.zeros(4, np.uint16), 1) == 0
    with pytest.raises(TypeError, match=r"argument 1 has shape|cannot be handed over"):
        masked(np.zeros(shape, np.uint16), 1)


@pytest.mark.parametrize("dtype", [">f4", "float16", "bool", "M8[s]", "complex64", "V3", object])
def test_numbers_of_other_kinds_are_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match="cannot be handed over"):
        masked(np.zeros(4, dtype), 1)


def test_a_function_that_depends_on_what_is_around_it_is_refused() -> None:
    around = 7
    with pytest.raises(TypeError, match="depends on variables around it"):
        native(lambda values: around)


@native
def half(values):
    return 0.5


def test_only_whole_numbers_are_returned() -> None:
    with pytest.raises(TypeError, match="half returns float64"):
        half(np.zeros(1))


def test_the_largest_whole_numbers_come_through_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    high = (1 << 63) + 5
    for laid_out in (True, False):
        monkeypatch.setattr(machine, "fields_are_where_numpy_declares_them", lambda known=laid_out: known)
        again = native(masked.dispatcher.py_func)
        for mask in (5, high):
            bits = np.array([high | 2], np.uint64)
            again(bits, mask)
            assert bits.tolist() == [(high | 2) & mask]
        with pytest.raises(TypeError, match="argument 1"):
            again(np.zeros(8, np.uint64)[::2], 5)


def test_what_cannot_be_handed_over_is_named() -> None:
    with pytest.raises(TypeError, match="neither an array nor a number"):
        masked(np.zeros(1, np.uint16), np.uint16(1))
    with pytest.raises(TypeError, match="neither"):
        kind_of("w")


@native
def allocating(values):
    return int(np.zeros(len(values)).sum())


@native
def raising(values):
    if len(values) == 7:
        raise ValueError("seven")
    return 0


@native
def matching(values):
    values[:2] = values[2:]
    return 0


@pytest.mark.parametrize("function", [allocating, raising, matching])
def test_what_may_fail_works_and_is_not_kept(function: Native, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    again = native(function.dispatcher.py_func)
    assert again(np.zeros(4)) == 0
    assert not list(tmp_path.rglob("*.o"))
    if function is raising:
        with pytest.raises(ValueError, match="seven"):
            again(np.zeros(7))


PROGRAM = """
import sys
import numpy as np
from weft.kernels.folds import block_sums
print(block_sums(np.ones(5, np.float32)), "numba" in sys.modules)
"""

MERGES = """
import sys
import numpy as np
import weft
base, *models = ({"w": np.arange(k, 40000 + k, dtype=np.float32).reshape(100, 400)} for k in range(61))
for method in ("linear", "ties", "dare", "della", "breadcrumbs", "pcb", "model_stock", "median", "ram"):
    weft.merge(models[:2], base=base, method=method)
weft.merge(models, base=base, method="ties", trim="norm")
print("numba" in sys.modules)
"""

NUMBA_TOO = """
import numba
@numba.njit
def own(values):
    if len(values) == 7:
        raise ValueError("seven")
    return [values + 1, np.zeros(3)]
for _ in range(3):
    print(own(np.ones(2)))
    print(block_sums(np.ones(5, np.float32)))
try:
    own(np.ones(7))
except ValueError as error:
    print(error)
"""


def run(cache: Path, program: str = PROGRAM, **environment: str) -> str:
    own = {"WEFT_CACHE": str(cache), "PATH": "", **environment}
    done = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_second_process_does_without_the_compiler(tmp_path: Path) -> None:
    assert [run(tmp_path), run(tmp_path)] == ["[5.] True", "[5.] False"]


def test_no_merge_compiles_twice(tmp_path: Path) -> None:
    """Every loop and fold that these run is kept, that over more models than a loop reads itself too."""
    assert [run(tmp_path, MERGES), run(tmp_path, MERGES)] == ["True", "False"]


@pytest.mark.parametrize("first", [PROGRAM, "import numpy as np"])
def test_who_uses_numba_too_is_not_disturbed(tmp_path: Path, first: str) -> None:
    """Whoever comes first, and also where all of ours comes from disk."""
    run(tmp_path)
    ours = "from weft.kernels.folds import block_sums" if first != PROGRAM else ""
    told = run(tmp_path, first + NUMBA_TOO.replace("for _", f"{ours}\nfor _", 1)).splitlines()
    assert told[-7:] == ["[array([2., 2.]), array([0., 0., 0.])]", "[5.]"] * 3 + ["seven"]


def test_where_nothing_can_be_written_it_works(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    missing = str(tmp_path / "file" / "cache")
    assert run(Path(missing), TMPDIR=missing) == "[5.] True"


def test_how_many_threads_numba_has_is_nothing_to_machine_code(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, NUMBA_NUM_THREADS="1") == "[5.] False"


def test_another_processor_has_machine_code_of_its_own(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, NUMBA_CPU_NAME="generic") == "[5.] True"
    assert len(list(tmp_path.rglob("*.o"))) == 2


def test_the_text_of_a_function_is_part_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    for answer in (1, 2):
        space: dict[str, object] = {}
        exec(f"def told(values): return {answer}", space)
        assert Native("told", str(answer), lambda space=space: space["told"])(np.zeros(1)) == answer
    assert len(list(tmp_path.rglob("told.*.o"))) == 2


def test_where_arrays_are_laid_out_differently_numba_calls_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fields_are_where_numpy_declares_them()
    monkeypatch.setattr(machine, "fields_are_where_numpy_declares_them", lambda: False)
    again = native(masked.dispatcher.py_func)
    bits = np.array([1, 3], np.uint16)
    assert again(bits, 2) == 0
    assert bits.tolist() == [0, 2]
