"""A person steps through a group: step bar, group, item, and back to ECPO with the same step."""

import re
from collections.abc import Callable, Iterator

import fake_rollouts
import fake_run
import pytest
from app_server import Server, serve, settled
from looks import faults
from playwright.sync_api import FloatRect, Page, expect

from onerec.explain import policy as explain
from onerec.runs import Run
from onerec.viz import policy as viz
from onerec.viz import theme

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def aligned_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app over a home with one run that was aligned."""
    folder = tmp_path_factory.mktemp("aligned")
    fake_rollouts.build(fake_run.build(folder / "home").run)
    yield from serve(folder / "home", folder / "no_demo", folder / "server.log")


@pytest.fixture
def go(page: Page, aligned_server: Server) -> Callable[[str], Page]:
    def visit(path: str) -> Page:
        page.goto(f"{aligned_server.url}/{path}")
        settled(page)
        return page

    return visit


def centre(page: Page, box: FloatRect | None) -> None:
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def mark(page: Page, label: str) -> object:
    return expect(page.get_by_test_id("stSidebar").get_by_label(label, exact=True))


def test_from_a_step_to_a_group_to_an_item(
    go: Callable[[str], Page], aligned_server: Server
) -> None:
    page, run = go("rl_steps"), Run(aligned_server.home / "runs" / "toy_run")
    bars = page.locator(".st-key-policy_steps .barlayer .point")
    expect(bars).to_have_count(len(fake_rollouts.STEPS))
    centre(page, bars.nth(1).bounding_box())
    mark(page, "Step").to_have_value("10")
    finding = theme.title(viz.group(explain.items(run, 10, 4), 4))
    expect(page.get_by_text(finding, exact=True)).to_be_visible()
    settled(page)  # the points of the step before are gone
    items = page.locator(".st-key-group .scatterlayer .point")
    expect(items).to_have_count(fake_rollouts.GROUP)
    page.get_by_text(finding, exact=True).evaluate("title => title.scrollIntoView()")
    centre(page, items.first.bounding_box())
    expect(page).to_have_url(re.compile(r"(?=.*step=10)(?=.*item=\d+)"))
    mark(page, "Item").not_to_have_value("")
    expect(page.get_by_text(re.compile(r"^Reward = .*Its ratio lies"))).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_a_group_without_a_spread_is_flagged_in_the_table_and_below(
    go: Callable[[str], Page],
) -> None:
    page = go("rl_steps?step=10&user=3")
    expect(page.get_by_text("every advantage is 0, no item pushes")).to_be_visible()
    page.get_by_text("6 groups: choose another").click()
    cells = page.get_by_test_id("stDataFrame").first.locator("td")
    expect(cells.filter(has_text="teaches nothing")).to_have_count(1)


def test_the_step_goes_to_ecpo_and_its_sliders_into_the_url(go: Callable[[str], Page]) -> None:
    page = go("rl_steps?step=20")
    bars = page.locator(".st-key-policy_steps .barlayer .point")
    expect(bars).to_have_count(len(fake_rollouts.STEPS))
    settled(page)
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="ECPO").click()
    settled(page)
    expect(page.get_by_text("The items of step 20")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("stays at -1.3, a bounded push")).to_be_visible()
    page.get_by_role("slider").first.press("ArrowRight")
    expect(page).to_have_url(re.compile(r"epsilon=0\.25"))
    expect(page.get_by_text("stays at -1.35, a bounded push")).to_be_visible()
    page.get_by_role("button", name="GBPO").click()
    expect(page).to_have_url(re.compile(r"(?=.*objectives=.*GBPO)(?=.*step=20)"))
    page.reload()
    settled(page)
    expect(page.get_by_text("stays at -1.35, a bounded push")).to_be_visible()
    expect(page.get_by_text("Probability of the item when drawn")).to_be_visible()
    expect(page.get_by_text("The items of step 20")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    mark(page, "Step").to_have_value("30")


@pytest.mark.parametrize("path", ["ecpo", "rl_steps", "rl_steps?rl_view=Curves+of+all+steps"])
def test_every_view_looks_right(go: Callable[[str], Page], path: str) -> None:
    assert faults(go(path)) == []


def test_a_link_fetches_nothing_from_elsewhere(
    go: Callable[[str], Page], page: Page, aligned_server: Server
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    go("ecpo?run=![a](http://elsewhere.test/a.png)&epsilon=![b](http://elsewhere.test/b.png)")
    expect(page.get_by_text("![a](http://elsewhere.test/a.png)")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert [url for url in asked if not url.startswith(aligned_server.url)] == []
