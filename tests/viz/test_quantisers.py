"""The pictures of the comparison show its numbers, and say what is best at what."""

import numpy as np
import pandas as pd
import pytest

from onerec.viz import quantisers as viz
from onerec.viz import theme


def summary(name: str, values: list[float]) -> dict[str, list[float]]:
    low = [value - 0.01 for value in values]
    return {name: values, f"{name}_low": low, f"{name}_high": [value + 0.01 for value in values]}


@pytest.fixture
def compared() -> pd.DataFrame:
    frame = {"kind": ["rq_kmeans", "rq_vae", "random"], "seeds": [3, 3, 3]}
    frame |= summary("loss", [0.16, 0.08, 0.36])
    frame |= summary("held_out_loss", [0.34, 0.46, 0.52])
    return pd.DataFrame(frame | summary("purity", [0.8, 0.7, 0.6]) | summary("chance", [0.3] * 3))


@pytest.fixture
def by_level() -> pd.DataFrame:
    frame = {"kind": ["rq_kmeans"] * 2 + ["random"] * 2, "level": [1, 2, 1, 2]}
    frame |= {"max_entropy_nats": [float(np.log(8))] * 4}
    frame |= summary("spread_left", [0.5, 0.2, 0.7, 0.4])
    frame |= summary("utilisation", [1.0, 1.0, 1.0, 1.0])
    frame |= summary("dead_codes", [0.0, 0.0, 0.0, 0.0])
    return pd.DataFrame(frame | summary("entropy_nats", [2.0, 1.9, 1.8, 1.7]))


def test_the_best_on_fitted_items_need_not_be_the_best_on_new_ones(compared: pd.DataFrame) -> None:
    fig = viz.losses(compared)
    assert (
        theme.title(fig)
        == "RQ-VAE loses least of the items it was fitted on, RQ-Kmeans of new ones: 8.0% and 34.0%"
    )
    bars = {trace.name: list(trace.y) for trace in fig.data if trace.name}
    assert bars == {"fitted": [0.16, 0.08, 0.36], "new items": [0.34, 0.46, 0.52]}
    assert "0.1600 and 0.3400" in theme.how(fig)
    same = compared.assign(held_out_loss=[0.3, 0.1, 0.5])
    assert theme.title(viz.losses(same)).endswith(
        "it was fitted on and of new ones: 8.0% and 10.0%"
    )


def test_levels_have_a_line_a_kind_and_entropy_its_bound(by_level: pd.DataFrame) -> None:
    fig = viz.by_level(by_level, "entropy_nats")
    assert [trace.name for trace in fig.data] == ["RQ-Kmeans", "drawn by lot", "bound ln N"]
    assert list(fig.data[0].y) == [2.0, 1.9]
    assert list(fig.data[2].y) == pytest.approx([np.log(8)] * 2)
    left = viz.by_level(by_level)
    assert theme.title(left) == "Spread left at level 2: 20.0% (RQ-Kmeans) to 40.0% (drawn by lot)"
    alike = theme.title(viz.by_level(by_level, "dead_codes"))
    assert alike == "At level 2 all are alike: dead codes 0"
    with pytest.raises(ValueError, match="spread_left, entropy_nats"):
        viz.by_level(by_level, "beauty")


def test_purity_stands_beside_chance(compared: pd.DataFrame) -> None:
    fig = viz.purity(compared)
    assert "First codes of RQ-Kmeans agree most with the categories: 80%, 30% by chance" in (
        theme.title(fig)
    )
    none = viz.purity(compared.assign(purity=np.nan))
    assert "no categories" in theme.title(none)
    assert "column category" in theme.how(none), "the next thing to do"


def test_nothing_measured_says_how_to_measure(compared: pd.DataFrame) -> None:
    assert "onerec bench quantisers" in theme.how(viz.losses(compared.head(0)))
    assert "onerec bench quantisers" in theme.how(viz.by_level(compared.head(0)))


def test_losses_that_are_unknown_make_no_finding(
    compared: pd.DataFrame, by_level: pd.DataFrame
) -> None:
    """Of vectors that are all alike there is no relative loss: the first kind once lost least."""
    first = compared.assign(loss=[np.nan, 0.2, 0.3])
    assert theme.title(viz.losses(first)).startswith("RQ-VAE loses least")
    none = viz.losses(compared.assign(loss=np.nan))
    assert theme.title(none) == theme.title(viz.by_level(by_level.assign(spread_left=np.nan)))
    assert "do not vary" in theme.title(none)


def test_whiskers_reach_from_the_least_to_the_greatest_seed(compared: pd.DataFrame) -> None:
    fig = viz.losses(compared.assign(loss_low=[0.1, 0.05, 0.3], loss_high=[0.2, 0.1, 0.5]))
    bars = next(trace for trace in fig.data if trace.name == "fitted")
    assert list(bars.error_y.array) == pytest.approx([0.04, 0.02, 0.14])
    assert list(bars.error_y.arrayminus) == pytest.approx([0.06, 0.03, 0.06])
