"""Pages whose code runs: blocks one after the other in one namespace, for the tests and, with results, for the site.

What runs of a page in Markdown:

- fences of `python`; `python raises` ends in an error of mmlens, `python needs captum` runs where captum is installed, and
  `python skip: why` does not run;
- comments `<!-- python ... -->`, which no reader sees: what a page takes for granted;
- below `<!-- code of column N -->`, the code in that column of a table, row by row.
"""

import ast
import base64
import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
#: Pages that the tests run in a place of their own, because they need files.
ELSEWHERE = {"dual_encoders.md": "tests/checkpoints/test_dual_encoders.py"}
_PARTS = re.compile(
    r"^```python(?P<how>[^\n]*)\n(?P<code>.*?)^```$|^<!-- python\n(?P<hidden>.*?)^-->$"
    r"|^<!-- code of column (?P<column>\d) -->\n(?P<table>(?:\|[^\n]*\n)+)",
    flags=re.DOTALL | re.MULTILINE,
)
_LONGEST = 1_500  # letters of a result that is shown as text


@dataclass(frozen=True)
class Block:
    """A piece of code of a page.

    Attributes:
        code: as it is run.
        line: of the page, on which it begins.
        end: where it ends in the text of the page.
        how: what stands behind "python" on its first line, or "hidden", or "table".
    """

    code: str
    line: int
    end: int
    how: str = ""


def pages() -> list[Path]:
    """README and all pages of the documentation that have code."""
    found = [FOLDER.parent / "README.md", *sorted(FOLDER.rglob("*.md"))]
    return [page for page in found if page.name not in ELSEWHERE and blocks(page.read_text(encoding="utf-8"))]


def blocks(text: str) -> list[Block]:
    """The code of a page, in its order."""
    found: list[Block] = []
    for part in _PARTS.finditer(text):
        line = text.count("\n", 0, part.start()) + 2
        if part["table"]:
            for number, row in enumerate(part["table"].splitlines()[2:], line + 2):
                cell = re.split(r"(?<!\\)\|", row)[int(part["column"])]
                code = "\n".join(re.findall(r"`([^`]+)`", cell)).replace("\\|", "|")
                found.append(Block(code, number, part.end(), "table"))
        elif part["hidden"]:
            found.append(Block(part["hidden"], line, part.end(), "hidden"))
        elif part["code"] is not None:
            found.append(Block(part["code"], line, part.end(), part["how"].strip()))
    return found


def run(page: Path, names: dict[str, Any] | None = None) -> Iterator[tuple[Block, Any]]:
    """Run a page: each block with the value of its last expression, or the error that it is there to show.

    Args:
        page: its file.
        names: what its code finds, and leaves.

    Raises:
        AssertionError: if a block that should end in an error does not.
    """
    from mmlens.errors import MMLensError

    names = {} if names is None else names
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.how.startswith("skip:") or (block.how[:6] == "needs " and not find_spec(block.how[6:])):
            yield block, None
            continue
        tree = ast.increment_lineno(ast.parse(block.code), block.line - 1)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        try:
            exec(compile(tree, str(page), "exec"), names)
            value = None if last is None else eval(compile(ast.Expression(last.value), str(page), "eval"), names)  # type: ignore[attr-defined]
        except MMLensError as error:
            if block.how != "raises":
                raise
            yield block, error
            continue
        assert block.how != "raises", f"{page.name}, line {block.line}: this should be an error"
        yield block, value


def html_of(value: Any) -> str | None:
    """How a page shows a value: as a notebook would, in the first form that it has; None for what is not worth showing."""
    for form in ("html", "svg"):
        shown = getattr(value, f"_repr_{form}_", lambda: None)()  # matplotlib's figures have an empty form in HTML
        if shown:
            return f'<div class="result">{shown}</div>'
    if hasattr(value, "_repr_png_"):
        data = base64.b64encode(value._repr_png_()).decode()
        return f'<div class="result"><img alt="" src="data:image/png;base64,{data}"></div>'
    if isinstance(value, Exception):
        return f'<pre class="result error">{type(value).__name__}: {escape(str(value))}</pre>'
    if type(value) is tuple:  # of pictures and tables, each as it is alone
        parts = [html_of(part) for part in value]
        if any(part and not part.startswith("<pre") for part in parts):
            return "\n".join(filter(None, parts))
    text = value if isinstance(value, str) else repr(value)
    return None if value is None or len(text) > _LONGEST else f'<pre class="result">{escape(text)}</pre>'


def with_results(page: Path, text: str, folder: Path) -> str:
    """The text of a page with the result of each block behind it, which a file in `folder` holds."""
    folder.mkdir(parents=True, exist_ok=True)
    parts, begin, table = [], 0, -1
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place), contextlib.redirect_stderr(io.StringIO()):
        found = list(run(page))  # what is written to the standard error is progress bars
    for number, (block, value) in enumerate(found):
        parts.append(text[begin : block.end] if block.end != table else "")
        begin = table = block.end
        shown = html_of(value) if (block.how or "raises").startswith(("raises", "needs")) else None
        if shown is not None:
            file = folder / f"{page.stem}_{number}.html"
            file.write_text(shown, encoding="utf-8")
            parts.append(f"\n\n```{{raw}} html\n:file: {os.path.relpath(file, page.parent)}\n```\n")
    return re.sub(
        r"^<!-- (?:python\n.*?|code of column \d )-->\n", "", "".join(parts) + text[begin:], flags=re.S | re.M
    )


def setup(app: Any) -> dict[str, bool]:
    """As an extension of Sphinx."""

    def read(app: Any, name: str, source: list[str]) -> None:
        page = Path(app.env.doc2path(name))
        if page in known:
            source[0] = with_results(page, source[0], Path(app.doctreedir) / "results" / Path(name).parent)

    known = set(pages())
    app.connect("source-read", read)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
