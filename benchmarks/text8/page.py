"""docs/benchmark.md: written from the results, so that no number on it is typed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import pictures
from curves import ABLATION, MODELS
from protocol import plain
from training import Settings

from weft.algorithms.registry import method as named
from weft.evaluation.results import Results, Row

PROTOTYPE = {"experts": 1.0, "base": 0.829, "linear": 0.908, "task_arithmetic": 0.912, "ties": 0.925}
"""Means of the ratios to the experts that a prototype measured on seven of the tasks, 400 test examples each."""

EXPECTED = (("linear", "task_arithmetic"), ("task_arithmetic", "ties"), ("linear", "fisher"), ("linear", "regmean"))
"""What the papers claim of pairs of methods: the second is better."""

NOISE = 0.005
"""Differences that say nothing; about one binomial error of a mean over 8,500 test examples."""

HOW = """## How it is measured

* **Model**: all-MiniLM-L6-v2 (22.7 million parameters), mean pooling, one linear head for each task.
* **Experts**: fine-tuned with AdamW at 1e-4, heads at {head_rate:g}, both falling to zero, in batches of 32,
  embeddings frozen, one epoch, two where there are many classes or few examples. How fast heads learn decides how hard
  merging is: with heads at 1e-4 the base under the experts' heads was at .36 of the experts, with heads that begin as a
  logistic regression on the base's states at .98 (seven tasks), where nothing is left to win. Heads at 1e-2 have
  [a page of their own](benchmark-fast-heads.md).
* **Merging** leaves heads alone: the encoders are merged, and each task is scored with its own expert's head. This
  includes the base, whose row says what heads of experts make of the encoder that they were not trained on.
* **Population**: all parameters of the encoder, so that the frozen embeddings (about half of them) count as zeros of
  every task vector: a density of 0.2 keeps 0.2 of all, about 0.4 of what was trained.
* **Untuned** rows are Weft's defaults. **Tuned** rows begin there and try one parameter after the other, the factor
  `scale` first, then shares such as `density`, then other numbers, then options, and keep what is best on
  validation: at most {settings} different merges for every method, judged by {examples} validation examples a task.
  What is tried is read off the parameters that a method declares, by the same rule for all; it is a small budget, and
  a method with many parameters sees few of them.
* **Statistics**, for methods that need them, are measured on {measured} training examples a task: gradients at the
  base, all others at the task's expert.
* **Scores** are accuracies on the whole test split, in matrix products of {dtype}. *Of experts* is the mean over tasks
  of a row's accuracy divided by the expert's. The ensemble averages the probabilities of all eight encoders under the
  task's head: eight times the cost of a merged model.
* **Merge times** are of one run on whatever else the machine did, in `--threads` threads; a method's first merge, which
  an untuned row may be, also compiles its kernels.
* A seed is one training of the experts. Differences of less than about half a point of the mean (binomial error of
  some 8,500 test examples, tasks weighted alike) say nothing, and other seeds may move figures by more than that.
