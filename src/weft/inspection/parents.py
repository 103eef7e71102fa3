"""The models that were merged, where they can still be found: is the output what the recipe would give today?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weft.checkpoints.checkpoint import TensorSpec
from weft.engine.inputs import Inputs, open_inputs
from weft.engine.merging import merge
from weft.engine.planning import make_plan
from weft.engine.record import LOCK, RECIPE, fingerprints
from weft.errors import InputError, WeftError, listed
from weft.inspection.findings import Finding, Report
from weft.inspection.subject import Subject, read_json, survey
from weft.recipes.loading import load_recipe
from weft.recipes.schema import Recipe


@dataclass(frozen=True)
class Parent:
    """One model of the recipe.

    Attributes:
        role: `base`, or the model's name.
        path: where it was found; None if it was not.
        told: what the recipe says of its place.
        adapter: where the adapter is that was added to it; None if there was none, or it is not found.
        has_adapter: whether it was merged with an adapter on top, and so is not the model at that path.
    """

    role: str
    path: Path | None
    told: str
    adapter: Path | None
    has_adapter: bool

    @property
    def is_here(self) -> bool:
        """Whether all of it was found, a model's folder and what is added to it."""
        return self.path is not None and self.path.is_dir() and (not self.has_adapter or self.adapter is not None)

    def tensors(self) -> dict[str, Any] | None:
        """Its tensors as they were merged, torch's; None if they are those in the folder at `path`.

        Raises:
            WeftError: if they cannot be read, or the adapter does not fit.
        """
        if not self.has_adapter:
            return None
        entry = {"path": str(self.path), "adapter": str(self.adapter), "name": self.role}
        return merge([entry], method="linear", on_nonfinite="ignore")


def recipe_of(subject: Subject) -> Recipe | None:
    """The recipe in the folder; None without a readable one."""
    path = subject.home / RECIPE if subject.home else None
    try:
        return load_recipe(path) if path is not None and path.is_file() else None
    except InputError:
        return None


def parents_of(recipe: Recipe) -> list[Parent]:
    """Base and models, each with its place where it exists."""
    base = [] if recipe.base is None else [_parent("base", recipe.base, None, recipe.folder)]
    return base + [
        _parent(name, entry.path, entry.adapter, recipe.folder)
        for name, entry in zip(recipe.names, recipe.models, strict=True)
    ]


def _parent(role: str, told: object, adapter: object, folder: Path) -> Parent:
    name = str(told) if adapter is None else f"{told} with {adapter}"
    there = _found(adapter, folder) if adapter is not None else None
    return Parent(role, _found(told, folder), name, there, adapter is not None)


def _found(told: object, folder: Path) -> Path | None:
    path = folder / Path(str(told)).expanduser()
    return path if path.exists() else None


def without_inherited(
    subject: Subject, findings: Iterable[Finding], check: Callable[[Subject], Iterable[Finding]]
) -> tuple[Finding, ...]:
    """The findings of a check, less severe where the model that lent config and shapes has the same.

    What looks wrong for most models is right for a few, and what was wrong before is not the merge's doing.

    Args:
        subject: the output.
        findings: what the check found there.
        check: the same check.

    Returns:
        Errors that the parent has too as warnings; without the warnings that it has too.
    """
    findings = tuple(findings)
    recipe = recipe_of(subject) if findings else None
    parent = parents_of(recipe)[0] if recipe else None
    if parent is None or parent.path is None:
        return findings
    place = parent.path / subject.path.name if subject.whole else parent.path
    before = {_about(finding) for finding in _found_at(place, check)}
    told = (finding for finding in findings if finding.level == "error" or _about(finding) not in before)
    return tuple(
        replace(finding, level="warning", what=f"{finding.what}; so it is in {parent.role} ({parent.told})")
        if _about(finding) in before
        else finding
        for finding in told
    )


def _found_at(path: Path, check: Callable[[Subject], Iterable[Finding]]) -> list[Finding]:
    if not path.exists():
        return []
    there = survey(path)
    try:
        return list(check(there[0]))
    finally:
        for one in there:
            one.close()


def _about(finding: Finding) -> str:
    """What a finding says, without the file that it says it of."""
    return finding.what.split(": ", 1)[-1]


def as_planned(subject: Subject) -> Report:
    """The tensors are those that the recipe yields, planned again from the parents' headers."""
    recipe = recipe_of(subject)
    if recipe is None or not subject.everything or subject.whole:
        return Report()
    lost = [parent.told for parent in parents_of(recipe) if parent.path is None]
    if lost:
        return _not_compared(f"not found here: {listed(lost)}")
    try:
        with closing(open_inputs(recipe)) as inputs:
            changed = _changed(subject, inputs)
            if changed:
                return _not_compared(f"since the merge these were changed: {listed(changed)}")
            expected = {spec.name: spec for spec in make_plan(recipe, inputs).outputs}
    except WeftError as error:
        return _not_compared(str(error).splitlines()[0])
    return Report(tuple(_differences(subject, expected)))


def _not_compared(why: str) -> Report:
    return Report(skipped=(f"tensors were not compared with what the recipe yields: {why}",))


def _changed(subject: Subject, inputs: Inputs) -> list[str]:
    """Inputs that are not what the lock says they were; without a lock, models too different to be the parents."""
    try:
        lock = read_json((subject.folder or subject.path) / LOCK)
        then = lock.get("inputs") if isinstance(lock, dict) else None
    except InputError:
        then = None
    if isinstance(then, dict):
        return [label for label, now in fingerprints(inputs).items() if label in then and then[label] != now]
    known = inputs.reference.tensors.keys()
    return [] if len(known & subject.everything.keys()) * 2 >= len(known) else [inputs.reference.label]


def _differences(subject: Subject, expected: Mapping[str, TensorSpec]) -> Iterator[Finding]:
    remedy = "merge again; if the models changed since, that is why"
    missing = [name for name in expected if name not in subject.everything]
    if missing:
        what = f"{subject.path}: {len(missing)} tensors that the recipe yields are missing: {listed(missing)}"
        yield Finding("error", "parents", what, remedy)
    extra = [name for name in subject.everything if name not in expected]
    if extra:
        what = f"{subject.path}: {len(extra)} tensors are not what the recipe yields: {listed(extra)}"
        yield Finding("error", "parents", what, remedy)
    for name, spec in expected.items():
        owner, found = subject.everything.get(name, (subject, None))
        if found is not None and (found.shape, found.dtype) != (spec.shape, spec.dtype):
            what = f"{owner.file_of(found.name)}: tensor {name!r} is {found}, the recipe yields {spec}"
            yield Finding("error", "parents", what, remedy)
