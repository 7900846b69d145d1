"""p^alpha against every legal code written out, and the bound against what was really missed."""

import pytest
import torch
import toy_model as toy

from onerec.common import generator
from onerec.model.power import power_distribution
from onerec.tokenizer.trie import Trie

POPULARITY = torch.arange(toy.N_ITEMS) * 7 % 11
TRIE = Trie(toy.item_codes(), toy.SIZES, POPULARITY)


@torch.no_grad()
def legal_scores(model, batch):
    """log p of every leaf's code: (B, leaves)."""
    codes = TRIE.leaf_codes.expand(batch.size, -1, -1)
    hidden = model.decode(codes[..., :-1], model.encode(batch))
    return sum(
        model.logits(level, hidden[:, :, level])
        .log_softmax(-1)
        .gather(-1, codes[..., level : level + 1])[..., 0]
        for level in range(3)
    )


@pytest.mark.parametrize("kind", [toy.make_model, toy.make_lazy])
@pytest.mark.parametrize("alpha", [1.0, 4.0])
def test_all_codes_scored_is_exact(kind, alpha):
    model, batch = kind(), toy.make_batch()
    found = power_distribution(model, batch, TRIE, alpha=alpha)
    scores = legal_scores(model, batch)
    expected = (scores.exp() ** alpha) / (scores.exp() ** alpha).sum(1, keepdim=True)
    leaf = TRIE.leaf_of(found.codes)
    torch.testing.assert_close(found.power.exp(), expected.gather(1, leaf), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.model, scores.gather(1, leaf), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.power.exp().sum(1), torch.ones(3))
    assert (found.lost == 0).all()
    assert torch.equal(found.items, TRIE.leaf_items[TRIE.leaf_start[leaf]])
    assert found.items.shape == (3, TRIE.n_leaves)


def test_it_is_not_a_temperature_of_each_code():
    """Two codes, worth .6 and .4; below the first two items of .3, below the second one of .4.

    By p^2 the single item wins, .16 against .09 each; at temperature 1/2 the first code would be
    drawn with .36 / .52.
    """
    codes = torch.tensor([[0, 0], [0, 1], [1, 0]])
    model = toy.make_model(sizes=(2, 2), codes=codes, decoder_layers=1)
    with torch.no_grad():
        for head in model.heads:
            head.weight.zero_()
        x = model.decode(torch.zeros(1, 1, 0, dtype=torch.int64), model.encode(one()))[0, 0, 0]
        model.heads[0].weight[0] = x / x.square().sum() * torch.log(torch.tensor(1.5))
        rest = torch.tensor([[[[0]]], [[[1]]]])
        hidden = [model.decode(c, model.encode(one()))[0, 0, 1] for c in rest]
        basis = torch.stack(hidden)
        model.heads[1].weight[0] = torch.linalg.lstsq(basis, torch.tensor([0.0, 40.0])).solution
    trie = Trie(codes, (2, 2))
    found = power_distribution(model, one(), trie, alpha=2.0)
    chance = dict(zip(found.items[0].tolist(), found.power[0].exp().tolist(), strict=True))
    assert chance[2] == pytest.approx(0.16 / 0.34, abs=1e-3)
    assert chance[0] == pytest.approx(0.09 / 0.34, abs=1e-3)


def one():
    return toy.make_batch(lengths=(3,), targets=1, n_items=3)


@pytest.mark.parametrize("beam", [1, 2, 4, 9])
@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_a_beam_loses_no_more_than_it_says(beam, alpha):
    model, batch = toy.make_model(), toy.make_batch(lengths=(4, 0, 2, 3, 1))
    found = power_distribution(model, batch, TRIE, alpha=alpha, beam=beam)
    whole = (alpha * legal_scores(model, batch)).exp().sum(1)
    there = (alpha * found.model).exp().sum(1)
    missed = 1 - there / whole
    assert (missed <= found.lost + 1e-5).all()
    assert (found.lost < 1).all()
    torch.testing.assert_close(found.power.exp().sum(1), torch.ones(5))


def test_the_bound_is_tight_where_one_code_is_missed():
    model, batch = toy.make_model(), toy.make_batch()
    scores = legal_scores(model, batch)
    beam = TRIE.n_leaves - 1  # wider than all levels but the last
    assert beam >= max(TRIE.nodes_per_level[:-1])
    found = power_distribution(model, batch, TRIE, alpha=3.0, beam=beam)
    weight = (3 * scores).exp()
    expected = weight.amin(1) / weight.sum(1)
    torch.testing.assert_close(found.lost, expected, rtol=1e-3, atol=1e-9)


def test_draws_come_with_their_probabilities():
    model, batch = toy.make_model(), toy.make_batch()
    found = power_distribution(model, batch, TRIE, alpha=2.0)
    draws = found.sample(20_000, generator(1))
    for user in range(3):
        for place in range(3):
            item, chance = int(found.items[user, place]), found.power[user, place].exp().item()
            share = (draws.items[user] == item).float().mean().item()
            assert abs(share - chance) < 5 * (chance * (1 - chance) / 20_000) ** 0.5 + 1e-4
    leaf = TRIE.leaf_of(draws.codes)
    torch.testing.assert_close(
        draws.model, legal_scores(model, batch).gather(1, leaf), rtol=1e-4, atol=1e-4
    )
    assert draws.drawn.shape == (3, 20_000)


@pytest.mark.parametrize("wrong", [{"alpha": 0.5}, {"alpha": float("nan")}, {"beam": 0}])
def test_what_cannot_be_asked_is_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        power_distribution(toy.make_model(), toy.make_batch(), TRIE, **({"alpha": 2.0} | wrong))
