"""The tree of a search against all code sequences written out, and against the search untraced."""

import itertools

import pytest
import torch
import toy_model as toy

from onerec.model.generate import beam_search
from onerec.model.trace import beam_tree, columns, places_in_beam
from onerec.tokenizer.trie import Trie

TRIE = Trie(toy.item_codes(), toy.SIZES, torch.arange(toy.N_ITEMS))


@pytest.fixture(params=["encoder_decoder", "lazy"])
def model(request):
    return toy.make_model(experts=3) if request.param == "encoder_decoder" else toy.make_lazy()


def prefix_scores(model, batch, user, depth):
    """log p of every prefix of that many codes, by single passes: {prefix: score}."""
    memory = model.encode(toy.rows(batch, slice(user, user + 1)))
    scores = {(): 0.0}
    for level in range(depth):
        longer = {}
        for prefix, score in scores.items():
            codes = torch.tensor(prefix, dtype=torch.int64).view(1, 1, level)
            hidden = model.decode(codes, memory)[0, 0, -1]
            for code, own in enumerate(model.logits(level, hidden).log_softmax(-1).tolist()):
                longer[(*prefix, code)] = score + own
        scores = longer
    return scores


def legal_prefixes(depth):
    return {tuple(row) for row in toy.item_codes()[:, :depth].tolist()}


@pytest.mark.parametrize("beam", [1, 3, 50])
def test_lists_are_those_of_a_search_without_a_trace(model, beam):
    batch = toy.make_batch()
    exclude = torch.tensor([[3, 0], [0, 0], [8, 1]])
    for left_out in (None, exclude):
        plain = beam_search(model, batch, TRIE, k=6, beam=beam, exclude=left_out)
        found, levels = beam_tree(model, batch, TRIE, k=6, beam=beam, exclude=left_out)
        for name in ("items", "scores", "codes", "code_log_probs", "legal"):
            assert torch.equal(getattr(plain, name), getattr(found, name)), name
        assert len(levels) == 3


@torch.no_grad()
def test_each_level_equals_all_prefixes_written_out(model):
    """What is kept is the best of the legal children; what is shown of the rest is its best."""
    batch, beam = toy.make_batch(), 3
    _, levels = beam_tree(model, batch, TRIE, k=4, beam=beam, few=2)
    for user in range(3):
        parents = [()]
        for depth, level in enumerate(levels, start=1):
            scores = prefix_scores(model, batch, user, depth)
            children = [c for c in scores if c[:-1] in parents]
            legal = sorted(
                (c for c in children if c in legal_prefixes(depth)), key=lambda c: -scores[c]
            )
            illegal = sorted(
                (c for c in children if c not in legal_prefixes(depth)), key=lambda c: -scores[c]
            )
            keep = beam if depth < 3 else 4
            for branches, expected in (
                (level.kept, legal[:keep]),
                (level.pruned, legal[keep:][:2]),
                (level.illegal, illegal[:2]),
            ):
                there = branches.scores[user].isfinite()
                assert [tuple(c) for c in branches.codes[user][there].tolist()] == expected
                for place, prefix in enumerate(expected):
                    assert branches.scores[user, place].item() == pytest.approx(
                        scores[prefix], abs=1e-4
                    )
                    assert parents[branches.parents[user, place]] == prefix[:-1]
            lost = sum(torch.tensor(scores[c]).exp().item() for c in legal[keep:])
            assert level.pruned_probability[user].item() == pytest.approx(lost, abs=1e-5)
            never = sum(torch.tensor(scores[c]).exp().item() for c in illegal)
            assert level.illegal_probability[user].item() == pytest.approx(never, abs=1e-5)
            parents = legal[:keep]


def test_nothing_is_lost_of_the_probability(model):
    """Pruned and illegal of all levels, and the leaves that were kept, add up to 1."""
    _, levels = beam_tree(model, toy.make_batch(), TRIE, k=4, beam=3)
    total = levels[-1].kept.scores.exp().sum(1)
    total = total + sum(level.pruned_probability + level.illegal_probability for level in levels)
    torch.testing.assert_close(total, torch.ones(3))


def test_a_beam_as_wide_as_the_tree_prunes_nothing():
    model = toy.make_model()
    _, levels = beam_tree(model, toy.make_batch(), TRIE, k=toy.N_ITEMS, beam=toy.N_ITEMS)
    for level in levels:
        assert (level.pruned_probability == 0).all()
        assert level.pruned.scores.isneginf().all()
        assert (level.pruned.codes == -1).all()


def test_the_place_of_an_item_at_each_level():
    model = toy.make_model()
    found, levels = beam_tree(model, toy.make_batch(), TRIE, k=4, beam=4)
    assert places_in_beam(levels, found.codes[:, 0]).amin() >= 1
    assert (places_in_beam(levels, found.codes[:, 0])[:, -1] == 1).all()
    for user, level in itertools.product(range(3), range(3)):
        prefix = found.codes[user, 2, : level + 1]
        kept = levels[level].kept.codes[user].tolist()
        place = places_in_beam(levels, found.codes[:, 2])[user, level]
        assert kept[place - 1] == prefix.tolist()
    nowhere = torch.full((3, 3), 99)
    assert (places_in_beam(levels, nowhere) == 0).all()


def test_the_table_has_a_row_for_each_branch():
    model = toy.make_model()
    _, levels = beam_tree(model, toy.make_batch(), TRIE, k=4, beam=3, few=2)
    table = columns(levels, user=1)
    kept = [
        (level, codes)
        for level, state, codes in zip(table["level"], table["state"], table["codes"], strict=True)
        if state == "kept"
    ]
    assert len(kept) == sum(int(level.kept.scores[1].isfinite().sum()) for level in levels)
    assert kept[0] == (1, tuple(levels[0].kept.codes[1, 0].tolist()))
    for depth, level in enumerate(levels, start=1):
        there = level.kept.scores[1].isfinite()
        own = [prefix for at, prefix in kept if at == depth]
        assert own == [tuple(codes) for codes in level.kept.codes[1][there].tolist()]
    other = columns(levels, user=0)
    assert other["codes"] != table["codes"]
    assert set(table["state"]) == {"kept", "pruned", "illegal"}
    assert min(table["parent"]) == 1
    assert max(table["rank"]) <= 4


def test_at_least_one_branch_is_asked_for():
    with pytest.raises(ValueError, match="few=0 must be at least 1"):
        beam_tree(toy.make_model(), toy.make_batch(), TRIE, k=1, beam=1, few=0)
