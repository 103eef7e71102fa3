"""The two ways to merge: in memory, and on disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.companions import copy_companions
from weft.checkpoints.layout import Layout, lay_out
from weft.checkpoints.memory import is_torch_tensor
from weft.checkpoints.output import MemorySink
from weft.checkpoints.staging import staging
from weft.engine.cost import bytes_to_move, bytes_to_read
from weft.engine.executing import execute
from weft.engine.forecast import Forecast, forecast, free_disk, remember_rate
from weft.engine.inputs import Inputs, open_inputs
from weft.engine.lineage import strangers
from weft.engine.planning import Plan, make_plan
from weft.engine.progress import Progress
from weft.engine.record import write_record
from weft.engine.settings import Budget, Settings, budget
from weft.engine.target import check_target
from weft.engine.work import Work
from weft.errors import Gathering, InputError
from weft.kernels.dtypes import BY_NAME
from weft.recipes.loading import load_recipe, make_recipe
from weft.recipes.resolving import Resolver
from weft.recipes.schema import Recipe, parse_size

RecipeLike = Recipe | str | os.PathLike[str] | Mapping[str, Any]


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


def merge(
    models: Sequence[Any] | Mapping[str, Any],
    *,
    base: Any = None,
    method: str = "linear",
    rules: Sequence[Mapping[str, Any]] = (),
    dtype: Any = None,
    vocabulary: Literal["base", "pad", "union"] | None = None,
    on_missing: Literal["error", "base", "skip-model"] = "error",
    on_nonfinite: Literal["error", "warn", "ignore"] = "error",
    memory: int | str = "2GiB",
    workers: int = 0,
    progress: Progress | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """Merge models and return the tensors.

    Args:
        models: state dicts (of torch tensors or numpy arrays), modules or paths; as a map, `{name: model}`.
        base: the pretrained model, for methods that work on task vectors.
        method: see `weft.methods()`.
        rules: over tensor names, as in a recipe.
        dtype: the output's number format, a name or a torch dtype; by default the base's, or the first model's, tensor
            by tensor.
        vocabulary: whose rows an embedding has when the models' vocabularies differ, as in a recipe.
        on_missing: what to do about a tensor that a model lacks, as in a recipe.
        on_nonfinite: what to do when a merged tensor holds values that are not finite.
        memory: bytes for tiles and tables beside the models and the result.
        workers: threads; 0 for one per core.
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
    parts = {"method": method, "base": base, "rules": rules, "parameters": parameters}
    output = {"dtype": None if dtype is None else str(dtype).removeprefix("torch.")}
    policies = {"vocabulary": vocabulary, "on_missing": on_missing, "on_nonfinite": on_nonfinite}
    recipe = make_recipe({**parts, "models": _entries(models), "output": output, **policies})
    with _opened(recipe, progress) as inputs:
        made = make_plan(recipe, inputs)
        _warn((*made.warnings, *strangers(made.works, recipe.names)), progress)
        sink = MemorySink(
            made.outputs, {a: item.spec.name for item in made.items for a in item.aliases}, not _is_numpy(recipe)
        )
        divided = budget(Settings(_bytes(memory), workers), made.items)
        _warn(execute(made, divided, sink, progress, on_nonfinite), progress)
    return sink.tensors()


def plan(
    recipe: RecipeLike,
    *,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    memory: int | str = "2GiB",
    workers: int = 0,
) -> Forecast:
    """Say what a merge would do, from headers alone. Nothing is written.

    Args:
        recipe: as for `merge_to`.
        output: where it would go; its disk is then looked at.
        overwrite: whether it may replace what is there.
        memory: as for `merge_to`.
        workers: as for `merge_to`.

    Raises:
        InputError: with every problem that would keep the merge from running.

    Example:
        >>> import numpy as np
        >>> model = {"w": np.zeros((2, 3), np.float32)}
        >>> told = plan({"method": "linear", "models": [model, model]})
        >>> told.read_bytes, told.write_bytes, told.passes
        (48, 24, 1)
    """
    recipe = _recipe(recipe)
    target = Path(output).expanduser() if output is not None else None
    with _opened(recipe) as inputs:
        settings = Settings(_bytes(memory), workers)
        made, _ = _checked(recipe, inputs, settings, target, overwrite)
        return forecast(made, recipe.method, settings, tuple(_described(inputs)), target)


def _checked(
    recipe: Recipe, inputs: Inputs, settings: Settings, target: Path | None, overwrite: bool
) -> tuple[Plan, Budget]:
    """The plan and the budget, after every check; what they find is told at once."""
    problems = Gathering()
    made, divided = None, None
    with problems:
        made = make_plan(recipe, inputs)
    if target is not None:
        with problems:
            check_target(target, inputs, overwrite)
    if made is not None:
        with problems:
            divided = budget(settings, made.items)
    if made is not None and target is not None:
        with problems:
            _check_space(target, _laid_out(made, recipe, inputs, target))
    problems.tell()
    assert made is not None
    assert divided is not None
    return made, divided


