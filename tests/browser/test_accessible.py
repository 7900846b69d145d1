"""Every page draws, passes axe and fits a phone, but for what Streamlit's own elements break."""

from collections.abc import Callable, Iterator

import pytest
from app_server import Server, settled
from looks import DESK, PHONE, faults, problems
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
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
    "rewards",
    "online",
    "runs",
    "runs?runs_view=Curves",
    "runs?runs_view=Settings",
)


def test_axe_would_find_something(visit: Callable[[str], Page]) -> None:
    """The check itself can fail: a picture whose words are taken away is found."""
    page = visit("")
    page.locator(".st-key-pipeline_wide img").evaluate("image => image.removeAttribute('alt')")
    assert [problem.partition(":")[0] for problem in problems(page)] == ["image-alt"]


def test_what_is_cut_off_on_a_phone_and_an_exception_would_be_found(
    visit: Callable[[str], Page],
) -> None:
    page = visit("")
    page.get_by_test_id("stMain").evaluate(
        """main => main.insertAdjacentHTML('beforeend',
        '<div style="width: 700px">wide</div><div data-testid="stException">broken</div>')"""
    )
    wide, broken = faults(page)[-2:]
    assert wide.endswith("wide on a phone")
    assert broken == "broken"


@pytest.fixture(scope="module")
def one_page(browser: Browser) -> Iterator[Page]:
    """The same page for all views: what a browser has loaded once it need not load again."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_looks_right(one_page: Page, server: Server, view: str) -> None:
    one_page.set_viewport_size(DESK)  # type: ignore[arg-type]
    one_page.goto(f"{server.url}/{view}")
    settled(one_page)
    assert faults(one_page) == []


def test_a_page_that_is_opened_on_a_phone_fits_it(visit: Callable[[str], Page], page: Page) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    visit("train")
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390
