"""RegMean: the weights that best reproduce every model's outputs on its own inputs (arXiv 2212.09849)."""

import numpy as np

from tests.reference import linear
from tests.references.common import Array, State, add_up, as_float64


def gram(batches: list[Array]) -> Array:
    """Mean over all tokens of x x^T."""
    tokens = np.concatenate([np.asarray(batch, np.float64).reshape(-1, batch.shape[-1]) for batch in batches])
    return tokens.T @ tokens / len(tokens)


def shrunk(matrix: Array, factor: float) -> Array:
    """Multiply what is off the diagonal by a factor."""
    return matrix * (factor + (1 - factor) * np.eye(len(matrix)))


def solved(left: Array, right: Array) -> Array:
    """Solve left X = right without the dead inputs, whose rows in the result are zero.

    An input is dead if its row in `left` is zero. The official inverse removes them only after it has failed; a row of
    zeros always makes it fail. Anything else singular raises.
    """
    alive = np.any(left != 0, axis=1)
    result = np.zeros(right.shape)
    result[alive] = np.linalg.solve(left[np.ix_(alive, alive)], right[alive])
    return result


def regressed(grams: list[Array], weights: list[Array]) -> Array:
    """[(sum G)^-1 sum G W^T]^T for weights of shape (outputs, inputs)."""
    right = add_up(np.stack([g @ w.T for g, w in zip(grams, weights)]))
    return solved(add_up(np.stack(grams)), right).T


def regmean(
    models: list[State],
    grams: list[State],
    *,
    factor: float = 1.0,
    weight: list[float] | None = None,
) -> State:
    """Regress every weight that has Gram matrices, average all other tensors.

    Args:
        models: the fine-tuned models.
        grams: for each model the Gram matrix of the inputs of `NAME.weight`, by NAME.
        factor: what multiplies the Gram matrices off their diagonals.
        weight: of each model; the Gram matrices take it too. Its scale does not matter (in the original code the other
            tensors are the weighted sum, so that the weights must add up to 1).

    """
    chosen = weight or [1.0] * len(models)
    result = linear(models, chosen)
    states = [as_float64(model) for model in models]
    for module in grams[0]:
        weighed = [w * shrunk(as_float64(g)[module], factor) for w, g in zip(chosen, grams)]
        result[f"{module}.weight"] = regressed(weighed, [state[f"{module}.weight"] for state in states])
    return result