"""


def write(results: Results, file: Path) -> None:
    """The page, and its pictures beside it."""
    folder = file.parent / file.stem
    folder.mkdir(parents=True, exist_ok=True)
    drawn = pictures.draw(results, folder)
    parts = [
        "# Benchmark: eight experts, one model",
        f"Written by `make text8` {_told_rate(results)}from [{file.stem}.json]({file.stem}.json); {_seeds(results)}, "
        f"weft {results.facts['weft']}. `weft report` makes an interactive page of the same file.",
        "## Leaderboard",
        *(f"![{title}]({folder.name}/{name})" for title, name in drawn.items() if title == pictures.BARS),
        markdown(*leaderboard(results)),
        *tuned(results),
        *warned(results),
        *left_out(results),
        "## By task",
        markdown(*by_task(results)),
        HOW.format(**results.facts).rstrip(),
        *coarse_heads(results),
        "## What was expected, and what was found",
        *judged(results),
        *curves(results, drawn, folder.name),
    ]
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _told_rate(results: Results) -> str:
    """At which rate heads learned, if not at the usual one."""
    rate = results.facts["head_rate"]
    return "" if rate == Settings.head_rate else f"with heads that learn at {rate:g}, `--head-rate {rate:g}`, "


def _seeds(results: Results) -> str:
    seeds = results.facts["seeds"]
    return ("means over " if len(seeds) > 1 else "") + _told_seeds(seeds)


def _told_seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; all columns but the first hold numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def ranked(results: Results) -> list[Row]:
    """Rows, the best first, without those that were tuned."""
    rows = (row for row in results.rows if not is_tuned(row))
    return sorted(rows, key=lambda row: -(results.mean_share(row) or 0.0))


def is_tuned(row: Row) -> bool:
    """Whether its settings were chosen on validation."""
    return row.facts.get("variant") == "tuned"


def leaderboard(results: Results) -> tuple[Sequence[str], list[list[str]]]:
    """One line for each row."""
    several = len(results.facts["seeds"]) > 1
    header = ("", "of experts", *(["between seeds"] if several else []), "mean", "data", "merge, s")
    lines = []
    for row in ranked(results):
        merge = row.facts.get("merge_seconds")
        lines.append([
            row.name + _of_fewer(row, results), _number(results.mean_share(row)), *([_apart(row)] if several else []),
            _number(results.mean(row)), str(row.facts.get("data", "")), f"{merge:.1f}" if merge is not None else "",
        ])  # fmt: skip
    return header, lines


def _apart(row: Row) -> str:
    return f"± {row.facts['apart']:.3f}" if "apart" in row.facts else ""


def _of_fewer(row: Row, results: Results) -> str:
    """Of which seeds a row is, if not of all."""
    own = row.facts["seeds"]
    return "" if own == results.facts["seeds"] else f" ({_told_seeds(own)})"


def tuned(results: Results) -> Iterator[str]:
    """What tuning gave, beside the defaults of the same method with the same experts."""
    rows = sorted(filter(is_tuned, results.rows), key=lambda row: -(results.mean_share(row) or 0.0))
    if not rows:
        return
    yield "### Tuned"
    yield "Settings chosen on validation, for each seed by itself; beside the defaults with the same experts."
    header = ("", "of experts", "defaults", "settings", "merges tried", "merge, s")
    yield markdown(header, [_tuned_line(row, results) for row in rows])


def _tuned_line(row: Row, results: Results) -> list[str]:
    facts = row.facts
    defaults = facts["untuned"]
    return [
        str(facts["method"]) + _of_fewer(row, results), _number(results.mean_share(row)), _number(defaults),
        facts.get("chosen", plain(facts["settings"])),
        str(facts["tried"]), f"{facts['merge_seconds']:.1f}",
    ]  # fmt: skip


def warned(results: Results) -> Iterator[str]:
    """What Weft warned of while it merged."""
    found = {f"* {row.name}: {text}" for row in results.rows for text in row.facts.get("warnings", ())}
    if found:
        yield "Warnings of these merges:"
        yield "\n".join(sorted(found))


def left_out(results: Results) -> Iterator[str]:
    """Methods without a row, and why."""
    found = results.facts.get("left out", {})
    if found:
        yield "Left out, since they cannot merge eight models, or need what is not measured:"
        yield "\n".join(f"* {method}: {why}" for method, why in sorted(found.items()))


def coarse_heads(results: Results) -> Iterator[str]:
    """What is to be known of figures that were measured before heads were always in float32."""
    if results.facts.get("heads") != "float32":
        yield (
            "Heads were multiplied in the format of the encoders' products when these figures were measured. Now they "
            "are always in float32: the four rows of `make text8 ONLY=linear,ties,tsv PARTS=untuned`, scored again "
            "with seed 0, moved by less than .001 of the experts."
        )


def by_task(results: Results) -> tuple[Sequence[str], list[list[str]]]:
    """Accuracies; defaults only."""
    names = [task.name for task in results.tasks]
    return ("", *names), [[r.name, *(_number(r.scores[n].score) for n in names)] for r in ranked(results)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def judged(results: Results) -> Iterator[str]:
    """The ranking that the papers claim, held against the table."""
    shares = {row.name: results.mean_share(row) or 0.0 for row in results.rows}
    of = {row.name: row.facts["seeds"] for row in results.rows}
    lines = []
    tuned = [(f"{low}, tuned", f"{high}, tuned") for low, high in EXPECTED]
    for low, high in (*EXPECTED, *tuned):
        if low in shares and high in shares and of[low] == of[high]:
            lines.append(f"* {low} ({shares[low]:.3f}) < {high} ({shares[high]:.3f}): {_verdict(shares, low, high)}")
    yield "\n".join(lines)
    yield from too_far(results, shares)
    best = best_static(results)
    if best is not None:
        yield best_told(best, shares)
    yield prototype(results)


def _verdict(shares: Mapping[str, float], low: str, high: str) -> str:
    if abs(shares[high] - shares[low]) < NOISE:
        return "too close to tell"
    return "holds" if shares[low] < shares[high] else "**does not hold**"


def too_far(results: Results, shares: Mapping[str, float]) -> Iterator[str]:
    """Why adding task vectors may fall behind averaging, if it does."""
    added, averaged = "task_arithmetic", "linear"
    tuned = next((row for row in results.rows if row.name == f"{added}, tuned"), None)
    if not shares.get(added, 1.0) < shares.get(averaged, 0.0) or tuned is None:
        return
    scale = named(added).model_fields["scale"].default
    count = len(results.tasks)
    yield (
        f"Task arithmetic with its default scale of {scale:g} goes {scale * count:.1f} times as far from the base as "
        f"the average of {count} models, which is task arithmetic with a scale of {1 / count:g}: the default is for "
        f"fewer models, or such as disturb each other less. With the scale chosen on validation "
        f"({plain(tuned.facts['settings'])}) it is at {shares[tuned.name]:.3f}, with "
        f"{_told_seeds(tuned.facts['seeds'])}, where its default is at {tuned.facts['untuned']:.3f}; the curve over "
        "scales is below."
    )


def best_static(results: Results) -> Row | None:
    """The best merge into one model, with defaults."""
    return next((row for row in ranked(results) if "method" in row.facts), None)


LEARNED = ("regmean", "mats")
"""What uses a layer's inputs, and was expected to be the best."""


