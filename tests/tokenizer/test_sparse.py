"""Sparse products and the truncated SVD against dense ones."""

import numpy as np
import pytest
import torch

from onerec.tokenizer.sparse import SparseMatrix, truncated_svd


def random_matrix(n: int, m: int, seed: int = 0) -> tuple[SparseMatrix, torch.Tensor]:
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n, m)) < 0.2, rng.normal(size=(n, m)), 0).astype(np.float32)
    row, column = np.nonzero(dense)
    shuffled = rng.permutation(len(row))
    row, column = row[shuffled], column[shuffled]
    sparse = SparseMatrix.from_triplets(row, column, dense[row, column], (n, m))
    return sparse, torch.from_numpy(dense)


def test_product_by_hand() -> None:
    """[[0, 2], [0, 0], [3, 1]] @ [[1], [10]]: an empty row is zero."""
    matrix = SparseMatrix.from_triplets(
        np.array([2, 0, 2]), np.array([0, 1, 1]), np.array([3, 2, 1], np.float32), (3, 2)
    )
    assert matrix.shape == (3, 2)
    assert (matrix @ torch.tensor([[1.0], [10.0]])).tolist() == [[20.0], [0.0], [13.0]]
    assert (matrix.transposed @ torch.eye(3)).tolist() == [[0.0, 0.0, 3.0], [2.0, 0.0, 1.0]]


@pytest.mark.parametrize(("n", "m"), [(40, 30), (30, 40), (1, 5)])
def test_products_equal_dense_ones(n: int, m: int) -> None:
    sparse, dense = random_matrix(n, m)
    right, left = torch.randn(m, 7), torch.randn(n, 7)
    torch.testing.assert_close(sparse @ right, dense @ right)
    torch.testing.assert_close(sparse.transposed @ left, dense.T @ left)


@pytest.mark.parametrize(("n", "m"), [(60, 40), (40, 60)])
def test_svd_equals_the_dense_one(n: int, m: int) -> None:
    sparse, dense = random_matrix(n, m)
    generator = torch.Generator().manual_seed(0)
    u, s, v = truncated_svd(sparse, 5, generator, power_iterations=12)
    expected = torch.linalg.svd(dense)
    torch.testing.assert_close(s, expected.S[:5], rtol=1e-4, atol=1e-4)
    best = expected.U[:, :5] * expected.S[:5] @ expected.Vh[:5]
    torch.testing.assert_close(u * s @ v.T, best, rtol=1e-3, atol=2e-2)
    torch.testing.assert_close(u.T @ u, torch.eye(5), rtol=1e-4, atol=1e-4)


def test_signs_do_not_depend_on_the_draw() -> None:
    sparse, _ = random_matrix(50, 30)
    one, two = (
        truncated_svd(sparse, 3, torch.Generator().manual_seed(s), power_iterations=12)[2]
        for s in (0, 1)
    )
    torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-3)
    assert (one.gather(0, one.abs().argmax(0, keepdim=True)) > 0).all()


def test_power_iterations_sharpen_a_spectrum_that_is_flat() -> None:
    """Without them the first singular values are a fifth too small here."""
    sparse, dense = random_matrix(200, 150)
    found = truncated_svd(sparse, 5, torch.Generator().manual_seed(0))[1]
    torch.testing.assert_close(found, torch.linalg.svdvals(dense)[:5], rtol=0.04, atol=0)


def test_rank_beyond_the_matrix_is_cut() -> None:
    sparse, dense = random_matrix(6, 4)
    u, s, v = truncated_svd(sparse, 50, torch.Generator().manual_seed(0))
    assert (u.shape, s.shape, v.shape) == ((6, 4), (4,), (4, 4))
    torch.testing.assert_close(u * s @ v.T, dense, rtol=1e-4, atol=1e-4)