def _described(inputs: Inputs) -> Iterator[dict[str, Any]]:
    for label, checkpoint in inputs.all():
        sizes = [spec.size for spec in checkpoint.tensors.values()]
        yield {"name": label, "path": checkpoint.label, "tensors": len(sizes), "parameters": sum(sizes)}


def merge_to(
    recipe: RecipeLike,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    hashes: bool = False,
    memory: int | str = "2GiB",
    workers: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Merge on disk, streaming: memory stays within the budget whatever the size of the models.

    Args:
        recipe: the path of a YAML file; a map with the same keys, and `folder` if relative paths in it shall be
            relative to another folder than the current one; or a `Recipe`.
        output: the folder that shall appear, complete or not at all; or the path of one `.safetensors` file.
        overwrite: replace an output that exists.
        hashes: record content hashes of the output's files, for `weft verify --hash`.
        memory: bytes for tiles, tables and input kept between passes; the interpreter comes on top.
        workers: threads; 0 for one per core.
        progress: is told what happens.

    Returns:
        What was done.

    Raises:
        InputError: for anything that does not fit, before anything is written.
        MergeError: if reading or writing failed; the output does not exist then.
    """
    progress = progress or Progress()
    recipe = _recipe(recipe)
    named = Path(output).expanduser()
    target = named.resolve() if named.is_symlink() else named  # what a link points to is replaced, not the link
    began = time.monotonic()
    with _opened(recipe, progress) as inputs:
        made, divided = _checked(recipe, inputs, Settings(_bytes(memory), workers), target, overwrite)
        layout = _laid_out(made, recipe, inputs, target)
        before = (*made.warnings, *strangers(made.works, recipe.names))
        _warn(before, progress)
        with staging(target, layout) as area:
            notes = execute(made, divided, area, progress, recipe.on_nonfinite)
            _warn(notes, progress)
            progress.phase("writing to disk", 0)
            if target.suffix != ".safetensors":
                _accompany(area.folder, recipe, inputs)
                write_record(area.folder, target, recipe, inputs, layout, hashes)
            area.commit(overwrite)
    seconds = time.monotonic() - began
    remember_rate(bytes_to_move(made), seconds)
    return Report(
        output=target,
        method=recipe.method,
        merged=sum(1 + len(work.aliases) for work in made.works if work.method),
        copied=sum(1 + len(item.aliases) for item in made.items if not (isinstance(item, Work) and item.method)),
        dropped=len(made.dropped),
        read_bytes=bytes_to_read(made),
        write_bytes=made.write_bytes,
        files=tuple(shard.name for shard in layout.shards),
        seconds=seconds,
        warnings=(*before, *notes),
    )


def _recipe(recipe: RecipeLike) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return make_recipe(dict(recipe))
    return load_recipe(Path(recipe))


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


@contextmanager
def _opened(recipe: Recipe, progress: Progress | None = None) -> Iterator[Inputs]:
    problems = Gathering()
    inputs = None
    with problems:
        Resolver(recipe)  # a slip in the parameters is told with the files that are missing
    with problems:
        inputs = open_inputs(recipe, progress)
    try:
        problems.tell()
        assert inputs is not None
        yield inputs
    finally:
        if inputs is not None:
            inputs.close()


def _bytes(memory: int | str) -> int:
    try:
        return parse_size(memory)
    except ValueError as error:
        raise InputError(f"memory: {error}") from None


def _warn(texts: Sequence[str], progress: Progress) -> None:
    for text in texts:
        progress.warning(text)


def _laid_out(plan: Plan, recipe: Recipe, inputs: Inputs, target: Path) -> Layout:
    metadata = {"format": "pt"} | dict(inputs.reference.metadata)
    if target.suffix == ".safetensors":
        return lay_out(plan.outputs, target.stem, plan.write_bytes + 1, metadata)
    return lay_out(plan.outputs, inputs.reference.stem, recipe.output.shard_size, metadata)


def _check_space(target: Path, layout: Layout) -> None:
    free = free_disk(target)
    if layout.size > free:
        what = f"the output needs {layout.size / 1e9:.2f} GB, but the disk of {target} has {free / 1e9:.2f} GB free"
        raise InputError(what, "free some space, or choose an output on another disk")


def _accompany(folder: Path, recipe: Recipe, inputs: Inputs) -> None:
    """Config, tokenizer and the like, from the base."""
    reference: Checkpoint = inputs.reference
    if reference.path and reference.path.is_dir():
        copy_companions(reference.path, folder, BY_NAME[recipe.output.dtype] if recipe.output.dtype else None)
        if inputs.vocabulary:
            inputs.vocabulary.output.write(folder)
