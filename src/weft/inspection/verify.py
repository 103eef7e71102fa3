"""`verify`: everything that can be found out about a checkpoint without training or judging taste."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from weft.checkpoints.opening import expanded
from weft.engine.progress import Progress
from weft.engine.settings import Settings
from weft.inspection import configuration, layers, lock, parents, pipeline, records, structure, ties, tokens
from weft.inspection.behaviour import behaves
from weft.inspection.findings import Finding, Report, Verdict, in_order
from weft.inspection.lock import hashes_agree
from weft.inspection.numbers import numbers_sound
from weft.inspection.subject import Subject, survey


@dataclass(frozen=True)
class Check:
    """One question about a checkpoint, answered from headers and small files.

    Attributes:
        name: what it is called in the list of checks that were made.
        run: answers it, with findings or with a report.
        heritable: whether what it finds may be found in a parent too, which then is why.
    """

    name: str
    run: Callable[[Subject], Iterable[Finding] | Report]
    heritable: bool = False

    def report(self, subject: Subject) -> Report:
        """The answer."""
        answer = self.run(subject)
        if isinstance(answer, Report):
            return answer
        found = tuple(answer)
        return Report(parents.without_inherited(subject, found, self._again) if self.heritable else found)

    def _again(self, subject: Subject) -> Iterable[Finding]:
        answer = self.run(subject)
        return answer.findings if isinstance(answer, Report) else answer


CHECKS = (
    Check("headers and files", structure.opening),
    Check("index against shards", structure.index_agrees),
    Check("sizes", structure.sizes_agree),
    Check("tensors held once", structure.held_once),
    Check("shard numbers", structure.numbering_complete),
    Check("stale files", structure.nothing_stale),
    Check("metadata", structure.metadata_known),
    Check("pipeline's parts", pipeline.parts_present),
    Check("pipeline's classes", pipeline.classes_agree, heritable=True),
    Check("layers alike", layers.layers_alike, heritable=True),
    Check("layers counted", layers.layers_counted, heritable=True),
    Check("config against shapes", configuration.shapes_stated, heritable=True),
    Check("config's sizes occur", configuration.sizes_occur, heritable=True),
    Check("config against channels", pipeline.channels_fit, heritable=True),
    Check("attention heads", configuration.heads_fit, heritable=True),
    Check("labels", configuration.labels_fit, heritable=True),
    Check("number format", configuration.format_stated, heritable=True),
    Check("quantisation", configuration.quantisation_meant),
    Check("tied weights", ties.ties_kept, heritable=True),
    Check("tokenizer against embedding", tokens.tokens_fit),
    Check("chat template", tokens.templates_parse),
    Check("recipe", records.recipe_parses),
    Check("lock", lock.lock_agrees),
    Check("other JSON", records.json_parses),
    Check("as the recipe plans", parents.as_planned),
)
"""What is always asked, in this order. To add a question: write a function and a line here."""


def verify(
    path: str | os.PathLike[str],
    *,
    hashes: bool = False,
    numbers: bool = True,
    generate: str | None = None,
    score: str | os.PathLike[str] | None = None,
    device: str | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Verdict:
    """Inspect a checkpoint: a merged one, or any other.

    Files against one another, config against shapes, tied weights, tokenizer against embedding, recipe and lock; every
    number, for what is not finite, constant or out of all proportion. When one check fails the others still run.

    Args:
        path: a model folder, a `.safetensors` file, an index, or a pipeline's folder with a model in each subfolder.
        hashes: also compare every file's blake3 with `weft.lock.json`.
        numbers: whether to read the tensors; without it only headers and small files are read.
        generate: a prompt, which the model and its parents then continue by twenty tokens.
        score: a `.txt` or `.jsonl` file of texts, which the model and its parents then predict.
        device: where to run them, as torch calls it; by default a GPU if there is one.
        workers: threads; 0 for one per core.
        progress: is told what happens.

    Returns:
        What was found and what was looked at.

    Raises:
        InputError: if nothing is at the path, `score` is not a file of texts, or a package is not installed.

    Example:
        >>> import numpy as np, tempfile, weft
        >>> from pathlib import Path
        >>> place = Path(tempfile.mkdtemp()) / "merged.safetensors"
        >>> report = weft.merge_to({"method": "linear", "models": [{"path": {"w": np.eye(2)}}]}, place)
        >>> verify(place).ok
        True
    """
    began = time.monotonic()
    progress = progress or Progress()
    with ExitStack() as opened:
        subjects = survey(expanded(path))
        for subject in subjects:
            opened.callback(subject.close)
        made: list[tuple[str, Report]] = [
            *_from_headers(subjects),
            *(_numbers(subjects, Settings(workers=workers).threads, progress) if numbers else ()),
        ]
        if hashes:
            made.append(("hashes", hashes_agree(subjects[0], progress)))
        if generate is not None or score is not None:
            texts = expanded(score) if score is not None else None
            made.append(("behaviour", behaves(subjects[0], generate, texts, progress, device)))
        return _verdict(subjects, made, time.monotonic() - began)


def _from_headers(subjects: list[Subject]) -> Iterator[tuple[str, Report]]:
    for subject in subjects:
        told: list[Finding] = []
        for check in CHECKS:
            report = check.report(subject)
            told += report.findings
            yield check.name, report
        if not any(finding.level == "error" for finding in told):
            yield "opened as for merging", Report(tuple(structure.reader_accepts(subject)))


def _numbers(subjects: list[Subject], threads: int, progress: Progress) -> Iterator[tuple[str, Report]]:
    progress.phase("reading", sum(subject.nbytes for subject in subjects))
    for subject in subjects:
        yield "numbers", numbers_sound(subject, threads, progress)


def _verdict(subjects: list[Subject], made: list[tuple[str, Report]], seconds: float) -> Verdict:
    reports = [report for _, report in made]
    return Verdict(
        path=subjects[0].path,
        findings=in_order(finding for report in reports for finding in report.findings),
        checks=tuple(dict.fromkeys(name for name, _ in made)),
        skipped=tuple(dict.fromkeys(text for report in reports for text in report.skipped)),
        trials=tuple(trial for report in reports for trial in report.trials),
        files=sum(len(subject.parts) for subject in subjects),
        tensors=sum(len(subject.tensors) for subject in subjects),
        elements=sum(report.elements for report in reports),
        bytes_read=sum(report.bytes_read for report in reports),
        seconds=seconds,
    )
