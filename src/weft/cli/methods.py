"""`weft methods`: what exists, and what its parameters mean."""

from __future__ import annotations

import inspect
import json
import re
from typing import TYPE_CHECKING, Annotated, Any

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
    from weft.algorithms.registry import METHODS, method
    from weft.cli.reporting import reported

    with reported(as_json):
        chosen = [method(name)] if name else list(METHODS.values())
    if as_json:
        typer.echo(json.dumps([_described(kind) for kind in chosen], indent=2))
    elif name:
        _show(chosen[0])
    else:
        _list(chosen)


def _described(kind: type[Method]) -> dict[str, Any]:
    return {
        "name": kind.name,
        "title": kind.title,
        "formula": kind.formula,
        "source": kind.source,
        "needs_base": kind.needs_base,
        "parameters": [
            {
                "name": field,
                "default": info.default,
                "per_model": kind.is_per_model(field),
                "allowed": _allowed(kind, field),
                "description": info.description,
            }
            for field, info in kind.model_fields.items()
        ],
    }


def _allowed(kind: type[Method], field: str) -> str:
    """In words: what values a parameter takes, read from its JSON schema."""
    schema = kind.model_json_schema()["properties"][field]
    schema = schema.get("items", schema)
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    low, high = schema.get("minimum"), schema.get("maximum")
    number = "a number"
    if low is not None:
        number = f"{low:g} or more" if high is None else f"from {low:g} to {high:g}"
    return {"number": number, "integer": number.replace("a number", "a whole number"), "boolean": "true or false"}.get(
        schema.get("type", ""), "see there"
    )


def _list(kinds: list[type[Method]]) -> None:
    from rich.table import Table

    from weft.cli.reporting import console

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("method", "what it does", "base", "parameters"):
        table.add_column(column, no_wrap=column == "method")
    for kind in kinds:
        table.add_row(kind.name, kind.title, "needed" if kind.needs_base else "optional", ", ".join(kind.model_fields))
    console().print(table)
    console().print("\n[dim]weft methods NAME explains one.[/]")


def _show(kind: type[Method]) -> None:
    from rich.table import Table

    from weft.cli.reporting import console

    out = console()
    out.print(f"[bold]{kind.name}[/] - {kind.title}\n")
    out.print(_readable(kind), markup=False, highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("parameter", "default", "allowed", "meaning"):
        table.add_column(column, no_wrap=column in ("parameter", "default"))
    for parameter in _described(kind)["parameters"]:
        meaning = parameter["description"] + (" [dim](per model)[/]" if parameter["per_model"] else "")
        table.add_row(parameter["name"], json.dumps(parameter["default"]).strip('"'), parameter["allowed"], meaning)
    out.print()
    out.print(table)


def _readable(kind: type[Method]) -> str:
    """The docstring without its example and markup, the formula as a terminal can show it."""
    text = (inspect.getdoc(kind) or "").split("\n\nExample:")[0]
    text = re.sub(r"\.\. math::.*?\n\n", lambda _: f"    {kind.formula}\n\n", text, flags=re.DOTALL)
    return re.sub(r"\*\*([^*]+)\*\*", r"\1", text)
