"""A toy that a person steps through: play, pause, step, reset, and settings that act in mid-run.

The toy's state lives in the session and is never changed in place. While it plays, one fragment
advances and draws it; the buttons and sliders stand outside, so that they act between two steps.
How many steps were taken stands in the URL: a link opens the same settings after as many steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import selection
import streamlit as st

TICK_SECONDS = 0.8


@dataclass(frozen=True)
class Toy:
    """The functions of a toy; `key` begins the names of what it keeps in session and URL."""

    key: str
    begin: Callable[[Any], Any]
    step: Callable[[Any], Any]
    after: Callable[[Any, int], Any]
    changed: Callable[[Any, Any], Any]
    done: Callable[[Any], bool]
    most: int  # steps, after which it stops by itself

    @property
    def steps_key(self) -> str:
        return f"{self.key}_steps"

    @property
    def steered_key(self) -> str:
        return f"{self.key}_steered"

    @property
    def playing(self) -> bool:
        return bool(st.session_state.get(f"{self.key}_playing"))

    @property
    def state(self) -> Any:
        return st.session_state[f"{self.key}_state"]

    def keep(self, state: Any) -> None:
        st.session_state[f"{self.key}_state"] = state

    def play(self, on: bool) -> None:
        st.session_state[f"{self.key}_playing"] = on

    def advance(self, steps: int) -> None:
        state = self.state
        for _ in range(min(steps, self.most - state.step)):
            state = self.step(state)
        self.keep(state)
        if self.over():
            self.play(False)

    def over(self) -> bool:
        return self.done(self.state) or self.state.step >= self.most


def settled(toy: Toy, setting: Any) -> None:
    """The state under this setting: a new one, that of the link, or the present one changed."""
    if f"{toy.key}_state" not in st.session_state:
        toy.keep(toy.after(setting, _asked_steps(toy)))
    elif toy.state.setting != setting:
        st.session_state[toy.steered_key] = toy.state.step > 0
        toy.keep(toy.changed(toy.state, setting))


def unseen(toy: Toy) -> None:
    """Take the toy's steps out of the URL while it is not drawn: its settings are not there."""
    st.query_params.pop(toy.steps_key, None)


def controls(toy: Toy, at_once: int = 1) -> None:
    """Play or pause, step, reset."""
    with st.container(horizontal=True, key=f"{toy.key}_controls"):
        if toy.playing:
            st.button("Pause", icon=":material/pause:", type="primary", key=f"{toy.key}_pause",
                      on_click=toy.play, args=(False,))  # fmt: skip
        else:
            st.button("Play", icon=":material/play_arrow:", type="primary", key=f"{toy.key}_play",
                      disabled=toy.over(), on_click=toy.play, args=(True,))  # fmt: skip
        label = "Step" if at_once == 1 else f"{at_once} steps"
        st.button(label, icon=":material/skip_next:", key=f"{toy.key}_step", disabled=toy.over(),
                  on_click=toy.advance, args=(at_once,))  # fmt: skip
        st.button("Reset", icon=":material/restart_alt:", key=f"{toy.key}_reset",
                  on_click=reset, args=(toy,), help="Step 0, with these settings")  # fmt: skip


def reset(toy: Toy, **values: object) -> None:
    """Forget the steps, and set what the sliders hold; call it in a callback."""
    for key, value in values.items():
        st.session_state[key] = value
    toy.play(False)
    st.session_state.pop(f"{toy.key}_state", None)
    st.session_state.pop(toy.steered_key, None)
    st.query_params.pop(toy.steps_key, None)


def live(toy: Toy, draw: Callable[[Any], None], at_once: int = 1) -> None:
    """Draw the state; while it plays, advance it and draw it again, over and over."""
    if toy.state.step and not toy.playing:
        st.query_params[toy.steps_key] = str(toy.state.step)
    elif not toy.state.step:
        st.query_params.pop(toy.steps_key, None)

    if toy.playing:
        st.caption("The link, and a reload, know the step at which it stood still last: pause it "
                   "first.")  # fmt: skip
    elif st.session_state.get(toy.steered_key):
        st.caption(f"Settings were changed on the way. The link and the notebook cells make all "
                   f"{toy.state.step} steps with those of now, and may end elsewhere.")  # fmt: skip

    def body() -> None:
        if toy.playing:
            toy.advance(at_once)
            if not toy.playing:
                st.rerun()  # the whole page once more: stop the clock
        draw(toy.state)

    st.fragment(body, run_every=TICK_SECONDS if toy.playing else None)()


def _asked_steps(toy: Toy) -> int:
    asked = st.query_params.get(toy.steps_key, "0")
    number = selection.whole(asked)
    if number is not None and number <= toy.most:
        return number
    why, instead = f"not from 0 to {toy.most:,}", "the beginning is shown"
    st.warning(selection.refused("Step", asked, why, instead), icon=":material/link_off:")
    return 0
