"""How long merging takes, and how much memory, as ratios to a floor measured in the same run.

Writes a base and three fine-tunes of 494 million parameters in bfloat16 (4 GB; --small for a tenth of the layers), then
runs every contender in turn, several rounds, with a warm page cache, and prints medians. mergekit takes part if its
command is on the path.

Use: python benchmarks/merging.py [--rounds 5] [--folder FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from synthetic import llama_like, write_model

HERE = Path(__file__).parent
NAMES = ("base", "a", "b", "c")


@dataclass
class Contender:
    """One command, and what was measured of it."""

    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)


def contenders(folder: Path, size: int) -> list[Contender]:
    python, out = sys.executable, str(folder / "out.safetensors")
    models = [str(folder / name) for name in NAMES]
    files = [f"{model}/model.safetensors" for model in models]
    weft = [python, "-m", "weft", "merge", "-q", "--overwrite", "-o", out]
    based = ["-b", models[0], *models[1:]]
    found = [
        Contender("floor, 4 inputs", [python, str(HERE / "floor.py"), out, str(size), *files]),
        Contender("weft linear (reads 3)", [*weft, "-m", "linear", *models[1:]]),
        Contender("weft task_arithmetic", [*weft, "-m", "task_arithmetic", *based]),
        Contender("weft ties, scope: tensor", [*weft, "-m", "ties", "-p", "scope=tensor", *based]),
        Contender("weft ties, scope: model", [*weft, "-m", "ties", *based]),
        Contender("weft ties, model, 256 MB", [*weft, "-m", "ties", "--memory", "256MB", *based]),
        Contender("torch loop, linear", [python, str(HERE / "torch_loop.py"), "linear", out, *models]),
        Contender("torch loop, ties per tensor", [python, str(HERE / "torch_loop.py"), "ties", out, *models]),
    ]
    if shutil.which("mergekit-yaml"):
        found += [mergekit(folder, "linear", models), mergekit(folder, "ties", models)]
    return found


def mergekit(folder: Path, method: str, models: Sequence[str]) -> Contender:
    parameters = {"density": 0.2, "weight": 1.0} if method == "ties" else {"weight": 1.0}
    entries = [{"model": model, "parameters": parameters} for model in models[1:]]
    config = {"merge_method": method, "models": entries, "dtype": "bfloat16"}
    if method == "ties":
        config["base_model"] = models[0]
    path = folder / f"mergekit-{method}.yaml"
    path.write_text(json.dumps(config))
    return Contender(
        f"mergekit, {method}", ["mergekit-yaml", str(path), str(folder / "mergekit-out"), "--no-copy-tokenizer"]
    )


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and the peak of resident megabytes of one process."""
    began = time.perf_counter()
    quiet = os.open(os.devnull, os.O_WRONLY)
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, quiet, 1)])
    _, status, usage = os.wait4(child, 0)
    os.close(quiet)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1000


def measure(every: list[Contender], rounds: int, console: Console) -> None:
    for turn in range(rounds + 1):
        for contender in every:
            seconds, megabytes = run(contender.command)
            console.print(f"[dim]round {turn}: {contender.name}: {seconds:.2f} s[/]")
            if turn:  # the first round warms caches and compiles
                contender.seconds.append(seconds)
                contender.megabytes.append(megabytes)


def table(every: list[Contender]) -> Table:
    floor = statistics.median(every[0].seconds)
    shown = Table(box=None, header_style="bold")
    for column in ("", "seconds", "min", "max", "x floor", "peak MB"):
        shown.add_column(column, justify="left" if not column else "right")
    for c in every:
        middle = statistics.median(c.seconds)
        figures = [middle, min(c.seconds), max(c.seconds), middle / floor]
        shown.add_row(c.name, *(f"{x:.2f}" for x in figures), f"{max(c.megabytes):.0f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="2 layers and a small vocabulary")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    parser.add_argument("--skip", default="", help="leave out contenders whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    console = Console()
    specs = llama_like(layers=2, vocabulary=20000) if options.small else llama_like()
    folder = options.folder.resolve() / ("small" if options.small else "full")
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(NAMES):
        console.print(f"[dim]writing {name}[/]")
        write_model(folder / name, specs, seed=seed, change=0.001 if seed else 0.0)
    every = contenders(folder, sum(spec.nbytes for spec in specs))
    every = [c for c in every if not options.skip or options.skip not in c.name]
    measure(every, options.rounds, console)
    console.print(table(every))
    if options.json:
        options.json.write_text(json.dumps([asdict(c) for c in every], indent=2))


if __name__ == "__main__":
    main()
