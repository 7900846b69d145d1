"""Links between pages that also stand where a page is opened by itself, without main.py."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st
from streamlit.errors import StreamlitAPIException


def to(page: str, label: str, icon: str, query: Mapping[str, str] | None = None) -> None:
    """A link to `app_pages/<page>.py`; plain text where that page is not part of the app."""
    try:
        st.page_link(
            f"app_pages/{page}.py", label=label, icon=f":material/{icon}:", query_params=query
        )
    except StreamlitAPIException:
        st.caption(f"{label} (page {page})")
