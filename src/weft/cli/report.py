"""`weft report`: results as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli import asking


def report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="JSON files that `weft evaluate -o` wrote.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is no page of ours.")] = False,
    as_json: asking.AsJson = False,
) -> None:
    """Turn results into one HTML page: leaderboard, bars, curves. It needs no network and no other file.

    Rows of several results stand in one table if their tasks are the same. An earlier page is replaced.
    Exit codes: 0 done, 2 something is wrong with the input and nothing was written.

    **Examples**

    `weft report results.json -o page.html`
    """
    import json

    from weft.cli.reporting import console, literal, reported, size_text

    with reported(as_json):
        from weft.evaluation.report import write_report

        write_report(results, output, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps({"ok": True, "output": str(output)}, indent=2))
    else:
        console().print(f"[green]{literal(str(output))}[/]  {size_text(output.stat().st_size)}", highlight=False)
