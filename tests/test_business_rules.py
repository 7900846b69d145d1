"""Rules against lists filtered by hand from the whole ranking of the catalogue."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
import toy_model as toy

from onerec import business_rules
from onerec.business_rules import (
    WIDEST,
    Rules,
    rank_in_group,
    restricted,
    shortfalls,
    widened,
)
from onerec.errors import DataError
from onerec.model.generate import beam_search
from onerec.tokenizer.trie import Trie

CODES = toy.item_codes()
TRIE = Trie(CODES, toy.SIZES, torch.arange(toy.N_ITEMS) * 7 % 11)
ITEMS = pd.DataFrame(
    {
        "item": range(toy.N_ITEMS),
        "item_id": [f"i{n}" for n in range(toy.N_ITEMS)],
        "category": [[("music", "food", "sport")[n % 3]] for n in range(toy.N_ITEMS)],
        "brand": [f"b{n % 2}" for n in range(toy.N_ITEMS)],
        "author_id": [f"a{n % 4}" if n % 5 else None for n in range(toy.N_ITEMS)],
    }
)


def whole(model, batch):
    """All items of each user, best first."""
    return beam_search(model, batch, TRIE, k=toy.N_ITEMS, beam=toy.N_ITEMS).items.tolist()


def test_what_is_left_for_everybody():
    rules = Rules(exclude=["i3", "i4"], without={"category": ["music"], "brand": ["b1"]})
    left = [n for n in range(toy.N_ITEMS) if n % 3 and n % 2 == 0 and n not in (3, 4)]
    assert np.flatnonzero(rules.allowed(ITEMS)).tolist() == left
    assert Rules().allowed(ITEMS).all()
    alone, listed = (
        Rules(without={"category": one}).allowed(ITEMS) for one in ("music", ["music"])
    )
    assert np.array_equal(alone, listed)  # a word, and not its letters


def test_a_restricted_trie_searches_what_is_left_and_nothing_else():
    model, batch = toy.make_model(), toy.make_batch()
    allowed = Rules(without={"category": ["music"]}).allowed(ITEMS)
    smaller = restricted(TRIE, CODES.numpy(), allowed)
    found = beam_search(model, batch, smaller, k=toy.N_ITEMS, beam=toy.N_ITEMS)
    expected = [[item for item in row if allowed[item]] for row in whole(model, batch)]
    assert [[item for item in row if item >= 0] for row in found.items.tolist()] == expected
    assert restricted(TRIE, CODES.numpy(), np.zeros(toy.N_ITEMS, dtype=bool)) is None


def test_rank_in_group_by_hand():
    group = torch.tensor([[2, 1, 2, 2, 1], [0, 0, -1, 0, -1]])
    assert rank_in_group(group).tolist() == [[0, 0, 1, 2, 1], [0, 1, 0, 2, 1]]


@pytest.mark.parametrize("most", [1, 2])
def test_at_most_so_many_of_an_author_and_the_beam_widens_for_it(most):
    model, batch = toy.make_model(), toy.make_batch()
    authors, asked = Rules(per_author=most).authors(ITEMS), []

    def search(rows, n):
        asked.append((rows.tolist(), n))
        return beam_search(model, batch.mapped(lambda t: t[rows]), TRIE, k=n, beam=toy.N_ITEMS)

    k = 8
    found = widened(search, 3, k, toy.N_ITEMS, authors, most)
    names = [None if n % 5 == 0 else f"a{n % 4}" for n in range(toy.N_ITEMS)]
    for row, got in zip(whole(model, batch), found.items.tolist(), strict=True):
        count, expected = {}, []
        for item in row:
            count[names[item]] = count.get(names[item], 0) + 1
            if names[item] is None or count[names[item]] <= most:
                expected.append(item)
        assert len(expected) >= k
        assert got == expected[:k]
    assert asked[0] == ([0, 1, 2], k)
    assert len(asked) > 1
    assert found.legal.all()
    assert all(later[1] > earlier[1] for earlier, later in itertools.pairwise(asked))
    torch.testing.assert_close(found.code_log_probs.sum(-1), found.scores)
    assert torch.equal(CODES[found.items], found.codes)


def test_when_fewer_are_left_the_list_ends_earlier():
    """3 authors of whom one item each may be listed, and nobody without an author."""
    names = ITEMS.assign(author_id=[f"a{n % 3}" for n in range(toy.N_ITEMS)])
    model, batch = toy.make_model(), toy.make_batch()

    def search(rows, n):
        return beam_search(model, batch.mapped(lambda t: t[rows]), TRIE, k=n, beam=n)

    found = widened(search, 3, 5, toy.N_ITEMS, Rules(per_author=1).authors(names), 1)
    assert (found.items >= 0).sum(1).tolist() == [3, 3, 3]
    assert (found.items[:, 3:] == -1).all()
    assert found.scores[:, 3:].isneginf().all()


def test_the_shortfall_is_said():
    rules = Rules(per_author=1)
    assert shortfalls(["a", "b"], np.array([5, 5]), 5, ITEMS, rules) == []
    (line,) = shortfalls(["a", "b"], np.array([5, 2]), 5, ITEMS, rules)
    assert line.startswith("user b: 2 of 5 items")
    (line,) = shortfalls(list("abcde"), np.array([0, 1, 2, 3, 5]), 5, ITEMS, rules)
    assert line.startswith("4 of 5 users have fewer than 5 items (the least: 0)")


def test_what_a_search_has_not_seen_is_not_said_to_be_missing():
    """Beyond the widest beam nobody knows what there is."""
    rules, said = Rules(per_author=2), "at most 2 may be of one author: loosen a rule for more"
    for n, why in (
        (WIDEST, "catalogue has 4,096"),
        (WIDEST + 1, "search saw the 4,096 most probable"),
    ):
        items = pd.DataFrame({"item_id": range(n)})
        (line,) = shortfalls(["a"], np.array([2]), 5, items, rules)
        assert line == f"user a: 2 of 5 items; the {why}, {said}"


@pytest.mark.parametrize(
    ("count", "rules", "filtered", "why"),
    [
        (3, Rules(), False, f"the catalogue has {toy.N_ITEMS}, the search found no more"),
        (toy.N_ITEMS, Rules(per_author=99, seen=False), False, f"the catalogue has {toy.N_ITEMS}"),
        (toy.N_ITEMS, Rules(), True, f"the catalogue has {toy.N_ITEMS}"),
        (
            3,
            Rules(),
            True,
            f"the catalogue has {toy.N_ITEMS}, what is in the history is left out "
            "(evaluate.filter_seen)",
        ),
        (
            3,
            Rules(seen=False),
            False,
            f"the catalogue has {toy.N_ITEMS}, what is in the history is left out "
            "(rule seen=False): loosen a rule for more",
        ),
        (
            0,
            Rules(without={"category": ["music", "food", "sport"]}),
            True,
            f"the rules leave none of the catalogue's {toy.N_ITEMS}: loosen one",
        ),
        (
            toy.N_ITEMS // 2,
            Rules(without={"brand": "b1"}),
            False,
            f"the rules leave {toy.N_ITEMS - toy.N_ITEMS // 2} of the catalogue's {toy.N_ITEMS}: "
            "loosen a rule for more",
        ),
    ],
)
def test_why_a_list_is_short(count: int, rules: Rules, filtered: bool, why: str) -> None:
    (line,) = shortfalls([], np.array([count]), toy.N_ITEMS + 1, ITEMS, rules, filtered)
    assert line == f"{count} of {toy.N_ITEMS + 1} items; {why}"


def test_short_lists_are_searched_anew_a_few_users_at_a_time(monkeypatch):
    """Once all short users were searched together: 256 users at the widest beam are a million
    prefixes, each with a score for every code."""
    authors, asked = torch.zeros(toy.N_ITEMS, dtype=torch.int64), []
    model, batch = toy.make_model(), toy.make_batch()
    monkeypatch.setattr(business_rules, "AT_ONCE", 2 * toy.N_ITEMS)

    def search(rows, n):
        asked.append((len(rows), n))
        return beam_search(model, batch.mapped(lambda t: t[rows]), TRIE, k=n, beam=n)

    found = widened(search, 3, 2, toy.N_ITEMS, authors, 1)
    assert (found.items >= 0).sum(1).tolist() == [1, 1, 1]
    assert found.items[:, 0].tolist() == [row[0] for row in whole(model, batch)]
    assert asked[0] == (3, 2)
    assert all(users * n <= 2 * toy.N_ITEMS for users, n in asked[1:])
    assert sum(users for users, n in asked if n == toy.N_ITEMS) == 3


def test_a_rule_that_makes_no_sense_is_refused():
    with pytest.raises(DataError, match="rule exclude: there is no item 'nothing'"):
        Rules(exclude=["nothing"]).allowed(ITEMS)
    with pytest.raises(DataError, match="rule exclude: there is no item 'nothing'"):
        Rules(exclude=["i3", "nothing"]).allowed(ITEMS)
    with pytest.raises(DataError, match="items have no such column; they have category, brand"):
        Rules(without={"colour": ["red"]}).allowed(ITEMS)
    with pytest.raises(DataError, match="per_author=-1"):
        Rules(per_author=-1).authors(ITEMS)
    with pytest.raises(DataError, match="rule on 'author_id'"):
        Rules(per_author=1).authors(ITEMS.drop(columns="author_id"))
    assert Rules().authors(ITEMS.drop(columns="author_id")) is None
