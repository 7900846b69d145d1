"""The app: `streamlit run app/main.py`. Page settings, navigation and the shared selection."""

from pathlib import Path

import selection
import streamlit as st
import widgets

from onerec.errors import OneRecError

ICON = Path(__file__).with_name("icon.svg")  # a file: symbols and emoji would need the network
st.set_page_config(page_title="OneRec", page_icon=str(ICON), layout="wide")

PAGES = (
    (
        "home",
        "Home",
        "home",
        "The stages of a run, from raw logs to lists, with its numbers.",
    ),
    (
        "dataset",
        "Dataset",
        "database",
        "Events, users, items. Import data of your own.",
    ),
    (
        "tokenizer",
        "Tokenizer",
        "tag",
        "How items become code words, and how well.",
    ),
    ("train", "Train", "model_training", "Start, watch, pause, stop and resume a training."),
    (
        "recommend",
        "Recommend",
        "recommend",
        "One user: history, generated list, truth, a baseline.",
    ),
    ("runs", "Runs", "table_chart", "Compare runs: results, curves, settings."),
)

page = st.navigation(
    [
        st.Page(f"app_pages/{name}.py", title=title, icon=f":material/{icon}:", help=help_text,
                default=name == "home")
        for name, title, icon, help_text in PAGES
    ]
)  # fmt: skip
with st.sidebar:
    selection.sidebar()
try:
    page.run()
except OneRecError as error:  # damaged files: one line that says which, never a traceback
    widgets.mistake(error)
