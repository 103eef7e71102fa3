"""Models against tasks: the table of scores."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from weft.checkpoints.folders import find_weights
from weft.checkpoints.hub import fetch, is_hub_id
from weft.checkpoints.opening import expanded
from weft.engine.progress import Progress
from weft.errors import Gathering, InputError, listed, nearest
from weft.evaluation.caching import Cache, cache_folder, hash_of, hash_of_code, hash_of_files, hash_of_model
from weft.evaluation.checking import check_task
from weft.evaluation.data import SPLITS, Examples, examples
from weft.evaluation.ensembling import Mean
from weft.evaluation.heads import head_path
from weft.evaluation.loading import check_names, load_tasks
from weft.evaluation.metrics import METRICS, Predictions, measured
from weft.evaluation.models import FORMATS, Device, Model, check_folder, open_model
from weft.evaluation.predicting import Asking, NotFiniteError, asked, predict
from weft.evaluation.results import Column, Results, Row, Score, with_failures, with_share
from weft.evaluation.schema import Headed, LanguageModelling, Task
from weft.inspection.running import chosen_device

PathLike = str | os.PathLike[str]


def evaluate(
    models: Sequence[PathLike] | Mapping[str, PathLike],
    tasks: Sequence[PathLike | Task] | PathLike,
    *,
    split: str = "test",
    limit: int | None = None,
    data: PathLike | None = None,
    heads: PathLike | None = None,
    experts: PathLike | None = None,
    ensemble: bool = False,
    batch: int = 32,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    cache: PathLike | bool = True,
    progress: Progress | None = None,
) -> Results:
    """Score models on tasks.

    Args:
        models: folders that transformers can load, or ids on the Hub; as a map, `{name: model}`.
        tasks: YAML files, folders of them, or tasks.
        split: of the data: `train`, `validation` or `test`.
        limit: only the first so many examples of each task.
        data: the folder that the tasks' relative data folders begin from.
        heads: a folder with a head for each task.
        experts: a folder with a model for each task, called as the task; every score is also told as a part of its
            expert's. Without it, the tasks say which.
        ensemble: whether to add the experts' averaged predictions, as a row to compare with.
        batch: examples at a time.
        device: as torch calls it; None for the fastest that is there.
        dtype: number format of matrix products.
        cache: a folder where results are kept, True for the usual one, False for none.
        progress: is told what happens.

    Returns:
        A row for each model, then, if they are known, the experts' and their ensemble's. Where a model's scores are
        not finite, its row lacks the task and says so in `facts["failed"]`.

    Raises:
        InputError: for anything that does not fit, naming it.
    """
    _check_once(models)
    asked_tasks = _tasks(tasks)
    settings = _Settings(
        split, limit, _path(data), _path(heads), _path(experts), Device("", dtype, batch), _cache(cache)
    )
    settings.check()
    made = _Evaluation(asked_tasks, settings, progress or Progress())
    made.check(_here(models), ensemble)
    folders = named(models)
    made.check(list(folders.values()), ensemble)
    made.settings = replace(settings, device=replace(settings.device, name=chosen_device(device)))
    return made.table(folders, ensemble)


def check_models(models: Sequence[PathLike] | Mapping[str, PathLike]) -> None:
    """See that models are named once, and that folders may hold models; none is loaded or fetched.

    Raises:
        InputError: with every problem.
    """
    problems = Gathering()
    with problems:
        _check_once(models)
    for path in _here(models):
        _is_usable(path, problems)
    problems.tell()


def check_tasks(tasks: Sequence[Task], models: Sequence[Path], split: str) -> None:
    """See that tasks' data, labels and heads fit together and fit models, of which none is loaded.

    Raises:
        InputError: with every problem.
    """
    settings = _Settings(split, None, None, None, None, Device(), Cache(None))
    _Evaluation(tuple(tasks), settings, Progress()).check(models, ensemble=False)


def _check_once(models: Sequence[PathLike] | Mapping[str, PathLike]) -> None:
    """Rows are told apart by their models."""
    given = [] if isinstance(models, Mapping) else [os.path.abspath(expanded(model)) for model in models]
    for k, path in enumerate(given):
        if path in given[:k]:
            raise InputError(f"{os.fspath(models[k])} is named twice", "name every model once")  # type: ignore[index]


def _here(models: Sequence[PathLike] | Mapping[str, PathLike]) -> list[Path]:
    """Those that need not be fetched: whatever is wrong with them or with the tasks is told before a download."""
    given = models.values() if isinstance(models, Mapping) else models
    return [_folder(model) for model in given if not (isinstance(model, str) and is_hub_id(model))]


def _path(given: PathLike | None) -> Path | None:
    return None if given is None else expanded(given)


def _cache(given: PathLike | bool) -> Cache:
    if isinstance(given, bool):
        return Cache(cache_folder() if given else None)
    return Cache(expanded(given))


def _tasks(tasks: Sequence[PathLike | Task] | PathLike) -> tuple[Task, ...]:
    given = [tasks] if isinstance(tasks, (str, os.PathLike)) else list(tasks)
    ready = [task for task in given if isinstance(task, Task)]
    found = (*ready, *load_tasks([Path(task) for task in given if not isinstance(task, Task)]))
    if not found:
        raise InputError("no task is named", "add --tasks FILE.yaml, or a folder of such files")
    check_names(found)
    return found


def named(models: Sequence[PathLike] | Mapping[str, PathLike]) -> dict[str, Path]:
    """Each model's folder by a name of its own: the path's last part, or as much of it as tells them apart.

    Raises:
        InputError: if a model is named twice, or a repository cannot be fetched from the Hub.
    """
    if isinstance(models, Mapping):
        return {name: _folder(path) for name, path in models.items()}
    paths = [_folder(path) for path in models]
    for parts in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, paths, strict=True))
    twice = next((str(path) for path in paths if paths.count(path) > 1), "")
    if twice:
        raise InputError(f"{twice} is named twice", "name every model once")
    return {}


def _folder(model: PathLike) -> Path:
    if isinstance(model, str) and is_hub_id(model):
        return fetch(model).path
    return expanded(model).absolute()


@dataclass(frozen=True)
class _Settings:
    split: str
    limit: int | None
    data: Path | None
    heads: Path | None
    experts: Path | None
    device: Device
    cache: Cache

    def check(self) -> None:
        """Refuse what means nothing."""
        if self.split not in SPLITS:
            remedy = nearest(self.split, SPLITS) or f"choose {', '.join(SPLITS)}; a task's `splits` may rename them"
            raise InputError(f"there is no split {self.split!r}", remedy)
        if self.device.dtype not in FORMATS:
            raise InputError(f"models are not run in {self.device.dtype!r}", f"choose {', '.join(FORMATS)}")
        if (self.limit is not None and self.limit < 1) or self.device.batch < 1:
            raise InputError("a limit or batch should be at least 1", "leave it out, or give a larger number")

    def expert(self, task: Task) -> Path | None:
        """The task's expert, if one is known."""
        if self.experts is not None:
            return self.experts / task.name
        return None if task.expert is None else task.located(task.expert)

    def key(self) -> tuple[object, ...]:
        """What changes a score, apart from model and examples."""
        return (self.device.dtype, self.device.name.partition(":")[0])


