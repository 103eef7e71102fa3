"""`weft importance`: what the parts of a fine-tuned model do to the loss of its base."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli import asking
from weft.cli import measuring as ask

Partition = Annotated[
    str,
    typer.Option(
        help="What the parts are: layer (tensors whose names are the same up to the first number), tensor, model.",
        rich_help_panel="How it is measured",
    ),
]


def importance(
    base: ask.Base,
    tuned: ask.Tuned,
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
    seed: ask.Seed = 0,
    partition: Partition = "layer",
    batch_size: ask.BatchSize = None,
    device: ask.Device = None,
    overwrite: ask.Overwrite = False,
    restart: ask.Restart = False,
    keep_every: ask.KeepEvery = 60.0,
    quiet: ask.Quiet = False,
    as_json: asking.AsJson = False,
) -> None:
    """Measure how far the base's loss falls when a part of a model is put into it, for `weft merge -m apl`.

    Forward passes only: one for each part that differs, and one more. The file is tiny: one number for each tensor,
    that of its part. Below zero the part makes the loss rise. Choose the partition that the merge will have.
    Examples need labels; a measurement that was killed goes on with the same command.
    Exit codes: 0 done, 1 it failed, 2 something is wrong with the input and nothing was written.

    **Examples**

    `weft importance ./base ./a --data a.jsonl --head a.head.safetensors -n 128 -o a.importance.safetensors`

    `weft merge -m apl -b base a b -o merged -p "importance={a: a.importance.safetensors, b: b.importance.safetensors}"`
    """
    from weft.statistics.data import Columns
    from weft.statistics.measuring import Request

    columns = Columns(text, text_pair, target, label, image)
    request = Request(
        base, data, "importance", task, head, pooling, columns, split, examples, max_length, batch_size,
        seed=seed, device=device, tuned=tuned, partition=partition,
    )  # fmt: skip
    ask.run(request, output, overwrite=overwrite, restart=restart, every=keep_every, quiet=quiet, as_json=as_json)
