"""The two ways to merge: in memory, and on disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.companions import companions, copy_companions
from weft.checkpoints.leftovers import remove_begun
from weft.checkpoints.memory import is_torch_tensor
from weft.checkpoints.opening import expanded
from weft.checkpoints.output import MemorySink
from weft.checkpoints.sources import ChangedError, SourceFile, check_unchanged
from weft.checkpoints.staging import Staging, staging
from weft.engine.cost import bytes_to_move, bytes_to_read
from weft.engine.executing import execute
from weft.engine.forecast import Forecast, forecast, remember_rate
from weft.engine.inputs import Inputs
from weft.engine.journal import Journal
from weft.engine.lineage import strangers
from weft.engine.preparing import Job, RecipeLike, as_recipe, opened, prepare
from weft.engine.progress import Progress
from weft.engine.record import check_hashing, write_record
from weft.engine.settings import Settings
from weft.engine.target import check_replaceable
from weft.engine.work import Work
from weft.errors import InputError
from weft.kernels.dtypes import BY_NAME
from weft.recipes.loading import make_recipe
from weft.recipes.schema import Recipe, parse_size


@dataclass(frozen=True)
class Report:
    """What a merge on disk did.

    Attributes:
        output: the folder or file.
        method: the recipe's method.
        merged, copied, dropped: numbers of tensors.
        read_bytes, write_bytes: one reading of all inputs, and the output's tensors.
        files: names of the files that hold tensors.
        seconds: from the opened inputs to the committed output.
        warnings: everything that was warned of.
        continued: whether an earlier run, killed or interrupted, had done a part of it.
        reproduced: the earlier output whose bytes these are, if that was asked.
    """

    output: Path
    method: str
    merged: int
    copied: int
    dropped: int
    read_bytes: int
    write_bytes: int
    files: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...]
    continued: bool = False
    reproduced: Path | None = None


def merge(
    models: Sequence[Any] | Mapping[str, Any],
    *,
    base: Any = None,
    method: str = "linear",
    before: str | Mapping[str, Any] | None = None,
    after: str | Mapping[str, Any] | None = None,
    rules: Sequence[Mapping[str, Any]] = (),
    dtype: Any = None,
    vocabulary: Literal["base", "pad", "union"] | None = None,
    on_missing: Literal["error", "base", "skip-model"] = "error",
    on_nonfinite: Literal["error", "warn", "ignore"] = "error",
    memory: int | str = "2GiB",
    workers: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """Merge models and return the tensors.

    Args:
        models: state dicts (of torch tensors or numpy arrays), modules or paths; as a map, `{name: model}`.
        base: the pretrained model, for methods that work on task vectors.
        method: see `weft.methods()`.
        before: what changes every task vector first, as in a recipe: `{"method": "dare", "drop": 0.5}`.
        after: what corrects the merged tensors, as in a recipe: `{"method": "svc", "alpha": 0.1}`.
        rules: over tensor names, as in a recipe.
        dtype: the output's number format, a name or a torch dtype; by default the base's, or the first model's, tensor
            by tensor.
        vocabulary: whose rows an embedding has when the models' vocabularies differ, as in a recipe.
        on_missing: what to do about a tensor that a model lacks, as in a recipe.
        on_nonfinite: what to do when a merged tensor holds values that are not finite.
        memory: bytes for tiles and tables beside the models and the result.
        workers: threads; 0 for one per core.
        device: where torch computes what a method sees whole, such as `cuda`; the last bits may depend on it.
        progress: is told what happens.
        **parameters: the method's own; a per-model one is a value, a list in the models' order, or a map by name.

    Returns:
        Names to tensors: numpy arrays if all that was given are numpy arrays, else torch tensors. Inputs are not
        changed. Tensors that were tied are one object.

    Raises:
        InputError: for anything that does not fit, naming it.

    Example:
        >>> import numpy as np
        >>> merge([{"w": np.array([1.0])}, {"w": np.array([3.0])}])["w"]
        array([2.])
    """
    progress = progress or Progress()
    parts = {"method": method, "base": base, "before": before, "after": after, "rules": rules, "parameters": parameters}
    output = {"dtype": None if dtype is None else str(dtype).removeprefix("torch.")}
    policies = {"vocabulary": vocabulary, "on_missing": on_missing, "on_nonfinite": on_nonfinite}
    recipe = make_recipe({**parts, "models": _entries(models), "output": output, **policies})
    with opened(recipe, progress) as inputs:
        job = prepare(recipe, inputs, Settings(_bytes(memory), workers, device=device))
        made = job.plan
        _warn((*made.warnings, *inputs.unwritten(None), *strangers(made.works, recipe.names)), progress)
        aliases = {alias: item.spec.name for item in made.items for alias in item.aliases}
        sink = MemorySink(made.outputs, aliases, not _is_numpy(recipe))
        _warn(execute(made, job.budget, sink, progress, on_nonfinite), progress)
    return sink.tensors()


def plan(
    recipe: RecipeLike,
    *,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    restart: bool = False,
    memory: int | str = "2GiB",
    workers: int = 0,
    device: str = "cpu",
) -> Forecast:
    """Say what a merge would do, from headers alone. Nothing is written.

    Args:
        recipe: as for `merge_to`.
        output: where it would go; its disk is then looked at.
        overwrite: whether it may replace what is there.
        restart: whether it may discard what an interrupted merge left there.
        memory: as for `merge_to`.
        workers: as for `merge_to`.
        device: as for `merge_to`.

    Raises:
        InputError: with every problem that would keep the merge from running.

    Example:
        >>> import numpy as np
        >>> model = {"w": np.zeros((2, 3), np.float32)}
        >>> told = plan({"method": "linear", "models": [model, model]})
        >>> told.read_bytes, told.write_bytes, told.passes
        (48, 24, 1)
    """
    recipe = as_recipe(recipe)
    target = _target(output) if output is not None else None
    with opened(recipe, headers_only=True) as inputs:
        settings = Settings(_bytes(memory), workers, device=device)
        job = prepare(recipe, inputs, settings, target, overwrite=overwrite, restart=restart)
        told = forecast(job.plan, recipe.method, settings, tuple(_described(inputs)), target, inputs.download_bytes)
        more = [*inputs.unwritten(target), *inputs.doubts(), *_begun(job)] if target else inputs.doubts()
        return replace(told, warnings=(*told.warnings, *more))


def _begun(job: Job) -> Iterator[str]:
    if job.share_done:
        yield f"an interrupted merge left {job.share_done:.0%} of this output, which would not be done again"


def _target(output: str | os.PathLike[str]) -> Path:
    """The place itself: what a link points to is replaced, not the link."""
    named = expanded(output)
    try:
        return named.resolve() if named.is_symlink() or named.name in ("", "..") else named
    except (OSError, RuntimeError):
        raise InputError(f"{named} is a link that leads nowhere", "remove it, or choose another output") from None


def _described(inputs: Inputs) -> Iterator[dict[str, Any]]:
    for label, checkpoint in inputs.all():
        sizes = [spec.size for spec in checkpoint.tensors.values()]
        yield {"name": label, "path": checkpoint.label, "tensors": len(sizes), "parameters": sum(sizes)}


def merge_to(
    recipe: RecipeLike,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    restart: bool = False,
    hashes: bool = False,
    memory: int | str = "2GiB",
    workers: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Report:
    """Merge on disk, streaming: memory stays within the budget whatever the size of the models.

    What is done is kept beside the output until the output is complete: after a crash, an interrupt or a fault of the
    disk the same call goes on from there, and ends in the same bytes.

    Args:
        recipe: the path of a YAML file; a map with the same keys, and `folder` if relative paths in it shall be
            relative to another folder than the current one; or a `Recipe`.
        output: the folder that shall appear, complete or not at all; or the path of one `.safetensors` file.
        overwrite: replace an output that exists.
        restart: discard what an interrupted merge of another recipe, or of inputs that have changed since, left.
        hashes: record content hashes of the output's files, for `weft verify --hash`.
        memory: bytes for tiles, tables and input kept between passes; the interpreter comes on top.
        workers: threads; 0 for one per core.
        device: where torch computes what a method sees whole, such as `cuda`; the last bits may depend on it.
        progress: is told what happens.

    Returns:
        What was done.

    Raises:
        InputError: for anything that does not fit, before anything is written.
        MergeError: if reading or writing failed; the output does not exist then.
    """
    progress = progress or Progress()
    recipe = as_recipe(recipe)
    target = _target(output)
    if hashes:
        check_hashing()
    began = time.monotonic()
    with opened(recipe, progress) as inputs:
        settings = Settings(_bytes(memory), workers, device=device)
        job = prepare(recipe, inputs, settings, target, overwrite=overwrite, restart=restart)
        warnings = (*job.plan.warnings, *inputs.unwritten(target), *strangers(job.plan.works, recipe.names))
        _warn(warnings, progress)
        if job.is_committed:
            remove_begun(target)
        else:
            warnings += _run(job, recipe, inputs, progress, overwrite=overwrite, hashes=hashes)
    seconds = time.monotonic() - began
    if not job.share_done and not job.budget.whole:
        remember_rate(bytes_to_move(job.plan), seconds)
    return _report(job, recipe, warnings, seconds)


def _run(
    job: Job, recipe: Recipe, inputs: Inputs, progress: Progress, *, overwrite: bool, hashes: bool
) -> tuple[str, ...]:
    """Do the job, or what is left of it; what was noted on the way."""
    assert job.target is not None
    assert job.layout is not None
    if job.is_continued:
        progress.continued(job.share_done)
    with staging(job.target, job.layout, job.identity, job.restart) as area:
        notes = _compute(job, recipe, inputs, area, progress)
        _warn(notes, progress)
        progress.phase("writing to disk", 0)
        if job.target.suffix != ".safetensors":
            _accompany(area.output, recipe, inputs)
            write_record(area.output, job.target, recipe, inputs, job.layout, job.environment, hashes)
        check_replaceable(job.target)
        area.commit(overwrite)
    return notes


def _compute(job: Job, recipe: Recipe, inputs: Inputs, area: Staging, progress: Progress) -> tuple[str, ...]:
    """All tensors, into the staging area; inputs that are at fault make what is there worthless."""
    files = [*inputs.sources(), *_companions(inputs)]
    journal = Journal(area.logbook, area.folder / "statistics" if area.logbook else None)
    try:
        with journal.synced_at_intervals(area.begin_sync, area.sync):
            notes = execute(job.plan, job.budget, area, progress, recipe.on_nonfinite, journal)
        check_unchanged(files)
    except (InputError, ChangedError):
        area.is_worthless = True
        raise
    return notes


def _companions(inputs: Inputs) -> Iterator[SourceFile]:
    folder = inputs.reference.path
    if folder is not None and folder.is_dir():
        yield from (SourceFile.at(folder / name) for name in companions(folder))


def _report(job: Job, recipe: Recipe, warnings: tuple[str, ...], seconds: float) -> Report:
    assert job.target is not None
    assert job.layout is not None
    works, items = job.plan.works, job.plan.items
    return Report(
        output=job.target,
        method=recipe.method,
        merged=sum(1 + len(work.aliases) for work in works if work.method),
        copied=sum(1 + len(item.aliases) for item in items if not (isinstance(item, Work) and item.method)),
        dropped=len(job.plan.dropped),
        read_bytes=bytes_to_read(job.plan),
        write_bytes=job.plan.write_bytes,
        files=tuple(shard.name for shard in job.layout.shards),
        seconds=seconds,
        warnings=warnings,
        continued=job.is_committed or job.is_continued,
    )


def _is_numpy(recipe: Recipe) -> bool:
    """Whether all that was given are dicts of numpy arrays."""
    sources = [entry.path for entry in recipe.models] + ([] if recipe.base is None else [recipe.base])
    dicts = [source for source in sources if isinstance(source, Mapping)]
    return len(dicts) == len(sources) and not any(is_torch_tensor(t) for source in dicts for t in source.values())


def _entries(models: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    if isinstance(models, (str, os.PathLike)):
        raise InputError(
            f"models: {os.fspath(models)!r} is one path", "give a list of models; recipes go to weft.merge_to"
        )
    if isinstance(models, Mapping):
        return [{"path": model, "name": name} for name, model in models.items()]
    return list(models)


def _bytes(memory: int | str) -> int:
    try:
        return parse_size(memory)
    except ValueError as error:
        what, _, remedy = str(error).partition("; ")
        raise InputError(f"memory: {what}", remedy) from None


def _warn(texts: Sequence[str], progress: Progress) -> None:
    for text in texts:
        progress.warning(text)


def _accompany(folder: Path, recipe: Recipe, inputs: Inputs) -> None:
    """Config, tokenizer and the like, from the base."""
    reference: Checkpoint = inputs.reference
    if reference.path and reference.path.is_dir():
        copy_companions(reference.path, folder, BY_NAME[recipe.output.dtype] if recipe.output.dtype else None)
        if inputs.vocabulary:
            inputs.vocabulary.output.write(folder)
