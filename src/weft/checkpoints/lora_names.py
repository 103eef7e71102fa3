"""The names in a LoRA adapter: what each tensor is for, and what the base calls the module that it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.lora_config import MERGE_FIRST
from weft.errors import InputError, Problem, listed

_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?:\.(?P<leaf>weight|bias))?"
)
_WRAPPERS = (".modules_to_save.default.", ".modules_to_save.", ".base_layer.", "._orig_mod.", "._fsdp_wrapped_module.")


@dataclass(frozen=True)
class Module:
    """What an adapter holds for one module.

    Attributes:
        owner: the module's name in the adapter, to which the patterns of the configuration apply.
        parts: its tensors by what they are: `lora_A`, `lora_B`, `lora_B.bias`, `lora_embedding_A`, ...
    """

    owner: str
    parts: dict[str, str]

    def part(self, *names: str) -> str | None:
        """The tensor that goes by one of these names."""
        return next((self.parts[name] for name in names if name in self.parts), None)

    @property
    def is_embedding(self) -> bool:
        """Whether its weight is a table with one row for each input."""
        return "lora_embedding_A" in self.parts


@dataclass(frozen=True)
class Contents:
    """An adapter's tensors, by the names of the base.

    Attributes:
        modules: those that make up products, by module.
        whole: those that replace tensors, by the tensor's name.
    """

    modules: Mapping[str, Module]
    whole: Mapping[str, str]


def contents_of(adapter: Checkpoint, base: Checkpoint) -> Contents:
    """Sort an adapter's tensors and find the base's names for them.

    The adapter's names are taken as they are if they fit. Otherwise one leading component, such as `model.`, is taken
    away or added, the same for all tensors, if there is exactly one with which most fit.

    Raises:
        InputError: for tensors of an unknown kind, two adapters in one file, or names that fit in several ways.
    """
    contents, problems = _sorted(adapter)
    if problems:
        raise InputError(problems)
    choices = _best_prefixes(contents, base)
    if len(choices) > 1:
        raise InputError(_ambiguous(contents, choices, adapter, base), "rename the adapter's tensors or the base's")
    rename = choices[0]
    return Contents(
        {rename(name, base): module for name, module in contents.modules.items()},
        {rename(name, base): given for name, given in contents.whole.items()},
    )


def _sorted(adapter: Checkpoint) -> tuple[Contents, list[Problem]]:
    modules: dict[str, Module] = {}
    whole: dict[str, str] = {}
    problems: list[Problem] = []
    for name in adapter.tensors:
        factor = _FACTOR.fullmatch(name)
        if factor is None and ".lora_" in name:
            what = f"{adapter.file_of(name)}: tensor {name!r} belongs to a kind of LoRA that is not known here"
            problems.append(Problem(what, MERGE_FIRST))
            continue
        known, key = (whole, plain(name)) if factor is None else _place(factor, modules)
        if key in known and known is whole and (saved := _trained([known[key], name])):
            whole[key] = saved
            continue
        if key in known:
            what = f"{adapter.file_of(name)}: {known[key]!r} and {name!r} are two adapters for one tensor"
            problems.append(Problem(what, "save one adapter alone: save_pretrained(selected_adapters=[...])"))
        known[key] = name
    return Contents(modules, whole), problems


def _trained(names: list[str]) -> str:
    """Of two names for one whole tensor the trained copy: peft saves a resized embedding twice."""
    saved = [name for name in names if ".modules_to_save." in name]
    return saved[0] if len(saved) == 1 else ""


def _place(factor: re.Match[str], modules: dict[str, Module]) -> tuple[dict[str, str], str]:
    """Where a factor belongs: among the parts of its module, and as which."""
    owner = plain(factor["module"].split(".base_layer.")[0])
    module = modules.setdefault(plain(factor["module"]), Module(owner, {}))
    return module.parts, factor["part"] + (".bias" if factor["leaf"] == "bias" else "")


def plain(name: str) -> str:
    """A name without what peft and other wrappers add to it.

    Example:
        >>> plain("base_model.model.attention.base_layer.out_proj.base_layer.bias")
        'attention.out_proj.bias'
    """
    name = name.removeprefix("base_model.model.")
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, ".")
    return name.removeprefix("_orig_mod.").removeprefix("_fsdp_wrapped_module.")


@dataclass(frozen=True)
class _Prefixes:
    """One way of making names fit."""

    away: str = ""
    added: str = ""

    def __call__(self, name: str, base: Checkpoint) -> str:
        """The name of a module or a tensor in the base; nothing is put before one that the base has already."""
        is_there = name in base.tensors or f"{name}.weight" in base.tensors
        return name if self.added and is_there else self.added + name.removeprefix(self.away)


def _best_prefixes(contents: Contents, base: Checkpoint) -> list[_Prefixes]:
    """The ways in which most modules are found in the base; only the plain one if none is better."""
    modules = [module for module in contents.modules if f"{module}.weight" not in contents.whole]
    found = {prefixes: len(_found(modules, prefixes, base)) for prefixes in _possible(modules, base.tensors)}
    most = max(found.values())
    return [_Prefixes()] if found[_Prefixes()] == most else [p for p, count in found.items() if count == most]


def _found(modules: Iterable[str], prefixes: _Prefixes, base: Checkpoint) -> dict[str, str]:
    """The modules that the base has, with their weights there."""
    weights = {module: f"{prefixes(module, base)}.weight" for module in modules}
    return {module: weight for module, weight in weights.items() if weight in base.tensors}


def _possible(modules: Iterable[str], known: Iterable[str]) -> Iterator[_Prefixes]:
    yield _Prefixes()
    for away in dict.fromkeys(module.partition(".")[0] + "." for module in modules):
        yield _Prefixes(away=away)
    for added in dict.fromkeys(name.partition(".")[0] + "." for name in known):
        yield _Prefixes(added=added)


def _ambiguous(contents: Contents, choices: list[_Prefixes], adapter: Checkpoint, base: Checkpoint) -> str:
    found = [_found(contents.modules, prefixes, base) for prefixes in choices]
    module = next(iter(found[0]))
    places = listed([repr(weights[module]) for weights in found if module in weights], 10)
    return f"{adapter.label}: module {module!r} may belong to any of {places} in the base ({base.label})"
