"""RQ-VAE: its loss and gradients by hand in float64, then what training must do."""

from typing import Any

import pytest
import torch
from torch import Tensor

from onerec.errors import DataError, RecipeError, RunError
from onerec.tokenizer.rq_kmeans import quantisation_report
from onerec.tokenizer.rq_vae import (
    RQVAE,
    RQVAEConfig,
    RQVAENetwork,
    _adamw,
    quantise,
    restart_dead_codes,
    straight_through,
)

SMALL = RQVAEConfig(
    levels=2,
    codebook_size=8,
    hidden=(16,),
    latent_dim=4,
    steps=200,
    batch_size=0,
    learning_rate=3e-3,
    restart_every=20,
)
LATENT = torch.tensor([[3.0, 1.0], [-1.0, 0.5]], dtype=torch.float64)
BOOKS = torch.tensor([[[0.0, 0.0], [2.0, 2.0]], [[1.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64)
# Row 0: nearest of level 1 is (2, 2), left (1, -1), then (1, -1), left (0, 0).
# Row 1: nearest is (0, 0), left (-1, .5), then (-1, 1), left (0, -.5).
CODES = [[1, 0], [0, 1]]


def randn(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def mixture(n: int = 400, d: int = 12, parts: int = 16) -> Tensor:
    centres = 2 * randn(parts, d, 1)
    return centres.repeat(n // parts, 1) + 0.3 * randn(n, d, 2)


def network(config: RQVAEConfig = SMALL, dim: int = 5) -> RQVAENetwork:
    made = RQVAENetwork(config, dim)
    made.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.codebooks.copy_(randn(2, 8 * 4, 3).view(2, 8, 4))
    return made


def test_values_and_gradients_of_quantise_by_hand() -> None:
    latent, books = LATENT.clone().requires_grad_(), BOOKS.clone().requires_grad_()
    quantised, codes, codebook, commitment = quantise(latent, books)
    assert codes.tolist() == CODES
    assert quantised.tolist() == [[3, 1], [-1, 1]]
    # Squared distances by level: row 0 1 + 1 and 0, row 1 1 + .25 and .25; means over two rows.
    assert codebook.item() == commitment.item() == (2 + 0 + 1.25 + 0.25) / 2
    (by_latent, by_books) = torch.autograd.grad(codebook, (latent, books), allow_unused=True,
                                                retain_graph=True)  # fmt: skip
    assert by_latent is None  # sg[r]: the encoder is not moved
    # d/de of |r - e|^2 / 2 is e - r.
    assert by_books.tolist() == [[[1, -0.5], [-1, 1]], [[0, 0], [0, 0.5]]]
    by_latent, by_books = torch.autograd.grad(commitment, (latent, books), allow_unused=True)
    assert by_books is None  # sg[e], at its own level and in the residual of the next
    # d/dz of (|z - e1|^2 + |z - e1 - e2|^2) / 2 is both residuals.
    assert by_latent.tolist() == [[1, -1], [-1, 0]]


def test_straight_through_has_one_value_and_the_other_gradient() -> None:
    latent, quantised = LATENT.clone().requires_grad_(), (LATENT + 1).requires_grad_()
    out = straight_through(latent, quantised)
    assert out.equal(quantised)
    (out * torch.tensor([2.0, 3.0])).sum().backward()
    assert latent.grad.tolist() == [[2, 3], [2, 3]]
    assert quantised.grad is None


def test_the_loss_is_the_formula_and_beta_weighs_the_commitment() -> None:
    """Against the equation written out row by row, values and gradients, in float64."""
    model, x = network().double(), randn(6, 5).double()
    loss, values = model.loss(x)
    z, books = model.encoder(x), model.codebooks
    whole = torch.zeros((), dtype=torch.float64)
    for row in range(6):
        r, said = z[row], torch.zeros(4, dtype=torch.float64)
        for level in range(2):
            nearest = int((r.detach() - books[level].detach()).square().sum(1).argmin())
            e = books[level, nearest]
            whole = whole + (r.detach() - e).square().sum() / 6
            whole = whole + 0.25 * (r - e.detach()).square().sum() / 6
            said, r = said + e.detach(), r - e.detach()
        through = z[row] + (said - z[row]).detach()
        whole = whole + (x[row] - model.decoder(through)).square().sum() / 6
    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=0)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(loss, parameters, retain_graph=True)
    for mine, slow in zip(ours, torch.autograd.grad(whole, parameters), strict=True):
        torch.testing.assert_close(mine, slow, rtol=1e-9, atol=1e-12)
    parts = values["reconstruction"] + values["codebook"] + 0.25 * values["commitment"]
    torch.testing.assert_close(loss, parts)


@pytest.mark.parametrize(
    ("part", "reached"),
    [("reconstruction", {"encoder", "decoder"}), ("codebook", {"codebooks"}),
     ("commitment", {"encoder"})],
)  # fmt: skip
def test_each_term_reaches_what_it_should_and_nothing_else(part: str, reached: set[str]) -> None:
    model = network()
    _, values = model.loss(randn(20, 5))
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(values[part], parameters, allow_unused=True)
    moved = {
        name.partition(".")[0]
        for name, gradient in zip(names, gradients, strict=True)
        if gradient is not None and bool((gradient != 0).any())
    }
    assert moved == reached


@pytest.fixture(scope="module")
def fitted() -> RQVAE:
    return RQVAE(SMALL).fit(mixture())


def test_codes_are_nearest_level_by_level_and_any_batch_gives_the_same(fitted: RQVAE) -> None:
    x = mixture()
    codes, residual = fitted.transform(x), fitted.encode(x).double()
    for level, book in enumerate(fitted.codebooks.double()):
        assert codes[:, level].equal(torch.cdist(residual, book).argmin(1))
        residual = residual - book[codes[:, level]]
    assert torch.cat([fitted.transform(rows) for rows in x.split(77)]).equal(codes)


def test_training_lowers_the_reconstruction_and_uses_all_codes(fitted: RQVAE) -> None:
    """Sixteen places, two levels of eight."""
    x = mixture()
    losses = [step.values["reconstruction"] for step in RQVAE(SMALL).training(x)]
    assert losses[-1] < 0.2 * losses[0]
    codes = fitted.transform(x)
    report = quantisation_report(x, codes, fitted.codebooks, fitted.decode)
    error = (x - fitted.inverse_transform(codes)).square().sum(1).mean()
    assert report["reconstruction_loss"] == pytest.approx(float(error), rel=1e-5)
    assert report["relative_reconstruction_loss"] < 0.3
    assert [level["utilisation"] for level in report["levels"]] == [1, 1]
    assert report["levels"][0]["residual_norm"] > report["levels"][1]["residual_norm"]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(fitted: RQVAE) -> None:
    again = RQVAE(SMALL).fit(mixture())
    for name, tensor in fitted.state_dict().items():
        assert again.state_dict()[name].equal(tensor), name
    short = RQVAEConfig(**{**vars(SMALL), "steps": 5, "batch_size": 64})
    one, two = RQVAE(short).fit(mixture()), RQVAE(short).fit(mixture())
    other = RQVAE(RQVAEConfig(**{**vars(short), "seed": 1})).fit(mixture())
    assert one.codebooks.equal(two.codebooks)
    assert not one.codebooks.equal(other.codebooks)


def test_dead_codes_move_to_rows_and_forget_their_moments() -> None:
    model, x = network(), randn(30, 5)
    optimizer = torch.optim.AdamW(model.parameters())
    model.loss(x)[0].backward()
    optimizer.step()
    moments = optimizer.state[model.codebooks]
    moments["exp_avg"].fill_(1.0)
    model.used.fill_(True)
    model.used[0, 3] = model.used[1, 5] = model.used[1, 6] = False
    before, latent = model.codebooks.detach().clone(), model.encoder(x).detach()
    first = torch.cdist(latent, before[0]).argmin(1)
    moved = restart_dead_codes(model, optimizer, x, torch.Generator().manual_seed(0))
    assert moved.tolist() == [1, 2]
    changed = (model.codebooks.detach() != before).any(2)
    assert changed.nonzero().tolist() == [[0, 3], [1, 5], [1, 6]]
    book = model.codebooks.detach()
    assert (book[0, 3:4, None] == latent).all(2).any(1).all()
    left = latent - before[0][first]
    assert (book[1, 5:7, None] == left).all(2).any(1).all()
    assert moments["exp_avg"][changed].eq(0).all()
    assert moments["exp_avg"][~changed].eq(1).all()


def test_rows_for_dead_codes_are_drawn_and_none_twice() -> None:
    drawn = []
    for seed in (0, 1):
        model, x = network(), randn(30, 5)
        latent, optimizer = model.encoder(x).detach(), torch.optim.AdamW(model.parameters())
        restart_dead_codes(model, optimizer, x, torch.Generator().manual_seed(seed))
        book = model.codebooks[0].detach()
        rows = torch.cdist(book, latent).argmin(1)
        torch.testing.assert_close(book, latent[rows])
        assert len(rows.unique()) == 8
        drawn.append(rows.tolist())
    assert drawn[0] != drawn[1] != list(range(8))


def test_restarts_bring_codes_back_that_training_alone_leaves_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All codes but one begin far away from every row."""

    def far(self: RQVAE, x: Tensor, generator: torch.Generator) -> None:
        self.network.codebooks.data.fill_(1e3)
        self.network.codebooks.data[:, 0] = 0

    monkeypatch.setattr(RQVAE, "_start", far)
    x = mixture()

    def used(every: int) -> int:
        config = RQVAEConfig(**{**vars(SMALL), "steps": 60, "restart_every": every})
        codes = RQVAE(config).fit(x).transform(x)
        return len(codes[:, 0].unique())

    assert used(1000) == 1
    assert used(10) >= 6


def test_a_warm_up_trains_the_autoencoder_alone_and_then_starts_the_codebooks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, seen = mixture(), []
    config = RQVAEConfig(**{**vars(SMALL), "steps": 3, "warm_up": 40})
    tokenizer = RQVAE(config)
    start = RQVAE._start

    def watched(self: RQVAE, *args: Any) -> None:
        assert not self.codebooks.any()  # not a step has reached them
        start(self, *args)
        seen.append(len(losses))

    monkeypatch.setattr(RQVAE, "_start", watched)
    losses: list[float] = []
    for result in tokenizer.training(x):
        losses += [float(result.values["codebook"])]
    assert seen == [40]
    assert losses[:40] == [0.0] * 40
    assert min(losses[40:]) > 0
    assert len(losses) == 43
    assert tokenizer.codebooks.any(-1).all()
    cold = RQVAE(RQVAEConfig(**{**vars(SMALL), "steps": 3})).fit(x)
    left = [
        float((x - q.inverse_transform(q.transform(x))).square().sum()) for q in (tokenizer, cold)
    ]
    assert left[0] < 0.8 * left[1]
    with pytest.raises(RecipeError, match="warm_up is -1"):
        RQVAEConfig(warm_up=-1)


def test_state_goes_round(fitted: RQVAE) -> None:
    x = mixture()
    again = RQVAE.from_state(SMALL, fitted.state_dict())
    codes = fitted.transform(x)
    assert again.transform(x).equal(codes)
    assert again.inverse_transform(codes).equal(fitted.inverse_transform(codes))
    wider = RQVAEConfig(**{**vars(SMALL), "codebook_size": 9})
    with pytest.raises(RunError, match=r"'codebooks' is \(2, 8, 4\), the recipe says \(2, 9, 4\)"):
        RQVAE.from_state(wider, fitted.state_dict())
    with pytest.raises(RunError, match=r"'codebooks' is not there.*run `onerec tokenize` again"):
        RQVAE.from_state(SMALL, {})


def test_says_what_is_wrong(fitted: RQVAE) -> None:
    with pytest.raises(RunError, match="fit it first"):
        RQVAE(SMALL).transform(randn(2, 5))
    with pytest.raises(RecipeError, match="8 codes cannot be made from 4 vectors"):
        RQVAE(SMALL).fit(randn(4, 5))
    with pytest.raises(RecipeError, match="latent_dim is 0"):
        RQVAEConfig(latent_dim=0)
    with pytest.raises(ValueError, match=r"\(2, 3\); the encoder takes \(n, 12\)"):
        fitted.transform(torch.zeros(2, 3))
    x = mixture()
    x[17, 1] = torch.nan
    with pytest.raises(DataError, match="content vector 17 has a value that is not finite"):
        RQVAE(SMALL).fit(x)


@pytest.mark.parametrize("warm_up", [0, 5])
def test_no_code_is_restarted_in_the_last_quarter(
    warm_up: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 8 of 40 steps: at 8, 16 and 24, not at 32; the warm-up's steps do not count."""
    calls = []

    def watched(*given: Any) -> Tensor:
        calls.append(given)
        return torch.tensor([1, 0])

    monkeypatch.setattr("onerec.tokenizer.rq_vae.restart_dead_codes", watched)
    short = {"steps": 40, "restart_every": 8, "warm_up": warm_up}
    tokenizer = RQVAE(RQVAEConfig(**{**vars(SMALL), **short})).fit(mixture())
    assert len(calls) == 3
    assert tokenizer.repaired == (3, 0)


def test_the_matrices_of_the_mlps_alone_decay() -> None:
    """Codebooks that decay are drawn to the latent's origin."""
    model = network()
    groups = _adamw(model, 1e-3).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    decays = {name for name, p in model.named_parameters() if decay[id(p)]}
    assert len(decay) == len(list(model.parameters()))
    assert decays == {f"{part}.{layer}.weight" for part in ("encoder", "decoder") for layer in "02"}


def test_the_seed_draws_the_codebooks_start_too() -> None:
    """The same weights and rows: only the k-means of the start can tell seeds apart."""
    books = []
    for seed in (0, 1):
        tokenizer = RQVAE(RQVAEConfig(**{**vars(SMALL), "seed": seed}))
        tokenizer._network = network(dim=12)
        tokenizer._start(mixture(), torch.Generator().manual_seed(0))
        books.append(tokenizer.codebooks.clone())
    assert not books[0].equal(books[1])


def test_the_seed_draws_the_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, loss = [], RQVAENetwork.loss

    def watched(self: RQVAENetwork, x: Tensor) -> Any:
        batches.append(x)
        return loss(self, x)

    monkeypatch.setattr(RQVAENetwork, "loss", watched)
    for seed in (0, 1):
        config = RQVAEConfig(**{**vars(SMALL), "steps": 1, "batch_size": 64, "seed": seed})
        RQVAE(config).fit(mixture())
    assert [len(batch) for batch in batches] == [64, 64]
    assert not batches[0].equal(batches[1])
