"""`weft clean`: remove what interrupted merges and measurements left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli import asking

if TYPE_CHECKING:
    from weft.checkpoints.leftovers import Abandoned


def clean(
    place: Annotated[Path, typer.Argument(help="A folder to look in, or an output that was never finished.")] = Path(),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: asking.AsJson = False,
) -> None:
    """Remove what interrupted merges and measurements keep beside their outputs so that they could go on.

    Outputs themselves are never touched, nor what a running command is writing. An old output that a crash left aside
    in the middle of its replacement is put back.

    **Example**: `weft clean runs`
    """
    import json

    from weft.checkpoints.leftovers import find_abandoned, remove_abandoned
    from weft.cli.reporting import console, literal, reported, size_text

    with reported(as_json):
        found = list(find_abandoned(place.expanduser()))
        if not as_json:
            for one in found:
                told = f"{one.place}  {size_text(one.size)}, {_age(one.seconds)} old"
                console().print(literal(told), highlight=False)
        if found and not yes:
            _ask(sum(one.size for one in found), as_json)
        for one in found:
            remove_abandoned(one.target)
    if as_json:
        typer.echo(json.dumps({"ok": True, "removed": [_told(one) for one in found]}, indent=2))
    elif not found:
        console().print(literal(f"nothing to remove in {place}"), highlight=False)


def _ask(size: int, as_json: bool) -> None:
    """Make sure that it is meant.

    Raises:
        InputError: where nobody can be asked.
    """
    import sys

    from weft.cli.reporting import size_text
    from weft.errors import InputError

    if as_json or not sys.stdin.isatty():
        raise InputError("what would be removed cannot be made again without its command", "add --yes")
    typer.confirm(f"Remove {size_text(size)}? Their commands would begin anew", abort=True)


def _told(one: Abandoned) -> dict[str, Any]:
    return {"output": str(one.target), "folder": str(one.place), "bytes": one.size, "seconds": round(one.seconds)}


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
