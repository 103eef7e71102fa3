"""What a protocol's file and a task's file say. Checked when they are read; no checkpoint or data set is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from weft.evaluation.metrics import fitting
from weft.evaluation.schema import Data, Positive
from weft.recipes.schema import ChainedStep, Renaming

Family = Literal["clip", "text-to-text", "encoder", "ia3"]
Percent = Annotated[float, Field(gt=0.0, le=110.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Strict):
    """Where a checkpoint is.

    Attributes:
        hub: `org/name` or `org/name@revision` on the Hugging Face Hub; None if it is not there.
        folder: of the repository, if the checkpoint is not at its top.
        elsewhere: where people get it, in words, if it is not on the Hub.
    """

    hub: str | None = None
    folder: str | None = None
    elsewhere: str = ""

    @model_validator(mode="after")
    def _somewhere(self) -> Source:
        if (self.hub is None) == (not self.elsewhere):
            raise ValueError("should say either `hub` or `elsewhere`")
        if self.hub is None and self.folder is not None:
            raise ValueError("has a `folder`, which goes with `hub` only")
        return self


class Confirmed(_Strict):
    """What is known of where its content comes from.

    Attributes:
        sources: in words: which file of which project, paper or package says so.
        unconfirmed: what nobody could look up, in words.
    """

    sources: tuple[str, ...]
    unconfirmed: tuple[str, ...] = ()


class HeldOut(_Strict):
    """A few examples of a split, drawn for validation; the test is the rest.

    Attributes:
        count: how many; half, if the split has not more than these.
        seed: of the generator that shuffles.
    """

    count: Positive
    seed: int


class ProtocolTask(Confirmed):
    """What every kind of task says.

    Attributes:
        kind: of the task.
        name: how it is called.
        data: the data set on the Hub, or a folder.
        columns: which column of the data plays which part.
        metric: the one that counts; the kind's first if it is not said.
        held_out: how validation and test are drawn from one split.
        elsewhere: where people get the data, in words, if they are not on the Hub.
    """

    kind: str
    name: Name
    data: Data
    columns: Mapping[str, str | tuple[str, ...]] = Field(default_factory=dict)
    metric: str = ""
    held_out: HeldOut | None = None
    elsewhere: str = ""

    @property
    def evaluated_as(self) -> str:
        """The kind of task that `weft evaluate` knows it as."""
        return self.kind

    @model_validator(mode="after")
    def _metric_fits(self) -> ProtocolTask:
        known = fitting(self.evaluated_as)
        if self.metric and self.metric not in known:
            raise ValueError(f"metric {self.metric!r} does not fit {self.kind}; it has {', '.join(known)}")
        return self


class ZeroShotTask(ProtocolTask):
    """Images, and classes that are known by sentences about them.

    Attributes:
        classes: the names, in the order of the labels.
        templates: sentences, with `{}` where the name goes.
    """

    kind: Literal["zero-shot"]
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    templates: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def evaluated_as(self) -> str:
        """An image classification with a head."""
        return "image-classification"

    @model_validator(mode="after")
    def _every_template_has_a_place(self) -> ZeroShotTask:
        lacking = [text for text in self.templates if text.count("{}") != 1]
        if lacking:
            raise ValueError(f"the template {lacking[0]!r} should hold {{}} once")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("names a class twice")
        return self


class HeadedTask(ProtocolTask):
    """Texts, or pairs of texts, read by an encoder with the expert's own head.

    Attributes:
        labels: the classes' names in the heads' order, if the data hold names and not numbers.
    """

    kind: Literal["classification", "regression"]
    labels: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _numbers_have_no_names(self) -> HeadedTask:
        if self.kind == "regression" and self.labels:
            raise ValueError("has `labels`, which go with `kind: classification` only")
        return self


class Prompt(_Strict):
    """How a row of data becomes a question.

    Attributes:
        name: what its authors call it.
        text: a Jinja template: what is asked, `|||`, the right answer.
        choices: a Jinja template: the answers, with `|||` between them.
    """

    name: str
    text: str
    choices: str


class PromptedTask(ProtocolTask):
    """Questions whose answers are ranked by their likelihood."""

    kind: Literal["prompted"]
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)]

    @property
    def evaluated_as(self) -> str:
        """A multiple choice."""
        return "multiple-choice"


class Published(_Strict):
    """One row of a table that somebody else made.

    Attributes:
        method: as the source calls it.
        setting: what was tuned on what.
        checkpoints: whose checkpoints; rows of other checkpoints than the protocol's are no target.
        mean: over all tasks, in percent; None if the source says none.
        share: the mean of the scores as parts of the experts', in percent; None if the source says none.
        tasks: in percent.
        source: who says so.
        mark: how it was read: `EMR-txt`, `ISO-txt`: the paper's text; `repo`, `log`, `FB`: the project's files;
            `WUDI`, `PCB-fig`, `FREE`, `3rd`: somebody else's quotation.
    """

    method: str
    setting: str = ""
    checkpoints: str = ""
    mean: Percent | None = None
    share: Percent | None = None
    tasks: Mapping[str, Percent] = Field(default_factory=dict)
    source: str
    mark: Literal["EMR-txt", "ISO-txt", "repo", "log", "FB", "WUDI", "PCB-fig", "FREE", "3rd"]

    @model_validator(mode="after")
    def _says_something(self) -> Published:
        if self.mean is None and self.share is None and not self.tasks:
            raise ValueError("should hold a `mean`, a `share` or `tasks`")
        return self


class Method(_Strict):
    """A method as a paper runs it, in the language of recipes.

    Attributes:
        method, parameters, before, after: as in a recipe.
        source: who runs it so.
    """

    method: str
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    before: ChainedStep = None
    after: ChainedStep = None
    source: str


class Protocol(Confirmed):
    """Models to merge, tasks to ask, and what others found.

    Attributes:
        name: how it is called.
        title: in a line.
        family: how checkpoints are made whole and asked: `clip`: an image encoder with a head of sentences;
            `text-to-text`: likelihoods of answers; `encoder`: with the expert's head; `ia3`: vectors that scale a
            model's activations, merged alone, then multiplied into the model.
        kinds: what config.json may give as `model_type`.
        base: the pretrained model.
        experts: a checkpoint for each task.
        rules: of the recipe, over tensor names.
        rename: of the recipe: changes to the tensor names of every expert.
        prompts: of a prompted task: only the `first`, or `all`, of whose scores the median counts.
        longest: tokens of a text that are read.
        split: of the data that is asked.
        tasks: in the order of the papers' tables.
        methods: that are run unless others are asked for.
        published: rows to compare with.
        checkpoints: whose checkpoints these are, as in `Published`.
    """

    name: Name
    title: str
    family: Family
    kinds: tuple[str, ...]
    base: Source
    experts: Mapping[str, Source]
    checkpoints: str = ""
    rules: tuple[Mapping[str, Any], ...] = ()
    rename: Renaming = {}
    prompts: Literal["first", "all"] = "first"
    longest: Positive = 512
    split: Literal["validation", "test"] = "test"
    tasks: tuple[ProtocolTask, ...]
    methods: Mapping[str, Method]
    published: tuple[Published, ...] = ()

    @model_validator(mode="after")
    def _an_expert_for_each_task(self) -> Protocol:
        names = [task.name for task in self.tasks]
        if sorted(names) != sorted(self.experts):
            raise ValueError(f"has the tasks {', '.join(names)}, but the experts {', '.join(self.experts)}")
        strangers = {name for row in self.published for name in row.tasks} - set(names)
        if strangers:
            raise ValueError(f"published: there is no task {sorted(strangers)[0]!r}")
        return self

    def task(self, name: str) -> ProtocolTask:
        """One of its tasks."""
        return next(task for task in self.tasks if task.name == name)


TASKS: Mapping[str, type[ProtocolTask]] = {
    "zero-shot": ZeroShotTask,
    "classification": HeadedTask,
    "regression": HeadedTask,
    "prompted": PromptedTask,
}


def path_of(folder: Path, name: str) -> Path:
    """The file of a protocol or task."""
    return folder / f"{name}.yaml"
