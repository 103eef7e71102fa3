"""What a family of models says about labels: log-likelihoods of examples, as something to differentiate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from weft.errors import InputError
from weft.statistics.batches import (
    IGNORED,
    LABELS,
    Batch,
    called,
    column,
    counted_of,
    examples,
    logits_of,
    mask_of,
    sequences,
)
from weft.statistics.labels import EXACT_UP_TO, Kind, Labels, drawn, normals

_REGRESSION = "use the likelihood of a regression"
_MANY = EXACT_UP_TO + 1
_WORDY = 4096
"""Backward passes for one batch beyond which asking for `exact` must be a mistake."""


class Likelihood(ABC):
    """How a family of models gives the log-likelihood of an example, and which labels there are.

    A subclass yields *scores*: one number for each example, such that the squares of the scores' gradients, summed
    over the scores, are what the example contributes to the Fisher information. For an expectation over labels these
    are the log-likelihoods times the square roots of the labels' probabilities.
    """

    @abstractmethod
    def scores(self, module: Any, batch: Batch, labels: Labels, numbers: Sequence[int]) -> Iterator[Tensor]:
        """Run the model once and go through the labels.

        Args:
            module: the model, in evaluation mode.
            batch: tensors with the examples along their first dimension.
            labels: how labels are chosen.
            numbers: each example's number in the data, which random draws depend on.

        Returns:
            Vectors of one number for each example, all attached to one forward pass.

        Raises:
            InputError: if labels are asked for that there are not, or the model's output is not what it should be.
        """

    def run(self, module: Any, batch: Batch) -> Any:
        """Run the model and ask nothing of it."""
        return called(module, batch)


@dataclass(frozen=True)
class Prediction:
    """What a model predicts: a distribution over classes at some positions.

    Attributes:
        logits: examples x positions x classes.
        counted: examples x positions, whether something is predicted there.
        observed: class numbers from the data, examples x positions, or None without labels.
    """

    logits: Tensor
    counted: Tensor
    observed: Tensor | None = None


@dataclass(frozen=True)
class Categorical(Likelihood):
    """One class out of several, at one position or many; positions are independent given the inputs.

    Attributes:
        average: divide an example's log-likelihood by the number of its positions, as MaTS does. Otherwise it is
            their sum, the log-likelihood of the whole sequence.
    """

    average: bool = False
    single: ClassVar[bool] = False
    """Whether there is one position, so that going through all classes is affordable."""

    @abstractmethod
    def predict(self, module: Any, batch: Batch) -> Prediction:
        """Run the model."""

    def scores(self, module: Any, batch: Batch, labels: Labels, numbers: Sequence[int]) -> Iterator[Tensor]:
        """The log-likelihoods of all labels, of drawn ones, or of the data's own."""
        prediction = self.predict(module, batch)
        _check_finite(prediction, numbers)
        labels = labels.settled(prediction.logits.shape[-1] if self.single else _MANY)
        logs = prediction.logits.float() if prediction.logits.dtype.itemsize < 4 else prediction.logits
        logs = logs.log_softmax(-1)
        factor = 1.0 / prediction.counted.sum(1).clamp(min=1).to(logs.dtype) if self.average else None
        for chosen, weight in choices(prediction, labels, numbers, logs.detach()):
            score = torch.where(prediction.counted, logs.gather(-1, chosen[..., None])[..., 0], 0.0)
            score = score if weight is None else score * weight
            yield score.sum(1) if factor is None else score.sum(1) * factor


