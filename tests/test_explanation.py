"""The tables of one item: the library's numbers with names, for both kinds of model."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_home

from onerec.errors import DataError
from onerec.explanation import METHODS, explain, tree
from onerec.pipeline import run_stage
from onerec.recommend import Recommender


@pytest.fixture(scope="module")
def recommender(trained: Path) -> Recommender:
    return Recommender.load("first", trained, device="cpu")


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """A lazy decoder without experts that reads lifelong histories, hardly trained."""
    home = tmp_path_factory.mktemp("lazy")
    toy_home.make_dataset(home, shortest=24)
    changes = {"model.kind": "lazy", "model.experts": "0", "train.steps": "2"}
    recipe = toy_home.make_recipe({**toy_home.LIFELONG, **changes})
    run_stage("pretrain", "lazy", recipe=recipe, dataset="toy", home=home)
    return Recommender.load("lazy", home, device="cpu")


def test_the_score_is_that_of_the_list(recommender: Recommender) -> None:
    history = recommender.prompts.history("u08")
    for row in recommender.recommend_for(history, k=3).to_dict("records"):
        found = explain(recommender, history, row["item"])
        assert found.log_prob == pytest.approx(row["score"], abs=1e-4)
        chosen = found.codes[found.codes["chosen"]]
        assert np.log(chosen["probability"]).to_numpy() == pytest.approx(
            [row["lp_1"], row["lp_2"]], abs=1e-4
        )
        assert chosen["legal"].all()
        assert chosen["code"].tolist() == recommender.ids.codes[row["item"]].tolist()


def test_leave_one_out_equals_asking_without_the_event(recommender: Recommender) -> None:
    """A short history, whose windows are not full: taking an event out is masking it."""
    history = recommender.prompts.typed(["i03", "i04", "i12", "i05"])
    item = int(recommender.recommend_for(history, k=1)["item"][0])
    found = explain(recommender, history, item)
    assert found.events["item_id"].tolist() == ["i03", "i04", "i12", "i05"]
    assert found.events["read"].all()
    for event in range(3):  # without the newest, the gaps of all others would be others
        rest = history.take([place for place in range(4) if place != event])
        without = recommender.recommend_for(rest, k=30, beam=30)
        score = dict(zip(without["item"], without["score"], strict=True))[item]
        effect = found.log_prob - score
        assert found.events["leave_one_out"][event] == pytest.approx(effect, abs=1e-4)


def test_events_that_are_too_old_are_named_and_have_no_influence(recommender: Recommender) -> None:
    history = recommender.prompts.typed(["i03", "i04"] * 7)
    found = explain(recommender, history, 0).events
    assert found["read"].tolist() == [False] * 6 + [True] * 8
    assert (found.loc[~found["read"], list(METHODS)] == 0).all().all()
    assert (found.loc[found["read"], list(METHODS)] != 0).any(axis=1).all()


def test_attention_adds_up_and_curves_begin_alike(recommender: Recommender) -> None:
    found = explain(recommender, recommender.prompts.history("u08"), 3)
    total = found.events["attention"].sum() + sum(found.elsewhere.values())
    assert total == pytest.approx(1.0, abs=1e-5)
    starts = found.curves[found.curves["deleted"] == 0]["log_prob"]
    assert starts.to_numpy() == pytest.approx(found.log_prob, abs=1e-4)
    assert set(found.curves["method"]) == {*METHODS, "random", "recent"}


def test_experts_are_those_of_the_items_tokens(recommender: Recommender, lazy: Recommender) -> None:
    found = explain(recommender, recommender.prompts.history("u08"), 3).experts
    assert found["level"].tolist() == [level for _ in range(len(found) // 2) for level in (1, 2)]
    assert found["weight"].between(0, 1, inclusive="neither").all()  # the affinity of the one
    dense = explain(lazy, lazy.prompts.history("u08"), 3)
    assert dense.experts.empty


def test_a_lazy_decoder_with_lifelong_clusters(lazy: Recommender) -> None:
    history = lazy.prompts.history("u08")
    found = explain(lazy, history, 3)
    assert len(found.events) == len(history)
    assert found.elsewhere["lifelong"] > 0
    total = found.events["attention"].sum() + sum(found.elsewhere.values())
    assert total == pytest.approx(1.0, abs=1e-5)


def test_the_tree_ends_in_the_list(recommender: Recommender) -> None:
    history = recommender.prompts.history("u08")
    frame = tree(recommender, history, k=6, beam=3)
    kept = frame[(frame["state"] == "kept") & (frame["level"] == 2)]
    assert not kept["seen"].any()
    listed = recommender.recommend_for(history, k=6, beam=6)
    leaves = kept["item"].tolist()
    assert set(leaves[:2]) <= set(listed["item"])
    assert (frame["place"] > 0).sum() == len(kept)
    ids = recommender.items["item_id"].tolist()
    assert kept["item_id"].tolist() == [ids[item] for item in leaves]
    assert np.allclose(np.log(frame["probability"]), frame["log_prob"])
    lost = frame["lost"].sum() + kept["probability"].sum()
    assert lost == pytest.approx(1.0, abs=1e-4)


def test_leaves_behind_the_list_name_the_items_of_a_longer_one(recommender: Recommender) -> None:
    history = recommender.prompts.history("u08")
    frame = tree(recommender, history, k=6, beam=30)
    below = frame[(frame["state"] == "pruned") & (frame["level"] == 2)]
    longer = recommender.recommend_for(history, k=30, beam=30)["item"].tolist()
    places = [longer.index(item) for item in below["item"]]
    assert len(places) == 3
    assert places == sorted(places)
    assert places[0] >= frame["items"].sum(), "the last leaf of the list may hold more"


@pytest.fixture
def filtering(recommender: Recommender) -> Recommender:
    """The same model for lists without what the user has seen."""
    setting = recommender.setting
    recipe = replace(setting.recipe, evaluate=replace(setting.recipe.evaluate, filter_seen=True))
    other = copy.copy(recommender)
    other.setting = replace(setting, recipe=recipe)
    return other


def test_the_tree_leaves_out_what_the_list_leaves_out(filtering: Recommender) -> None:
    """It counted seen items among the first, so its places were not those of the list."""
    history = filtering.prompts.history("u08")
    frame = tree(filtering, history, k=6, beam=30)
    listed = filtering.recommend_for(history, k=6, beam=30)["item"].tolist()
    leaves = frame[(frame["state"] == "kept") & (frame["level"] == 2)]
    there = leaves[leaves["place"] > 0]
    assert there["items"].sum() == len(listed)
    for row in there.to_dict("records"):
        assert row["item"] == listed[row["place"] - 1]
    left_out = leaves[leaves["seen"]]
    assert len(left_out), "this user has seen what the model finds likely"
    assert set(left_out["item"]) <= set(history.item)
    assert left_out["log_prob"].min() > there["log_prob"].min()
    assert len(there) + len(left_out) == len(leaves)
    lost = frame["lost"].sum() + leaves["probability"].sum()
    assert lost == pytest.approx(1.0, abs=1e-4)
    pruned = frame[(frame["state"] == "pruned") & (frame["level"] == 2)]
    assert pruned["rank"].tolist() == list(range(1, len(pruned) + 1))
    assert len(pruned) <= 3


def test_the_place_in_the_beam_is_that_of_the_tree(recommender: Recommender) -> None:
    history = recommender.prompts.history("u08")
    frame = tree(recommender, history, k=9, beam=3)  # of several items a leaf
    kept = frame[frame["state"] == "kept"]
    item = int(kept[kept["level"] == 2]["item"].iloc[1])
    chosen = explain(recommender, history, item, beam=3).codes
    chosen = chosen[chosen["chosen"]]
    for level, place in zip(chosen["level"], chosen["beam"], strict=True):
        prefix = tuple(recommender.ids.codes[item][:level])
        row = kept[(kept["level"] == level) & (kept["codes"] == prefix)]
        assert row["rank"].tolist() == [place]


def test_an_item_of_nobody_is_refused(recommender: Recommender) -> None:
    history = recommender.prompts.history("u08")
    for item in (30, -1, "633", 1.5, None, True):
        words = f"^item {item!r}: give its index, a whole number from 0 to 29$"
        with pytest.raises(DataError, match=words):
            explain(recommender, history, item)  # type: ignore[arg-type]


def test_numbers_below_1_are_refused(recommender: Recommender) -> None:
    history = recommender.prompts.history("u08")
    with pytest.raises(DataError, match="beam=0: must be at least 1"):
        explain(recommender, history, 3, beam=0)
    with pytest.raises(DataError, match="few=0: must be at least 1"):
        tree(recommender, history, k=2, beam=2, few=0)


def test_an_item_that_was_added_can_be_explained(recommender: Recommender) -> None:
    vectors = recommender.run.vectors()
    richer = recommender.with_items(pd.DataFrame({"item_id": ["new"]}), vectors[[4]])
    history = richer.prompts.typed(["i03"])
    old, new = explain(richer, history, 4), explain(richer, history, toy_home.ITEMS)
    assert new.log_prob == pytest.approx(old.log_prob)
    assert new.codes["code"].tolist() == old.codes["code"].tolist()


def test_ranks_are_among_all_codes_and_so_many_others_are_shown(recommender: Recommender) -> None:
    history, size = recommender.prompts.history("u08"), max(recommender.ids.sizes)
    for row in recommender.recommend_for(history, k=8, beam=30).to_dict("records"):
        item = row["item"]
        whole = explain(recommender, history, item, few=size).codes
        for level, codes in whole.groupby("level"):
            assert len(codes) == recommender.ids.sizes[level - 1]
            assert codes["probability"].sum() == pytest.approx(1.0, abs=1e-5)
            ordered = codes.sort_values("probability", ascending=False, kind="stable")
            assert ordered["rank"].tolist() == list(range(1, len(codes) + 1))
        few = explain(recommender, history, item, few=2).codes
        others = few[~few["chosen"]]
        assert others["rank"].max() <= 2
        assert (others.groupby("level").size() <= 2).all()


def test_the_beam_in_which_an_item_is_looked_up_is_the_one_asked_for(
    recommender: Recommender,
) -> None:
    history = recommender.prompts.history("u08")
    listed = recommender.recommend_for(history, k=30, beam=30)
    codes = recommender.ids.codes[listed["item"]]
    best, last = int(listed["item"].iloc[0]), int(listed["item"].iloc[-1])
    assert codes[0].tolist() != codes[-1].tolist()

    def places(item: int, beam: int) -> list[int]:
        table = explain(recommender, history, item, beam=beam).codes
        return table.loc[table["chosen"], "beam"].tolist()

    assert places(last, 1)[-1] == 0  # of one prefix a level it is none
    assert min(places(best, 30)) >= 1
    assert places(last, 30)[-1] == len({tuple(code) for code in codes.tolist()})  # the last leaf


@pytest.mark.parametrize("k", range(1, 10))
def test_leaves_hold_as_many_items_as_the_list_has(recommender: Recommender, k: int) -> None:
    """A list may end in the middle of a leaf: the rest of it is not listed."""
    frame = tree(recommender, recommender.prompts.history("u08"), k=k, beam=30)
    assert frame["items"].sum() == k
    there = frame[frame["place"] > 0]
    assert there["place"].tolist() == (1 + there["items"].cumsum() - there["items"]).tolist()


def test_clusters_are_no_events(lazy: Recommender) -> None:
    """Events that are in neither window stand in clusters alone: they are not read themselves."""
    history = lazy.prompts.history("u08")
    found = explain(lazy, history, 3, most=1_000)
    windows = np.concatenate([places.numpy() for places in lazy.prompts.places(history)])
    read = np.isin(np.arange(len(history)), windows)
    assert not read.all()
    assert found.events["read"].tolist() == read.tolist()
    assert (found.events.loc[~read, list(METHODS)] == 0).all().all()
    lifelong = lazy.prompts.batch([history]).lifelong
    assert lifelong is not None
    clusters = int((lifelong.item > 0).sum())
    assert found.curves["deleted"].max() == read.sum() + clusters


def test_layers_of_experts_are_numbered_as_in_the_whole_model(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """With experts in every second block of both, the decoder's come after the encoder's."""
    home = tmp_path_factory.mktemp("alternate")
    toy_home.make_dataset(home)
    changes = {"model.expert_blocks": "alternate", "train.steps": "1"}
    changes |= {"model.encoder_layers": "2", "model.decoder_layers": "2"}
    recipe = toy_home.make_recipe(changes)
    run_stage("pretrain", "alternate", recipe=recipe, dataset="toy", home=home)
    one = Recommender.load("alternate", home, device="cpu")
    inside = set(one.model.decoder.modules())
    expected = [y for y, mixture in enumerate(one.model.mixtures()) if mixture in inside]
    assert expected[0] > 0
    found = explain(one, one.prompts.history("u08"), 3).experts
    assert sorted(set(found["layer"])) == expected
