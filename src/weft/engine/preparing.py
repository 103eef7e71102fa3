"""From a recipe to a job that can run: every problem is found and told before the first byte is written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from weft.checkpoints.layout import Layout, lay_out
from weft.checkpoints.leftovers import Begun, find_begun, left_size
from weft.checkpoints.staging import Identity
from weft.engine.collector import collector_waits
from weft.engine.forecast import free_disk
from weft.engine.identity import differences, identity
from weft.engine.inputs import Inputs, open_inputs
from weft.engine.journal import Journal, share_written
from weft.engine.planning import Plan, make_plan
from weft.engine.progress import Progress
from weft.engine.record import environment
from weft.engine.settings import Budget, Settings, budget
from weft.engine.target import check_target
from weft.engine.whole import check_device, is_whole
from weft.errors import Gathering, InputError
from weft.recipes.loading import load_recipe, make_recipe
from weft.recipes.resolving import Resolver
from weft.recipes.schema import Recipe

RecipeLike = Recipe | str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """A merge that may begin.

    Attributes:
        plan: what is computed and copied.
        budget: with how much memory and how many threads.
        target: where the output shall be; None if that is not said.
        layout: its files; None without a target.
        identity: what it is made of; None if that cannot be told again.
        begun: what an earlier run left of it.
        restart: whether that is to be discarded.
        environment: what it is computed on, and with what.
    """

    plan: Plan
    budget: Budget
    target: Path | None = None
    layout: Layout | None = None
    identity: Identity | None = None
    begun: Begun | None = None
    restart: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_committed(self) -> bool:
        """Whether an earlier run did all of it, and was killed before it could say so."""
        return self.begun is not None and self.begun.committed and self.begun.identity == self.identity

    @cached_property
    def share_done(self) -> float:
        """How much of the output an earlier run wrote, between 0 and 1."""
        return _share(self.begun, self.plan) if self.begun is not None and self._goes_on else 0.0

    @cached_property
    def is_continued(self) -> bool:
        """Whether an earlier run left something to build upon, be it only what had to be known first."""
        return self.begun is not None and self._goes_on and Journal.replayed(self.begun.records).is_continued

    @property
    def _goes_on(self) -> bool:
        return self.begun is not None and not self.begun.committed and self.begun.identity == self.identity


def as_recipe(recipe: RecipeLike) -> Recipe:
    """A recipe, from whatever says it."""
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return make_recipe(dict(recipe))
    return load_recipe(Path(recipe))


@contextmanager
def opened(recipe: Recipe, progress: Progress | None = None, *, headers_only: bool = False) -> Iterator[Inputs]:
    """The inputs of a recipe, closed at the end.

    Raises:
        InputError: with what is wrong in the files together with what is wrong in the parameters.
    """
    problems = Gathering()
    inputs = None
    with problems:
        Resolver(recipe)  # a slip in the parameters is told with the files that are missing
    with problems:
        inputs = open_inputs(recipe, progress, headers_only=headers_only)
    try:
        problems.tell()
        assert inputs is not None
        yield inputs
    finally:
        if inputs is not None:
            inputs.close()


@collector_waits()
def prepare(
    recipe: Recipe,
    inputs: Inputs,
    settings: Settings,
    target: Path | None = None,
    *,
    overwrite: bool = False,
    restart: bool = False,
) -> Job:
    """Look at everything that a merge needs.

    Args:
        recipe: what is wanted.
        inputs: its checkpoints, opened.
        settings: memory and threads.
        target: where the output shall be, if that is known.
        overwrite: whether it may replace what is there.
        restart: whether what an earlier run left of another merge may be discarded.

    Raises:
        InputError: with all problems of the plan, the memory, the target, the disk, and of what an earlier run left.
    """
    problems = Gathering()
    job = None
    made, divided, begun = None, None, None
    with problems:
        made = make_plan(recipe, inputs)
    with problems:
        begun = find_begun(target) if target else None
        begun = None if restart else begun
    if made is not None:
        with problems:
            divided = budget(settings, made.items)
        with problems:
            if any(map(is_whole, made.works)):
                check_device(settings.device)
        if divided is not None:
            job = Job(made, divided, environment=dict(environment(divided.device if divided.whole else "")))
    if job is not None and target is not None:
        with problems:
            job = replace(_placed(job, recipe, inputs, target), begun=begun, restart=restart)
            _check_begun(job)
            _check_space(target, job.layout)
    if target is not None and not (job and job.is_committed):
        with problems:
            check_target(target, inputs, overwrite)
    problems.tell()
    assert job is not None
    return job


def _placed(job: Job, recipe: Recipe, inputs: Inputs, target: Path) -> Job:
    layout = _laid_out(job.plan, recipe, inputs, target)
    return replace(job, target=target, layout=layout, identity=identity(recipe, inputs, layout, job.environment))


def _laid_out(plan: Plan, recipe: Recipe, inputs: Inputs, target: Path) -> Layout:
    metadata = {"format": "pt"} | dict(inputs.reference.metadata)
    if target.suffix == ".safetensors":
        if not isinstance(inputs.reference.stem, str):
            raise InputError(f"the output {target} is one file, but a pipeline has several parts", "name a folder")
        return lay_out(plan.outputs, target.stem, plan.write_bytes + 1, metadata)
    return lay_out(plan.outputs, inputs.reference.stem, recipe.output.shard_size, metadata)


def _check_begun(job: Job) -> None:
    """See that what an earlier run left is of this very merge."""
    begun = job.begun
    if begun is None or begun.committed or begun.identity == job.identity:
        return
    now = job.identity or {}
    reasons = "; ".join(differences(begun.identity, now)) if now else "its inputs are in memory"
    share = f"{_share(begun, job.plan):.0%} of it is there"
    raise InputError(
        f"{job.target} was begun by a merge that was interrupted ({share}), and this one is not the same: {reasons}",
        "undo that to go on where it was; or discard what is there with --restart (restart=True)",
    )


def _share(begun: Begun, plan: Plan) -> float:
    return share_written(begun.records, sum(item.spec.size for item in plan.items))


def _check_space(target: Path, layout: Layout | None) -> None:
    assert layout is not None
    free = free_disk(target) + left_size(target)  # what an earlier run left is used again, or removed
    if layout.size > free:
        what = f"the output needs {layout.size / 1e9:.2f} GB, but the disk of {target} has {free / 1e9:.2f} GB free"
        raise InputError(what, "free some space, or choose an output on another disk")
