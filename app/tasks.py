"""Computations for a picture that take a while: what one is, its start, and how far it is.

Each is a process of its own (`jobs.TASKS`) that writes its result into the run's folder; the page
shows the picture as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jobs
import selection
import streamlit as st

from onerec.errors import OneRecError
from onerec.runs import Run

TASK_WORDS = {
    "umap": "UMAP puts items near each other that are near in all dimensions. It takes a minute, "
    "in a process of its own; the map below is there meanwhile.",
    "quantisers": "The same items quantised by RQ-Kmeans (plain, refined, balanced), an RQ-VAE and "
    "codes drawn by lot: what is lost, and how evenly codes are used. The RQ-VAE takes longest, up "
    "to a minute a seed, in a process of its own.",
    "rival": "Is that good? Gradient-boosted trees, a model for each behaviour, learn from the "
    "same rows and are measured beside the towers. It takes seconds, in a process of its own.",
}
BUTTONS = {"umap": "Compute the map", "quantisers": "Compare them", "rival": "Train the trees"}


def task(view: selection.Selection, run: Run, name: str, settings: dict[str, Any]) -> None:
    """A computation that is not there yet: what it is, the start, and how far it is."""
    job = jobs.status(jobs.task_folder(run, name))
    seen = (job.busy, job.step)
    st.fragment(_task, run_every=1.0 if job.busy else None)(view, run, name, settings, seen)


def _task(
    view: selection.Selection, run: Run, name: str, settings: dict[str, Any], seen: tuple[bool, int]
) -> None:
    folder = jobs.task_folder(run, name)
    job = jobs.status(folder)
    if (job.busy, job.step) != seen:
        st.rerun()  # the whole page once more: start the clock, or show what there is now
    words = jobs.task_command(name, run.name, settings)
    if not job.busy:
        title = "Not computed yet" if job.state in ("new", "done") else "Not finished"
        st.info(TASK_WORDS[name], icon=":material/hourglass_empty:", title=title)
        if job.state == "failed":
            st.error(job.message, icon=":material/error:", title="The last one failed")
        elif job.state == "interrupted":
            at = f"at: {job.message or 'the start'}."
            if jobs.ended_here(folder):
                st.info(f"It was {at}", icon=":material/stop:", title="You ended the last one")
            else:
                st.warning(f"The process is gone without a word, {at}",
                           icon=":material/power_off:", title="The last one broke off")  # fmt: skip
    else:
        text = job.message or "The process is loading its libraries"
        st.progress(job.share if job.of else 0.0, text=text)
    if view.read_only or not selection.shown("train"):
        st.caption("In a terminal, for a run of your own: "
                   f"`{jobs.command_line(words)}`.")  # fmt: skip
        return
    if job.busy:
        st.button("End it", icon=":material/stop:", key=f"{name}_end", on_click=_try,
                  args=(jobs.kill, folder))  # fmt: skip
    else:
        st.button(BUTTONS[name], icon=":material/play_arrow:", type="primary", key=f"{name}_start",
                  on_click=_try, args=(jobs.start_task, run, name, words))  # fmt: skip
    if problem := st.session_state.pop("task_problem", None):
        st.error(problem, icon=":material/error:")


def _try(action: Callable[..., object], *arguments: Any) -> None:
    try:
        action(*arguments)
    except (OneRecError, OSError) as error:
        st.session_state["task_problem"] = str(error)
