"""The one selection that every page shares: run, dataset, item, code, user, step.

Its values are those of the sidebar's widgets, which Streamlit keeps in the URL; a page reads them
with `current()` and changes them with `choose()` in a callback. `?lock=1` fixes run and dataset,
`?hide=import,train` takes those controls away: both stay for the session and in copied links.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit

import cache
import places
import streamlit as st

from onerec import plain
from onerec.explain import dataset as explain_dataset
from onerec.explain import tokens as explain_tokens
from onerec.runs import Run, RunInfo

MARKS = {"item": "Item", "code": "Code", "user": "User", "step": "Step"}
TEACHER = ("lock", "hide")  # in the URL, but no widget of ours
REMEMBERED = "shared_selection"


@dataclass(frozen=True)
class Selection:
    """What is looked at; None where nothing (valid) is chosen."""

    run_name: str | None = None
    run: Run | None = None
    dataset_name: str | None = None
    dataset: Path | None = None
    item: int | None = None
    code: tuple[int, ...] | None = None
    user: int | None = None
    step: int | None = None
    notices: tuple[str, ...] = field(default_factory=tuple)

    @property
    def read_only(self) -> bool:
        return self.run_name is None or places.read_only(self.run_name)


def raw(key: str) -> str | None:
    """A value as it stands: the widget's where it is drawn, else the URL's."""
    value = st.session_state.get(key, st.query_params.get(key))
    return None if value in (None, "") else str(value)


def whole(text: str) -> int | None:
    """The number that a link's text is: 0 or more, of at most nine ASCII digits; else None."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def choose(**values: object) -> None:
    """Set parts of the selection; call it in a callback, before the sidebar is drawn."""
    for key, value in values.items():
        st.session_state[key] = value if key in ("run", "dataset") or value is None else str(value)
        if value is None:
            st.session_state[key] = ""


def clear() -> None:
    choose(**dict.fromkeys(MARKS))


def sidebar() -> None:
    """Draw run, dataset and marks; say what of the URL could not be followed."""
    st.session_state[REMEMBERED] = []
    _keep_teacher_settings()
    for key in ("run", "dataset"):  # what an import or a rename asked to see next
        if f"follow_{key}" in st.session_state:
            st.session_state[key] = st.session_state.pop(f"follow_{key}")
    infos, folders = places.run_infos(), places.dataset_folders()
    if infos:
        _picker("run", "Run", list(infos), list(infos).index(_usual(infos) or ""), _follow_run)
    if folders:
        names = list(folders)
        info = infos.get(raw("run") or "")
        home = places.dataset_of(raw("run") or "", info) if info else ""
        own = names.index(home) if home in names else 0
        _picker("dataset", "Dataset", names, own, clear, left_out=True)
        if home in names and raw("dataset") not in (None, home):
            st.caption(f"The chosen run's own data are {plain.text(home)}.")
    with st.container(key="marks"), st.grid(2, min_column_width=90, gap="xsmall"):
        for key, label in MARKS.items():
            st.text_input(label, key=key, bind="query-params", placeholder="none")
    with st.container(horizontal=True):
        st.button(
            "Clear", icon=":material/close:", on_click=clear, disabled=not any(map(raw, MARKS)),
            help="Forget the chosen item, code, user and step",
        )  # fmt: skip
        with st.popover("Copy link", icon=":material/link:"):
            st.caption("Opens this page with this very selection.")
            st.code(link(), language=None, wrap_lines=True)


def current() -> Selection:
    """The selection, checked against what is on disk; what does not fit becomes a notice."""
    notices = list(st.session_state.get(REMEMBERED, []))
    infos, folders = places.run_infos(), places.dataset_folders()
    run_name = _known("Run", "run", list(infos), notices, _usual(infos))
    info = infos.get(run_name or "")
    home = places.dataset_of(run_name, info) if run_name and info else None
    dataset_name = _known("Dataset", "dataset", list(folders), notices, home)
    dataset = folders.get(dataset_name or "")
    run = Run(info.path) if info else None
    sizes = cache.read(explain_dataset.summary, dataset) if dataset else {}
    return Selection(
        run_name=run_name,
        run=run,
        dataset_name=dataset_name,
        dataset=dataset,
        item=_number("item", sizes.get("items"), notices),
        code=_code(run, notices),
        user=_number("user", sizes.get("users"), notices),
        step=_number("step", None, notices),
        notices=tuple(dict.fromkeys(notices)),
    )


