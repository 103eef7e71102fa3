"""`weft stats`: look into files of statistics, and add them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli import asking

if TYPE_CHECKING:
    from weft.statistics.adding import Contents
    from weft.statistics.files import About

stats = typer.Typer(
    name="stats",
    help="Look into files of statistics, and add them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="What `weft fisher` or its like wrote.")]


@stats.command()
def show(
    file: File,
    tensors: Annotated[bool, typer.Option("--tensors", help="Also every tensor: shape, mean, largest, zeros.")] = False,
    as_json: asking.AsJson = False,
) -> None:
    """Say what a file of statistics was measured on, and whether its numbers are sound.

    Exit codes: 0 sound, 1 it holds numbers that cannot be, 2 it is no such file.

    **Example**: `weft stats show a.fisher.safetensors --tensors`
    """
    from weft.cli.reporting import FAILED, reported
    from weft.statistics.adding import look

    with reported(as_json):
        about, contents = look(file)
    bad = sum(one.bad for one in contents)
    if as_json:
        _print_json(about, contents, sound=not bad)
    else:
        _print(about, contents, tensors)
    if bad:
        raise typer.Exit(FAILED)


@stats.command()
def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE FILE...", help="Statistics of one model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
    as_json: asking.AsJson = False,
) -> None:
    """Add statistics of one model on several data sets.

    Each counts by how many examples (of Gram matrices: vectors) it was measured on: the result is what measuring all
    data at once would give.

    **Example**: `weft stats add monday.fisher.safetensors tuesday.fisher.safetensors -o both.fisher.safetensors`
    """
    from weft.cli.reporting import console, literal, reported
    from weft.statistics.adding import add as add_files

    with reported(as_json):
        about = add_files(files, output, overwrite=overwrite)
    if as_json:
        _print_json(about, [], sound=True)
    else:
        told = f"{about.kind} of {about.task}, {about.examples:,} examples, {about.tokens:,} tokens"
        console().print(f"[green]{literal(str(output))}[/]  {literal(told)}", highlight=False)


def _print(about: About, contents: list[Contents], tensors: bool) -> None:
    from weft.cli.reporting import console, literal

    out = console()
    for key, text in _lines(about, contents):
        out.print(f"[bold]{key:<12}[/] {literal(text)}", highlight=False)
    for one in contents if tensors else ():
        shape = "x".join(map(str, one.shape)) or "scalar"
        told = f"{one.name}  {shape}  mean {one.mean:.3e}  largest {one.largest:.3e}  zeros {one.zeros:.1%}"
        out.print(literal(told), highlight=False)
    for one in contents:
        if one.bad:
            out.print(f"[bold red]error:[/] {literal(f'{one.name}: {one.bad} {_wrong(about.kind)}')}", highlight=False)


def _wrong(kind: str) -> str:
    return "numbers are NaN, infinite or negative" if kind == "fisher" else "numbers are NaN or infinite"


def _lines(about: About, contents: list[Contents]) -> list[tuple[str, str]]:
    from math import prod

    size = sum(prod(one.shape) for one in contents)
    zeros = sum(one.zeros * prod(one.shape) for one in contents) / max(size, 1)
    labels = f"{about.labels}, {about.samples} drawn for each example" if about.samples else about.labels
    lines = [
        ("kind", f"{about.kind} of {about.task}"),
        ("model", about.model),
        *([("put into", f"{about.base}, by {about.partition}")] if about.base else []),
        ("data", f"{about.data} ({about.data_sha256[:12]})"),
        ("measured", f"{about.examples:,} examples, {about.tokens:,} tokens"),
        ("labels", labels or "none needed"),
        ("tensors", f"{len(contents)}, {size:,} numbers, {zeros:.1%} of them 0"),
        ("versions", about.versions),
    ]
    return lines if about.norm is None else [*lines, ("norm", f"{about.norm:.6g}")]


def _print_json(about: About, contents: list[Contents], *, sound: bool) -> None:
    import json
    from dataclasses import asdict

    told = {**asdict(about), "tensors": [asdict(one) for one in contents]}
    typer.echo(json.dumps({"ok": sound, **told}, indent=2))
