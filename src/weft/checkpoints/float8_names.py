"""Which tensors of a float8 checkpoint are scales, and of what: everyone has names of their own.

A tensor that is called `weight_scale_inv` **multiplies** the weight, despite its name: DeepSeek called it so because it
is the inverse of what the weight was multiplied by before it was rounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from weft.checkpoints.checkpoint import TensorSpec
from weft.errors import Problem, listed
from weft.kernels.dtypes import Kind
from weft.kernels.float8 import FORMATS

_OF_TENSOR = ("_scale_inv", "_scale")
"""What is added to a weight's whole name: DeepSeek, compressed-tensors, FBGEMM, ModelOpt, transformers."""
_OF_MODULE = ("scale", "scale_weight")
"""What stands in place of `weight`: DeepSeek's own inference code, ComfyUI."""

_ACTIVATION = ("_activation_scale", "_input_scale", "_input_zero_point")
_ACTIVATION_OF_MODULE = (
    "input_scale", "input_scale_inv", "input_scale_ub", "input_zero_point", "activation_scale", "act_scale",
    "output_scale", "output_zero_point", "scale_input",
)  # fmt: skip
_CACHE = re.compile(r"((?:.*\.)?)(?:q|k|v|kv|prob)_(?:scale|zero_point)")
"""Of the values that attention keeps."""
_MARKER = "scaled_fp8"
"""An empty tensor by which ComfyUI knows its own files."""

_NOT_LINEAR = ("_zero_point", "_g_idx")
_ORPHAN = re.compile(r"(.*[._]?weight)_scale(?:_inv)?|(.*)_scale_inv")
_ORIGINAL = "merge the 16-bit model that it was made from"


@dataclass(frozen=True)
class Roles:
    """What the tensors of a checkpoint are to each other.

    Attributes:
        scales: for every float8 weight the name of its scale, or None.
        dropped: those that only quantised inference needs.
        problems: what is there and cannot be understood.
    """

    scales: Mapping[str, str | None]
    dropped: frozenset[str]
    problems: tuple[Problem, ...]


def is_float8(spec: TensorSpec) -> bool:
    """Whether these are numbers of eight bits that may be weights."""
    return spec.dtype.name in FORMATS


def roles_of(tensors: Mapping[str, TensorSpec], tied: Mapping[str, str], label: str) -> Roles:
    """Find every float8 weight's scale.

    Args:
        tensors: all of a checkpoint.
        tied: for each name that shares its numbers with an earlier one, that one; it shares its scale too.
        label: what to call the checkpoint in messages.
    """
    weights = [name for name, spec in tensors.items() if is_float8(spec) and name != _MARKER]
    candidates = {name: [s for s in _beside(name, _OF_TENSOR, _OF_MODULE) if s in tensors] for name in weights}
    chosen = {name: candidates[name] or candidates.get(tied.get(name, name), []) for name in weights}
    claimed = {scale for names in chosen.values() for scale in names}
    dropped = frozenset(_of_inference(weights, tensors)) - claimed
    left = {n: spec for n, spec in tensors.items() if n not in claimed and n not in dropped}
    problems = [*_several(chosen, label), *_unknown(chosen, left, label), *_orphans(left, label)]
    return Roles({name: next(iter(found), None) for name, found in chosen.items()}, dropped, tuple(problems))


def _beside(name: str, endings: tuple[str, ...], siblings: tuple[str, ...]) -> Iterator[str]:
    """A weight's whole name with something added, and, if it is called `weight`, what may stand in its place."""
    yield from (name + ending for ending in endings)
    module, dot, last = name.rpartition(".")
    if last == "weight":
        yield from (module + dot + sibling for sibling in siblings)


def _of_inference(weights: list[str], tensors: Mapping[str, TensorSpec]) -> Iterator[str]:
    """Scales of activations, which are rounded to eight bits while a model runs; a merged model starts afresh."""
    for name in weights:
        yield from (n for n in _beside(name, _ACTIVATION, _ACTIVATION_OF_MODULE) if n in tensors)
    above = {name[: i + 1] for name in weights for i, letter in enumerate(name) if letter == "."} | {""}
    yield from (n for n in tensors if (match := _CACHE.fullmatch(n)) and match[1] in above)
    yield from (n for n in (_MARKER,) if n in tensors)


def _several(chosen: Mapping[str, list[str]], label: str) -> Iterator[Problem]:
    for name, found in chosen.items():
        if len(found) > 1:
            what = f"{label}: tensor {name!r} has more than one scale: {listed(found)}"
            yield Problem(what, "keep the one that it is to be multiplied by")


def _unknown(chosen: Mapping[str, list[str]], left: Mapping[str, TensorSpec], label: str) -> Iterator[Problem]:
    """What stands beside a weight and would change it, if one knew how."""
    siblings: dict[str, list[str]] = {}
    for name in left:
        siblings.setdefault(name.rpartition(".")[0], []).append(name)
    for name, found in chosen.items():
        module, _, last = name.rpartition(".")
        for other in (*siblings.get(module, ()), *siblings.get(name, ())):
            if other in (name + ending for ending in _NOT_LINEAR):
                what = f"{label}: tensor {name!r} is float8 with {other!r}: more than a scale is needed to decode it"
                yield Problem(what, _ORIGINAL)
            elif not found and (other.startswith(name) or last == "weight") and "scale" in other.rpartition(".")[2]:
                what = f"{label}: tensor {name!r} is float8, and {other!r} beside it may be its scale"
                yield Problem(what, f"rename it to {name + '_scale'!r} if the weight is to be multiplied by it")


def _orphans(left: Mapping[str, TensorSpec], label: str) -> Iterator[Problem]:
    """Scales whose weight is elsewhere, or has been multiplied already."""
    for name in left:
        if match := _ORPHAN.fullmatch(name):
            weight = match[1] or match[2]
            state = f"is {left[weight].dtype}, not float8" if weight in left else "is not there"
            what = f"{label}: tensor {name!r} is a scale, but its weight {weight!r} {state}"
            yield Problem(what, "name the folder or the index if this is one of several files; or remove the scale")


def is_scale_format(spec: TensorSpec) -> bool:
    """Whether a scale's numbers can be read."""
    return spec.dtype.kind is Kind.FLOAT or spec.dtype.name == "float8_e8m0fnu"
