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


@torch.no_grad()
def level_by_hand(model, batch, codes, user, level, *, temperature, top_k, top_p):
    """{code: probability} of a level after the codes before it: the words of `sample`, slowly."""
    memory = model.encode(toy.rows(batch, [user]))
    hidden = model.decode(codes[None, None, :level], memory)[0, 0, -1]
    chance = (model.logits(level, hidden) / temperature).exp().tolist()
    real = {tuple(row[: level + 1]) for row in toy.item_codes().tolist()}
    left = [code for code in range(len(chance)) if (*codes[:level].tolist(), code) in real]
    left.sort(key=lambda code: -chance[code])
    left = left[: top_k or len(left)]
    together = sum(chance[code] for code in left)
    kept, reached = [], 0.0
    for code in left:
        if reached >= top_p:
            break
        kept.append(code)
        reached += chance[code] / together
    together = sum(chance[code] for code in kept)
    return {code: chance[code] / together for code in kept}


@pytest.mark.parametrize(
    "how",
    [
        {"top_p": 0.6},
        {"top_k": 2},
        {"top_k": 3, "top_p": 0.6, "temperature": 3.0},
        {"top_k": 2, "top_p": 0.55, "temperature": 5.0},
    ],
    ids=str,
)
def test_cuts_of_each_level_are_those_of_a_slow_loop(how):
    """The temperature first, then the trie, top-k, and top-p of what top-k has left."""
    model, batch = toy.make_model(), toy.make_batch()
    draws = sample(model, batch, TRIE, group=60, generator=generator(1), **how)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | how
    for user in range(batch.size):
        for codes, told in zip(draws.codes[user], draws.levels[user], strict=True):
            for level in range(3):
                chance = level_by_hand(model, batch, codes, user, level, **settings)
                own = chance.get(int(codes[level]), 0.0)
                assert told[level].exp().item() == pytest.approx(own, abs=1e-4)
    torch.testing.assert_close(draws.levels.sum(-1), draws.drawn)
    assert (draws.levels - sequence_log_probs(model, batch, draws.codes)).abs().max() > 0.1


def test_a_nucleus_ends_with_the_code_that_reaches_it():
    """One half is reached by the first code alone: the smallest set does not take a second."""
    log_prob = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    assert nucleus(log_prob, 0.5).exp().tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_a_code_outside_the_nucleus_is_kept_where_it_is_asked_about():
    """Of .5, .3, .15, .05 the last one stays beside the nucleus of .6: its share of .85."""
    log_prob = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = nucleus(log_prob, 0.6, torch.tensor([3]))
    torch.testing.assert_close(kept.exp(), torch.tensor([[0.5, 0.3, 0.0, 0.05]]) / 0.85)


@pytest.mark.parametrize("how", [{"temperature": 0.5}, {"top_p": 0.6}], ids=str)
def test_teacher_forcing_knows_the_settings_of_the_sampler(how):
    model, batch = toy.make_model(), toy.make_batch()
    draws = sample(model, batch, TRIE, group=40, generator=generator(4), **how)
    again = sequence_log_probs(model, batch, draws.codes, trie=TRIE, **how)
    torch.testing.assert_close(again, draws.levels, atol=1e-4, rtol=1e-4)
    free = sequence_log_probs(model, batch, draws.codes, trie=TRIE)
    assert (again - free).abs().max() > 0.1


def test_teacher_forcing_knows_a_code_that_is_in_no_nucleus():
    """Of each prefix the nucleus of almost nothing is one code; another one is asked about."""
    model, batch = toy.make_model(), toy.make_batch()
    codes = TRIE.leaf_codes.expand(batch.size, -1, -1)
    found = sequence_log_probs(model, batch, codes, trie=TRIE, top_p=1e-9)
    assert found.isfinite().all()
    assert found.min() < -1
