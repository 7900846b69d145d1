"""The tokenizer's picture in numbers, against slow counting over the semantic ids."""

from collections import Counter
from pathlib import Path

import fake_run
import numpy as np
import pandas as pd
import pytest

from onerec.errors import RunError
from onerec.explain import tokens
from onerec.runs import Run

CODES = ["code_1", "code_2", "code_3"]


def test_levels_repeat_the_report_and_derive_the_rest(run: Run) -> None:
    frame, report = tokens.levels(run), run.report()
    assert report is not None
    assert frame["level"].tolist() == [1, 2, 3]
    assert frame["entropy_nats"].tolist() == [one["entropy_nats"] for one in report["levels"]]
    assert frame["entropy_share"][0] == pytest.approx(frame["entropy_nats"][0] / np.log(4))
    assert (frame["dead_codes"] == frame["size"] - frame["used"]).all()


def test_rank_frequency_counts_each_level(run: Run) -> None:
    ids, frame = run.semantic_ids(), tokens.rank_frequency(run)
    for level, name in enumerate(CODES, 1):
        part = frame[frame["level"] == level]
        slow = Counter(ids[name])
        assert dict(zip(part["code"], part["items"], strict=True)) == dict(slow)
        assert part["items"].is_monotonic_decreasing
        assert part["rank"].tolist() == list(range(1, len(slow) + 1))
        assert part["share"].sum() == pytest.approx(1)


def test_leaves_hold_every_item_once(run: Run) -> None:
    slow = Counter(map(tuple, run.semantic_ids()[CODES].to_numpy().tolist()))
    frame = tokens.leaf_sizes(run)
    assert dict(zip(frame["leaf_size"], frame["leaves"], strict=True)) == Counter(slow.values())
    assert frame["items"].sum() == fake_run.ITEMS
    shared = tokens.shared_leaves(run)
    assert len(shared) == sum(count > 1 for count in slow.values())
    assert (
        shared["leaf_size"].iloc[0] == max(slow.values()) == tokens.collisions(run)["largest_leaf"]
    )
    codes = tuple(int(code) for code in shared["codes"].iloc[0].split(" · "))
    assert slow[codes] == shared["leaf_size"].iloc[0]
    assert shared["item_ids"].iloc[0].count("v1") == shared["leaf_size"].iloc[0]


@pytest.mark.parametrize("weight", ["items", "popularity"])
@pytest.mark.parametrize("top", [1, 2, 8])
def test_each_branch_weighs_what_its_children_weigh(run: Run, weight: str, top: int) -> None:
    frame = tokens.code_tree(run, top=top, items=2, weight=weight)  # type: ignore[arg-type]
    assert frame["id"].is_unique
    root = frame.iloc[0]
    ids = run.semantic_ids()
    assert root["weight"] == (fake_run.ITEMS if weight == "items" else ids["popularity"].sum())
    children = frame[frame["parent"] != ""].groupby("parent")[["items", "weight"]].sum()
    inner = frame.set_index("id").loc[children.index, ["items", "weight"]]
    assert (children == inner).all(axis=None)
    below = frame[frame["parent"] != ""].groupby("parent").agg(n=("id", "size"), o=("other", "sum"))
    assert (below["n"] - below["o"] <= max(top, 2)).all()


def test_a_chosen_item_is_never_joined_and_the_way_to_it_is_told(run: Run) -> None:
    frame = tokens.code_tree(run, top=1, items=1)
    item = next(i for i in range(fake_run.ITEMS) if i not in set(frame["item"]))
    codes = tokens.codes_of(run, item)
    tree = tokens.code_tree(run, top=1, items=1, chosen=item)
    way = tree.loc[tree["chosen"], "id"].tolist()
    path = "all/" + "/".join(map(str, codes))
    assert way[0] == f"all/{codes[0]}"
    assert way[-1] == f"{path}/item {item}"
    assert len(way) == len(codes) + 1
    assert tree["weight"].iloc[0] == frame["weight"].iloc[0]
    assert not frame["chosen"].any()
    below = tokens.code_tree(run, prefix=codes[:1], chosen=item)
    assert below.loc[below["chosen"], "id"].tolist()[0] == f"all/{codes[0]}/{codes[1]}"
    elsewhere = next(code for code in range(9) if code != codes[0])
    assert not tokens.code_tree(run, prefix=(elsewhere,), chosen=item)["chosen"].any()


def test_a_tree_below_a_prefix_holds_only_its_items(run: Run) -> None:
    frame = tokens.code_tree(run, prefix=(1,), items=100)
    found = set(frame.loc[frame["item"] >= 0, "item"])
    ids = run.semantic_ids()
    assert found == set(ids.loc[ids["code_1"] == 1, "item"])
    assert frame["codes"].iloc[0] == "1"
    assert frame["level"].max() == 4
    with pytest.raises(RunError, match="4 levels"):
        tokens.code_tree(run, prefix=(1, 1, 1, 1))


