"""A task: which data, which columns, which metric, which head. Checked when it is made; it opens no file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from weft.errors import nearest
from weft.evaluation.metrics import METRICS, fitting

Positive = Annotated[int, Field(gt=0)]
Pooling = Literal["mean", "cls", "pooler", "projection"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(_Strict):
    """Where examples come from: a folder with a file for each split, or a data set on the Hub.

    Attributes:
        folder: holds `test.jsonl` (or .json, .csv, .parquet), and likewise for the other splits.
        hub: the name of a data set on the Hugging Face Hub, or the path of a folder in such a layout.
        config: which configuration of that data set.
        revision: which commit of it.
        splits: what a split is called there, where that is not its own name: `{validation: dev}`.
    """

    folder: Path | None = None
    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_place(self) -> Data:
        if (self.folder is None) == (self.hub is None):
            raise ValueError("should name either a `folder` or a data set on the `hub`")
        if self.hub is None and (self.config or self.revision):
            raise ValueError("has a `config` or `revision`, which go with `hub` only")
        return self


class Task(_Strict):
    """What every kind of task says.

    Attributes:
        name: how it is called in tables; the file's name, if it does not say.
        data: where examples come from.
        columns: which column of the data plays which part.
        metric: the one that counts; others that fit are told beside it.
        expert: a model folder; scores are also told as parts of its score.
        longest: tokens of a text that are read.
        place: the folder that relative paths begin from.
    """

    kind: str
    name: str
    data: Data
    columns: Mapping[str, str | tuple[str, ...]] = Field(default_factory=dict)
    metric: str = ""
    expert: Path | None = None
    longest: Positive = 512
    place: Path = Path()

    usual: ClassVar[Mapping[str, str]] = {}
    """The parts that columns play, and how a column is called unless `columns` says otherwise."""
    several: ClassVar[frozenset[str]] = frozenset()
    """Parts that two columns may play together."""

    @model_validator(mode="after")
    def _columns_play_parts(self) -> Task:
        for part, column in self.columns.items():
            if part not in self.usual:
                remedy = nearest(part, self.usual) or f"the parts are {', '.join(self.usual)}"
                raise ValueError(f"columns: {self.kind} has no part {part!r}; {remedy}")
            if not isinstance(column, str) and (part not in self.several or len(column) != 2):
                raise ValueError(
                    f"columns: {part} should be one column; {sorted(self.several) or 'no part'} may be two"
                )
        return self

    @model_validator(mode="after")
    def _metric_fits(self) -> Task:
        known = fitting(self.kind)
        if self.metric and self.metric not in known:
            why = "does not fit" if self.metric in METRICS else "is no metric of"
            remedy = nearest(self.metric, known) or f"it has {', '.join(known)}"
            raise ValueError(f"metric {self.metric!r} {why} {self.kind}; {remedy}")
        return self

    @property
    def counted(self) -> str:
        """The name of the metric that counts."""
        return self.metric or next(iter(fitting(self.kind)))

    def column(self, part: str) -> tuple[str, ...]:
        """The columns that play a part."""
        found = self.columns.get(part, self.usual[part])
        return (found,) if isinstance(found, str) else found

    def located(self, path: Path) -> Path:
        """A path as the task's file means it."""
        return self.place / path.expanduser()


class Headed(Task):
    """A task that reads an encoder's states through a head.

    Attributes:
        head: a `.safetensors` file with `weight` and `bias` of a linear head, or the folder of a model whose own head
            to take; without one, each model's own head is used.
        pooling: with a linear head, how states become one vector: `mean` over tokens, `cls`: the first token,
            `pooler`: the model's own pooler, `projection`: the model's embedding of images.
    """

    head: Path | None = None
    pooling: Pooling = "mean"


class Classification(Headed):
    """Which of several classes a text, or a pair of texts, belongs to.

    Attributes:
        labels: the classes' names in the head's order, if the data hold names and not numbers.
    """

    kind: Literal["classification"]
    labels: tuple[str, ...] = ()
    usual: ClassVar = {"text": "text", "label": "label"}
    several: ClassVar = frozenset({"text"})


class ImageClassification(Headed):
    """Which of several classes an image belongs to.

    Attributes:
        labels: as for texts.
        normalize: whether the pooled vector is brought to length 1 before the head, as CLIP's is.
    """

    kind: Literal["image-classification"]
    labels: tuple[str, ...] = ()
    pooling: Pooling = "cls"
    normalize: bool = False
    usual: ClassVar = {"image": "image", "label": "label"}


class Regression(Headed):
    """A number for a text, or for a pair of texts."""

    kind: Literal["regression"]
    usual: ClassVar = {"text": "text", "label": "label"}
    several: ClassVar = frozenset({"text"})


class LanguageModelling(Task):
    """How well the next token of running text is predicted."""

    kind: Literal["language-modelling"]
    usual: ClassVar = {"text": "text"}


class MultipleChoice(Task):
    """Which of several continuations is the likeliest.

    Attributes:
        prompt: what precedes the continuation, with columns in braces: `{question} Answer:`; without one, the column
            that plays the part `question`.
        choices: continuations that are the same for every example; without them, the column that plays that part.
    """

    kind: Literal["multiple-choice"]
    prompt: str = ""
    choices: tuple[str, ...] = ()
    usual: ClassVar = {"question": "question", "choices": "choices", "label": "label"}


KINDS: Mapping[str, type[Task]] = {
    "classification": Classification,
    "regression": Regression,
    "language-modelling": LanguageModelling,
    "multiple-choice": MultipleChoice,
    "image-classification": ImageClassification,
}


def schema_of(kind: Any) -> type[Task] | None:
    """The schema of a kind of task."""
    return KINDS.get(kind) if isinstance(kind, str) else None
