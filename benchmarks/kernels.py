"""Nanoseconds per element of the compiled loops, on one core.

Use: python benchmarks/kernels.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from weft.algorithms.registry import METHODS
from weft.kernels.compiler import Input, Loop, compiled, packed
from weft.kernels.dtypes import BFLOAT16, FLOAT32
from weft.kernels.folds import BLOCK, block_sums
from weft.kernels.selection import RankSelection

MODELS = (2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64)
TILE = 16 * BLOCK
"""Elements of a tile as the engine cuts them where memory allows."""
CACHED = 1 << 20
"""Bytes of all inputs together that stay in a core's own cache."""
METHODS_MEASURED = ("task_arithmetic", "ties")


@dataclass(frozen=True)
class Cost:
    """What a method's map costs on one core.

    Attributes:
        method: which.
        models: how many, beside the base.
        cached: nanoseconds per element and input over tiles that the core's own cache holds.
        tile: over tiles as the engine cuts them.
    """

    method: str
    models: int
    cached: float
    tile: float


@dataclass(frozen=True)
class Steps:
    """Nanoseconds per element of steps that statistics take.

    Attributes:
        rank: one round of the search for a magnitude of given rank.
        sum: adding up.
    """

    rank: float
    sum: float


def costs(models: tuple[int, ...] = MODELS) -> list[Cost]:
    """Of each method and number of models."""
    rng = np.random.default_rng(0)
    return [cost(method, count, rng) for method in METHODS_MEASURED for count in models]


def cost(method: str, models: int, rng: np.random.Generator) -> Cost:
    """Of one."""
    loop, values = _map(method, models)
    kernel, numbers = compiled(loop), packed(loop, values)

    def per_input(count: int) -> float:
        arrays = [rng.integers(0x3C00, 0x3C80, count).astype(np.uint16) for _ in loop.inputs]
        out = np.empty(count, np.uint16)
        return best(lambda: kernel(out, 0, -1, numbers, *arrays), count) / len(arrays)

    return Cost(method, models, per_input(CACHED // (2 * (models + 2))), per_input(TILE))


def _map(name: str, models: int) -> tuple[Loop, dict[str, float | tuple[float, ...]]]:
    """The loop that computes a method's output from bfloat16, and numbers for it."""
    program = METHODS[name].resolved([f"m{i}" for i in range(models)]).program()
    known = {"threshold": (0.01,) * models, "majority": 1.0}
    values = {key: known.get(key, value) for key, value in program.values.items()}
    inputs = (Input("base", None, BFLOAT16), *(Input("tuned", i, BFLOAT16) for i in range(models)))
    shapes = tuple((key, len(value) if isinstance(value, tuple) else 0) for key, value in values.items())
    return Loop(program.element, tuple(program.functions.items()), inputs, shapes, models, FLOAT32, BFLOAT16), values


def steps() -> Steps:
    """Of the folds, over magnitudes as bfloat16 fine-tunes have them: few values, and many ties."""
    rng = np.random.default_rng(0)
    magnitudes = np.abs(np.round(rng.standard_normal(TILE) * 16) / 2048).astype(np.float32)
    search = RankSelection([TILE * 4 // 5], FLOAT32)
    search.expect(magnitudes.reshape(16, -1), TILE)
    tables = search.tables()
    return Steps(best(lambda: search.add(magnitudes, tables), TILE), best(lambda: block_sums(magnitudes), TILE))


def best(run: Callable[[], object], elements: int, rounds: int = 15) -> float:
    """Nanoseconds of the processor per element in the fastest of several rounds, each over a million or more."""
    repeats = max(2**20 // elements, 1)
    times = []
    for _ in range(rounds):
        began = time.thread_time()
        for _ in range(repeats):
            run()
        times.append(time.thread_time() - began)
    return min(times) / (elements * repeats) * 1e9


def main() -> None:
    for found in costs():
        per = f"{found.cached:5.2f} ns per element and input in the cache, {found.tile:5.2f} over the engine's tiles"
        print(f"{found.method:16} {found.models:2} models: {per}", flush=True)
    taken = steps()
    print(f"a round of the search for a rank: {taken.rank:.2f} ns per element; a sum: {taken.sum:.2f}")


if __name__ == "__main__":
    main()
