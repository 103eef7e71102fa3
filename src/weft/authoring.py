"""All that a method of one's own is written with; see `docs/writing-a-method.md`."""

from weft.algorithms.method import (
    Count,
    Fraction,
    Integer,
    Law,
    Method,
    NonNegative,
    Number,
    PerModel,
    Positive,
    Tensors,
    parameter,
)
from weft.algorithms.program import (
    Change,
    Derived,
    Extreme,
    Gram,
    Note,
    Numbers,
    Program,
    Rank,
    Share,
    Statistic,
    Total,
)
from weft.algorithms.sparsifier import Sparsifier
from weft.algorithms.whole import Whole, computing_with_torch, is_matrix
from weft.kernels.element import element
from weft.kernels.elementary import exp, tanh

__all__ = [
    "Change",
    "Count",
    "Derived",
    "Extreme",
    "Fraction",
    "Gram",
    "Integer",
    "Law",
    "Method",
    "NonNegative",
    "Note",
    "Number",
    "Numbers",
    "PerModel",
    "Positive",
    "Program",
    "Rank",
    "Share",
    "Sparsifier",
    "Statistic",
    "Tensors",
    "Total",
    "Whole",
    "computing_with_torch",
    "element",
    "exp",
    "is_matrix",
    "parameter",
    "tanh",
]
