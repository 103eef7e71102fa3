"""Which likelihood a model has, by its kind."""

from __future__ import annotations

from typing import Any

from weft.errors import InputError
from weft.statistics.likelihoods import (
    CausalLM,
    Classification,
    Likelihood,
    MaskedLM,
    Regression,
    Seq2SeqLM,
    TokenClassification,
)

_ENDINGS: tuple[tuple[str, type[Likelihood]], ...] = (
    ("ForSequenceClassification", Classification),
    ("ForImageClassification", Classification),
    ("ForAudioClassification", Classification),
    ("ForVideoClassification", Classification),
    ("ForTokenClassification", TokenClassification),
    ("ForConditionalGeneration", Seq2SeqLM),
    ("ForSeq2SeqLM", Seq2SeqLM),
    ("ForMaskedLM", MaskedLM),
    ("ForCausalLM", CausalLM),
    ("LMHeadModel", CausalLM),
)


def likelihood_of(module: Any) -> Likelihood:
    """The likelihood of a model of transformers, by the end of its class's name; of any other, that of a classifier.

    Raises:
        InputError: for a model of transformers without a head that says something.

    Example:
        >>> import torch
        >>> likelihood_of(torch.nn.Linear(2, 3))
        Classification(average=False)
    """
    name, config = type(module).__name__, getattr(module, "config", None)
    for ending, kind in _ENDINGS:
        if name.endswith(ending):
            regression = kind is Classification and _is_regression(config)
            return Regression() if regression else kind()
    if config is None:
        return Classification()
    what = f"{name} says nothing about labels: its class is that of no head"
    raise InputError(what, "load it with its head, or give a likelihood, such as that of an encoder with a given head")


def _is_regression(config: Any) -> bool:
    problem = getattr(config, "problem_type", None)
    return problem == "regression" or (problem is None and getattr(config, "num_labels", 2) == 1)
