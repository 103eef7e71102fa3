"""What stands beside the weights: the recipe, and files that must be JSON."""

from __future__ import annotations

from collections.abc import Iterator

from weft.checkpoints.safetensors import INDEX
from weft.engine.record import LOCK, RECIPE
from weft.errors import InputError
from weft.inspection.findings import Finding, from_problems
from weft.inspection.subject import Subject, read_json
from weft.recipes.loading import load_recipe

_READ_ELSEWHERE = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "added_tokens.json", LOCK)


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
    for path in sorted(subject.folder.glob("*.json")) if subject.folder else ():
        if path.name not in _READ_ELSEWHERE and not path.name.endswith(INDEX):
            try:
                read_json(path)
            except InputError as error:
                yield from from_problems(error, "json")
