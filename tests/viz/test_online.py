"""The pictures of streams say what they show, with intervals, and never by colour alone."""

import shutil

import fake_streams
import pandas as pd
import pytest

from onerec.explain import online as explain
from onerec.explain.query import empty
from onerec.runs import Run
from onerec.viz import online as viz
from onerec.viz import theme


@pytest.fixture(scope="module")
def streamed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("streamed") / "run"
    shutil.copytree(run.path, folder)
    fake_streams.build(folder, "frozen")
    fake_streams.build(folder, "ecpo", arm="rsft_ecpo", lift=20.0)
    return Run(folder)


@pytest.fixture
def both(streamed: Run) -> pd.DataFrame:
    return explain.curves(streamed, ["ecpo", "frozen"])


def test_curves_name_the_most_and_the_least(both: pd.DataFrame) -> None:
    fig = viz.curves(both)
    assert theme.title(fig) == (
        "Over the 3 rounds that all have done, ecpo has the most true watch time a visit: 190.3 s; "
        "the least is frozen's, 177.0 s"
    )
    lines = [trace for trace in fig.data if trace.name]
    bands = [trace for trace in fig.data if trace.fill == "toself"]
    assert [trace.name for trace in lines] == ["ecpo", "frozen"]
    assert len({(trace.line.dash, trace.marker.symbol) for trace in lines}) == 2
    assert len(bands) == 2
    assert bands[0].x == (1, 2, 3, 3, 2, 1), "there along the upper end, back along the lower"
    assert bands[0].legendgroup == lines[0].legendgroup, "hidden together"
    assert "√users" in theme.how(fig)
    assert "frozen 24" in theme.how(fig)
    assert "frozen: 198.0 s" in theme.alt_text(fig)


def test_curves_of_one_stream_and_of_the_first_round(both: pd.DataFrame) -> None:
    alone = both[both["stream"] == "frozen"]
    assert theme.title(viz.curves(alone)) == (
        "True watch time of frozen went from 156.0 s to 198.0 s a visit between rounds 1 and 3"
    )
    first = viz.curves(alone.iloc[:1])
    assert theme.title(first) == "True watch time of frozen is 156.0 s a visit in round 1"
    same = viz.curves(both[both["round"] == 1])
    assert theme.title(same) == (
        "All streams have the same true watch time over the first round that all have done"
    )
    apart = both[(both["round"] == 1) | (both["stream"] == "ecpo")]
    apart = apart[(apart["round"] > 1) | (apart["stream"] == "frozen")]
    assert "share no round yet" in theme.title(viz.curves(apart))


def test_a_share_is_drawn_in_percent_and_rounds_are_whole(streamed: Run) -> None:
    fig = viz.curves(explain.curves(streamed, ["frozen"], "true_long_view"), "true_long_view")
    assert fig.layout.yaxis.tickformat == ".0%"
    assert "25.0%" in theme.title(fig)
    assert (fig.layout.xaxis.tick0, fig.layout.xaxis.dtick) == (1, 1)


def test_a_single_visitor_has_no_band_and_no_interval(both: pd.DataFrame) -> None:
    lone = both.assign(low=float("nan"), high=float("nan"), users=1)
    assert not [trace for trace in viz.curves(lone).data if trace.fill and len(trace.x)]
    frame = pd.DataFrame(
        [["round 1", 1, 1, 1, 5.0, 3.0, 2.0, float("nan"), float("nan")]] * 2,
        columns=list(explain.AB_COLUMNS),
    )
    frame.loc[1, ["over", "round"]] = ["all rounds", None]
    title = theme.title(viz.compared(frame, "a", "b"))
    assert title.startswith("a - b: +2.0 s of true watch time a visit in the only round")
    assert title.endswith("a single user gives no interval")


