"""Every page passes axe, but for what Streamlit's own elements break and no page can mend.

Left out are three rules, list and listitem (its navigation) and color-contrast (its muted
captions), and two elements: the drop zone of a file upload (a button in a section of role
presentation) and the spark line in a metric (an image without a text; the number and the curve
below say the same).
"""

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
LEFT_OUT = ("list", "listitem", "color-contrast")
NOT_OURS = ("[data-testid=stFileUploaderDropzone]", "[data-testid=stMetric] svg")
VIEWS = (
    "",
    "?results=Bars",
    "playground?codes_steps=9&codes_point=4",
    "playground?playground_view=Experts&experts_steps=50",
    "dataset",
    "dataset?dataset_view=One+user",
    "dataset?dataset_view=Columns",
    "dataset?dataset_view=Import",
    "tokenizer?item=5",
    "tokenizer?tokens_view=Tree&code=1",
    "tokenizer?tokens_view=Codebooks",
    "tokenizer?tokens_view=Shared+names",
    "tokenizer?tokens_view=Quantisers",
    "tokenizer?tokens_layout=UMAP",
    "train",
    "routing",
    "routing?routing_view=Lift",
    "routing?routing_view=One+user",
    "routing?routing_view=Flow",
    "routing?routing_view=Switch+off&routing_off=expert+1+of+layer+0",
    "ecpo",
    "rl_steps",
    "recommend",
    "recommend?recommend_view=Edit",
    "runs",
    "runs?runs_view=Curves",
    "runs?runs_view=Settings",
)


def problems(page: Page) -> list[str]:
    """What axe finds: rule, why, and the first element that breaks it."""
    options: dict[str, Any] = {"rules": {rule: {"enabled": False} for rule in LEFT_OUT}}
    context = {"exclude": [[selector] for selector in NOT_OURS]}
    found = Axe().run(page, context, options).response["violations"]
    return [f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:300]}" for v in found]


def test_axe_would_find_something(visit: Callable[[str], Page]) -> None:
    """The check itself can fail: a picture whose words are taken away is found."""
    page = visit("")
    page.locator(".st-key-pipeline_wide img").evaluate("image => image.removeAttribute('alt')")
    assert [problem.partition(":")[0] for problem in problems(page)] == ["image-alt"]


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(visit: Callable[[str], Page], view: str) -> None:
    page = visit(view)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert problems(page) == []
