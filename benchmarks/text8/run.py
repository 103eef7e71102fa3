"""The benchmark: eight experts of one small encoder, every method that merges them, scores on real tasks.

Trains what is missing, merges with every method of the registry, untuned and tuned with the same small budget, scores
everything on test, and writes docs/benchmark.json, docs/benchmark.md and its pictures. Interrupted, it goes on: models,
statistics and scores that are known are not computed again. The page is about all seeds that were run.

Use: python benchmarks/text8/run.py --data FOLDER [--runs FOLDER] [--seed N] [--only ties,linear] [--dtype float32]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import curves
import grids
import page
from protocol import TASKS, Bench, plain
from seeds import joined
from training import Places, Settings, train, write_base

import weft
from weft.errors import InputError
from weft.evaluation.results import Results, Row, load_results

ROOT = Path(__file__).parents[2]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What a person may choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder for each task")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/text8", help="where models and scores are kept")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/benchmark.md", help="the page to write")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--only", default="", help="methods, with commas between; the others' rows are kept")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="of matrix products")
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument("--no-curves", action="store_true", help="only the leaderboard")
    parser.add_argument("--draw", action="store_true", help="run nothing, only write page and pictures again")
    chosen = parser.parse_args(words)
    chosen.runs = chosen.runs.resolve()
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
    """Fill the leaderboard; what is known is saved after every method."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    bench = prepared(chosen)
    kept = before(target) if chosen.only else {}
    methods = chosen.only.split(",") if chosen.only else weft.methods()
    first = bench.scored({"base": bench.places.base}, ensemble=True)
    fixed = {row.name: row for row in first.rows}
    rows: dict[str, Row] = {}
    for method in methods:
        rows |= {row.name: row for row in both(bench, method)}
        everything = {**{name: row for name, row in kept.items() if name not in fixed}, **rows}
        leaderboard(first, [fixed["base"], *everything.values(), fixed["ensemble"], fixed["experts"]], bench).save(
            target
        )
    if not chosen.no_curves:
        found = load_results(target)
        leaderboard(found, found.rows, bench, curves.all_of(bench, found)).save(target)


def before(target: Path) -> dict[str, Row]:
    """The rows of an earlier run."""
    return {row.name: row for row in load_results(target).rows} if target.is_file() else {}


def prepared(chosen: argparse.Namespace) -> Bench:
    """Base and experts, trained if they are missing."""
    import torch

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    places = Places(chosen.runs, chosen.seed)
    write_base(places)
    for task in TASKS:
        train(chosen.data, places, task, Settings(), tell)
    return Bench(chosen.data, places, dtype=chosen.dtype, threads=chosen.threads, tell=tell)


def both(bench: Bench, method: str) -> Iterator[Row]:
    """A method's two rows: with its defaults, and tuned; none if it cannot be run without what nobody can measure."""
    needed = bench.wanted(method)
    began = time.monotonic()
    try:
        results, row = bench.scored_merge(method, {}, method)
    except InputError as error:
        tell(f"{method} is left out: {error}")
        return
    data = f"{bench.budget.measured} training examples a task" if needed else "none"
    yield told(row, "untuned", data)
    tell(f"{method}: {results.mean(row):.4f}, {results.mean_share(row):.4f} of the experts")
    best, worth, tried = grids.search(method, bench.budget.settings, lambda s: bench.worth(method, s))
    results, row = bench.scored_merge(method, best, f"{method}, tuned")
    more = f"{bench.budget.examples} validation examples a task"
    row = told(row, "tuned", f"{data}; {more}" if needed else more)
    facts = {**row.facts, "tried": tried, "validation": worth, "tuning_seconds": round(time.monotonic() - began, 1)}
    yield Row(row.name, row.scores, row.role, "", row.seconds, facts)
    tell(f"{method}, tuned ({plain(best)}): {results.mean(row):.4f}, {results.mean_share(row):.4f} of the experts")


def told(row: Row, variant: str, data: str) -> Row:
    """The row with what it was made of."""
    return Row(row.name, row.scores, row.role, "", row.seconds, {**row.facts, "variant": variant, "data": data})


def leaderboard(like: Results, rows: Sequence[Row], bench: Bench, found: Sequence[curves.Curve] = ()) -> Results:
    """All rows as one table."""
    facts = {
        "seed": bench.places.seed, "dtype": bench.dtype, "weft": weft.__version__, "settings": bench.budget.settings,
        "examples": bench.budget.examples, "measured": bench.budget.measured, "curve": bench.budget.curve,
    }  # fmt: skip
    rows = [Row(r.name, r.scores, r.role, "", r.seconds, r.facts) for r in rows]
    return Results(like.tasks, rows, "test", "text8: eight text-classification tasks", found or like.curves, facts)


def tell(text: str) -> None:
    """A line."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
