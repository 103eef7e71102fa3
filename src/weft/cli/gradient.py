"""`weft gradient`: which way a model's loss rises."""

from __future__ import annotations

from weft.cli import asking
from weft.cli import measuring as ask


def gradient(
    base: ask.Base,
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
    batch_size: ask.BatchSize = None,
    device: ask.Device = None,
    overwrite: ask.Overwrite = False,
    restart: ask.Restart = False,
    keep_every: ask.KeepEvery = 60.0,
    quiet: ask.Quiet = False,
    as_json: asking.AsJson = False,
) -> None:
    """Measure the mean gradient of the base's loss on a task's data, for `weft merge -m apl`.

    It tells which parts of a task vector matter: once for each model, on data of that model's task, but always at the
    base. A few dozen examples are enough; they need labels. A head that stands on the encoder is the task's own.
    A measurement that was killed goes on with the same command.
    Exit codes: 0 done, 1 it failed, 2 something is wrong with the input and nothing was written.

    **Examples**

    `weft gradient ./base --data a.jsonl --head a.head.safetensors -n 128 -o a.gradient.safetensors`

    `weft merge -m apl -b base a b -o merged -p "gradient={a: a.gradient.safetensors, b: b.gradient.safetensors}"`
    """
    from weft.statistics.data import Columns
    from weft.statistics.measuring import Request

    columns = Columns(text, text_pair, target, label, image)
    request = Request(
        base, data, "gradient", task, head, pooling, columns, split, examples, max_length, batch_size,
        seed=seed, device=device,
    )  # fmt: skip
    ask.run(request, output, overwrite=overwrite, restart=restart, every=keep_every, quiet=quiet, as_json=as_json)
