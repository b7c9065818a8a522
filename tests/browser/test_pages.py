"""The pages in a real browser: an image goes in, the answer and what the network saw come out."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, sync_playwright

from tests.factory import color_image, publish_colors
from tests.running import Running, serving

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    store = tmp_path_factory.mktemp("store")
    publish_colors(store)
    publish_colors(store, "shades", size=16)
    with serving(store, "colors") as running:
        yield running


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page that fails the test on a script error, a console error or a request to another host."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        # Without a system browser, the one that `playwright install chromium` put there.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


@pytest.fixture
def faults(page: Page, server: Running) -> Iterator[list[str]]:
    seen: list[str] = []

    def watch(request: Request) -> None:
        if not request.url.startswith((server.url, "blob:", "data:")):
            seen.append(request.url)

    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", watch)
    yield seen
    assert seen == []


def test_an_image_is_classified_and_explained(page: Page, server: Running, faults: list[str], tmp_path: Path) -> None:
    image = tmp_path / "the captain's sea.png"
    image.write_bytes(color_image("blue", (40, 30)))
    page.goto(server.url)
    page.wait_for_selector("#model option:nth-child(2)", state="attached")
    assert page.input_value("#model") == "colors"
    page.wait_for_selector("#knows:has-text('3 labels')")
    assert (page.text_content("#knows") or "").endswith(": red, green, blue.")
    assert page.is_hidden("#key")
    page.set_input_files("#file", str(image))
    page.wait_for_selector("#answer:not([hidden])")
    assert page.text_content("#rows tr:first-child td:first-child") == "blue"
    assert "colors version 1 (fp32) · PNG 40x30" in (page.text_content("#about") or "")
    sizes = [page.evaluate(f"document.getElementById('{name}').naturalWidth") for name in ("given", "saw", "why")]
    assert sizes[:2] == [40, 8]
    assert sizes[2] >= 224
    assert page.text_content("#method") == "What decided (cam)"
    assert (page.text_content("#best") or "").startswith("blue, ")
    assert page.text_content("#busy") == ""
    shell = page.text_content("#shell") or ""
    done = subprocess.run(["bash", "-c", f"{shell} -sS"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["predictions"][0]["label"] == "blue"


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_nothing_is_wider_than_the_screen(
    page: Page, server: Running, faults: list[str], tmp_path: Path, path: str, width: int
) -> None:
    image = tmp_path / "sea.png"
    image.write_bytes(color_image("blue", (400, 30)))
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(server.url + path)
    if path == "/":
        page.set_input_files("#file", str(image))
        page.wait_for_selector("#answer:not([hidden])")
        page.click("summary:has-text('whole answer')")
    else:
        page.wait_for_selector("#schemas details")
        page.click("summary:has-text('/explain')")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_bad_file_is_explained_in_words(page: Page, server: Running, faults: list[str], tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no image")
    page.goto(server.url)
    page.set_input_files("#file", str(text))
    page.wait_for_selector("#error:has-text('(')")
    assert "(image.unsupported_format)" in (page.text_content("#error") or "")
    assert page.is_hidden("#answer")


def test_the_documentation_lists_every_operation(page: Page, server: Running, faults: list[str]) -> None:
    page.goto(f"{server.url}/docs")
    page.wait_for_selector("#schemas details")
    listed = page.eval_on_selector_all("#operations summary code", "all => all.map(one => one.textContent)")
    for path in (
        "/predict",
        "/explain",
        "/v2/models/{model}/infer",
        "/v1/models/{model}:predict",
        "/predictions/{model}",
    ):
        assert path in listed
    page.click("summary:has-text('/explain')")
    assert page.is_visible("td:has-text('overlay | pixels | numbers')")