def test_the_map_is_a_principal_component_analysis(run: Run) -> None:
    points, shares = tokens.projection(run)
    vectors = run.vectors()
    assert vectors is not None
    centred = vectors - vectors.mean(0)
    _, singular, basis = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(points[["x", "y"]]).to_numpy() == pytest.approx(
        np.abs(centred @ basis[:2].T), abs=1e-4
    )
    assert shares == pytest.approx(singular[:2] ** 2 / (singular**2).sum(), abs=1e-6)
    assert points["title"][5] == "football clip 5"


def test_the_map_is_sampled_by_the_seed(run: Run) -> None:
    first, again = tokens.projection(run, limit=10)[0], tokens.projection(run, limit=10)[0]
    other = tokens.projection(run, limit=10, seed=1)[0]
    assert first["item"].tolist() == again["item"].tolist() == sorted(first["item"])
    assert len(first) == 10
    assert first["item"].tolist() != other["item"].tolist()


def test_principal_components_of_a_line_and_of_one_dimension() -> None:
    line = np.array([[0, 0, 0], [1, 1, 0], [2, 2, 0]], dtype=np.float32)
    xy, shares = tokens.principal_components(line)
    assert xy[:, 0] == pytest.approx([-np.sqrt(2), 0, np.sqrt(2)])
    assert shares == pytest.approx((1, 0))
    flat, shares = tokens.principal_components(np.array([[1.0], [3.0]]))
    assert flat.tolist() == [[-1, 0], [1, 0]]
    assert shares == (1, 0)


def test_neighbours_by_hand(run: Run) -> None:
    frame, vectors, ids = tokens.neighbours(run, 5, k=47), run.vectors(), run.semantic_ids()
    assert vectors is not None
    slow = sorted((np.linalg.norm(vectors[i] - vectors[5]), i) for i in range(48) if i != 5)
    assert frame["item"].tolist() == [i for _, i in slow]
    assert frame["distance"].to_numpy() == pytest.approx([d for d, _ in slow])
    own, first = tokens.codes_of(run, 5), frame.iloc[0]
    codes = tuple(ids[CODES].to_numpy()[first["item"]])
    expected = next((n for n, (a, b) in enumerate(zip(own, codes, strict=True)) if a != b), 3)
    assert first["shared_prefix"] == expected
    assert len(tokens.neighbours(run, 5, k=99)) == 47
    with pytest.raises(RunError, match="items 0 to 47"):
        tokens.neighbours(run, 48)


def test_shared_prefix_stops_at_the_first_difference() -> None:
    codes = np.array([[1, 2, 3], [1, 9, 3], [9, 2, 3], [1, 2, 9]])
    assert tokens.shared_prefix(codes, np.array([1, 2, 3])).tolist() == [3, 1, 0, 2]


def test_the_residual_walk_ends_at_the_reconstruction_error(run: Run) -> None:
    books, vectors = run.codebooks(), run.vectors()
    assert books is not None
    assert vectors is not None
    codes = tokens.codes_of(run, 7)
    rebuilt = sum(books[level][code] for level, code in enumerate(codes))
    walk = tokens.residual_walk(run, 7)
    assert walk["code"].tolist() == list(codes)
    assert walk["norm_before"][0] == pytest.approx(np.linalg.norm(vectors[7]))
    assert walk["norm_after"].iloc[-1] == pytest.approx(
        np.linalg.norm(vectors[7] - rebuilt), rel=1e-5
    )
    assert (walk["norm_after"][:-1].to_numpy() == walk["norm_before"][1:].to_numpy()).all()


def test_a_walk_through_codebooks_of_another_width_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = run.codebooks()
    assert books is not None
    monkeypatch.setattr(Run, "codebooks", lambda self: books[:, :, 1:])
    width = books.shape[2]
    with pytest.raises(RunError, match=f"width {width - 1} but vectors of width {width}; run `one"):
        tokens.residual_walk(run, 7)


def test_names_are_those_that_the_policy_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before, said = tokens.names(run), tokens.collisions(run)
    assert before["words"] == 3
    assert before["share_sharing"] == pytest.approx(said["share_sharing"])
    assert (before["largest"], before["policy"], before["touched"]) == (
        *(said["largest_leaf"], "share"),
        0.0,
    )
    ids = run.semantic_ids()
    extra = ids.groupby(["code_1", "code_2", "code_3"]).cumcount()
    monkeypatch.setattr(Run, "semantic_ids", lambda self: ids.assign(code_4=extra))
    after = tokens.names(run)
    assert (after["words"], after["share_sharing"], after["largest"]) == (4, 0.0, 1)


