"""`weft methods`: what exists, and what its parameters mean."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from weft.algorithms.method import Method


def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method in full.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the merge methods, or explain one: its formula, its parameters, its source.

    **Examples**: `weft methods`, `weft methods ties`
    """
    from weft.algorithms.describing import described
    from weft.algorithms.registry import method, usable
    from weft.cli.reporting import reported

    with reported(as_json):
        kinds, problems = ({name: method(name)}, []) if name else usable()
    if as_json:
        typer.echo(json.dumps([described(kind) for kind in kinds.values()], indent=2))
    elif name:
        _show(kinds[name])
    else:
        _list(list(kinds.values()))
    for problem in problems:
        typer.echo(f"warning: {problem}", err=True)


def _list(kinds: list[type[Method]]) -> None:
    from rich.table import Table

    from weft.algorithms.describing import needs
    from weft.cli.reporting import console

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("method", "what it does", "needs", "parameters"):
        table.add_column(column, no_wrap=column == "method")
    for kind in kinds:
        table.add_row(kind.name, kind.title, needs(kind), ", ".join(kind.model_fields))
    console().print(table)
    console().print("\n[dim]weft methods NAME explains one.[/]")


def _show(kind: type[Method]) -> None:
    from rich.table import Table

    from weft.algorithms.describing import described, readable
    from weft.cli.reporting import console

    told = described(kind)
    out = console()
    out.print(f"[bold]{kind.name}[/] - {kind.title}\n")
    out.print(readable(kind), markup=False, highlight=False)
    out.print(f"\nNeeds: {told['needs'] or 'nothing but models'}. Stands as: {told['place']}.\n")
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("parameter", "default", "allowed", "meaning"):
        table.add_column(column, no_wrap=column in ("parameter", "default"))
    for parameter in told["parameters"]:
        meaning = parameter["description"] + (" [dim](per model)[/]" if parameter["per_model"] else "")
        table.add_row(parameter["name"], json.dumps(parameter["default"]).strip('"'), parameter["allowed"], meaning)
    out.print(table)
