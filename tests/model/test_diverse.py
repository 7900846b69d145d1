"""Groups of beams: one group is beam search, a penalty sends groups elsewhere, scores stay."""

import pytest
import torch
import toy_model as toy

from onerec.model.diverse import diverse_beam_search
from onerec.model.generate import beam_search
from onerec.tokenizer.trie import Trie

TRIE = Trie(toy.item_codes(), toy.SIZES, torch.arange(toy.N_ITEMS))


@pytest.mark.parametrize("kind", [toy.make_model, toy.make_lazy])
@pytest.mark.parametrize("exclude", [None, torch.tensor([[3, 9], [0, 0], [8, 0]])])
def test_one_group_is_beam_search(kind, exclude):
    model, batch = kind(), toy.make_batch()
    plain = beam_search(model, batch, TRIE, k=7, beam=6, exclude=exclude)
    found = diverse_beam_search(
        model, batch, TRIE, k=7, beam=6, groups=1, penalty=5.0, exclude=exclude
    )
    assert torch.equal(found.items, plain.items)
    assert torch.equal(found.codes, plain.codes)
    assert torch.equal(found.legal, plain.legal)
    torch.testing.assert_close(found.scores, plain.scores)
    torch.testing.assert_close(found.code_log_probs, plain.code_log_probs)


def test_a_large_penalty_gives_each_group_first_codes_of_its_own():
    """5 first codes, 5 groups of one beam: every item begins with another code, best first."""
    model, batch = toy.make_model(), toy.make_batch()
    found = diverse_beam_search(model, batch, TRIE, k=5, beam=5, groups=5, penalty=1e6)
    for row in found.codes[..., 0].tolist():
        assert sorted(row) == [0, 1, 2, 3, 4]
    assert (found.scores.diff(dim=1) <= 0).all()
    torch.testing.assert_close(found.code_log_probs.sum(-1), found.scores)
    whole = beam_search(model, batch, TRIE, k=toy.N_ITEMS, beam=toy.N_ITEMS)
    for user in range(3):  # scores are the model's own: no penalty is left in them
        known = dict(zip(whole.items[user].tolist(), whole.scores[user].tolist(), strict=True))
        for item, score in zip(
            found.items[user].tolist(), found.scores[user].tolist(), strict=True
        ):
            assert score == pytest.approx(known[item], abs=1e-4)


def test_the_first_codes_by_hand():
    """Of two groups of one beam the second takes the runner-up if the penalty exceeds the gap."""
    model, batch = toy.make_model(), toy.make_batch(lengths=(3,))
    whole = beam_search(model, batch, TRIE, k=1, beam=5, trace=True)
    scores, order = whole.trace[0].scores[0], whole.trace[0].codes[0, :, 0].tolist()
    gap = float(scores[0] - scores[1])

    def first_codes(penalty):
        found = diverse_beam_search(model, batch, TRIE, k=2, beam=2, groups=2, penalty=penalty)
        return set(found.codes[0, :, 0].tolist())

    assert first_codes(gap * 0.9) == {order[0]}
    assert first_codes(gap * 1.1) == set(order[:2])


def test_no_item_is_named_twice_and_lists_are_full_without_a_penalty():
    model, batch = toy.make_model(), toy.make_batch()
    found = diverse_beam_search(model, batch, TRIE, k=6, beam=12, groups=3, penalty=0.0)
    for row in found.items.tolist():
        assert len({item for item in row if item >= 0}) == len([item for item in row if item >= 0])
    assert (found.items[:, 0] >= 0).all()


