"""Benchmarks of language models, asked by EleutherAI's lm-evaluation-harness and put into the same table."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

from weft.engine.progress import Progress
from weft.errors import InputError, nearest
from weft.evaluation.evaluating import check_models, named
from weft.evaluation.results import Column, Results, Row, Score

_PATIENCE = 8.0
"""Seconds that the Hub is given to answer."""
HARNESS = 'pip install "weft[lm-eval]"'


def with_harness(
    results: Results | None,
    models: Sequence[str | os.PathLike[str]],
    tasks: Sequence[str] | Harness,
    *,
    limit: int | None = None,
    batch: int = 32,
    device: str | None = None,
    dtype: str = "float32",
    progress: Progress | None = None,
) -> Results:
    """Add tasks of the harness to a table.

    Args:
        results: the table so far, of the same models; None for none.
        models: as for `evaluate`.
        tasks: names that the harness knows, or YAML files in its own format; or the harness with them.
        limit: only the first so many examples of each task.
        batch: requests at a time.
        device: as torch calls it; None for the fastest that is there.
        dtype: number format of weights.
        progress: is told which model is asked.

    Raises:
        InputError: if the harness is not installed or knows no such task.
    """
    check_models(models)
    paths = named(models)
    asked = tasks if isinstance(tasks, Harness) else Harness(tasks)
    told: dict[str, Mapping[str, Any]] = {}
    for name, path in paths.items():
        (progress or Progress()).phase(f"{name} in lm-evaluation-harness", 0)
        told[name] = asked.ask(path, limit=limit, batch_size=batch, device=device, dtype=dtype)
    columns = asked.columns(next(iter(told.values())))
    before = results or Results([], [Row(name, {}, path=str(path)) for name, path in paths.items()])
    rows = [_joined(row, columns, told[row.name]) if row.name in told else row for row in before.rows]
    return Results([*before.tasks, *columns], rows, before.split, before.title, before.curves, before.facts)


def _joined(row: Row, columns: Sequence[Column], told: Mapping[str, Any]) -> Row:
    found = {column.name: _score(told, column) for column in columns}
    return Row(row.name, {**row.scores, **found}, row.role, row.path, row.seconds, row.facts)


def _score(told: Mapping[str, Any], column: Column) -> Score:
    metrics = _metrics(told["results"][column.name])
    asked = told.get("n-samples", {}).get(column.name, {}).get("effective")
    examples = told["results"][column.name].get("sample_len", 0) if asked is None else asked
    return Score(metrics[column.metric], metrics, None, int(examples))


def _metrics(told: Mapping[str, Any]) -> dict[str, float]:
    """What the harness calls `acc,none` is `acc` here; errors and words are left out."""
    numbers = {name: value for name, value in told.items() if isinstance(value, (int, float)) and "," in name}
    kept = {name: float(value) for name, value in numbers.items() if "_stderr" not in name}
    return {name.removesuffix(",none"): value for name, value in kept.items()}


class Harness:
    """The harness with the tasks that it shall ask: known names, whose data can be reached.

    Args:
        tasks: names that the harness knows, or YAML files in its own format.

    Raises:
        InputError: if the harness is not installed or knows no such task, or the Hub gives no answer.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        if find_spec("lm_eval") is None:
            raise InputError("--lm-eval needs lm-evaluation-harness, which is not installed", HARNESS)
        files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
        for file in files:
            if not file.is_file():
                raise InputError(
                    f"--lm-eval {file}: no such file", "name a task, or a YAML file in the harness' format"
                )
        check_reachable([task for task in tasks if Path(task) not in files])
        manager: Any = import_module("lm_eval.tasks").TaskManager  # reads thousands of files
        folders = sorted({str(file.parent.absolute()) for file in files})
        self._manager = manager(include_path=folders or None)
        self._tasks = [_named_in(Path(task)) if Path(task) in files else task for task in tasks]
        known = self._manager.all_tasks
        for task in self._tasks:
            if task not in known:
                what = f"--lm-eval {task}: lm-evaluation-harness knows no such task"
                raise InputError(what, nearest(task, known) or "`lm-eval ls tasks` lists them")

    def ask(self, path: Path, *, limit: int | None, batch_size: int, device: str | None, dtype: str) -> Any:
        """What the harness finds out about one model."""
        quiet = logging.getLogger("lm_eval")
        level = quiet.level
        quiet.setLevel(logging.ERROR)
        try:
            return import_module("lm_eval.evaluator").simple_evaluate(
                model="hf", model_args={"pretrained": str(path), "dtype": dtype}, tasks=self._tasks, limit=limit,
                batch_size=batch_size, device=device, task_manager=self._manager, bootstrap_iters=0, log_samples=False,
            )  # fmt: skip
        except Exception as error:  # a task's data, a model's code: whatever they raise is what the person must hear
            lines = str(error).strip().splitlines() or [""]
            what = f"{path}: lm-evaluation-harness failed: {type(error).__name__}: {lines[0]}"
            raise InputError(what, "see whether `lm_eval` itself can run this task on this model") from error
        finally:
            quiet.setLevel(level)

    def columns(self, told: Mapping[str, Any]) -> list[Column]:
        """One for each task, or each group that has a number of its own; the first metric is the one that counts."""
        made = []
        for name in dict.fromkeys(self._numbered(told)):
            first = next(iter(_metrics(told["results"][name])))
            rises = told.get("higher_is_better", {}).get(name, {}).get(first, True)
            made.append(Column(name, "lm-eval", first, falls=rises is False))
        if not made:
            what = f"--lm-eval {', '.join(self._tasks)}: the harness gives no number"
            raise InputError(what, "choose a task with a metric")
        return made

    def _numbered(self, told: Mapping[str, Any]) -> Iterator[str]:
        """What was asked, and where that is a group without a number, what is in it."""
        members = told.get("group_subtasks", {})
        inside = {name for some in members.values() for name in some}
        waiting = [name for name in told["results"] if name in self._tasks or name not in inside]
        while waiting:
            name = waiting.pop(0)
            if _metrics(told["results"].get(name, {})):
                yield name
            else:
                waiting = [*members.get(name, ()), *waiting]


