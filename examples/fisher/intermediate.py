"""A donor task's network merged into a target task's that has few labels: intermediate-task transfer without training.

For each seed: a reader of upright digits is fine-tuned on the donor task, tilted digits, of which there are many, and
on the target task, digits tilted and covered, of which there are 60. The donor is merged into the target with weights
(1 - w, w), isotropically and by Fisher information; the head is the target's, as in the paper, by a rule of the recipe.
w is chosen on 200 more training digits, then tested. Beside that, what merging wants to save: fine-tuning
the donor itself on the target task, one after the other.

    python examples/fisher/intermediate.py
"""

from __future__ import annotations

from typing import Any

from common import Rows, arguments, best, fisher_of, merged, parted, percent, repeated, show, tuned
from digits import Digits, Reader, covered, pretrained, split_digits, tilted
from torch import Tensor

HEAD = [{"match": "head.*", "use": "target"}]
WEIGHTS = [k / 20 for k in range(19)]
REFERENCE = "target alone"


def hard(images: Tensor) -> Tensor:
    """The target task: tilted, then covered."""
    return covered(tilted(images))


def transferred(target: Reader, donor: Reader, fishers: list[Any] | None, held_out: Digits) -> tuple[Reader, float]:
    """The donor merged into the target with the weight that serves held-out digits best, and that weight."""
    pair = {"target": target, "donor": donor}
    candidates = [merged(pair, fishers, weight=[1 - w, w], rules=HEAD) for w in WEIGHTS]
    k = best(candidates, lambda reader: percent(reader, held_out))
    return candidates[k], WEIGHTS[k]


def one_seed(seed: int, tiny: bool) -> Rows:
    """Fine-tune, merge and test."""
    train, test = split_digits(seed)
    base = pretrained(train, seed)
    few, held_out = parted(train.seen(hard), [60, 200], seed)
    donor = tuned(base, train.seen(tilted), 1 if tiny else 5, 1e-3, seed)
    target, after_donor = (tuned(reader, few, 1 if tiny else 15, 1e-3, seed) for reader in (base, donor))
    fishers = [fisher_of(target, few), fisher_of(donor, train.seen(tilted), 100 if tiny else 500)]
    isotropic, w = transferred(target, donor, None, held_out)
    by_fisher, v = transferred(target, donor, fishers, held_out)
    readers = {
        "pretrained": base,
        "donor": donor,
        REFERENCE: target,
        "isotropic merge": isotropic,
        "Fisher merge": by_fisher,
        "donor, then fine-tuned on the target": after_donor,
    }
    rows = {name: percent(reader, test.seen(hard)) for name, reader in readers.items()}
    return {**rows, "(w in percent, isotropic)": 100 * w, "(w in percent, Fisher)": 100 * v}


def main() -> None:
    """Run all seeds; print the table."""
    chosen = arguments("Merge a donor task's network into a target task's.", seeds=5)
    found = repeated(chosen.seeds, lambda seed: one_seed(seed, chosen.tiny))
    weights = {name: found.pop(name) for name in list(found) if name.startswith("(")}
    show("Tilted and covered test digits read correctly", found, REFERENCE)
    for name, values in weights.items():
        print(f"{name}: {', '.join(f'{value:.0f}' for value in values)}")


if __name__ == "__main__":
    main()
