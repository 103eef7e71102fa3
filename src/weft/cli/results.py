"""What `weft evaluate` and `weft bench` share: where results may go, and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from weft.evaluation.results import Results

NOT_FINITE = "[red]not finite[/]"
"""Stands in a table for a score that is no number."""
REMEDY = "see `weft verify` for what is wrong with it"


def check_output(output: Path | None, inputs: Iterable[Path], overwrite: bool) -> None:
    """See that results may be written there, before anything is computed.

    Raises:
        InputError: if they may not.
    """
    from weft.evaluation import outputs

    if output is not None:
        outputs.check_output(
            output, inputs=inputs, is_ours=outputs.is_results, what="a file of results", overwrite=overwrite
        )


def print_json(results: Results) -> None:
    """All of them; `ok` only if no score is lacking."""
    failures = results.failures()
    problems = {"problems": [{"what": what, "remedy": REMEDY} for what in failures]} if failures else {}
    typer.echo(json.dumps({"ok": not failures, **problems, **results.as_json()}, indent=2))


def print_known(results: Results, remedy: str = "") -> None:
    """A table from the cache looks like one that was computed now."""
    from weft.cli.reporting import console

    known, count = results.known()
    if known:
        text = f"{known} of {count} scores were known from an earlier run{remedy}."
        console().print(f"[dim]{text}[/]", highlight=False)


def end(results: Results, as_json: bool) -> None:
    """Exit with code 1 if scores are lacking, having said why."""
    from rich.console import Console

    from weft.cli.reporting import FAILED, literal

    failures = results.failures()
    for what in () if as_json else failures:
        text = f"[bold red]error:[/] {literal(what)}\n  -> {literal(REMEDY)}"
        Console(stderr=True, soft_wrap=True).print(text, highlight=False)
    if failures:
        raise typer.Exit(FAILED)
