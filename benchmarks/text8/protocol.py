"""How a merge is made and scored in this benchmark; every number of the page comes through here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import grids
import yaml
from grids import Settings
from training import Places

import weft
from weft.errors import InputError
from weft.evaluation.caching import hash_of_model
from weft.evaluation.evaluating import evaluate
from weft.evaluation.loading import load_tasks
from weft.evaluation.results import Results, Row

TASKS = ("trec", "tweet_emotion", "mpqa", "banking77", "clinc150", "mr", "subj", "ag_news")
"""In the order in which models are added where their number matters."""
HERE = Path(__file__).parent
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """The same for every method.

    Attributes:
        settings: that are tried, the defaults among them.
        examples: of each task's validation split that a setting is judged by.
        measured: training examples of each task that statistics are measured on.
        curve: test examples of each task that a point of a curve is made of.
    """

    settings: int = 8
    examples: int = 250
    measured: int = 128
    curve: int = 250


@dataclass
class Bench:
    """The benchmark of one seed.

    Attributes:
        data: the folder with a folder for each task.
        places: base, experts and heads.
        budget: of tuning.
        dtype: number format of the matrix products in evaluation.
        threads: of merging; 0 for one per core.
        memory: that a merge may take; what sees the embedding whole needs more than Weft's default.
        tell: is told what is done.
    """

    data: Path
    places: Places
    budget: Budget = field(default_factory=Budget)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    threads: int = 0
    memory: str = "6GiB"
    tell: Tell = print

    def scored(
        self,
        models: Mapping[str, Path],
        split: str = "test",
        limit: int | None = None,
        tasks: Sequence[str] = TASKS,
        ensemble: bool = False,
    ) -> Results:
        """The table of some models, with the experts' row."""
        files = load_tasks([HERE / "tasks" / f"{task}.yaml" for task in tasks])
        return evaluate(
            models, files, split=split, limit=limit, data=self.data, heads=self.places.heads, batch=64, device="cpu",
            experts=self.places.experts, ensemble=ensemble, dtype=self.dtype, cache=self.places.runs / "cache",
        )  # fmt: skip

    @contextmanager
    def merged(
        self, method: str, settings: Settings, tasks: Sequence[str] = TASKS
    ) -> Iterator[tuple[Path, weft.Report]]:
        """Merge the experts of some tasks; the folder, which is removed in the end, and what is told of the merge."""
        parts = {"method": method, "base": str(self.places.base), "models": self._entries(method, tasks)}
        with TemporaryDirectory(prefix="merged-", dir=self.places.runs) as folder:
            recipe = _written(Path(folder) / "recipe.yaml", {**parts, "parameters": dict(settings)})
            output = Path(folder) / "model"
            yield output, weft.merge_to(recipe, output, workers=self.threads, memory=self.memory)

    def _entries(self, method: str, tasks: Sequence[str]) -> list[dict[str, Any]]:
        wanted = self.wanted(method)
        return [
            {"path": str(self.places.expert(task)), "name": task, **{w: str(self.measured(w, task)) for w in wanted}}
            for task in tasks
        ]

    def wanted(self, method: str) -> tuple[str, ...]:
        """The statistics that a method needs and that can be measured, or are there."""
        return grids.statistics(method, [folder.name for folder in self.places.statistics.glob("*")])

    def measured(self, kind: str, task: str) -> Path:
        """A statistic of a task's expert, or of the base, on the task's training data, as its command writes it; once.

        Which model is measured, the command's arguments tell.
        """
        file = self.places.statistic(kind, task)
        if file.is_file():
            return file
        file.parent.mkdir(parents=True, exist_ok=True)
        self.tell(f"measuring {kind} of {task}")
        models = {"model": self.places.expert(task), "tuned": self.places.expert(task), "base": self.places.base}
        command = [
            sys.executable, "-m", "weft", kind, *(str(models[name]) for name in grids.subjects(kind)),
            "--head", str(self.places.head(task)), "--data", str(self.data / task / "train.jsonl"), "--text", "text",
            "--label", "label", "-n", str(self.budget.measured), "--max-length", "128", "-o", str(file), "--quiet",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        return file

    def scored_merge(
        self, method: str, settings: Settings, name: str, split: str = "test", limit: int | None = None,
        tasks: Sequence[str] = TASKS,
    ) -> tuple[Results, Row]:  # fmt: skip
        """Merge, score, forget the merge."""
        with self.merged(method, settings, tasks) as (folder, report):
            results, merge = self.scored({name: folder}, split, limit, tasks), hash_of_model(folder)
        row = results.rows[0]
        facts = {"method": method, "settings": dict(settings), "merge_seconds": round(report.seconds, 3)}
        facts["merge"] = merge
        facts |= {"warnings": list(report.warnings)} if report.warnings else {}
        return results, Row(row.name, row.scores, row.role, "", row.seconds, facts)

    def worth(self, method: str, settings: Settings) -> grids.Worth:
        """What settings are worth on validation: the mean accuracy. What a method refuses is worth nothing."""
        try:
            return self.judged(method, settings)
        except InputError as error:
            self.tell(f"{method} {dict(settings)}: {error}")
            return grids.Worth(0.0, plain(settings))

    def judged(self, method: str, settings: Settings) -> grids.Worth:
        """The same of settings that the method takes.

        Raises:
            InputError: if it refuses them.
        """
        results, row = self.scored_merge(method, settings, "validation", "validation", self.budget.examples)
        mean = results.mean(row)
        assert mean is not None
        self.tell(f"{method} {dict(settings)}: {mean:.4f} on validation")
        return grids.Worth(mean, str(row.facts["merge"]))


def _written(file: Path, recipe: Mapping[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


def plain(settings: Settings) -> str:
    """Settings in words.

    Example:
        >>> plain({}), plain({"scale": 0.3, "scope": "tensor"})
        ('defaults', 'scale=0.3, scope=tensor')
    """
    told = ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={json.dumps(value)}".replace('"', "")
                     for name, value in settings.items())  # fmt: skip
    return told or "defaults"
