"""Measure a model on data: from paths to a file of statistics, going on where an earlier run was killed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.checkpoints.checkpoint import TensorSpec
from weft.checkpoints.locking import locked
from weft.checkpoints.marks import Marks
from weft.engine.progress import Progress
from weft.errors import InputError, listed
from weft.statistics.data import Columns, opened, with_columns
from weft.statistics.examples import Examples, prepare
from weft.statistics.files import About, MeasureError, check_output, versions, write_statistics
from weft.statistics.interrupts import interrupts_between
from weft.statistics.loading import ENCODER, Loaded, load, needed
from weft.statistics.naming import GRADIENTS, Naming
from weft.statistics.room import chosen_room, planned
from weft.statistics.snapshots import Identity, Keeper, Snapshot, begun
from weft.statistics.tensors import spec_of

if TYPE_CHECKING:
    from torch import Tensor

    from weft.statistics.estimating import Estimator

INTERVAL = 60.0
"""Seconds between two snapshots."""
LABELS = ("auto", "exact", "sampled", "observed")
_PER_EXAMPLE = ("sequence-classification", "image-classification", ENCODER)
"""Tasks with one label for each example: where these are few, `auto` goes through all of them."""


@dataclass(frozen=True)
class Request:
    """What is to be measured, and how.

    Attributes:
        model: a model's folder, or its id on the Hub.
        data: a file, a folder, or a data set on the Hub.
        kind: `fisher` or `gram`.
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
    with locked(output):
        told.phase(f"loading {request.model}", 0)
        loaded = load(request.model, request.task, request.head)
        request = replace(request, labels=_settled(request, loaded), device=device)
        try:
            with opened(request.data, request.split, request.examples) as rows:
                needs_label = request.labels == "observed"
                table = with_columns(rows, request.data, request.columns, loaded.task, needs_label=needs_label)
                examples = prepare(
                    table, loaded, max_length=request.max_length, labelled=needs_label, seed=request.seed, progress=told
                )
                run = _Run(request, loaded, examples, Keeper(output, interval), told)
                return run.measured(output, restart=restart, began=began)
        finally:
            loaded.checkpoint.close()


def _check(request: Request) -> None:
    if request.labels not in LABELS:
        raise InputError(f"there are no labels {request.labels!r}", f"choose one of {', '.join(LABELS)}")
    if request.samples < 1:
        raise InputError(f"--samples {request.samples}: at least one label must be drawn", "ask for 1 or more")
    if request.seed < 0:
        raise InputError(f"--seed {request.seed}: seeds are not negative", "choose another")


def _settled(request: Request, loaded: Loaded) -> str:
    """Where labels come from, decided once for all examples; nowhere for Gram matrices of inputs."""
    from weft.statistics.labels import EXACT_UP_TO

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
        return {
            **asked, **Marks.of(self.loaded.checkpoint).metadata, "task": self.loaded.task.name,
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
        naming, means = self.loaded.naming, estimator.means()
        is_gram = self.request.kind == "gram"
        statistics = Grams(naming, means, counted(estimator)) if is_gram else Fishers(naming, means)
        if not statistics.specs:
            raise MeasureError(f"nothing that was measured belongs to a tensor of {self.loaded.path}")
        about = About(
            self.request.kind, self.loaded.label, Marks.of(self.loaded.checkpoint), self.loaded.task.name,
            self.request.labels, self.request.samples if self.request.labels == "sampled" else 0, self.request.seed,
            estimator.examples, estimator.tokens, self.request.data, self.examples.sha256, statistics.norm, versions(),
            statistics.rows,
        )  # fmt: skip
        size = write_statistics(output, statistics.specs, statistics.tensor, about.metadata)
        for remark in statistics.remarks:
            self.progress.warning(remark)
        remarks = (*self.examples.table.remarks, *self._remarks(estimator), *statistics.remarks)
        return Measured(
            output, about.kind, about.task, about.labels, about.examples, about.tokens, about.norm,
            len(statistics.specs), size, 0.0, 0, remarks,
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


def counted(estimator: Estimator) -> dict[str, int]:
    """How many vectors each layer has seen, by its weight: not every layer sees every token."""
    from weft.statistics.factors import ROWS

    return {name.removesuffix(ROWS): int(t) for name, t in estimator.sums().items() if name.endswith(ROWS)}


class Fishers:
    """Fisher information under the checkpoint's names.

    Args:
        naming: which tensor each parameter is.
        means: by parameter.

    Attributes:
        specs: the tensors.
        norm: the length of all of it; a parameter counts once, whatever its names.
        rows: none: every tensor is a mean over the examples.
        remarks: what was left out, in words.
    """

    def __init__(self, naming: Naming, means: Mapping[str, Tensor]) -> None:
        self._naming = naming
        self._means = {name: tensor.detach().float().cpu() for name, tensor in means.items()}
        named = naming.named(self._means)
        self.specs: tuple[TensorSpec, ...] = tuple(
            replace(spec_of(name, self._means[parts[0]]), shape=naming.shapes[name]) for name, parts in named.items()
        )
        counted = {part for parts in named.values() for part in parts}
        self.norm: float | None = sqrt(sum(float(self._means[part].double().square().sum()) for part in counted))
        self.rows: Mapping[str, int] = {}
        self.remarks: tuple[str, ...] = ()

    def tensor(self, name: str) -> Tensor:
        """One of them."""
        return self._naming.assembled(name, self._means)


class Grams:
    """Gram matrices, each under the name of the weight that it belongs to.

    Args:
        naming: which tensor each parameter is.
        means: by the weight's parameter, and the same with `@gradients`.
        counts: by the weight's parameter, how many vectors its layer has seen.

    Attributes:
        specs: the matrices.
        norm: None.
        rows: for each matrix how many vectors it is a mean over.
        remarks: what was left out, in words.
    """

    norm: float | None = None

    def __init__(self, naming: Naming, means: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        self._means = {name: tensor.detach().float().cpu() for name, tensor in means.items()}
        self._places: dict[str, tuple[str, slice]] = {}
        for name in naming.pieces:
            found = naming.rows(name)
            if found is not None:
                parameter, first, last = found
                self._add(name, parameter, slice(None))
                self._add(name + GRADIENTS, parameter + GRADIENTS, slice(first, last))
        self.specs: tuple[TensorSpec, ...] = tuple(spec_of(name, self.tensor(name)) for name in self._places)
        self.rows: Mapping[str, int] = {
            name: counts[source.removesuffix(GRADIENTS)] for name, (source, _) in self._places.items()
        }
        used = {source for source, _ in self._places.values()}
        left = [name for name in self._means if name not in used]
        self.remarks: tuple[str, ...] = (f"layers without a matrix in the checkpoint: {listed(left)}",) if left else ()

    def _add(self, name: str, source: str, rows: slice) -> None:
        if source in self._means:
            self._places[name] = (source, rows)

    def tensor(self, name: str) -> Tensor:
        """One of them."""
        source, rows = self._places[name]
        return self._means[source][rows, rows]


def as_json(measured: Measured) -> dict[str, Any]:
    """What was measured, for a pipeline."""
    return {**asdict(measured), "output": str(measured.output)}
