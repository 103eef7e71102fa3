"""`weft gram`: what the linear layers of a model see."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli import asking
from weft.cli import measuring as ask

_PANEL = "How it is measured"

Gradients = Annotated[
    bool,
    typer.Option(
        "--gradients", help="Also of the gradients of the layers' outputs, which K-FAC needs.", rich_help_panel=_PANEL
    ),
]
Labels = Annotated[
    str,
    typer.Option(
        help="With --gradients, at which labels they are taken: exact, sampled or observed. auto is exact for up to "
        "16 classes.",
        rich_help_panel=_PANEL,
    ),
]


def gram(
    model: ask.Model,
    data: ask.Data,
    output: ask.Output,
    text: ask.Text = None,
    text_pair: ask.TextPair = None,
    target: ask.Target = None,
    label: ask.Label = None,
    image: ask.Image = None,
    split: ask.Split = None,
    examples: ask.Examples = None,
    max_length: ask.MaxLength = None,
    task: ask.Task = None,
    head: ask.Head = None,
    pooling: ask.Pooling = "mean",
    gradients: Gradients = False,
    labels: Labels = "auto",
    samples: ask.Samples = 1,
    seed: ask.Seed = 0,
    batch_size: ask.BatchSize = None,
    device: ask.Device = None,
    overwrite: ask.Overwrite = False,
    restart: ask.Restart = False,
    keep_every: ask.KeepEvery = 60.0,
    quiet: ask.Quiet = False,
    as_json: asking.AsJson = False,
) -> None:
    """Measure the Gram matrices of the inputs of a model's linear layers, for RegMean and its kin.

    For each linear layer the mean over tokens of x xᵀ, under the name of the layer's weight. No labels are needed.
    A measurement that was killed goes on with the same command.
    Exit codes: 0 done, 1 it failed, 2 something is wrong with the input and nothing was written.

    **Examples**

    `weft gram ./my-classifier --data train.jsonl -n 512 -o my-classifier.gram.safetensors`

    `weft gram ./my-lm --data text.parquet --text body --gradients -o my-lm.gram.safetensors`
    """
    from weft.statistics.data import Columns
    from weft.statistics.measuring import Request

    columns = Columns(text, text_pair, target, label, image)
    request = Request(
        model, data, "gram", task, head, pooling, columns, split, examples, max_length, batch_size,
        labels, samples, seed, gradients, device,
    )  # fmt: skip
    ask.run(request, output, overwrite=overwrite, restart=restart, every=keep_every, quiet=quiet, as_json=as_json)
