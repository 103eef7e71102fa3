"""Taking matrices apart: the thin singular value decomposition and the polar factor, also of matrices that are awkward.

All functions take any m x n matrix with at least one number in it: zero, one row, one column, of any rank.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

_LONG = 4
"""How many times longer than wide a matrix is from which on a QR decomposition before the SVD saves time."""

_SMALL = 8
"""What part of all singular triplets are few: from there on they are looked for by subspace iteration first."""

_EXTRA, _ITERATIONS, _TOLERANCE = 16, 4, 1e-5
"""More directions than asked for; rounds; the error of a triplet, in largest singular values, that is accepted."""

Orthogonalisation = Literal["svd", "eigen"]


class Svd(NamedTuple):
    """A thin singular value decomposition, A = U diag(s) V'.

    Attributes:
        u: m x r, columns orthonormal.
        s: r numbers, in falling order.
        vh: r x n, rows orthonormal.
    """

    u: Tensor
    s: Tensor
    vh: Tensor


def svd(matrix: Tensor, rank: int | None = None) -> Svd:
    """The thin SVD, or its first `rank` triplets.

    The signs of pairs of singular vectors are as they come. If few triplets are asked for, subspace iteration looks for
    them; they are taken only if each satisfies A v = s u to within 1e-5 of the largest singular value, as those of a
    matrix of low rank do. A matrix much longer than wide is first reduced to a square one by QR, which is as accurate.

    Args:
        matrix: m x n, finite.
        rank: how many triplets; all min(m, n) by default.

    Raises:
        RuntimeError: if no algorithm converges.

    Example:
        >>> u, s, vh = svd(torch.tensor([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]]))
        >>> s.tolist()
        [4.0, 3.0]
    """
    m, n = matrix.shape
    if m < n:
        u, s, vh = svd(matrix.T, rank)
        return Svd(vh.T, s, u.T)
    kept = n if rank is None else min(rank, n)
    if _SMALL * (kept + _EXTRA) <= n and (few := _few(matrix, kept)):
        return few
    if m < _LONG * n:
        u, s, vh = _full(matrix)
        return Svd(u[:, :kept], s[:kept], vh[:kept])
    q, r = torch.linalg.qr(matrix)
    u, s, vh = _full(r)
    return Svd(q @ u[:, :kept], s[:kept], vh[:kept])


def _full(matrix: Tensor) -> Svd:
    try:
        return Svd(*torch.linalg.svd(matrix, full_matrices=False))
    except torch.linalg.LinAlgError:
        return _slowly(matrix)


def _slowly(matrix: Tensor) -> Svd:
    """By QR iteration, for the rare matrix on which LAPACK's divide and conquer does not converge."""
    from scipy.linalg import svd as lapack

    u, s, vh = lapack(matrix.cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
    return Svd(*(torch.from_numpy(part).to(matrix) for part in (u, s, vh)))


def _few(matrix: Tensor, rank: int) -> Svd | None:
    """The first triplets by subspace iteration, if that was accurate. The start is random and always the same."""
    drawn = torch.randn(matrix.shape[1], rank + _EXTRA, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = torch.linalg.qr(matrix @ drawn.to(matrix)).Q
    for _ in range(_ITERATIONS):
        q = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ q).Q).Q
    inner, s, vh = _full(q.T @ matrix)
    u, s, vh = q @ inner[:, :rank], s[:rank], vh[:rank]
    error = torch.linalg.vector_norm(matrix @ vh.T - u * s, dim=0).max()
    return Svd(u, s, vh) if bool(error <= _TOLERANCE * s[0]) else None


def significant(s: Tensor, shape: tuple[int, ...] | torch.Size, largest: Tensor | None = None) -> int:
    """How many singular values are more than rounding errors: above max(m, n) eps times the largest.

    Args:
        s: in falling order.
        shape: of the matrix.
        largest: what it was computed from has this largest singular value; by default the first of `s`.

    Example:
        >>> significant(torch.tensor([1.0, 1e-3, 1e-9]), (3, 3)), significant(torch.zeros(2), (2, 5))
        (2, 0)
    """
    bar = max(shape) * torch.finfo(s.dtype).eps * (s[:1] if largest is None else largest)
    return int((s > bar).sum())


def polar(matrix: Tensor, by: Orthogonalisation = "svd") -> Tensor:
    """The nearest matrix with orthonormal columns (or rows, if it is wide): U V' of its thin SVD.

    Directions that the matrix does not have, of singular value zero but for rounding, stay out of it: with them, what a
    decomposition happens to return for them would be part of the result.

    Args:
        matrix: m x n.
        by: `svd`, or `eigen`: A (A'A)^(-1/2) by an eigendecomposition in float64, which is faster and loses directions
            below about 1e-8 of the largest.

    Example:
        >>> polar(torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, 0.0]])).tolist()
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    if matrix.shape[0] < matrix.shape[1]:
        return polar(matrix.T, by).T
    if by == "eigen":
        return _whitened(matrix)
    u, s, vh = svd(matrix)
    r = significant(s, matrix.shape)
    return u[:, :r] @ vh[:r]


def _whitened(matrix: Tensor) -> Tensor:
    double = matrix.double()
    values, vectors = torch.linalg.eigh(double.T @ double)
    values = values.clamp(min=0.0)
    kept = values > max(matrix.shape) * torch.finfo(torch.float64).eps * values[-1:]
    inverse = torch.where(kept, values, 1.0).rsqrt() * kept
    return (double @ ((vectors * inverse) @ vectors.T)).to(matrix)


def svd_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes that `svd` works with, results included: copies of the matrix, and small squares.

    Args:
        shape: of the matrix.
        itemsize: bytes of a number.
    """
    long, short = max(shape), min(shape)
    return itemsize * (4 * long * short + 9 * short * short + 64 * long)
