"""`weft evaluate`: models against tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli import asking
from weft.cli.results import NOT_FINITE, check_output, end, print_json, print_known

if TYPE_CHECKING:
    from weft.evaluation.results import Results, Row


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Model folders, or ids on the Hub.", show_default=False),
    ],
    tasks: Annotated[
        list[Path] | None,
        typer.Option("--tasks", "-t", help="A task's YAML file, or a folder of them; repeatable.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A JSON file for the results; see `weft report`.", show_default=False),
    ] = None,
    experts: Annotated[
        Path | None,
        typer.Option(
            help="A folder with a model for each task, called as the task: scores are also told as parts of theirs.",
            show_default=False,
        ),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Add the experts' averaged predictions as a row.")
    ] = False,
    heads: Annotated[
        Path | None,
        typer.Option(help="A folder with a head for each task: TASK.safetensors, or a model TASK.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Where the tasks' relative data folders are. [default: beside the task's file]"),
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    limit: Annotated[
        int | None, typer.Option(help="Only the first so many examples of each task.", show_default=False, min=1)
    ] = None,
    batch: Annotated[int, typer.Option(help="Examples at a time.", min=1)] = 32,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [default: the fastest]", show_default=False)
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Number format of matrix products: float32, bfloat16, float16.")
    ] = "float32",
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute anew what is known already.")] = False,
    lm_eval: Annotated[
        list[str] | None,
        typer.Option(
            "--lm-eval", metavar="TASK", help="Also a task of lm-evaluation-harness; repeatable.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Let -o replace a file that is no results.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the table, warnings and errors.")] = False,
    as_json: asking.AsJson = False,
) -> None:
    """Score models on tasks: a table, and with -o a JSON file.

    A score is known for good once it was computed: it is kept under a hash of the model, the task and the code.
    Exit codes: 0 done, 1 a model's scores are not finite, 2 something is wrong with the input.

    **Examples**

    `weft evaluate merged --tasks tasks`

    `weft evaluate merged base -t trec.yaml -t mr.yaml --experts experts --heads heads -o results.json`
    """
    from weft.cli.reporting import reported

    with reported(as_json):
        places = (*(tasks or []), *map(Path, models), *(place for place in (experts, heads, data) if place is not None))
        check_output(output, places, overwrite)
        options: dict[str, Any] = {"split": split, "limit": limit, "batch": batch, "device": device, "dtype": dtype}
        options |= {"data": data, "heads": heads, "experts": experts, "ensemble": ensemble, "cache": not no_cache}
        results = _asked(models, tasks or [], lm_eval or [], options, quiet or as_json)
        if output is not None:
            results.save(output)
    if as_json:
        print_json(results)
    else:
        _print(results)
        print_known(results, "; --no-cache computes them anew")
    end(results, as_json)


def _asked(models: list[str], tasks: list[Path], harness: list[str], options: dict[str, Any], quiet: bool) -> Results:
    from weft.cli.reporting import Counted
    from weft.errors import InputError
    from weft.evaluation.evaluating import check_models, evaluate
    from weft.evaluation.harness import Harness, with_harness

    if not tasks and not harness:
        raise InputError("no task is named", "add --tasks FILE.yaml, or a folder of such files")
    check_models(models)
    with Counted(quiet) as progress:
        asked = Harness(harness) if harness else None
        found = evaluate(models, tasks, progress=progress, **options) if tasks else None
        if asked is None:
            assert found is not None
            return found
        kept = {name: options[name] for name in ("limit", "batch", "device", "dtype")}
        return with_harness(found, models, asked, progress=progress, **kept)


def _print(results: Results) -> None:
    from rich.table import Table

    from weft.cli.reporting import console, literal

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model", overflow="fold")
    for task in results.tasks:
        table.add_column(f"{literal(task.name)}\n[dim]{task.metric}[/]", justify="right")
    told = _means(results)
    for name in told:
        table.add_column(name, justify="right")
    for row in results.rows:
        cells = [_cell(row, task.name) for task in results.tasks]
        means = [f"{mean:.4f}" if (mean := of(row)) is not None else "" for of in told.values()]
        table.add_row(literal(row.name), *cells, *means)
    out = console()
    out.width = out.width if out.is_terminal else 40 + 14 * len(results.tasks) + 60
    out.print(table, highlight=False)


def _means(results: Results) -> dict[str, Any]:
    """The columns on the right: those that say something."""
    columns = {"mean": results.mean, "of experts": results.mean_share}
    return {name: of for name, of in columns.items() if any(of(row) is not None for row in results.rows)}


def _cell(row: Row, task: str) -> str:
    if task in row.facts.get("failed", {}):
        return NOT_FINITE
    return f"{row.scores[task].score:.4f}" if task in row.scores else ""
