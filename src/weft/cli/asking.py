"""What `merge` and `plan` are asked in common: a recipe, or models and a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from weft.recipes.schema import Recipe

What = Annotated[
    list[str],
    typer.Argument(metavar="RECIPE.yaml | MODEL...", help="A recipe, or with -m the models.", show_default=False),
]
OptionalWhat = Annotated[
    list[str] | None,
    typer.Argument(metavar="RECIPE.yaml | MODEL...", help="A recipe, or with -m the models.", show_default=False),
]
Method = Annotated[
    str | None,
    typer.Option("--method", "-m", help="Merge MODEL... with this method; see `weft methods`.", show_default=False),
]
Base = Annotated[str | None, typer.Option("--base", "-b", help="The pretrained model.", show_default=False)]
Parameter = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        "-p",
        metavar="NAME=VALUE",
        help="A parameter of the method, as in YAML: density=0.2, weight=\\[1,2], weight={a: 0.5}; "
        "before.drop=0.5 for the step before it, after.alpha=0.2 for the one after.",
        show_default=False,
    ),
]
Before = Annotated[
    str | None,
    typer.Option(help="Change every task vector first: a sparsifier, such as dare.", show_default=False),
]
After = Annotated[
    str | None, typer.Option(help="Correct the merged tensors: a correction, such as svc.", show_default=False)
]
DType = Annotated[
    str | None,
    typer.Option(help="Number format of the output. [default: the base's, tensor by tensor]", show_default=False),
]
ShardSize = Annotated[str | None, typer.Option(help="Largest output file. [default: 5GB]", show_default=False)]
Memory = Annotated[str, typer.Option(help="Memory for tensors; the interpreter comes on top.")]
Workers = Annotated[int, typer.Option(help="Threads. [default: one per core]", show_default=False, min=0)]
Device = Annotated[
    str, typer.Option(help="Where torch computes what a method sees whole: cpu, cuda, cuda:1 ...", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result, or the problems, as JSON.")]


def asked_recipe(
    what: list[str],
    method: str | None,
    base: str | None,
    before: str | None,
    after: str | None,
    parameters: list[str],
    dtype: str | None,
    shard_size: str | None,
) -> Recipe:
    """The recipe that a command line describes.

    Raises:
        InputError: for a combination of arguments that means nothing, and for every problem of the recipe.
    """
    from weft.errors import InputError
    from weft.recipes.loading import load_recipe, make_recipe

    storage = {key: value for key, value in (("dtype", dtype), ("shard_size", shard_size)) if value is not None}
    recipes = [text for text in what if text.endswith((".yaml", ".yml"))]
    if method is not None and recipes:
        raise InputError(f"-m does not go with a recipe ({recipes[0]})", "write the method into the recipe")
    if method is not None:
        own, steps = divided(parameters, {"before": before, "after": after})
        parts = {"method": method, "base": base, **steps, "models": what, "parameters": own}
        return make_recipe({**parts, "output": storage})
    if len(what) != 1 or not what[0].endswith((".yaml", ".yml")):
        raise InputError(
            "give one recipe that ends in .yaml, or models and a method", "weft merge -m linear MODEL MODEL -o OUT"
        )
    for option, value in (("-b", base), ("-p", parameters), ("--before", before), ("--after", after)):
        if value:
            raise InputError(f"{option} does not go with a recipe", "write it into the recipe")
    recipe = load_recipe(what[0])
    changed = {**recipe.output.model_dump(), **storage}
    return make_recipe({**dict(recipe), "output": changed})


def _parsed(parameters: list[str]) -> dict[str, Any]:
    import yaml

    from weft.errors import InputError

    parsed: dict[str, Any] = {}
    for text in parameters:
        name, equals, value = text.partition("=")
        if not equals or not name or name in parsed:
            raise InputError(
                f"-p {text}: " + ("given twice" if name in parsed else "not of the form NAME=VALUE"), "-p density=0.2"
            )
        try:
            parsed[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"-p {text}: {' '.join(str(error).split())}", "quote it: -p 'weight={a: 0.5}'") from None
    return parsed


def divided(
    given: list[str], named: Mapping[str, str | None]
) -> tuple[dict[str, Any], dict[str, dict[str, Any] | None]]:
    """The method's own parameters, and the steps before and after it with those that are written `before.NAME`.

    Raises:
        InputError: for what is not of the form NAME=VALUE, and for parameters of a step that is not there.
    """
    from weft.errors import InputError

    parameters = _parsed(given)
    steps: dict[str, dict[str, Any] | None] = {}
    for place, method in named.items():
        own = {name: value for name, value in parameters.items() if name.startswith(f"{place}.")}
        if own and method is None:
            raise InputError(f"-p {next(iter(own))}: there is no step {place} the method", f"add --{place} NAME")
        chained = {name.removeprefix(f"{place}."): value for name, value in own.items()}
        steps[place] = {"method": method, **chained} if method is not None else None
        parameters = {name: value for name, value in parameters.items() if name not in own}
    return parameters, steps


def refuse_with(option: str, others: Mapping[str, Any]) -> None:
    """Refuse what would have no effect beside an option.

    Raises:
        InputError: naming the first such thing.
    """
    from weft.errors import InputError

    for name, value in others.items():
        if value:
            raise InputError(f"{name} does not go with {option}", "the recipe is taken from that output")
