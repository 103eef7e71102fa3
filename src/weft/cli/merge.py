"""`weft merge`: from checkpoints to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli import asking

if TYPE_CHECKING:
    from weft.engine.merging import Report

_UNFINISHED = "What was done is kept beside the output: the same command goes on from there, `weft clean` removes it."
_NOTHING = "Nothing was finished that could be kept: the same command begins anew."


def _unfinished(output: Path | None) -> str:
    """What to say of a merge that did not come to its end."""
    from weft.checkpoints.beside import JOURNAL, STAGING, beside
    from weft.engine.journal import holds_work

    if output is None or not (beside(output, STAGING) / JOURNAL).exists():
        return ""
    return _UNFINISHED if holds_work(output) else _NOTHING


def merge(
    what: asking.OptionalWhat = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder to write, or a .safetensors file.", show_default=False),
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard what an interrupted merge left of this output.")
    ] = False,
    hashes: Annotated[bool, typer.Option("--hash", help="Record content hashes of the output's files.")] = False,
    reproduce: Annotated[
        Path | None,
        typer.Option(help="Merge again as this earlier output says, and compare.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen, as `weft plan`.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    as_json: asking.AsJson = False,
) -> None:
    """Merge models into one.

    The output appears complete or not at all; a merge that was killed or interrupted goes on with the same command.
    Config, tokenizer and whatever else the base's folder holds come along.
    Exit codes: 0 done, 1 the merge failed, 2 something is wrong with the input and nothing was written.

    **Examples**

    `weft merge recipe.yaml -o merged`

    `weft merge -m ties -b base expert-a expert-b expert-c -o merged -p density=0.2`
    """
    from weft.cli.plan import show_plan
    from weft.cli.reporting import Shown, reported
    from weft.engine.merging import merge_to

    with reported(as_json, lambda: _unfinished(output)):
        options: dict[str, Any] = {"overwrite": overwrite, "restart": restart, "memory": memory, "workers": workers}
        options |= {"hashes": hashes, "device": device}
        if reproduce is not None:
            others = {"MODEL": what, "-m": method, "-b": base, "--before": before, "--after": after, "-p": parameter}
            asking.refuse_with("--reproduce", others)
            report = _again(reproduce, _named(output), quiet or as_json, options)
            _tell(report, quiet, as_json)
            return
        recipe = asking.asked_recipe(what or [], method, base, before, after, parameter or [], dtype, shard_size)
        if dry_run:
            show_plan(recipe, output, overwrite, memory, workers, as_json, restart, device)
            return
        with Shown(quiet or as_json) as progress:
            target = _named(output)
            report = merge_to(recipe, target, progress=progress, **options)
    _tell(report, quiet, as_json)


def _again(previous: Path, output: Path, quiet: bool, options: dict[str, Any]) -> Report:
    from weft.cli.reporting import Shown
    from weft.engine.reproducing import reproduce

    with Shown(quiet) as progress:
        return reproduce(previous, output, progress=progress, **options)


def _tell(report: Report, quiet: bool, as_json: bool) -> None:
    if as_json:
        _print_json(report)
    elif not quiet:
        _print(report)


def _named(output: Path | None) -> Path:
    from weft.errors import InputError

    if output is None:
        raise InputError("no output is named", "add -o OUT, or --dry-run to see what would happen")
    return output


def _print(report: Report) -> None:
    from weft.cli.reporting import console, literal, size_text

    tensors = f"{report.merged} merged"
    tensors += f", {report.copied} copied" if report.copied else ""
    tensors += f", {report.dropped} dropped" if report.dropped else ""
    files = report.files[0] if len(report.files) == 1 else f"{len(report.files)} files"
    size = f"{size_text(report.write_bytes)} in {files}"
    line = f"[green]{literal(str(report.output))}[/]  {report.method}, {tensors}, {size}, {report.seconds:.1f} s"
    line += ", gone on with" if report.continued else ""
    line += f"\nthe same bytes as {literal(str(report.reproduced))}" if report.reproduced else ""
    console().print(line, highlight=False)


def _print_json(report: Report) -> None:
    import json
    from dataclasses import asdict

    paths = {"output": str(report.output), "reproduced": str(report.reproduced) if report.reproduced else None}
    typer.echo(json.dumps({"ok": True, **asdict(report), **paths}, indent=2))
