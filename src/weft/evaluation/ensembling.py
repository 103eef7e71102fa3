"""Predictions of several models as one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from weft.evaluation.metrics import Predictions


@dataclass(frozen=True)
class Mean:
    """The mean of what models predict for the same examples, taken in one model after the other.

    Of classes it is the mean of their probabilities, of regressions that of the numbers. Of choices, too, it is the
    mean of the probabilities, each model's adding up to 1; but told as log-likelihoods as high as the models' own are
    in the mean. So equal models predict together what each of them does, by length as well.

    Attributes:
        made: the mean.
        count: of how many models.
        logarithms: whether scores are log-likelihoods of choices.

    Example:
        >>> one, other = (Predictions(np.log([chances]), np.array([0])) for chances in ([0.2, 0.1], [0.1, 0.2]))
        >>> np.exp(Mean(one, logarithms=True).taking(other).made.scores).round(2).tolist()
        [[0.15, 0.15]]
    """

    made: Predictions
    count: int = 1
    logarithms: bool = False

    def taking(self, other: Predictions) -> Mean:
        """The mean with another model's predictions taken in."""
        ours, theirs = self.count / (self.count + 1), 1 / (self.count + 1)
        old, new = self.made.scores, other.scores
        if self.logarithms:
            heights = [np.logaddexp.reduce(scores, 1, keepdims=True) for scores in (old, new)]
            both = np.logaddexp(old - heights[0] + np.log(ours), new - heights[1] + np.log(theirs))
            scores = both + ours * heights[0] + theirs * heights[1]
        else:
            scores = ours * old + theirs * new
        return replace(self, made=replace(self.made, scores=scores), count=self.count + 1)