def test_the_ab_has_a_zero_line_each_round_and_all(streamed: Run) -> None:
    frame = explain.compared(streamed, "ecpo", "frozen")
    fig = viz.compared(frame, "ecpo", "frozen")
    whole = frame.iloc[-1]
    assert theme.title(fig) == (
        f"ecpo is ahead of frozen: +13.3 s (95%: +{whole['low']:.1f} s to +{whole['high']:.1f} s) "
        "of true watch time a visit over 3 rounds, one training each"
    )
    zero = fig.layout.shapes[0]
    assert (zero.y0, zero.y1, zero.line.dash) == (0, 0, "dash")
    band, line, points = fig.data
    assert list(points.y) == frame["difference"].tolist()[:3]
    assert points.error_y.array[1] == pytest.approx(frame["high"][1] - frame["difference"][1])
    assert set(line.y) == {whole["difference"]}
    assert max(band.y) == whole["high"]
    assert "24 visits of 12 users" in theme.how(fig)
    assert "Luck in training is not in it" in theme.how(fig)
    back = explain.compared(streamed, "frozen", "ecpo")
    assert theme.title(viz.compared(back, "frozen", "ecpo")).startswith(
        "frozen is behind ecpo: -13"
    )


def test_chance_and_no_difference_are_said(streamed: Run) -> None:
    frame = explain.compared(streamed, "ecpo", "frozen")
    unsure = frame.assign(low=-1.0)
    assert theme.title(viz.compared(unsure, "x", "y")).endswith("this may be chance")
    alike = explain.compared(streamed, "frozen", "frozen")
    assert theme.title(viz.compared(alike, "x", "y")) == (
        "x and y have served alike over 3 rounds: no difference for anybody"
    )


def test_learning_by_round(streamed: Run) -> None:
    frame = explain.learning(streamed, "ecpo")
    assert (
        theme.title(viz.learning(frame)) == "Next-token loss went from 2.000 to 0.667 in 3 rounds"
    )
    assert theme.title(viz.learning(frame[frame["round"] == 1], "reward")) == "Mean reward is 0.100"
    legal = viz.learning(frame, "legality")
    assert theme.title(legal) == "Share of legal items stayed at 90.0% in 3 rounds"
    assert legal.layout.yaxis.tickformat == ".0%"


@pytest.mark.parametrize(
    ("draw", "columns"),
    [
        (viz.curves, explain.CURVE_COLUMNS),
        (viz.compared, explain.AB_COLUMNS),
        (viz.learning, ("metric", "round", "value")),
    ],
)
def test_without_data_they_say_what_to_do(draw: object, columns: tuple[str, ...]) -> None:
    fig = draw(empty(columns))  # type: ignore[operator]
    assert fig.layout.annotations[0].text


@pytest.mark.parametrize(
    ("number", "value", "text"),
    [
        (1481.98, "true_watch_s", "1,482.0 s"),
        (0.4251, "true_long_view", "42.5%"),
        (4.125, "positives", "4.12"),
        (0.2098, "reward", "0.210"),
    ],
)
def test_amounts_have_their_unit(number: float, value: str, text: str) -> None:
    assert viz.amount(number, value) == text
    assert viz.amount(number, value, sign=True) == f"+{text}"


def test_every_value_of_the_tables_has_a_name_and_a_meaning() -> None:
    assert set(viz.VALUES) == set(viz.MEANING) == set(explain.VALUES)
    assert set(viz.LEARNED) == set(viz.LEARNED_MEANING)
    assert set(viz.LEARNED) <= set(explain.LEARNED)


def test_every_stream_that_the_title_counts_is_drawn() -> None:
    rows = [
        {"stream": f"s{n}", "round": 1, "mean": float(n), "low": n - 1.0, "high": n + 1.0}
        for n in range(10)
    ]
    fig = viz.curves(pd.DataFrame(rows).assign(users=5))
    assert "s9 has the most true watch time" in theme.title(fig)
    assert len({(t.line.color, t.line.dash) for t in fig.data if t.name}) == 10
    assert viz.amount(-0.0001, "true_long_view", sign=True) == "+0.0%"
