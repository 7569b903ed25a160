"""What concepts show: their words, the pictures in which each is most active, and its code patch by patch over them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.grounding import ConceptGrounding, GroundedConcept
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.shift.grounding import ShiftGrounding
from mmlens.viz.page.boxes import boxes_of_map, numbers
from mmlens.viz.page.pack import Pack, PackArray, PackTable, Sheet
from mmlens.viz.words import counted, shown

#: Concepts with pictures of their own; the others have their words alone, in the table.
_MOST = 24
#: Pictures in a row of a sheet, and the side of the square that each is fitted into.
_ACROSS, _SIDE, _GAP = 2, 192, 4
_PICTURES, _WORDS, _STATES, _LETTERS = 4, 8, 3, 40


def grounding_pack(grounding: ConceptGrounding, picture: Image.Image | None, run: bool = False) -> Pack:
    """A list of concepts with their words; of each its pictures, and its code patch by patch where these have places."""
    pictured = [concept for concept in grounding.concepts if concept.pictures][:_MOST]
    rows = tuple(
        (concept.concept, _said(concept.words), "; ".join(shown(caption, _LETTERS) for caption in concept.captions))
        for concept in grounding.concepts
    )
    table = PackTable("Words and captions of all concepts", ("concept", "words", "captions"), rows)
    count = len(grounding.concepts)
    shared = f"; of a concept's words {grounding.overlap:.0%} are another's too" if count > 1 else ""
    headline = f"{counted(count, 'concept')} by {grounding.method} at {grounding.at}{shared}."
    notes = [grounding.placeless] if grounding.placeless else []
    if not pictured:
        return Pack(headline, tables=(table,), notes=(*notes, "There are no pictures of its samples."))
    if len(pictured) < count:
        notes.append(f"Pictures of {len(pictured)} of {count} concepts; the others' words are in the table.")
    sheets, values = zip(*map(_grounded, pictured), strict=True)
    arrays: tuple[PackArray, ...] = ()
    if any(concept.maps for concept in pictured):
        filled = np.full((len(values), max(map(len, values))), np.nan)
        for row, own in zip(filled, values, strict=True):
            row[: len(own)] = own
        title = "the patch's state along the concept, in the unit of the point"
        arrays = (PackArray("codes", title, filled, ("item", "patch"), scale="signed", limit="each"),)
    return Pack(
        headline,
        "Pictures in which the concept is most active, best first, with its activation. Maps do not reliably show where a thing "
        "is.",
        arrays,
        labels={"item": [f"{c.concept}\t{_said(c.words[:_WORDS])}" for c in pictured]},
        sheets=sheets,
        tables=(table,),
        notes=tuple(notes),
    )


def _grounded(concept: GroundedConcept) -> tuple[Sheet, np.ndarray]:
    best = ", ".join(f"{activation:.3g}" for activation in concept.activations[:_PICTURES])
    return sheet_of(concept.pictures[:_PICTURES], concept.maps[:_PICTURES], f"Activations {best}")


def sheet_of(
    pictures: Sequence[Image.Image], maps: Sequence[HeatMap], caption: str, across: int = _ACROSS
) -> tuple[Sheet, np.ndarray]:
    """Pictures side by side as one, and the values of the maps over them."""
    down = -(-len(pictures) // across)
    size = (across * (_SIDE + _GAP) - _GAP, max(down, 1) * (_SIDE + _GAP) - _GAP)
    mosaic, boxes, values = Image.new("RGB", size, "white"), [np.zeros((0, 4))], [np.zeros(0)]
    for number, picture in enumerate(pictures):
        left, above = number % across * (_SIDE + _GAP), number // across * (_SIDE + _GAP)
        scale = _SIDE / max(picture.size)
        mosaic.paste(
            picture.convert("RGB").resize([max(1, round(side * scale)) for side in picture.size]), (left, above)
        )
        if number < len(maps):
            boxes.append(boxes_of_map(maps[number]) * scale + np.array([left, above, left, above]))
            values.append(numbers(maps[number].values).ravel())
    return Sheet(mosaic, np.concatenate(boxes), caption), np.concatenate(values)


def shift_pack(grounding: ShiftGrounding, picture: Image.Image | None, run: bool = False) -> Pack:
    """A list of concepts with their fates; of each its pictures before, shifted and after, with the words of that side."""
    sides = {"before": grounding.before, "shifted": grounding.shifted, "after": grounding.after}
    frame = grounding.to_frame()
    table = PackTable(
        "All concepts", tuple(map(str, frame.columns)), tuple(map(tuple, frame.astype(object).to_numpy().tolist()))
    )
    original, after_shift = grounding.text_overlap.nanmean(1).tolist()
    headline = (
        f"{counted(len(grounding.before), 'concept')}: their matches after tuning share {original:.0%} of their words with the "
        f"originals, {after_shift:.0%} with the shifted ones."
    )
    count = len(grounding.before)
    best = sorted(range(count), key=lambda concept: -int(grounding.shift.n_samples[concept]))[:_MOST]
    pictured = [c for c in best if any(side[c].pictures for side in sides.values())]
    if not pictured:
        return Pack(headline, tables=(table,), notes=("It was grounded without a dataset: there are no pictures.",))
    sheets = [
        sheet_of(side[concept].pictures[:_PICTURES], (), _said(side[concept].words[:_WORDS], "no match"))[0]
        for concept in pictured
        for side in sides.values()
    ]
    names = [
        f"{concept}\t{grounding.shift.fate[concept]}: {_said(grounding.before[concept].words[:3])} → "
        f"{_said(grounding.after[concept].words[:3], 'no match')}"
        for concept in pictured
    ]
    notes = () if len(pictured) == count else (f"Pictures of {len(pictured)} of {count} concepts.",)
    caption = "Words of each side, and the pictures in which it is most active; read by the tuned model's unembedding."
    return Pack(
        headline,
        caption,
        labels={"item": names},
        sheets=tuple(sheets),
        runs=tuple(sides),
        tables=(table,),
        notes=notes,
    )


def bank_pack(bank: ConceptBank, picture: Image.Image | None, run: bool = False) -> Pack:
    """A row per concept: how often it is active and leads, and the states in which it is most active."""
    frame = bank.to_frame().astype({"concept": int}).sort_values("dominant", ascending=False, kind="stable")
    best = bank.top(_STATES) if len(bank.codes) else [[]] * len(bank)
    rows = tuple(
        (
            concept,
            f"{row.dominant:.1%}",
            f"{row.active:.1%}",
            row.mean_activation,
            row.norm,
            "; ".join(_state(bank, state) for state in best[concept]),
        )
        for concept, row in zip(frame["concept"].tolist(), frame.head(_MOST).itertuples(), strict=False)
    )
    left = len(bank) - len(rows)
    columns = ("concept", "dominant in", "active in", "mean activation", "norm", "strongest states")
    return Pack(
        repr(bank).removeprefix("ConceptBank(").removesuffix(")") + ".",
        caption="Concepts by the share of states in which they are the most active one.",
        tables=(PackTable(counted(len(rows), "concept") + (f" of {len(bank)}" if left else ""), columns, rows),),
        notes=(
            *((f"{left} more concepts: .to_frame().",) if left else ()),
            "Words, pictures and maps: mm.concepts.ground_concepts(model, bank, dataset).",
        ),
    )


def _state(bank: ConceptBank, state: int) -> str:
    """What a state is of, and how active the concept is in it."""
    said = bank.captions[state] if state < len(bank.captions) else bank.keys[state] if state < len(bank.keys) else ""
    token = f" [{bank.tokens[state]}]" if state < len(bank.tokens) and bank.tokens[state] else ""
    return shown(str(said) or f"state {state}", _LETTERS) + token


def _said(words: Sequence[str], none: str = "no word") -> str:
    """Words as they are read; where there are none, what that means."""
    return ", ".join(map(shown, words)) or f"({none})"