def choices(
    prediction: Prediction, labels: Labels, numbers: Sequence[int], logs: Tensor
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Labels for every position and the square roots of their weights.

    Args:
        prediction: what the model says.
        labels: settled.
        numbers: each example's number in the data.
        logs: logarithms of the probabilities, examples x positions x classes.
    """
    if labels.kind is Kind.OBSERVED:
        yield _observed(prediction, numbers), None
    elif labels.kind is Kind.TRIAL:
        ranks = prediction.counted.long().cumsum(1)
        yield ranks % prediction.logits.shape[-1], None
    elif labels.kind is Kind.SAMPLED:
        root = torch.tensor(sqrt(1.0 / labels.samples), dtype=logs.dtype, device=logs.device)
        for sample in range(labels.samples):
            chosen = drawn(prediction.logits, prediction.counted, labels, numbers, sample)
            yield chosen, None if labels.samples == 1 else root
    else:
        yield from _all_of_them(prediction.counted, logs)


def _all_of_them(counted: Tensor, logs: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Every class at every position: cross terms between positions have mean zero, so one at a time is exact."""
    positions, classes = logs.shape[1:]
    if positions > 1 and positions * classes > _WORDY:
        what = (
            f"labels: exact would take {positions:,} positions x {classes:,} classes = {positions * classes:,} passes"
        )
        raise InputError(what, "use labels: sampled")
    for position in range(positions):
        for label in range(classes):
            chosen = torch.full_like(counted, label, dtype=torch.long)
            weight = torch.zeros_like(logs[..., 0])
            weight[:, position] = (0.5 * logs[:, position, label]).exp()
            yield chosen, weight


def _observed(prediction: Prediction, numbers: Sequence[int]) -> Tensor:
    if prediction.observed is None:
        raise InputError(f"the data have no column {LABELS!r}, which labels: observed needs", "use labels: sampled")
    classes = prediction.logits.shape[-1]
    wrong = prediction.counted & ((prediction.observed < 0) | (prediction.observed >= classes))
    if wrong.any():
        row, position = (int(i) for i in wrong.nonzero()[0])
        what = f"example {numbers[row]}: label {int(prediction.observed[row, position])} with {classes} classes"
        raise InputError(what, f"labels are numbers from 0 to {classes - 1}; map them to the model's own")
    return torch.where(prediction.counted, prediction.observed, 0)


def _check_finite(prediction: Prediction, numbers: Sequence[int]) -> None:
    fine = prediction.logits.detach().sum(-1).isfinite() | ~prediction.counted
    if not fine.all():
        row = int((~fine).any(1).nonzero()[0])
        what = f"example {numbers[row]}: the model's logits hold NaN or infinity"
        raise InputError(what, "check the model with `weft verify`, or run it in float32")


@final
@dataclass(frozen=True)
class Classification(Categorical):
    """A model that gives one row of logits for an example: of text, of images, of anything.

    Example:
        >>> import torch
        >>> module, batch = torch.nn.Linear(2, 3), {"input": torch.zeros(4, 2)}
        >>> [score] = Classification().scores(module, batch, Labels(Kind.SAMPLED), range(4))
        >>> score.shape
        torch.Size([4])
    """

    single: ClassVar = True

    def predict(self, module: Any, batch: Batch) -> Prediction:
        """Run the model on everything but the labels."""
        _refuse_other_problems(module)
        logits = logits_of(called(module, batch))
        if logits.ndim != 2 or len(logits) != examples(batch):
            what = f"the logits have shape {list(logits.shape)}, not [{examples(batch)}, classes]"
            raise InputError(what, "choose the likelihood that fits this model")
        if logits.shape[1] == 1:
            raise InputError("the head has one output, which is no choice of a class", _REGRESSION)
        return Prediction(logits[:, None], ones(logits[:, :1]), column(batch, 1))


@final
@dataclass(frozen=True)
class TokenClassification(Categorical):
    """A model that gives a row of logits for each token; padding and tokens labelled -100 do not count."""

    def predict(self, module: Any, batch: Batch) -> Prediction:
        """Run the model; what counts is what is not padding."""
        logits = sequences(logits_of(called(module, batch)), batch)
        observed = column(batch, 2)
        return Prediction(logits, counted_of(mask_of(batch, logits), observed), observed)


@final
@dataclass(frozen=True)
class CausalLM(Categorical):
    """A language model: every token is predicted from those before it.

    The label of a position is the token after it. Prefixes are those of the data, whatever labels are drawn. Tokens
    that the column `labels` marks with -100, as trainers mark prompts, are not predicted.
    """

    def predict(self, module: Any, batch: Batch) -> Prediction:
        """Run the model; every token but the first is predicted."""
        logits = sequences(logits_of(called(module, batch)), batch)[:, :-1]
        tokens = column(batch, 2)
        tokens = batch["input_ids"] if tokens is None else tokens
        mask = mask_of(batch, tokens)
        counted = counted_of(mask[:, 1:] & mask[:, :-1], tokens[:, 1:])
        return Prediction(logits, counted, tokens[:, 1:].clamp(min=0))


@final
@dataclass(frozen=True)
class MaskedLM(Categorical):
    """A model that fills in masked tokens: those not labelled -100, or without labels those that are the mask.

    Attributes:
        mask_token: the number of the mask token, needed without labels.
    """

    mask_token: int | None = None

    def predict(self, module: Any, batch: Batch) -> Prediction:
        """Run the model; what is masked is predicted."""
        observed = column(batch, 2)
        if observed is None and self.mask_token is None:
            what = f"nobody says which tokens are masked: no column {LABELS!r} and no mask token"
            raise InputError(what, "give the mask token's number, or labels that are -100 where nothing is masked")
        logits = sequences(logits_of(called(module, batch)), batch)
        masked = batch["input_ids"] == self.mask_token if observed is None else observed != IGNORED
        return Prediction(logits, masked & mask_of(batch, logits), observed)


@final
@dataclass(frozen=True)
class Seq2SeqLM(Categorical):
    """An encoder-decoder: every token of the target is predicted from the source and the target before it.

    The target is the column `labels` (-100 where it is padded), from which the decoder's inputs are made by the model
    itself unless `decoder_input_ids` are given.
    """

    def run(self, module: Any, batch: Batch) -> Any:
        """Run the model on the source and the target shifted by one."""
        inputs = dict(batch)
        if "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = module.prepare_decoder_input_ids_from_labels(labels=_target(batch))
        return called(module, inputs)

    def predict(self, module: Any, batch: Batch) -> Prediction:
        """Every token of the target is predicted."""
        observed = _target(batch)
        logits = logits_of(self.run(module, batch))
        if logits.shape[:2] != observed.shape:
            what = f"the logits have shape {list(logits.shape)} and the labels {list(observed.shape)}"
            raise InputError(what, "decoder_input_ids and labels must be equally long")
        return Prediction(logits, observed != IGNORED, observed)


@final
@dataclass(frozen=True, eq=False)
class EncoderWithHead(Categorical):
    """An encoder whose pooled output goes through a given linear head that is not part of it.

    Attributes:
        weight: the head's matrix, classes x features.
        bias: the head's bias, or None.
        pooling: `mean` over what is not padding, or `cls` for the first token.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    pooling: str = "mean"
    single: ClassVar = True
    ways: ClassVar = ("mean", "cls")

    def __post_init__(self) -> None:
        if self.weight is None or self.weight.ndim != 2:
            raise InputError("an encoder needs a head: a matrix of classes x features", "give its weight")
        if self.pooling not in self.ways:
            raise InputError(f"there is no pooling {self.pooling!r}", f"pooling is one of {', '.join(self.ways)}")

    def predict(self, module: Any, batch: Batch) -> Prediction:
        """Run the encoder, pool, apply the head."""
        assert self.weight is not None
        output = called(module, batch)
        hidden = getattr(output, "last_hidden_state", output)
        pooled = self._pooled(hidden, batch)
        if pooled.shape[-1] != self.weight.shape[1]:
            what = f"the encoder gives {pooled.shape[-1]} features and the head takes {self.weight.shape[1]}"
            raise InputError(what, "give the head that was trained on this encoder")
        head = self.weight.to(pooled.device, pooled.dtype)
        bias = None if self.bias is None else self.bias.to(pooled.device, pooled.dtype)
        logits = torch.nn.functional.linear(pooled, head, bias)
        return Prediction(logits[:, None], ones(logits[:, :1]), column(batch, 1))

    def _pooled(self, hidden: Tensor, batch: Batch) -> Tensor:
        if hidden.ndim == 2:
            return hidden
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = mask_of(batch, hidden).to(hidden.dtype)[..., None]
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


@final
@dataclass(frozen=True)
class Regression(Likelihood):
    """Real outputs with Gaussian noise of variance 1: the log-likelihood is minus half the squared error.

    The expectation over labels is then known: the squares of the outputs' gradients, summed over outputs.
    """

    def scores(self, module: Any, batch: Batch, labels: Labels, numbers: Sequence[int]) -> Iterator[Tensor]:
        """The outputs themselves, or the log-likelihoods of drawn or observed labels."""
        outputs = logits_of(called(module, batch)).reshape(examples(batch), -1)
        _check_finite(Prediction(outputs[:, None], ones(outputs[:, :1])), numbers)
        labels = labels.settled(outputs.shape[1])
        if labels.kind is Kind.EXACT:
            yield from outputs.unbind(1)
        elif labels.kind is Kind.TRIAL:
            yield outputs.sum(1)
        elif labels.kind is Kind.OBSERVED:
            target = _targets(batch, outputs)
            yield -0.5 * (target - outputs).square().sum(1)
        else:
            for sample in range(labels.samples):
                noise = normals(outputs, labels, numbers, sample)
                yield (outputs * noise).sum(1) / sqrt(labels.samples)


def ones(like: Tensor) -> Tensor:
    """True for every example and position."""
    return torch.ones(like.shape[:2], dtype=torch.bool, device=like.device)


def _refuse_other_problems(module: Any) -> None:
    """A regression's single output and a multi-label head's outputs are no logits of one class out of several."""
    problem = getattr(getattr(module, "config", None), "problem_type", None)
    if problem == "regression":
        raise InputError("the head is a regression, which has no classes", _REGRESSION)
    if problem == "multi_label_classification":
        what = "the head says yes or no to several labels at once, which is no choice of one class"
        raise InputError(what, "give your own log-likelihood")


def _target(batch: Batch) -> Tensor:
    target = column(batch, 2)
    if target is None:
        what = f"the data have no column {LABELS!r}, the target whose tokens the decoder predicts"
        raise InputError(what, "give the targets' tokens as labels; with labels: sampled they only serve as prefixes")
    return target


def _targets(batch: Batch, outputs: Tensor) -> Tensor:
    if LABELS not in batch:
        raise InputError(f"the data have no column {LABELS!r}, which labels: observed needs", "use labels: exact")
    targets = batch[LABELS]
    if targets.numel() != outputs.numel():
        what = f"{LABELS} has shape {list(targets.shape)} and the model's output {list(outputs.shape)}"
        raise InputError(what, "give as many targets as the model has outputs")
    return targets.reshape(outputs.shape).to(outputs.dtype)
