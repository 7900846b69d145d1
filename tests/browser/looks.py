"""One look at a page that is open: drawn, accessible, and not wider than a phone."""

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

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


def fits_a_phone(page: Page) -> None:
    """On a phone nothing is wider than it."""
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.wait_for_function(
        f"document.querySelector('[data-testid=stMain]').scrollWidth <= {PHONE['width']}",
        timeout=10_000,
    )


def looks_right(page: Page) -> None:
    """A heading, no exception, nothing that axe finds, nothing wider than a phone."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert problems(page) == []
    fits_a_phone(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)
