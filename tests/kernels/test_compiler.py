"""Compiled loops do what the scalar function says, for any number of models, and are found again in the cache."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from weft.algorithms.registry import METHODS
from weft.algorithms.ties import ties
from weft.kernels.compiler import Input, Loop, _compiled, compiled, packed, source_of
from weft.kernels.dtypes import FLOAT32, FLOAT64


def loop_of(models: int, note=None) -> tuple[Loop, dict[str, object]]:
    """TIES as the engine would ask for it."""
    method = METHODS["ties"].resolved([f"m{i}" for i in range(models)], common={"density": 0.5})
    program = method.program()
    values = {**program.values, "threshold": (0.1,) * models}
    inputs = (Input("base", None, FLOAT64), *(Input("tuned", i, FLOAT64) for i in range(models)))
    shapes = tuple((name, len(v) if isinstance(v, tuple) else 0) for name, v in values.items())
    loop = Loop(ties, tuple(program.functions.items()), inputs, shapes, models, FLOAT64, FLOAT64, note)
    return loop, values


@pytest.mark.parametrize("models", [1, 2, 7, 20])
def test_machine_code_agrees_with_python(models: int) -> None:
    loop, values = loop_of(models)
    rng = np.random.default_rng(models)
    base, *tuned = rng.standard_normal((models + 1, 50)) * 0.2
    out = np.empty(50)
    compiled(loop)(out, 0, -1, packed(loop, values), base, *tuned)
    named = dict(loop.functions)
    for i in range(50):
        arguments = {k: values[k] for k in ("threshold", "center", "weight", "norm", "majority", "scale")}
        expected = ties(base[i], tuple(t[i] for t in tuned), last=False, **arguments, **named)
        assert out[i] == expected


@pytest.mark.parametrize("count", [255, 256, 600])
def test_inputs_beyond_those_that_a_loop_reads_itself_are_the_same_numbers(count: int) -> None:
    """With so many models some inputs are decoded first, in stretches."""
    loop, values = loop_of(60)
    few, few_values = loop_of(2)
    rng = np.random.default_rng(count)
    base, *tuned = rng.standard_normal((61, count)) * 0.2
    for changed in (0, 30, 38, 39, 59):  # all others are as the base is, and have no say
        models = [t if k == changed else base for k, t in enumerate(tuned)]
        out, expected = np.empty(count), np.empty(count)
        compiled(loop)(out, 0, -1, packed(loop, values), base, *models)
        compiled(few)(expected, 0, -1, packed(few, few_values), base, tuned[changed], base)
        np.testing.assert_array_equal(out, expected)


def test_single_precision_stays_single(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A literal or a length in double precision would double the cost and change the bits."""
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    loop, _ = loop_of(3)
    narrow = replace(
        loop, compute=FLOAT32, output=FLOAT32, inputs=tuple(replace(i, dtype=FLOAT32) for i in loop.inputs)
    )
    kernel = _compiled.__wrapped__(narrow)
    arrays = [np.ones(40, np.float32) for _ in narrow.inputs]
    kernel(np.empty(40, np.float32), 0, -1, np.ones(20, np.float32), *arrays)
    space = kernel.dispatcher.py_func.__globals__
    functions = [kernel.dispatcher, *(f for f in space.values() if hasattr(f, "overloads"))]
    ours = [o for f in functions if "codecs" not in f.py_func.__module__ for o in f.overloads.values()]
    typed = [pair for overload in ours for pair in overload.type_annotation.typemap.items()]
    wide = [name for name, t in typed if "float64" in str(t) and not name.startswith("$const")]
    assert len(ours) > 5
    assert wide == []


def test_an_argument_that_nothing_provides_is_named() -> None:
    loop, _ = loop_of(2)
    with pytest.raises(TypeError, match="asks for 'threshold', which nothing provides"):
        source_of(replace(loop, values=()))


def test_a_second_process_finds_the_machine_code(tmp_path: Path) -> None:
    """And the cache may be used by a process that never compiled."""
    program = "import numpy as np, weft\nprint(weft.merge([{'w': np.ones(3)}, {'w': np.zeros(3)}])['w'].tolist())\n"
    before: dict[str, int] = {}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"WEFT_CACHE": str(tmp_path), "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "[0.5, 0.5, 0.5]\n"
        machine_code = {p.name: p.stat().st_mtime_ns for p in tmp_path.rglob("*.o")}
        assert len(machine_code) == 2  # the loop, and what looks for numbers that are not finite
        assert machine_code == (before or machine_code)
        before = machine_code


def test_a_read_only_cache_is_no_obstacle(tmp_path: Path) -> None:
    """The folder cannot be made, since its parent is a file."""
    (tmp_path / "file").write_text("")
    program = "import numpy as np, weft; print(weft.merge([{'w': np.ones(1)}])['w'].tolist())"
    environment = {"WEFT_CACHE": str(tmp_path / "file" / "cache"), "PATH": "", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[1.0]\n"


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\x80\x04"])
def test_damaged_machine_code_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    program = "import numpy as np, weft; print(weft.merge([{'w': np.ones(1)}])['w'].tolist())"
    environment = {"WEFT_CACHE": str(tmp_path), "PATH": ""}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == "[1.0]\n"
        assert list(tmp_path.rglob("*.o"))
        for file in tmp_path.rglob("*.o"):
            file.write_bytes(damage)
