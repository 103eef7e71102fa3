"""`weft bench`: what papers measured, measured again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.cli import asking
from weft.cli.results import NOT_FINITE, check_output, end, print_json, print_known

if TYPE_CHECKING:
    from rich.table import Table

    from weft.evaluation.protocols.schema import Method, Protocol
    from weft.evaluation.results import Results, Row


def bench(
    protocol: Annotated[
        str | None,
        typer.Argument(help="Its name, or a .yaml file; without one, all are listed.", show_default=False),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", "-m", help="Only this method. [default: the protocol's methods]", show_default=False),
    ] = None,
    parameter: asking.Parameter = None,
    before: asking.Before = None,
    after: asking.After = None,
    recipe: Annotated[
        list[Path] | None,
        typer.Option("--recipe", "-r", help="A recipe without models and base; repeatable.", show_default=False),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="Only this task; repeatable.", show_default=False)
    ] = None,
    examples: Annotated[
        int | None, typer.Option(help="Only so many examples of each task, drawn.", show_default=False, min=1)
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(help="A folder with copies of checkpoints: `base`, and one for each task.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A folder with copies of data: TASK/SPLIT.jsonl, as the Hub's split.", show_default=False),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where merges and data are kept. [default: Weft's cache]", show_default=False)
    ] = None,
    no_experts: Annotated[bool, typer.Option("--no-experts", help="Do not ask the experts.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A JSON file for the results; see `weft report`.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Let -o replace a file that is no results.")] = False,
    batch: Annotated[int, typer.Option(help="Examples at a time.", min=1)] = 32,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [default: the fastest]", show_default=False)
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Number format of matrix products: float32, bfloat16, float16.")
    ] = "float32",
    memory: asking.Memory = "2GiB",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the table, warnings and errors.")] = False,
    as_json: asking.AsJson = False,
) -> None:
    """Run a published protocol: merge its models, score them on its tasks, and show the papers' numbers beside ours.

    Checkpoints and data come from the Hugging Face Hub, or from copies of your own. What is done is kept for the next
    run. `docs/protocols.md` says what each protocol does and where it comes from.
    Exit codes: 0 done, 1 a merge failed, or a model's scores are not finite, 2 something is missing or does not fit.

    **Examples**

    `weft bench`

    `weft bench vision8 -m ties -p density=0.2 --examples 500 -o results.json`
    """
    from weft.cli.reporting import Counted, reported

    with reported(as_json):
        if protocol is None:
            _list(as_json)
            return
        from weft.evaluation.protocols.catalogue import load_protocol
        from weft.evaluation.protocols.running import bench as run

        places = (Path(protocol), *(recipe or []), *(place for place in (models, data) if place is not None))
        check_output(output, places, overwrite)
        known = load_protocol(protocol)
        methods = _methods(known, method, parameter or [], {"before": before, "after": after}, recipe or [])
        options: dict[str, Any] = {"tasks": task or [], "examples": examples, "models": models, "data": data}
        options |= {"work": work, "experts": not no_experts, "batch": batch, "device": device, "dtype": dtype}
        with Counted(quiet or as_json) as progress:
            results = run(known, methods, memory=memory, progress=progress, **options)
        if output is not None:
            results.save(output)
    if as_json:
        print_json(results)
    else:
        _print(results)
        print_known(results)
    end(results, as_json)


def _methods(
    protocol: Protocol, method: str | None, parameters: list[str], named: dict[str, str | None], recipes: list[Path]
) -> dict[str, Method]:
    """What the command line asks for, else the protocol's own, by the name of a row."""
    from weft.errors import InputError
    from weft.evaluation.protocols.schema import Method

    if method is None and (parameters or any(named.values())):
        raise InputError("-p, --before and --after go with a method", "add -m METHOD")
    asked = {file.stem: _from_recipe(file) for file in recipes}
    if method is not None:
        own, steps = asking.divided(parameters, named)
        asked[method] = Method.model_validate({"method": method, "parameters": own, **steps, "source": "asked"})
    return asked or dict(protocol.methods)


