"""Pieces of a self-contained HTML page: pictures inside the file, no network, no scripts."""

import base64
import io
from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure
from PIL import Image

from mmlens.core.palette import PARTS

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c1c28;max-width:1060px;margin:32px auto;padding:0 20px}
h1{font-size:26px;margin-bottom:4px} h2{font-size:19px;margin-top:38px;border-bottom:1px solid #ddd;padding-bottom:4px}
h3{font-size:16px;margin-bottom:6px} .note{color:#666;font-size:13px;max-width:76ch}
table{border-collapse:collapse;margin:10px 0;font-size:13px}
td,th{padding:3px 12px 3px 0;text-align:left;vertical-align:top}
th{border-bottom:1px solid #bbb;font-weight:600} td.n{font-variant-numeric:tabular-nums;text-align:right}
.row{display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start} figure{margin:0}
figcaption{font-size:12px;color:#555;max-width:60ch} .picture+figcaption{max-width:190px}
img{display:block;border-radius:4px} .picture{image-rendering:auto;width:190px}
blockquote{margin:8px 0;padding:6px 14px;background:#f4f3fa;border-left:3px solid %LANGUAGE%;border-radius:3px}
.scroll{overflow-x:auto;border:1px solid #e5e5ee;border-radius:4px}
""".replace("%LANGUAGE%", PARTS["language"])


def page(title: str, pieces: Sequence[str]) -> str:
    """A whole HTML page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(pieces)}</body></html>"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, *, note: bool = False) -> str:
    """A paragraph; notes are small and grey."""
    return f"<p{' class=note' if note else ''}>{escape(text)}</p>"


def quote(text: str) -> str:
    """Something that the model said."""
    return f"<blockquote>{escape(text)}</blockquote>"


def picture(image: Image.Image, caption: str = "", *, width: int = 190) -> str:
    """A picture with a caption; small ones are enlarged smoothly."""
    source = image.resize((width * 2, round(width * 2 * image.height / image.width)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    source.save(buffer, format="PNG")
    return _figure(buffer.getvalue(), caption, f'class="picture" style="width:{width}px"')


def plot(figure: Figure, caption: str = "") -> str:
    """A matplotlib figure with a caption."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return _figure(buffer.getvalue(), caption, 'style="max-width:100%"')


def _figure(png: bytes, caption: str, attributes: str) -> str:
    data = base64.b64encode(png).decode()
    words = escape(caption)
    return (
        f'<figure><img {attributes} alt="{words}" src="data:image/png;base64,{data}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def table_row(*pieces: str) -> str:
    """Pieces beside each other."""
    return f'<div class="row">{"".join(pieces)}</div>'


def scroll(svg: str) -> str:
    """A wide drawing in a frame that scrolls."""
    return f'<div class="scroll">{svg}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers are aligned to the right and shortened."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return f'<td class="n">{value if abs(value) >= 0.0005 else 0.0:.3f}</td>'  # no "-0.000"
        if isinstance(value, int):
            return f'<td class="n">{value}</td>'
        return f"<td>{escape(str(value))}</td>"

    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(map(cell, values))}</tr>" for values in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
