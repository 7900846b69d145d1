"""One interface: every kind is made, used, saved and loaded the same way."""

from typing import Any

import pytest
import torch

from onerec.errors import RecipeError
from onerec.tokenizer.balanced_rq_kmeans import BalancedRQKmeansConfig
from onerec.tokenizer.quantiser import (
    KINDS,
    Quantiser,
    load_quantiser,
    make_quantiser,
    quantiser_config,
)
from onerec.tokenizer.refined_rq_kmeans import RefinedRQKmeansConfig
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig, quantisation_report
from onerec.tokenizer.rq_vae import RQVAEConfig

X = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_contract(kind: str) -> None:
    config = quantiser_config(kind, levels=2, codebook_size=8, seed=1, steps=20)
    quantiser: Quantiser = make_quantiser(kind, config)
    codes = quantiser.fit_transform(X)
    assert codes.shape == (120, 2)
    assert codes.dtype == torch.int64
    assert quantiser.sizes == (8, 8)
    again = load_quantiser(kind, config, quantiser.state_dict())
    assert again.codebooks.equal(quantiser.codebooks)
    assert again.transform(X).equal(quantiser.transform(X))
    said = quantiser.inverse_transform(codes)
    assert said.shape == X.shape
    assert again.inverse_transform(codes).equal(said)
    assert quantiser.encode(X).shape == (120, quantiser.codebooks.shape[2])
    report = quantisation_report(X, codes, quantiser.codebooks, quantiser.decode)
    error = float((X - said).square().sum(1).mean())
    assert report["reconstruction_loss"] == pytest.approx(error, rel=1e-5)
    fresh = make_quantiser(kind, config).fit(X)
    assert fresh.codebooks.equal(quantiser.codebooks)


def test_rq_kmeans_is_what_it_was() -> None:
    """Made by its kind it is the class itself, and the report's two ways agree."""
    config = quantiser_config("rq_kmeans", levels=3, codebook_size=8, seed=4, iterations=9)
    assert config == RQKmeansConfig(levels=3, codebook_size=8, iterations=9, seed=4)
    made, plain = make_quantiser("rq_kmeans", config).fit(X), RQKmeans(config).fit(X)
    assert made.codebooks.equal(plain.codebooks)
    codes = plain.transform(X)
    one = quantisation_report(X, codes, plain.codebooks)
    two = quantisation_report(X, codes, plain.codebooks, plain.decode)
    assert one["reconstruction_loss"] == pytest.approx(two["reconstruction_loss"], rel=1e-5)


def test_says_what_is_wrong() -> None:
    with pytest.raises(RecipeError, match="'vq' is unknown; choose one of rq_kmeans, refined"):
        quantiser_config("vq", levels=2, codebook_size=8, seed=0)
    config = quantiser_config("rq_vae", levels=2, codebook_size=8, seed=0)
    with pytest.raises(RecipeError, match="kind 'vq' is unknown"):
        make_quantiser("vq", config)
    with pytest.raises(ValueError, match="balanced takes a BalancedRQKmeansConfig, not a RQVAE"):
        make_quantiser("balanced", config)


def test_each_kind_takes_the_numbers_that_are_its_own() -> None:
    given: dict[str, Any] = {
        "levels": 2,
        "codebook_size": 8,
        "iterations": 9,
        "init": "random",
        "seed": 4,
    }
    more = {**given, "cap": 1.5, "steps": 30}
    assert quantiser_config("rq_kmeans", **more) == RQKmeansConfig(**given)
    assert quantiser_config("refined", **more) == RefinedRQKmeansConfig(**given)
    assert quantiser_config("balanced", **more) == BalancedRQKmeansConfig(**given, cap=1.5)
    assert quantiser_config("rq_vae", **more) == RQVAEConfig(
        levels=2, codebook_size=8, steps=30, seed=4
    )


def test_a_config_of_a_kind_that_is_more_is_another_kinds() -> None:
    config = quantiser_config("balanced", levels=2, codebook_size=8, seed=0)
    with pytest.raises(ValueError, match="rq_kmeans takes a RQKmeansConfig, not a Balanced"):
        make_quantiser("rq_kmeans", config)
