"""One look at a page that is open: drawn, accessible, and not wider than a phone."""

import contextlib
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, TimeoutError, expect

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 720}
LEFT_OUT = ("list", "listitem", "color-contrast")
NOT_OURS = ("[data-testid=stFileUploaderDropzone]", "[data-testid=stMetric] svg")


def problems(page: Page) -> list[str]:
    """What axe finds: rule, why, and the first element that breaks it.

    Left out are three rules, list and listitem (Streamlit's navigation) and color-contrast (its
    muted captions), and two elements: the drop zone of a file upload (a button in a section of role
    presentation) and the spark line in a metric (an image without a text; the number and the curve
    below say the same).
    """
    options: dict[str, Any] = {"rules": {rule: {"enabled": False} for rule in LEFT_OUT}}
    options |= {"resultTypes": ["violations"], "preload": False}  # what passes is not told of
    context = {"exclude": [[selector] for selector in NOT_OURS]}
    found = Axe().run(page, context, options).response["violations"]
    return [f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:300]}" for v in found]


def wider_than_a_phone(page: Page) -> list[str]:
    """What a phone says of it: how wide it is, where that is too wide."""
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    wide = "document.querySelector('[data-testid=stMain]').scrollWidth"
    with contextlib.suppress(TimeoutError):
        page.wait_for_function(f"{wide} <= {PHONE['width']}", timeout=10_000)
    width = page.evaluate(wide)
    return [f"{width} wide on a phone"] if width > PHONE["width"] else []


def faults(page: Page) -> list[str]:
    """What is wrong with a view: what axe finds, what a phone cuts off, an exception shown."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.wait_for_load_state("networkidle")
    found = problems(page) + wider_than_a_phone(page)
    return found + page.get_by_test_id("stException").all_inner_texts()
