"""From a finished run to lists: whose, how long, how scored, and what they never depend on."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import toy_home

from onerec.business_rules import Rules
from onerec.common import evaluating
from onerec.data.split import Cases
from onerec.errors import DataError, RunError
from onerec.model.generate import Generated
from onerec.recommend import Recommender
from onerec.runs import Run, open_run


@pytest.fixture(scope="module")
def recommender(trained: Path) -> Recommender:
    return Recommender.load("first", trained, device="cpu")


def test_lists_are_for_the_users_asked_for_in_their_order(recommender: Recommender) -> None:
    frame = recommender.recommend(["u07", "u00", "u39"], k=4)
    assert frame["user_id"].tolist() == ["u07"] * 4 + ["u00"] * 4 + ["u39"] * 4
    assert frame["rank"].tolist() == [1, 2, 3, 4] * 3
    assert list(frame.columns) == [*("user_id", "rank", "item_id", "item", "score", "lp_1", "lp_2")]
    items = recommender.setting.dataset.items["item_id"]
    assert frame["item_id"].tolist() == items[frame["item"]].tolist()
    for _, rows in frame.groupby("user_id"):
        assert rows["item"].is_unique
        assert rows["score"].is_monotonic_decreasing


def test_a_list_may_be_as_long_as_the_catalogue_and_no_longer(recommender: Recommender) -> None:
    everything = recommender.recommend(["u00"], k=toy_home.ITEMS + 5)
    assert sorted(everything["item"]) == list(range(toy_home.ITEMS))


def test_nobody_gets_an_empty_frame_with_all_columns(recommender: Recommender) -> None:
    frame = recommender.recommend([], k=3)
    assert len(frame) == 0
    assert "lp_2" in frame.columns


def test_what_cannot_be_asked_is_said(recommender: Recommender) -> None:
    with pytest.raises(DataError, match="'nobody' is no user of dataset 'toy'"):
        recommender.recommend(["u00", "nobody"])
    for k in (0, -1):
        with pytest.raises(DataError, match=f"k={k}: ask for at least one item"):
            recommender.recommend(["u00"], k=k)


def test_the_history_is_everything_the_user_did(recommender: Recommender) -> None:
    offsets = recommender.setting.split.log.offsets
    index = recommender.setting.dataset.user_index(["u11"])
    none = np.zeros(2, dtype=np.int64)
    whole = recommender.lists(Cases(index, offsets[index + 1], none, none[:0]), 5)
    before = recommender.lists(Cases(index, offsets[index + 1] - 3, none, none[:0]), 5)
    frame = recommender.recommend(["u11"], k=5)
    assert frame["item"].tolist() == whole.items[0].tolist()
    assert not np.array_equal(before.scores, whole.scores)


def test_scores_are_log_probabilities_of_the_items_codes(recommender: Recommender) -> None:
    """Against the training path of the model: all codes of the listed items, teacher-forced."""
    users = ["u03", "u30"]
    frame = recommender.recommend(users, k=6)
    assert np.allclose(frame["score"], frame["lp_1"] + frame["lp_2"], atol=1e-5)
    assert (frame[["lp_1", "lp_2"]] <= 0).all().all()
    index = recommender.setting.dataset.user_index(users)
    end = torch.from_numpy(recommender.setting.split.log.offsets[index + 1])
    listed = torch.tensor(frame["item"].tolist()).view(2, 6) + 1
    batch = recommender.contexts.batch(torch.from_numpy(index), end, listed)
    with evaluating(recommender.model):
        logits = recommender.model(batch)
    for level, values in enumerate(logits):
        codes = torch.from_numpy(recommender.ids.codes[frame["item"], level]).view(2, 6, 1)
        expected = values.log_softmax(-1).gather(-1, codes).flatten()
        assert np.allclose(frame[f"lp_{level + 1}"], expected, atol=1e-4)


def test_a_list_does_not_depend_on_who_else_is_asked_for(recommender: Recommender) -> None:
    users = [f"u{user:02d}" for user in range(toy_home.USERS)]
    together = recommender.recommend(users, k=8)
    for user in ("u00", "u17", "u39"):
        alone = recommender.recommend([user], k=8)
        rows = together[together["user_id"] == user].reset_index(drop=True)
        assert alone["item"].tolist() == rows["item"].tolist()
        assert np.allclose(alone["score"], rows["score"], atol=1e-5)
    backwards = recommender.recommend(users[::-1], k=8)
    key = ["user_id", "rank", "item"]
    assert (
        backwards[key].sort_values(key).values.tolist()
        == together[key].sort_values(key).values.tolist()
    )


def test_lists_of_many_users_come_in_batches(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = recommender.setting.split.test
    whole = recommender.lists(cases, 5)
    monkeypatch.setattr("onerec.recommend.BATCH", 7)
    parts = recommender.lists(cases, 5)
    assert np.array_equal(whole.items, parts.items)
    assert np.allclose(whole.scores, parts.scores, atol=1e-5)


def test_seen_items_are_filtered_where_the_recipe_says_so(recommender: Recommender) -> None:
    setting = recommender.setting
    users = setting.dataset.users["user_id"].tolist()
    log = setting.split.log

    def repeats(chosen: Recommender) -> int:
        frame = chosen.recommend(users, k=10)
        index = dict(zip(users, range(len(users)), strict=True))
        return sum(
            item in log.item[log.offsets[index[user]] : log.offsets[index[user] + 1]]
            for user, item in zip(frame["user_id"], frame["item"], strict=True)
        )

    assert repeats(recommender) > 0
    assert repeats(filtering(recommender)) == 0


def test_what_a_user_has_seen_is_his_own_history_and_ends_where_it_is_asked_to(
    recommender: Recommender,
) -> None:
    """Users of different lengths: the shorter one's row is padding, not his neighbour's items."""
    log = recommender.setting.split.log
    lengths = np.diff(log.offsets)
    user = np.array([lengths.argmax(), lengths.argmin(), 0])
    end = log.offsets[user + 1] - np.array([0, 0, 2])
    found = recommender.seen(torch.from_numpy(user), torch.from_numpy(end)).tolist()
    for row, begin, stop in zip(found, log.offsets[user], end, strict=True):
        own = (log.item[begin:stop].astype(int) + 1).tolist()
        assert row == own + [0] * (len(row) - len(own))


def test_without_the_trie_an_illegal_answer_is_counted_not_hidden(recommender: Recommender) -> None:
    cases = recommender.setting.split.test
    free = recommender.lists(cases, 10, constrained=False)
    bound = recommender.lists(cases, 10)
    assert bound.legal[bound.items >= 0].all()
    assert free.legal.shape == bound.legal.shape
    assert (free.items[~free.legal] == -1).all()


def test_no_cases_are_no_lists(recommender: Recommender) -> None:
    none = np.zeros(0, dtype=np.int64)
    lists = recommender.lists(Cases(none, none, np.zeros(1, dtype=np.int64), none), 3)
    assert lists.items.shape == (0, 3)
    assert lists.code_log_probs.shape == (0, 3, 2)


def test_serving_leaves_the_model_as_it_was(recommender: Recommender) -> None:
    recommender.model.train()
    recommender.recommend(["u00"], k=2)
    assert recommender.model.training
    assert all(parameter.grad is None for parameter in recommender.model.parameters())


def test_a_run_may_be_given_by_name_path_or_itself(trained: Path) -> None:
    run = open_run("first", trained)
    expected = Recommender.load(run).recommend(["u05"], k=3)
    assert Recommender.load(str(run.path)).recommend(["u05"], k=3).equals(expected)
    with pytest.raises(RunError, match=r"no run 'frist' .*did you mean 'first'"):
        Recommender.load("frist", trained)


# ------------------------------------------------------------------- typed and edited histories


def test_a_users_own_history_typed_in_gives_his_own_list(recommender: Recommender) -> None:
    for user in ("u00", "u08", "u39"):
        expected = recommender.recommend([user], k=6).drop(columns="user_id")
        found = recommender.recommend_for(recommender.prompts.history(user), k=6)
        pd.testing.assert_frame_equal(found, expected, atol=1e-5)


def test_a_typed_history_moves_the_list(recommender: Recommender) -> None:
    cooking = recommender.recommend_for(["i03", "i04", "i05"], k=5)
    football = recommender.recommend_for(["i13", "i14", "i15"], k=5)
    assert list(cooking.columns) == ["rank", "item_id", "item", "score", "lp_1", "lp_2"]
    assert cooking["item_id"].tolist() != football["item_id"].tolist()
    assert cooking.attrs["notes"] == []
    same = recommender.recommend_for(["i03", "i04", "i05"], k=5)
    assert same.equals(cooking)


def test_a_user_who_is_new_gets_a_list_from_static_features_alone(recommender: Recommender) -> None:
    north = recommender.recommend_for([], k=5, features={"city": "north"})
    south = recommender.recommend_for([], k=5, features={"city": "south"})
    assert len(north) == len(south) == 5
    assert not np.allclose(north["score"], south["score"])
    alike = recommender.recommend_for([], k=5, user="u00")  # u00 lives in the north
    assert np.allclose(alike["score"], north["score"])


def test_an_unknown_item_user_or_feature_is_named(recommender: Recommender) -> None:
    with pytest.raises(DataError, match="'i99' is no item of dataset 'toy'"):
        recommender.recommend_for(["i03", "i99"])
    with pytest.raises(DataError, match="'nobody' is no user of dataset 'toy'"):
        recommender.recommend_for([], user="nobody")
    with pytest.raises(DataError, match="no user has city='west'"):
        recommender.recommend_for([], features={"city": "west"})
    with pytest.raises(DataError, match="beam=0: must be at least 1"):
        recommender.recommend_for(["i03"], beam=0)
    with pytest.raises(DataError, match="k=0: ask for at least one item"):
        recommender.recommend_for(["i03"], k=0)


def test_a_history_of_100_000_events_is_read_at_its_end_and_counted(
    recommender: Recommender,
) -> None:
    items = [f"i{n % 30:02d}" for n in range(100_000)]
    found = recommender.recommend_for(items, k=4)
    (note,) = found.attrs["notes"]
    assert note.startswith("99,992 of 100,000 events are older than what this model reads")
    assert "newest 5 and 8 positive ones" in note
    end = recommender.recommend_for(items[-8:], k=4)
    assert found["item"].tolist() == end["item"].tolist()
    assert recommender.sample_for(items[-20:], 2).attrs["notes"][0].startswith("12 of 20 events")
    hidden = recommender.recommend_for(items, k=4, rules=Rules(seen=False))
    assert len(hidden) == 0


def test_a_beam_wider_than_the_catalogue_and_k_above_the_beam(recommender: Recommender) -> None:
    everything = recommender.recommend_for(["i03"], k=toy_home.ITEMS + 5, beam=10_000)
    assert sorted(everything["item"]) == list(range(toy_home.ITEMS))
    assert everything.attrs["notes"] == ["30 of 35 items; the catalogue has 30"]
    assert len(recommender.recommend_for(["i03"], k=12, beam=2)) == 12


def number(item_id: object) -> int:
    """i07 -> 7: its shelf is 7 // 10, its author a7 % 7; the dense index is another number."""
    return int(str(item_id)[1:])


