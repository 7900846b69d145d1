"""Beam search against scoring every item, and what must not change its result."""

import itertools

import pytest
import torch
import toy_model as toy

from onerec.common import generator
from onerec.model import generate
from onerec.model.generate import beam_search, best
from onerec.model.layers import CrossAttention
from onerec.tokenizer.trie import Trie

POPULARITY = torch.arange(toy.N_ITEMS) * 7 % 11


def make_trie(codes=None, popularity=POPULARITY):
    return Trie(toy.item_codes() if codes is None else codes, toy.SIZES, popularity)


@torch.no_grad()
def item_scores(model, batch):
    """log p of every item's codes by teacher forcing: (B, n)."""
    batch.target = torch.arange(1, len(model.items) + 1).expand(batch.size, -1)
    codes = model.items.codes[batch.target]
    logits = model(batch)
    return sum(
        level.log_softmax(-1).gather(-1, codes[..., l : l + 1])[..., 0]
        for l, level in enumerate(logits)  # noqa: E741
    )


def ranked(scores, trie):
    """Items by score; those of one leaf by popularity, then as the trie broke the tie."""
    place = torch.empty(len(trie.leaf_items), dtype=torch.int64)
    place[trie.leaf_items] = torch.arange(len(place))
    leaf = trie.leaf_of(toy.item_codes())
    rows = []
    for row in scores.tolist():
        first = {}
        for item in sorted(range(len(row)), key=lambda i: -row[i]):
            first.setdefault(int(leaf[item]), len(first))
        rows.append(sorted(range(len(row)), key=lambda i: (first[int(leaf[i])], int(place[i]))))
    return torch.tensor(rows)


def test_best_breaks_ties_by_index():
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0], [0.0, -torch.inf, 0.0, 0.0, 0.0, 0.0]])
    values, index = best(scores, 3)
    assert index.tolist() == [[1, 3, 2], [0, 2, 3]]
    assert values.tolist() == [[3.0, 3.0, 2.0], [0.0, 0.0, 0.0]]
    assert best(scores, 99)[1].tolist() == [[1, 3, 2, 4, 5, 0], [0, 2, 3, 4, 5, 1]]


@pytest.mark.parametrize("keep", [1, 7, 30, 99])
def test_a_gpu_that_is_not_asked_whether_scores_are_equal_takes_the_same(keep):
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 12, (40, 30), generator=g).float()
    scores[scores == 3] = -torch.inf
    scores[:2] = -torch.inf
    keep = min(keep, scores.shape[1])
    index = generate._first(scores, scores.topk(keep).values[:, -1:], keep)
    expected = scores.sort(descending=True, stable=True).indices[:, :keep]
    assert index.equal(expected.sort().values)


def test_a_score_that_is_no_number_leaves_every_place_inside():
    scores = torch.tensor([[1.0, torch.nan, 2.0, 0.0]])
    index = generate._first(scores, scores.topk(2).values[:, -1:], 2)
    assert int(index.max()) < 4


def test_best_equals_a_stable_sort():
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 12, (40, 30), generator=g).float()
    values, index = best(scores, 7)
    expected = scores.sort(descending=True, stable=True)
    assert values.equal(expected.values[:, :7])
    assert index.equal(expected.indices[:, :7])


@pytest.mark.parametrize("experts", [0, 3])
@pytest.mark.parametrize("cache", [True, False])
def test_with_the_trie_it_equals_scoring_every_item(experts, cache):
    model, batch, trie = toy.make_model(experts=experts), toy.make_batch(), make_trie()
    widest = max(trie.nodes_per_level)
    got = beam_search(model, batch, trie, k=toy.N_ITEMS, beam=widest, cache=cache)
    scores = item_scores(model, batch)
    assert got.items.equal(ranked(scores, trie))
    torch.testing.assert_close(got.scores, scores.gather(1, got.items))
    torch.testing.assert_close(got.code_log_probs.sum(-1), got.scores)
    assert got.codes.equal(toy.item_codes()[got.items])
    assert got.legal.all()


