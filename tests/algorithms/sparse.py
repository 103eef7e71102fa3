"""What the tests of sparsifiers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import weft
from tests.golden_cases import StateDict

SHAPES = {"layers.0.w": (12, 40), "layers.1.w": (9, 30), "head": (33, 7), "b": (50,), "one": (5, 1), "number": ()}


def models(seed: int, count: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> tuple[StateDict, list[StateDict]]:
    """A base and fine-tunes of it, no two changes equally large."""
    rng = np.random.default_rng(seed)
    base = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return base, [{n: t + rng.standard_normal(t.shape) / 8 for n, t in base.items()} for _ in range(count)]


def zeros(like: StateDict) -> StateDict:
    return {name: np.zeros_like(t) for name, t in like.items()}


def changed(delta: StateDict, method: str, **options: Any) -> StateDict:
    """What a sparsifier makes of one task vector."""
    return weft.merge([delta], base=zeros(delta), method=method, **options)


def drawn_masks(method: str, base: StateDict, tuned: list[StateDict], **options: Any) -> list[StateDict]:
    """What a sparsifier keeps of each model, seen from what becomes of that model beside copies of the base."""
    masks = []
    for i, model in enumerate(tuned):
        others = [model if k == i else base for k in range(len(tuned))]
        merged = weft.merge(others, base=base, method="task_arithmetic", before={"method": method, **options})
        masks.append({name: merged[name] != base[name] for name in base})
    return masks


def as_numbers(masks: list[StateDict]) -> list[StateDict]:
    return [{name: mask.astype(np.float32) for name, mask in one.items()} for one in masks]


def assert_close(ours: StateDict, theirs: StateDict, rtol: float = 1e-12, atol: float = 1e-14) -> None:
    assert set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=rtol, atol=atol, err_msg=name)


def same_bytes(parts: Mapping[str, Any], make_reference: StateDict, folder: Any) -> None:
    """The same bytes on disk with any memory and any number of workers as in memory."""
    from tests.long.saving import read_safetensors

    for k, (workers, memory) in enumerate([(1, "2GiB"), (2, "2GiB"), (3, "40MB"), (1, "20MB")]):
        place = folder / f"out{k}.safetensors"
        weft.merge_to(dict(parts), place, workers=workers, memory=memory)
        found = read_safetensors(place)
        assert {n: t.tobytes() for n, t in found.items()} == {n: t.tobytes() for n, t in make_reference.items()}
