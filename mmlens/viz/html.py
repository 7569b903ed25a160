"""Pieces of a self-contained HTML page: pictures inside the file, no network; light, dark, narrow and on paper."""

import base64
from collections.abc import Sequence
from html import escape

from PIL import Image

from mmlens.core.palette import PARTS
from mmlens.viz.page.still import encoded

_STYLE = """
:root{--ink:#1c1c28;--soft:#5f5f6e;--line:#dcdce6;--ground:#fff;--raised:#f6f5fb;--mark:%LANGUAGE%;--yes:#0b6b4f;--no:#a33b00}
@media(prefers-color-scheme:dark){:root{--ink:#ececf2;--soft:#a9a9ba;--line:#3a3a48;--ground:#16161c;--raised:#20202a;
--mark:#b3a9ff;--yes:#5fd3ab;--no:#ffab7a}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);max-width:1060px;
margin:28px auto;padding:0 16px}
h1{font-size:24px;margin:0 0 2px}h2{font-size:18px;margin:30px 0 8px}h3{font-size:16px;margin:0 0 4px}
.note{color:var(--soft);font-size:13px;max-width:80ch}table{border-collapse:collapse;margin:8px 0;font-size:13px}
td,th{padding:3px 12px 3px 0;text-align:left;vertical-align:top}th{border-bottom:1px solid var(--line);font-weight:600}
td.n{font-variant-numeric:tabular-nums;text-align:right}.row{display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start}
figure{margin:0;max-width:100%}figcaption{font-size:12.5px;color:var(--soft)}
img{display:block;border-radius:4px;max-width:100%}svg{max-width:100%;height:auto}
blockquote{margin:8px 0;padding:6px 14px;background:var(--raised);border-left:3px solid var(--mark);
border-radius:3px;font-size:17px}
blockquote b{font-weight:600;border-bottom:3px solid var(--mark)}
.card{border:1px solid var(--line);border-radius:8px;padding:14px 16px;margin:14px 0;background:var(--ground);break-inside:avoid}
.card p.lead{margin:2px 0 10px;max-width:76ch}.badge{display:inline-block;font-size:12.5px;border:1px solid var(--line);
border-radius:99px;padding:1px 10px;margin:0 6px 6px 0;color:var(--soft)}.badge b{font-weight:600}
.badge.yes{color:var(--yes);border-color:currentColor}.badge.no{color:var(--no);border-color:currentColor}
details{margin:12px 0}summary{cursor:pointer;font-weight:600}.scroll{overflow-x:auto}
@media print{details:not([open]){display:none}body{max-width:none;margin:0}}
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


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph, plain, `"lead"`, or a small grey `"note"`."""
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>"


def quote(text: str, marked: Sequence[str] = ()) -> str:
    """Something that the model said, with some of its words marked, each where it is first said."""
    content = escape(text)
    for word in sorted(set(map(escape, marked)), key=len, reverse=True):
        content = content.replace(word, f"<b>{word}</b>", 1)
    return f"<blockquote>{content}</blockquote>"


def badge(text: str, verdict: str) -> str:
    """A claim with its verdict: yes, no, or not tested."""
    return f'<span class="badge {verdict.split()[0]}">{escape(text)}: <b>{escape(verdict)}</b></span>'


def card(*pieces: str) -> str:
    """Pieces in a frame."""
    return f'<section class="card">{"".join(pieces)}</section>'


def folded(title: str, *pieces: str) -> str:
    """Pieces that are seen once they are asked for."""
    return f"<details><summary>{escape(title)}</summary>{''.join(pieces)}</details>"


def picture(image: Image.Image, caption: str = "", *, width: int = 190) -> str:
    """A picture with a caption; small ones are enlarged smoothly."""
    source = image.convert("RGB").resize(
        (width * 2, round(width * 2 * image.height / image.width)), Image.Resampling.BICUBIC
    )
    data = base64.b64encode(encoded(source, "WEBP")).decode()
    words = escape(caption, quote=True)
    return (
        f'<figure style="width:{width}px"><img style="width:100%" alt="{words}" src="data:image/webp;base64,{data}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def drawing(svg: str, caption: str = "", *, width: int | None = None) -> str:
    """A drawing with a caption, as wide as the page allows by default."""
    style = "" if width is None else f' style="width:{width}px"'
    return f"<figure{style}>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def wide(svg: str) -> str:
    """A drawing that is as large as its words need, in a frame that can be scrolled."""
    return f'<div class="scroll"><div style="min-width:1700px">{svg}</div></div>'


def side_by_side(*pieces: str) -> str:
    """Pieces beside each other."""
    return f'<div class="row">{"".join(pieces)}</div>'


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
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
