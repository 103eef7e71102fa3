"""What stands beside the weights: the recipe, and files that must be JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weft.checkpoints.folders import is_index
from weft.checkpoints.pipeline import LISTING, components
from weft.engine.record import LOCK, RECIPE
from weft.errors import InputError
from weft.inspection.findings import Finding, from_problems
from weft.inspection.subject import Subject, read_json
from weft.recipes.loading import load_recipe

_READ_ELSEWHERE = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "added_tokens.json", LOCK, LISTING,
)  # fmt: skip


def recipe_parses(subject: Subject) -> Iterator[Finding]:
    """The recipe that lies in the folder can be read, and so the merge can be made again."""
    path = subject.folder / RECIPE if subject.folder else None
    if path is not None and path.is_file():
        try:
            load_recipe(path)
        except InputError as error:
            yield from from_problems(error, "recipe")


def json_parses(subject: Subject) -> Iterator[Finding]:
    """Files that end in .json are JSON; those that another check reads are left to it."""
    for path in _json_files(subject):
        if path.name not in _READ_ELSEWHERE and not is_index(path.name):
            try:
                read_json(path)
            except InputError as error:
                yield from from_problems(error, "json")


def _json_files(subject: Subject) -> Iterator[Path]:
    """Those of the folder and, in a pipeline, of components without weights, which are no subjects of their own."""
    if subject.folder is not None:
        yield from sorted(subject.folder.glob("*.json"))
        for name in components(subject.folder) if subject.below else ():
            if name not in subject.below:
                yield from sorted((subject.folder / name).glob("*.json"))
