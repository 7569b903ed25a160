"""The notebooks of the course from their sources: `python notebooks/course/build.py`.

A source is a Python file in percent form. What stands between `### BEGIN SOLUTION` and `### END SOLUTION` becomes
`answer = ...` in the notebook, and the solution a folded cell below. Notebooks are stored without outputs.
"""

import re
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
_SOLUTION = re.compile(r"^### BEGIN SOLUTION\n(.*?)^### END SOLUTION\n?", re.DOTALL | re.MULTILINE)


def unit(source: Path, *, solved: bool = False) -> nbformat.NotebookNode:
    """The notebook of a source.

    Args:
        source: the file in percent form.
        solved: with the solutions in the place of `answer = ...`, and nothing folded.
    """
    book = jupytext.read(source)
    cells = []
    for cell in book.cells:
        cell.source = cell.source.strip("\n")  # the formatter may leave a line between a cell's mark and its imports
        solution = _SOLUTION.search(cell.source + "\n") if cell.cell_type == "code" else None
        if solution is not None:
            text = solution[1] if solved else "answer = ...\n"
            cell.source = _SOLUTION.sub(lambda _: text, cell.source + "\n").strip()  # noqa: B023
        cells.append(cell)
        if solution is not None and not solved:
            folded = f"<details><summary>Solution</summary>\n\n```python\n{solution[1].strip()}\n```\n\n</details>"
            cells.append(nbformat.v4.new_markdown_cell(folded))
    for number, cell in enumerate(cells):
        cell.metadata, cell["id"] = {}, f"cell-{number}"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def written(source: Path) -> str:
    """The notebook of a source as text, as it is stored."""
    return nbformat.writes(unit(source)) + "\n"


if __name__ == "__main__":
    for path in SOURCES:
        path.with_suffix(".ipynb").write_text(written(path), encoding="utf-8")