def _from_recipe(file: Path) -> Method:
    from pydantic import ValidationError

    from weft.algorithms.wording import worded
    from weft.errors import InputError, listed
    from weft.evaluation.protocols.schema import Method
    from weft.recipes.strict_yaml import read_map

    remedy = "it may hold `method`, `parameters`, `before` and `after`; models, base and rules are the protocol's"
    parsed = read_map(file, "recipe", "`method` and its `parameters`", remedy)
    if not isinstance(parsed.get("method"), str):
        raise InputError(f"{file}: names no method", remedy)
    odd = [key for key in parsed if key not in ("method", "parameters", "before", "after")]
    if odd:
        raise InputError(f"{file}: {listed(map(str, odd))} has no place in a protocol", remedy)
    try:
        return Method.model_validate({**parsed, "source": file.name})
    except ValidationError as error:
        told = [" ".join((*map(str, item["loc"]), worded(item))) for item in error.errors()]
        raise InputError(f"{file}: {'; '.join(told)}", remedy) from None


def _list(as_json: bool) -> None:
    import json

    from weft.cli.reporting import console
    from weft.evaluation.protocols.catalogue import load_protocol, protocols

    known = [load_protocol(name) for name in protocols()]
    if as_json:
        told = [{"name": p.name, "title": p.title, "tasks": [task.name for task in p.tasks]} for p in known]
        typer.echo(json.dumps({"ok": True, "protocols": told}, indent=2))
        return
    table = _table("protocol", "what", "tasks", "from the Hub")
    for p in known:
        sources = [p.base, *p.experts.values()]
        there = sum(source.hub is not None for source in sources)
        table.add_row(p.name, p.title, str(len(p.tasks)), "all" if there == len(sources) else "the base; bring experts")
    console().print(table, highlight=False)


def _table(*names: str) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for k, name in enumerate(names):
        table.add_column(name, overflow="fold", justify="left" if k == 0 or name in ("what", "source") else "right")
    return table


def _print(results: Results) -> None:
    """Ours, then theirs, in percent."""
    from weft.cli.reporting import console, literal

    names = [literal(task.name) for task in results.tasks]
    table = _table("in percent", *names, "mean", "of experts", "checkpoints", "source")
    for row in results.rows:
        cells = [_cell(row, task.name) for task in results.tasks]
        means = [_percent(None if m is None else m * 100) for m in (results.mean(row), results.mean_share(row))]
        table.add_row(literal(row.name), *cells, *means, literal(str(results.facts["checkpoints"])), _ours(row))
    for told in results.facts["published"]:
        table.add_row(*(f"[dim]{literal(cell)}[/]" if cell else "" for cell in _theirs(told, results)))
    out = console()
    out.width = out.width if out.is_terminal else 120 + 14 * len(results.tasks)
    out.print(table, highlight=False)
    _print_doubts(results)


def _cell(row: Row, task: str) -> str:
    return _percent(row.scores[task].score * 100) if task in row.scores else NOT_FINITE


def _ours(row: Row) -> str:
    return "[green]measured here[/]" if row.role == "model" else f"[green]{row.role}, measured here[/]"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _theirs(told: dict[str, Any], results: Results) -> list[str]:
    name = f"{told['method']} ({told['setting']})" if told.get("setting") else told["method"]
    cells = [_percent(told["tasks"].get(task.name)) for task in results.tasks]
    means = [_percent(told.get("mean")), _percent(told.get("share"))]
    return [name, *cells, *means, told.get("checkpoints", ""), f"{told['source']} [{told['mark']}]"]


def _print_doubts(results: Results) -> None:
    """What a reader of the table should know."""
    from weft.cli.reporting import console, literal

    out = console()
    if results.facts["examples"]:
        out.print(f"Only {results.facts['examples']} examples of each task were asked; the papers asked all.")
    if results.facts["published"]:
        out.print("Rows of other checkpoints than ours are no target: they began from other models.", highlight=False)
    for doubt in results.facts["unconfirmed"]:
        out.print(f"[dim]unconfirmed: {literal(doubt)}[/]", highlight=False)
