"""Views: results as self-contained HTML, and the way in which every result shows itself in a notebook."""

import base64
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.core.kinds import PathLike
from mmlens.core.pictures import drawn_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
    'initial-scale=1"><title>{title}</title><style>body{{margin:0;padding:12px}}@media(prefers-color-scheme:dark)'
    "{{body{{background:#16161c}}}}</style></head><body>{body}</body></html>"
)


@dataclass(frozen=True)
class View:
    """A result as it is looked at: a piece of HTML that needs no network, and what stands in its place without scripts.

    Attributes:
        html: the piece, to be put into a page as it is.
        text: the answer in a line.
        still: a picture (PNG) for places that show no HTML; None where there is none.
    """

    html: str = field(repr=False)
    text: str
    still: bytes | None = field(default=None, repr=False)

    @checked
    def save(self, path: PathLike) -> Path:
        """Write it as a page of its own, whole or not at all.

        Args:
            path: ends in .html.

        Raises:
            InputError: for another ending, or a folder that does not exist.
        """
        target = Path(path)
        if target.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"A view is saved as a page, path.html, and {target.name!r} ends otherwise.")
        with whole_file(target) as temporary:
            temporary.write_text(_PAGE.format(title=escape(self.text), body=self.html), encoding="utf-8")
        return target

    def live(self) -> Any:
        """The same as a widget: `layer`, `head`, `token`, `item`, `run`, `array` and `selected`, as chosen in it, are its traits.

        Needs anywidget (`pip install "mmlens[widget]"`) and a kernel; a notebook that is only read shows `view()`.

        Raises:
            InputError: if anywidget is not installed.

        Example:
            >>> widget = sweep.view(picture).live()  # doctest: +SKIP
            >>> widget.observe(lambda change: print(change.new), "selected")  # doctest: +SKIP
        """
        return drawn_by("page.live.live_of")(self)

    def _repr_html_(self) -> str:
        return self.html

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What Jupyter shows, in each form that it may want."""
        bundle = {"text/plain": self.text, "text/html": self.html}
        if self.still is not None:
            bundle["image/png"] = base64.b64encode(self.still).decode()
        return bundle


class Display:
    """What shows itself where it is the last expression of a notebook's cell: models, batches, caches and results."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {**self._still_view()._repr_mimebundle_(), "text/plain": repr(self)}

    def _repr_html_(self) -> str:
        return self._still_view().html

    def _still_view(self) -> View:
        return drawn_by("page.show.display_of")(self)


class Viewable(Display):
    """A result, which shows itself and is looked into with `.view()`."""

    @checked
    def view(self, image: Any = None) -> View:
        """The result as a piece of HTML to look into: `.save("page.html")` makes a page of it.

        Scores of neurons run their model once, for where the neurons are active; nothing else runs a model, and the last
        expression of a cell never does.

        Args:
            image: the picture that it is about (a path, an array, a `PIL` picture), for results that do not hold it.

        Raises:
            InputError: if the picture cannot be read, or is not the one.
        """
        return drawn_by("page.show.view_of")(self, image, run=True)

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The values of the result below each other, with 95% intervals and controls where there are some.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("lists.plot_list")(self, figure=figure)
