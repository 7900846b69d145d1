"""The pictures of expert load show its numbers."""

import numpy as np
import pandas as pd
import pytest

from onerec.explain import network as explain
from onerec.runs import Run
from onerec.viz import network as viz
from onerec.viz import theme


def test_load_is_relative_to_an_even_share(run: Run) -> None:
    load = explain.expert_load(run)
    heat = viz.expert_load(load, layer=1).data[0]
    assert np.asarray(heat.z).shape == (4, 6)
    assert np.asarray(heat.z).mean(axis=0) == pytest.approx(1)
    assert viz.expert_load(load, layer=1).layout.yaxis.type == "category", "each expert is named"
    assert heat.zmin + heat.zmax == pytest.approx(2), "the middle of the colours is an even load"
    assert not viz.expert_load(load, layer=9).data


def test_an_even_load_is_grey_and_no_colour_stands_for_less_than_none() -> None:
    rows = [(0, 0, expert, 1.0, share) for expert, share in enumerate((0.8, 0.2, 0.0, 0.0))]
    load = pd.DataFrame(rows, columns=["step", "layer", "expert", "load", "share"])
    for heat in (viz.expert_load(load).data[0], viz.layers(load).data[0]):
        assert (heat.zmin, heat.zmax) == pytest.approx((0.0, 3.2))
        places, colours = zip(*heat.colorscale, strict=True)
        assert places == pytest.approx((0.0, 1 / 3.2, 1.0))
        assert colours == tuple(colour for _, colour in theme.DIVERGING)


def test_many_steps_are_thinned() -> None:
    rows = [(step, 1, expert, 1.0, 0.5) for step in range(1000) for expert in (0, 1)]
    load = pd.DataFrame(rows, columns=["step", "layer", "expert", "load", "share"])
    heat = viz.expert_load(load).data[0]  # the first layer there is
    assert len(heat.x) == viz.STEPS_SHOWN
    assert (heat.x[0], heat.x[-1]) == (0, 999)


def test_balance_has_a_line_per_layer_and_names_the_worst(run: Run) -> None:
    frame = explain.balance(run)
    fig = viz.balance(frame)
    assert [trace.name for trace in fig.data] == ["layer 0", "layer 1"]
    worst = frame[frame["step"] == 60]["max_violation"].max()
    said = theme.title(fig)
    assert said.startswith(f"MaxVio is {worst:.3f} at step 60 in layer "), "not the worst of all"
    assert said.endswith(", the least even one")
    alone = theme.title(viz.balance(frame[frame["layer"] == 1]))
    assert "least even" not in alone, "there is no other"
    low = frame[frame["step"] == 60]["entropy_nats"].min()
    assert f"{low:.3f}" in theme.title(viz.balance(frame, "entropy_nats"))


def test_a_dense_model_says_so() -> None:
    assert "dense" in viz.balance(pd.DataFrame()).layout.annotations[0].text
    assert "dense" in viz.expert_load(pd.DataFrame()).layout.annotations[0].text


def test_layers_side_by_side_at_the_last_step(run: Run) -> None:
    load = explain.expert_load(run)
    fig = viz.layers(load)
    table = np.asarray(fig.data[0].z)
    assert table.shape == (2, 4)
    assert table.mean(axis=1) == pytest.approx(1)
    assert f"with {table.max():.2f} times an even load" in theme.title(fig)
    assert "dense" in viz.layers(pd.DataFrame()).layout.annotations[0].text


def test_one_step_can_be_seen() -> None:
    one = pd.DataFrame([{"step": 5, "layer": 0, "cv": 0.2}])
    fig = viz.balance(one, "cv")
    assert "markers" in fig.data[0].mode, "a line of one point is nothing"
    assert theme.title(fig).startswith("Coefficient of variation is 0.200")


def test_a_load_that_is_unknown_is_not_drawn() -> None:
    load = pd.DataFrame([(1, 0, 0, np.nan, np.nan)], columns=["step", "layer", "expert", *"ab"])
    load = load.rename(columns={"b": "share"})
    none = pd.DataFrame([{"step": 1, "layer": 0, "cv": np.nan}])
    for fig in (viz.expert_load(load), viz.layers(load), viz.balance(none, "cv")):
        assert not fig.data
