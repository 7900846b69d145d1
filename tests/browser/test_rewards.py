"""A person asks what an item is worth: towers, then another reward, a group, one of its items."""

import re
from collections.abc import Callable, Iterator

import fake_rewards
import fake_run
import pytest
from app_server import Server, serve, settled
from looks import faults
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
VIEWS = (
    "rewards",
    "rewards?rewards_view=Calibration",
    "rewards?rewards_view=Weights",
    "rewards?rewards_view=Composer&weight_like=50&industrial=Category",
)


@pytest.fixture(scope="module")
def scored_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app over a home with one run that has a reward model and policy steps."""
    folder = tmp_path_factory.mktemp("scored")
    fake_rewards.build(fake_run.build(folder / "home").run, rival=True)
    yield from serve(folder / "home", folder / "no_demo", folder / "server.log")


@pytest.fixture
def go(page: Page, scored_server: Server) -> Callable[[str], Page]:
    def visit(path: str) -> Page:
        page.goto(f"{scored_server.url}/{path}")
        settled(page)
        return page

    return visit


def quiet(page: Page) -> None:
    """Wait until what the last run left behind is gone: a redrawn figure stands there twice."""
    settled(page)
    expect(page.locator("[data-testid=stMain] [data-stale=true]")).to_have_count(0)
    page.wait_for_load_state("networkidle")


def mark(page: Page, label: str) -> object:
    return expect(page.get_by_test_id("stSidebar").get_by_label(label, exact=True))


def test_from_the_towers_to_another_reward_to_an_item(go: Callable[[str], Page]) -> None:
    page = go("rewards")
    expect(page.get_by_text("the towers beat the trees on 1 of 2 behaviours")).to_be_visible()
    page.get_by_role("radio", name="Composer").click()
    expect(page.get_by_text("No part changes")).to_be_visible()
    slider = page.get_by_role("slider", name="like").first
    for _ in range(8):
        slider.press("ArrowRight")
    expect(page).to_have_url(re.compile(r"(?=.*rewards_view=Composer)(?=.*weight_like=200)"))
    expect(page.get_by_text(re.compile("Over the first items like gains"))).to_be_visible()
    quiet(page)
    people = page.get_by_role("combobox", name="User")
    people.scroll_into_view_if_needed()  # its list closes when the page scrolls
    people.click()
    page.get_by_role("option", name="5", exact=True).click()
    mark(page, "User").to_have_value("5")
    expect(page.get_by_text("Group of user 5")).to_be_visible()
    points = page.locator(".st-key-ranks .scatterlayer .point")
    expect(page.get_by_text(re.compile("User 5: .* first are new"))).to_be_visible()
    quiet(page)
    page.locator(".st-key-ranks").scroll_into_view_if_needed()
    expect(points.first).to_be_visible()
    box = points.first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    mark(page, "Item").not_to_have_value("")
    expect(page.get_by_text(re.compile(r"reward .* → .*, place \d+ → \d+"))).to_be_visible()
    page.reload()
    settled(page)
    expect(page.get_by_text("Group of user 5")).to_be_visible()
    expect(page.get_by_text(re.compile("Over the first items like gains"))).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


@pytest.mark.parametrize("path", VIEWS)
def test_every_view_looks_right(go: Callable[[str], Page], path: str) -> None:
    assert faults(go(path)) == []