def best_told(best: Row, shares: Mapping[str, float]) -> str:
    """Which merge is the best, and whether that is one of those that were expected to be."""
    told = f"The best static merge is **{best.name}**, at {shares[best.name]:.3f} of the experts."
    beside = [name for name in LEARNED if name in shares]
    if best.facts["method"] in LEARNED or not beside:
        return told
    known = " and ".join(f"{name} ({shares[name]:.3f})" for name in beside)
    return (
        f"{told} RegMean or MaTS was expected there: {known} stay behind it, though they look at data and it does not. "
        "Both fit the linear layers alone, each to its own inputs, and average whatever has no Gram matrix (norms, "
        "biases); the spectral methods, which came later, keep the strongest directions of every expert apart."
    )


def prototype(results: Results) -> str:
    """Beside what a prototype measured: seven models, which disturb each other less than eight."""
    curve = next((curve for curve in results.curves if curve.title == MODELS), None)
    seven = {s.name: s.y[list(s.x).index(7)] for s in curve.series if 7 in s.x} if curve else {}
    own = ", ".join(f"{name} {share:.3f}" for name, share in sorted(seven.items(), key=lambda item: -item[1]))
    theirs = ", ".join(f"{name} {share:.3f}" for name, share in PROTOTYPE.items())
    told = f"A prototype with other experts, without ag_news and on 400 test examples of a task, measured {theirs}."
    base = next((row for row in results.rows if row.name == "base"), None)
    if not own or base is None:
        return told
    shares = [score.share or 0.0 for task, score in base.scores.items() if task != "ag_news"]
    return (
        f"{told} With the experts of this page seven models reach, tuned and on {results.facts['curve']} test examples "
        f"of a task: {own}. They begin lower: on these tasks the base is at {fmean(shares):.3f} with the heads of "
        "these experts. How fast heads learn decides that, as told above."
    )


def curves(results: Results, drawn: Mapping[str, str], folder: str) -> Iterator[str]:
    """Pictures, and the ablation as a table."""
    own = results.facts["curves of"]
    if results.curves and own != results.facts["seeds"]:
        yield f"What follows is of {_told_seeds(own)} alone."
    for curve in results.curves:
        yield f"## {curve.title}"
        if curve.title == ABLATION:
            whole = curve.series[0].y[0]
            rows = [[s.name, _number(s.y[0]), f"{s.y[0] - whole:+.3f}"] for s in curve.series]
            yield (
                "TIES with its defaults, and with one step left out, on test. Without the disjoint mean all models are "
                "averaged; an election by mass chooses that mean's own sign, so that trimming alone is the same merge."
            )
            yield markdown(("", "of experts", "difference"), rows)
        if curve.title in drawn:
            yield f"![{curve.title}]({folder}/{drawn[curve.title]})"
