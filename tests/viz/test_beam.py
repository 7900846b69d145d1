"""The tree: where branches stand, how states are told apart, what it says."""

import numpy as np
import pandas as pd

from onerec.viz import beam, theme

# 2 codes kept at level 1; at level 2 three leaves kept, one below the list, one illegal.
ROWS = [
    (1, "kept", 1, (4,), 0.5, np.nan, -1),
    (1, "kept", 2, (2,), 0.3, np.nan, -1),
    (1, "pruned", 1, (7,), 0.15, 0.18, -1),
    (1, "illegal", 1, (9,), 0.01, 0.02, -1),
    (2, "kept", 1, (4, 1), 0.3, np.nan, 11),
    (2, "kept", 2, (2, 5), 0.25, np.nan, 12),
    (2, "kept", 3, (4, 3), 0.1, np.nan, 13),
    (2, "pruned", 1, (4, 6), 0.05, 0.05, 14),
    (2, "illegal", 1, (2, 8), 0.0005, 0.1, -1),
]
FRAME = pd.DataFrame(
    ROWS, columns=["level", "state", "rank", "codes", "probability", "lost", "item"]
).assign(
    log_prob=lambda f: np.log(f["probability"]),
    code=lambda f: [c[-1] for c in f["codes"]],
    item_id=lambda f: [f"v{n}" if n >= 0 else "" for n in f["item"]],
    place=lambda f: f["rank"].where(f["state"].eq("kept") & (f["item"] >= 0), 0),
    items=lambda f: (f["item"] >= 0).astype(int),
    seen=False,
)
TITLES = {11: "soup", 12: "goal", 13: "bread", 14: "rice"}


def test_it_says_what_was_kept_and_where_most_fell_out() -> None:
    fig = beam.beam_tree(FRAME, TITLES)
    assert theme.title(fig) == (
        "The 3 leaves of the list have 65.0% of the probability; "
        "most of the rest, 18.0%, fell out at level 1"
    )
    assert "level 2: 3 kept, 5.0% below the list, 10.0% illegal" in theme.how(fig)
    assert "1. soup, 30.0%" in theme.alt_text(fig)


def test_every_end_has_words_at_the_edge() -> None:
    fig = beam.beam_tree(FRAME, TITLES)
    words = list(fig.layout.yaxis.ticktext)
    assert set(words) == {
        "1. soup, 30.0%",
        "2. goal, 25.0%",
        "3. bread, 10.0%",
        "below the list: rice, 5.0%",
        "code 7 fell out, 15.0%",
        "code 8 is no item, 0.05%",
        "code 9 is no item, 1.0%",
    }
    assert sorted(fig.layout.yaxis.tickvals) == list(range(7))


def test_states_differ_by_mark_and_line_and_not_by_colour_alone() -> None:
    fig = beam.beam_tree(FRAME, TITLES)
    marks = {t.name: t.marker.symbol for t in fig.data if t.mode == "markers+text"}
    assert len(marks) == len(set(marks.values())) == 4
    lines = [t.line.dash for t in fig.data if t.mode == "lines" and t.line.dash]
    assert len(set(lines)) == 3  # what is below the list and what fell out share one
    kept = next(t for t in fig.data if t.name == "kept")
    items = [row[0] for row in kept.customdata]
    assert [item for item in items if item >= 0] == [11, 12, 13]


def test_items_behind_the_list_are_said_to_be_below_it_and_can_be_selected() -> None:
    """They "fell out of the beam", in which they were."""
    fig = beam.beam_tree(FRAME.assign(lost=FRAME["lost"].replace(0.05, 0.6)), TITLES)
    assert theme.title(fig).endswith("; most of the rest, 60.0%, is items below it")
    below = next(t for t in fig.data if t.name == "an item below the list")
    assert [row[0] for row in below.customdata] == [14]


def test_children_stand_beside_their_parents() -> None:
    slots = beam._slots(beam._shown(FRAME, 8))
    assert slots[(4, 1)] == 0
    assert slots[(4, 3)] == 1
    assert slots[(4, 6)] == 2
    assert slots[(4,)] == 1
    assert slots[(2,)] == (slots[(2, 5)] + slots[(2, 8)]) / 2
    assert slots[(7,)] < slots[(9,)]


def test_only_the_first_leaves_and_their_ancestors_are_drawn() -> None:
    shown = beam._shown(FRAME, 1)
    assert (4, 1) in shown
    assert (2, 5) not in shown
    assert (2,) in shown  # an illegal branch hangs there
    assert (4, 3) not in shown


def test_nothing_to_draw_says_what_to_do() -> None:
    assert "Generate a list" in theme.how(beam.beam_tree(FRAME.head(0), {}))


def test_a_search_that_lost_nothing_says_so_in_plain_numbers() -> None:
    whole = FRAME[(FRAME["state"] == "kept") & (FRAME["level"] == 1)].head(1)
    fig = beam.beam_tree(whole, TITLES)
    assert theme.title(fig).startswith("The 1 leaf of the list has ")
    assert "level 1: 1 kept, 0% below the list, 0% illegal" in theme.how(fig), "it was 0e+00"


def test_a_search_that_leaves_nothing_says_why() -> None:
    """It had 0 leaves with 0% of the probability."""
    frame = FRAME.assign(seen=FRAME["place"] > 0)
    nothing = "The search leaves nothing for the list: "
    assert theme.title(beam.beam_tree(frame, TITLES)) == nothing + "what it found was seen before"
    lost = FRAME[(FRAME["state"] != "kept") | (FRAME["level"] < FRAME["level"].max())]
    assert theme.title(beam.beam_tree(lost, TITLES)) == nothing + "it found no item"


def test_what_was_seen_before_is_no_place_of_the_list() -> None:
    """It counted as the second of a list that leaves it out."""
    frame = FRAME.assign(
        seen=FRAME["item"] == 12,
        place=FRAME["place"].replace({2: 0, 3: 2}).where(FRAME["item"] > 0, 0),
    )
    fig = beam.beam_tree(frame, TITLES)
    assert theme.title(fig) == (
        "The 2 leaves of the list have 40.0% of the probability; items seen before, 25.0%, are "
        "left out; most of the rest, 18.0%, fell out at level 1"
    )
    words = list(fig.layout.yaxis.ticktext)
    assert {"1. soup, 30.0%", "seen: goal, 25.0%", "2. bread, 10.0%"} <= set(words)
    marks = {t.name: t.marker.symbol for t in fig.data if t.mode == "markers+text"}
    assert len(marks) == len(set(marks.values())) == 5
    assert "level 2: 3 kept" in theme.how(fig)
    assert (2, 5) in beam._shown(frame.assign(state=frame["state"].mask(frame["seen"], "seen")), 1)


def test_a_leaf_of_several_items_says_how_many() -> None:
    frame = FRAME.assign(items=FRAME["items"].where(FRAME["item"] != 11, 2))
    assert "1. soup and 1 more, 30.0%" in list(beam.beam_tree(frame, TITLES).layout.yaxis.ticktext)
