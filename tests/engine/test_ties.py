"""Names that are one tensor: the groups that pairs make, and what is seen in bytes alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import weft
from weft.engine.inputs import open_inputs
from weft.engine.tied import tied_groups
from weft.recipes.loading import make_recipe

Pairs = list[tuple[str, str]]


def groups(pairs: Pairs) -> set[frozenset[str]]:
    """The slow and obvious way: join sets until nothing is left to join."""
    parts = [{a, b} for a, b in pairs]
    for pair in pairs:
        touched = [part for part in parts if part & set(pair)]
        parts = [part for part in parts if not part & set(pair)] + [set().union(*touched)]
    return {frozenset(part) for part in parts}


class _Ties:
    """Inputs of which only the ties are looked at: an input for each pair."""

    def __init__(self, pairs: Pairs) -> None:
        self._states = []
        for alias, first in pairs:
            tensor = np.arange(6.0).reshape(2, 3)
            self._states.append({first: tensor, alias: tensor} if alias != first else {first: tensor})

    def origin(self) -> dict[str, str]:
        inputs = open_inputs(make_recipe({"method": "linear", "models": self._states}))
        found = tied_groups(inputs)
        assert not found.problems
        return dict(found.origin)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), min_size=1, max_size=12))
def test_pairs_make_groups_with_one_origin_each(pairs: Pairs) -> None:
    pairs = [(a, b) for a, b in pairs if a != b] or [("a", "b")]
    origin = _Ties(pairs).origin()
    made: dict[str, set[str]] = {}
    for name, first in origin.items():
        assert first not in origin, "an origin is nobody's alias"
        made.setdefault(first, {first}).add(name)
    assert set(map(frozenset, made.values())) == groups(pairs)


def test_thousands_of_names_of_one_tensor() -> None:
    one = np.arange(6.0).reshape(2, 3)
    names = [f"layers.{k}.weight" for k in range(3000)]
    merged = weft.merge([dict.fromkeys(names, one), dict.fromkeys(reversed(names), one)])
    assert len(merged) == 3000
    assert len({id(tensor) for tensor in merged.values()}) == 1


def test_a_chain_through_many_models() -> None:
    names = [f"n{k}" for k in range(200)]
    origin = _Ties([(b, a) for a, b in pairwise(names)]).origin()
    assert set(origin.values()) == {"n0"}
    assert set(origin) == set(names[1:])


@pytest.mark.parametrize(("where", "is_tied"), [(None, True), (0, False), (1500, False), (2999, False)])
def test_on_disk_every_byte_must_be_equal(tmp_path: Path, where: int | None, is_tied: bool) -> None:
    """A difference at the beginning, in the middle or at the end is seen."""
    embed = np.random.default_rng(0).standard_normal((100, 30)).astype(np.float32)
    head = embed.copy()
    if where is not None:
        head.reshape(-1)[where] += 1
    for name in ("a", "b"):
        save_file({"embed": embed, "head": head}, tmp_path / f"{name}.safetensors")
    recipe = {"method": "linear", "models": ["a.safetensors", "b.safetensors"], "folder": tmp_path}
    inputs = open_inputs(make_recipe(recipe))
    try:
        assert dict(tied_groups(inputs).origin) == ({"head": "embed"} if is_tied else {})
    finally:
        inputs.close()
