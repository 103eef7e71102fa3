"""The readers fuzzed: whatever they are given, they return or raise `InputError`."""

from __future__ import annotations

import json
import random
from math import prod

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile.fuzzing import TARGETS, header_holds, recipe_holds, spoiled
from tests.hostile.oracle import SIZES

COUNTS = st.one_of(st.integers(0, 9), st.sampled_from([-1, 2**31, 2**62, 2**63, 2**64, True, 1.5, None, "1"]))
PARTS = {
    "dtype": st.sampled_from([*SIZES, "F31", 1, None]),
    "shape": st.one_of(st.lists(st.integers(0, 3), max_size=4), st.lists(COUNTS, max_size=66), COUNTS),
    "data_offsets": st.one_of(st.lists(st.integers(0, 24), min_size=2, max_size=2), st.lists(COUNTS, max_size=3)),
}
NAMES = st.one_of(st.sampled_from(["w", "v", "__metadata__"]), st.text(max_size=8))
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(NAMES, st.fixed_dictionaries(PARTS) | JUNK, max_size=4), st.binary(max_size=24), st.booleans())
def test_headers_as_the_oracle_has_them(entries: object, data: bytes, escaped: bool) -> None:
    text = json.dumps(entries, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    header_holds(len(text).to_bytes(8, "little") + text + data)


@st.composite
def sound_headers(draw: st.DrawFn) -> bytes:
    """Tensors one after the other, in any order of entries."""
    entries, end = [], 0
    for name in draw(st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=5)):
        dtype, shape = draw(st.sampled_from([*SIZES])), draw(st.lists(st.integers(0, 3), max_size=3))
        begin, end = end, end + SIZES[dtype] * prod(shape)
        entries.append((name, {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}))
    text = json.dumps(dict(draw(st.permutations(entries))), indent=draw(st.sampled_from([None, 1]))).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


@settings(max_examples=200, deadline=None)
@given(sound_headers())
def test_sound_headers_as_the_oracle_has_them(content: bytes) -> None:
    header_holds(content)


KEYS = st.sampled_from(["method", "models", "base", "rules", "rename", "output", "parameters", "match", "use", "path"])
VALUES = st.recursive(
    st.one_of(
        st.sampled_from(["linear", "ties", "a", "*", "re:(", "5GB"]),
        st.integers(),
        st.floats(),
        st.none(),
        st.booleans(),
        st.dates(),
        st.text(max_size=6),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers() | st.floats(), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_recipes_of_wrong_types(parts: object) -> None:
    recipe_holds(yaml.safe_dump(parts, allow_unicode=True).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200))
def test_anything(name: str, content: bytes) -> None:
    TARGETS[name].holds(content)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_spoiled(name: str, chance: random.Random) -> None:
    TARGETS[name].holds(spoiled(TARGETS[name], chance))


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_much_that_is_spoiled(name: str) -> None:
    chance = random.Random(name)
    accepted = sum(TARGETS[name].holds(spoiled(TARGETS[name], chance)) for _ in range(3000))
    assert 0 < accepted < 3000, "what is made is neither all sound nor all hopeless"