@dataclass
class _Evaluation:
    """One table in the making; the last model is kept, since its tasks come one after the other."""

    tasks: tuple[Task, ...]
    settings: _Settings
    progress: Progress
    opened: Model | None = None
    read: dict[str, Examples] = field(default_factory=dict)

    def table(self, models: Mapping[str, Path], ensemble: bool) -> Results:
        """All rows, once `check` found nothing wrong."""
        experts = self._experts()
        known = {name: score.score for name, score in experts.scores.items()}
        rows = [self._row(name, path, known) for name, path in models.items()]
        if experts.scores:
            rows.append(self._against(experts, known))
        if ensemble:
            rows.append(self._ensemble(known))
        columns = [Column(t.name, t.kind, t.counted, METRICS[t.counted].falls) for t in self.tasks]
        return Results(columns, rows, self.settings.split)

    def check(self, models: Sequence[Path], ensemble: bool) -> None:
        """Tell everything that can be found wrong without loading a model.

        Raises:
            InputError: with every problem of tasks, data, heads, experts and models.
        """
        problems = Gathering()
        for task in self.tasks:
            with problems:
                if task.name not in self.read:
                    self.read[task.name] = examples(task, self.settings.split, self.settings.limit, self.settings.data)
        usable = [path for path in models if _is_usable(path, problems)]
        with problems:
            self._check_experts(ensemble)
        for read in self.read.values():
            expert = self.settings.expert(read.task)
            known = [expert] if expert is not None and expert.is_dir() and _is_usable(expert, problems) else []
            with problems:
                check_task(read, [*usable, *known], self.settings.heads)
        problems.tell()

    def _check_experts(self, ensemble: bool) -> None:
        found = {task.name: self.settings.expert(task) for task in self.tasks}
        for task, path in found.items():
            if path is not None and not path.is_dir():
                what = f"task {task}: there is no expert {path}"
                raise InputError(what, "mend --experts, or `expert` in the task's file")
        lacking = [task for task, path in found.items() if path is None]
        if ensemble and lacking:
            what = f"an ensemble needs the experts, and none is known for {listed(lacking)}"
            raise InputError(what, "add --experts FOLDER, or `expert` to the tasks")
        running = [task.name for task in self.tasks if isinstance(task, LanguageModelling)]
        if ensemble and running:
            raise InputError(f"language modelling ({listed(running)}) has no ensemble here", "leave --ensemble out")

    def _row(self, name: str, path: Path, experts: Mapping[str, float]) -> Row:
        made = self._scored(Row(name, {}, path=str(path)), dict.fromkeys((task.name for task in self.tasks), path))
        return self._against(made, experts)

    def _experts(self) -> Row:
        """Each on its own task, as far as they are known."""
        known = {task.name: path for task in self.tasks if (path := self.settings.expert(task)) is not None}
        return self._scored(Row("experts", {}, "experts", str(self.settings.experts or "")), known)

    def _scored(self, row: Row, paths: Mapping[str, Path]) -> Row:
        """The row with the scores of a model for each task; scores that are no numbers keep nobody else from his."""
        began, scores, failed = time.monotonic(), {}, {}
        for task in self.tasks:
            try:
                if task.name in paths:
                    name = row.name if row.role == "model" else "expert"
                    scores[task.name] = self._score(name, paths[task.name], task)
            except NotFiniteError as error:
                failed[task.name] = error
        return with_failures(replace(row, scores=scores, seconds=round(time.monotonic() - began, 3)), failed)

    def _against(self, row: Row, experts: Mapping[str, float]) -> Row:
        metrics = {task.name: task.counted for task in self.tasks}
        scores = {name: with_share(score, metrics[name], experts.get(name)) for name, score in row.scores.items()}
        return replace(row, scores=scores)

    def _score(self, name: str, path: Path, task: Task) -> Score:
        key = self._key([path], task, "one")
        told = self.settings.cache.get(key)
        if told is None:
            metrics = measured(task.kind, self._predictions(name, path, task))
            self.settings.cache.put(key, metrics)
            return self._told(metrics, task, cached=False)
        return self._told(told, task, cached=True)

    def _told(self, metrics: Mapping[str, float], task: Task, cached: bool) -> Score:
        return Score(metrics[task.counted], metrics, None, len(self.read[task.name]), cached)

    def _predictions(self, name: str, path: Path, task: Task) -> Predictions:
        if self.opened is None or self.opened.path != path:
            self.opened = None  # two models need not be in memory at once
            self.opened = open_model(path, self.settings.device)
        self.progress.phase(f"{name} on {task.name}", asked(self.read[task.name]))
        return predict(
            self.opened, replace(self.read[task.name], task=task), Asking(self.settings.heads, self.progress.advance)
        )

    def _ensemble(self, experts: Mapping[str, float]) -> Row:
        """Every expert is asked every task, with the task's head; their predictions are averaged."""
        began = time.monotonic()
        paths = self._members()
        keys = {task.name: self._key(paths, self._with_head(task), "ensemble") for task in self.tasks}
        known = {name: self.settings.cache.get(key) for name, key in keys.items()}
        wanted = [task for task in self.tasks if known[task.name] is None]
        means, failed = self._means(paths, wanted)
        scores = {}
        for task in self.tasks:
            if task.name in failed:
                continue
            told = known[task.name] or measured(task.kind, means[task.name].made)
            self.settings.cache.put(keys[task.name], told)
            score = self._told(told, task, cached=known[task.name] is not None)
            scores[task.name] = with_share(score, task.counted, experts.get(task.name))
        row = Row("ensemble", scores, "ensemble", seconds=round(time.monotonic() - began, 3))
        return with_failures(row, failed)

    def _means(self, paths: Sequence[Path], tasks: Sequence[Task]) -> tuple[dict[str, Mean], dict[str, InputError]]:
        """Of what all models predict, by task; and of which tasks one of them predicts no numbers."""
        means: dict[str, Mean] = {}
        failed: dict[str, InputError] = {}
        for path in paths if tasks else []:
            for task in tasks:
                try:
                    made = self._predictions(f"ensemble: {path.name}", path, self._with_head(task))
                except NotFiniteError as error:
                    failed[task.name] = error
                    continue
                mean = means.get(task.name)
                means[task.name] = mean.taking(made) if mean else Mean(made, logarithms=task.kind == "multiple-choice")
        return means, failed

    def _members(self) -> list[Path]:
        """The experts, each once: one may be the expert of several tasks."""
        found = [path for task in self.tasks if (path := self.settings.expert(task)) is not None]
        return list({path.resolve(): path for path in found}.values())

    def _with_head(self, task: Task) -> Task:
        """Where each model's own head is meant, it is the expert's that knows the task's classes."""
        if not isinstance(task, Headed) or head_path(task, self.settings.heads) is not None:
            return task
        return task.model_copy(update={"head": self.settings.expert(task), "place": Path()})

    def _key(self, paths: Sequence[Path], task: Task, how: str) -> str:
        told = task.model_dump(mode="json", exclude={"name", "place", "data", "expert", "head", "metric"})
        head = self._head(task)
        model = [hash_of_model(path) for path in paths]
        return hash_of(how, model, told, head, self.read[task.name].digest, self.settings.key(), hash_of_code())

    def _head(self, task: Task) -> str:
        """The hash of the task's head; a head that is not there is told when it is put on."""
        if not isinstance(task, Headed):
            return ""
        path = head_path(task, self.settings.heads)
        if path is None or not path.exists():
            return ""
        return hash_of_model(path) if path.is_dir() else hash_of_files([path])


def _is_usable(path: Path, problems: Gathering) -> bool:
    """Whether a folder seems to hold a model; if not, that is one of the problems."""
    with problems:
        if path.is_dir():
            find_weights(path)
        check_folder(path)
        return True
    return False
