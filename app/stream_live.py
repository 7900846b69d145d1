"""The live view of one stream: a single fragment that reads its folder once a second.

Like `live`, the view of a training, it holds no state: a reload or a second tab shows the same.
When the stream ends, the page is drawn once more and the clock stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jobs
import pandas as pd
import selection
import stream_form
import stream_parts
import streamlit as st
import widgets
from live import BADGES

from onerec import runs
from onerec.errors import OneRecError
from onerec.explain import online
from onerec.runs import Run
from onerec.viz import online as draw
from onerec.viz import theme

SAY_BAND = "The band is the 95% interval over the users of a round."
SAY_SAME = " All these streams have the same visitors: the A/B compares them one by one."
SHOWN = 6  # streams in one picture
LINES = f"{online.STAGE}/*/metrics.jsonl"


class Streamed(Run):
    """A run whose stamp also changes with its streams, so that caches follow them, and with those
    of another run that it is compared with."""

    def __init__(self, path: Path, other: Path | None = None) -> None:
        super().__init__(path)
        self.other = other

    def stamp(self) -> str:
        owners = [self.path] if self.other is None else [self.path, self.other]
        lines = [line for path in owners for line in sorted(path.glob(LINES))]
        times = (f"{path.parent.name}:{path.stat().st_mtime_ns}" for path in lines)
        return "|".join([super().stamp(), *times])


@dataclass(frozen=True)
class Watched:
    """What is looked at: a stream of a run, those beside it, and what is counted (or nothing)."""

    view: selection.Selection
    run: Run
    name: str
    beside: tuple[str, ...]
    value: str | None
    curves: bool

    @property
    def stream(self) -> Run:
        return Run(self.run.path / online.STAGE / self.name)


def beside(run: Run, name: str, other: str = "") -> tuple[list[str], list[str]]:
    """Streams with the same people as `name` that have done a round, and those that differ.

    They are those of the run `other` beside this one, where one is named.
    """
    owner = online.run_of(run, other)
    begun = [
        each for each in online.names(owner)
        if (other or each != name) and online.values_of(owner, each)
    ]  # fmt: skip
    same = [each for each in begun if not online.comparable(run, name, each, other)]
    return same, [each for each in begun if each not in same]


def show(watched: Watched) -> None:
    """The stream, live while it is busy and still once it is not."""
    busy = jobs.status(watched.stream).busy
    st.fragment(_guarded, run_every=1.0 if busy else None)(watched, busy)


def _guarded(watched: Watched, was_busy: bool) -> None:
    try:
        _body(watched, was_busy)
    except OneRecError as error:
        widgets.mistake(error)


def _body(watched: Watched, was_busy: bool) -> None:
    stream = watched.stream
    job = jobs.status(stream)
    lines = stream.metrics(online.STAGE)
    first = watched.value is None and len(lines) > 0  # its first round: choices can be drawn
    if was_busy != job.busy or first or not stream.path.exists():
        st.rerun()  # the whole page once more: start the clock, stop it, or forget what is gone
    colour, icon = BADGES.get(job.state, ("gray", "help"))
    st.header(f"Stream {watched.name}  :{colour}-badge[:material/{icon}: {job.state}]")
    if job.of:
        text = f"round {job.step:,} of {job.of:,}"
        text += f" · {job.message}" if job.message and job.state != "failed" else ""
        st.progress(min(1.0, job.share), text=text)
    if not watched.view.read_only and selection.shown("train"):
        _controls(stream, job)
    _trouble(stream, job)
    if not watched.curves:
        return
    if lines.empty:
        if job.busy:
            st.info("The process is loading the model and the log; the first round takes a few "
                    "seconds.", icon=":material/hourglass_top:")  # fmt: skip
        return
    _numbers(watched, lines, job)
    _figures(watched, job)


def _controls(stream: Run, job: jobs.Job) -> None:
    with st.container(horizontal=True, key="stream_controls"):
        if job.state == "running":
            st.button("Pause", icon=":material/pause:", on_click=stream.control,
                      kwargs={"pause": True})  # fmt: skip
        if job.state == "paused":
            st.button("Go on", icon=":material/play_arrow:", on_click=stream.control,
                      kwargs={"pause": False}, type="primary")  # fmt: skip
            st.button("One round", icon=":material/skip_next:", on_click=stream.control,
                      kwargs={"steps": 1})  # fmt: skip
        if job.state in ("running", "paused"):
            st.button("Stop", icon=":material/stop:", on_click=stream.control,
                      kwargs={"stop": True}, help="Ends after this round; Resume goes on from "
                      "there")  # fmt: skip
        if _never_began(stream, job):
            st.button("Remove this stream", icon=":material/delete:", on_click=_try,
                      args=(runs.delete_run, stream), help="Nothing was served in it")  # fmt: skip
        elif job.state in ("stopped", "interrupted", "failed"):
            st.button("Resume", icon=":material/replay:", type="primary", on_click=_try,
                      args=(jobs.resume, stream))  # fmt: skip
        if job.state == "stalled":
            st.button("End it now", icon=":material/dangerous:", on_click=_try,
                      args=(jobs.kill, stream))  # fmt: skip
    if problem := st.session_state.pop("stream_problem", None):
        st.error(problem, icon=":material/error:")


def _never_began(stream: Run, job: jobs.Job) -> bool:
    """The process refused what it was given before it made the stream: nothing to resume."""
    return job.state == "failed" and not stream.recipe()


def _trouble(stream: Run, job: jobs.Job) -> None:
    """What went wrong, and what to do next."""
    if job.state == "failed":
        refused = _never_began(stream, job)
        title = "The stream could not start" if refused else "The stream failed"
        st.error(job.message, icon=":material/error:", title=title)
    elif job.state == "interrupted":
        st.warning(
            "The process is gone without a word (killed, or the machine went down). Resume goes on "
            "after the last whole round, as if nothing had been.",
            icon=":material/power_off:",
            title="Interrupted",
        )
    elif job.state == "stalled":
        st.warning(
            f"The process lives but has said nothing for {job.seconds_since_heartbeat or 0:.0f} s. "
            "A long round can do that; if it lasts, end it and resume after the last whole round.",
            icon=":material/warning:",
            title="No sign of life",
        )
    if job.state in ("failed", "interrupted", "stalled"):
        with st.expander("The last lines of the log", icon=":material/article:"):
            st.code(stream.log_tail(30) or "(empty)", language=None, wrap_lines=True)


def _numbers(watched: Watched, lines: pd.DataFrame, job: jobs.Job) -> None:
    """The last round in figures, each with its past."""
    shown = {watched.value: draw.value_name(watched.value or "")}
    shown |= {metric: name for metric, (name, _) in draw.LEARNED.items()}
    words = draw.MEANING | draw.LEARNED_MEANING
    with st.grid("auto", min_column_width=150):
        for metric, label in shown.items():
            past = lines[metric].dropna().tolist() if metric in lines else []
            if past:
                last = draw.amount(past[-1], str(metric))
                st.metric(theme.sentence(label), last, border=True, chart_data=past[-60:],
                          height="stretch", help=words.get(str(metric)))  # fmt: skip
        seconds = float(lines["round_seconds"].tail(5).mean())
        left = max(0, job.of - job.step) * seconds
        if job.busy and left:
            st.metric("Left", f"{left:,.0f} s", border=True, height="stretch")


def _figures(watched: Watched, job: jobs.Job) -> None:
    """One picture while it changes every second; with its belongings, and what was learned, once
    it is still: the figures above have the past of those numbers meanwhile."""
    run, value = Streamed(watched.run.path), watched.value or online.VALUES[0]
    streams = (watched.name, *watched.beside)
    if job.busy:
        frame = online.curves(run, streams, value)
        widgets.place(draw.curves(frame, value), key=f"online_{value}")
        return
    made = stream_form.command(run, *streams)
    widgets.show(
        run, online.curves, draw.curves, key=f"online_{value}", command=made,
        reading={"streams": streams, "value": value}, drawing={"value": value},
        say=SAY_BAND + SAY_SAME * bool(watched.beside) + stream_parts.first_served(run, streams),
    )  # fmt: skip
    known = online.learning(run, watched.name)
    if known.empty:
        return
    with st.grid(3, min_column_width=230) as grid:
        for metric in (m for m in draw.LEARNED if (known["metric"] == m).any()):
            with grid.cell():
                widgets.show(
                    run, online.learning, draw.learning, key=f"learning_{metric}",
                    command=made.splitlines()[0], reading={"name": watched.name},
                    drawing={"metric": metric},
                )  # fmt: skip


def _try(action: Callable[[Run], object], stream: Run) -> None:
    try:
        action(stream)
    except (OneRecError, OSError) as error:
        st.session_state["stream_problem"] = str(error)
