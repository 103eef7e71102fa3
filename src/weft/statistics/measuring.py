"""Measure a model on data: from paths to a file of statistics, going on where an earlier run was killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from weft.algorithms.apl import Partition
from weft.checkpoints.checkpoint import Checkpoint
from weft.checkpoints.locking import locked
from weft.checkpoints.marks import KINDS, Marks
from weft.engine.measured import as_stored
from weft.engine.progress import Progress
from weft.errors import InputError, nearest
from weft.statistics.data import Columns, opened, with_columns
from weft.statistics.examples import Examples, prepare
from weft.statistics.files import About, MeasureError, check_output, versions, write_statistics
from weft.statistics.interrupts import interrupts_between
from weft.statistics.loading import ENCODER, Loaded, load, needed
from weft.statistics.parting import grafts, open_tuned
from weft.statistics.results import Grams, Parameterwise, Partwise, Statistics, counted
from weft.statistics.room import chosen_room, planned
from weft.statistics.snapshots import Identity, Keeper, Snapshot, begun

if TYPE_CHECKING:
    from weft.statistics.estimating import Estimator

INTERVAL = 60.0
"""Seconds between two snapshots."""
LABELS = ("auto", "exact", "sampled", "observed")
_OF_A_LOSS = ("gradient", "importance")
"""Kinds that are about the loss on the data, which only the data's own labels tell."""
_PER_EXAMPLE = ("sequence-classification", "image-classification", ENCODER)
"""Tasks with one label for each example: where these are few, `auto` goes through all of them."""