def test_items_of_a_code(run: Run) -> None:
    ids = run.semantic_ids()
    frame = tokens.items_of_code(run, (2, 0))
    assert set(frame["item"]) == set(ids.query("code_1 == 2 and code_2 == 0")["item"])
    assert frame["popularity"].is_monotonic_decreasing
    assert len(tokens.items_of_code(run, ())) == 48
    assert tokens.items_of_code(run, (77,)).empty


def test_before_the_tokenizer_everything_is_empty(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name in ("levels", "rank_frequency", "leaf_sizes", "shared_leaves", "code_tree"):
        assert getattr(tokens, name)(run).empty
    assert tokens.projection(run)[0].empty
    assert tokens.neighbours(run, 0).empty
    assert tokens.residual_walk(run, 0).empty
    assert tokens.items_of_code(run, (1,)).empty
    assert tokens.codes_of(run, 0) == ()
    assert tokens.collisions(run) == tokens.names(run) == {}


def test_dead_codes_are_listed_by_level(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokens.dead_codes(run).empty, "all are in use"
    ids = run.semantic_ids()
    kept = ids[~ids["code_2"].isin([1, 3])]
    monkeypatch.setattr(Run, "semantic_ids", lambda self: kept)
    frame = tokens.dead_codes(run)
    assert frame[frame["level"] == 2].to_numpy().tolist() == [[2, 2, 4, "1, 3"]]


@pytest.fixture
def seven(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Items 0, 1 on code 0 0, items 2, 3 on 0 1, items 4 to 6 on 1 0."""
    ids = pd.DataFrame({"item": np.arange(7), "item_id": [f"v{1000 + i}" for i in range(7)]})
    ids = ids.assign(code_1=[0, 0, 0, 0, 1, 1, 1], code_2=[0, 0, 1, 1, 0, 0, 0])
    ids = ids.assign(popularity=[1, 1, 2, 9, 1, 9, 4])
    monkeypatch.setattr(Run, "semantic_ids", lambda self: ids)
    return run


def test_of_codes_with_as_many_items_the_lower_comes_first(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = pd.DataFrame({"code_1": [3, 1, 2, 3, 1, 0]})
    monkeypatch.setattr(Run, "semantic_ids", lambda self: ids)
    frame = tokens.rank_frequency(run)
    assert frame["code"].tolist() == [1, 3, 0, 2]
    assert frame["share"].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6])


def test_of_leaves_as_full_the_more_popular_comes_first_and_so_do_its_items(seven: Run) -> None:
    frame = tokens.shared_leaves(seven)
    assert frame["codes"].tolist() == ["1 · 0", "0 · 1", "0 · 0"]
    assert frame["popularity"].tolist() == [14, 11, 2]
    assert frame["item_ids"].tolist() == ["v1005, v1006, v1004", "v1003, v1002", "v1000, v1001"]


def test_the_heaviest_branches_and_the_most_popular_items_stand_alone(seven: Run) -> None:
    for weight, labels in (
        ("items", ["0", "1 other code: 3 items"]),
        ("popularity", ["1", "1 other code: 4 items"]),
    ):
        tree = tokens.code_tree(seven, top=1, items=2, weight=weight)  # type: ignore[arg-type]
        assert tree.loc[tree["parent"] == "all", "label"].tolist() == labels
    below = tokens.code_tree(seven, prefix=(0,), top=1, weight="popularity")
    assert below.loc[below["parent"] == "all/0", "label"].tolist() == [
        "1",
        "1 other code: 2 items",
    ]
    leaf = tokens.code_tree(seven, prefix=(1, 0), items=2)
    assert leaf.loc[leaf["parent"] == "all/1/0", "item"].tolist() == [5, 6, -1]


def test_a_cosine_is_that_of_the_vectors(run: Run) -> None:
    vectors, frame = run.vectors(), tokens.neighbours(run, 5)
    assert vectors is not None
    for item, cosine in zip(frame["item"], frame["cosine"], strict=True):
        lengths = np.linalg.norm(vectors[5]) * np.linalg.norm(vectors[item])
        assert cosine == pytest.approx(float(vectors[5] @ vectors[item] / lengths), abs=1e-5)


def test_what_is_left_of_an_item_is_a_share_of_its_squared_norm(run: Run) -> None:
    walk = tokens.residual_walk(run, 7)
    share = (walk["norm_after"] / walk["norm_before"].iloc[0]) ** 2
    assert walk["share_left"].tolist() == pytest.approx(share.tolist())


def test_vectors_of_other_items_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = run.vectors()
    assert vectors is not None
    monkeypatch.setattr(Run, "vectors", lambda self: vectors[:47])
    for read in (tokens.projection, lambda run: tokens.neighbours(run, 5)):
        with pytest.raises(RunError, match="48 semantic ids but 47 vectors; run `onerec tokenize"):
            read(run)
