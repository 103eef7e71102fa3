"""Decompositions of ordinary and of awkward matrices, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weft.matrices import decompositions
from weft.matrices.decompositions import polar, significant, svd
from weft.matrices.mats import conjugate_gradients
from weft.matrices.regmean import solved

SHAPES = [(1, 1), (1, 9), (9, 1), (5, 5), (12, 7), (7, 12), (200, 6), (6, 200), (90, 80)]


def drawn(shape: tuple[int, int], rank: int | None = None, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A random matrix of some rank, its singular values of different size."""
    generator = torch.Generator().manual_seed(sum(shape))
    r = min(shape) if rank is None else min(rank, *shape)
    parts = [torch.randn(n, r, generator=generator, dtype=torch.float64) for n in shape]
    return ((parts[0] * torch.logspace(0, -1, r, dtype=torch.float64)) @ parts[1].T).to(dtype)


def assert_close(ours: torch.Tensor, theirs: torch.Tensor | np.ndarray, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(ours.numpy(), np.asarray(theirs), rtol=0, atol=atol)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [0, 1, 3, None])
def test_svd(shape: tuple[int, int], rank: int | None) -> None:
    matrix = drawn(shape, rank)
    u, s, vh = svd(matrix)
    k = min(shape)
    assert (u.shape, s.shape, vh.shape) == ((shape[0], k), (k,), (k, shape[1]))
    assert_close((u * s) @ vh, matrix, 1e-11)
    assert_close(u.T @ u, np.eye(k))
    assert_close(vh @ vh.T, np.eye(k))
    assert_close(s, np.linalg.svd(matrix.numpy(), compute_uv=False), 1e-11)
    assert significant(s, shape) == (k if rank is None else min(rank, k))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_triplets(shape: tuple[int, int]) -> None:
    matrix = drawn(shape)
    kept = max(min(shape) // 2, 1)
    u, s, vh = svd(matrix, kept)
    full = np.linalg.svd(matrix.numpy(), full_matrices=False)
    assert u.shape == (shape[0], kept)
    assert_close((u * s) @ vh, (full[0][:, :kept] * full[1][:kept]) @ full[2][:kept], 1e-11)


def test_few_triplets_of_a_low_rank_matrix_need_no_full_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = drawn((400, 300), rank=6, dtype=torch.float32)
    exact = np.linalg.svd(matrix.numpy().astype(np.float64), full_matrices=False)
    shapes: list[torch.Size] = []
    real = decompositions._full
    monkeypatch.setattr(decompositions, "_full", lambda m: shapes.append(m.shape) or real(m))
    u, s, vh = svd(matrix, 10)
    assert [min(shape) for shape in shapes] == [26]
    assert_close(s[:6], exact[1][:6].astype(np.float32), 1e-4)
    assert_close((u * s) @ vh, matrix, 1e-4)
    assert significant(s, matrix.shape) == 6


def test_few_triplets_that_would_be_wrong_are_found_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a matrix whose singular values hardly differ, subspace iteration finds nothing in four rounds."""
    matrix = torch.randn(300, 280, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shapes: list[torch.Size] = []
    real = decompositions._full
    monkeypatch.setattr(decompositions, "_full", lambda m: shapes.append(m.shape) or real(m))
    u, s, vh = svd(matrix, 8)
    assert [min(shape) for shape in shapes] == [24, 280]
    full = np.linalg.svd(matrix.numpy(), full_matrices=False)
    assert_close((u * s) @ vh, (full[0][:, :8] * full[1][:8]) @ full[2][:8], 1e-10)


def test_where_the_fast_algorithm_fails_the_slow_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = drawn((9, 6), dtype=torch.float32)
    expected = svd(matrix)

    def fails(*_: object, **__: object) -> None:
        raise torch.linalg.LinAlgError("linalg.svd: The algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "svd", fails)
    ours = svd(matrix)
    assert_close(ours.s, expected.s, 1e-6)
    assert_close((ours.u * ours.s) @ ours.vh, matrix, 1e-5)
    assert ours.u.dtype == torch.float32


@pytest.mark.parametrize("by", ["svd", "eigen"])
@pytest.mark.parametrize("shape", SHAPES)
def test_polar_factor(shape: tuple[int, int], by: decompositions.Orthogonalisation) -> None:
    matrix = drawn(shape)
    u, _, vh = np.linalg.svd(matrix.numpy(), full_matrices=False)
    assert_close(polar(matrix, by), u @ vh, 1e-12 if by == "svd" else 1e-9)


@pytest.mark.parametrize("by", ["svd", "eigen"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_polar_factor_without_full_rank(
    shape: tuple[int, int], rank: int, by: decompositions.Orthogonalisation, dtype: torch.dtype
) -> None:
    """The part that is there, whatever LAPACK returns for the rest."""
    matrix = drawn(shape, rank, dtype)
    u, _, vh = np.linalg.svd(drawn(shape, rank).numpy(), full_matrices=False)
    rank = min(rank, *shape)
    # An eigendecomposition of the squares of float32 numbers sees rounding errors where there is nothing.
    if by == "svd" or dtype is torch.float64:
        assert_close(polar(matrix, by), u[:, :rank] @ vh[:rank], 1e-5 if dtype is torch.float32 else 1e-8)
    assert torch.isfinite(polar(matrix, by)).all()


@pytest.mark.parametrize("known", [0, 1, 4, 9])
def test_least_squares_of_a_symmetric_matrix(known: int) -> None:
    """Along what the matrix knows, a solution; zero along the rest, in units of the diagonal."""
    rows = drawn((known, 9)) if known else torch.zeros(1, 9, dtype=torch.float64)
    matrix, right = rows.T @ rows, torch.arange(18, dtype=torch.float64).reshape(9, 2)
    found, is_full = solved(matrix, matrix @ right)
    assert is_full == (known == 9)
    assert_close(matrix @ found, matrix @ right, 1e-7)
    size = matrix.diagonal().sqrt()
    unseen = torch.eye(9, dtype=torch.float64) if not known else torch.linalg.svd(rows / size)[2][known:]
    assert_close(unseen @ (size[:, None] * found), np.zeros((9 - known, 2)), 1e-7)


def test_conjugate_gradients_need_as_many_steps_as_there_are_eigenvalues() -> None:
    diagonal = torch.tensor([1.0, 1.0, 4.0, 9.0], dtype=torch.float64)
    right = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    two, short = conjugate_gradients(lambda x: diagonal * x, right, torch.zeros_like(right), 2, 0.0)
    three, done = conjugate_gradients(lambda x: diagonal * x, right, torch.zeros_like(right), 3, 0.0)
    assert short > 1e-3
    assert done < 1e-14
    assert_close(three, right / diagonal)
    assert not np.allclose(two, right / diagonal)


def test_conjugate_gradients_leave_what_is_not_known_where_it_was() -> None:
    diagonal = torch.tensor([2.0, 0.0], dtype=torch.float64)
    right, start = torch.tensor([4.0, 0.0]).double(), torch.tensor([0.0, 7.0]).double()
    found, residual = conjugate_gradients(lambda x: diagonal * x, right, start, 50, 1e-5)
    assert found.tolist() == [2.0, 7.0]
    assert residual == 0.0
    nothing, _ = conjugate_gradients(lambda x: 0 * x, 0 * right, start, 50, 1e-5)
    assert nothing.tolist() == start.tolist()
