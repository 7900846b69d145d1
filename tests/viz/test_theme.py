"""Colours that can be told apart on both themes, and what every figure carries."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest

from onerec.viz import theme


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_measure_of_contrast_by_hand() -> None:
    assert contrast("#FFFFFF", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colour", theme.COLOURS)
@pytest.mark.parametrize("page", ["#FFFFFF", "#0E1117"])
def test_every_colour_stands_out_on_both_themes(colour: str, page: str) -> None:
    assert contrast(colour, page) >= 3


def test_a_figure_says_what_it_shows() -> None:
    fig = theme.figure(title="A " * 60, alt="words", how="x = 1", x="steps", y="nats", key="k")
    assert theme.title(fig) == "A " * 60
    assert (theme.alt_text(fig), theme.how(fig)) == ("words", "x = 1")
    assert fig.layout.title.text.count("<br>") == 1
    short = theme.figure(title="A", alt="", how="")
    assert fig.layout.title.pad.t > short.layout.title.pad.t, "Plotly lifts a title of two lines"
    assert fig.layout.uirevision == "k"
    assert fig.layout.xaxis.title.text == "steps"
    assert fig.layout.paper_bgcolor == fig.layout.plot_bgcolor == theme.CLEAR
    assert fig.layout.modebar.bgcolor == theme.CLEAR, "a grey block, where Plotly chooses"


def test_a_sentence_begins_with_a_capital_and_keeps_the_rest() -> None:
    assert theme.sentence("item-KNN leads") == "Item-KNN leads"
    assert theme.sentence("") == ""


def test_a_copy_without_title_leaves_the_original_alone() -> None:
    fig = theme.figure(title="finding", alt="a", how="h")
    copy = theme.untitled(fig)
    assert copy.layout.title.text is None
    assert copy.layout.margin.t < fig.layout.margin.t
    assert fig.layout.title.text == "finding"
    assert theme.title(copy) == "finding"
    assert theme.dark(fig).layout.paper_bgcolor == "#0E1117"


def test_nothing_says_what_to_do_next() -> None:
    fig = theme.nothing("No list yet.", "Run this")
    assert fig.layout.annotations[0].text == "Run this"
    assert not fig.data


def test_models_have_names_and_colours_of_their_own() -> None:
    names = ("onerec", "sasrec", "item_knn", "popularity", "oracle", "random")
    assert len({theme.model_colour(name) for name in names}) == len(names)
    assert theme.model_name("item_knn") == "item-KNN"
    assert theme.model_name("mine") == "mine"


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *((0, "0%"), (0.0004, "0.0%"), (0.004, "0.4%"), (0.42, "42%"), (0.999, "99.9%")),
        *((1, "100%"), (-0.0001, "0.0%"), (-0.3, "-30%"), (float("nan"), "an unknown share")),
    ],
)
def test_percent_never_hides_a_remainder(share: float, text: str) -> None:
    assert theme.percent(share) == text


def test_a_probability_that_is_small_is_not_called_zero() -> None:
    said = [theme.chance(value) for value in (0.0, 4e-9, 0.00004, 0.002, 0.416, 1.0)]
    wanted = ["0%", "4e-09", "0.004%", "0.2%", "41.6%", "100.0%"]
    assert said == wanted, "nothing pruned was once 0e+00"


def test_a_long_label_takes_two_lines_and_no_more() -> None:
    title = "nobody tells you this about <b> gentle sonata after scales on a budget"
    text = theme.wrapped(title, 30)
    assert text == "nobody tells you this about<br>&lt;b&gt; gentle sonata after scale…"
    assert theme.wrapped("soup") == "soup"
    assert theme.wrapped("") == ""


def test_one_thing_is_singular() -> None:
    assert theme.count(1, "item") == "1 item"
    assert theme.count(1200, "item") == "1,200 items"
    assert theme.count(2, "leaf", "leaves") == "2 leaves"
    assert theme.count(1.4, "event") == "1 event", "as it is written"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["1", "2"], "went from 1 to 2"),
        (["1", "1", "1"], "stayed at 1"),
        (["1", "3", "1"], "ended where it began, at 1"),
        (["1"], "is 1"),
    ],
)
def test_a_course_that_ends_where_it_began_went_nowhere(texts: list[str], said: str) -> None:
    assert theme.went(texts) == said


def test_a_log_axis_has_plain_numbers() -> None:
    assert theme.log_axis(1, 40)["tickvals"] == [1, 2, 5, 10, 20]
    assert theme.log_axis(1, 40)["ticktext"] == ["1", "2", "5", "10", "20"]
    assert theme.log_axis(1, 12_000)["ticktext"] == ["1", "10", "100", "1,000", "10,000"]
    assert theme.log_axis(0.01, 0.3, "{:g}%", 100)["ticktext"] == ["1%", "2%", "5%", "10%", "20%"]


@pytest.mark.parametrize(
    ("least", "greatest"),
    [(0.35, 0.69), (1.3, 2.5), (0.09, 0.4), (1e-18, 1e-15), (1, 1e15), (0, 0.5), (7, 8)],
)
def test_no_log_axis_is_bare_or_crowded(least: float, greatest: float) -> None:
    ticks = theme.log_axis(least, greatest)["tickvals"]
    assert 2 <= len(ticks) <= 10
    assert all(least <= tick <= greatest for tick in ticks)


def test_words_of_others_are_drawn_as_they_stand() -> None:
    words = "<b>5 $ & $ 6</b> ![](http://x) `a`"
    assert theme.drawn(words) == "&lt;b&gt;5 &#36; &amp; &#36; 6&lt;/b&gt; ![](http://x) `a`"
    fig = theme.figure(title=words, alt="a", how="h")
    assert fig.layout.title.text == theme.drawn(words)
    assert theme.title(fig) == words, "a page writes it in its own way"


def test_whiskers_reach_from_low_to_high() -> None:
    values = pd.DataFrame({"value": [0.5, 0.2], "low": [0.4, None], "high": [0.7, None]})
    fig = go.Figure()
    theme.add_bars(fig, ["a", "b"], values, horizontal=True)
    bars: Any = fig.data[0]
    assert list(bars.x) == [0.5, 0.2]
    assert bars.error_x.array == pytest.approx([0.2, 0])
    assert bars.error_x.arrayminus == pytest.approx([0.1, 0])
    assert list(fig.data[1].error_x.array) == list(bars.error_x.array)
    assert fig.data[1].showlegend is False


def test_a_long_label_is_cut() -> None:
    assert theme.short("abc", 3) == "abc"
    assert theme.short("abcd efgh", 6) == "abcd…"


def test_lines_over_sizes_have_a_tick_at_each_and_whiskers_where_known() -> None:
    lines = pd.DataFrame({"a": [0.1, 0.2], "b": [0.3, 0.4]})
    fig = go.Figure()
    theme.add_lines(fig, [8, 1024], lines, pd.DataFrame({"b": [0.01, 0.02]}))
    first, second = fig.data
    assert (list(first.x), list(second.y)) == ([8, 1024], [0.3, 0.4])
    assert first.error_y.array is None
    assert list(second.error_y.array) == [0.01, 0.02]
    assert first.marker.symbol != second.marker.symbol
    assert first.line.dash != second.line.dash
    assert (fig.layout.xaxis.type, fig.layout.xaxis.ticktext) == ("log", ("8", "1,024"))
