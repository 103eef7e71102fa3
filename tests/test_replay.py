"""Bits do not change by accident: the hashes of merges of every method, in every number format, are on record.

After a change of bits that is meant: `make replay` writes the record anew, and the changelog says why.

The record holds on every machine, because nothing that it depends on is left to the machine:

* Kernels use +, -, *, / and comparisons, which IEEE 754 rounds the one right way, and conversions, which are exact or
  rounded to nearest even. numba is asked for no `fastmath`, so LLVM may neither contract a product and a sum into one
  fused operation nor reorder a sum: `test_no_kernel_is_contracted` looks at the machine code, and
  `test_the_record_holds_on_a_processor_without_extensions` runs it without FMA and AVX.
* Sums are over canonical blocks of 16384, in a fixed order inside a block (`kernels/folds.py`); the blocks' sums are
  added exactly (`math.fsum`). Ranks are integers. `sqrt` is rounded the one right way too.
* The inputs are made with integers (`tests.long.variants.chance`), by no library's generator.

No method on record uses a logarithm, an exponential or a power, which C libraries round differently; one that does
belongs into `MACHINE_DEPENDENT`, with the reason. Whole-matrix methods, which call BLAS, belong there too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weft
from tests.long.saving import given
from tests.long.variants import SIZES, VARIANTS, as_many, chance, checkpoints, parameters
from weft.algorithms.linear import weighted_average
from weft.kernels.compiler import Input, Loop, compiled
from weft.kernels.dtypes import BFLOAT16, FLOAT32, FLOAT64
from weft.kernels.folds import sum_blocks

RECORD = Path(__file__).parent / "golden" / "replay.json"
ROOT = Path(__file__).parents[1]
DTYPES = ("float32", "bfloat16", "float16", "float64", "mixed", "float8_e4m3fn")
FEW = ("float32", "bfloat16")
"""For variants beside the defaults: each costs a compilation."""

_MATRICES = "BLAS adds in an order of its own"
_ANGLES = "angles come from the C library"
MACHINE_DEPENDENT: Mapping[str, str] = {
    **dict.fromkeys(("tsv", "iso_c", "iso_cts", "wudi", "svc", "regmean", "mats", "arcee_fusion"), _MATRICES),
    **dict.fromkeys(("slerp", "karcher", "model_stock"), _ANGLES),
    "apl": "its softmax takes the exponential of the C library",
}
"""Methods whose bits may differ between machines, with the reason."""

GROUPS = [
    (name, way, dtype)
    for name, way in VARIANTS
    if name not in MACHINE_DEPENDENT
    for dtype in (DTYPES if way == "default" else FEW)
]


def replayed(name: str, way: str, dtype: str) -> dict[str, str]:
    """For every size of input the hash of the merge."""
    return {f"{name}/{way}/{dtype}/{size}": digest(merged(name, way, dtype, size)) for size in SIZES}


def merged(name: str, way: str, dtype: str, size: str) -> dict[str, Any]:
    models = as_many(name, checkpoints(SIZES[size], dtype))
    base, *tuned = (given(replace(model, form="numpy"), Path()) for model in models)
    return weft.merge(tuned, base=base, method=name, workers=2, **parameters(name, way, models))


def digest(tensors: Mapping[str, Any]) -> str:
    """Of names, number formats, shapes and bytes, in order of name."""
    hashed = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype.name} {tensor.shape} ".encode())
        hashed.update(np.ascontiguousarray(tensor).tobytes())
    return hashed.hexdigest()


def record() -> dict[str, str]:
    known: dict[str, str] = json.loads(RECORD.read_text())
    return known


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way", "dtype"), GROUPS, ids="/".join)
def test_the_bits_are_those_on_record(name: str, way: str, dtype: str) -> None:
    found, known = replayed(name, way, dtype), record()
    new = [case for case in found if case not in known]
    assert not new, f"not on record: {', '.join(new)}; `make replay` writes them"
    changed = [case for case, hashed in found.items() if known[case] != hashed]
    assert not changed, f"the bits have changed: {', '.join(changed)}; if that is meant: `make replay`, and say why"


def test_the_record_has_no_case_that_is_gone() -> None:
    """A method, variant or format that vanished is a change too."""
    every = {f"{'/'.join(group)}/{size}" for group in GROUPS for size in SIZES}
    assert set(record()) == every


def test_a_changed_bit_changes_the_hash() -> None:
    tensors = merged("linear", "default", "float32", "small")
    before = digest(tensors)
    tensors["b.bias"].view(np.uint8)[0] ^= 1
    assert digest(tensors) != before


@pytest.mark.slow
def test_the_record_holds_on_a_processor_without_extensions(tmp_path: Path) -> None:
    """The same bits from machine code without FMA, AVX and AVX2."""
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "WEFT_CACHE": str(tmp_path)}
    groups = [("ties", "default", "mixed"), ("ties", "norm", "float32"), ("fisher", "default", "float64")]
    program = (
        f"import json; from tests.test_replay import replayed; print(json.dumps([replayed(*g) for g in {groups}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, cwd=ROOT, capture_output=True, check=True
    )
    found = {case: hashed for group in json.loads(done.stdout) for case, hashed in group.items()}
    assert found == {case: record()[case] for case in found}


def test_no_kernel_is_contracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that feeds a sum stays two operations, in the machine code of a map and of a sum over a block."""
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))  # machine code from the cache cannot be looked at
    for compute in (FLOAT32, FLOAT64):
        inputs = tuple(Input("tuned", k, BFLOAT16) for k in range(5))  # a number of models that no other test has
        kernel: Any = compiled(Loop(weighted_average, (), inputs, (("mass", 0), ("weight", 5)), 5, compute, compute))
        assert not list(fused(kernel.dispatcher))
    sum_blocks.dispatcher(chance(1, 10), np.empty(1))
    assert not list(fused(sum_blocks.dispatcher))
    assert len(fused_names("vfmadd231ps %ymm1; fmla v0.4s, v1.4s; fmadd d0, d1")) == 3  # they would be seen


def fused(kernel: Any) -> Iterator[str]:
    for text in kernel.inspect_llvm().values():
        yield from re.findall(r"llvm\.fma\S*|llvm\.fmuladd\S*|\b(?:fast|contract|reassoc)\b", text)
    for text in kernel.inspect_asm().values():
        assert "kernel" in text or "sum_blocks" in text  # of the right function, and not empty
        yield from fused_names(text)


def fused_names(text: str) -> list[str]:
    """Fused operations of x86 and ARM."""
    return re.findall(r"\bvfn?m(?:add|sub)\w*|\bfn?m(?:add|sub|la|ls)\b", text)


def write() -> None:
    """Write the record anew, and say what changed."""
    known = record() if RECORD.exists() else {}
    found = {case: hashed for group in GROUPS for case, hashed in replayed(*group).items()}
    for case in sorted(known.keys() | found.keys()):
        if known.get(case) != found.get(case):
            print(f"{case}: {known.get(case, 'new')} -> {found.get(case, 'gone')}")
    RECORD.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()
