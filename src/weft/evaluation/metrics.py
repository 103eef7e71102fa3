"""What predictions are worth. The arithmetic is scikit-learn's and scipy's; which fits what is said here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import InputError

EXTRA = 'pip install "weft[eval]"'
"""How to install what evaluation needs."""


@dataclass(frozen=True)
class Predictions:
    """What a model makes of every example of a task, in the data's order.

    Attributes:
        scores: classification: the probability of every class; regression: one number for each example; multiple
            choice: the log-likelihood of every choice in nats, -inf where an example has fewer; language modelling:
            the negative log-likelihood of each text in nats.
        targets: the right class or choice, or the right number; language modelling: number of tokens predicted.
        sizes: multiple choice: characters of every choice; language modelling: bytes of each text.
    """

    scores: NDArray[Any]
    targets: NDArray[Any]
    sizes: NDArray[Any] | None = None

    @property
    def chosen(self) -> NDArray[Any]:
        """The likeliest class or choice."""
        return np.asarray(self.scores.argmax(1))


@dataclass(frozen=True)
class Metric:
    """One number that says how good predictions are.

    Attributes:
        kinds: of tasks that it fits.
        measure: from predictions to the number.
        falls: whether lower is better.
    """

    kinds: tuple[str, ...]
    measure: Callable[[Predictions], float]
    falls: bool = False


def _sklearn() -> Any:
    return _needed("sklearn.metrics", "scikit-learn")


def _needed(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise InputError(f"metrics need {package}, which is not installed", EXTRA) from None


def _accuracy(made: Predictions) -> float:
    return float(_sklearn().accuracy_score(made.targets, made.chosen))


def _macro_f1(made: Predictions) -> float:
    present = np.unique(made.targets)
    return float(_sklearn().f1_score(made.targets, made.chosen, labels=present, average="macro", zero_division=0.0))


def _matthews(made: Predictions) -> float:
    return float(_sklearn().matthews_corrcoef(made.targets, made.chosen))


def _f1(made: Predictions) -> float:
    """Of class 1 against all others, as GLUE counts for two classes."""
    return float(_sklearn().f1_score(made.targets == 1, made.chosen == 1, zero_division=0.0))


def _mean_of(*parts: Callable[[Predictions], float]) -> Callable[[Predictions], float]:
    """Several numbers as one, as GLUE's tables have them."""
    return lambda made: sum(part(made) for part in parts) / len(parts)


def _correlation(name: str) -> Callable[[Predictions], float]:
    def measured(made: Predictions) -> float:
        if np.ptp(made.scores) == 0 or np.ptp(made.targets) == 0:
            return 0.0  # as Matthews: what never varies tells nothing
        return float(getattr(_needed("scipy.stats", "scipy"), name)(made.targets, made.scores).statistic)

    return measured


def _perplexity(made: Predictions) -> float:
    return math.exp(min(float(made.scores.sum() / made.targets.sum()), 700.0))


def _bits_per_byte(made: Predictions) -> float:
    assert made.sizes is not None
    return float(made.scores.sum() / made.sizes.sum() / math.log(2))


def _accuracy_by_length(made: Predictions) -> float:
    assert made.sizes is not None
    return float(_sklearn().accuracy_score(made.targets, (made.scores / np.maximum(made.sizes, 1)).argmax(1)))


_CLASSES = ("classification", "image-classification")

METRICS: Mapping[str, Metric] = {
    "accuracy": Metric((*_CLASSES, "multiple-choice"), _accuracy),
    "macro_f1": Metric(_CLASSES, _macro_f1),
    "matthews": Metric(_CLASSES, _matthews),
    "f1": Metric(("classification",), _f1),
    "accuracy_and_f1": Metric(("classification",), _mean_of(_accuracy, _f1)),
    "pearson": Metric(("regression",), _correlation("pearsonr")),
    "spearman": Metric(("regression",), _correlation("spearmanr")),
    "pearson_and_spearman": Metric(("regression",), _mean_of(_correlation("pearsonr"), _correlation("spearmanr"))),
    "perplexity": Metric(("language-modelling",), _perplexity, falls=True),
    "bits_per_byte": Metric(("language-modelling",), _bits_per_byte, falls=True),
    "accuracy_by_length": Metric(("multiple-choice",), _accuracy_by_length),
}
"""By name. The first that fits a kind of task is the one that counts there by default."""


def fitting(kind: str) -> Mapping[str, Metric]:
    """The metrics of a kind of task.

    Example:
        >>> list(fitting("regression"))
        ['pearson', 'spearman', 'pearson_and_spearman']
    """
    return {name: metric for name, metric in METRICS.items() if kind in metric.kinds}


def measured(kind: str, made: Predictions) -> dict[str, float]:
    """Every metric that fits.

    Args:
        kind: of the task.
        made: what a model predicts.

    Raises:
        InputError: if scikit-learn or scipy are not installed.

    Example:
        >>> made = Predictions(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1]))
        >>> {name: round(value, 3) for name, value in measured("classification", made).items()}
        {'accuracy': 0.667, 'macro_f1': 0.667, 'matthews': 0.5, 'f1': 0.667, 'accuracy_and_f1': 0.667}
    """
    return {name: metric.measure(made) for name, metric in fitting(kind).items()}


def share(metric: str, score: float, expert: float) -> float | None:
    """A score as a part of the expert's; for what should be low, the other way round. None where that means nothing.

    Example:
        >>> share("accuracy", 0.45, 0.9), share("perplexity", 20.0, 10.0), share("matthews", 0.1, 0.0)
        (0.5, 0.5, None)
    """
    above, below = (expert, score) if METRICS[metric].falls else (score, expert)
    return above / below if below > 0.0 else None
