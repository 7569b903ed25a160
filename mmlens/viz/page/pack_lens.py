"""What a logit lens shows: words on the patches of the picture, layer by layer, or of the positions that were read."""

import numpy as np
from PIL import Image

from mmlens.analysis.lenses.result import LogitLens
from mmlens.core.errors import NoPlaceError
from mmlens.viz.page.boxes import numbers
from mmlens.viz.page.pack import Pack, PackArray, PackTable, PackWords
from mmlens.viz.points import point_rows
from mmlens.viz.words import shown

_BEST = 5
_LETTERS = 12
_COLUMNS = 24


def lens_pack(lens: LogitLens, picture: Image.Image | None, run: bool = False) -> Pack:
    """The first sample's words: on the picture, if it is given and its patches were read; else by point and position."""
    layers = point_rows(lens.points)[0]
    table = _table(lens)
    head = f"At {lens.points[-1]} the last position that was read says {', '.join(lens.top(1)[-1])!r}"
    caption = "The most probable next word, read at every point through the final norm and the unembedding."
    if lens.control_probabilities is not None:
        share = float((lens.excess[0, :, : lens.counts[0], 0] > 0).float().mean())
        head += f"; {share:.0%} of the best words are more probable than under the control"
    pack = Pack(f"{head}.", caption, labels={"layer": layers}, tables=(table,))
    placed = None if picture is None else _placed(lens, picture)
    if placed is None:
        return _by_position(lens, pack)
    rows, boxes = placed
    best = lens.probabilities[0, :, rows, 0]
    arrays = [PackArray("best", "probability of the best word", numbers(best), ("layer", "patch"), limit=1.0)]
    if lens.control_probabilities is not None:
        arrays[0] = PackArray(
            "best", "probability of the best word", numbers(best), ("layer", "patch"), limit=1.0, control="control"
        )
        control = numbers(lens.control_probabilities[0, :, rows, 0])
        arrays.append(PackArray("control", "the same word under the control", control, ("layer", "patch"), limit=1.0))
    for number, word in enumerate(lens.words):
        values = numbers(lens.word_probabilities[0, :, rows, number])
        arrays.append(PackArray(f"word {word}", f"probability of {word!r}", values, ("layer", "patch"), limit=1.0))
    k = min(_BEST, lens.top_tokens.shape[-1])
    tokens = lens.top_tokens[0, :, rows, :k].numpy()
    known = np.unique(tokens)
    words = PackWords(
        np.searchsorted(known, tokens),
        numbers(lens.probabilities[0, :, rows, :k]),
        tuple(shown(lens.strings[int(token)], _LETTERS) for token in known),
    )
    return Pack(
        pack.headline,
        caption,
        tuple(arrays),
        picture,
        boxes,
        labels={"layer": layers},
        start={"layer": len(layers) - 1},
        words=words,
        tables=(table,),
    )


def _placed(lens: LogitLens, picture: Image.Image) -> tuple[list[int], np.ndarray] | None:
    """The columns of the lens that are patches of the first picture, and their boxes; None if not all were read."""
    try:
        rows = lens.layout.grid(sample=0, image=0).rows
        boxes = lens.layout.boxes(rows, sample=0)
    except NoPlaceError:
        return None
    columns = {int(row): column for column, row in enumerate(lens.positions[0].tolist()) if row >= 0}
    if not all(int(row) in columns for row in rows):
        return None
    return [columns[int(row)] for row in rows], np.asarray(boxes, dtype=np.float64)


def _by_position(lens: LogitLens, pack: Pack) -> Pack:
    count = lens.counts[0]
    columns = slice(max(count - _COLUMNS, 0), count)
    values = numbers(lens.probabilities[0, :, columns, 0])
    names = [shown(lens.tokens[0][int(row)], _LETTERS) for row in lens.positions[0][columns].tolist()]
    texts = tuple(
        tuple(shown(lens.strings[int(token)], _LETTERS) for token in row) for row in lens.top_tokens[0, :, columns, 0]
    )
    array = PackArray("best", "the best word, and its probability", values, ("layer", "group"), limit=1.0, texts=texts)
    cut = () if count <= _COLUMNS else (f"The last {_COLUMNS} of {count} positions.",)
    pictured = bool(lens.layout.is_image[0][lens.positions[0][:count]].any())
    note = ("Patches were read: .view(picture) writes their words on the picture.",) if pictured else ()
    return Pack(
        pack.headline,
        pack.caption,
        (array,),
        labels={"layer": list(pack.labels["layer"]), "group": names},
        tables=pack.tables,
        notes=cut + note,
    )


def _table(lens: LogitLens) -> PackTable:
    k = min(_BEST, lens.top_tokens.shape[-1])
    rows = [
        (point, ", ".join(shown(word, _LETTERS) for word in words))
        for point, words in zip(lens.points, lens.top(k), strict=True)
    ]
    return PackTable("Words of the last position that was read", ("point", f"best {k}"), tuple(rows))
