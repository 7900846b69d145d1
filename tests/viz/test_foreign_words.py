"""Titles and tags come with the data: a picture draws them as they stand, wherever they appear."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from onerec.viz import (
    beam,
    code_space,
    composer,
    influence,
    policy,
    routing,
    serving,
    theme,
    tokens,
)

WORDS = "<a href='http://x'>$5</a> ![a](http://x)"


def _nearest() -> pd.DataFrame:
    row = {"item": 1, "title": WORDS, "rank": 1, "distance": 0.5, "cosine": 0.9}
    return pd.DataFrame([row | {"shared_prefix": 1, "position": 1}])


def _events() -> pd.DataFrame:
    row = {"event": 0, "item": 1, "title": WORDS, "read": True}
    return pd.DataFrame([row | {"leave_one_out": 0.5, "attention": 0.2, "gradient": 0.1}])


def _codes() -> pd.DataFrame:
    row = {"level": 1, "code": 3, "probability": 0.5, "rank": 1, "chosen": True, "legal": True}
    return pd.DataFrame([row])


def _list() -> pd.DataFrame:
    row = {"rank": 1, "item": 1, "title": WORDS, "level": 1, "code": 3, "hit": True}
    return pd.DataFrame([row | {"log_prob": -1.0, "probability": np.exp(-1)}])


def _points() -> pd.DataFrame:
    row = {"item": 1, "title": WORDS, "x": 0.0, "y": 1.0, "code_1": 3, "popularity": 4}
    return pd.DataFrame([row | {"leaf_size": 1}])


def _group() -> pd.DataFrame:
    row = {"place": 0, "item": 1, "title": WORDS, "codes": "3", "counted": True, "reward": 0.5}
    row |= {"drawn": -1.0, "advantage": 0.0, "ratio": 1.0, "effect": "pushes"}
    row |= {"rank_before": 2, "rank_after": 1, "moved": 1, "touched": False}
    return pd.DataFrame([row | {"reward_before": 0.4, "reward_after": 0.5}])


def _token() -> pd.DataFrame:
    row = {"target": 0, "item": 1, "title": WORDS, "level": 1, "code": 3, "layer": 0, "rank": 0}
    return pd.DataFrame([row | {"expert": 0, "weight": 1.0}])


def _lift() -> pd.DataFrame:
    row = {"expert": 0, "group": WORDS, "tokens": 30, "expected": 30.0, "share": 0.5, "base": 0.5}
    return pd.DataFrame([row | {"lift": 1.0, "few": False}])


def _tree() -> pd.DataFrame:
    root = {"id": "r", "parent": "", "codes": "", "label": "all", "level": 0, "item": -1}
    leaf = {"id": "l", "parent": "r", "codes": "3", "label": WORDS, "level": 1, "item": 1}
    return pd.DataFrame([root, leaf]).assign(items=1, weight=1, other=False, chosen=False)


def _beam() -> pd.DataFrame:
    row = {"level": 1, "state": "kept", "rank": 1, "codes": (3,), "code": 3, "probability": 0.5}
    row |= {"log_prob": -0.7, "lost": np.nan, "item": 1, "item_id": "v1"}
    return pd.DataFrame([row | {"place": 1, "items": 1, "seen": False}])


FIGURES = {
    "neighbours": lambda: code_space.neighbours(_nearest(), WORDS),
    "projection": lambda: code_space.projection(_points(), (0.5, 0.3)),
    "influence": lambda: influence.influence(_events(), WORDS),
    "codes": lambda: influence.codes(_codes(), WORDS),
    "code_log_probs": lambda: serving.code_log_probs(_list()),
    "why": lambda: serving.why(_nearest(), WORDS),
    "group": lambda: policy.group(_group()),
    "ranks": lambda: composer.ranks(_group()),
    "tokens": lambda: routing.tokens(_token()),
    "lift": lambda: routing.lift(_lift()),
    "code_tree": lambda: tokens.code_tree(_tree()),
    "beam_tree": lambda: beam.beam_tree(_beam(), {1: WORDS}),
}


@pytest.mark.parametrize("name", list(FIGURES))
def test_a_title_with_markup_is_drawn_as_it_stands(name: str) -> None:
    fig = FIGURES[name]()
    assert isinstance(fig, go.Figure)
    shown = go.Figure(fig)
    shown.update_layout(meta=None)
    assert "<a " not in shown.to_json().replace("\\u003c", "<"), "a link in the picture"
    assert "$5" not in shown.to_json(), "a formula, where MathJax is"
    assert "![a](" not in theme.how(fig), "a picture from elsewhere, where `how` is Markdown"
