"""`weft verify`: is this checkpoint sound?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.asking import Workers

if TYPE_CHECKING:
    from weft.inspection.findings import Verdict

_WIDE = 400
"""Columns of a table that no terminal shows."""


def verify(
    path: Annotated[
        Path, typer.Argument(metavar="OUT", help="A model folder, or a .safetensors file.", show_default=False)
    ],
    hashes: Annotated[
        bool, typer.Option("--hash", help="Also compare every file's content with weft.lock.json (blake3).")
    ] = False,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Do not read the tensors: done in a moment, finds no NaN.")
    ] = False,
    generate: Annotated[
        str | None,
        typer.Option(metavar="PROMPT", help="Let the model and its parents continue this.", show_default=False),
    ] = None,
    score: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Compare the loss on these texts (.txt, .jsonl) with the parents'.", show_default=False
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Where to run them: cpu, cuda, cuda:1, mps. [default: a GPU if there is one]", show_default=False
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    workers: Workers = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what was found.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Check a merged model, or any other.

    Headers, sizes, index against files, stale files, config against shapes, tied weights, tokenizer against the
    embedding, recipe and lock; every number, for NaN, infinities, constants and holes. Nothing is changed.
    Exit codes: 0 sound (there may be warnings), 1 something is wrong, 2 there is no such path.

    **Examples**

    `weft verify merged`

    `weft verify merged --hash --generate "The capital of France is" --score texts.jsonl`
    """
    from weft.cli.reporting import FAILED, Shown, reported
    from weft.inspection.verify import verify as inspect

    with reported(as_json), Shown(quiet or as_json) as progress:
        verdict = inspect(
            path,
            hashes=hashes,
            numbers=not headers_only,
            generate=generate,
            score=score,
            device=device,
            workers=workers,
            progress=progress,
        )
    if as_json:
        _print_json(verdict, strict)
    else:
        _print(verdict, quiet)
    if not _passes(verdict, strict):
        raise typer.Exit(FAILED)


def _passes(verdict: Verdict, strict: bool) -> bool:
    return verdict.spotless if strict else verdict.ok


def _print(verdict: Verdict, quiet: bool) -> None:
    _print_findings(verdict)
    _print_trials(verdict)
    if not quiet:
        _print_summary(verdict)


def _print_findings(verdict: Verdict) -> None:
    from rich.table import Table

    from weft.cli.reporting import console, literal

    out = console()
    if not out.is_terminal:  # a line for each, for grep and logs
        for finding in verdict.findings:
            out.print(literal(str(finding)), highlight=False)
        return
    if not verdict.findings:
        return
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "check", "what was found"):
        table.add_column(column, no_wrap=column != "what was found", overflow="fold")
    for finding in verdict.findings:
        colour = "bold red" if finding.level == "error" else "yellow"
        text = literal(finding.what) + (f"\n[dim]-> {literal(finding.remedy)}[/]" if finding.remedy else "")
        table.add_row(f"[{colour}]{finding.level}[/]", finding.check, text)
    out.print(table, highlight=False)


def _print_trials(verdict: Verdict) -> None:
    from rich.table import Table

    from weft.cli.reporting import console, literal

    if not verdict.trials:
        return
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("model", "path", "loss", "writes"):
        table.add_column(column, overflow="fold")
    for trial in verdict.trials:
        loss = f"{trial.loss:.4f}" if trial.loss is not None else ""
        table.add_row(literal(trial.role), literal(trial.model), loss, literal(repr(trial.text)) if trial.text else "")
    out = console()
    out.width = out.width if out.is_terminal else _WIDE
    out.print(table, highlight=False)


def _print_summary(verdict: Verdict) -> None:
    from weft.cli.reporting import console, literal, size_text

    out = console()
    for text in verdict.skipped:
        out.print(f"[dim]not checked: {literal(text)}[/]", highlight=False)
    errors, warnings = len(verdict.errors), len(verdict.warnings)
    counts = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    told = f"[red]{counts}[/]" if errors else f"[yellow]sound, {counts}[/]" if warnings else "sound"
    seen = f"{verdict.tensors} tensors in {verdict.files} file{'s' * (verdict.files != 1)}"
    seen += f", {size_text(verdict.bytes_read)} read, {len(verdict.checks)} checks, {verdict.seconds:.1f} s"
    out.print(f"[green]{literal(str(verdict.path))}[/]  {told}; {seen}", highlight=False)


def _print_json(verdict: Verdict, strict: bool) -> None:
    import json
    from dataclasses import asdict

    parts = asdict(verdict)
    typer.echo(json.dumps({"ok": _passes(verdict, strict), **parts, "path": str(verdict.path)}, indent=2))
