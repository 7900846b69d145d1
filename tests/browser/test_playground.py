"""A person steps through the playground: by hand, by itself, with a slider, by a link."""

import re
from collections.abc import Callable

import pytest
from app_server import settled
from playwright.sync_api import Page, expect

from onerec.explain import toy_codes, toy_experts
from onerec.explain.toy_codes import CodesSetting
from onerec.explain.toy_experts import ExpertsSetting
from onerec.viz import theme
from onerec.viz import toy_codes as viz

pytestmark = pytest.mark.browser


def number(page: Page, label: str, text: str | re.Pattern[str]) -> None:
    metric = page.get_by_test_id("stMetric").filter(has_text=label).first
    expect(metric.get_by_test_id("stMetricValue")).to_have_text(text)


def press(page: Page, name: str) -> None:
    page.get_by_test_id("stMain").get_by_role("button", name=name, exact=True).click()
    settled(page)


def test_stepping_a_slider_in_mid_run_a_point_and_the_link(visit: Callable[[str], Page]) -> None:
    page = visit("playground")
    for step in (1, 2, 3):
        press(page, "Step")
        number(page, "Step", str(step))
    state = toy_codes.after(CodesSetting(), 3)
    expect(page.get_by_text(theme.title(viz.plane(state)), exact=True)).to_be_visible()
    expect(page).to_have_url(re.compile("codes_steps=3"))

    dot = page.locator(".st-key-toy_plane .scatterlayer .trace").first.locator(".point").nth(7)
    dot.scroll_into_view_if_needed()
    settled(page)
    box = dot.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.get_by_text(re.compile(r"^Point \d+ is said as \d+;"))).to_be_visible()
    expect(page).to_have_url(re.compile(r"codes_point=\d+"))

    page.get_by_role("slider", name="Codes a level").press("ArrowRight")
    settled(page)
    number(page, "Codes in use", "7 of 7")
    number(page, "Step", "3")
    page.goto(page.url)
    settled(page)
    number(page, "Step", "3")
    number(page, "Codes in use", re.compile(" of 7"))
    expect(page.get_by_text(re.compile(r"^Point \d+ is said as"))).to_be_visible()
    press(page, "Reset")
    number(page, "Step", "0")
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_play_goes_on_until_pause_and_ends_when_done(visit: Callable[[str], Page]) -> None:
    page = visit("playground?codes_levels=1&codes_size=3&codes_points=60")
    main = page.get_by_test_id("stMain")
    main.get_by_role("button", name="Play").click()
    number(page, "Step", re.compile("[2-9]"))
    expect(page.get_by_text(re.compile("^Done after "))).to_be_visible(timeout=60_000)
    expect(main.get_by_role("button", name="Play")).to_be_disabled()
    settled(page)


def test_the_bias_mends_a_collapse_in_mid_run(visit: Callable[[str], Page]) -> None:
    page = visit("playground?playground_view=Experts&experts_steps=200&experts_at_once=50")
    alone = toy_experts.after(ExpertsSetting(), 200)
    number(page, "Loss", f"{alone.history[-1]['loss']:.4f}")
    number(page, "Experts at work", re.compile("^[123] of 4"))
    page.get_by_role("radio", name="On", exact=True).click()
    settled(page)
    for _ in range(6):
        press(page, "50 steps")
    number(page, "Experts at work", "4 of 4")
    number(page, "Step", "500")
    assert page.get_by_role("radio", name="On", exact=True).is_checked()