@pytest.mark.parametrize("cache", [True, False])
def test_without_the_trie_it_equals_scoring_every_code_sequence(cache):
    model, batch, trie = toy.make_model(), toy.make_batch(), make_trie()
    everything = torch.tensor(list(itertools.product(*map(range, toy.SIZES))))  # (120, 3)
    judge = toy.make_model(codes=everything)  # an "item" for every sequence, to score them
    judge.load_state_dict(
        {**judge.state_dict(), **{k: v for k, v in model.state_dict().items() if "item" not in k}}
    )
    memory = model.encode(batch)
    target = torch.arange(1, 121).expand(3, -1)
    with torch.no_grad():
        logits = judge.target_logits(memory, target)
    scores = sum(
        level.log_softmax(-1).gather(-1, everything[:, l].expand(3, -1)[..., None])[..., 0]
        for l, level in enumerate(logits)  # noqa: E741
    )
    got = beam_search(model, batch, trie, k=120, beam=120, constrained=False, cache=cache)
    order = scores.argsort(dim=1, descending=True)
    assert got.codes.equal(everything[order])
    torch.testing.assert_close(got.scores, scores.gather(1, order))
    torch.testing.assert_close(got.scores.exp().sum(1), torch.ones(3))
    assert got.legal.equal(trie.is_legal(got.codes))
    assert (got.items[~got.legal] == -1).all()
    legal = got.items[got.legal]
    assert toy.item_codes()[legal].equal(got.codes[got.legal])


def test_every_prefix_the_search_drops_was_worse():
    """A beam of 2 by hand: the best children of the 2 best parents, level by level."""
    model, batch, trie = toy.make_model(), toy.make_batch(lengths=(3,)), make_trie()
    got = beam_search(model, batch, trie, k=3, beam=2)
    memory = model.encode(batch)
    beams = [((), 0.0)]
    legal = {tuple(row[:n]) for row in toy.item_codes().tolist() for n in range(4)}
    for level in range(3):
        grown = []
        for prefix, score in beams:
            codes = torch.tensor(prefix, dtype=torch.int64).view(1, 1, -1)
            with torch.no_grad():
                logits, _ = model.decode_step(level, codes, memory, None)
            for code, value in enumerate(logits[0, 0].log_softmax(-1).tolist()):
                if (*prefix, code) in legal:
                    grown.append(((*prefix, code), score + value))
        beams = sorted(grown, key=lambda pair: -pair[1])[: 2 if level < 2 else 3]
    leaves = got.codes[0].unique(dim=0, sorted=False).tolist()
    assert all(tuple(leaf) in dict(beams) for leaf in leaves)
    assert got.scores[0, 0].item() == pytest.approx(beams[0][1], abs=1e-5)


@pytest.mark.parametrize("constrained", [True, False])
def test_results_do_not_depend_on_the_rest_of_the_batch(constrained):
    model, trie = toy.make_model(), make_trie()
    lengths = (4, 0, 2, 1, 3, 4, 0)
    batch = toy.make_batch(lengths=lengths)
    settings = {"k": 12, "beam": 5, "constrained": constrained}
    together = beam_search(model, batch, trie, **settings)
    for user in range(len(lengths)):
        alone = beam_search(model, toy.rows(batch, [user]), trie, **settings)
        assert alone.items[0].equal(together.items[user])
        assert alone.codes[0].equal(together.codes[user])
        torch.testing.assert_close(alone.scores[0], together.scores[user])


@pytest.mark.parametrize("constrained", [True, False])
def test_parts_on_threads_give_the_same_lists(constrained):
    model, trie = toy.make_model(), make_trie()
    batch = toy.make_batch(lengths=[i % 5 for i in range(5 * generate.SMALLEST_PART + 3)])
    exclude = torch.randint(0, toy.N_ITEMS, (batch.size, 2), generator=generator(3))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(
                beam_search(
                    model, batch, trie, k=4, beam=5, constrained=constrained, exclude=exclude
                )
            )
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    whole, parts = found
    torch.testing.assert_close(parts.scores, whole.scores)
    assert parts.items.equal(whole.items)
    assert parts.codes.equal(whole.codes)
    assert parts.legal.equal(whole.legal)


def test_a_failure_in_a_part_reaches_the_caller(monkeypatch):
    def broken(*_args):
        raise RuntimeError("no memory")

    monkeypatch.setattr(generate, "_search", broken)
    monkeypatch.setattr(generate, "_parts", lambda *_: [slice(0, 1), slice(1, 2)])
    with pytest.raises(RuntimeError, match="no memory"):
        beam_search(toy.make_model(), toy.make_batch(lengths=(1, 2)), make_trie(), k=1, beam=1)


