"""`weft fisher`: how much each parameter of a model matters to what it predicts."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli import asking
from weft.cli import measuring as ask

Labels = Annotated[
    str,
    typer.Option(
        help="At which labels gradients are taken: exact (all, weighted by their probability), sampled (drawn from "
        "the model), observed (the data's own, which is the empirical Fisher). auto is exact for up to 16 classes.",
        rich_help_panel="How it is measured",
    ),
]


def fisher(
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
    """Measure a model's diagonal Fisher information on data, for `weft merge -m fisher`.

    A few hundred examples of what the model was trained on are enough. Only `--labels observed` needs to know what is
    right. Tensors have the names of the checkpoint's; a measurement that was killed goes on with the same command.
    Exit codes: 0 done, 1 it failed, 2 something is wrong with the input and nothing was written.

    **Examples**

    `weft fisher ./my-classifier --data train.jsonl -n 512 -o my-classifier.fisher.safetensors`

    `weft fisher ./my-t5 --data notes.csv --text note --target summary -o t5.fisher.safetensors`

    `weft merge -m fisher a b -o merged -p "fisher={a: a.fisher.safetensors, b: b.fisher.safetensors}"`
    """
    from weft.statistics.data import Columns
    from weft.statistics.measuring import Request

    columns = Columns(text, text_pair, target, label, image)
    request = Request(
        model, data, "fisher", task, head, pooling, columns, split, examples, max_length, batch_size,
        labels, samples, seed, False, device,
    )  # fmt: skip
    ask.run(request, output, overwrite=overwrite, restart=restart, every=keep_every, quiet=quiet, as_json=as_json)
