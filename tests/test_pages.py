"""All code of the documentation runs as it stands, each page from top to bottom."""

import re
from pathlib import Path
from typing import Any

import pytest

from docs import executed
from mmlens.core.errors import MMLensError

#: Pages that have tests of their own.
TESTED = ("README.md", "docs/asks.md", "docs/interop.md", "docs/howto/where_a_colour_travels.md")
PAGES = {page.relative_to(executed.FOLDER.parent).as_posix(): page for page in executed.pages()}


@pytest.mark.parametrize("name", [name for name in PAGES if name not in TESTED])
def test_the_code_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = [value for block, value in executed.run(PAGES[name], names) if block.how in ("", "raises")]
    if "howto/" in name:
        pictures = [value for value in shown if re.search("<img|<svg", executed.html_of(value) or "")]
        assert pictures, "it ends in a picture"
    if "errors/" in name:
        guides = [value.guide.split("/")[-1] for value in shown if isinstance(value, MMLensError)]
        assert Path(name).name in guides, "a page shows an error that leads to it"


def test_what_does_not_run_has_a_reason() -> None:
    skipped = {
        name: block.how[5:]
        for name, page in PAGES.items()
        for block in executed.blocks(page.read_text(encoding="utf-8"))
        if block.how.startswith("skip")
    }
    assert skipped == dict.fromkeys(("README.md", "docs/howto/own_model.md", "docs/start.md"), " needs a checkpoint")


def test_every_error_leads_to_a_page() -> None:
    kinds = [MMLensError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    from mmlens.core import errors

    pages = {kind.page for kind in kinds if kind.page} | set(errors._OF_MODULES.values())
    assert {page.stem for page in (executed.FOLDER / "errors").glob("*.md")} == {*pages, "index"}
    assert MMLensError("x").guide.endswith("/docs/errors/analysis.md"), "without a traceback, the most general"


def test_code_is_found_in_each_form() -> None:
    text = (
        "<!-- python\nx = 1\n-->\n\n```python\nx\n```\n\n```python skip: no\ny\n```\n\n"
        "<!-- code of column 2 -->\n| a | b |\n|---|---|\n| `p` | `x + 1`<br>`x` |\n"
    )
    assert [(block.code, block.how, block.line) for block in executed.blocks(text)] == [
        ("x = 1\n", "hidden", 2),
        ("x\n", "", 6),
        ("y\n", "skip: no", 10),
        ("x + 1\nx", "table", 16),
    ]
