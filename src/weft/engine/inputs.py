"""All checkpoints of a merge, opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.algorithms.program import Taken
from weft.checkpoints.adapter import open_adapted
from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.hub import Fetched, bring_tokenizers, check_room, fetch, glance, is_hub_id
from weft.checkpoints.hub_headers import open_adapter_headers
from weft.checkpoints.hub_ranges import told_doubts
from weft.checkpoints.opening import expanded, open_checkpoint, open_remote
from weft.checkpoints.renamed import renamed, without_stray_prefix
from weft.checkpoints.sources import SourceFile
from weft.checkpoints.spread import Spread
from weft.engine.collector import collector_waits
from weft.engine.progress import Progress
from weft.engine.vocabulary import Settled, fitted, settle_vocabularies
from weft.errors import InputError, Problem, labelled
from weft.recipes.schema import ModelEntry, Recipe

_AS_IT_IS = Taken()


@dataclass
class Inputs:
    """The base, the models and, as they are asked for, the tensors that stand beside them.

    Attributes:
        names: the models' names.
        models: their checkpoints, in order.
        base: the base's checkpoint, if the recipe has one.
        folder: what relative paths are relative to.
        notes: what was done to make them fit, in words.
        fetched: those that came from the Hub, with their revisions.
        vocabulary: which rows the inputs were given for tokens, and what the output must say of them.
    """

    names: tuple[str, ...]
    models: list[Checkpoint]
    base: Checkpoint | None
    folder: Path
    notes: tuple[str, ...] = ()
    fetched: Mapping[str, Fetched] = field(default_factory=dict)
    vocabulary: Settled | None = None
    _auxiliary: dict[tuple[int, str], tuple[Any, Checkpoint]] = field(default_factory=dict)

    @property
    def reference(self) -> Checkpoint:
        """The checkpoint that lends order, number formats, config and tokenizer: the base, else the first model."""
        return self.base or self.models[0]

    def all(self) -> Iterator[tuple[str, Checkpoint]]:
        """Every checkpoint that is merged, the reference first, with what to call it."""
        if self.base:
            yield "base", self.base
        yield from zip((f"model {name!r}" for name in self.names), self.models, strict=True)

    def called(self, name: str) -> Checkpoint:
        """The checkpoint that a rule calls `name`."""
        if name == "base" and self.base:
            return self.base
        return self.models[self.names.index(name)]

    def auxiliary(self, source: Any, label: str, taken: Taken = _AS_IT_IS) -> Checkpoint:
        """The tensors beside a model, such as its Fisher, or beside them all; each is opened once.

        Args:
            source: where they are.
            label: `fisher of model 'a'`; without a model, they have the rows of the reference.
            taken: how to take them.
        """
        key = (id(source), label)
        if key not in self._auxiliary:
            checkpoint = open_checkpoint(_located(source, self.folder), label)
            of = "base" if taken.at_base else label.partition(" of ")[2] or next(self.all())[0]
            maps = self.vocabulary.maps.get(of, {}) if self.vocabulary else {}
            checkpoint = fitted(checkpoint, maps)
            shapes = {name: spec.shape for name, spec in self.reference.tensors.items()} if taken.spread else {}
            self._auxiliary[key] = (source, Spread(checkpoint, shapes) if taken.spread else checkpoint)
        return self._auxiliary[key][1]

    def opened(self, source: Any, label: str) -> Checkpoint | None:
        """Such a checkpoint, if it could be opened."""
        return self._auxiliary.get((id(source), label), (None, None))[1]

    def unwritten(self, target: Path | None) -> Iterator[str]:
        """What the output ought to say of a vocabulary that `vocabulary:` changed, and has no file to say it in.

        Args:
            target: the output; None if it stays in memory.
        """
        change = self.vocabulary.output.change if self.vocabulary else ""
        path = self.reference.path
        lends = path is not None and path.is_dir()
        if change and (target is None or target.suffix == ".safetensors" or not lends):
            where = "the output" if target is None else str(target)
            yield (
                f"the vocabulary of {where} has {change}, but there is no config.json and no tokenizer beside it to "
                "say so: change those that the model is used with"
            )

    def auxiliaries(self) -> list[Checkpoint]:
        """Those opened so far."""
        return [checkpoint for _, checkpoint in self._auxiliary.values()]

    def beside(self) -> Iterator[tuple[str, Checkpoint]]:
        """The same, each with what to call it."""
        return ((label, checkpoint) for (_, label), (_, checkpoint) in self._auxiliary.items())

    @property
    def download_bytes(self) -> int:
        """Bytes on the Hub that a merge would have to download first; each repository counts once."""
        remotes = [fetched.remote for fetched in self.fetched.values() if fetched.remote]
        return sum({(remote.request.name, remote.commit): remote.missing for remote in remotes}.values())

    def doubts(self) -> tuple[str, ...]:
        """What a plan from headers alone had to leave open so far, in words."""
        return told_doubts(fetched.remote for fetched in self.fetched.values() if fetched.remote)

    def sources(self) -> list[SourceFile]:
        """All files that numbers come from, as they were when they were opened."""
        return [file for c in (*(c for _, c in self.all()), *self.auxiliaries()) for file in c.sources]

    def close(self) -> None:
        """Release all files."""
        for checkpoint in (*(c for _, c in self.all()), *self.auxiliaries()):
            checkpoint.close()


@collector_waits()
def open_inputs(recipe: Recipe, progress: Progress | None = None, *, headers_only: bool = False) -> Inputs:
    """Open every checkpoint of a recipe, under the tensor names that the recipe gives them; Hub ids are downloaded.

    Args:
        recipe: which checkpoints.
        progress: is told of downloads.
        headers_only: of models on the Hub that are not in the cache, fetch what a plan needs and leave the weights.

    Raises:
        InputError: with a problem for each that cannot be opened.
    """

    def bring(hub_id: str) -> Fetched:
        if headers_only:
            return glance(hub_id, folder=recipe.folder)
        return _downloaded(hub_id, recipe.folder, progress or Progress())

    opened, fetched = _open_each(recipe, bring)
    read = tuple(note for checkpoint in opened.values() for note in checkpoint.notes)
    base = opened.pop("base", None)
    models, notes = _under_common_names(base, list(opened.values()))
    try:
        _prepare_comparison(recipe, [*models, *([base] if base else [])], fetched)
        settled = settle_vocabularies(recipe, base, models, _adapters(recipe, fetched))
    except InputError:
        for checkpoint in (*models, *([base] if base else [])):
            checkpoint.close()
        raise
    notes += (*read, *(f.note for f in fetched.values() if f.note), *settled.notes)
    return Inputs(recipe.names, settled.models, settled.base, recipe.folder, notes, fetched, settled)


def _open_each(recipe: Recipe, bring: Callable[[str], Fetched]) -> tuple[dict[str, Checkpoint], dict[str, Fetched]]:
    """Every checkpoint, by what to call it, and what was brought from the Hub; or the problems of all that fail."""
    opened: dict[str, Checkpoint] = {}
    fetched: dict[str, Fetched] = {}
    problems: list[Problem] = []
    for label, entry, changes in _entries(recipe):
        try:
            for of, source in ((label, entry.path), (f"adapter of {label}", entry.adapter)):
                if isinstance(source, str) and is_hub_id(source, recipe.folder):
                    fetched[of] = bring(source)
            opened[label] = _opened(entry, fetched, recipe.folder, label)
            opened[label] = renamed(opened[label], changes)
        except InputError as error:
            problems += [labelled(label, problem) for problem in error.problems]
    if problems:
        for checkpoint in opened.values():
            checkpoint.close()
        raise InputError(problems)
    return opened, fetched


def _opened(entry: ModelEntry, fetched: Mapping[str, Fetched], folder: Path, label: str) -> Checkpoint:
    """The model, with its adapter if it has one."""
    here = fetched.get(label)
    if here and here.remote:
        checkpoint = open_remote(here.remote)
    else:
        checkpoint = open_checkpoint(here.path if here else _located(entry.path, folder), label)
    if here:
        checkpoint.label = str(entry.path)  # a person knows the id, not the folder in the cache
    if entry.adapter is None:
        return checkpoint
    there = fetched.get(f"adapter of {label}")
    try:
        weights = open_adapter_headers(there.remote) if there and there.remote else None
        return open_adapted(checkpoint, there.path if there else _located(entry.adapter, folder), label, weights)
    except InputError:
        checkpoint.close()
        raise


def _adapters(recipe: Recipe, fetched: Mapping[str, Fetched]) -> dict[str, Path]:
    """The folders of adapters, by the labels of their models: an adapter may bring a tokenizer of its own."""
    entries = [(label, entry) for label, entry, _ in _entries(recipe) if entry.adapter is not None]
    here = {label: fetched.get(f"adapter of {label}") for label, _ in entries}
    return {
        label: there.path if (there := here[label]) else _located(entry.adapter, recipe.folder)
        for label, entry in entries
    }


def _prepare_comparison(recipe: Recipe, checkpoints: list[Checkpoint], fetched: Mapping[str, Fetched]) -> None:
    """See that downloads will have room, and fetch tokenizers if they may differ: they can take megabytes."""
    remotes = [f.remote for f in fetched.values() if f.remote]
    check_room(remotes)
    shapes = [sorted(spec.shape for spec in checkpoint.tensors.values()) for checkpoint in checkpoints]
    all_remote = len(remotes) == len(fetched) == len(checkpoints)
    same = all(r.tokenizer == remotes[0].tokenizer for r in remotes) and all(s == shapes[0] for s in shapes)
    if recipe.vocabulary is not None or not all_remote or not same:
        bring_tokenizers(remotes)


def _downloaded(hub_id: str, folder: Path, progress: Progress) -> Fetched:
    seen = 0

    def told(name: str, here: int, total: int) -> None:
        nonlocal seen
        if seen == 0:
            progress.phase(f"downloading {name}", total)
        progress.advance(here - seen)
        seen = here

    return fetch(hub_id, folder=folder, progress=told)


def _entries(recipe: Recipe) -> Iterator[tuple[str, ModelEntry, dict[str, str]]]:
    """What to call each checkpoint, where it is, and how its tensors' names change."""
    if recipe.base is not None:
        yield "base", ModelEntry(path=recipe.base), {}
    for name, entry in zip(recipe.names, recipe.models, strict=True):
        yield f"model {name!r}", entry, {**entry.rename, **recipe.rename}


def _under_common_names(base: Checkpoint | None, models: list[Checkpoint]) -> tuple[list[Checkpoint], tuple[str, ...]]:
    """The models without the prefixes that the reference does not have, and what was done about them."""
    expected = (base or models[0]).tensors.keys()
    pairs = [without_stray_prefix(model, expected) for model in models]
    return [model for model, _ in pairs], tuple(said for _, said in pairs if said)


def _located(source: Any, folder: Path) -> Any:
    return folder / expanded(source) if isinstance(source, (str, os.PathLike)) else source
