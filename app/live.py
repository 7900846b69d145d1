"""The live view of one run: a single fragment that reads the run folder once a second.

It reads files and draws; it holds no state, so a reload or a second tab shows the same. When the
run ends, the page is drawn once more and the clock stops.
"""

from __future__ import annotations

from typing import Any

import jobs
import links
import places
import selection
import start_cost
import streamlit as st
import widgets

from onerec import runs
from onerec.errors import OneRecError
from onerec.explain import training
from onerec.runs import Run
from onerec.units import flop_text
from onerec.viz import training as viz

BADGES = {
    "starting": ("blue", "hourglass_top"),
    "running": ("blue", "directions_run"),
    "paused": ("orange", "pause_circle"),
    "stalled": ("orange", "warning"),
    "interrupted": ("red", "power_off"),
    "stopped": ("gray", "stop_circle"),
    "done": ("green", "check_circle"),
    "failed": ("red", "error"),
    "new": ("gray", "fiber_new"),
}
NUMBERS = {
    "loss": ("Loss", "{:.3f}"),
    "samples_per_second": ("Samples a second", "{:,.0f}"),
    "flops_per_second": ("Arithmetic", ""),
    "mfu": ("MFU", "{:.1%}"),
    "grad_norm": ("Gradient norm", "{:.2f}"),
    "valid_recall@10": ("Recall@10 on valid", "{:.3f}"),
}
MORE = {"Learning rate": "lr", "Gradient norm": "grad_norm",
        "Samples a second": "samples_per_second", "Arithmetic": "flops_per_second",
        "MFU": "mfu"}  # fmt: skip
SAY = (
    "The solid line is the sum of the others, one for each code word of a name (their mean, of a "
    "lazy decoder). Guessing among N codes costs ln N a level: 4.85 for 128. A level that stays "
    "there has learned nothing."
)
NOTES = {
    "loss": "How surprised the model is by what people really watched next: the sum over the "
    "levels (a lazy decoder's mean) of -ln of the probability that it gave the right code, in "
    "nats. 0 is no surprise.",
    "samples_per_second": "A sample is one person's history with what came after it.",
    "grad_norm": "How strongly a step pulls at the weights, before it is clipped. A jump warns of "
    "an unstable training.",
    "valid_recall@10": "Of what people watched who are held out for this, the share that stands "
    "among the first ten of their list. 1 would be all of it.",
    "flops_per_second": "Operations of matrix products (onerec.count has the formula), at the mean "
    "number of events and targets of the last 20 batches. Evaluation, saving and pauses are not "
    "counted. Its share of the device's peak rate is MFU; of a CPU no peak is known.",
    "mfu": "Model FLOPs utilisation: FLOP/s over the device's peak in dense bfloat16. What is "
    "missing to 100% is waiting, memory traffic and work that is no matrix product.",
}


def draw(view: selection.Selection) -> None:
    """The run, live while it is busy and still once it is not."""
    busy = jobs.status(view.run).busy
    st.fragment(_guarded, run_every=1.0 if busy else None)(view, busy)


def _guarded(view: selection.Selection, was_busy: bool) -> None:
    try:
        _body(view, was_busy)
    except OneRecError as error:
        widgets.mistake(error)


def _body(view: selection.Selection, was_busy: bool) -> None:
    run: Run = view.run
    job = jobs.status(run)
    if was_busy != job.busy or not run.path.exists():
        st.rerun()  # the whole page once more: start the clock, stop it, or forget a removed run
    colour, icon = BADGES.get(job.state, ("gray", "help"))
    st.header(f"Run {view.run_name}  :{colour}-badge[:material/{icon}: {job.state}]")
    st.markdown(viz.stages(training.progress(run)))
    _progress(job)
    if not view.read_only and selection.shown("train"):
        _controls(run, job)
    _trouble(run, job)
    curves = training.curves(run)
    if curves.empty:
        st.info(_before_curves(job), icon=":material/hourglass_top:")
        return
    _numbers(run, curves, job)
    _figures(run, curves, job)
    _checkpoints(run)
    if job.state == "done":
        _go_on()


def _progress(job: jobs.Job) -> None:
    """How far the present stage is."""
    if job.state == "done":
        return
    if job.of:
        text = f"{job.stage}: step {job.step:,} of {job.of:,}"
        said = job.message if job.state != "stopped" else "stopped as asked, its weights are saved"
        st.progress(min(1.0, job.share), text=f"{text} · {said}" if said else text)
    elif job.message and job.state not in ("failed", "interrupted"):
        st.caption(job.message)


def _controls(run: Run, job: jobs.Job) -> None:
    asked = jobs.asked(run) if job.state in ("running", "paused") else ""
    with st.container(horizontal=True, key="train_controls"):
        if job.state == "running":
            st.button("Pause", icon=":material/pause:", on_click=run.control,
                      kwargs={"pause": True}, disabled=bool(asked))  # fmt: skip
        if job.state == "paused":
            st.button("Go on", icon=":material/play_arrow:", on_click=run.control,
                      kwargs={"pause": False}, type="primary")  # fmt: skip
            st.button("One step", icon=":material/skip_next:", on_click=run.control,
                      kwargs={"steps": 1})  # fmt: skip
        if job.state in ("running", "paused"):
            st.button("Stop", icon=":material/stop:", on_click=run.control, kwargs={"stop": True},
                      disabled=asked == "stop",
                      help="Saves a checkpoint and ends; Resume goes on from there")  # fmt: skip
        if _never_began(run, job):
            st.button("Remove this run", icon=":material/delete:", on_click=_try,
                      args=(runs.delete_run, run), help="Nothing was trained in it")  # fmt: skip
        elif job.state in ("stopped", "interrupted", "failed"):
            st.button("Resume", icon=":material/replay:", type="primary", on_click=_try,
                      args=(jobs.resume, run))  # fmt: skip
        if job.state == "stalled":
            st.button("End it now", icon=":material/dangerous:", on_click=_try,
                      args=(jobs.kill, run))  # fmt: skip
    if asked == "stop" or (asked and job.state == "running"):
        st.caption(f"Asked to {asked}: it does so after what it is at, a step or an evaluation.")
    if problem := st.session_state.pop("live_problem", None):
        st.error(problem, icon=":material/error:")


