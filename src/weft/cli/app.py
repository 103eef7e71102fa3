"""The `weft` command. Commands import what they need when they run, so that help is instant."""

from __future__ import annotations

import gc
from typing import Annotated

import typer

import weft
from weft.cli.bench import bench
from weft.cli.clean import clean
from weft.cli.doctor import doctor
from weft.cli.evaluate import evaluate
from weft.cli.fisher import fisher
from weft.cli.gradient import gradient
from weft.cli.gram import gram
from weft.cli.importance import importance
from weft.cli.merge import merge
from weft.cli.methods import methods
from weft.cli.plan import plan
from weft.cli.report import report
from weft.cli.schema import schema
from weft.cli.stats import stats
from weft.cli.verify import verify

app = typer.Typer(
    name="weft",
    help="Weave several fine-tuned neural networks into one, without training.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(merge)
app.command()(plan)
app.command()(methods)
app.command()(fisher)
app.command()(gram)
app.command()(gradient)
app.command()(importance)
app.add_typer(stats)
app.command()(schema)
app.command()(doctor)
app.command()(verify)
app.command()(clean)
app.command()(evaluate)
app.command()(bench)
app.command()(report)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"weft {weft.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Weave several fine-tuned neural networks into one, without training."""


def main() -> None:
    """Run the command line.

    A start makes many objects and next to no garbage; to look for it as often as usual would take a tenth of the start.
    """
    gc.set_threshold(20_000, 5, 5)
    app()
