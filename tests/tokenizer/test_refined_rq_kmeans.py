"""Refined residual k-means: the search beside all codes there are, the fit beside least squares."""

import itertools

import pytest
import torch
from torch import Tensor

from onerec.errors import DataError, RecipeError
from onerec.tokenizer import refined_rq_kmeans as module
from onerec.tokenizer.refined_rq_kmeans import (
    RefinedRQKmeans,
    RefinedRQKmeansConfig,
    fit_together,
    search,
)
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig, reconstruct, residual_codes


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = randn(300, 6)


def error(x: Tensor, codes: Tensor, books: Tensor) -> float:
    return float((x - reconstruct(codes, books)).double().square().sum())


def test_a_search_by_hand_takes_the_second_nearest_where_it_ends_nearer() -> None:
    """1.4 is nearer to 1 than to 2, but 2 - .6 is 1.4 itself and 1 + .1 is not."""
    books = torch.tensor([[[1.0], [2.0]], [[0.1], [-0.6]]])
    x = torch.tensor([[1.4]])
    assert residual_codes(x, books).tolist() == [[0, 0]]
    assert search(x, books, 1)[0].tolist() == [[0, 0]]
    codes, left = search(x, books, 2)
    assert codes.tolist() == [[1, 1]]
    assert left == pytest.approx(0, abs=1e-12)


def test_one_path_is_the_nearest_code_level_by_level() -> None:
    books = randn(3, 7, 6, seed=1)
    codes, left = search(X, books, 1)
    assert codes.equal(residual_codes(X, books))
    assert left == pytest.approx(error(X, codes, books), rel=1e-5)


def test_with_all_paths_the_codes_are_the_best_there_are() -> None:
    books, x = randn(3, 5, 6, seed=1), X[:40]
    every = torch.tensor(list(itertools.product(range(5), repeat=3)))
    best = torch.cdist(x.double(), reconstruct(every, books).double()).argmin(1)
    assert search(x, books, 25)[0].equal(every[best])
    errors = [search(x, books, paths)[1] for paths in (1, 4, 25)]
    assert errors[0] > errors[1] >= errors[2]


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    books = randn(2, 8, 6, seed=2)
    whole, error = search(X, books, 4)
    monkeypatch.setattr(module, "chunk_rows", lambda x, columns: 7)
    codes, in_blocks = search(X, books, 4)
    assert codes.equal(whole)
    assert in_blocks == pytest.approx(error, rel=1e-6), "the sum over all blocks"


def test_codebooks_fitted_together_come_to_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of entries are linear in them: a design matrix of 0 and 1 has the same best fit."""
    monkeypatch.setattr(module, "SWEEPS", 200)
    books = randn(2, 4, 6, seed=3)
    codes = search(X, books, 2)[0]
    fitted = fit_together(X, codes, books)
    design = torch.cat([torch.nn.functional.one_hot(level, 4) for level in codes.T], 1).double()
    said = design @ torch.linalg.pinv(design) @ X.double()
    torch.testing.assert_close(reconstruct(codes, fitted).double(), said, atol=1e-5, rtol=0)


def test_a_code_that_nobody_has_stays_where_it_was() -> None:
    books = randn(1, 3, 6, seed=4)
    fitted = fit_together(X[:2], torch.tensor([[0], [0]]), books)
    torch.testing.assert_close(fitted[0, 0], X[:2].mean(0))
    assert fitted[0, 1:].equal(books[0, 1:])


def test_it_loses_less_than_residual_k_means_on_what_it_saw_and_on_what_is_new() -> None:
    x = randn(1_200, 6, seed=5)
    seen, unseen = x[:1_000], x[1_000:]
    plain = RQKmeans(RQKmeansConfig(levels=3, codebook_size=16)).fit(seen)
    refined = RefinedRQKmeans(RefinedRQKmeansConfig(levels=3, codebook_size=16))
    codes = refined.fit_transform(seen)
    assert codes.equal(refined.transform(seen))
    for part in (seen, unseen):
        ours, theirs = (
            error(part, tokenizer.transform(part), tokenizer.codebooks)
            for tokenizer in (refined, plain)
        )
        assert ours < 0.9 * theirs


def test_state_goes_round_and_what_cannot_be_is_refused() -> None:
    config = RefinedRQKmeansConfig(levels=2, codebook_size=4, paths=3)
    tokenizer = RefinedRQKmeans(config).fit(X)
    again = RefinedRQKmeans.from_state(config, tokenizer.state_dict())
    assert again.transform(X).equal(tokenizer.transform(X))
    with pytest.raises(RecipeError, match=r"from a stream.*tokenizer\.kind=rq_kmeans"):
        tokenizer.fit_stream(lambda: iter([X.numpy()]))
    with pytest.raises(RecipeError, match="paths is 0; it must be at least 1"):
        RefinedRQKmeansConfig(paths=0)
    with pytest.raises(DataError, match="row 2 of x has a value that is not finite"):
        tokenizer.transform(torch.where(torch.arange(300)[:, None] == 2, torch.nan, X))
    with pytest.raises(ValueError, match="the codebooks take"):
        tokenizer.transform(X[:, :5])


def test_rounds_go_on_from_the_one_before_and_one_that_loses_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Losses 9, 5, 4, 6: two rounds count, each fitted to the codes of the search before it."""
    losses = iter([9.0, 5.0, 4.0, 6.0])
    config = RefinedRQKmeansConfig(levels=2, codebook_size=8)
    monkeypatch.setattr(module, "search", lambda *given: (search(*given)[0], next(losses)))
    refined = RefinedRQKmeans(config)
    codes = refined._fit(X)
    books = RQKmeans(RQKmeansConfig(levels=2, codebook_size=8)).fit(X).codebooks
    for _ in range(2):
        books = fit_together(X, search(X, books, config.paths)[0], books)
    assert refined.codebooks.equal(books)
    assert codes.equal(search(X, books, config.paths)[0])


def test_rounds_end_where_the_loss_falls_by_less_than_the_tolerance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """9 to 8 is a ninth, 8 to 7.999 less than a thousandth, and there is no fourth search."""
    losses = iter([9.0, 8.0, 7.999])
    config = RefinedRQKmeansConfig(levels=2, codebook_size=8)
    monkeypatch.setattr(module, "search", lambda *given: (search(*given)[0], next(losses)))
    refined = RefinedRQKmeans(config).fit(X)
    books = RQKmeans(RQKmeansConfig(levels=2, codebook_size=8)).fit(X).codebooks
    for _ in range(2):
        books = fit_together(X, search(X, books, config.paths)[0], books)
    assert refined.codebooks.equal(books)
    assert next(losses, None) is None
