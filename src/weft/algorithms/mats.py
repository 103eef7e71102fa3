"""MaTS: matching models in their task parameter subspaces, by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import fsum, prod
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import field_validator, model_validator

from weft.algorithms.linear import weighted_average
from weft.algorithms.method import Count, Fraction, Law, Method, NonNegative, PerModel, Tensors, of_model, parameter
from weft.algorithms.program import Program
from weft.algorithms.regmean import TRANSPOSED, gram_of_inputs, largest_inputs
from weft.algorithms.whole import Beside, Shape, Whole, computing_with_torch, is_matrix, is_named


def _has_numbers(shape: Shape) -> bool:
    return prod(shape) > 0


def _is_vector_or_matrix(shape: Shape) -> bool:
    return len(shape) in (1, 2) and _has_numbers(shape)


def _gram_of_outputs(name: str, shape: Shape, transposed: Sequence[str]) -> Shape:
    side = shape[-1] if is_named(name, transposed) else shape[0]
    return (side, side)


_APPLIES = {"identity": _has_numbers, "fisher": _has_numbers, "gram": _is_vector_or_matrix, "kfac": is_matrix}
_STARTS = ("average", "base")


def _no_sides(shape: Shape) -> Shape:
    return ()


def _all_sides(shape: Shape) -> Shape:
    return shape


@final
class Mats(Method):
    r"""Solve for the parameters nearest to every model, in the distance that the model's own data define.

    .. math::
        \Bigl( \sum_i w_i C_i \Bigr) \theta = \sum_i w_i C_i \theta_i

    by conjugate gradients, tensor by tensor and in float64. `objective` chooses C: with `gram`, the Gram matrices of
    the layers' inputs (or the whole Fisher matrices of vectors), by the names of the weights, as for regmean; with
    `kfac`, the Kronecker product of those and of the Gram matrices of the gradients of the outputs, in the same file
    under the name with `@gradients` at its end; with `fisher`, a diagonal Fisher; with `identity`, nothing, which gives
    the average. Tensors without are averaged.

    The iteration starts at the average, the base, or a given merge, such as a file that another method wrote, and stops
    after `iterations` steps or where the residual is `tolerance` times as long as the right side; it is told how long
    the residual was. Few iterations keep it near its start, which the authors use as a regulariser: they start from
    task_arithmetic at scale 0.3 and take 100. Directions that no C knows stay as they are at the start.

    Differences to the official code, where its result is an accident: a start from the base is not transposed there,
    and with the objective `gram` the weights of the output layer are lost.

    Source: Tam et al. 2024, *Merging by Matching Models in Task Parameter Subspaces* (arXiv 2312.04339), section 3, and
    the official code.

    Example:
        >>> import numpy as np, weft
        >>> a, b = {"w": np.array([[1.0, 0.0]])}, {"w": np.array([[3.0, 4.0]])}
        >>> g, h = {"w": np.array([[3.0, 0.0], [0.0, 1.0]])}, {"w": np.eye(2)}
        >>> weft.merge([a, b], method="mats", gram=[g, h])["w"]
        array([[1.5, 2. ]])
    """

    name: ClassVar = "mats"
    title: ClassVar = "matching in task subspaces, by conjugate gradients"
    formula: ClassVar = "(Σ wᵢ Cᵢ) θ = Σ wᵢ Cᵢ θᵢ"
    source: ClassVar = "Tam et al. 2024, arXiv 2312.04339"
    needs_base: ClassVar = False
    laws: ClassVar = {Law.COPIES: {}, Law.ORDER: {"tolerance": 1e-15}, Law.ZERO_DELTAS: {}}

    objective: Literal["gram", "kfac", "fisher", "identity"] = parameter("gram", "what measures the distance (C)")
    gram: PerModel[Annotated[Any, Tensors()]] = parameter(
        None, "for gram and kfac: the Gram matrices of the model's layers, a file of tensors"
    )
    fisher: PerModel[Annotated[Any, Tensors()]] = parameter(
        None, "for fisher: the model's diagonal Fisher, a file of tensors"
    )
    weight: PerModel[NonNegative] = parameter(1.0, "factor of each model")
    off_diagonal: Fraction = parameter(1.0, "factor of the Gram matrices off their diagonals")
    start: Annotated[Any, Tensors(*_STARTS)] = parameter(
        "average", "where the iteration starts: average, base, or a merge (a file of tensors)"
    )
    iterations: Count = parameter(100, "steps at most")
    tolerance: NonNegative = parameter(1e-5, "residual, in lengths of the right side, at which it stops")

    transposed: tuple[str, ...] = parameter((), "patterns of weights that are stored as inputs x outputs")

    @field_validator("start")
    @classmethod
    def _a_place_or_a_merge(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in _STARTS and "/" not in value and not value.endswith(".safetensors"):
            raise ValueError("should be average, base, or the path of a merge (a folder, or a .safetensors file)")
        return value

    @model_validator(mode="after")
    def _everybody_who_counts_has_a_distance(self) -> Mats:
        if not any(self.weight):
            raise ValueError("all weights are 0, so there is nothing to average; give one model a weight")
        for argument in self._measured():
            lacking = [i for i, (w, f) in enumerate(zip(self.weight, getattr(self, argument))) if w and f is None]
            if lacking:
                command = "gram --gradients" if self.objective == "kfac" else argument
                text = f"has no `{argument}`, which objective {self.objective} needs; measure it with `weft {command}`"
                raise of_model(lacking[0], text)
        return self

    def _measured(self) -> tuple[str, ...]:
        """The parameters that the objective needs for every model."""
        return {"gram": ("gram",), "kfac": ("gram",), "fisher": ("fisher",), "identity": ()}[self.objective]

    def program(self) -> Program:
        """Tensors with statistics whole; the weighted average for everything else."""
        with computing_with_torch(self.name):
            from weft.matrices import mats
        functions: Mapping[str, Callable[..., Any]] = {
            "gram": mats.mats_gram,
            "kfac": mats.mats_kfac,
            "fisher": mats.mats_fisher,
            "identity": mats.mats_identity,
        }
        options: dict[str, Any] = {
            "iterations": self.iterations,
            "tolerance": self.tolerance,
            "off_diagonal": self.off_diagonal,
        }
        options |= {"transposed": partial(is_named, patterns=self.transposed)}
        renamed = {"origin": "base"} if isinstance(self.start, str) and self.start == "base" else {}
        sides: Mapping[str, Callable[[Shape], Shape]]
        sides = {"gram": partial(largest_inputs, transposed=self.transposed), "kfac": _all_sides}
        working = partial(mats.mats_bytes, sides=sides.get(self.objective, _no_sides))
        whole = Whole(functions[self.objective], _APPLIES[self.objective], working, options, renamed)
        auxiliary, beside = self._beside()
        return Program(
            weighted_average,
            values={"weight": self.weight, "mass": fsum(self.weight)},
            auxiliary=auxiliary,
            relative=True,
            whole=whole,
            beside=beside,
        )

    def _beside(self) -> tuple[Mapping[str, Any], Mapping[str, Beside]]:
        """The tensors beside the models, from where and of what shape."""
        gram, fisher = (tuple(f if w else None for f, w in zip(of, self.weight)) for of in (self.gram, self.fisher))
        every: dict[str, tuple[Any, Beside]] = {
            "gram": (gram, Beside(shape=partial(gram_of_inputs, transposed=self.transposed), hint=TRANSPOSED)),
            "fisher": (fisher, Beside()),
        }
        chosen = {argument: every[argument] for argument in self._measured()}
        if self.objective == "kfac":
            shape = partial(_gram_of_outputs, transposed=self.transposed)
            chosen["gradients"] = (gram, Beside(suffix="@gradients", shape=shape, hint=TRANSPOSED))
        if not (isinstance(self.start, str) and self.start in _STARTS):
            chosen["origin"] = (self.start, Beside(optional=False))
        return {a: source for a, (source, _) in chosen.items()}, {a: beside for a, (_, beside) in chosen.items()}
