"""The viewer in a real browser: what hover, keys and buttons show, and that it leaves the page around it alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmlens.viz.page.pack import Pack, PackArray
from mmlens.viz.page.show import show

pytestmark = pytest.mark.browser
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LAYERS, SIDE = 3, 4
#: Milliseconds that a frame takes while the pointer moves over the picture.
HOVER = """async () => {
  const stage = document.querySelector('.mmlens-view').shadowRoot.querySelector('.stage'), box = stage.getBoundingClientRect();
  const start = performance.now();
  for (let i = 0; i < 20; i++) {
    stage.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + 5 + 10 * i, clientY: box.top + 40}));
    await new Promise(requestAnimationFrame);
  }
  return (performance.now() - start) / 20;
}"""


def pack() -> Pack:
    """An array over a picture of 4 x 4 patches and three layers, 10 l + p, its control, half of it, and a matrix of heads."""
    values = 10.0 * np.arange(LAYERS)[:, None] + np.arange(SIDE**2)[None]
    edges = np.arange(SIDE) * 24.0
    top, left = np.meshgrid(edges, edges, indexing="ij")
    return Pack(
        "the answer, in nats",
        arrays=(
            PackArray("a", "effects", values, ("layer", "patch"), "nats", control="b"),
            PackArray("b", "control", values / 2, ("layer", "patch"), "nats"),
            PackArray("shares", "share of the picture", np.arange(6.0).reshape(LAYERS, 2) / 6, ("layer", "head")),
        ),
        picture=Image.new("RGB", (96, 96), (120, 150, 110)),
        boxes=np.stack([left, top, left + 24, top + 24], -1).reshape(-1, 4),
        labels={"layer": ["first", "second", "third"]},
    )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install mmlens[browser]")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page on which no error and no request is allowed."""
    page = chromium.new_page(viewport={"width": 900, "height": 700})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else problems.append(request.url),
    )
    yield page
    page.close()
    assert problems == []


def opened(page: Any, folder: Path, html: str) -> Any:
    """The page, once every viewer on it is ready."""
    path = folder / "page.html"
    path.write_text(f"<!doctype html><html><body>{html}</body></html>", encoding="utf-8")
    page.goto(path.as_uri())
    page.wait_for_function("[...document.querySelectorAll('.mmlens-view')].every(host => host.dataset.ready)")
    return page


def status(page: Any) -> str:
    return page.locator(".status").first.inner_text()


def hover(page: Any, patch: int) -> None:
    box = page.locator(".stage").first.bounding_box()
    row, column = divmod(patch, SIDE)
    page.mouse.move(box["x"] + (column + 0.5) / SIDE * box["width"], box["y"] + (row + 0.5) / SIDE * box["height"])


def test_hover_reads_the_patch_and_its_control(page: Any, tmp_path: Path) -> None:
    opened(page, tmp_path, show(pack()).html)
    hover(page, 6)
    page.wait_for_function(
        "document.querySelector('.mmlens-view').shadowRoot.querySelector('.status').textContent.includes('patch')"
    )
    assert status(page) == "patch 6: 6 nats; control 3"
    page.locator("input[type=range]").evaluate(
        "slider => { slider.value = 2; slider.dispatchEvent(new Event('input')); }"
    )
    page.wait_for_timeout(100)
    assert "26 nats; control 13" in status(page)


def test_keys_move_the_slider_and_the_matrix_and_reach_nobody_else(page: Any, tmp_path: Path) -> None:
    opened(page, tmp_path, show(pack()).html)
    page.evaluate("window.keys = []; document.addEventListener('keydown', event => window.keys.push(event.key))")
    page.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(100)
    assert page.locator("output").inner_text() == "second"
    page.locator("[role=grid]").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(100)
    assert page.locator("output").inner_text() == "third"
    chosen = page.locator("td[aria-selected=true]")
    assert chosen.count() == 1
    assert chosen.get_attribute("title").startswith("third 1: 0.83")
    page.keyboard.press("a")  # would insert a cell in Jupyter
    assert page.evaluate("window.keys") == []


def test_patches_that_are_clicked_become_code(page: Any, tmp_path: Path) -> None:
    opened(page, tmp_path, show(pack()).html)
    for patch in (5, 2):
        hover(page, patch)
        page.mouse.down()
        page.mouse.up()
    page.wait_for_timeout(100)
    assert page.locator("code").inner_text() == "rows = [2, 5]"


def test_two_viewers_of_one_result_live_side_by_side(page: Any, tmp_path: Path) -> None:
    html = show(pack()).html
    opened(page, tmp_path, html + html)
    sliders = page.locator("input[type=range]")
    assert sliders.count() == 2
    sliders.nth(1).evaluate("slider => { slider.value = 1; slider.dispatchEvent(new Event('input')); }")
    page.wait_for_timeout(100)
    assert page.locator("output").all_inner_texts() == ["first", "second"]


def test_nothing_overflows_a_narrow_page_and_dark_is_dark(chromium: Any, tmp_path: Path) -> None:
    page = chromium.new_page(viewport={"width": 420, "height": 700}, color_scheme="dark")
    opened(page, tmp_path, show(pack()).html)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    ground = page.locator("section").evaluate("section => getComputedStyle(section).backgroundColor")
    assert ground == "rgb(22, 22, 28)"
    page.close()


def test_without_scripts_the_still_picture_and_the_answer_are_seen(chromium: Any, tmp_path: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    path = tmp_path / "page.html"
    path.write_text(f"<body>{show(pack()).html}</body>", encoding="utf-8")
    page.goto(path.as_uri())
    assert page.locator("img").is_visible()
    assert page.locator("[data-still]").inner_text() == "the answer, in nats"
    context.close()


def test_the_first_paint_of_a_large_view_takes_less_than_a_second(page: Any, tmp_path: Path) -> None:
    side, layers = 24, 32
    edges = np.arange(side) * 14.0
    top, left = np.meshgrid(edges, edges, indexing="ij")
    values = np.random.default_rng(0).random((layers, 20, side**2))
    large = Pack(
        "large",
        arrays=(PackArray("a", "a", values, ("layer", "token", "patch"), limit="each"),),
        picture=Image.new("RGB", (336, 336)),
        boxes=np.stack([left, top, left + 14, top + 14], -1).reshape(-1, 4),
    )
    opened(page, tmp_path, show(large).html)
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].duration")
    hover_ms = page.evaluate(HOVER)
    # a shared machine may take several times as long as the 1 s and 50 ms that are meant
    assert timing < 5_000
    assert hover_ms < 250
