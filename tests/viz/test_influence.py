"""Influence, deletion and codes: the numbers drawn are those of the tables, and the words too."""

import pandas as pd

from onerec.viz import influence as draw
from onerec.viz import theme

EVENTS = pd.DataFrame(
    {
        "event": range(5),
        "item": [30, 31, 32, 33, 34],
        "title": ["old", "soup", "goal", "bread", "song"],
        "read": [False, True, True, True, True],
        "leave_one_out": [0.0, 0.4, -0.3, 0.1, 0.05],
        "attention": [0.0, 0.1, 0.4, 0.2, 0.05],
        "gradient": [0.0, 0.3, -0.2, 0.2, 0.01],
    }
)
CURVES = pd.DataFrame(
    [
        (method, deleted, value)
        for method, values in {
            "leave_one_out": (-2.0, -3.0, -4.0),
            "attention": (-2.0, -1.9, -2.4),
            "gradient": (-2.0, -2.8, -3.2),
            "random": (-2.0, -2.1, -2.2),
            "recent": (-2.0, -2.0, -2.0),
        }.items()
        for deleted, value in enumerate(values)
    ],
    columns=["method", "deleted", "log_prob"],
)
CODES = pd.DataFrame(
    [
        (1, 4, 0.5, True, True, 1, 1),
        (1, 2, 0.3, False, True, 2, -1),
        (2, 7, 0.1, True, True, 3, 2),
        (2, 1, 0.6, False, False, 1, -1),
        (2, 3, 0.2, False, True, 2, -1),
    ],
    columns=["level", "code", "probability", "chosen", "legal", "rank", "beam"],
)


def test_influence_names_the_event_that_counts_and_what_attention_thinks() -> None:
    fig = draw.influence(EVENTS, "a film")
    assert theme.title(fig) == (
        "“soup” speaks most for it: 0.40 nats; attention has that event at place 3 of 4"
    )
    assert len(fig.data) == 3
    assert fig.data[0].x.tolist() == [0.4, 0.1, 0.05, -0.3]
    assert list(fig.data[0].y) == ["#2 soup", "#4 bread", "#5 song", "#3 goal"]
    assert fig.data[1].x.tolist() == [0.1, 0.2, 0.05, 0.4]
    assert [row[0] for row in fig.data[0].customdata] == [31, 33, 34, 32]
    assert "(truth)" in fig.layout.xaxis.title.text
    assert list(fig.data[0].marker.pattern.shape) == ["", "", "", "/"]  # not by colour alone


def test_unread_events_are_left_out_and_both_ends_are_kept() -> None:
    assert list(draw.influence(EVENTS, top=2).data[0].y) == ["#2 soup", "#3 goal"]
    three = draw.influence(EVENTS, top=3)
    assert list(three.data[0].y) == ["#2 soup", "#4 bread", "#3 goal"]


def test_agreement_is_a_rank_correlation() -> None:
    assert draw.agreement(EVENTS, "leave_one_out") == 1
    assert round(draw.agreement(EVENTS, "gradient"), 3) == 1.0
    assert draw.agreement(EVENTS, "attention") < 0


def test_where_nothing_speaks_for_an_item_it_says_so() -> None:
    against = EVENTS.assign(leave_one_out=-EVENTS["leave_one_out"].abs())
    assert "No event speaks for a film" in theme.title(draw.influence(against[:4], "a film"))


def test_deletion_names_the_lowest_curve() -> None:
    fig = draw.deletion(CURVES)
    assert theme.title(fig).startswith("Deleting what leave one out (the truth) names first costs")
    assert [trace.name for trace in fig.data] == list(draw.NAMES.values())
    assert len({(t.line.dash, t.marker.symbol) for t in fig.data}) == 5
    assert fig.data[0].y.tolist() == [-2.0, -3.0, -4.0]


def test_codes_mark_the_chosen_and_the_illegal() -> None:
    fig = draw.codes(CODES, "a film")
    assert theme.title(fig) == "Level 2 decides: its code had 10.0%, place 3 among all codes"
    assert list(fig.data[0].y[1]) == ["✓ 4", "2", "✗ 1", "3", "✓ 7"]
    assert list(fig.data[0].y[0]) == ["level 1"] * 2 + ["level 2"] * 3
    assert "0.5000 × 0.1000 = 0.05000" in theme.how(fig)


def test_nothing_to_draw_says_what_to_do() -> None:
    for figure in (
        draw.influence(EVENTS.head(1)),
        draw.influence(EVENTS.head(0)),
        draw.deletion(CURVES.head(0)),
    ):
        assert "add an event" in theme.how(figure)
    assert "choose an item" in theme.how(draw.codes(CODES.head(0)))


def test_one_event_or_none_that_matters_gives_no_nan() -> None:
    one = draw.influence(EVENTS[:1].assign(read=True), "a film")
    assert "none (no two events differ)" in theme.how(one)
    still = EVENTS.assign(leave_one_out=0.0, attention=0.0, gradient=0.0)
    fig = draw.influence(still[:4], "a film")
    assert theme.title(fig).endswith("without any of them it is as likely or likelier")
    assert fig.layout.xaxis.ticktext == ("0",)
    assert "nan" not in theme.how(one) + theme.how(fig)


def test_random_deletion_may_win_and_is_then_no_method() -> None:
    swapped = CURVES.replace({"method": {"leave_one_out": "random", "random": "leave_one_out"}})
    said = theme.title(draw.deletion(swapped))
    assert (
        said == "Deleting at random costs most: ln p is -3.00 on average, lower than by any method"
    )
    assert draw.deletion(CURVES[CURVES["method"] != "random"]).data, "no random order was made"


def test_without_an_event_to_delete_no_method_is_the_best() -> None:
    """An empty history said that attention costs most."""
    rows = [(method, 0, -3.4) for method in ("leave_one_out", "attention", "random")]
    fig = draw.deletion(pd.DataFrame(rows, columns=["method", "deleted", "log_prob"]))
    assert theme.title(fig) == "No events to delete."
