"""Words and limits of the pictures of vectors; what they show is tested in `test_tokens`."""

import numpy as np
import pytest

from onerec.explain import tokens
from onerec.runs import Run
from onerec.viz import code_space, theme
from onerec.viz.code_space import MAP_GROUPS, WEBGL_FROM, neighbours, shared_words, umap
from onerec.viz.theme import COLOURS, SYMBOLS


@pytest.mark.parametrize(
    ("codes", "words"),
    [(0, "no code shared"), (1, "1 code shared"), (2, "2 codes shared"), (3, "3 codes shared")],
)
def test_shared_codes_in_words(codes: int, words: str) -> None:
    assert shared_words(codes) == words


def test_no_group_of_the_map_shares_colour_and_symbol_with_another() -> None:
    assert len(set(zip(COLOURS, SYMBOLS, strict=True))) >= MAP_GROUPS + 1
    assert WEBGL_FROM < 20_000


def test_the_map_of_umap_says_what_it_keeps(run: Run) -> None:
    points, _ = tokens.projection(run)
    facts = {"neighbours": 15, "min_dist": 0.1, "seed": 0, "kept": 0.35, "kept_pca": 0.07}
    fig = umap(points, facts)
    assert "35% of an item's ten nearest" in theme.title(fig)
    assert "7% on the map of principal components" in theme.title(fig)
    assert sum(len(trace.x) for trace in fig.data) == len(points)
    assert "onerec map" in theme.how(umap(points.head(0), {}))
    with pytest.raises(ValueError, match="choose one of code_1"):
        umap(points, facts, colour="mood")  # type: ignore[arg-type]


def test_items_that_share_a_name_lie_above_those_that_do_not(run: Run) -> None:
    points, shares = tokens.projection(run)
    fig = code_space.projection(points, shares, "leaf_size")
    drawn = [int(row[0]) for row in fig.data[0].customdata]
    sizes = points.set_index("item")["leaf_size"].loc[drawn]
    assert sizes.is_monotonic_increasing
    assert sizes.nunique() > 1
    assert fig.data[0].marker.colorbar.title.text == "items per name"


def test_a_ring_is_drawn_around_the_chosen_item_alone(run: Run) -> None:
    points, shares = tokens.projection(run)
    bare = code_space.projection(points, shares)
    ringed = code_space.projection(points, shares, "popularity", chosen=7)
    assert not [trace for trace in bare.data if trace.name == "chosen"]
    (ring,) = (trace for trace in ringed.data if trace.name == "chosen")
    own = points[points["item"] == 7]
    assert (list(ring.x), list(ring.y)) == (own["x"].tolist(), own["y"].tolist())
    assert ring.hoverinfo == "skip", "a click finds the point below"
    gone = code_space.projection(points, shares, chosen=10**6)
    assert not [trace for trace in gone.data if trace.name == "chosen"]


def test_rings_are_drawn_around_the_items_of_a_code(run: Run) -> None:
    points, shares = tokens.projection(run)
    first = int(points["code_1"][0])
    second = int(points["code_2"][0])
    fig = code_space.projection(points, shares, code=(first, second))
    (rings,) = (trace for trace in fig.data if trace.name == f"code {first} · {second}")
    own = points[(points["code_1"] == first) & (points["code_2"] == second)]
    assert list(rings.x) == own["x"].tolist()
    assert 0 < len(own) < (points["code_1"] == first).sum()
    none = code_space.projection(points, shares, code=(10**6,))
    assert not [trace for trace in none.data if str(trace.name).startswith("code ")]


def test_one_neighbour_shares(run: Run) -> None:
    frame = tokens.neighbours(run, 3).head(1).assign(shared_prefix=1)
    said = theme.title(neighbours(frame, "a clip"))
    assert said == "1 of the 1 item nearest to “a clip” shares at least its first code"
    assert theme.alt_text(neighbours(frame)).endswith("1 code shared")


def test_neighbours_without_a_common_code_are_not_counted(run: Run) -> None:
    frame = tokens.neighbours(run, 3).head(3).assign(shared_prefix=[2, 0, 1])
    assert theme.title(neighbours(frame, "a clip")).startswith("2 of the 3 items nearest")


def test_a_count_is_coloured_by_its_logarithm_and_the_scale_says_so(run: Run) -> None:
    points, shares = tokens.projection(run)
    points["popularity"] = np.arange(len(points))
    marker = code_space.projection(points, shares, "popularity").data[0].marker
    assert list(marker.color) == pytest.approx(np.log10(np.arange(len(points)) + 1))
    assert list(marker.colorbar.ticktext) == ["0", "1", "3", "10", "30"]
    assert list(marker.colorbar.tickvals) == pytest.approx(np.log10([1, 2, 4, 11, 31]))


def test_a_walk_says_what_its_codes_describe_and_what_they_leave(run: Run) -> None:
    walk = tokens.residual_walk(run, 5)
    left = walk["share_left"].iloc[-1]
    assert (
        f"describe {theme.percent(1 - left)} of this item; {theme.percent(left)} of its squared"
        in theme.title(code_space.residual_walk(walk))
    )
