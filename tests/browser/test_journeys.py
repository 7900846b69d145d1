"""What a person does, in a real browser: open, follow a link, train and reload, look at a user."""

import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_run
import pytest
from app_server import Server, serve, settled
from playwright.sync_api import Browser, FilePayload, FloatRect, Locator, Page, expect

pytestmark = pytest.mark.browser
Visit = Callable[[str], Page]


def centre(page: Page, box: FloatRect | None) -> None:
    """Click where a figure has drawn something: its marks lie below an invisible layer."""
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def no_exception(page: Page) -> None:
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_dark_pages_are_dark(browser: Browser, server: Server) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(server.url)
    settled(page)
    colour = page.evaluate(
        "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
    )
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 60
    context.close()


def test_the_view_goes_through_the_url_and_back(visit: Visit, page: Page, server: Server) -> None:
    visit("tokenizer?run=toy_run&item=5&tokens_view=Map")
    sidebar = page.get_by_test_id("stSidebar")
    expect(sidebar.get_by_label("Item", exact=True)).to_have_value("5")
    page.get_by_role("radio", name="Codebooks").click()
    settled(page)
    expect(page).to_have_url(re.compile("tokens_view=Codebooks"))
    sidebar.get_by_role("button", name="Copy link").click()
    address = page.get_by_test_id("stPopoverBody").locator("code").inner_text()
    assert address.startswith(f"{server.url}/tokenizer?")
    page.goto(address)
    settled(page)
    expect(page.get_by_test_id("stSidebar").get_by_label("Item", exact=True)).to_have_value("5")
    expect(page.get_by_text("Codebook", exact=False).first).to_be_visible()


def test_a_bad_parameter_falls_back_and_says_so(visit: Visit) -> None:
    page = visit("tokenizer?run=gone&tokens_view=Nonsense&item=banana")
    expect(page.get_by_text("“Run” to “gone”, which is not here")).to_be_visible()
    expect(page.get_by_text("“Show” to “Nonsense”, which is not here")).to_be_visible()
    expect(page.get_by_text("Item “banana” is not a whole number")).to_be_visible()
    no_exception(page)


def test_a_click_on_the_map_shows_the_item(visit: Visit) -> None:
    page = visit("tokenizer")
    point = page.locator(".js-plotly-plot .scatterlayer .point").nth(3)
    expect(point).to_be_visible()
    point.scroll_into_view_if_needed()
    centre(page, point.bounding_box())
    expect(page.get_by_test_id("stSidebar").get_by_label("Item", exact=True)).not_to_have_value("")
    expect(page.get_by_text("nearest to", exact=False).first).to_be_visible()
    expect(page).to_have_url(re.compile(r"item=\d+"))


def test_a_line_around_points_of_the_map_lists_those_items(visit: Visit) -> None:
    page = visit("tokenizer")
    points = page.locator(".js-plotly-plot .scatterlayer .point")
    expect(points.nth(3)).to_be_visible()
    page.locator(".js-plotly-plot .modebar-btn[data-val=lasso]").click()
    layer = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    assert layer is not None
    boxes = [box for point in points.all() if (box := point.bounding_box())]
    inside = sum(box["x"] + box["width"] / 2 < layer["x"] + layer["width"] / 2 for box in boxes)
    assert 1 < inside < len(boxes)
    left, right = layer["x"] + 2, layer["x"] + layer["width"] / 2
    top, bottom = layer["y"] + 2, layer["y"] + layer["height"] - 2
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.mouse.move(x, y, steps=8)
    page.mouse.up()
    expect(page.get_by_text(f"{inside} items in your selection")).to_be_visible()
    expect(page.get_by_test_id("stSidebar").get_by_label("Item", exact=True)).to_have_value("")
    page.mouse.dblclick(right + 5, top + 5)
    expect(page.get_by_text("items in your selection")).to_have_count(0)


def test_a_file_of_ones_own_becomes_the_dataset(page: Page, own_server: Server) -> None:
    page.goto(f"{own_server.url}/dataset?dataset_view=Import")
    settled(page)  # a page that is still being written loses what is handed to it
    log = "who,item_id,timestamp\n" + "".join(
        f"u{user},i{(user + step) % 6},{1_700_000_000 + step * 86_400}\n"
        for user in range(8)
        for step in range(5)
    )
    upload: FilePayload = {"name": "log.csv", "mimeType": "text/csv", "buffer": log.encode()}
    uploads = page.get_by_test_id("stFileUploader")
    expect(uploads).to_have_count(3)  # the first of fewer may end as another's
    page.wait_for_load_state("networkidle")
    uploads.filter(has_text="Interactions").locator("input[type=file]").set_input_files(upload)
    expect(page.get_by_text("Choose above which column is user_id")).to_be_visible(timeout=20_000)
    expect(page.get_by_role("button", name="Import", exact=True)).to_be_disabled()
    page.get_by_role("combobox", name="user_id *").click()
    page.get_by_role("option", name="who").click()
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_text("Dataset mydata is ready")).to_be_visible(timeout=20_000)
    expect(page).to_have_url(re.compile("dataset=mydata"))
    no_exception(page)


