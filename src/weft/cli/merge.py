"""`weft merge`: from checkpoints to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from weft.engine.merging import Report
    from weft.recipes.schema import Recipe


def merge(
    what: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE.yaml | MODEL...", help="A recipe, or with -m the models.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write, or a .safetensors file.", show_default=False)
    ],
    method: Annotated[
        str | None,
        typer.Option("--method", "-m", help="Merge MODEL... with this method; see `weft methods`.", show_default=False),
    ] = None,
    base: Annotated[str | None, typer.Option("--base", "-b", help="The pretrained model.", show_default=False)] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME=VALUE",
            help="A parameter of the method, as in YAML: density=0.2, weight=\\[1,2], weight={a: 0.5}.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Number format of the output. [default: the base's, tensor by tensor]", show_default=False),
    ] = None,
    shard_size: Annotated[
        str | None, typer.Option(help="Largest output file. [default: 5GB]", show_default=False)
    ] = None,
    memory: Annotated[str, typer.Option(help="Memory for tensors; the interpreter comes on top.")] = "2GiB",
    workers: Annotated[int, typer.Option(help="Threads. [default: one per core]", show_default=False, min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result, or the problems, as JSON.")] = False,
) -> None:
    """Merge models into one.

    The output appears complete or not at all. Config, tokenizer and whatever else the base's folder holds come along.
    Exit codes: 0 done, 1 the merge failed, 2 something is wrong with the input and nothing was written.

    **Examples**

    `weft merge recipe.yaml -o merged`

    `weft merge -m ties -b base expert-a expert-b expert-c -o merged -p density=0.2`
    """
    from weft.cli.reporting import Shown, reported
    from weft.engine.merging import merge_to

    with reported(as_json), Shown(quiet or as_json) as progress:
        recipe = _recipe(what, method, base, parameter or [], dtype, shard_size)
        report = merge_to(recipe, output, overwrite=overwrite, memory=memory, workers=workers, progress=progress)
    if as_json:
        _print_json(report)
    elif not quiet:
        _print(report)


def _recipe(
    what: list[str],
    method: str | None,
    base: str | None,
    parameters: list[str],
    dtype: str | None,
    shard_size: str | None,
) -> Recipe:
    from weft.errors import InputError
    from weft.recipes.loading import load_recipe, make_recipe

    storage = {key: value for key, value in (("dtype", dtype), ("shard_size", shard_size)) if value is not None}
    if method is not None:
        parts = {"method": method, "base": base, "models": what, "parameters": _parsed(parameters), "output": storage}
        return make_recipe(parts)
    if len(what) != 1 or not what[0].endswith((".yaml", ".yml")):
        raise InputError(
            "give one recipe that ends in .yaml, or models and a method", "weft merge -m linear MODEL MODEL -o OUT"
        )
    for option, value in (("-b", base), ("-p", parameters)):
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


def _print(report: Report) -> None:
    from weft.cli.reporting import console, size_text

    tensors = f"{report.merged} merged"
    tensors += f", {report.copied} copied" if report.copied else ""
    tensors += f", {report.dropped} dropped" if report.dropped else ""
    files = report.files[0] if len(report.files) == 1 else f"{len(report.files)} files"
    size = f"{size_text(report.write_bytes)} in {files}"
    line = f"[green]{report.output}[/]  {report.method}, {tensors}, {size}, {report.seconds:.1f} s"
    console().print(line, highlight=False)


def _print_json(report: Report) -> None:
    import json
    from dataclasses import asdict

    typer.echo(json.dumps({"ok": True, **asdict(report), "output": str(report.output)}, indent=2))