def _never_began(run: Run, job: jobs.Job) -> bool:
    """The trainer refused what it was given before it made the run: there is nothing to resume."""
    return job.state == "failed" and not run.recipe()


def _trouble(run: Run, job: jobs.Job) -> None:
    """What went wrong, and what to do next."""
    if job.state == "failed":
        refused = _never_began(run, job)
        title = "The training could not start" if refused else "The training failed"
        st.error(job.message, icon=":material/error:", title=title)
    elif job.state == "interrupted":
        st.warning(
            f"The process is gone without a word (killed, or the machine went down). {_after(run)}",
            icon=":material/power_off:",
            title="Interrupted",
        )
    elif job.state == "stalled":
        st.warning(
            f"The process lives but has said nothing for {job.seconds_since_heartbeat or 0:.0f} s. "
            "A busy machine can do that; if it lasts, end it and resume from the checkpoint.",
            icon=":material/warning:",
            title="No sign of life",
        )
    if job.state in ("failed", "interrupted", "stalled"):
        with st.expander("The last lines of the log", icon=":material/article:"):
            st.code(run.log_tail(30) or "(empty)", language=None, wrap_lines=True)


def _after(run: Run) -> str:
    """What a resumed run begins with."""
    if len(run.checkpoints()):
        return "Resume goes on from the last checkpoint and ends with the same weights."
    return (
        "It had written no checkpoint: Resume begins the training anew. If that ends in the same "
        "way, memory may be short: start a new run with a smaller train.batch_size."
    )


def _before_curves(job: jobs.Job) -> str:
    if job.state == "starting":
        return "The process is loading its libraries; the first numbers come in a few seconds."
    if job.busy and job.stage == "pretrain":
        return "The first steps are on their way: curves follow."
    if job.busy:
        return f"Stage {job.stage or 'data'} comes before the training: curves follow."
    return "This run has no training curves."


def _numbers(run: Run, curves: Any, job: jobs.Job) -> None:
    latest = training.latest(run)
    with st.grid("auto", min_column_width=150):
        for metric, (label, form) in NUMBERS.items():
            if latest.get(metric) is None:
                continue
            past = curves.loc[curves["metric"] == metric, "value"].tolist()
            value = form.format(latest[metric]) if form else f"{flop_text(latest[metric])}/s"
            no_peak = metric == "flops_per_second" and latest.get("mfu") is None
            st.metric(label, value, border=True, chart_data=past[-60:], height="stretch",
                      help=NOTES.get(metric), delta="no peak known" if no_peak else None,
                      delta_color="off", delta_arrow="off")  # fmt: skip
        left = latest.get("eta_seconds")
        if left and job.busy and job.stage == "pretrain":
            st.metric("Left", start_cost.duration(left), border=True, height="stretch",
                      help="Of this stage, at the pace of its last steps")  # fmt: skip


def _figures(run: Run, curves: Any, job: jobs.Job) -> None:
    pairs = [("losses", viz.losses, {})]
    known = [name for name, metric in MORE.items() if (curves["metric"] == metric).any()]
    first = "Gradient norm" if "Gradient norm" in known else None
    more = st.segmented_control("Also show", known, default=first, key="live_more",
                                label_visibility="collapsed")  # fmt: skip
    if more in known:
        pairs.append((f"metric_{MORE[more]}", viz.metric, {"name": MORE[more]}))
    for key, draw_figure, drawing in pairs:
        if job.busy:
            widgets.place(draw_figure(curves, **drawing), key=key)
            if key == "losses":
                st.caption(SAY)
        else:
            widgets.show(run, training.curves, draw_figure, key=key, drawing=drawing,
                         say=SAY if key == "losses" else "",
                         command=places.command(f"runs show {run.name} --json", run))  # fmt: skip


def _checkpoints(run: Run) -> None:
    """The saved weights: what Resume goes on from, and which of them the lists are made with."""
    saved = training.checkpoints(run)
    if saved.empty:
        return
    with st.expander(f"Checkpoints ({len(saved)})", icon=":material/save:"):
        st.dataframe(
            saved, hide_index=True, alt="Saved weights of the run, by stage and step",
            column_config={
                "stage": "Stage",
                "step": st.column_config.NumberColumn("Step"),
                "mebibytes": st.column_config.NumberColumn("MiB", format="%.1f"),
                "saved": st.column_config.DatetimeColumn("Saved (UTC)", format="D MMM, HH:mm:ss"),
                "chosen": st.column_config.CheckboxColumn(
                    "Used", help="The stages that come after go on with these weights"
                ),
            },
        )  # fmt: skip


def _go_on() -> None:
    """Where to look at what was made."""
    with st.container(horizontal=True):
        links.to("tokenizer", "Its code words", "tag")
        links.to("recommend", "Its lists", "recommend")
        links.to("runs", "Compare it with others", "table_chart")


def _try(action: Any, run: Run) -> None:
    try:
        action(run)
    except (OneRecError, OSError) as error:
        st.session_state["live_problem"] = str(error)
