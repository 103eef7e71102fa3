"""What all that measure a model are asked in common: a model, data, and how to run the one on the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from weft.statistics.measuring import Measured, Request

_DATA, _RUN = "Data", "How it is measured"

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="The folder of a Hugging Face model, or its Hub id.", show_default=False),
]
Base = Annotated[
    str,
    typer.Argument(
        metavar="BASE",
        help="The folder of the Hugging Face model that others were fine-tuned from, or its Hub id.",
        show_default=False,
    ),
]
Tuned = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="What was fine-tuned from it: a folder or Hub id.", show_default=False),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="A .jsonl, .csv, .tsv or .parquet file, a folder that `save_to_disk` wrote, or a data set on the Hub "
        "(NAME or NAME:CONFIGURATION).",
        show_default=False,
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The .safetensors file to write.", show_default=False)]
Text = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="What the model reads. [default: guessed]", show_default=False, rich_help_panel=_DATA
    ),
]
TextPair = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="A second text, as in entailment. [default: guessed]",
        show_default=False,
        rich_help_panel=_DATA,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="What an encoder-decoder should write. [default: guessed]",
        show_default=False,
        rich_help_panel=_DATA,
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="The class, as the model's config names or numbers it; checked where given, used where the data's own "
        "labels are. [default: guessed where needed]",
        show_default=False,
        rich_help_panel=_DATA,
    ),
]
Image = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="What an image model sees. [default: guessed]", show_default=False, rich_help_panel=_DATA
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Which part of a data set. [default: the only one, or train]", show_default=False, rich_help_panel=_DATA
    ),
]
Examples = Annotated[
    int | None,
    typer.Option(
        "--examples",
        "-n",
        metavar="N",
        help="Measure N examples, spread evenly over the data. [default: all]",
        show_default=False,
        rich_help_panel=_DATA,
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="Cut examples off here. [default: what the model takes, at most 512]",
        show_default=False,
        rich_help_panel=_DATA,
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="What the model predicts: sequence-classification, token-classification, causal-lm, masked-lm, "
        "seq2seq-lm, image-classification, encoder. [default: as its config says]",
        show_default=False,
        rich_help_panel=_RUN,
    ),
]
Head = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="For an encoder: a file with the weight and bias of the linear layer on it.",
        show_default=False,
        rich_help_panel=_RUN,
    ),
]
Pooling = Annotated[
    str, typer.Option(help="How an encoder's output becomes one vector: mean or cls.", rich_help_panel=_RUN)
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Examples in a batch. [default: as many as fit]", show_default=False, rich_help_panel=_RUN
    ),
]
Samples = Annotated[
    int, typer.Option(metavar="N", help="Labels drawn for each example, where they are drawn.", rich_help_panel=_RUN)
]
Seed = Annotated[int, typer.Option(help="Of what is drawn.", rich_help_panel=_RUN)]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where to run it: cpu, cuda, cuda:1, mps. [default: a GPU if there is one]",
        show_default=False,
        rich_help_panel=_RUN,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Discard what an interrupted measurement left of this output.")
]
KeepEvery = Annotated[
    float,
    typer.Option("--keep-every", metavar="SECONDS", help="How often what was summed is kept on disk.", min=0.0),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]


def run(
    request: Request, output: Path, *, overwrite: bool, restart: bool, every: float, quiet: bool, as_json: bool
) -> None:
    """Measure and tell."""
    from weft.cli.reporting import Counted, reported
    from weft.statistics.measuring import measure

    with reported(as_json, lambda: _unfinished(output)), Counted(quiet or as_json) as progress:
        made = measure(request, output, overwrite=overwrite, restart=restart, interval=every, progress=progress)
    if as_json:
        _print_json(made)
    elif not quiet:
        _print(made)


def _unfinished(output: Path) -> str:
    """What to say of a measurement that did not come to its end."""
    from weft.statistics.snapshots import snapshot_path

    kept = snapshot_path(output)
    return f"What was summed is kept in {kept}: the same command goes on from there." if kept.exists() else ""


def _print(made: Measured) -> None:
    from weft.cli.reporting import console, literal, size_text

    counts = f"{made.examples:,} examples" + (f", {made.tokens:,} tokens" if made.tokens else "")
    labels = f", labels {made.labels}" if made.labels else ""
    size = f"{made.tensors} tensors, {size_text(made.bytes)}"
    line = f"[green]{literal(str(made.output))}[/]  {made.kind} of {made.task}{labels}, {counts}, {size}"
    console().print(f"{line}, {made.seconds:.1f} s", highlight=False)


def _print_json(made: Measured) -> None:
    import json

    from weft.statistics.measuring import as_json

    typer.echo(json.dumps({"ok": True, **as_json(made)}, indent=2))
