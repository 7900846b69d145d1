"""A person looks at the experts: load, another layer, one user's tokens, an expert switched off."""

import re
from collections.abc import Callable

import pytest
from app_server import Server, settled
from playwright.sync_api import FloatRect, Page, expect

from onerec.explain import network as explain_network
from onerec.explain import routing as explain
from onerec.runs import Run
from onerec.viz import network as viz_network
from onerec.viz import routing as viz
from onerec.viz import theme

pytestmark = pytest.mark.browser
STEP = 60


def centre(page: Page, box: FloatRect | None) -> None:
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def finding(page: Page, figure: object) -> None:
    expect(page.get_by_text(theme.title(figure), exact=True)).to_be_visible()


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=re.compile(label)).click()
    page.get_by_role("option", name=option, exact=True).click()
    settled(page)


def test_from_the_load_to_one_user_to_an_expert_switched_off(
    visit: Callable[[str], Page], server: Server
) -> None:
    run = Run(server.home / "runs" / "toy_run")
    page = visit("routing")
    load = explain_network.expert_load(run)
    finding(page, viz_network.expert_load(load, 0))
    page.get_by_role("radio", name="1", exact=True).click()
    finding(page, viz_network.expert_load(load, 1))
    expect(page.get_by_text("0 at every step, by construction")).to_be_visible()

    page.get_by_role("radio", name="One user").click()
    settled(page)
    user = explain.users(run, STEP)[4]
    choose(page, "User", str(user))
    finding(page, viz.tokens(explain.tokens(run, STEP, user), 1))
    expect(page.get_by_test_id("stSidebar").get_by_label("User", exact=True)).to_have_value(
        str(user)
    )
    bars = page.locator(".st-key-tokens_1 .barlayer .point")
    expect(bars).to_have_count(2 * 3 * 2)  # targets, levels, experts of a token
    settled(page)
    centre(page, bars.first.bounding_box())
    expect(page).to_have_url(re.compile(r"item=\d+"))
    expect(page.get_by_text(re.compile(r"^Selected: .* clip \d+, item \d+\.$"))).to_be_visible()

    page.get_by_role("radio", name="Switch off").click()
    settled(page)
    finding(page, viz.without(explain.without(run)))
    choose(page, "Expert to switch off", "expert 0 of layer 1")
    recall = page.get_by_test_id("stMetric").filter(has_text="Recall@10")
    expect(recall).to_contain_text("0.4600")
    expect(recall).to_contain_text("-0.0400")
    expect(page).to_have_url(re.compile("routing_off=expert"))
    points = page.locator(".st-key-without_recall .scatterlayer .point")
    expect(points).to_have_count(8)
    settled(page)
    points.nth(3).scroll_into_view_if_needed()
    centre(page, points.nth(3).bounding_box())
    expect(recall).to_contain_text("0.5100")
    page.reload()
    settled(page)
    expect(page.get_by_test_id("stMetric").filter(has_text="Recall@10")).to_contain_text("0.5100")
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_the_table_twin_the_formula_and_the_code(visit: Callable[[str], Page]) -> None:
    page = visit("routing?routing_view=Lift&routing_layer=1")
    page.get_by_text("How it is computed · table · code").click()
    expect(page.get_by_text("lift = share of the expert's tokens")).to_be_visible()
    page.get_by_role("tab", name="Table").click()
    cells = page.get_by_test_id("stDataFrame").locator("td")
    expect(cells.filter(has_text="cooking").first).to_be_attached()
    expect(page.get_by_role("button", name="CSV", exact=True)).to_be_visible()
    page.get_by_role("tab", name="Code").click()
    expect(page.get_by_text("explain.lift(open_run('toy_run')")).to_be_visible()
