"""What a test measures a speed against: the same machine, in the same minute."""

import time
from collections.abc import Callable

import plotly.graph_objects as go


def cpu_seconds(body: Callable[[], object], *, rounds: int = 8) -> float:
    """The least CPU time of several rounds, so that a busy machine does not decide."""
    found = []
    for _ in range(rounds):
        begun = time.process_time()
        body()
        found.append(time.process_time() - begun)
    return min(found)


def two_bare_figures() -> None:
    """Two curves of 100 points by plotly alone: the least that a live view has to do."""
    for _ in range(2):
        figure = go.Figure()
        figure.add_scatter(x=list(range(100)), y=[float(i) for i in range(100)])
        figure.update_layout(template="plotly_white", xaxis_title="step", yaxis_title="loss")
        figure.to_json()
