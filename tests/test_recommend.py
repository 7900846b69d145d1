"""From a finished run to lists: whose, how long, how scored, and what they never depend on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_home

from onerec.common import evaluating
from onerec.data.split import Cases
from onerec.errors import DataError, RunError
from onerec.recommend import Recommender
from onerec.runs import open_run


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

    filtering = replace(setting.recipe, evaluate=replace(setting.recipe.evaluate, filter_seen=True))
    same = Recommender.__new__(Recommender)
    vars(same).update(vars(recommender))
    same.setting = replace(setting, recipe=filtering)
    assert repeats(recommender) > 0
    assert repeats(same) == 0


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