def test_a_beam_wider_than_the_catalogue_returns_everything_once():
    model, batch = toy.make_model(), toy.make_batch()
    k = toy.N_ITEMS + 3
    found = diverse_beam_search(model, batch, TRIE, k=k, beam=200, groups=2, penalty=0.5)
    for row in found.items.tolist():
        assert sorted(row) == [-1, -1, -1, *range(toy.N_ITEMS)]
    assert (found.scores[:, -3:] == -torch.inf).all()


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"beam": 0}, {"groups": 0}, {"penalty": -1.0}, {"penalty": float("inf")}],
)
def test_what_cannot_be_asked_is_refused(wrong):
    settings = {"k": 2, "beam": 4, "groups": 2, "penalty": 1.0} | wrong
    with pytest.raises(ValueError, match="must be at least 1"):
        diverse_beam_search(toy.make_model(), toy.make_batch(), TRIE, **settings)


def test_beams_keep_what_they_have_paid():
    """Two groups of two beams, 5 first codes: the second group names an item of its own codes,
    also where a paid beam of the first group's code would lead to a better one."""
    model, batch = toy.make_model(), toy.make_batch()
    order = beam_search(model, batch, TRIE, k=1, beam=5, trace=True).trace[0].codes[..., 0]
    found = diverse_beam_search(model, batch, TRIE, k=2, beam=4, groups=2, penalty=1e6)
    for user in range(3):
        firsts = set(found.codes[user, :, 0].tolist())
        assert len(firsts & set(order[user, :2].tolist())) == 1
        assert len(firsts & set(order[user, 2:4].tolist())) == 1


def test_many_items_to_leave_out_take_no_table_of_pairs():
    """A history of 20,000 items and four groups are 80,000 candidates: once a table of their pairs,
    25 GB."""
    batch, model = toy.make_batch(lengths=(3,)), toy.make_model()
    seen = torch.zeros(1, 20_000, dtype=torch.int64)
    seen[0, :4] = torch.tensor([3, 1, 9, 5])
    settings = {"k": 5, "beam": 8, "groups": 4, "penalty": 1.0}
    found = diverse_beam_search(model, batch, TRIE, **settings, exclude=seen)
    few = diverse_beam_search(model, batch, TRIE, **settings, exclude=seen[:, :4])
    assert torch.equal(found.items, few.items)
    assert not set(found.items[0].tolist()) & {2, 0, 8, 4}


def by_hand(items, scores, k, beam, groups, penalty):
    """The items of one user by the words of the module.

    `items` by whole code; `scores` of each prefix; both dictionaries.
    """
    held, lists = {}, []
    for _ in range(groups):
        beams, paid = [()], {}
        for depth in range(1, 4):
            options = [one for one in scores if len(one) == depth and one[:-1] in beams]
            if depth == 1:
                paid = {one[0]: penalty * held.get(one, 0) for one in options}
            options.sort(key=lambda one: (paid[one[0]] - scores[one], one))
            beams = options[: k if depth == 3 else max(1, beam // groups)]
            if depth == 1:
                first = beams
        held |= {one: held.get(one, 0) + 1 for one in first}
        lists.append([item for one in beams for item in items[one]])
    named = []
    for rank in range(k):
        for one in lists:
            if rank < len(one) and one[rank] not in named:
                named.append(one[rank])
    return set(named[:k])


@pytest.mark.parametrize("penalty", [0.0, 0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize(("beam", "groups"), [(4, 2), (6, 3), (7, 4), (9, 3), (12, 4)])
def test_lists_are_those_of_a_slow_search(penalty, beam, groups):
    model, batch = toy.make_model(), toy.make_batch()
    whole = beam_search(model, batch, TRIE, k=toy.N_ITEMS, beam=toy.N_ITEMS)
    found = diverse_beam_search(model, batch, TRIE, k=4, beam=beam, groups=groups, penalty=penalty)
    for user in range(3):
        items, scores = {}, {}
        rows = zip(whole.items[user], whole.codes[user], whole.code_log_probs[user], strict=True)
        for item, codes, parts in rows:
            code = tuple(codes.tolist())
            items.setdefault(code, []).append(int(item))
            scores |= {code[:depth]: float(parts[:depth].sum()) for depth in range(1, 4)}
        expected = by_hand(items, scores, 4, beam, groups, penalty)
        assert set(found.items[user].tolist()) - {-1} == expected