def locked() -> bool:
    return raw("lock") == "1"


def shown(control: str) -> bool:
    """False where a teacher's link hides this control (`?hide=import,train,delete`)."""
    return control not in (raw("hide") or "").split(",")


def link() -> str:
    """The address of this view: every shared value written out, also where it is the default."""
    page = urlsplit(st.context.url or "http://127.0.0.1:8501/")
    values = dict(st.query_params.to_dict())
    keys = ("run", "dataset", *MARKS, *TEACHER)
    values |= {key: value for key in keys if (value := raw(key))}
    for key in st.session_state.get("page_widgets", ()):
        if (value := st.session_state.get(key)) not in (None, "", []):
            values[key] = value
    values = {key: value for key, value in values.items() if value != ""}
    return urlunsplit((page.scheme, page.netloc, page.path, urlencode(values, doseq=True), ""))


def bad_parameter(label: str, key: str, choices: Sequence[str], fallback: str) -> str | None:
    """What to say when the URL asks for something that is not there (the widget falls back)."""
    asked = st.query_params.get(key)
    if not asked or asked in choices:
        return None
    return refused(label, asked, "not here", f"{plain.text(fallback)} is shown")


def refused(label: str, asked: object, why: str, instead: str) -> str:
    """What to say of a value in the URL that a control does not take; `label` is the control's."""
    return f"The link sets “{label}” to “{plain.text(asked)}”, which is {why}; {instead}."


def _picker(
    key: str,
    label: str,
    names: list[str],
    default: int,
    changed: Callable[[], None],
    left_out: bool = False,
) -> None:
    """`left_out`: the URL may be without it, since what else it has leads to the default."""
    if notice := bad_parameter(label, key, names, names[default]):
        st.session_state[REMEMBERED].append(notice)
    asked = st.session_state.get(key, st.query_params.get(key))
    if asked not in names and not (left_out and asked is None):  # deleted or renamed meanwhile
        st.session_state[key] = names[default]
    st.selectbox(
        label, names, index=default if left_out else None, required=True, key=key,
        bind="query-params", on_change=changed, disabled=locked(),
    )  # fmt: skip


def _follow_run() -> None:
    """A new run brings its dataset; ids of the old one mean nothing there."""
    name = st.session_state["run"]
    info = places.run_infos().get(name)
    home = places.dataset_of(name, info) if info else None
    if home in places.dataset_folders():
        st.session_state["dataset"] = home
    clear()


def _keep_teacher_settings() -> None:
    for key in TEACHER:
        asked = st.query_params.get(key)
        if asked:
            st.session_state[key] = asked
        elif st.session_state.get(key):
            st.query_params[key] = st.session_state[key]


def _known(
    label: str, key: str, names: list[str], notices: list[str], default: str | None = None
) -> str | None:
    fallback = default if default in names else (names[0] if names else None)
    asked = raw(key)
    if asked is None or asked in names:
        return asked or fallback
    shown_instead = f"{plain.text(fallback)} is shown" if fallback else "there is none yet"
    notices.append(refused(label, asked, "not here", shown_instead))
    return fallback


def _usual(infos: dict[str, RunInfo]) -> str | None:
    """The run that is shown where none is asked for: the newest that did not fail."""
    sound = (name for name, info in infos.items() if info.state != "failed")
    return next(sound, next(iter(infos), None))


def _number(key: str, limit: int | None, notices: list[str]) -> int | None:
    text = raw(key)
    if text is None:
        return None
    number = whole(text)
    if number is not None and (limit is None or number < limit):
        return number
    bound = f" from 0 to {(limit or 10**9) - 1:,}"
    notices.append(
        f"{MARKS[key]} “{plain.text(text)}” is not a whole number{bound}; it is ignored."
    )
    return None


def _code(run: Run | None, notices: list[str]) -> tuple[int, ...] | None:
    text = raw("code")
    if text is None:
        return None
    parts = [whole(part) for part in text.replace("·", "-").replace(" ", "").split("-")]
    sizes = list(cache.read(explain_tokens.levels, run)["size"]) if run else []
    codes = tuple(part for part in parts if part is not None)
    fits = len(codes) == len(parts) <= len(sizes)
    if fits and all(code < size for code, size in zip(codes, sizes, strict=False)):
        return codes
    why = (
        "is not in this run's codebooks (write 3-1-7)" if run else "belongs to a run; none is here"
    )
    notices.append(f"Code “{plain.text(text)}” {why}; it is ignored.")
    return None
