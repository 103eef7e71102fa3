"""What an inspection says: findings, and the verdict that gathers them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from weft.errors import InputError

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that a person should look at.

    Attributes:
        level: an error makes the model wrong or unusable; a warning is a suspicion, or is untidy.
        check: the short name of the check that found it.
        what: what was found, naming the tensor, the file and both sides of a disagreement.
        remedy: what the reader can do, as an imperative sentence.
    """

    level: Level
    check: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.level} ({self.check}): {self.what}"
        return f"{text}\n  -> {self.remedy}" if self.remedy else text


@dataclass(frozen=True)
class Trial:
    """How one model did when it was run.

    Attributes:
        model: its path.
        role: `output`, `base` or the name that the recipe gives a parent.
        text: what it wrote after the prompt; empty when it was not asked.
        loss: nats for each token of the texts; None when it was not asked.
    """

    model: str
    role: str
    text: str = ""
    loss: float | None = None


@dataclass(frozen=True)
class Report:
    """What one check has to say.

    Attributes:
        findings: what it found.
        skipped: what it could not look at and why, a sentence each.
        trials: models that were run.
        bytes_read: of tensors and hashed files.
        elements: numbers that were looked at.
    """

    findings: tuple[Finding, ...] = ()
    skipped: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    bytes_read: int = 0
    elements: int = 0


@dataclass(frozen=True)
class Verdict:
    """What an inspection came to.

    Attributes:
        path: what was inspected.
        findings: errors first.
        checks: the names of the checks that were made.
        skipped: what could not be looked at and why, a sentence each.
        trials: how the model and its parents did, when they were run.
        files: files with tensors that were opened.
        tensors: tensors whose header was read.
        elements: numbers that were looked at.
        bytes_read: of tensors and hashed files.
        seconds: how long it took.

    Example:
        >>> verdict = Verdict(Path("out"), (Finding("warning", "numbers", "constant"),))
        >>> verdict.ok, verdict.spotless
        (True, False)
    """

    path: Path
    findings: tuple[Finding, ...] = ()
    checks: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    files: int = 0
    tensors: int = 0
    elements: int = 0
    bytes_read: int = 0
    seconds: float = field(default=0.0, compare=False)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make the model wrong or unusable."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The suspicions."""
        return tuple(finding for finding in self.findings if finding.level == "warning")

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    @property
    def spotless(self) -> bool:
        """Whether there is no finding at all."""
        return not self.findings


def from_problems(error: InputError, check: str, level: Level = "error") -> Iterator[Finding]:
    """Every problem of an error that the checkpoint reader raised, as a finding."""
    for problem in error.problems:
        yield Finding(level, check, problem.what, problem.remedy)


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors before warnings, each told once, otherwise in the order in which they were found."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: finding.level))
