"""Recommend in a real browser: load a model, edit a history, follow the beam to an item."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_server import Server, serve, settled
from looks import faults
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def real_server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app over a home whose run has a model."""
    folder = tmp_path_factory.mktemp("real")
    yield from serve(trained, folder / "no_demo", folder / "server.log")


def opened(page: Page, server: Server, view: str) -> Page:
    """A view of the page with the model in memory."""
    page.goto(f"{server.url}/recommend?recommend_view={view}")
    expect(page.get_by_role("radio", name=view)).to_be_visible(timeout=30_000)
    settled(page)  # a new server draws its first page late
    button = page.get_by_role("button", name="Load the model")
    if button.count():
        button.click()
        expect(button).to_have_count(0, timeout=60_000)
        expect(page.get_by_test_id("stSpinner")).to_have_count(0, timeout=60_000)
        settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    return page


def at_rest(page: Page, part: Locator) -> None:
    """Wait until a part of the page stays where it is: a click goes to a place in it."""
    before = None
    for _ in range(50):
        now = part.bounding_box()
        if now == before:
            return
        before = now
        page.wait_for_timeout(400)
    raise AssertionError("it never came to rest")


def test_the_model_waits_to_be_asked(page: Page, real_server: Server) -> None:
    page.goto(f"{real_server.url}/recommend")
    settled(page)
    expect(page.get_by_text("What came before")).to_be_visible()
    page.get_by_role("radio", name="Edit").click()
    settled(page)
    expect(page.get_by_text("The model is not loaded yet")).to_be_visible()
    page.get_by_role("button", name="Load the model").click()
    expect(page.get_by_text("The list by it")).to_be_visible(timeout=60_000)


def test_edit_a_history_and_take_it_back(page: Page, real_server: Server) -> None:
    opened(page, real_server, "Edit")
    expect(page.get_by_text("Edit the history and this list follows")).to_be_visible()
    remove = page.get_by_role("button", name="Remove")
    expect(remove).to_be_disabled()
    table = page.locator("[class*=st-key-edit_rows]").get_by_test_id("stDataFrame")
    at_rest(page, table)
    table.click(position={"x": 18, "y": 52})  # the box of the newest event
    expect(remove).to_be_enabled()
    remove.click()
    settled(page)
    expect(page).to_have_url(re.compile(r"edit=-\d+"))
    expect(page.get_by_text("items were in the list before the edits")).to_be_visible()
    box = page.get_by_role("combobox", name="Add an item as the newest")
    box.fill("cooking part 3")
    box.press("Enter")
    settled(page)
    field = page.get_by_label("Edits", exact=True)
    expect(field).to_have_value(re.compile(r"^-\d+,\+\d+$"))
    seconds = page.get_by_text(re.compile(r"Generated in \d+\.\d+ s")).inner_text()
    found = re.search(r"(\d+\.\d+) s", seconds)
    assert found is not None
    assert float(found[1]) < 1
    address = page.url
    page.goto(address)  # the link brings the edited history back
    settled(page)
    expect(page.get_by_label("Edits", exact=True)).to_have_value(re.compile(r"^-\d+,\+\d+$"))
    page.get_by_role("button", name="Undo").click()
    settled(page)
    page.get_by_role("button", name="Undo").click()
    settled(page)
    expect(page.get_by_label("Edits", exact=True)).to_have_value("")
    expect(page.get_by_text("Edit the history and this list follows")).to_be_visible()


def choose_the_second(page: Page) -> None:
    """Open the chooser of people and tick the box of the second."""
    page.get_by_text("choose another").click()
    table = page.locator("[class*=st-key-people]").get_by_test_id("stDataFrame")
    at_rest(page, table)
    table.click(position={"x": 18, "y": 87})
    expect(page).to_have_url(re.compile(r"[?&]user=\d+"))
    settled(page)


def test_back_from_another_person_is_one_step(page: Page, real_server: Server) -> None:
    page.goto(f"{real_server.url}/recommend?item=3")
    settled(page)
    chooser = page.get_by_text("choose another")
    first = chooser.inner_text()
    choose_the_second(page)
    expect(page).to_have_url(re.compile(r"[?&]item=3"))
    expect(chooser).not_to_have_text(first)
    page.go_back()
    expect(page).not_to_have_url(re.compile(r"[?&]user=\d+"))
    settled(page)
    expect(chooser).to_have_text(first)
    expect(page).to_have_url(re.compile(r"[?&]item=3"))


def test_edits_do_not_follow_the_browser_to_another_person(page: Page, real_server: Server) -> None:
    opened(page, real_server, "Edit")
    field = page.get_by_label("Edits", exact=True)
    field.fill("+3")
    field.press("Enter")
    settled(page)
    expect(page.get_by_text("items were in the list before the edits")).to_be_visible()
    choose_the_second(page)
    expect(field).to_have_value("")
    page.go_back()
    settled(page)
    foreign = page.get_by_text("The edits in this link are another history's")
    if "user=" in page.url:  # a step for each value, unless the server sent both at once
        expect(foreign).to_be_visible()
        expect(page.get_by_text("Edit the history and this list follows")).to_be_visible()
        page.go_back()
        settled(page)
    expect(page).not_to_have_url(re.compile(r"[?&]user=\d+"))
    expect(field).to_have_value("+3")
    expect(foreign).to_be_hidden()
    expect(page.get_by_text("items were in the list before the edits")).to_be_visible()


def test_edits_survive_a_look_at_another_view(page: Page, real_server: Server) -> None:
    opened(page, real_server, "Edit")
    field = page.get_by_label("Edits", exact=True)
    field.fill("+3,+4")
    field.press("Enter")
    settled(page)
    page.get_by_role("radio", name="Beam").click()
    settled(page)
    expect(page.get_by_text("This is for the edited history")).to_be_visible()
    page.get_by_role("radio", name="Edit").click()
    settled(page)
    expect(page.get_by_label("Edits", exact=True)).to_have_value("+3,+4")


def test_the_end_of_a_branch_is_an_item_to_be_explained(page: Page, real_server: Server) -> None:
    opened(page, real_server, "Beam")
    expect(page.get_by_text(re.compile("lea(f|ves) of the list ha"))).to_be_visible()
    for name in ("kept", "below the list", "leads to no item"):
        expect(page.locator(".legendtext", has_text=name)).to_be_visible()
    last = (
        page.locator(".js-plotly-plot .scatterlayer .trace")
        .filter(has=page.locator(".point"))
        .first.locator(".point")
    )
    places = [box for point in last.all() if (box := point.bounding_box())]
    end = max(places, key=lambda box: (box["x"], -box["y"]))
    page.mouse.click(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2)
    item = page.get_by_test_id("stSidebar").get_by_label("Item", exact=True)
    expect(item).not_to_have_value("")
    page.get_by_role("radio", name="Why").click()
    settled(page)
    expect(page.get_by_text("Leave one out is the truth")).to_be_visible()
    expect(page.get_by_text("Code by code")).to_be_visible()


@pytest.mark.parametrize("view", ["Why", "Beam", "Edit", "Compare"])
def test_every_view_looks_right(page: Page, real_server: Server, view: str) -> None:
    assert faults(opened(page, real_server, view)) == []
