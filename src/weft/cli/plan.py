"""`weft plan`: what a merge would do, from headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli import asking

if TYPE_CHECKING:
    from weft.engine.forecast import Forecast
    from weft.recipes.schema import Recipe


def plan(
    what: asking.What,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the merge would write; its disk is looked at.", show_default=False),
    ] = None,
    method: asking.Method = None,
    base: asking.Base = None,
    before: asking.Before = None,
    after: asking.After = None,
    parameter: asking.Parameter = None,
    dtype: asking.DType = None,
    shard_size: asking.ShardSize = None,
    memory: asking.Memory = "2GiB",
    workers: asking.Workers = 0,
    device: asking.Device = "cpu",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="The merge may replace an output that exists.")
    ] = False,
    as_json: asking.AsJson = False,
) -> None:
    """Say what a merge would do: bytes, passes, memory, disk, time, and what happens to which tensors.

    Reads headers only and writes nothing; of models on the Hub it fetches kilobytes. Every problem that would keep the
    merge from running is told; then the exit code is 2.

    **Example**: `weft plan recipe.yaml`
    """
    from weft.cli.reporting import reported

    with reported(as_json):
        recipe = asking.asked_recipe(what, method, base, before, after, parameter or [], dtype, shard_size)
        show_plan(recipe, output, overwrite, memory, workers, as_json, device=device)


def show_plan(
    recipe: Recipe,
    output: Path | None,
    overwrite: bool,
    memory: str,
    workers: int,
    as_json: bool,
    restart: bool = False,
    device: str = "cpu",
) -> None:
    """Make a plan and print it."""
    import json
    from dataclasses import asdict

    from weft.engine.merging import plan

    options: dict[str, Any] = {"memory": memory, "workers": workers, "device": device}
    told = plan(recipe, output=output, overwrite=overwrite, restart=restart, **options)
    if as_json:
        typer.echo(json.dumps({"ok": True, **asdict(told)}, indent=2))
    else:
        _print(told)


def _print(told: Forecast) -> None:
    from weft.cli.reporting import console, literal

    out = console()
    width = max(len(described["name"]) for described in told.inputs)
    for described in told.inputs:
        counts = f"{described['tensors']:,} tensors, {described['parameters']:,} parameters"
        named = literal(f"{described['name']:<{width}}  {described['path']}")
        out.print(f"{named}  [dim]{counts}[/]", highlight=False)
    out.print()
    out.print(_groups(told))
    out.print()
    for name, text in _figures(told):
        out.print(f"{name:<8} {text}", highlight=False)
    for text in told.warnings:
        out.print(f"[yellow]warning:[/] {literal(text)}", highlight=False)


def _groups(told: Forecast) -> object:
    from rich.table import Table

    from weft.cli.reporting import literal, size_text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("tensors", "parameters", "bytes"):
        table.add_column(column, justify="right")
    table.add_column("what happens")
    table.add_column("decided by")
    for group in told.groups:
        decided = f"rule {group.rule}" if group.rule else "the recipe"
        counts = (f"{group.tensors:,}", f"{group.parameters:,}", size_text(group.bytes))
        table.add_row(*counts, literal(group.action), literal(decided))
    return table


def _figures(told: Forecast) -> list[tuple[str, str]]:
    from weft.cli.reporting import size_text

    times = "once" if told.passes == 1 else f"in {told.passes} passes"
    free = f" of {size_text(told.free_disk)} free" if told.free_disk is not None else ""
    unknown = "unknown: matrices take time of their own" if told.whole_memory else "unknown before the first merge"
    seconds = unknown if told.seconds is None else f"about {max(told.seconds, 0.1):.1f} s"
    whole = f", {size_text(told.whole_memory)} of it for whole tensors" if told.whole_memory else ""
    download = f"{size_text(told.download_bytes)} from the Hub first, which the time leaves out"
    return [
        *([("download", download)] if told.download_bytes else []),
        ("read", f"{size_text(told.read_bytes)}, {times}"),
        ("write", f"{size_text(told.write_bytes)}{free}"),
        ("memory", f"{size_text(told.peak_memory)} at most{whole}"),
        ("time", seconds),
    ]
