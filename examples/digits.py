"""Five experts at reading digits, woven into one network without training.

Everything is real and comes with scikit-learn: 1797 handwritten digits of 8x8 pixels. For each seed this

1. trains a small convolutional network on the digits as they are: the pretrained model, or base;
2. fine-tunes a copy of it for each of five ways of seeing the same digits: the experts;
3. measures the diagonal Fisher information of each expert on its own training data;
4. saves all of them as checkpoints, and merges the experts on disk with Weft, by four methods;
5. counts how many test digits each network reads, seen in every way.

All networks share one head of ten classes, so a merged model is a complete model. Each method runs with its defaults.
The views differ in kind (angle, position, stroke, size, occlusion), leave a digit readable, and cost the base between a
quarter and three fifths of its accuracy, so that there is something to learn.

    python examples/digits.py --seeds 3 --out runs/demo --plot runs/demo/digits.png
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from digits_slide import Slide
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F  # noqa: N812

import weft

View = Callable[[Tensor], Tensor]
Array = np.ndarray[Any, np.dtype[np.float64]]


# The tasks: ways of seeing a batch of images, 8x8 with values from 0 to 1.


def upright(images: Tensor) -> Tensor:
    """As they are: what the base is trained on."""
    return images


def tilted(images: Tensor) -> Tensor:
    """Turned by 30 degrees."""
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    return warped(images, [[cos, -sin, 0.0], [sin, cos, 0.0]])


def shifted(images: Tensor) -> Tensor:
    """One pixel lower."""
    return F.pad(images, (0, 0, 1, 0))[:, :8]


def bold(images: Tensor) -> Tensor:
    """Written with a pen one pixel wider."""
    return F.max_pool2d(F.pad(images, (0, 1, 0, 1)).unsqueeze(1), kernel_size=2, stride=1).squeeze(1)


def small(images: Tensor) -> Tensor:
    """At seven tenths of the size."""
    return warped(images, [[1.4, 0.0, 0.0], [0.0, 1.4, 0.0]])


def covered(images: Tensor) -> Tensor:
    """With the three leftmost columns hidden."""
    return F.pad(images[:, :, 3:], (3, 0))


def warped(images: Tensor, matrix: list[list[float]]) -> Tensor:
    """Each pixel from where the affine map sends it, between pixels by interpolation, dark outside."""
    grid = F.affine_grid(torch.tensor(matrix).expand(len(images), 2, 3), [len(images), 1, 8, 8], align_corners=False)
    return F.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


TASKS: dict[str, View] = {view.__name__: view for view in (upright, tilted, shifted, bold, small, covered)}
EXPERTS = list(TASKS)[1:]
MERGES = {"average": "linear", "task arithmetic": "task_arithmetic", "TIES": "ties", "Fisher": "fisher"}
ROWS = ["base", *EXPERTS, *MERGES]
NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


# The network and its training.


@dataclass(frozen=True)
class Digits:
    """Images, 8x8 with values from 0 to 1, and what they show."""

    images: Tensor
    labels: Tensor

    def seen(self, view: View) -> Digits:
        """The same digits, seen in another way."""
        return Digits(view(self.images), self.labels)


def split_digits(seed: int) -> tuple[Digits, Digits]:
    """Seven tenths of the digits to train on, the rest to test."""
    images, labels = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.3, stratify=labels, random_state=seed)
    pixels = torch.tensor(images / 16, dtype=torch.float32).view(-1, 8, 8)
    answers = torch.tensor(labels)
    return Digits(pixels[train], answers[train]), Digits(pixels[test], answers[test])


class Reader(nn.Module):
    """Reads a batch of digits: two convolutions, two dense layers, 85 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.strokes = nn.Conv2d(1, 32, 3, padding=1)
        self.shapes = nn.Conv2d(32, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * 4 * 4, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the ten classes."""
        strokes = F.relu(self.strokes(images.unsqueeze(1)))
        shapes = F.max_pool2d(F.relu(self.shapes(strokes)), 2)
        return self.head(F.relu(self.hidden(shapes.flatten(1))))


def trained(reader: Reader, digits: Digits, epochs: int, rate: float, seed: int) -> Reader:
    """Train in place with Adam on batches of 64."""
    shuffle = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(reader.parameters(), lr=rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.labels), generator=shuffle).split(64):
            optimizer.zero_grad()
            F.cross_entropy(reader(digits.images[batch]), digits.labels[batch]).backward()
            optimizer.step()
    return reader


def pretrained(digits: Digits, seed: int) -> Reader:
    """The base."""
    torch.manual_seed(seed)
    return trained(Reader(), digits, epochs=15, rate=1e-3, seed=seed)


def fine_tuned(base: Reader, digits: Digits, seed: int) -> Reader:
    """An expert: a third as many epochs, at half the learning rate."""
    return trained(copy.deepcopy(base), digits, epochs=5, rate=5e-4, seed=seed)


@torch.no_grad()
def accuracies(reader: Reader, digits: Digits) -> list[float]:
    """Percent of the digits read correctly, seen in each way."""
    answers = [reader(view(digits.images)).argmax(1) for view in TASKS.values()]
    return [100 * (answer == digits.labels).double().mean().item() for answer in answers]


# The Fisher information.


def fisher_information(reader: Reader, images: Tensor) -> dict[str, Tensor]:
    """The diagonal Fisher: the squared gradient of log p(class), expected over p(class) and averaged over images.

    The expectation is over all ten classes as the network itself predicts them; no label is used and none is sampled.
    """
    parameters = {name: value.detach() for name, value in reader.named_parameters()}

    def log_probabilities(values: dict[str, Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        found = functional_call(reader, values, (image.unsqueeze(0),)).log_softmax(1).squeeze(0)
        return found, found

    def expected_squares(image: Tensor) -> dict[str, Tensor]:
        gradients, found = jacrev(log_probabilities, has_aux=True)(parameters, image)
        return {name: torch.tensordot(found.exp(), g.square(), dims=1) for name, g in gradients.items()}

    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for batch in images.split(4):
        for name, squares in vmap(expected_squares)(batch).items():
            total[name] += squares.sum(0)
    return {name: value / len(images) for name, value in total.items()}


def save_fisher(fisher: dict[str, Tensor], path: Path) -> None:
    """As a checkpoint whose metadata tells the norm, so that Weft need not measure it."""
    norm = math.sqrt(sum(value.double().square().sum().item() for value in fisher.values()))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(fisher, path, metadata={"format": "pt", "norm": str(norm)})


# Checkpoints and merges.


def save(reader: Reader, folder: Path) -> None:
    """As a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(reader.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def load(folder: Path) -> Reader:
    """From a checkpoint."""
    reader = Reader()
    reader.load_state_dict(load_file(folder / "model.safetensors"))
    return reader


def recipe(method: str) -> dict[str, Any]:
    """All experts, merged by one method with its defaults; paths are relative to the folder of the seed."""
    models: list[Any] = list(EXPERTS)
    if method == "fisher":
        models = [{"path": name, "fisher": f"fishers/{name}.safetensors"} for name in EXPERTS]
    return {"method": method, "base": "base", "models": models}


def merged(method: str, folder: Path) -> Reader:
    """Write the recipe down, merge on disk, and load the result."""
    parts = recipe(method)
    (folder / f"{method}.yaml").write_text(yaml.safe_dump(parts, sort_keys=False), "utf-8")
    output = folder / "merged" / method
    weft.merge_to({**parts, "folder": folder}, output, overwrite=True)
    return load(output)


# One seed: every network on every task.


def evaluated(seed: int, folder: Path, console: Console) -> list[list[float]]:
    """Train, merge and test; accuracies of all `ROWS`, in percent."""
    train, test = split_digits(seed)
    console.print(f"\n[bold]seed {seed}[/]: {len(train.labels)} digits to train on, {len(test.labels)} to test")
    with step(console, "pretrain the base"):
        base = pretrained(train, seed)
        save(base, folder / "base")
    rows = [accuracies(base, test)]
    for name in EXPERTS:
        with step(console, f"fine-tune on {name} digits, and measure the Fisher"):
            expert = make_expert(name, base, train, seed, folder)
        rows.append(accuracies(expert, test))
    for name, method in MERGES.items():
        with step(console, f"merge by {name}"):
            rows.append(accuracies(merged(method, folder), test))
    return rows


def make_expert(name: str, base: Reader, train: Digits, seed: int, folder: Path) -> Reader:
    """Fine-tune, and save the expert and its Fisher."""
    digits = train.seen(TASKS[name])
    expert = fine_tuned(base, digits, seed)
    save(expert, folder / name)
    save_fisher(fisher_information(expert, digits.images), folder / "fishers" / f"{name}.safetensors")
    return expert


@contextmanager
def step(console: Console, what: str) -> Iterator[None]:
    """Say what was done, and how long it took."""
    began = time.monotonic()
    yield
    console.print(f"  {what}: {time.monotonic() - began:.1f} s", highlight=False)


# Results.


@dataclass(frozen=True)
class Results:
    """Accuracies in percent, by seed, row and task; the first rows are the tasks' own networks, in the tasks' order."""

    accuracy: Array

    @property
    def by_task(self) -> Array:
        """Mean over seeds, by row and task."""
        return self.accuracy.mean(0)

    @property
    def own(self) -> Array:
        """What the task's own network reaches, by seed and task: for upright digits the base, else the expert."""
        tasks = range(len(TASKS))
        return self.accuracy[:, tasks, tasks]

    @property
    def means(self) -> Array:
        """Mean over tasks, by seed and row."""
        return self.accuracy.mean(2)

    @property
    def relative(self) -> Array:
        """Percent of what the task's own network reaches, mean over tasks and seeds, by row."""
        return 100 * (self.accuracy / self.own[:, None]).mean((0, 2))

    def mean_text(self, row: int) -> str:
        """Mean over tasks and seeds, and the standard deviation over seeds where there are several."""
        means = self.means[:, row]
        return f"{means.mean():.1f} ± {means.std(ddof=1):.1f}" if len(means) > 1 else f"{means.mean():.1f}"


def seeds_text(results: Results) -> str:
    """What the numbers are."""
    seeds = len(results.accuracy)
    return f"mean of {seeds} seeds" if seeds > 1 else "one seed"


def table_of(results: Results) -> Table:
    """The one table."""
    table = Table(
        title=f"Test digits read correctly, percent, {seeds_text(results)}",
        caption="relative: to the task's own network (upright: the base; else its expert)",
    )
    table.add_column("network")
    for name in (*TASKS, "mean", "relative"):
        table.add_column(name, justify="right")
    for k, row in enumerate(ROWS):
        cells = [f"{value:.1f}" for value in results.by_task[k]]
        table.add_row(
            row, *cells, results.mean_text(k), f"{results.relative[k]:.1f}", end_section=row in ("base", EXPERTS[-1])
        )
    return table


def save_results(results: Results, path: Path) -> None:
    """Every accuracy, and the means."""
    rows = {
        row: {
            "accuracy": dict(zip(TASKS, results.accuracy[:, k].T.tolist())),
            "mean": results.means[:, k].mean(),
            "relative": results.relative[k],
        }
        for k, row in enumerate(ROWS)
    }
    path.write_text(json.dumps({"seeds": len(results.accuracy), "rows": rows}, indent=2) + "\n", "utf-8")


def slide_of(results: Results) -> Slide:
    """The one plot."""
    digits = split_digits(0)[1]
    example = digits.images[digits.labels == 2][:1]
    return Slide(
        title=f"{NUMBERS[len(EXPERTS)]} digit readers woven into one: accuracy on every task",
        subtitle=f"Test digits read correctly, percent, {seeds_text(results)}. "
        "Grey bars: from the base up to the task's own expert.",
        examples={name: view(example)[0].numpy() for name, view in TASKS.items()},
        base=results.by_task[ROWS.index("base")],
        expert=results.own.mean(0),
        merges={name: results.by_task[ROWS.index(name)] for name in MERGES},
    )


# The command.


def arguments() -> argparse.Namespace:
    """What a person may choose."""
    parser = argparse.ArgumentParser(description="Merge five digit readers, and measure what comes out.")
    parser.add_argument("--seeds", type=int, default=3, help="how many times to repeat everything")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for checkpoints and results")
    parser.add_argument("--plot", type=Path, help="where to put a copy of the plot")
    chosen = parser.parse_args()
    if chosen.seeds < 1:
        parser.error("--seeds: at least 1")
    return chosen


def main() -> None:
    """Run all seeds; print the table, save the results and the plot."""
    chosen = arguments()
    began = time.monotonic()
    console = Console(width=None if Console().is_terminal else 120)
    torch.set_num_threads(1)  # one order of sums on any number of cores, and no waiting for cores in use
    folders = [chosen.out / f"seed-{seed}" for seed in range(chosen.seeds)]
    results = Results(np.array([evaluated(seed, folder, console) for seed, folder in enumerate(folders)]))
    save_results(results, chosen.out / "results.json")
    slide = slide_of(results)
    for picture in filter(None, (chosen.plot, chosen.out / "digits.png")):
        slide.save(picture)
    console.print()
    console.print(table_of(results))
    console.print(f"\n{time.monotonic() - began:.0f} s. Plot: {picture}. Numbers: {chosen.out / 'results.json'}.")
    again = f"{Path(sys.executable).parent / 'weft'} merge {folders[0] / 'ties.yaml'} -o {chosen.out / 'again'}"
    console.print(f"Merge again: {again}", soft_wrap=True)


if __name__ == "__main__":
    main()
