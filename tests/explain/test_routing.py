"""Lift, tokens, flow and absence by hand; runs without a recording; damaged files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from onerec.errors import RunError
from onerec.explain import network, routing
from onerec.runs import Run

NAMES = ["layer", "context", "user", "target", "level", "rank", "item", "expert", "weight"]
STEP = 60


@pytest.fixture
def written(run: Run, tmp_path: Path) -> Callable[[list[tuple[float, ...]]], Run]:
    """A copy of the fake run whose recording of step 60 is given row by row."""

    def write(rows: list[tuple[float, ...]]) -> Run:
        home = tmp_path / "home"
        shutil.copytree(run.home / "datasets", home / "datasets")
        copy = Run(Path(shutil.copytree(run.path, home / "runs" / run.name)))
        path = copy.path / "routing" / f"tokens-{STEP:06d}.parquet"
        frame = pd.DataFrame(rows, columns=NAMES)
        frame = frame.astype(dict.fromkeys(NAMES[:-1], "int64"))
        with duckdb.connect() as connection:
            connection.register("frame", frame)
            connection.execute(f"COPY frame TO '{path}' (FORMAT parquet)")
        return copy

    return write


# item % 4: 0 cooking, 1 football. One token per row, one expert each; context and target differ.
SEEN = [
    *((0, n, n, 0, 1, 0, 0, 0, 1.0) for n in range(6)),  # 6 cooking tokens to expert 0
    *((0, n, n, 0, 1, 0, 1, 0, 1.0) for n in range(6, 8)),  # 2 football to expert 0
    *((0, n, n, 0, 2, 0, 4, 1, 1.0) for n in range(8, 10)),  # 2 cooking to expert 1
    *((0, n, n, 0, 2, 0, 5, 1, 1.0) for n in range(10, 12)),  # 2 football to expert 1
]


def test_lift_by_category_by_hand(written: Callable[..., Run]) -> None:
    frame = routing.lift(written(SEEN), STEP, 0, "category")
    assert frame["group"].tolist() == ["cooking", "cooking", "football", "football"]
    assert frame["expert"].tolist() == [0, 1, 0, 1]
    assert frame["tokens"].tolist() == [6, 2, 2, 2]
    assert frame["base"].tolist() == pytest.approx([8 / 12, 8 / 12, 4 / 12, 4 / 12])
    assert frame["share"].tolist() == pytest.approx([6 / 8, 2 / 4, 2 / 8, 2 / 4])
    assert frame["lift"].tolist() == pytest.approx([9 / 8, 3 / 4, 3 / 4, 3 / 2])
    assert frame["expected"].tolist() == pytest.approx([8 * 8 / 12, 4 * 8 / 12, 8 / 3, 4 / 3])
    assert frame["few"].all()


def test_lift_by_level_and_by_tags_by_hand(written: Callable[..., Run]) -> None:
    run = written(SEEN)
    frame = routing.lift(run, STEP, 0, "level")
    assert frame["group"].tolist() == ["level 1", "level 1", "level 2", "level 2"]
    assert frame["lift"].tolist() == pytest.approx([1.5, 0, 0, 3])
    tags = routing.lift(run, STEP, 0, "tags").set_index(["group", "expert"])
    # Items 0, 1, 4, 5 have the tags topic and tag{item % 6}: a token counts in both of its tags.
    assert tags.loc[("tag4", 1), "tokens"] == 2
    assert tags.loc[("tag4", 1), "lift"] == pytest.approx((2 / 4) / (2 / 12))
    assert tags.loc[("cooking", 0), "lift"] == pytest.approx(9 / 8)


def test_items_without_tags_are_left_out_and_a_tag_twice_is_one(
    written: Callable[..., Run],
) -> None:
    run = written(SEEN)
    assert run.dataset_folder is not None
    items = run.dataset_folder / "items.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE items AS SELECT * REPLACE ("
            "CASE item WHEN 4 THEN NULL ELSE category END AS category, "
            "CASE item WHEN 4 THEN [] WHEN 5 THEN ['goal', 'goal'] ELSE tags END AS tags) "
            f"FROM '{items}'"
        )
        connection.execute(f"COPY items TO '{items}' (FORMAT parquet)")
    frame = routing.lift(run, STEP, 0, "category").set_index(["group", "expert"])
    assert frame["tokens"].to_dict() == {
        ("cooking", 0): 6,
        ("cooking", 1): 0,
        ("football", 0): 2,
        ("football", 1): 2,
    }
    assert frame["base"].tolist() == pytest.approx([0.6, 0.6, 0.4, 0.4])
    tags = routing.lift(run, STEP, 0, "tags").set_index(["group", "expert"])
    assert tags.loc[("goal", 1), ["tokens", "share", "base"]].tolist() == [2, 1.0, 0.2]


def test_a_cell_with_enough_tokens_is_not_marked(written: Callable[..., Run]) -> None:
    rows = [(0, n, n, 0, 1, 0, n % 2, 0, 1.0) for n in range(2 * routing.FEW)]
    frame = routing.lift(written(rows), STEP, 0, "category")
    assert frame["expected"].tolist() == [routing.FEW, routing.FEW]
    assert not frame["few"].any()


def test_at_most_the_largest_groups(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "GROUPS", 2)
    frame = routing.lift(run, STEP, 0, "author_id")
    assert frame["group"].nunique() == 2
    everything = routing.lift(run, STEP, 0, "level")["base"].max()
    assert frame["base"].max() < everything


def test_the_fake_run_has_one_expert_for_each_topic(run: Run) -> None:
    frame = routing.lift(run, STEP, 0, "category")
    seen = frame[frame["tokens"] > 0].groupby("group")["expert"].apply(set).to_dict()
    assert seen == {"cooking": {0, 1}, "football": {1, 2}, "travel": {2, 3}, "music": {3, 0}}
    assert routing.kinds(run) == ["category", "tags", "author_id", "level"]
    assert routing.recorded(run) == [20, 40, 60]
    assert routing.chosen_step(run) == 60
    assert routing.experts(run) == (4, 2)


def test_the_step_is_that_of_the_weights_else_the_last(written: Callable[..., Run]) -> None:
    run = written(SEEN)
    for step, chosen in ((40, 40), (30, 60)):
        (run.path / "pretrain" / "done.json").write_text(json.dumps({"step": step}))
        assert routing.chosen_step(run) == chosen


def test_what_was_recorded_is_counted(run: Run) -> None:
    users = routing.users(run, STEP)
    counts = routing.sample(run, STEP)
    odd = sum(user % 2 for user in users)
    assert counts["users"] == len(users) == len(set(users))
    assert counts["targets"] == 2 * len(users) - odd
    assert (counts["tokens"], counts["levels"]) == (3 * counts["targets"], 3)
    assert counts["layers"] == [0, 1]
    assert [user % 2 for user in users] == sorted(user % 2 for user in users), "two targets first"


def test_one_users_tokens_have_codes_titles_and_weights(run: Run) -> None:
    user = routing.users(run, STEP)[0]
    frame = routing.tokens(run, STEP, user)
    assert len(frame) == 2 * 2 * 3 * 2  # targets, layers, levels, choices
    keys = frame[["target", "level", "layer", "rank"]]
    assert keys.to_numpy().tolist() == sorted(keys.to_numpy().tolist())
    codes = run.semantic_ids().set_index("item")
    for row in frame.to_dict("records"):
        assert row["code"] == codes.loc[row["item"], f"code_{row['level']}"]
        assert row["title"].endswith(f"clip {row['item']}")
    assert frame.groupby(["target", "level", "layer"])["weight"].sum().to_numpy() == pytest.approx(
        1
    )
    first = frame[(frame["layer"] == 0) & (frame["rank"] == 0)]
    assert (first["expert"] == first["item"] % 4).all()
    with pytest.raises(RunError, match="user 999: not in the sample of step 60"):
        routing.tokens(run, STEP, 999)


def test_flow_between_two_layers_by_hand(written: Callable[..., Run]) -> None:
    """Four tokens of one expert each: 0 -> 1, 0 -> 1, 1 -> 0, 0 -> 0."""
    rows = []
    for n, (first, second) in enumerate([(0, 1), (0, 1), (1, 0), (0, 0)]):
        rows += [(0, n, n, 0, 1, 0, 0, first, 1.0), (3, n, n, 0, 1, 0, 0, second, 1.0)]
    frame = routing.flow(written(rows), STEP)
    assert frame.to_numpy().tolist() == [
        [0, 0, 3, 0, 1, 1.5, pytest.approx(2 / 3)],  # 3 leave expert 0, 2 of 4 enter expert 0
        [0, 0, 3, 1, 2, 1.5, pytest.approx(4 / 3)],
        [0, 1, 3, 0, 1, 0.5, 2.0],
    ]


def test_a_token_with_two_experts_a_layer_is_four_flows(run: Run) -> None:
    frame = routing.flow(run, STEP)
    assert frame["tokens"].sum() == 4 * routing.sample(run, STEP)["tokens"]
    assert set(frame["source_layer"]) == {0}
    assert set(frame["layer"]) == {1}


def test_with_one_layer_the_flow_comes_from_the_level(written: Callable[..., Run]) -> None:
    frame = routing.flow(written(SEEN), STEP)
    assert frame[["source_layer", "source", "layer", "expert", "tokens"]].to_numpy().tolist() == [
        [-1, 1, 0, 0, 8],
        [-1, 2, 0, 1, 4],
    ]
    assert frame["lift"].tolist() == pytest.approx([1.5, 3])


def test_without_reads_numbers_changes_and_intervals(run: Run) -> None:
    frame = routing.without(run)
    assert len(frame) == 8
    row = frame[(frame["layer"] == 1) & (frame["expert"] == 0)].iloc[0]
    assert row["recall_change"] == pytest.approx(-0.04)
    assert (row["recall_low"], row["recall_high"]) == pytest.approx((-0.055, -0.025))
    assert row["loss"] == pytest.approx(4.07)
    facts = routing.without_facts(run)
    assert (facts["recall"], facts["loss"], facts["step"]) == (0.5, 4.0, 60)


def test_a_run_from_before_has_none_of_it(tmp_path: Path) -> None:
    old = Run(tmp_path)
    assert routing.recorded(old) == []
    assert routing.chosen_step(old) is None
    assert routing.without(old).empty
    assert routing.without_facts(old) == {}
    assert routing.experts(old) == (0, 0)
    dense = {"recipe": {"model": {"experts": 0, "active_experts": 2}}}
    (tmp_path / "recipe.json").write_text(json.dumps(dense))
    assert routing.experts(old) == (0, 0)


def test_files_that_are_not_whole_are_named(written: Callable[..., Run]) -> None:
    run = written(SEEN)
    path = run.path / "routing" / "tokens-000060.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"tokens-000060.parquet: not a whole .*; delete the file"):
        routing.sample(run, STEP)
    shutil.copy(run.path / "routing" / "load.parquet", path)
    with pytest.raises(RunError, match="no column context"):
        routing.users(run, STEP)
    known = run.path / "routing" / "without.json"
    known.write_text(json.dumps({"step": 1, "experts": [{"layer": 0}]}))
    for read in (routing.without, routing.without_facts):
        with pytest.raises(RunError, match=r"without.json: not a whole recording"):
            read(run)
    load = run.path / "routing" / "load.parquet"
    load.write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"load.parquet: not a whole recording"):
        network.expert_load(run)


def test_a_column_that_the_items_lack_is_refused(run: Run) -> None:
    with pytest.raises(RunError, match="lift by 'colour': this run has category"):
        routing.lift(run, STEP, 0, "colour")


def test_a_trained_run_can_be_read(trained: Path) -> None:
    """What the pipeline writes is what these functions read."""
    run = Run(trained / "runs" / "first")
    step = routing.chosen_step(run)
    assert step == 30
    assert routing.sample(run, step)["levels"] == 2
    assert routing.kinds(run) == ["tags", "author_id", "level"]
    authors = routing.lift(run, step, 0, "author_id")
    assert authors["tokens"].sum() == 2 * routing.sample(run, step)["targets"]  # two levels
    user = routing.users(run, step)[0]
    assert len(routing.tokens(run, step, user)) == 2
    assert routing.flow(run, step)["tokens"].sum() == routing.sample(run, step)["tokens"]
    assert len(routing.without(run)) == 2