@dataclass(frozen=True)
class Request:
    """What is to be measured, and how.

    Attributes:
        model: a model's folder, or its id on the Hub.
        data: a file, a folder, or a data set on the Hub.
        kind: one of `KINDS`: `fisher`, `gram`, `gradient` or `importance`.
        task: what the model predicts, a name in `TASKS`; None for what its config says.
        head: a file with the linear head of an encoder.
        pooling: how an encoder's output becomes one vector: `mean` or `cls`.
        columns: which column holds what.
        split: which part of a data set.
        examples: how many, spread evenly over all; None for all.
        max_length: tokens of an example at most.
        batch_size: examples in a batch; None for what fits.
        labels: where the labels come from at which gradients are taken; one of `LABELS`.
        samples: labels drawn for each example, if they are.
        seed: of the draws, and of which tokens are masked.
        gradients: for Gram matrices, also those of the gradients of the layers' outputs.
        device: where to run it, as torch calls it; None for the fastest that is there.
        tuned: for importances, the folder of the model whose parts are put into this one, or its id on the Hub.
        partition: for importances, what the parts are: `layer`, `tensor` or `model`.
    """

    model: str
    data: str
    kind: str = "fisher"
    task: str | None = None
    head: Path | None = None
    pooling: str = "mean"
    columns: Columns = Columns()  # noqa: RUF009 - it is frozen
    split: str | None = None
    examples: int | None = None
    max_length: int | None = None
    batch_size: int | None = None
    labels: str = "auto"
    samples: int = 1
    seed: int = 0
    gradients: bool = False
    device: str | None = None
    tuned: str = ""
    partition: str = "layer"


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        output: the file.
        kind, task, labels, examples, tokens, norm: as in the file; see `About`.
        tensors: how many there are.
        bytes: the file's size.
        seconds: this run took.
        continued: examples that an earlier run had done.
        remarks: what a person should know.
    """

    output: Path
    kind: str
    task: str
    labels: str
    examples: int
    tokens: int
    norm: float | None
    tensors: int
    bytes: int
    seconds: float
    continued: int
    remarks: tuple[str, ...]


def measure(
    request: Request,
    output: Path,
    *,
    overwrite: bool = False,
    restart: bool = False,
    interval: float = INTERVAL,
    progress: Progress | None = None,
) -> Measured:
    """Measure statistics of a model on data and write them to a file.

    The model is run in float32 and in evaluation mode. What was summed is kept beside the output now and then: the
    same call goes on from there after whatever stopped it, and ends in the same bytes.

    Args:
        request: what to measure.
        output: a `.safetensors` file.
        overwrite: whether it may replace a file.
        restart: whether what an interrupted measurement of something else left may be discarded.
        interval: seconds between two snapshots.
        progress: is told how far it is.

    Raises:
        InputError: for a model, data, columns or options that do not fit, before anything is measured.
        MeasureError: if it does not fit into memory, or cannot be written.
    """
    from weft.inspection.running import chosen_device

    began = time.monotonic()
    told = progress or Progress()
    needed("torch", "transformers", "datasets")
    _check(request)
    check_output(output, overwrite=overwrite)
    device = chosen_device(request.device)
    with locked(output), ExitStack() as stack:
        told.phase(f"loading {request.model}", 0)
        loaded = load(request.model, request.task, request.head)
        stack.enter_context(closing(loaded.checkpoint))
        request = replace(request, labels=_settled(request, loaded), device=device)
        tuned = open_tuned(request.tuned, loaded.checkpoint, loaded.naming) if request.tuned else None
        if tuned:
            stack.enter_context(closing(tuned))
        rows = stack.enter_context(opened(request.data, request.split, request.examples))
        needs_label = request.labels == "observed"
        table = with_columns(rows, request.data, request.columns, loaded.task, needs_label=needs_label)
        examples = prepare(
            table, loaded, max_length=request.max_length, labelled=needs_label, seed=request.seed, progress=told
        )
        run = _Run(request, loaded, tuned, examples, Keeper(output, interval), told)
        return run.measured(output, restart=restart, began=began)


def _check(request: Request) -> None:
    if request.kind not in KINDS:
        what = f"there are no statistics {request.kind!r}"
        raise InputError(what, nearest(request.kind, KINDS) or f"choose one of {', '.join(KINDS)}")
    if request.labels not in LABELS:
        raise InputError(f"there are no labels {request.labels!r}", f"choose one of {', '.join(LABELS)}")
    if request.kind in _OF_A_LOSS and request.labels not in ("auto", "observed"):
        what = f"{request.kind}: the loss is that of the data's own labels, not of labels: {request.labels}"
        raise InputError(what, "leave labels out")
    if bool(request.tuned) is not (request.kind == "importance"):
        what = f"{request.kind} is about {'one model' if request.tuned else 'a base and a model fine-tuned from it'}"
        raise InputError(what, "leave `tuned` out" if request.tuned else "name that model as `tuned`")
    if request.samples < 1:
        raise InputError(f"--samples {request.samples}: at least one label must be drawn", "ask for 1 or more")
    if request.seed < 0:
        raise InputError(f"--seed {request.seed}: seeds are not negative", "choose another")
    if request.partition not in get_args(Partition):
        what = f"there is no partition {request.partition!r}"
        raise InputError(what, f"choose one of {', '.join(get_args(Partition))}")


def _settled(request: Request, loaded: Loaded) -> str:
    """Where labels come from, decided once for all examples; nowhere for Gram matrices of inputs."""
    from weft.statistics.labels import EXACT_UP_TO

    if request.kind in _OF_A_LOSS:
        return "observed"
    if request.kind == "gram" and not request.gradients:
        return ""
    if request.labels != "auto":
        return request.labels
    few = loaded.task.name in _PER_EXAMPLE and loaded.classes <= EXACT_UP_TO
    return "exact" if few else "sampled"


@dataclass(frozen=True)
class _Run:
    """One measurement, ready to begin."""

    request: Request
    loaded: Loaded
    tuned: Checkpoint | None
    examples: Examples
    keeper: Keeper
    progress: Progress

    def measured(self, output: Path, *, restart: bool, began: float) -> Measured:
        """Sum up what is left, and write."""
        identity = self._identity()
        found = begun(output, identity, len(self.examples), restart=restart)
        if found is None:
            self.keeper.forget()
        self.loaded.module.to(self.request.device)
        estimator = self._estimator()
        room = found.batch if found else self._room()
        if found:
            self._go_on(estimator, found)
        done = found.done if found else 0
        for chosen in self.examples.table.remarks:
            self.progress.note(chosen)
        for remark in self._remarks(estimator):
            self.progress.warning(remark)
        self._sum(estimator, identity, room, done)
        made = self._written(output, estimator)
        self.keeper.forget()
        return replace(made, seconds=time.monotonic() - began, continued=done)

    def _go_on(self, estimator: Estimator, found: Snapshot) -> None:
        """Give an estimator what an earlier run summed.

        It sees the first batch again beforehand, on which it settles how it computes, as it did then.
        """
        first, last = planned(self.examples.lengths, found.batch)[0]
        self._update(estimator, first, last)
        estimator.restore(found.sums, found.examples, found.tokens)
        self.progress.continued(found.done / len(self.examples))

    def _sum(self, estimator: Estimator, identity: Identity, room: tuple[int, int], done: int) -> None:
        lengths = self.examples.lengths
        self.progress.phase("measuring", sum(lengths))
        self.progress.advance(sum(lengths[:done]))
        with interrupts_between() as check:
            for first, last in planned(lengths, room, done):
                self._update(estimator, first, last)
                self.progress.advance(sum(lengths[first:last]))
                if self.keeper.is_due and last < len(lengths):
                    sums = estimator.sums()
                    self.keeper.keep(Snapshot(identity, room, last, estimator.examples, estimator.tokens, sums))
                check()

    def _update(self, estimator: Estimator, first: int, last: int) -> None:
        batch = self.examples.batch(first, last)
        try:
            estimator.update({name: tensor.to(self.request.device) for name, tensor in batch.items()}, first)
        except (RuntimeError, MemoryError) as error:
            if "out of memory" not in str(error).lower() and not isinstance(error, MemoryError):
                raise
            tokens = self.examples.lengths[first]
            what = f"a batch of {last - first} examples of up to {tokens} tokens does not fit into memory"
            remedy = "choose a smaller --batch-size or --max-length, with --restart"
            raise MeasureError(f"{what}\n  -> {remedy}") from None

    def _identity(self) -> Identity:
        """What a result depends on; an unfinished measurement goes on only if nothing of it has changed."""
        request = self.request
        asked = {
            key: getattr(request, key)
            for key in ("kind", "pooling", "batch_size", "labels", "samples", "seed", "gradients", "device")
        }
        head = self.loaded.head
        put_in = {"partition": request.partition, **Marks.of(self.tuned).metadata("tuned")} if self.tuned else {}
        return {
            **asked, **Marks.of(self.loaded.checkpoint).metadata(), **put_in, "task": self.loaded.task.name,
            "head": _head_sha256(head) if head else None, "examples": len(self.examples),
            "max_length": self.examples.longest, "data_sha256": self.examples.sha256, "versions": versions(),
        }  # fmt: skip

    def _room(self) -> tuple[int, int]:
        request, is_text = self.request, self.loaded.task.reads == "text"
        return chosen_room(
            self.loaded.module, request.batch_size, device=str(request.device), longest=self.examples.lengths[0],
            is_text=is_text,
        )  # fmt: skip

    def _estimator(self) -> Estimator:
        from weft.statistics import estimating

        request, module = self.request, self.loaded.module
        likelihood = likelihood_of(self.loaded, request.pooling)
        if self.tuned:
            parts = grafts(self.loaded.checkpoint, self.tuned, self.loaded.naming, self._partition)
            return estimating.InterventionEstimator(module, likelihood, parts)
        if request.kind == "gradient":
            return estimating.GradientEstimator(module, likelihood)
        if request.kind == "gram":
            labels = request.labels or "auto"  # which nobody asks for without gradients
            return estimating.GramEstimator(
                module, request.gradients, likelihood, labels, request.samples, request.seed
            )
        return estimating.FisherEstimator(module, likelihood, request.labels, request.samples, request.seed)

    def _remarks(self, estimator: Estimator) -> Iterator[str]:
        yield from self.loaded.remarks
        if self.examples.cut:
            yield f"{self.examples.cut} of {len(self.examples)} examples are cut off at {self.examples.longest} tokens"
        yield from estimator.remarks

    def _written(self, output: Path, estimator: Estimator) -> Measured:
        statistics = self._statistics(estimator)
        if not statistics.specs:
            raise MeasureError(f"nothing that was measured belongs to a tensor of {self.loaded.path}")
        about = self._about(estimator, statistics)
        size = write_statistics(output, statistics.specs, statistics.tensor, about.metadata)
        for remark in statistics.remarks:
            self.progress.warning(remark)
        remarks = (*self.examples.table.remarks, *self._remarks(estimator), *statistics.remarks)
        return Measured(
            output, about.kind, about.task, about.labels, about.examples, about.tokens, about.norm,
            len(statistics.specs), size, 0.0, 0, remarks,
        )  # fmt: skip

    @property
    def _partition(self) -> Partition:
        return cast("Partition", self.request.partition)  # it was checked

    def _statistics(self, estimator: Estimator) -> Statistics:
        naming, means = self.loaded.naming, estimator.means()
        if self.tuned:
            return Partwise(naming, means, self._partition)
        return Grams(naming, means, counted(estimator)) if self.request.kind == "gram" else Parameterwise(naming, means)

    def _about(self, estimator: Estimator, statistics: Statistics) -> About:
        request, own = self.request, Marks.of(self.loaded.checkpoint)
        about = About(
            request.kind, self.loaded.label, own, self.loaded.task.name, request.labels,
            request.samples if request.labels == "sampled" else 0, request.seed, estimator.examples, estimator.tokens,
            request.data, self.examples.sha256, statistics.norm, versions(), statistics.rows,
        )  # fmt: skip
        if not self.tuned:
            return about
        return replace(
            about, model=request.tuned, marks=Marks.of(as_stored(self.tuned)), base=self.loaded.label, base_marks=own,
            partition=request.partition,
        )  # fmt: skip


def _head_sha256(head: Any) -> str:
    import hashlib

    digest = hashlib.sha256(head.weight.numpy().tobytes())
    digest.update(head.bias.numpy().tobytes() if head.bias is not None else b"")
    return digest.hexdigest()


def likelihood_of(loaded: Loaded, pooling: str) -> Any:
    """What the model's output says of labels."""
    from weft.statistics import families, likelihoods

    if loaded.head is None:
        return families.likelihood_of(loaded.module)
    return likelihoods.EncoderWithHead(weight=loaded.head.weight, bias=loaded.head.bias, pooling=pooling)


def as_json(measured: Measured) -> dict[str, Any]:
    """What was measured, for a pipeline."""
    return {**asdict(measured), "output": str(measured.output)}
