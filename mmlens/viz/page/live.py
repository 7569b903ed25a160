"""Views that answer: an anywidget whose traits are what is chosen in the view."""

import re
from typing import Any

from mmlens.core.errors import InputError
from mmlens.core.view import View
from mmlens.viz.page.show import script, source


def live_of(view: View) -> Any:
    """A widget of a view.

    Args:
        view: of a result.

    Returns:
        An `anywidget.AnyWidget` with the traits `array`, `layer`, `head`, `token`, `item`, `run` (what is shown) and `selected`
        (the patches that were clicked, as numbers). Reading them says what is looked at, and setting them changes it.

    Raises:
        InputError: if anywidget is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise InputError(
            "A live view needs anywidget: pip install 'mmlens[widget]'. .view() shows the same without, and prints the patches "
            "that are clicked as code."
        ) from error

    class LiveView(anywidget.AnyWidget):
        """A view whose choices are traits."""

        _esm = f"const viewer = {script()};\n{source('live.js')}"
        piece = traitlets.Unicode().tag(sync=True)
        array = traitlets.Unicode().tag(sync=True)
        layer = traitlets.Int().tag(sync=True)
        head = traitlets.Int().tag(sync=True)
        token = traitlets.Int().tag(sync=True)
        item = traitlets.Int().tag(sync=True)
        run = traitlets.Int().tag(sync=True)
        selected = traitlets.List(traitlets.Int()).tag(sync=True)

    return LiveView(piece=re.sub(r"<script>.*</script>\Z", "", view.html, flags=re.DOTALL))
