"""The app: `streamlit run app/main.py`. Page settings, navigation and the shared selection.

The server imports this file once and finds `app`; each visit runs it as a script and draws.
"""

from pathlib import Path

import streamlit as st
import warm

ICON = Path(__file__).with_name("icon.svg")  # a file: symbols and emoji would need the network

PAGES = (
    (
        "home",
        "Home",
        "home",
        "The stages of a run, from raw logs to lists, with its numbers.",
    ),
    ("playground", "Playground", "science", "Codes and experts in the plane, step by step."),
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
        "routing",
        "Routing",
        "alt_route",
        "Which experts see which tokens, and what each is missed for.",
    ),
    (
        "rewards",
        "Rewards",
        "balance",
        "What an item is worth: towers, weights, and a composer.",
    ),
    (
        "ecpo",
        "ECPO",
        "show_chart",
        "How a generated item pushes the model: clip, early clip, bound.",
    ),
    (
        "rl_steps",
        "RL steps",
        "stairs",
        "One policy step, group by group, item by item.",
    ),
    (
        "recommend",
        "Recommend",
        "recommend",
        "One user: history, generated list, truth, a baseline.",
    ),
    (
        "online",
        "Online",
        "sync",
        "Serve, collect, learn, serve again: the loop, and A/B of two arms.",
    ),
    ("runs", "Runs", "table_chart", "Compare runs: results, curves, settings."),
)


def draw() -> None:
    """One visit's page: its settings, the navigation, the sidebar, the page itself."""
    import selection
    import widgets

    from onerec.errors import OneRecError

    st.set_page_config(page_title="OneRec", page_icon=str(ICON), layout="wide")
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


if __name__ == "__main__":
    draw()
else:
    app = st.App(__file__, lifespan=warm.lifespan)
