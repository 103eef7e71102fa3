"""Runs a protocol: finds checkpoints, merges them, asks every task, and lays the papers' numbers beside ours."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, Literal

from weft.checkpoints.opening import expanded
from weft.engine.merging import merge_to, plan
from weft.engine.progress import Progress
from weft.errors import Gathering, InputError, labelled, nearest
from weft.evaluation.activations import fold_vectors, layer_of
from weft.evaluation.caching import cache_folder, hash_of, hash_of_files, hash_of_model
from weft.evaluation.evaluating import PathLike, check_tasks, evaluate
from weft.evaluation.metrics import METRICS, fitting
from weft.evaluation.models import Device, open_model
from weft.evaluation.predicting import NotFiniteError
from weft.evaluation.protocols.catalogue import load_protocol
from weft.evaluation.protocols.locating import Located, locate
from weft.evaluation.protocols.preparing import Preparation, prepared
from weft.evaluation.protocols.schema import Method, Protocol, ProtocolTask, ZeroShotTask
from weft.evaluation.results import Column, Results, Row, Score, with_failures, with_share
from weft.evaluation.schema import Headed, Task
from weft.evaluation.zero_shot import write_zero_shot_head
from weft.inspection.running import chosen_device
from weft.recipes.loading import make_recipe
from weft.recipes.resolving import Resolver

Asked = Mapping[str, tuple[Task, ...]]
"""What is asked for each task of the protocol: more than one where it has several prompts."""


def bench(
    protocol: str | Protocol,
    methods: Mapping[str, Method] | None = None,
    *,
    tasks: Sequence[str] = (),
    examples: int | None = None,
    models: PathLike | None = None,
    data: PathLike | None = None,
    work: PathLike | None = None,
    experts: bool = True,
    batch: int = 32,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    memory: int | str = "2GiB",
    progress: Progress | None = None,
) -> Results:
    """Merge a protocol's experts and score the result on its tasks.

    Args:
        protocol: its name or file, or a protocol.
        methods: to run, by the name of their row; the protocol's own, if not given.
        tasks: only these, of whose experts alone the merges are made.
        examples: of each task, drawn at random; all, if not given.
        models: a folder with local copies of checkpoints: `base`, and one for each task.
        data: a folder with local copies of data: a folder for each task, with a file for each split.
        work: where merges and prepared data are kept for the next time; by default in Weft's cache.
        experts: whether to ask the experts too; each score is then also told as a part of theirs.
        batch: examples at a time.
        device: as torch calls it; None for the fastest that is there.
        dtype: number format of matrix products.
        memory: of merges.
        progress: is told what happens.

    Returns:
        A row for the base, one for each method, one for the experts; `facts["published"]` holds the papers' rows.

    Raises:
        InputError: for anything that is missing or does not fit, naming it and the remedy.
    """
    known = load_protocol(protocol) if isinstance(protocol, str) else protocol
    named = _named(known, tasks)
    check_methods(known, methods or known.methods, [task.name for task in named])
    run = _Run(
        known,
        named,
        expanded(work) if work is not None else cache_folder().parent / "bench" / known.name,
        progress or Progress(),
        {"batch": batch, "device": chosen_device(device), "dtype": dtype},
        memory,
    )
    run.locate(None if models is None else expanded(models))
    run.plan(methods or known.methods)
    run.prepare(None if data is None else expanded(data), examples)
    return run.results(methods or known.methods, experts, examples)


def check_methods(protocol: Protocol, methods: Mapping[str, Method], tasks: Sequence[str]) -> None:
    """See, before anything is fetched, that methods have the names and parameters that somebody gave them.

    Args:
        protocol: whose rules go with them.
        methods: by the name of their row.
        tasks: whose experts are merged.

    Raises:
        InputError: with every problem of all of them.
    """
    problems = Gathering()
    for name, method in methods.items():
        with problems, _about(name, methods):
            Resolver(make_recipe(_recipe(protocol, method, "base", [{"path": task, "name": task} for task in tasks])))
    problems.tell()


@contextmanager
def _about(name: str, methods: Mapping[str, Method]) -> Iterator[None]:
    """Problems say whose they are, where that is a question."""
    try:
        yield
    except InputError as error:
        if len(methods) == 1:
            raise
        raise InputError(labelled(name, problem) for problem in error.problems) from None


def _recipe(protocol: Protocol, method: Method, base: str, models: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    parts: dict[str, Any] = {"method": method.method, "parameters": dict(method.parameters)}
    parts |= {"rename": dict(protocol.rename)} if protocol.rename else {}
    steps = {"before": method.before, "after": method.after}
    rules = [dict(rule) for rule in protocol.rules]
    return {**parts, **steps, "base": base, "models": list(models), "rules": rules}


def _named(protocol: Protocol, names: Sequence[str]) -> tuple[ProtocolTask, ...]:
    known = [task.name for task in protocol.tasks]
    for name in names:
        if name not in known:
            remedy = nearest(name, known) or f"it has {', '.join(known)}"
            raise InputError(f"{protocol.name} has no task {name!r}", remedy)
    return tuple(task for task in protocol.tasks if not names or task.name in names)


@dataclass
class _Run:
    """One protocol on its way; what takes long is kept in the work folder under hashes of what it was made of."""

    protocol: Protocol
    tasks: tuple[ProtocolTask, ...]
    work: Path
    progress: Progress
    options: dict[str, Any]
    memory: int | str
    located: Located = field(default_factory=lambda: Located(Path(), {}, ""))
    asked: Asked = field(default_factory=dict)

    def locate(self, models: Path | None) -> None:
        """Checkpoints, local or fetched."""
        self.located = locate(self.protocol, [task.name for task in self.tasks], models, self.progress)

    def plan(self, methods: Mapping[str, Method]) -> None:
        """Read the headers of all merges: what would keep one from running is told before anything is scored.

        Raises:
            InputError: with every problem.
        """
        problems = Gathering()
        if self.protocol.family == "clip":
            for task in self.located.experts:
                with problems:
                    plan(self._alone(task), memory=self.memory)
        for name, method in methods.items():
            with problems, _about(name, methods):
                plan(self._merge_of(method), memory=self.memory)
        problems.tell()

    def prepare(self, data: Path | None, count: int | None) -> None:
        """Examples and heads."""
        how = Preparation(self.protocol, self.work.absolute(), self.located.base, data, count)
        found: dict[str, tuple[Task, ...]] = {}
        for task in self.tasks:
            self.progress.phase(f"preparing {task.name}", 0)
            found[task.name] = tuple(self._headed(task, asked) for asked in prepared(task, how))
        check_tasks([one for asked in found.values() for one in asked], [self.located.base], self.protocol.split)
        self.asked = found

    def _headed(self, task: ProtocolTask, asked: Task) -> Task:
        if isinstance(task, ZeroShotTask):
            return asked.model_copy(update={"head": self._sentences(task)})
        return (
            asked.model_copy(update={"head": self.located.experts[task.name]}) if isinstance(asked, Headed) else asked
        )

    def _sentences(self, task: ZeroShotTask) -> Path:
        key = hash_of(hash_of_model(self.located.base), task.classes, task.templates)
        file = self.work.absolute() / "heads" / f"{task.name}-{key[:16]}.safetensors"
        if not file.is_file():
            clip = open_model(self.located.base, Device(self.options["device"]))
            making = write_zero_shot_head(clip, task.classes, task.templates, file.with_name(f".{file.name}"))
            making.replace(file)
        return file

    def results(self, methods: Mapping[str, Method], experts: bool, count: int | None) -> Results:
        """The table."""
        best = self._experts() if experts else None
        known = {name: score.score for name, score in best.scores.items()} if best else {}
        rows = [self._row(self.located.called, self.located.base, known, {"role": "base"})]
        for name, method in methods.items():
            began = time.monotonic()
            merged = self._merged(method)
            facts = {"method": method.method, "parameters": dict(method.parameters), "source": method.source}
            rows.append(self._row(name, merged, known, {**facts, "merge_seconds": round(time.monotonic() - began, 3)}))
        rows += [self._against(best, known)] if best else []
        columns = [Column(t.name, t.evaluated_as, _counted(t), METRICS[_counted(t)].falls) for t in self.tasks]
        return Results(columns, rows, self.protocol.split, self.protocol.title, facts=self._facts(count))

    def _facts(self, count: int | None) -> dict[str, Any]:
        whole = len(self.tasks) == len(self.protocol.tasks)
        rows = [row.model_dump(exclude_none=True) for row in self.protocol.published]
        return {
            "protocol": self.protocol.name,
            "checkpoints": self.protocol.checkpoints,
            "examples": count,
            "published": rows if whole else [{**row, "mean": None, "share": None} for row in rows if row["tasks"]],
            "unconfirmed": [*self.protocol.unconfirmed, *(f"{t.name}: {u}" for t in self.tasks for u in t.unconfirmed)],
        }

    def _row(self, name: str, path: Path, experts: Mapping[str, float], facts: Mapping[str, Any]) -> Row:
        began, scores, failed = time.monotonic(), {}, {}
        for task in self.tasks:
            try:
                scores[task.name] = self._score(name, path, task)
            except NotFiniteError as error:
                failed[task.name] = error
        row = Row(name, scores, path=str(path), seconds=round(time.monotonic() - began, 3), facts=facts)
        return self._against(with_failures(row, failed), experts)

    def _experts(self) -> Row:
        began, scores, failed = time.monotonic(), {}, {}
        for task in self.tasks:
            path = self._whole(task.name)
            try:
                scores[task.name] = self._score("expert", path, task)
            except NotFiniteError as error:
                failed[task.name] = error
            self._forget(path)
        row = Row("experts", scores, "experts", seconds=round(time.monotonic() - began, 3))
        return with_failures(row, failed)

    def _against(self, row: Row, experts: Mapping[str, float]) -> Row:
        scores = {
            n: with_share(score, _counted(self.protocol.task(n)), experts.get(n)) for n, score in row.scores.items()
        }
        return Row(row.name, scores, row.role, row.path, row.seconds, row.facts)

    def _score(self, name: str, path: Path, task: ProtocolTask) -> Score:
        """Of all prompts, the median.

        Raises:
            NotFiniteError: if the model's scores are no numbers.
        """
        asked = self.asked[task.name]
        told = evaluate({name: path}, asked, split=self.protocol.split, progress=self.progress, **self.options)
        if failures := told.failures():
            raise NotFiniteError(failures[0])
        found = [told.rows[0].scores[one.name] for one in asked]
        if len(found) == 1:
            return found[0]
        metrics = {metric: median(score.metrics[metric] for score in found) for metric in found[0].metrics}
        return Score(metrics[_counted(task)], metrics, None, found[0].examples, all(score.cached for score in found))

    def _merged(self, method: Method) -> Path:
        """A folder that can be asked."""
        if self.protocol.family != "ia3":
            return self._made("merged", self._merge_of(method))
        return self._folded(self._made("merged", self._merge_of(method), ".safetensors"), "the merge: ")

    def _merge_of(self, method: Method) -> dict[str, Any]:
        """The recipe; of (IA)3 vectors, over a base of ones."""
        models = [{"path": str(path), "name": name} for name, path in self.located.experts.items()]
        base = self._ones() if self.protocol.family == "ia3" else self.located.base
        return _recipe(self.protocol, method, str(base), models)

    def _whole(self, task: str) -> Path:
        """An expert that can be asked: what it shares with the base comes from there."""
        path = self.located.experts[task]
        if self.protocol.family == "ia3":
            return self._folded(path, f"{task}: ")
        if self.protocol.family != "clip":
            return path
        return self._made("whole", self._alone(task))

    def _alone(self, task: str) -> dict[str, Any]:
        """The recipe that makes an expert whole."""
        method = Method(method="linear", source="an expert made whole")
        model = {"path": str(self.located.experts[task]), "name": task}
        return _recipe(self.protocol, method, str(self.located.base), [model])

    def _made(self, place: str, recipe: dict[str, Any], suffix: str = "") -> Path:
        """The output of a merge, made unless it is there; outputs appear complete or not at all."""
        paths = [Path(recipe["base"]), *(Path(model["path"]) for model in recipe["models"])]
        plain = {**recipe, "base": "", "models": [model["name"] for model in recipe["models"]]}
        target = self.work.absolute() / place / f"{hash_of(plain, [_hash(path) for path in paths])[:16]}{suffix}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            merge_to(recipe, target, memory=self.memory, progress=self.progress)
        return target

    def _ones(self) -> Path:
        """What scales nothing: the base of (IA)3 vectors."""
        first = next(iter(self.located.experts.values()))
        vectors = _vectors(first)
        file = self.work.absolute() / "vectors" / f"ones-{hash_of(_hash(first))[:16]}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        ones = {name: import_module("torch").ones_like(vector) for name, vector in vectors.items()}
        import_module("safetensors.torch").save_file(ones, file)
        return file

    def _folded(self, vectors: Path, where: str) -> Path:
        key = hash_of(hash_of_model(self.located.base), _hash(vectors))
        folder = self.work.absolute() / "whole" / key[:16]
        if not folder.is_dir():
            making = folder.with_name(f".{folder.name}.making")
            shutil.rmtree(making, ignore_errors=True)
            fold_vectors(self.located.base, _vectors(vectors), making, where)
            making.replace(folder)
        return folder

    def _forget(self, path: Path) -> None:
        """Experts with (IA)3 vectors are as large as the base, and quickly made again."""
        if self.protocol.family == "ia3":
            shutil.rmtree(path, ignore_errors=True)


def _counted(task: ProtocolTask) -> str:
    return task.metric or next(iter(fitting(task.evaluated_as)))


def _hash(path: Path) -> str:
    return hash_of_model(path) if path.is_dir() else hash_of_files([path])


def _vectors(path: Path) -> dict[str, Any]:
    """(IA)3 vectors of a file, or of an adapter's folder."""
    if path.is_dir():
        held = [file for file in sorted(path.iterdir()) if file.suffix in (".safetensors", ".pt", ".bin")]
        if len(held) != 1:
            raise InputError(f"{path}: holds {len(held)} files of tensors, not one", "name the file of the vectors")
        return _vectors(held[0])
    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Any] = import_module("safetensors.torch").load_file(path)
        else:
            tensors = import_module("torch").load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and torch have errors of their own
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}", "mend the file") from None
    odd = [name for name in tensors if layer_of(name) is None]
    if odd or not tensors:
        what = f"{path}: {odd[0]} is no (IA)3 vector" if odd else f"{path}: holds no tensor"
        raise InputError(what, "the names of vectors end in .ia3_vector or .ia3_l")
    return tensors