def test_fewer_legal_items_than_beams_leave_empty_rows():
    codes = torch.tensor([[0, 1, 2], [0, 1, 3], [4, 5, 0]])
    model = toy.make_model(codes=codes)
    batch = toy.make_batch(n_items=3)
    got = beam_search(model, batch, make_trie(codes, None), k=8, beam=6)
    assert got.items[:, :3].sort().values.tolist() == [[0, 1, 2]] * 3
    assert got.items[:, 3:].eq(-1).all()
    assert got.codes[:, 3:].eq(-1).all()
    assert got.scores[:, 3:].isneginf().all()
    assert got.code_log_probs[:, 3:].isneginf().all()
    assert got.legal.sum(1).tolist() == [3, 3, 3]


def test_items_of_one_leaf_follow_by_popularity_and_take_a_rank_each():
    codes = torch.tensor([[1, 1, 1]] * 4 + [[2, 2, 2]])
    popularity = torch.tensor([3, 9, 1, 5, 7])
    model, batch = toy.make_model(codes=codes), toy.make_batch(n_items=5)
    got = beam_search(model, batch, make_trie(codes, popularity), k=3, beam=1)
    for row, scores in zip(got.items.tolist(), got.scores, strict=True):
        assert row in ([1, 3, 0], [4, -1, -1])
        assert row[0] == 4 or scores.unique().numel() == 1


def test_excluded_items_give_way_to_the_next():
    model, batch, trie = toy.make_model(), toy.make_batch(), make_trie()
    widest = max(trie.nodes_per_level)
    everything = beam_search(model, batch, trie, k=toy.N_ITEMS, beam=widest).items
    seen = torch.zeros(3, 9, dtype=torch.int64)
    seen[0, :6] = everything[0, :6] + 1  # the six best
    seen[1, 2] = everything[1, 3] + 1
    got = beam_search(model, batch, trie, k=5, beam=widest, exclude=seen).items
    assert got[0].equal(everything[0, 6:11])
    assert got[1].equal(everything[1, [0, 1, 2, 4, 5]])
    assert got[2].equal(everything[2, :5])
    wider = torch.cat([seen, torch.zeros(3, 20, dtype=torch.int64)], dim=1)
    assert beam_search(model, batch, trie, k=5, beam=widest, exclude=wider).items.equal(got)


def test_a_list_of_excluded_items_may_be_empty():
    model, batch, trie = toy.make_model(), toy.make_batch(), Trie(toy.item_codes(), toy.SIZES)
    nothing = torch.zeros(batch.size, 0, dtype=torch.int64)
    got = beam_search(model, batch, trie, k=3, beam=4, exclude=nothing)
    assert got.items.equal(beam_search(model, batch, trie, k=3, beam=4).items)


def test_nothing_is_left_when_everything_is_excluded():
    model, batch, trie = toy.make_model(), toy.make_batch(), make_trie()
    seen = torch.arange(1, toy.N_ITEMS + 1).expand(3, -1)
    got = beam_search(model, batch, trie, k=4, beam=4, exclude=seen)
    assert got.items.eq(-1).all()
    assert not got.legal.any()


def test_the_trace_tells_the_same_story():
    model, batch, trie = toy.make_model(), toy.make_batch(), make_trie()
    got = beam_search(model, batch, trie, k=6, beam=4, trace=True)
    assert [level.codes.shape[1:] for level in got.trace] == [(4, 1), (4, 2), (6, 3)]
    for above, below in itertools.pairwise(got.trace):
        index = below.parents[..., None].expand(-1, -1, above.codes.shape[-1])
        inherited = above.codes.gather(1, index)
        exists = below.scores.isfinite()
        assert inherited[exists].equal(below.codes[..., :-1][exists])
        assert (below.scores <= above.scores.gather(1, below.parents)).all()
        assert (below.scores.diff(dim=1) <= 0).nan_to_num().all() or not exists.all()
    probability = got.trace[0].legal_probability
    assert ((probability > 0) & (probability <= 1 + 1e-6)).all()
    assert beam_search(model, batch, trie, k=6, beam=4).trace == []


