"""Several fine-tunes of one task, merged into one network, against asking all of them.

For each seed: a digit reader trained on upright digits is fine-tuned five times on 200 digits that are tilted and
half covered, each time in another order and on another sample, drawn with replacement (bagging), of the same 200.
The five are merged, isotropically and by Fisher information, and compared with one of them, and with the mean of their
five predictions, which costs five times as much for each digit.

    python examples/fisher/ensembling.py
"""

from __future__ import annotations

import torch
from common import (
    Rows,
    arguments,
    fisher_of,
    merged,
    parted,
    percent,
    probabilities,
    repeated,
    right,
    sample,
    show,
    tuned,
)
from digits import Digits, Reader, covered, pretrained, split_digits, tilted
from torch import Tensor

COUNT = 5
REFERENCE = "one of them, on average"


def hard(images: Tensor) -> Tensor:
    """The task: tilted, then covered."""
    return covered(tilted(images))


def fine_tunes(base: Reader, digits: Digits, epochs: int, seed: int) -> tuple[list[Reader], list[dict[str, Tensor]]]:
    """The networks, and the Fisher information of each on what it was trained on."""
    drawing = torch.Generator().manual_seed(seed)
    size = len(digits.labels)
    samples = [sample(digits, torch.randint(size, (size,), generator=drawing)) for _ in range(COUNT)]
    readers = [tuned(base, own, epochs, rate=1e-3, seed=COUNT * seed + k) for k, own in enumerate(samples)]
    return readers, [fisher_of(reader, own) for reader, own in zip(readers, samples)]


def one_seed(seed: int, tiny: bool) -> Rows:
    """Fine-tune, merge and test."""
    train, test = (digits.seen(hard) for digits in split_digits(seed))
    base = pretrained(split_digits(seed)[0], seed)
    [few] = parted(train, [40 if tiny else 200], seed)
    readers, fishers = fine_tunes(base, few, 1 if tiny else 20, seed)
    models = {f"model-{k}": reader for k, reader in enumerate(readers)}
    singles = [percent(reader, test) for reader in readers]
    return {
        "pretrained": percent(base, test),
        REFERENCE: sum(singles) / COUNT,
        "isotropic merge": percent(merged(models), test),
        "Fisher merge": percent(merged(models, fishers), test),
        "prediction ensemble": right(torch.stack([probabilities(reader, test) for reader in readers]).mean(0), test),
    }


def main() -> None:
    """Run all seeds; print the table."""
    chosen = arguments("Merge several fine-tunes of one task.", seeds=5)
    found = repeated(chosen.seeds, lambda seed: one_seed(seed, chosen.tiny))
    show("Tilted and covered test digits read correctly", found, REFERENCE)


if __name__ == "__main__":
    main()