def test_rules_leave_out_what_they_say(recommender: Recommender) -> None:
    history = ["i03", "i04", "i05"]
    whole = recommender.recommend_for(history, k=30, beam=30)
    ranked = [number(item) for item in whole["item_id"]]

    def items(**rules: object) -> list[int]:
        found = recommender.recommend_for(history, k=6, beam=30, rules=Rules(**rules))
        return [number(item) for item in found["item_id"]]

    assert items() == ranked[:6]
    assert items(seen=False) == [i for i in ranked if i not in (3, 4, 5)][:6]
    assert items(exclude=[f"i{ranked[0]:02d}"]) == ranked[1:7]
    assert items(without={"tags": ["cooking"]}) == [i for i in ranked if i >= 10][:6]
    one_each: dict[int, int] = {}
    for item in ranked:
        one_each.setdefault(item % 7, item)
    assert items(per_author=1) == list(one_each.values())[:6]


def test_a_search_that_is_asked_again_is_never_narrower(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = []
    search = recommender.search

    def noted(*asked: object, **given: Any) -> Generated:
        widths.append(given["beam"])
        return search(*asked, **given)

    monkeypatch.setattr(recommender, "search", noted)
    rules = Rules(per_author=1)
    recommender.recommend_for(["i03", "i04"], k=2, beam=29, rules=rules)
    assert widths == [29]
    recommender.recommend_for(["i03", "i04"], k=7, beam=29, rules=rules)
    assert len(widths) > 2, "seven authors need a second search"
    assert min(widths) == 29


def test_rules_hold_for_users_of_the_dataset_too(recommender: Recommender) -> None:
    users = ["u00", "u08"]
    frame = recommender.recommend(users, k=6, rules=Rules(per_author=1, seen=False))
    log = recommender.setting.split.log
    for user, rows in frame.groupby("user_id"):
        index = recommender.setting.dataset.user_index([user])[0]
        seen = set(log.item[log.offsets[index] : log.offsets[index + 1]].tolist())
        assert not seen & set(rows["item"])
        authors = [number(item) % 7 for item in rows["item_id"]]
        assert len(set(authors)) == len(authors) == 6
    narrow = recommender.recommend(users, k=7, rules=Rules(without={"tags": ["cooking"]}))
    assert (narrow["item_id"].map(number) >= toy_home.PER_SHELF).all()
    assert narrow.attrs["notes"] == []


def test_a_user_whose_list_is_searched_anew_keeps_his_own_history(recommender: Recommender) -> None:
    """Among others whose lists were full at once: his context, and what he has seen, are his."""
    users = recommender.setting.dataset.users["user_id"].tolist()
    rules = Rules(per_author=1, seen=False)
    together = recommender.recommend(users, k=5, rules=rules)
    searched: list[int] = []
    search = recommender.search

    def noted(model: Any, batch: Any, *rest: object, **given: Any) -> Generated:
        searched.append(batch.size)
        return search(model, batch, *rest, **given)

    recommender.search = noted
    try:
        again = recommender.recommend(users, k=5, rules=rules)
    finally:
        recommender.search = search
    assert 0 < searched[1] < searched[0] == len(users), "some of them, and not all"
    assert again.equals(together)
    for user in users:
        alone = recommender.recommend([user], k=5, rules=rules)
        rows = together[together["user_id"] == user]
        assert alone["item"].tolist() == rows["item"].tolist()
        assert np.allclose(alone["score"], rows["score"], atol=1e-5)


def test_k_ends_with_the_catalogue_before_anything_is_searched(recommender: Recommender) -> None:
    for found in (
        recommender.recommend_for(["i03"], k=10**12),
        recommender.recommend(["u00"], k=10**20, rules=Rules(per_author=10**6)),
    ):
        assert len(found) == toy_home.ITEMS
        assert f"{toy_home.ITEMS} of 1000" in found.attrs["notes"][-1]


@pytest.mark.parametrize("k", [1.5, "4", None, True])
def test_k_is_a_whole_number(recommender: Recommender, k: Any) -> None:
    with pytest.raises(DataError, match=r"^k=.*: give a whole number of at least 1$"):
        recommender.recommend_for(["i03"], k=k)


def test_ids_are_asked_for_as_a_list(recommender: Recommender) -> None:
    """A text would be read letter by letter."""
    with pytest.raises(DataError, match=r"item ids are asked for as a list: give \['i03'\]"):
        recommender.recommend_for("i03")
    with pytest.raises(DataError, match="item ids are asked for as a list"):
        recommender.recommend_for(None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"user ids are asked for as a list: give \['u00'\]"):
        recommender.recommend("u00")
    with pytest.raises(DataError, match="'u99' is no user of dataset 'toy'; ids look like 'u"):
        recommender.recommend(["u99"])


def test_a_filter_that_leaves_nothing_says_so(recommender: Recommender) -> None:
    shelves = {"tags": list(toy_home.SHELVES)}
    found = recommender.recommend_for(["i03"], k=4, rules=Rules(without=shelves))
    assert len(found) == 0
    assert found.attrs["notes"] == [
        "0 of 4 items; the rules leave none of the catalogue's 30: loosen one"
    ]
    assert "lp_2" in found.columns
    users = recommender.recommend(["u00", "u01"], k=4, rules=Rules(without=shelves))
    assert len(users.attrs["notes"]) == 2
    drawn = recommender.sample_for(["i03"], 5, rules=Rules(without=shelves))
    assert len(drawn) == 0
    assert drawn.attrs["notes"] == [
        "0 of 5 items; the rules leave none of the catalogue's 30: loosen one"
    ]


def test_a_filter_that_leaves_few_gives_what_there_is(recommender: Recommender) -> None:
    some = recommender.recommend_for(
        ["i03"], k=9, rules=Rules(without={"tags": ["cooking", "football", "part1", "part2"]})
    )
    left = [n for n in range(20, 30) if n not in (21, 22)]
    assert sorted(some["item_id"].map(number)) == left
    assert some.attrs["notes"][0].startswith("8 of 9 items")


# ----------------------------------------------------------------------------- other decodings


def test_groups_of_beams_begin_with_other_codes(recommender: Recommender) -> None:
    plain = recommender.recommend_for(["i03", "i04"], k=6)
    diverse = recommender.recommend_for(["i03", "i04"], k=6, groups=3, penalty=100.0)
    first = recommender.ids.codes[:, 0]
    assert len(set(first[diverse["item"]])) > len(set(first[plain["item"]]))
    assert diverse["score"].is_monotonic_decreasing
    assert recommender.recommend_for(["i03", "i04"], k=6, groups=1).equals(plain)


def test_groups_that_are_all_at_the_same_items_look_further(recommender: Recommender) -> None:
    """Twenty groups of one beam without a penalty all hold one prefix, which has fewer items."""
    narrow = recommender.recommend_for(["i03"], k=20, groups=20, penalty=0.0)
    assert narrow["item"].nunique() == 20
    assert narrow.attrs["notes"] == []
    everything = recommender.recommend_for(["i03"], k=35, groups=20, penalty=0.0)
    assert sorted(everything["item"]) == list(range(toy_home.ITEMS))


def test_numbers_that_no_search_takes_are_refused(recommender: Recommender) -> None:
    history = recommender.prompts.typed(["i03"])
    for penalty in (-1.0, float("inf"), float("nan")):
        with pytest.raises(DataError, match=f"penalty={penalty}: must be at least 0 and finite"):
            recommender.recommend_for(["i03"], groups=2, penalty=penalty)
    with pytest.raises(DataError, match="k=0: ask for at least one item"):
        recommender.lists_for([history], 0)
    with pytest.raises(DataError, match="groups=0: must be at least 1"):
        recommender.recommend_for(["i03"], groups=0)


def test_draws_are_reproducible_and_follow_their_settings(recommender: Recommender) -> None:
    history = ["i03", "i04"]
    draws = recommender.sample_for(history, 300, seed=1)
    assert draws.equals(recommender.sample_for(history, 300, seed=1))
    assert not draws.equals(recommender.sample_for(history, 300, seed=2))
    assert draws["item"].nunique() > 5
    assert list(draws.columns) == ["draw", "item_id", "item", "score", "drawn"]
    greedy = recommender.sample_for(history, 20, top_k=1)
    assert greedy["item"].nunique() == 1
    sharp = recommender.sample_for(history, 300, power=6.0, seed=1)
    assert sharp["score"].mean() > draws["score"].mean()
    assert sharp.attrs["lost"] == 0.0
    narrow = recommender.sample_for(history, 300, power=6.0, beam=2, seed=1)
    assert 0 < narrow.attrs["lost"] < 1


def test_draws_say_the_models_probability_and_that_of_the_draw(recommender: Recommender) -> None:
    history = ["i03", "i04"]
    listed = recommender.recommend_for(history, k=30, beam=30)
    score = dict(zip(listed["item"], listed["score"], strict=True))
    draws = recommender.sample_for(history, 50, power=2.0)
    assert draws["score"].tolist() == pytest.approx([score[i] for i in draws["item"]], abs=1e-4)
    leaves = {tuple(recommender.ids.codes[i]): score[i] for i in listed["item"]}  # each code once
    total = np.logaddexp.reduce([2 * value for value in leaves.values()])
    assert draws["drawn"].tolist() == pytest.approx((2 * draws["score"] - total).tolist(), abs=1e-4)


def test_draws_follow_the_rules_that_hold_for_everybody(recommender: Recommender) -> None:
    rules = Rules(exclude=["i03"], without={"tags": ["football"]})
    for how in ({}, {"power": 1.0}):
        draws = recommender.sample_for(["i03", "i04"], 400, rules=rules, **how)
        drawn = {number(item) for item in draws["item_id"]}
        assert len(drawn) > 1
        assert 3 not in drawn
        assert not drawn & set(range(10, 20))


def filtering(recommender: Recommender) -> Recommender:
    """The same one with a recipe that leaves out what a user has seen."""
    recipe = recommender.setting.recipe
    recipe = replace(recipe, evaluate=replace(recipe.evaluate, filter_seen=True))
    same = copy.copy(recommender)
    same.setting = replace(recommender.setting, recipe=recipe)
    return same


def test_draws_leave_out_what_was_seen_as_lists_do(recommender: Recommender) -> None:
    history = ["i03", "i04", "i05"]

    def drawn(asked: Recommender, **how: Any) -> set[int]:
        return {number(item) for item in asked.sample_for(history, 400, **how)["item_id"]}

    assert drawn(recommender) & {3, 4, 5}
    hidden = filtering(recommender)
    for how in ({}, {"power": 1.0}, {"rules": Rules(exclude=["i06"])}):
        assert len(drawn(hidden, **how)) > 1
        assert not drawn(hidden, **how) & {3, 4, 5}
        assert drawn(hidden, **how) == drawn(
            recommender, **how | {"rules": replace(how.get("rules", Rules()), seen=False)}
        )
    assert 6 not in drawn(hidden, rules=Rules(exclude=["i06"]))
    assert len(hidden.sample_for([], 5)) == 5
    everything = recommender.items["item_id"].tolist()
    nothing = hidden.sample_for(everything, 5)
    assert len(nothing) == 0
    assert nothing.attrs["notes"][-1] == (
        "0 of 5 items; the catalogue has 30, what is in the history is left out "
        "(evaluate.filter_seen)"
    )


def test_a_list_that_is_short_says_what_was_left_out(recommender: Recommender) -> None:
    """No rule was given, so there is none to loosen: it is the recipe that hides seen items."""
    hidden, history = filtering(recommender), ["i03", "i04"]
    (note,) = hidden.recommend_for(history, k=30).attrs["notes"]
    said = "28 of 30 items; the catalogue has 30, what is in the history is left out "
    assert note == f"{said}(evaluate.filter_seen)"
    (note,) = recommender.recommend_for(history, k=30, rules=Rules(seen=False)).attrs["notes"]
    assert note == f"{said}(rule seen=False): loosen a rule for more"
    (note,) = recommender.recommend_for(history, k=30, rules=Rules(per_author=1)).attrs["notes"]
    assert note.endswith("30, at most 1 may be of one author: loosen a rule for more")
    assert hidden.recommend_for([], k=31).attrs["notes"] == ["30 of 31 items; the catalogue has 30"]


def test_draws_that_make_no_sense_are_refused(recommender: Recommender) -> None:
    for settings, words in (
        ({"power": 2.0, "top_k": 5}, "power takes the place of temperature"),
        ({"power": 2.0, "top_p": 0.5}, "power takes the place of temperature"),
        ({"power": 2.0, "temperature": 0.5}, "power takes the place of temperature"),
        ({"power": 0.5}, r"^power=0\.5: give a finite number of at least 1$"),
        ({"power": 0.0}, "^power=0.0: give"),
        ({"power": float("inf")}, "^power=inf: give"),
        ({"power": "4"}, "^power='4': give"),
        ({"power": 2.0, "beam": 0}, "^beam=0: must be at least 1$"),
        ({"temperature": 0.0}, "^temperature=0.0 must be above 0"),
        ({"temperature": float("nan")}, "^temperature=nan must be above 0"),
        ({"top_p": 2.0}, "top_p=2.0"),
        ({"n": 0}, "^n=0: must be at least 1$"),
        ({"n": 0, "power": 2.0}, "^n=0: must be at least 1$"),
        ({"n": 1.5}, "^n=1.5: give a whole number of at least 1$"),
        ({"rules": Rules(per_author=1)}, "per_author is for lists"),
    ):
        with pytest.raises(DataError, match=words):
            recommender.sample_for(["i03"], **settings)


# ----------------------------------------------------------------------------------- new items


def with_new(recommender: Recommender, run: Run) -> tuple[Recommender, pd.DataFrame]:
    """Two new items with the content of i04 and i17."""
    vectors = run.vectors()
    assert vectors is not None
    items = pd.DataFrame({"item_id": ["new4", "new17"], "author_id": ["a9", "a9"]})
    like = recommender.setting.dataset.item_index(["i04", "i17"])
    return recommender.with_items(items, vectors[like]), items


def test_new_items_join_the_trie_without_training(recommender: Recommender, trained: Path) -> None:
    richer, _ = with_new(recommender, open_run("first", trained))
    assert richer.trie.n_items == toy_home.ITEMS + 2
    like = recommender.setting.dataset.item_index(["i04", "i17"])
    assert richer.ids.codes[-2:].tolist() == richer.ids.codes[like].tolist()
    found = richer.recommend_for(["i03", "i04"], k=40)
    before = recommender.recommend_for(["i03", "i04"], k=40)
    assert set(found["item_id"]) - set(before["item_id"]) == {"new4", "new17"}
    score = dict(zip(found["item_id"], found["score"], strict=True))
    assert score["new4"] == pytest.approx(score["i04"], abs=1e-5)
    rank = dict(zip(found["item_id"], found["rank"], strict=True))
    assert rank["new4"] > rank["i04"]  # behind those who were taken before
    old = found[~found["item_id"].isin(["new4", "new17"])]
    assert old["item_id"].tolist() == before["item_id"].tolist()
    assert recommender.trie.n_items == toy_home.ITEMS  # the first one is as it was


def test_rules_know_new_items(recommender: Recommender, trained: Path) -> None:
    richer, _ = with_new(recommender, open_run("first", trained))
    found = richer.recommend_for(["i03"], k=40, rules=Rules(exclude=["new4"], per_author=1))
    assert "new4" not in set(found["item_id"])
    assert (found["item_id"] == "new17").sum() == 1
    assert len(found) == 8  # seven authors and a9


def test_new_items_can_be_added_twice_but_not_read(recommender: Recommender, trained: Path) -> None:
    run = open_run("first", trained)
    richer, items = with_new(recommender, run)
    vectors = run.vectors()
    again = richer.with_items(pd.DataFrame({"item_id": ["newer"]}), vectors[[9]])
    assert again.items["item_id"].tolist()[-3:] == ["new4", "new17", "newer"]
    assert again.items["item"].tolist() == list(range(toy_home.ITEMS + 3))
    with pytest.raises(DataError, match="item 'newer' was added after training"):
        again.recommend_for(["i03", "newer"])
    with pytest.raises(DataError, match="item 'new4' is there already"):
        richer.with_items(items, vectors[[4, 17]])
    with pytest.raises(DataError, match=r"vectors \(1, 3\) must be \(1, 16\)"):
        richer.with_items(pd.DataFrame({"item_id": ["x"]}), np.zeros((1, 3), dtype=np.float32))
    no_number = np.where(np.arange(16) == 3, np.nan, vectors[[0]]).astype(np.float32)
    with pytest.raises(DataError, match="the vector of item 'x' is not finite"):
        richer.with_items(pd.DataFrame({"item_id": ["x"]}), no_number)
    twice = pd.DataFrame({"item_id": ["x", "x"]})
    with pytest.raises(DataError, match="item 'x' is given twice"):
        richer.with_items(twice, vectors[[0, 1]])
    for few, words in ((items, "is there"), (twice, "is given twice"), (twice[:0], "no new item")):
        with pytest.raises(DataError, match=words):  # before any vector is looked at
            richer.with_items(few, np.zeros((9, 3), dtype=np.float32))
    for nameless in (pd.DataFrame({"title": ["x"]}), pd.DataFrame({"item_id": [None]})):
        with pytest.raises(DataError, match="new items need ids of their own"):
            richer.with_items(nameless, vectors[[0]])
    parts = recommender.setting, recommender.ids, recommender.popularity, recommender.model
    bare = Recommender(*parts, recommender.device, recommender.contexts)
    with pytest.raises(DataError, match="need the quantiser"):
        bare.with_items(pd.DataFrame({"item_id": ["x"]}), vectors[[0]])


def test_contexts_that_are_there_are_not_built_again(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(recommender.setting), "contexts", None)
    parts = recommender.setting, recommender.ids, recommender.popularity, recommender.model
    same = Recommender(*parts, recommender.device, recommender.contexts)
    assert same.contexts is recommender.contexts
    assert same.recommend(["u00"], k=3)["item"].tolist()
