"""Runs beside each other: a result of the clean run, the same of an edited one, their difference, and a control's."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from mmlens.core.contract import checked
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.core.names import HookName
from mmlens.core.view import View
from mmlens.core.wording import short
from mmlens.hooks.cache import ActivationCache
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.images import Picture, load_image
from mmlens.viz.page.pack import DRAWN, Axis, Pack, PackArray, PackWords, Scale, largest_of
from mmlens.viz.page.packs import pack_of
from mmlens.viz.page.show import show
from mmlens.viz.points import point_rows

_RUNS = ("clean", "edited", "difference", "control")
#: Those beside the clean one that are passed.
_OTHERS = ("edited", "control")
_DIFFERENCE, _BESIDE = "difference", "control minus clean"
#: What results say of what was asked for; runs that were asked something else have no difference.
_QUESTION = ("points", "layers", "positions", "groups", "words", "metric", "direction")


@checked
def compare(
    clean: Any,
    edited: Any,
    control: Any = None,
    *,
    image: Picture | None = None,
    batch: MultimodalBatch | None = None,
) -> View:
    """One view of two runs: clean, edited, their difference, and a control on the same scale; Space flips clean and edited.

    Args:
        clean: a result of the model as it is: a heat map, attention looks, a lens, a sweep, or an activation cache.
        edited: the same of the model edited, steered, tuned or patched, or of another picture of the same size.
        control: the same under a control, such as an edit of random rows: its difference stands beside the edit's.
        image: the picture, for results that do not hold it.
        batch: what caches are of: their states' norms lie where its rows are, and their difference is the norm of the difference.

    Raises:
        InputError: for results of different kinds, shapes, points, positions, words or metrics, for kinds that have no
            numbers to lay beside each other, and for caches without a batch.

    Example:
        >>> import mmlens as mm
        >>> before = mm.lenses.attention_looks(model, batch)
        >>> with model.intervene(mm.Ablate([mm.Head(3, 4)])):
        ...     after = mm.lenses.attention_looks(model, batch)
        >>> mm.viz.compare(before, after).text  # doctest: +ELLIPSIS
        'Between clean and edited, mean of heads changes by at most ...'
    """
    results = [clean, edited] if control is None else [clean, edited, control]
    kinds = {type(result).__name__ for result in results}
    if len(kinds) > 1:
        raise InputError(f"Results of one kind are compared, found {', '.join(sorted(kinds))}.")
    _require_same_question(results)
    picture = None if image is None else load_image(image)
    if isinstance(clean, ActivationCache):
        if batch is None:
            raise InputError(
                "Caches do not say where their rows lie: compare(clean, edited, batch=batch) with their batch."
            )
        return show(_caches(results, batch, picture))
    packs = [pack_of(result, picture) for result in results]
    return show(compared(packs))


def compared(packs: list[Pack]) -> Pack:
    """The packs of two or three runs as one.

    Raises:
        InputError: if they have nothing to compare, or not the same places.
    """
    first = packs[0]
    inner = {array.control for array in first.arrays}
    shared = [array for array in first.arrays if array.name not in inner and array.axes[-1] != "head"]
    if not shared:
        raise InputError(
            "These results have no maps to lay beside each other: heat maps, attention looks, lenses, sweeps and caches have. "
            "Reports (of edits, of steering) have their answers before and after in their tables: .view()."
        )
    for pack, name in zip(packs[1:], _OTHERS, strict=False):
        _require_alike(first, pack, name)
    arrays = []
    for array in shared:
        others = [next(a for a in pack.arrays if a.name == array.name) for pack in packs]
        arrays += runs_of(array, [np.asarray(other.values, dtype=np.float64) for other in others])
    runs = _RUNS[: len(packs) + 1]
    lead = arrays[: len(runs) + (len(packs) > 2)]
    headline, start = _answer(shared[0], lead, first)
    return replace(
        first,
        headline=headline,
        start={**first.start, **start},
        arrays=(*arrays, *(a for a in first.arrays if a.axes[-1] == "head")),
        words=None if first.words is None else _words(packs),
        runs=runs,
        tables=(),
        notes=("Heads by layer are those of the clean run.",)
        if any(a.axes[-1] == "head" for a in first.arrays)
        else (),
    )


def runs_of(array: PackArray, values: list[np.ndarray], differences: list[np.ndarray] | None = None) -> list[PackArray]:
    """An array of each run on one scale, and the differences from the first on another.

    Args:
        array: the clean run's.
        values: of clean, edited and, if there is one, the control.
        differences: of all but the clean one; by default what is left when it is subtracted.
    """
    signed = differences is None
    with np.errstate(invalid="ignore"):  # infinite in both
        differences = [other - values[0] for other in values[1:]] if differences is None else differences
    limit = array.limit if array.limit != "array" else max(largest_of(v) for v in values)
    change: float | Literal["each"] = "each" if limit == "each" else max(map(largest_of, differences))
    made = [
        replace(array, name=f"{array.name}, {run}", values=v, run=run, limit=limit, control="", texts=None)
        for run, v in zip(("clean", *_OTHERS), values, strict=False)
    ]
    scale: Scale = "signed" if signed else "positive"
    changed = [
        replace(
            array,
            name=f"{array.name}, {run}",
            values=v,
            run=_DIFFERENCE,
            limit=change,
            scale=scale,
            control="",
            texts=None,
        )
        for run, v in zip((_DIFFERENCE, _BESIDE), differences, strict=False)
    ]
    if len(changed) > 1:
        changed[0] = replace(changed[0], control=changed[1].name)
        changed[1] = replace(changed[1], title=_BESIDE, run="")
    return [*made[:2], *changed[:1], *made[2:], *changed[1:]]


def _require_same_question(results: list[Any]) -> None:
    """Refuse results that were asked for of other points, positions, words or metrics: their difference is no effect."""
    for result, name in zip(results[1:], _OTHERS, strict=False):
        for what in _QUESTION:
            asked, other = (_plain(getattr(one, what, None)) for one in (results[0], result))
            if asked != other and not callable(asked):
                raise InputError(
                    f"The {name} run's result was asked for other {what}: {short(other)}, and the clean one's for "
                    f"{short(asked)}; ask the same of all runs."
                )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _require_alike(first: Pack, other: Pack, name: str) -> None:
    shapes = [{a.name: np.shape(a.values) for a in pack.arrays} for pack in (first, other)]
    differing = sorted(key for key in shapes[0].keys() | shapes[1].keys() if shapes[0].get(key) != shapes[1].get(key))
    if differing:
        what = ", ".join(f"{key} {shapes[0].get(key)} and {shapes[1].get(key)}" for key in differing)
        raise InputError(f"The {name} run's result has not the shape of the clean one's: {what}.")
    if (first.boxes is None) != (other.boxes is None) or (
        first.boxes is not None and other.boxes is not None and not np.allclose(first.boxes, other.boxes)
    ):
        raise InputError(
            f"The {name} run's patches lie elsewhere than the clean one's; compare runs on pictures of one size."
        )


def _answer(array: PackArray, lead: list[PackArray], pack: Pack) -> tuple[str, dict[Axis, int]]:
    """What changes most, in words, and where it is, which is where the view opens."""
    by_name = {a.name.rpartition(", ")[2]: a for a in lead}
    largest = {name: largest_of(by_name[name].values) for name in (_DIFFERENCE, _BESIDE) if name in by_name}
    change = by_name[_DIFFERENCE].values
    place = np.unravel_index(int(np.where(np.isfinite(change), np.abs(change), -1).argmax()), array.values.shape)
    shape = array.values.shape
    if not np.isfinite(change).any():
        return f"Of {array.title}, no number is known in both the clean and the edited run.", {}
    where = ", ".join(
        _label(pack, axis, int(index)) for axis, index, size in zip(array.axes, place, shape, strict=True) if size > 1
    )
    beside = (
        f"; under the control by at most {largest[_BESIDE]:.3g}" if _BESIDE in largest else "; no control was passed"
    )
    unit = f" {array.unit}" if array.unit else ""
    start = {axis: int(index) for axis, index in zip(array.axes, place, strict=True) if axis not in DRAWN}
    said = f"{array.title} changes by at most {largest[_DIFFERENCE]:.3g}{unit}"
    return f"Between clean and edited, {said}{f' ({where})' if where and largest[_DIFFERENCE] else ''}{beside}.", start


def _label(pack: Pack, axis: Axis, index: int) -> str:
    name = str(pack.labels[axis][index]).split("\t")[0] if axis in pack.labels else str(index)
    return name if name.startswith(axis) else f"{axis} {name}"


def _words(packs: list[Pack]) -> PackWords | None:
    """Words of all runs; the difference has those of the edited one."""
    words = [pack.words for pack in packs if pack.words is not None]
    if len(words) < len(packs):
        return None
    strings = tuple(dict.fromkeys(string for one in words for string in one.strings))
    number = {string: n for n, string in enumerate(strings)}
    ids = [np.array([number[string] for string in one.strings])[one.ids] for one in words]
    order = [0, 1, 1, *range(2, len(words))]
    return PackWords(np.stack([ids[n] for n in order]), np.stack([words[n].probabilities for n in order]), strings)


def _caches(caches: list[ActivationCache], batch: MultimodalBatch, picture: Any) -> Pack:
    """Norms of states where the first sample's rows lie, point by point, and of their difference."""
    names = [name for name in caches[0] if all(name in cache for cache in caches)]
    width = batch.layout.is_token.shape[1]
    names = [n for n in names if caches[0].axes.get(n) == "batch pos d_model" and HookName.parse(n).part == "language"]
    names = [name for name in names if all(cache[name].shape[1] == width for cache in caches)] or names
    if not names:
        raise InputError(
            "The caches share no points of the language model's stream [batch pos d_model]; cache some, "
            "names='blocks.*.hook_resid_post'."
        )
    states = [torch.stack([cache[name][0].float() for name in names]) for cache in caches]
    if len({s.shape for s in states}) > 1 or states[0].shape[1] != width:
        raise InputError(
            f"The caches hold {[list(s.shape[1:]) for s in states]} rows by d_model, and the batch has "
            f"{width} positions; cache all positions of one batch."
        )
    norms = [s.norm(dim=-1).numpy() for s in states]
    differences = [(s - states[0]).norm(dim=-1).numpy() for s in states[1:]]
    labels: dict[Axis, list[str]] = {"layer": point_rows(names)[0]}
    boxes, axes, notes = None, ("layer", "group"), []
    picture = picture or (batch.images[0][0] if batch.images and batch.images[0] else None)
    try:
        grid = batch.layout.grid(sample=0, image=0) if picture is not None else None
    except NoPlaceError as error:
        grid = None
        notes.append(f"There is no map over the picture: {error}")
    if grid is not None:
        rows = [int(row) for row in grid.rows]
        norms, differences = [n[:, rows] for n in norms], [d[:, rows] for d in differences]
        boxes, axes = grid.boxes.double().numpy(), ("layer", "patch")
        labels["patch"] = [str(row) for row in rows]
    array = PackArray("norm", "norm of the state", norms[0], axes)  # type: ignore[arg-type]
    arrays = runs_of(array, norms, differences)
    pack = Pack("", arrays=tuple(arrays), picture=picture if boxes is not None else None, boxes=boxes, labels=labels)
    headline, start = _answer(array, arrays, pack)
    return replace(
        pack,
        headline=headline,
        start=start,
        caption="Norms of states, and of the difference of states, in the unit of the stream; the first sample.",
        runs=_RUNS[: len(caches) + 1],
        notes=tuple(notes),
    )
