"""The site builds without a warning, loads nothing from the network, and its links within itself lead somewhere."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

pytestmark = pytest.mark.docs
ROOT = Path(__file__).parents[1]
#: Attributes by which a page loads something, by element; links that a reader clicks are no load.
LOADS = {
    "img": "src",
    "script": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}


class Page(HTMLParser):
    """What a page loads and links to, and the places in it that links can name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.names |= {values[name] for name in ("id", "name") if name in values}
        target = values.get(LOADS.get(tag, ""), "")
        if target:
            self.loads.append(target)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[Path, Page]:
    pytest.importorskip("furo", reason="the extra docs is not installed")
    if "docs" not in request.config.getoption("-m"):
        pytest.skip("builds the site, two minutes of CPU: run it with -m docs")
    out = tmp_path_factory.mktemp("site") / "html"
    # notebooks are executed by tests of their own
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-D",
        "nb_execution_mode=off",
        str(ROOT / "docs"),
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(out.rglob("*.html"))}


def test_no_page_loads_anything_from_the_network(site: dict[Path, Page]) -> None:
    assert len(site) > 60
    found = {
        f"{path.name}: {load}" for path, page in site.items() for load in page.loads if re.match(r"(https?:)?//", load)
    }
    styles = {
        path.name
        for path in next(iter(site)).parent.rglob("*.css")
        if re.search(r"url\(['\"]?(https?:)?//", path.read_text())
    }
    assert not found | styles


def test_links_within_the_site_lead_somewhere(site: dict[Path, Page]) -> None:
    assert not sorted(_broken(site))


def _broken(site: dict[Path, Page]) -> Iterator[str]:
    for path, page in site.items():
        for link in page.links:
            name, fragment = urldefrag(link)
            if ":" in name or name.startswith("//"):
                continue
            target = (path.parent / unquote(name)).resolve() if name else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                yield f"{path.name}: {link}"
            elif fragment and target in site and unquote(fragment) not in site[target].names:
                yield f"{path.name}: {link} (no such place)"


def test_results_are_described_with_what_they_inherit_and_nothing_else_is(site: dict[Path, Page]) -> None:
    names = {path.name: page.names for path, page in site.items() if path.parent.name == "api"}
    methods = {f"mmlens.patching.PatchSweep.{method}" for method in ("view", "plot", "save", "load", "to_frame")}
    assert methods <= names["patching.html"]
    assert "mmlens.errors.InputError.add_note" not in names["errors.html"]
    assert "mmlens.neurons.Units.isdisjoint" not in names["neurons.html"]
