"""The pictures of shipped results show their numbers, and their titles say the finding."""

import numpy as np
import pandas as pd
import pytest

from onerec.bench import stability as bench
from onerec.explain import measured as explain
from onerec.viz import measured as viz
from onerec.viz import theme


def stability_frame() -> pd.DataFrame:
    rows = [
        {"lag": lag, "rate": rate, "objective": name, "seed": seed, "growth": growth * (1 + seed)}
        | {"low": 0.01, "high": 0.02, "beyond": 0.1, "void": False, "explodes": growth > 50}
        for lag, rate, name, growth in (
            (0, 0.001, "ecpo", 1.2),
            (1000, 0.001, "ecpo", 1.5),
            (1000, 0.001, "grpo", 80.0),
            (1000, 0.003, "grpo", 400.0),
        )
        for seed in (0, 1, 2)
    ]
    return pd.DataFrame(rows)


def test_what_explodes_is_what_the_benchmark_calls_so() -> None:
    assert viz.EXPLODED == bench.EXPLODED


def test_stability_names_the_worst_and_what_ecpo_keeps() -> None:
    fig = viz.stability(stability_frame())
    assert "1,000 updates old the gradient of GRPO grows 800 times" in theme.title(fig)
    assert theme.title(fig).endswith("800 times, ECPO's at most 3.0 (medians of the seeds)")
    lines = {trace.name: list(trace.y) for trace in fig.data if trace.name}
    assert lines["ECPO, rate 0.001"] == pytest.approx([2.4, 3.0])
    assert lines["GRPO, rate 0.003"] == pytest.approx([800.0])
    assert list(fig.layout.xaxis.categoryarray) == ["0", "1,000"]
    assert "it explodes" in theme.how(fig)
    line = fig.layout.annotations[0]
    assert (line.text, line.y) == ("above 50 times", pytest.approx(np.log10(50)))
    shipped = explain.stability()
    assert shipped.attrs["note"]
    shown = viz.stability(shipped)
    assert shipped.attrs["note"] in theme.how(shown)
    assert theme.title(shown).endswith(
        "of GRPO with KL grows 24 times, GRPO's at most 6.7, ECPO's at most 1.8 (medians of the "
        "seeds); single seeds of GRPO and GRPO with KL pass 50"
    )


def test_stability_says_where_the_clip_never_acted_and_which_lag_is_exempt() -> None:
    frame = stability_frame()
    assert "; void, the early clip never acted" not in theme.how(viz.stability(frame))
    assert "At lag 0 every ratio is 1 and GRPO is ECPO: there no clip can act, and nothing is " in (
        theme.how(viz.stability(frame))
    )
    frame["void"] = frame["objective"] == "grpo"
    assert "it explodes; void, the early clip never acted" in theme.how(viz.stability(frame))


def test_legality_has_a_line_for_each_arm() -> None:
    frame = pd.DataFrame(
        [
            {"arm": "none", "step": 0, "legality": 0.9, "end": 0.92},
            {"arm": "none", "step": 9, "legality": 0.92, "end": 0.92},
            {"arm": "punished", "step": 0, "legality": 0.9, "end": 0.95},
            {"arm": "punished", "step": 9, "legality": 0.95, "end": 0.95},
        ]
    )
    fig = viz.legality(frame)
    assert theme.title(fig).startswith("Of what is written freely 90% is an item before alignment")
    assert "92% to 95% after it; the most where illegal ones are punished" in theme.title(fig)
    assert [list(trace.y) for trace in fig.data] == [[0.9, 0.92], [0.9, 0.95]]


def test_worth_tells_the_best_arm_that_keeps_recall() -> None:
    row = {"k": 32, "true_low": 0.04, "true_high": 0.06, "predicted_low": 0.05}
    row |= {"predicted_high": 0.07}
    frame = pd.DataFrame(
        [
            row
            | {
                "arm": "a@0.2",
                "true": 0.05,
                "predicted": 0.06,
                "headroom": 0.2,
                "recall": -0.01,
                "held": True,
            },
            row
            | {
                "arm": "a@0.1",
                "true": 0.05,
                "predicted": 0.06,
                "headroom": 0.4,
                "recall": 0.2,
                "held": False,
            },
        ]
    )
    fig = viz.worth(frame)
    assert (
        "20% is covered at -1.0% recall on test; the reward model promised 0.010 more"
        in theme.title(fig)
    )
    assert list(fig.data[0].text) == ["best that holds valid recall", ""]
    assert [symbol.endswith("-open") for symbol in fig.data[0].marker.symbol] == [False, True]
    assert list(fig.data[0].error_x.array) == pytest.approx([0.01, 0.01])
    assert fig.layout.shapes[0].x1 == pytest.approx(0.07)


def test_an_arm_is_named_in_words() -> None:
    said = viz.arm_name("long_view+beam+g512+u16@0.8@0.0003")
    assert said == "long-view tower, by beam search, groups of 512, 16 users"
    assert viz.arm_name("grpo") == "grpo"
    assert viz.arm_family("pscore+beam+tilt4@1") == "P-Score, drawn to a power of it"
    assert viz.arm_family("long_view+beam@0.3") == "long-view tower"
    assert viz.arm_name("pscore+tilt4@1") == "P-Score, drawn to reward^4"
    assert viz.arm_weight("long_view+beam@0.3@0.0001") == 0.3
    assert np.isnan(viz.arm_weight("long_view"))  # the recipe's


def test_many_arms_without_a_weight_are_drawn() -> None:
    row = {"k": 32, "true_low": 0.04, "true_high": 0.06, "predicted_low": 0.05}
    row |= {"predicted_high": 0.07, "true": 0.05, "predicted": 0.06, "headroom": 0.2}
    frame = pd.DataFrame(
        [row | {"arm": f"g{size}", "recall": 0.0, "held": True} for size in range(1, 12)]
    )
    fig = viz.worth(frame)
    assert sum(len(trace.x) for trace in fig.data) == 11
    assert "nan" not in theme.alt_text(fig)


@pytest.mark.parametrize("name", ["stability", "legality", "worth"])
def test_what_is_shipped_is_drawn(name: str) -> None:
    fig = getattr(viz, name)(getattr(explain, name)())
    assert len(fig.data) > 2
    assert theme.alt_text(fig)
    assert theme.how(fig)


def test_what_is_said_of_legality_and_promises_comes_from_the_numbers() -> None:
    row = {"arm": "none", "step": 0, "legality": 0.9, "end": 0.4}
    fallen = pd.DataFrame([row, row | {"step": 9, "legality": 0.4}])
    assert "here it falls in an arm" in theme.how(viz.legality(fallen)), "it was written down"
    kept = fallen.assign(end=0.95)
    assert "here it does not fall" in theme.how(viz.legality(kept))
    worth = explain.worth()
    modest = worth.assign(predicted=worth["true"] - 0.02)
    assert "promised 0.020 less than was true" in theme.title(viz.worth(modest))


@pytest.mark.parametrize("name", ["stability", "legality", "worth"])
def test_what_was_not_measured_says_how_to_measure_it(name: str) -> None:
    fig = getattr(viz, name)(getattr(explain, name)().head(0))
    assert not fig.data
    assert f"python -m onerec.bench.{name}" in theme.how(fig)


def test_a_promise_that_was_kept_is_no_promise_of_more() -> None:
    worth = explain.worth()
    kept = worth.assign(predicted=worth["true"])
    assert theme.title(viz.worth(kept)).endswith("promised just what was true"), "0.000 more"
