"""What a recipe says about each tensor: merged by which method with which parameters, copied, or dropped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any, TypeVar

from weft.algorithms.chain import Chain
from weft.algorithms.correction import Correction
from weft.algorithms.plugins import blamed
from weft.algorithms.registry import correction, method, sparsifier
from weft.algorithms.sparsifier import Sparsifier
from weft.checkpoints.patterns import Expression
from weft.errors import Gathering, InputError, Problem, nearest
from weft.recipes.schema import Recipe, Rule

Chained = TypeVar("Chained", Sparsifier, Correction)

Written = Mapping[str, Any]
"""A step as a person wrote it: its name under `method`, and its parameters."""


@dataclass(frozen=True)
class Use:
    """Copy the tensor from one source: a model's name, or `base`."""

    source: str
    rule: str = field(default="", compare=False)


@dataclass(frozen=True)
class Drop:
    """Leave the tensor out of the output."""

    rule: str = field(default="", compare=False)


@dataclass(frozen=True)
class Merge:
    """Merge the tensor."""

    method: Chain
    rule: str = field(default="", compare=False)


Action = Use | Drop | Merge


class Resolver:
    """Answers for each tensor name what is done with it. Precedence: rule, per-model value, `parameters`, default.

    Args:
        recipe: a checked recipe.

    Raises:
        InputError: for parameters that no method has, values out of bounds, and rules that name unknown models.

    Example:
        >>> rules = [{"match": "*head*", "use": "b"}, {"match": "*norm*", "method": "linear"}]
        >>> resolver = Resolver(Recipe(method="ties", base="o", models=["a", "b"], rules=rules))
        >>> resolver.action("lm_head.weight").source
        'b'
        >>> resolver.action("layers.0.norm").method.name
        'linear'
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._names = recipe.names
        self._own = [entry.parameters for entry in recipe.models]
        _check_parameters(recipe)
        problems = Gathering()
        self._rules: list[tuple[Callable[[str], bool], Action]] = []
        for rule in recipe.rules:
            with problems:
                self._rules.append((_matcher(rule.match), self._decide(rule)))
        with problems:
            self._default = self._merge(recipe.method, {}, recipe.before, recipe.after)
        problems.tell()
        self._used = [0] * len(self._rules)

    def action(self, name: str) -> Action:
        """What is done with this tensor."""
        for k, (matches, action) in enumerate(self._rules):
            if matches(name):
                self._used[k] += 1
                return action
        return self._default

    def unused_rules(self) -> list[str]:
        """The patterns of rules that decided nothing so far."""
        return [", ".join(rule.match) for rule, used in zip(self._recipe.rules, self._used, strict=True) if not used]

    def methods(self) -> list[Chain]:
        """Every method that may be used, with its parameters."""
        return [a.method for a in (self._default, *(action for _, action in self._rules)) if isinstance(a, Merge)]

    def _decide(self, rule: Rule) -> Action:
        patterns = ", ".join(rule.match)
        if rule.use == "drop":
            return Drop(patterns)
        if rule.use is None:
            steps = rule.step("before", self._recipe.before), rule.step("after", self._recipe.after)
            return self._merge(rule.method or self._recipe.method, rule.parameters, *steps, patterns)
        sources = (*self._names, *(("base",) if self._recipe.base is not None else ()))
        if rule.use not in sources:
            remedy = nearest(rule.use, sources) or f"write one of {', '.join(sources)}, or drop"
            raise InputError(f"rule {patterns!r}: use: {rule.use!r} is not a model of this recipe", remedy)
        return Use(rule.use, patterns)

    def _merge(
        self, name: str, parameters: Mapping[str, Any], before: Written | None, after: Written | None, rule: str = ""
    ) -> Merge:
        kind = method(name)
        kind.check_count(self._names)
        known = [{k: v for k, v in own.items() if k in kind.model_fields} for own in self._own]
        with blamed(kind):
            settled = kind.resolved(self._names, parameters, known, self._recipe.parameters)
        first = self._chained("before", sparsifier(before["method"]), before) if before else None
        last = self._chained("after", correction(after["method"]), after) if after else None
        return Merge(Chain(settled, first, last), rule)

    def _chained(self, place: str, kind: type[Chained], written: Written) -> Chained:
        """A step before or after the method, with its parameters as they stand beside its name."""
        parameters = {name: value for name, value in written.items() if name != "method"}
        known = kind.chained_fields()
        problems = [_unknown(p, known, place, [kind.name]) for p in parameters if p not in known]
        if problems:
            raise InputError(problems)
        with blamed(kind):
            return kind.resolved(self._names, parameters)


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Globs become one expression; a person's own expressions, which may refer to their groups, stay apart."""
    globs = [translate(p) for p in patterns if not p.startswith("re:")]
    own = [Expression(p[3:], repr(p)).fits for p in patterns if p.startswith("re:")]
    if not globs:
        return own[0] if len(own) == 1 else lambda name: any(fits(name) for fits in own)
    together = re.compile("|".join(globs)).fullmatch
    return lambda name: together(name) is not None or any(fits(name) for fits in own)


def _check_parameters(recipe: Recipe) -> None:
    """Every parameter that a person wrote must mean something to a method that is used."""
    used = {name: method(name) for name in (recipe.method, *(rule.method for rule in recipe.rules if rule.method))}
    fields = {field: kind for kind in used.values() for field in kind.model_fields}
    problems = [_unknown(p, fields, "parameters", used) for p in recipe.parameters if p not in fields]
    for rule in recipe.rules:
        kind = used[rule.method or recipe.method]
        where = f"rule {', '.join(rule.match)!r}"
        problems += [
            _unknown(p, kind.model_fields, where, [kind.name]) for p in rule.parameters if p not in kind.model_fields
        ]
    for name, entry in zip(recipe.names, recipe.models, strict=True):
        for p in entry.parameters:
            if p not in fields:
                problems.append(_unknown(p, fields, f"model {name!r}", used))
            elif not any(p in kind.model_fields and kind.is_per_model(p) for kind in used.values()):
                problems.append(
                    Problem(f"model {name!r}: {p} is one value for all models", "write it under `parameters`")
                )
    if problems:
        raise InputError(problems)


def _unknown(name: str, known: Iterable[str], where: str, methods: Iterable[str]) -> Problem:
    what = f"{where}: {' and '.join(methods)} has no parameter {name!r}"
    return Problem(what, nearest(name, known) or f"its parameters: {', '.join(known)}")
