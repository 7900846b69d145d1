"""The pictures of the paper's tables: the finding follows from intervals, also overlapping ones."""

from __future__ import annotations

import pandas as pd
import pytest

from onerec.explain import measured
from onerec.viz import paper_tables as viz
from onerec.viz import theme

NAN = float("nan")


def row(k: int, group: int, more: float, past: tuple[float, float], half: float = 0.01) -> dict:
    found = {"table": 7, "setting": f"groups of {group:,}", "against": "no reward", "k": k}
    found |= {"group": group, "reward": "pscore", "target": "pscore", "arm": f"pscore+g{group}"}
    found |= {"more": more, "more_low": more - half, "more_high": more + half, "gain": more / 5}
    found |= {"promised_more": more + 0.02, "recall": -0.01, "paper": NAN}
    return found | {"past": sum(past) / 2, "past_low": past[0], "past_high": past[1]}


def at(k: int, **past: tuple[float, float]) -> list[dict]:
    """A row for each size g32, g512, ...: the interval of its gain minus that of 4 k."""
    return [row(k, int(size[1:]), 0.05, ends) for size, ends in past.items()]


SAME, BELOW, ABOVE = (0.0, 0.0), (-0.02, -0.01), (0.01, 0.02)
OVER, UNDER = (-0.01, 0.02), (-0.02, 0.01)  # on both sides of 0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (at(32, g32=UNDER, g128=SAME, g512=OVER), "is not told apart from any other at 32 items"),
        (at(32, g32=BELOW, g128=SAME, g512=BELOW), "gains the most at 32 items"),
        (
            at(32, g32=BELOW, g128=SAME, g512=OVER, g2048=OVER),
            "gains more than one of 32, but is not told apart from one of 512 and of 2,048 at 32",
        ),
        (at(32, g32=BELOW, g128=SAME, g512=ABOVE), "gains less than one of 512 at 32 items"),
        (at(32, g32=(NAN, NAN), g128=SAME), "is not told apart from any other at 32 items"),
        (at(32, g128=SAME), "is the only one measured at 32 items"),
        (at(128, g32=(NAN, NAN), g128=(NAN, NAN)), "(512) was not measured at 128 items"),
        (
            at(32, g32=OVER, g128=SAME) + at(128, g128=OVER, g512=SAME),
            "is not told apart from any other at 32 and 128 items",
        ),
        (
            at(32, g32=BELOW, g128=SAME) + at(128, g128=ABOVE, g512=SAME),
            "gains the most at 32 items; gains less than one of 128 at 128 items",
        ),
        ([row(32, 128, 0.005, SAME)], "is the only one measured, and its own gain is not sure,"),
        ([row(32, 128, -0.02, SAME), row(32, 32, -0.1, BELOW)], "is worse than no reward at 32"),
    ],
)
def test_the_title_says_what_the_intervals_say(rows: list[dict], said: str) -> None:
    fig = viz.worth_tables(pd.DataFrame(rows))
    assert theme.title(fig).startswith(f"A group of four times the list {said}")


def test_curves_of_the_truth_with_intervals_and_the_papers_beside() -> None:
    rows = at(32, g32=OVER, g128=SAME) + at(128, g128=OVER, g512=SAME)
    rows[2]["paper"], rows[3]["paper"] = 0.048, 0.069
    fig = viz.worth_tables(pd.DataFrame(rows).assign(arm="a"))
    lines = {trace.name: trace for trace in fig.data}
    truth = lines["32 items, the truth"]
    assert (list(truth.x), list(truth.y)) == ([32, 128], [0.05, 0.05])
    assert list(truth.error_y.array) == pytest.approx([0.01, 0.01])
    assert list(truth.text) == ["", "4 × 32"]
    assert list(lines["32 items, as the reward model says"].y) == pytest.approx([0.07, 0.07])
    paper = next(trace for name, trace in lines.items() if "the paper's Table 7" in name)
    assert (list(paper.x), list(paper.y)) == ([128, 512], [0.048, 0.069])
    assert fig.layout.xaxis.type == "log"
    assert "groups of 512 +6.9%" in theme.alt_text(fig)
    assert "minus the group of 128: itself" in theme.how(fig)


def test_one_seed_has_no_whisker_and_other_rewards_are_not_mixed_in() -> None:
    alone = pd.DataFrame([row(32, 128, 0.05, SAME, half=NAN)])
    fig = viz.worth_tables(pd.concat([alone, alone.assign(reward="long_view")]))
    assert list(fig.data[0].error_y.array) == [0]
    assert "+5.00%, one seed" in theme.alt_text(fig)
    assert "nan" not in theme.alt_text(fig) + theme.how(fig)
    assert "its own gain is not sure" in theme.title(fig)
    assert len(fig.data[0].x) == 1


def test_what_was_not_measured_says_how_to_measure_it() -> None:
    for frame in (measured.worth_tables().head(0), pd.DataFrame([row(32, 128, NAN, SAME)])):
        fig = viz.worth_tables(frame)
        assert not fig.data
        assert "python -m onerec.bench.worth --arms none,pscore+g32" in theme.how(fig)


def test_pairs_are_told_by_the_side_of_their_intervals() -> None:
    def pair(table: int, words: tuple[str, str], k: int, low: float, high: float) -> dict:
        return {"table": table, "setting": words[0], "against": words[1], "reward": "pscore"} | {
            "k": k, "more_low": low, "more_high": high
        }  # fmt: skip

    beam, policy = ("beam search", "sampling"), ("on-policy", "off-policy")
    frame = pd.DataFrame(
        [
            pair(8, beam, 32, 0.01, 0.02),
            pair(8, beam, 128, -0.01, 0.02),
            pair(9, policy, 32, -0.02, -0.01),
            pair(9, policy, 128, -0.03, -0.01),
        ]
    )
    assert viz.pairs_finding(frame) == (
        "Beam search gains more than sampling at 32 items; is not told apart from sampling at 128 "
        "items. On-policy gains less than off-policy at 32 and 128 items"
    )
    one = frame.iloc[:1].assign(more_low=NAN, more_high=NAN)
    assert "is not told apart" in viz.pairs_finding(one), "one seed"
    both = pd.concat([frame.iloc[:1], frame.iloc[:1].assign(reward="long_view")])
    assert "(P-Score)" in viz.pairs_finding(both)
    assert viz.pairs_finding(frame.head(0)) == ""


def test_what_is_shipped_is_drawn() -> None:
    frame = measured.worth_tables()
    fig = viz.worth_tables(frame)
    assert len(fig.data) >= 3
    assert frame.attrs["command"] in theme.how(fig)
    assert viz.pairs_finding(measured.worth_pairs())
