"""Residual k-means and its report: numbers by hand, then what must hold for any data."""

import math

import pytest
import torch

from onerec.errors import DataError, RecipeError, RunError
from onerec.tokenizer import rq_kmeans as module
from onerec.tokenizer.kmeans import kmeans
from onerec.tokenizer.rq_kmeans import (
    RQKmeans,
    RQKmeansConfig,
    codebook_size_for,
    quantisation_report,
    reconstruct,
)

# Two coarse places 0 and 100, and around each of them -1 and +1: two levels of two codes are exact.
X = torch.tensor([[-1.0], [1.0], [99.0], [101.0]])
BOOKS = torch.tensor([[[0.0], [100.0]], [[-1.0], [1.0]]])


def randn(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_what_is_no_number_has_no_code() -> None:
    tokenizer = RQKmeans(RQKmeansConfig(levels=2, codebook_size=2)).fit(X)
    lost = X.clone()
    lost[2] = float("nan")
    with pytest.raises(DataError, match="row 2 of x has a value that is not finite"):
        tokenizer.transform(lost)


def test_two_levels_by_hand() -> None:
    tokenizer = RQKmeans(RQKmeansConfig(levels=2, codebook_size=2)).fit(X)
    books = tokenizer.codebooks.sort(dim=1).values
    assert books.tolist() == BOOKS.tolist()
    codes = tokenizer.transform(X)
    assert codes.dtype == torch.int64
    assert len({tuple(row) for row in codes.tolist()}) == 4
    assert tokenizer.inverse_transform(codes).equal(X)
    assert tokenizer.sizes == (2, 2)


def test_transform_follows_the_equations() -> None:
    state = {"codebooks": BOOKS}
    tokenizer = RQKmeans.from_state(RQKmeansConfig(levels=2, codebook_size=2), state)
    assert tokenizer.transform(torch.tensor([[0.4], [-3.0], [60.0], [500.0]])).tolist() == [
        [0, 1],  # |0.4 - 0| least, left 0.4, nearer to 1
        [0, 0],
        [1, 0],  # left -40
        [1, 1],
    ]


def test_report_by_hand() -> None:
    """Vectors 3, 0, 12 and books {0, 10}, {1, 2}: mean 5, spread 4 + 25 + 49 = 78."""
    x = torch.tensor([[3.0], [0.0], [12.0]])
    books = torch.tensor([[[0.0], [10.0], [50.0]], [[1.0], [2.0], [90.0]]])
    codes = torch.tensor([[0, 1], [0, 0], [1, 1]])
    # residuals after level 1: 3, 0, 2 -> 13; after level 2: 1, -1, 0 -> 2
    report = quantisation_report(x, codes, books)
    assert report["items"] == 3
    assert report["reconstruction_loss"] == pytest.approx(2 / 3)
    assert report["relative_reconstruction_loss"] == pytest.approx(2 / 78)
    first, second = report["levels"]
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert first == {
        "level": 1,
        "size": 3,
        "used": 2,
        "utilisation": pytest.approx(2 / 3),
        "entropy_nats": pytest.approx(entropy),
        "max_entropy_nats": pytest.approx(math.log(3)),
        "perplexity": pytest.approx(math.exp(entropy)),
        "dead_codes": 1,
        "residual_norm": pytest.approx(math.sqrt(13 / 3)),
        "variance_explained": pytest.approx(1 - 13 / 78),
    }
    assert second["residual_norm"] == pytest.approx(math.sqrt(2 / 3))
    assert second["variance_explained"] == pytest.approx(1 - 2 / 78)


def test_report_of_constant_vectors() -> None:
    x = torch.full((20, 3), 0.1)
    tokenizer = RQKmeans(RQKmeansConfig(levels=2, codebook_size=4)).fit(x)
    report = quantisation_report(x, tokenizer.transform(x), tokenizer.codebooks)
    assert report["reconstruction_loss"] == 0
    assert report["relative_reconstruction_loss"] is None
    assert [level["used"] for level in report["levels"]] == [1, 1]
    assert str(report["levels"][0]["entropy_nats"]) == "0.0"
    assert report["levels"][0]["perplexity"] == 1


def test_each_level_leaves_less() -> None:
    x = randn(2000, 8)
    tokenizer = RQKmeans(RQKmeansConfig(levels=4, codebook_size=16)).fit(x)
    codes = tokenizer.transform(x)
    report = quantisation_report(x, codes, tokenizer.codebooks)
    norms = [level["residual_norm"] for level in report["levels"]]
    assert norms == sorted(norms, reverse=True)
    error = (x - tokenizer.inverse_transform(codes)).square().sum(1).mean()
    assert report["reconstruction_loss"] == pytest.approx(float(error), rel=1e-5)
    assert norms[-1] == pytest.approx(math.sqrt(float(error)), rel=1e-5)
    assert all(level["utilisation"] == 1 for level in report["levels"])


def test_the_same_seed_and_any_batch_give_the_same_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = randn(1000, 6)
    config = RQKmeansConfig(levels=3, codebook_size=32, seed=5)
    tokenizer = RQKmeans(config).fit(x)
    assert RQKmeans(config).fit(x).codebooks.equal(tokenizer.codebooks)
    codes = tokenizer.transform(x)
    assert torch.cat([tokenizer.transform(rows) for rows in x.split(77)]).equal(codes)
    monkeypatch.setattr(module, "ROWS", 100)
    assert tokenizer.transform(x).equal(codes)
    assert RQKmeans(config).fit(x).codebooks.equal(tokenizer.codebooks)


def test_the_first_level_is_k_means_of_the_recipes_iterations_start_and_seed() -> None:
    x = randn(1000, 6)
    config = RQKmeansConfig(levels=1, codebook_size=32, iterations=2, init="random", seed=5)
    drawn = torch.Generator().manual_seed(5)
    expected = kmeans(x, 32, iterations=2, generator=drawn, init="random").centroids
    assert RQKmeans(config).fit(x).codebooks[0].equal(expected)


def test_fit_leaves_its_input_alone() -> None:
    x = randn(100, 4)
    before = x.clone()
    tokenizer = RQKmeans(RQKmeansConfig(codebook_size=8)).fit(x)
    tokenizer.transform(x)
    assert x.equal(before)


def test_state_goes_round() -> None:
    x = randn(300, 5)
    config = RQKmeansConfig(levels=2, codebook_size=8)
    tokenizer = RQKmeans(config).fit(x)
    again = RQKmeans.from_state(config, tokenizer.state_dict())
    assert again.transform(x).equal(tokenizer.transform(x))
    with pytest.raises(
        RunError, match=r"\(2, 8, 5\) do not fit .* \(3, 8\); run `onerec tokenize`"
    ):
        RQKmeans.from_state(RQKmeansConfig(levels=3, codebook_size=8), tokenizer.state_dict())
    with pytest.raises(RunError, match="shape none"):
        RQKmeans.from_state(config, {})


def test_says_what_is_wrong() -> None:
    with pytest.raises(RunError, match="fit it first"):
        RQKmeans(RQKmeansConfig()).transform(X)
    with pytest.raises(RecipeError, match="256 codes cannot be made from 4 vectors"):
        RQKmeans(RQKmeansConfig()).fit(X)
    with pytest.raises(RecipeError, match="levels is 0"):
        RQKmeansConfig(levels=0)
    tokenizer = RQKmeans(RQKmeansConfig(levels=1, codebook_size=2)).fit(X)
    with pytest.raises(ValueError, match=r"\(2, 3\); the codebooks take \(n, 1\)"):
        tokenizer.transform(torch.zeros(2, 3))


def test_reconstruct_adds_the_chosen_centroids() -> None:
    assert reconstruct(torch.tensor([[0, 1], [1, 0]]), BOOKS).tolist() == [[1.0], [99.0]]


@pytest.mark.parametrize(
    ("items", "ceiling", "size"),
    [(12_101, 256, 256), (12_101, 8192, 2048), (1000, 256, 128), (1024, 256, 256), (1023, 256, 128),
     (7, 256, 2), (3, 256, 2), (10**6, 300, 256), (10**6, 2, 2)],
)  # fmt: skip
def test_codebook_shrinks_to_a_power_of_two_of_a_quarter(
    items: int, ceiling: int, size: int
) -> None:
    assert codebook_size_for(items, ceiling) == size
