"""Views that answer: what is chosen in the browser are traits of the widget, and the other way round."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmlens.core.errors import InputError
from mmlens.viz.page.show import show
from tests.viz.page.test_browser import chromium, pack, page  # noqa: F401 - fixtures

pytest.importorskip("anywidget", reason="needs anywidget: pip install mmlens[widget]")
TRAITS = ("array", "head", "item", "layer", "run", "selected", "token")
#: A kernel's side of a widget, as far as a view speaks to it.
MODEL = """class Model {
  constructor(values) { this.values = values; this.heard = {}; this.saved = 0; }
  get(name) { return this.values[name]; }
  set(name, value) { this.values[name] = value; }
  on(name, function_) { (this.heard[name] ??= []).push(function_); }
  save_changes() { this.saved += 1; }
  change(name, value) { this.values[name] = value; for (const f of this.heard[`change:${name}`] ?? []) f(); }
}"""


def test_a_widget_has_what_can_be_chosen_and_no_script_in_its_piece() -> None:
    widget = show(pack()).live()
    assert {name for name in TRAITS if widget.has_trait(name)} == set(TRAITS)
    assert "mmlens-view" in widget.piece
    assert "<script>" not in widget.piece


def test_without_anywidget_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "anywidget", None)
    with pytest.raises(InputError, match=r"pip install 'mmlens\[widget\]'"):
        show(pack()).live()


@pytest.mark.browser
def test_clicks_become_traits_and_traits_are_shown(page: Any, tmp_path: Path) -> None:  # noqa: F811
    widget = show(pack()).live()
    esm = str(widget._esm).replace("export default", "window.widget =")
    piece = json.dumps(widget.piece).replace("</", "<\\/")
    path = tmp_path / "page.html"
    path.write_text(
        f'<!doctype html><html><body><div id="el"></div><script>{esm}\n{MODEL}\n'
        f"window.model = new Model({{piece: {piece}}});"
        'widget.render({model, el: document.getElementById("el")});</script></body></html>',
        encoding="utf-8",
    )
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelector('.mmlens-view')?.dataset.ready")
    assert page.evaluate("[model.get('array'), model.get('layer')]") == ["a", 0]
    stage = page.locator(".mmlens-view .stage").first
    size = stage.bounding_box()
    stage.click(position={"x": size["width"] * 0.4, "y": size["height"] * 0.1})  # the second of four columns, first row
    page.wait_for_function("model.get('selected').length")
    assert page.evaluate("model.get('selected')") == [1]
    page.evaluate("model.change('layer', 2)")
    page.wait_for_function(
        "document.querySelector('.mmlens-view').shadowRoot.querySelector('output').textContent === 'third'"
    )
    page.evaluate("model.change('selected', [3, 4])")
    page.wait_for_function("document.querySelector('.mmlens-view').mmlens.seen().selected.length === 2")
