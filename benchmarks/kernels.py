"""Nanoseconds per element of the compiled loops, on one core, over a tile that fits the cache.

Use: python benchmarks/kernels.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from weft.algorithms.registry import METHODS
from weft.algorithms.ties import ties
from weft.kernels.compiler import Input, Loop, compiled, packed
from weft.kernels.dtypes import BFLOAT16, FLOAT32
from weft.kernels.folds import BINS, block_sums, count_digits

TILE = 1 << 18


def best(run: Callable[[], object], rounds: int = 15) -> float:
    """Nanoseconds per element in the fastest of several rounds, the first of which compiles."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times) / TILE * 1e9


def ties_map(models: int, rng: np.random.Generator) -> float:
    method = METHODS["ties"].resolved([f"m{i}" for i in range(models)])
    program = method.program()
    values = {**program.values, "threshold": (0.01,) * models, "majority": 1.0}
    inputs = (Input("base", None, BFLOAT16), *(Input("tuned", i, BFLOAT16) for i in range(models)))
    shapes = tuple((name, len(v) if isinstance(v, tuple) else 0) for name, v in values.items())
    loop = Loop(ties, tuple(program.functions.items()), inputs, shapes, models, FLOAT32, BFLOAT16)
    arrays = [rng.integers(0x3C00, 0x3C80, TILE).astype(np.uint16) for _ in inputs]
    kernel, out, numbers = compiled(loop), np.empty(TILE, np.uint16), packed(loop, values)
    return best(lambda: kernel(out, 0, -1, numbers, *arrays))


def main() -> None:
    rng = np.random.default_rng(0)
    for models in (1, 3, 8, 16, 24, 32):
        taken = ties_map(models, rng)
        print(f"TIES map, {models:2} models: {taken:5.2f} ns per element, {taken / (models + 1):.2f} per input")
    magnitudes = np.abs(rng.standard_normal(TILE)).astype(np.float32)
    counts = np.zeros(BINS, np.int64)
    print(f"count a digit: {best(lambda: count_digits(magnitudes.view(np.uint32), 16, 0, counts)):.2f} ns per element")
    print(f"sum: {best(lambda: block_sums(magnitudes)):.2f} ns per element")


if __name__ == "__main__":
    main()
