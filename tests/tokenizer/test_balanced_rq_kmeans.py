"""Balanced residual k-means: every code of a level stands for as many of the fitted items."""

from typing import Any

import pytest
import torch

from onerec.errors import RecipeError
from onerec.tokenizer.balanced_kmeans import balanced_kmeans, sizes_of
from onerec.tokenizer.balanced_rq_kmeans import BalancedRQKmeans, BalancedRQKmeansConfig
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig, quantisation_report

X = torch.randn(210, 5, generator=torch.Generator().manual_seed(0)) ** 3


@pytest.mark.parametrize("assignment", ["transport", "greedy"])
def test_every_level_is_balanced_on_the_fitted_items(assignment: str) -> None:
    config = BalancedRQKmeansConfig(levels=3, codebook_size=8, assignment=assignment)
    tokenizer = BalancedRQKmeans(config)
    codes = tokenizer.fit_transform(X)
    for level in range(3):
        counts = torch.bincount(codes[:, level], minlength=8).tolist()
        assert sorted(counts) == sorted(sizes_of(210, 8))
    assert tokenizer.codebooks.shape == (3, 8, 5)
    # A level's centroids are the means of what its members had left.
    residual = X - tokenizer.codebooks[0][codes[:, 0]]
    means = torch.stack([residual[codes[:, 1] == code].mean(0) for code in range(8)])
    torch.testing.assert_close(tokenizer.codebooks[1], means, atol=1e-5, rtol=1e-5)


def test_entropy_is_higher_than_of_plain_codes_and_others_get_the_nearest() -> None:
    plain = RQKmeans(RQKmeansConfig(levels=2, codebook_size=8)).fit(X)
    balanced = BalancedRQKmeans(BalancedRQKmeansConfig(levels=2, codebook_size=8))
    codes = balanced.fit_transform(X)
    reports = [
        quantisation_report(X, codes, balanced.codebooks),
        quantisation_report(X, plain.transform(X), plain.codebooks),
    ]
    for ours, theirs in zip(*(report["levels"] for report in reports), strict=True):
        assert ours["entropy_nats"] > ours["max_entropy_nats"] - 0.01
        assert theirs["entropy_nats"] < ours["entropy_nats"] - 0.1
    other = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    nearest = torch.cdist(other, balanced.codebooks[0]).argmin(1)
    assert balanced.transform(other)[:, 0].equal(nearest)


def test_state_goes_round_and_a_stream_is_refused() -> None:
    config = BalancedRQKmeansConfig(levels=2, codebook_size=4)
    tokenizer = BalancedRQKmeans(config).fit(X)
    again = BalancedRQKmeans.from_state(config, tokenizer.state_dict())
    assert again.transform(X).equal(tokenizer.transform(X))
    with pytest.raises(RecipeError, match=r"from a stream.*tokenizer\.kind=rq_kmeans"):
        BalancedRQKmeans(config).fit_stream(lambda: iter([X.numpy()]))


def test_the_first_level_is_balanced_k_means_with_the_recipes_start_and_cap() -> None:
    """A cap of 1.5 lets a cluster have 39 of 210 rows, where even ones have 27 at most."""
    config = BalancedRQKmeansConfig(levels=1, codebook_size=8, init="random", cap=1.5, seed=3)
    tokenizer = BalancedRQKmeans(config)
    codes = tokenizer.fit_transform(X)[:, 0]
    random = torch.Generator().manual_seed(3)
    expected = balanced_kmeans(X, 8, generator=random, init="random", cap=1.5)
    assert codes.equal(expected.labels)
    assert tokenizer.codebooks[0].equal(expected.centroids)
    assert 27 < int(codes.bincount().max()) <= 39


def test_the_first_level_is_algorithm_1_where_the_recipe_says_so() -> None:
    shape: dict[str, Any] = {
        "levels": 1,
        "codebook_size": 8,
        "init": "random",
        "assignment": "greedy",
    }
    codes = BalancedRQKmeans(BalancedRQKmeansConfig(**shape)).fit_transform(X)[:, 0]
    random = torch.Generator().manual_seed(0)
    expected = balanced_kmeans(X, 8, generator=random, init="random", assignment="greedy")
    assert codes.equal(expected.labels)