def check_reachable(tasks: Sequence[str]) -> None:
    """See that the Hub, where the data of these tasks are, gives an answer: the harness itself tries for minutes.

    Where HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set, data come from the cache, and nobody is asked.

    Args:
        tasks: names that the harness knows.

    Raises:
        InputError: if there is no answer within seconds.
    """
    hub, constants = import_module("huggingface_hub"), import_module("huggingface_hub.constants")
    if not tasks or constants.HF_HUB_OFFLINE or import_module("datasets").config.HF_HUB_OFFLINE:
        return
    failures: list[str] = [f"no answer in {_PATIENCE:.0f} s"]
    asking = Thread(
        target=_ask, args=(hub, constants.ENDPOINT, failures), daemon=True
    )  # a name server may not keep to a time limit
    asking.start()
    asking.join(_PATIENCE)
    if failures:
        what = f"--lm-eval {', '.join(tasks)}: {constants.ENDPOINT} cannot be reached: {failures[-1]}"
        remedy = "check the network, HTTPS_PROXY and HF_ENDPOINT; set HF_HUB_OFFLINE=1 if the data are in the cache"
        raise InputError(what, remedy)


def _ask(hub: Any, address: str, failures: list[str]) -> None:
    """Whatever is answered, somebody is there."""
    try:
        hub.get_session().head(address, timeout=_PATIENCE)
    except Exception as error:  # of whichever HTTP client the library has
        failures.append(f"{type(error).__name__}: {error}")
    else:
        failures.clear()


def _named_in(file: Path) -> str:
    """What the harness calls the task of a file, or the group."""
    import re

    text = file.read_text(encoding="utf-8")
    for key in ("group", "task"):
        if found := re.search(rf"^{key}\s*:\s*['\"]?([^'\"\s#]+)", text, re.MULTILINE):
            return found[1]
    raise InputError(f"--lm-eval {file}: names no `task`", "write `task: NAME`, as lm-evaluation-harness reads it")