def test_two_people_do_not_disturb_each_other(browser: Browser, server: Server) -> None:
    """Two browsers on one server: each keeps its own user, item, page and view."""
    one, other = (browser.new_context().new_page() for _ in range(2))
    one.goto(f"{server.url}/recommend?user=4")
    other.goto(f"{server.url}/recommend?user=6&item=1")
    for page in (one, other):
        settled(page)

    def box(page: Page, label: str) -> Locator:
        return page.get_by_test_id("stSidebar").get_by_label(label, exact=True)

    def shows(page: Page, user: str, item: str) -> None:
        expect(box(page, "User")).to_have_value(user)
        expect(box(page, "Item")).to_have_value(item)

    shows(one, "4", "")
    shows(other, "6", "1")
    box(one, "User").fill("8")
    box(one, "User").press("Enter")
    expect(one.get_by_text(re.compile("User u08"))).to_be_visible()
    other.get_by_test_id("stSidebarNav").get_by_role("link", name="Tokenizer").click()
    expect(other.get_by_text("nearest to", exact=False).first).to_be_visible(timeout=20_000)
    other.get_by_role("radio", name="Tree").click()
    expect(other).to_have_url(re.compile("tokens_view=Tree"))
    shows(one, "8", "")
    shows(other, "6", "1")
    one.get_by_test_id("stSidebar").get_by_role("button", name="Clear").click()
    shows(one, "", "")
    other.reload()
    shows(other, "6", "1")
    for page in (one, other):
        no_exception(page)
        page.context.close()


def test_two_runs_are_compared(page: Page, own_server: Server) -> None:
    """Results with both runs' bars, curves over one another, and only the setting that differs."""
    shutil.copytree(own_server.home / "runs" / "toy_run", own_server.home / "runs" / "longer")
    recipe = own_server.home / "runs" / "longer" / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"steps": 60', '"steps": 90'))
    page.goto(f"{own_server.url}/runs")
    settled(page)
    figure = page.locator(".js-plotly-plot")
    expect(figure.locator(".legendtext").get_by_text("longer")).to_be_visible(timeout=20_000)
    expect(figure.locator(".legendtext").get_by_text("toy_run")).to_be_visible()
    page.get_by_role("radio", name="Curves").click()
    expect(page.get_by_text("Both have the same loss")).to_be_visible()
    expect(figure.locator(".legendtext")).to_have_count(2)
    page.get_by_role("radio", name="Settings").click()
    expect(page.get_by_text("Only the settings that differ", exact=True)).to_be_visible()
    expect(page.get_by_text("onerec runs compare longer toy_run")).to_be_visible()
    page.reload()
    settled(page)
    expect(page.get_by_text("Only the settings that differ", exact=True)).to_be_visible()
    cells = page.get_by_test_id("stDataFrame").last.locator("td")
    expect(cells.filter(has_text="train.steps")).to_have_count(1)
    no_exception(page)


def test_a_click_in_the_tree_drills_down_and_back(visit: Visit) -> None:
    page = visit("tokenizer?tokens_view=Tree")
    code = page.get_by_test_id("stSidebar").get_by_label("Code", exact=True)
    branch = page.locator(".js-plotly-plot .slice").nth(1)
    expect(branch).to_be_visible()
    centre(page, branch.bounding_box())
    expect(code).to_have_value(re.compile(r"^\d+$"))
    expect(page.get_by_text("with a name that begins")).to_be_visible()
    page.get_by_role("button", name="Back to the whole tree").click()
    expect(code).to_have_value("")


def test_a_selection_follows_from_page_to_page(visit: Visit) -> None:
    page = visit("recommend?user=4")
    expect(page.get_by_test_id("stSidebar").get_by_label("User", exact=True)).to_have_value("4")
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Dataset").click()
    settled(page)
    expect(page.get_by_test_id("stSidebar").get_by_label("User", exact=True)).to_have_value("4")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """The app over a home of its own, which the test may train in."""
    fake_run.build(tmp_path / "home")
    yield from serve(tmp_path / "home", tmp_path / "no_demo", tmp_path / "server.log")
    for launch in (tmp_path / "home" / "runs").glob("*/launch.json"):  # a trainer outlives a server
        with contextlib.suppress(ProcessLookupError):
            os.killpg(json.loads(launch.read_text())["pid"], signal.SIGKILL)


def test_train_reload_in_the_middle_and_look_at_a_user(page: Page, own_server: Server) -> None:
    """The real `onerec run`: start, pause, one step, reload, go on to the end, open a user."""
    page.set_default_timeout(30_000)
    page.goto(f"{own_server.url}/train")
    settled(page)
    page.get_by_label("Name of the run").fill("journey")
    settings = "train.steps=300\ntrain.batch_size=16\nbaselines.names=popularity"
    page.get_by_role("textbox", name="Settings that differ").fill(settings)
    page.get_by_role("textbox", name="Settings that differ").press("Control+Enter")
    expect(page.get_by_text("--run journey")).to_be_visible(timeout=15_000)
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("heading", name="Run journey")).to_be_visible(timeout=30_000)
    expect(page.get_by_text(re.compile(r"pretrain: step \d"))).to_be_visible(timeout=120_000)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("heading", name=re.compile("journey .*paused"))).to_be_visible(
        timeout=30_000
    )
    status = own_server.home / "runs" / "journey" / "status.json"
    at = int(json.loads(status.read_text())["step"])  # the heading may be there before the bar
    expect(page.get_by_text(f"pretrain: step {at} of 300")).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="One step").click()
    expect(page.get_by_text(f"pretrain: step {at + 1} of 300")).to_be_visible(timeout=30_000)
    page.reload()
    expect(page.get_by_role("heading", name="Run journey")).to_be_visible(timeout=30_000)
    expect(page).to_have_url(re.compile("run=journey"))
    assert step_of(page) == at + 1
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("heading", name=re.compile("journey .*done"))).to_be_visible(
        timeout=180_000
    )
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Recommend").click()
    expect(page.get_by_text("What it says next")).to_be_visible(timeout=30_000)
    expect(page).to_have_url(re.compile("recommend.*run=journey"))
    no_exception(page)


def step_of(page: Page) -> int:
    """The step that the progress bar names."""
    text = page.get_by_text(re.compile(r"pretrain: step \d")).inner_text()
    return int(re.search(r"step ([\d,]+)", text)[1].replace(",", ""))  # type: ignore[index]