@torch.no_grad()
def test_the_trace_tells_what_all_legal_continuations_have_together():
    model, batch, trie = toy.make_model(), toy.make_batch(), make_trie()
    got = beam_search(model, batch, trie, k=6, beam=4, trace=True)
    memory, table, parents = model.encode(batch), toy.item_codes(), torch.zeros(3, 1, 0).long()
    for level, found in enumerate(got.trace):
        logits, _ = model.decode_step(level, parents, memory, None)
        chance = logits.softmax(-1).expand(-1, parents.shape[1], -1)
        for user, place in itertools.product(range(3), range(parents.shape[1])):
            prefix = parents[user, place]
            legal = table[(table[:, :level] == prefix).all(1), level].unique()
            own = chance[user, place, legal].sum()
            torch.testing.assert_close(found.legal_probability[user, place], own)
        parents = found.codes
    assert got.trace[2].legal_probability.max() < 0.999  # some of it leads to no item


def test_users_up_to_a_power_of_two_keep_what_is_left_out_for_each():
    """Three are four, the first one again; three items are four, the last of which is nobody."""
    batch, exclude = toy.make_batch(), torch.tensor([[3, 9, 1], [2, 0, 0], [8, 7, 0]])
    more, left_out = generate._of_few_users(batch, exclude)
    assert more.size == 4
    assert more.short.item.equal(batch.short.item[[0, 1, 2, 0]])
    assert left_out.tolist() == [[3, 9, 1, 0], [2, 0, 0, 0], [8, 7, 0, 0], [3, 9, 1, 0]]


def test_the_first_users_have_their_own_traces_alone():
    model, batch, trie = toy.make_model(), toy.make_batch(), make_trie()
    whole = beam_search(model, batch, trie, k=4, beam=3, trace=True)
    found = whole.first(2)
    assert found.items.equal(whole.items[:2])
    for level, every in zip(found.trace, whole.trace, strict=True):
        assert all(own.equal(table[:2]) for own, table in zip(level, every, strict=True))


def test_what_is_left_out_does_not_hide_what_is_illegal():
    """Padding of `exclude` is nobody, as is an illegal sequence: those still count."""
    model, batch, trie = toy.make_model(), toy.make_batch(), make_trie()
    plain = beam_search(model, batch, trie, k=12, beam=12, constrained=False)
    assert not plain.legal.all()
    nobody = torch.zeros(3, 2, dtype=torch.int64)
    got = beam_search(model, batch, trie, k=12, beam=12, constrained=False, exclude=nobody)
    assert got.codes.equal(plain.codes)
    assert got.legal.equal(plain.legal)


def test_without_the_trie_more_ranks_than_sequences_stay_empty():
    model, batch, trie = toy.make_model(), toy.make_batch(), make_trie()
    got = beam_search(model, batch, trie, k=123, beam=120, constrained=False)
    assert got.scores[:, :120].isfinite().all()
    assert got.scores[:, 120:].isneginf().all()
    assert got.codes[:, 120:].eq(-1).all()


def test_the_model_comes_back_in_its_mode():
    model, batch, trie = toy.make_model(dropout=0.5), toy.make_batch(), make_trie()
    model.train()
    first = beam_search(model, batch, trie, k=6, beam=4)
    assert model.training
    assert first.scores.equal(beam_search(model, batch, trie, k=6, beam=4).scores)
    assert not first.scores.requires_grad


def test_keys_and_values_of_the_context_are_never_copied_per_beam(monkeypatch):
    model, batch, trie = toy.make_model(), toy.make_batch(), make_trie()
    seen, read = [], CrossAttention.read

    def watched(self, query, memory, mask):
        seen.append(memory[0].shape)
        return read(self, query, memory, mask)

    monkeypatch.setattr(CrossAttention, "read", watched)
    beam_search(model, batch, trie, k=6, beam=4)
    assert {shape[0] for shape in seen} == {3}
    assert len(seen) == 3 * 2  # levels times layers


def test_levels_of_any_number():
    sizes = (3, 2, 2, 4)
    codes = toy.item_codes(20, sizes)
    model = toy.make_model(sizes=sizes, codes=codes)
    got = beam_search(model, toy.make_batch(n_items=20), Trie(codes, sizes), k=20, beam=40)
    assert got.items.sort().values.equal(torch.arange(20).expand(3, -1))


def test_k_and_beam_must_be_positive():
    model, batch, trie = toy.make_model(), toy.make_batch(), make_trie()
    with pytest.raises(ValueError, match="k=0"):
        beam_search(model, batch, trie, k=0, beam=4)
