"""The benchmark: eight experts of one small encoder, every method that merges them, scores on real tasks.

Trains what is missing, merges with every method of the registry, untuned and tuned with the same small budget, scores
everything on test, and writes docs/benchmark.json, docs/benchmark.md and its pictures. Interrupted, it goes on: models,
statistics and scores that are known are not computed again. The page is about all seeds that were run.

Use: python benchmarks/text8/run.py --data FOLDER [--runs FOLDER] [--seed N] [--only ties,linear] [--parts untuned]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import curves
import grids
import page
from protocol import TASKS, Bench, plain
from seeds import joined
from training import Places, Settings, train, write_base

import weft
from weft.errors import InputError
from weft.evaluation.results import Column, Curve, Results, Row, load_results

ROOT = Path(__file__).parents[2]
PARTS = ("untuned", "tuned", "ensemble", "curves")
"""In the order in which they are run; each adds to what was there."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What a person may choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder for each task")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/text8", help="where models and scores are kept")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/benchmark.md", help="the page to write")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--only", default="", help="methods, with commas between; the others' rows are kept")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="of matrix products")
    parser.add_argument(
        "--head-rate", type=float, default=Settings.head_rate, help="other than that: other --runs, too"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument("--memory", default="6GiB", help="of a merge; the embedding alone takes wudi 2.2 GB")
    parser.add_argument("--parts", default=",".join(PARTS), help="what is run of " + ", ".join(PARTS))
    parser.add_argument("--draw", action="store_true", help="run nothing, only write page and pictures again")
    chosen = parser.parse_args(words)
    chosen.runs, chosen.parts = chosen.runs.resolve(), chosen.parts.split(",")
    if strange := {*chosen.parts} - {*PARTS}:
        parser.error(f"--parts: {', '.join(sorted(strange))} is none of {', '.join(PARTS)}")
    return chosen


def main() -> None:
    """Train, merge, score, tell."""
    chosen = arguments()
    if not chosen.draw:
        run(chosen, chosen.runs / f"results-{chosen.seed}.json")
    found = [load_results(file) for file in sorted(chosen.runs.glob("results-*.json"))]
    target = chosen.page.with_suffix(".json")
    joined(found).save(target)
    page.write(load_results(target), chosen.page)
    tell(f"wrote {chosen.page}, {target}")


def run(chosen: argparse.Namespace, target: Path) -> None:
    """Fill the leaderboard: all methods untuned first, which takes least, then tuned, then what takes longest."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    bench = prepared(chosen)
    board = Board(bench, target, chosen.head_rate, keep=bool(chosen.only) or chosen.parts != [*PARTS])
    board.add(*bench.scored({"base": bench.places.base}).rows)
    methods = chosen.only.split(",") if chosen.only else weft.methods()
    for method in methods if "untuned" in chosen.parts else ():
        untuned(board, method)
    for method in methods if "tuned" in chosen.parts else ():
        if method not in board.left_out:
            tuned(board, method)
    if "ensemble" in chosen.parts:
        board.add(bench.scored({}, ensemble=True).rows[-1])
    if "curves" in chosen.parts:
        board.draw(curves.all_of(bench, board.results()))


class Board:
    """The leaderboard in the making; saved whenever something is added.

    Args:
        bench: the benchmark.
        target: the file.
        head_rate: at which the experts' heads learned.
        keep: whether what an earlier run put there is kept.
    """

    def __init__(self, bench: Bench, target: Path, head_rate: float, keep: bool) -> None:
        self.bench, self.target, self.head_rate = bench, target, head_rate
        before = load_results(target) if keep and target.is_file() else None
        self.rows = {row.name: row for row in before.rows} if before else {}
        self.curves = list(before.curves) if before else []
        self.left_out = dict(before.facts.get("left out", {})) if before else {}

    def add(self, *rows: Row) -> None:
        """Put rows on it, in the place of those of the same name."""
        self.rows |= {row.name: Row(row.name, row.scores, row.role, "", row.seconds, row.facts) for row in rows}
        self.left_out = {method: why for method, why in self.left_out.items() if method not in self.rows}
        self.results().save(self.target)

    def leave_out(self, method: str, why: str) -> None:
        """Note why a method has no row."""
        tell(f"{method} is left out: {why}")
        self.left_out[method] = why.splitlines()[0]
        self.results().save(self.target)

    def draw(self, found: Sequence[Curve]) -> None:
        """Put curves in the place of those before."""
        self.curves = list(found)
        self.results().save(self.target)

    def results(self) -> Results:
        """All of it."""
        budget, places = self.bench.budget, self.bench.places
        facts = {
            "seed": places.seed, "dtype": self.bench.dtype, "weft": weft.__version__, "settings": budget.settings,
            "examples": budget.examples, "measured": budget.measured, "curve": budget.curve, "left out": self.left_out,
            "head_rate": self.head_rate,
            "heads": "float32",
        }  # fmt: skip
        columns = [Column(task, "classification", "accuracy") for task in TASKS]
        title = "text8: eight text-classification tasks"
        return Results(columns, list(self.rows.values()), "test", title, self.curves, facts)


def prepared(chosen: argparse.Namespace) -> Bench:
    """Base and experts, trained if they are missing."""
    import torch

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    places = Places(chosen.runs, chosen.seed)
    write_base(places)
    for task in TASKS:
        train(chosen.data, places, task, Settings(head_rate=chosen.head_rate), tell)
    return Bench(chosen.data, places, dtype=chosen.dtype, threads=chosen.threads, memory=chosen.memory, tell=tell)


def untuned(board: Board, method: str) -> None:
    """A method's row with its defaults, or why it has none."""
    bench = board.bench
    try:
        results, row = bench.scored_merge(method, {}, method)
    except InputError as error:
        board.leave_out(method, str(error))
        return
    board.add(told(row, "untuned", measured(bench, method) or "none"))
    tell(f"{method}: {results.mean(row):.4f}, {results.mean_share(row):.4f} of the experts")


def tuned(board: Board, method: str) -> None:
    """A method's row with the settings that were best on validation."""
    bench, began = board.bench, time.monotonic()
    best = grids.search(method, bench.budget.settings, lambda settings: bench.worth(method, settings))
    results, row = bench.scored_merge(method, best.settings, f"{method}, tuned")
    data = f"{bench.budget.examples} validation examples a task"
    row = told(row, "tuned", "; ".join(filter(None, (measured(bench, method), data))))
    facts = {
        **row.facts,
        "tried": best.tried,
        "validation": best.score,
        "tuning_seconds": round(time.monotonic() - began, 1),
    }
    board.add(Row(row.name, row.scores, row.role, "", row.seconds, facts))
    name = f"{method}, tuned ({plain(best.settings)})"
    tell(f"{name}: {results.mean(row):.4f}, {results.mean_share(row):.4f} of the experts")


def measured(bench: Bench, method: str) -> str:
    """Which data a method's statistics come from."""
    return f"{bench.budget.measured} training examples a task" if bench.wanted(method) else ""


def told(row: Row, variant: str, data: str) -> Row:
    """The row with what it was made of."""
    return Row(row.name, row.scores, row.role, "", row.seconds, {**row.facts, "variant": variant, "data": data})


def tell(text: str) -> None:
    """A line."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
