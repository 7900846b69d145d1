"""Sampling against every sequence's exact probability, and the two log-probabilities."""

import itertools

import pytest
import torch
import toy_model as toy

from onerec.common import generator
from onerec.model.generate import beam_search
from onerec.model.sample import most_probable, nucleus, sample, sequence_log_probs
from onerec.tokenizer.trie import Trie

TRIE = Trie(toy.item_codes(), toy.SIZES, torch.arange(toy.N_ITEMS) * 7 % 11)
SEQUENCES = torch.tensor(list(itertools.product(*map(range, toy.SIZES))))  # every code sequence


@torch.no_grad()
def exact(model, batch, *, temperature=1.0, constrained=True):
    """log p of every sequence under the sampler, by hand, prefix by prefix: (B, sequences)."""
    codes = SEQUENCES.expand(batch.size, -1, -1)
    hidden = model.decode(codes[..., :-1], model.encode(batch))
    real = {tuple(row) for row in toy.item_codes().tolist()}
    total = 0.0
    for level, size in enumerate(toy.SIZES):
        logits = model.logits(level, hidden[:, :, level]) / temperature
        if constrained:
            prefixes = {row[: level + 1] for row in real}
            allowed = [
                [(*row[:level], code) in prefixes for code in range(size)]
                for row in SEQUENCES.tolist()
            ]
            logits = logits.masked_fill(~torch.tensor(allowed), -torch.inf)
        log_prob = logits.log_softmax(-1).nan_to_num(-torch.inf, neginf=-torch.inf)
        total = total + log_prob.gather(-1, codes[..., level : level + 1])[..., 0]
    return total


def place(codes):
    """Index into SEQUENCES."""
    first, second, third = codes.unbind(-1)
    return (first * toy.SIZES[1] + second) * toy.SIZES[2] + third


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_drawn_is_the_probability_with_which_it_was_drawn(constrained, temperature):
    model, batch = toy.make_model(), toy.make_batch()
    draws = sample(
        model,
        batch,
        TRIE,
        group=20_000,
        generator=generator(1),
        temperature=temperature,
        constrained=constrained,
    )
    expected = exact(model, batch, temperature=temperature, constrained=constrained)
    torch.testing.assert_close(expected.exp().sum(1), torch.ones(batch.size))
    index = place(draws.codes)
    torch.testing.assert_close(draws.drawn, expected.gather(1, index), atol=1e-4, rtol=1e-4)
    own = exact(model, batch, constrained=False).gather(1, index)
    torch.testing.assert_close(draws.model, own, atol=1e-4, rtol=1e-4)
    share = torch.zeros_like(expected).scatter_add(1, index, torch.ones_like(draws.drawn)) / 20_000
    chance = expected.exp()
    error = 5 * (chance * (1 - chance) / 20_000).sqrt() + 1e-4
    assert (share - chance).abs().lt(error).all()


def test_items_are_those_of_the_codes():
    draws = sample(
        toy.make_model(),
        toy.make_batch(),
        TRIE,
        group=300,
        generator=generator(2),
        constrained=False,
    )
    assert draws.legal.equal(TRIE.is_legal(draws.codes))
    assert draws.legal.any()
    assert not draws.legal.all()
    assert toy.item_codes()[draws.items[draws.legal]].equal(draws.codes[draws.legal])


def test_with_the_trie_all_are_legal_and_a_seed_repeats():
    model, batch = toy.make_model(), toy.make_batch()
    one, two = (sample(model, batch, TRIE, group=50, generator=generator(3)) for _ in range(2))
    assert one.legal.all()
    assert one.codes.equal(two.codes)
    assert one.drawn.equal(two.drawn)


def test_teacher_forcing_gives_the_same_and_has_gradients():
    model, batch = toy.make_model(), toy.make_batch()
    draws = sample(model, batch, TRIE, group=7, generator=generator(4))
    again = sequence_log_probs(model, batch, draws.codes)
    torch.testing.assert_close(again.sum(-1), draws.model, atol=1e-4, rtol=1e-4)
    followed = sequence_log_probs(model, batch, draws.codes, trie=TRIE)
    torch.testing.assert_close(followed.sum(-1), draws.drawn, atol=1e-4, rtol=1e-4)
    again.sum().backward()
    assert model.heads[2].weight.grad.abs().sum() > 0


def test_nucleus_by_hand():
    log_prob = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    torch.testing.assert_close(
        nucleus(log_prob, 0.6).exp(), torch.tensor([[0.625, 0.375, 0.0, 0.0]])
    )
    assert nucleus(log_prob, 1e-9).exp().tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert nucleus(log_prob, 1.0) is log_prob


@pytest.mark.parametrize(
    "wrong", [{"group": 0}, {"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}]
)
def test_refusals(wrong):
    settings = {"group": 1, **wrong}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        sample(toy.make_model(), toy.make_batch(), TRIE, generator=generator(0), **settings)


def test_the_model_comes_back_in_its_mode():
    model = toy.make_model().train()
    sample(model, toy.make_batch(), TRIE, group=1, generator=generator(0))
    assert model.training


def test_top_k_keeps_the_most_probable_codes_of_each_level():
    log_prob = torch.tensor([[0.1, 0.3, 0.3, 0.2, 0.1]]).log()
    kept = most_probable(log_prob, 3)
    torch.testing.assert_close(kept.exp(), torch.tensor([[0.0, 0.375, 0.375, 0.25, 0.0]]))
    assert most_probable(log_prob, 1).exp().tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0]]  # the lower
    for everything in (0, 5, 9):
        assert most_probable(log_prob, everything) is log_prob


def test_one_code_of_each_level_is_the_greedy_item():
    model, batch = toy.make_model(), toy.make_batch()
    draws = sample(model, batch, TRIE, group=20, generator=generator(1), top_k=1)
    greedy = beam_search(model, batch, TRIE, k=1, beam=1)
    assert (draws.codes == greedy.codes).all()
    torch.testing.assert_close(draws.drawn, torch.zeros(3, 20))
    torch.testing.assert_close(draws.model, greedy.scores.expand(-1, 20))
