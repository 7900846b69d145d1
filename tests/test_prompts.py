"""Histories as the model reads them: a user's own, typed, edited; where events stand."""

from pathlib import Path

import numpy as np
import pytest
import torch
import toy_home

from onerec.errors import DataError
from onerec.pipeline import run_stage
from onerec.prompts import Prompts
from onerec.recommend import Recommender


@pytest.fixture(scope="module")
def recommender(trained: Path) -> Recommender:
    return Recommender.load("first", trained, device="cpu")


def test_the_batch_of_a_users_history_is_that_of_the_log(recommender: Recommender) -> None:
    prompts, log = recommender.prompts, recommender.setting.split.log
    histories = [prompts.history(user) for user in ("u08", "u01")]
    batch = prompts.batch(histories)
    index = recommender.setting.dataset.user_index(["u08", "u01"])
    end = torch.from_numpy(log.offsets[index + 1])
    expected = recommender.contexts.batch(torch.from_numpy(index), end)
    for side in ("short", "positive"):
        for name, column in vars(getattr(expected, side)).items():
            assert torch.equal(getattr(getattr(batch, side), name), column)
    assert torch.equal(batch.static, expected.static)


def test_a_lifelong_history_is_clustered_as_that_of_the_log(tmp_path: Path) -> None:
    toy_home.make_dataset(tmp_path, shortest=24)
    recipe = toy_home.make_recipe({**toy_home.LIFELONG, "train.steps": "2"})
    run_stage("pretrain", "long", recipe=recipe, dataset="toy", home=tmp_path)
    recommender = Recommender.load("long", tmp_path, device="cpu")
    prompts, log = recommender.prompts, recommender.setting.split.log
    index = recommender.setting.dataset.user_index(["u08", "u01"])
    end = torch.from_numpy(log.offsets[index + 1])
    expected = recommender.contexts.batch(torch.from_numpy(index), end)
    batch = prompts.batch([prompts.history(user) for user in ("u08", "u01")])
    assert (expected.lifelong.item > 0).any()
    for name, column in vars(expected.lifelong).items():
        assert torch.equal(getattr(batch.lifelong, name), column), name
    assert prompts.unread(prompts.history("u08")) == []
    without = Prompts(recommender.setting, torch.device("cpu"))
    with pytest.raises(DataError, match="need the tokenizer's vectors"):
        without.batch([prompts.history("u08")])


def test_places_point_at_the_events_of_the_batch(recommender: Recommender) -> None:
    prompts = recommender.prompts
    history = prompts.history("u08")
    batch = prompts.batch([history])
    short, positive = prompts.places(history)
    item = torch.from_numpy(history.item)
    assert torch.equal(batch.short.item[0], torch.where(short >= 0, item[short] + 1, 0))
    assert torch.equal(batch.positive.item[0], torch.where(positive >= 0, item[positive] + 1, 0))


def test_unread_events_are_counted(recommender: Recommender) -> None:
    prompts = recommender.prompts
    assert prompts.unread(prompts.typed(["i03"] * 8)) == []
    (line,) = prompts.unread(prompts.typed(["i03"] * 1_010))
    assert line.startswith("1,002 of 1,010 events are older")


def test_an_edited_history(recommender: Recommender) -> None:
    prompts = recommender.prompts
    whole = prompts.history("u08")
    edited = whole.take([2, 0, 1]).plus(prompts.known_items(["i29"]), prompts.typical)
    expected = [*whole.item[[2, 0, 1]], recommender.setting.dataset.item_index(["i29"])[0]]
    assert edited.item.tolist() == expected
    assert (np.diff(edited.time) >= 0).all()
    assert len(recommender.recommend_for(edited, k=3)) == 3


def test_features_that_are_given_stand_above_those_of_the_user(recommender: Recommender) -> None:
    """Once they were dropped without a word where a user was named too."""
    users = recommender.setting.dataset.users
    other = next(city for city in users["city"] if city != users["city"].iloc[0])
    own, asked = users["user_id"].iloc[0], recommender.prompts.typed
    expected = asked([], features={"city": other}).static
    assert (asked([], user=own).static != expected).any()
    assert (asked([], user=own, features={"city": other}).static == expected).all()
