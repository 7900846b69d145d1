"""The README's pictures of the app, taken of the shipped demo: `make pictures`."""

import io
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "tests" / "browser"))

from app_server import ROOT, serve, settled  # noqa: E402

SIZE = {"width": 1320, "height": 900}
CHROMIUMS = ("chromium-headless-shell", "chromium", "chromium-browser")
COLOURS = 256  # of a palette: a quarter of the bytes, and no difference to see
# name: the page's address
TAKEN = {
    "recommend": "recommend",
    "tokenizer": "tokenizer?tokens_view=Tree",
    "playground": "playground",
    "routing": "routing?routing_view=Flow",
    "ecpo": "ecpo",
}


def take(page: Page, url: str) -> Image.Image:
    """What a visitor sees."""
    page.goto(url)
    settled(page)
    page.wait_for_timeout(3_000)  # figures are drawn after the script has run
    settled(page)
    return Image.open(io.BytesIO(page.screenshot()))


def main() -> None:
    chromium = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        where = Path(folder)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        with contextmanager(serve)(where / "home", ROOT / "data/demo", where / "log") as server:
            for name, path in TAKEN.items():
                picture = take(page, f"{server.url}/{path}").convert("RGB")
                picture.quantize(COLOURS).save(DOCS / f"{name}.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
