"""Parts of pictures as rows: a picture, a frame, a box, a mask, blocks of patches, in whatever tower a point lies."""

from collections.abc import Sequence

import torch
from jaxtyping import Float

from mmlens.core.errors import InputError, NoPlaceError
from mmlens.core.names import Part
from mmlens.core.regions import Mask, Region
from mmlens.core.rules import Image, Rule
from mmlens.inputs.batch import MultimodalBatch, forced_on
from mmlens.inputs.patch_geometry import Places, RowGrid
from mmlens.inputs.pixels import covered, touched
from mmlens.inputs.point_rows import PointRows, entry_rows, place_part, places_of

_NONE = torch.zeros(0, dtype=torch.long)


def own_pictures(batch: MultimodalBatch) -> list[torch.Tensor]:
    """Per sample, True at those of its own tokens that stand for pictures."""
    end = batch.layout.is_token.shape[1] - forced_on(batch, "language")
    masks = zip(batch.layout.is_image[:, :end], batch.layout.is_token[:, :end], strict=True)
    return [is_image[is_token] for is_image, is_token in masks]


def pictures(rule: Image, point: PointRows) -> list[torch.Tensor]:
    """The rows of a rule about pictures, per sample."""
    node, batch = point.node, point.batch
    if node.sequence == "decoder":
        return [_NONE] * batch.size
    if batch.apart and node.part == "language":
        return [_NONE] * point.size
    is_plain = rule.number is None and rule.frame is None
    if node.sequence == "language" and is_plain:
        return [sample_mask.nonzero().flatten() for sample_mask in own_pictures(batch)]
    part = place_part(node.sequence)
    has_places = part is not None and all(part in places.grids for places in batch.layout.places)
    if is_plain and not has_places:
        if "+" in node.sequence:
            raise InputError(
                f"positions='image' has no meaning at {node.name}, whose sequence mixes {' and '.join(node.sequence.split('+'))}"
                "; use 'all' or indices."
            )
        return [torch.arange(count) for count in point.counts]
    picture_places = _chosen_places(rule.number, rule.frame, batch)
    if not is_plain and not any(picture_places):
        counts = [len({places.image for places in places_of(batch, s)}) for s in range(batch.size)]
        raise InputError(f"{rule!r} names nothing: the samples have {counts} pictures.")
    if rule.frame is None and node.sequence == "language":
        return [_run_of_picture(batch, sample, rule.number or 0) for sample in range(batch.size)]
    if rule.frame is None and not has_places:
        return [_entry_of_picture(point, sample, places) for sample, places in enumerate(picture_places)]
    _require_places(rule, point, part, picture_places)
    return [
        _found(point, sample, [grid for place in places for grid in place.views(part or "language")])
        for sample, places in enumerate(picture_places)
    ]


def _found(point: PointRows, sample: int, grids: Sequence[RowGrid], where: Sequence[torch.Tensor] = ()) -> torch.Tensor:
    """The numbers of a sample's rows that lie in grids, or in some of their cells."""
    is_packed = point.entries is None
    pairs = [entry_rows(grid, is_packed=is_packed) for grid in grids]
    pairs = [sample_pairs[index] for sample_pairs, index in zip(pairs, where, strict=True)] if where else pairs
    return point.numbers(sample, torch.cat(pairs)) if pairs else _NONE


def _run_of_picture(batch: MultimodalBatch, sample: int, number: int) -> torch.Tensor:
    """The image tokens of one picture, separators of its rows included, among a sample's own tokens."""
    picture_rows = own_pictures(batch)[sample].nonzero().flatten()
    images = sorted({places.image for places in places_of(batch, sample)})
    if number not in images:
        return picture_rows[:0]
    if len(images) == 1:
        return picture_rows
    at = images.index(number)
    grids = [[g for p in places_of(batch, sample) if p.image == i for g in p.views("language")] for i in images]
    if not all(grids):  # rows without places: as many for each picture
        return picture_rows.view(len(images), -1)[at] if len(picture_rows) % len(images) == 0 else picture_rows[:0]
    padding = (~batch.layout.is_token[sample]).cumsum(0)
    firsts = [min(int((g.rows - padding[g.rows]).min()) for g in sample_grids) for sample_grids in grids]
    lead = firsts[0] - int(picture_rows[0])  # rows in front of the first that has a place, the same for each picture
    ends = [*firsts[1:], int(picture_rows[-1]) + 1 + lead]
    return picture_rows[(picture_rows >= firsts[at] - lead) & (picture_rows < ends[at] - lead)]


def _entry_of_picture(point: PointRows, sample: int, places: Sequence[Places]) -> torch.Tensor:
    """The rows of one picture where they have no place in it: those of its entry of the batch axis."""
    every = list(point.batch.layout.places)
    entries = [every.index(place) for place in places]
    if point.entries is None or point.entries != len(every):
        raise NoPlaceError(f"Which rows of {point.node.name} are a picture's is not known; use positions='image'.")
    return torch.isin(point.known[sample][:, 0], torch.tensor(entries, dtype=torch.long)).nonzero().flatten()


def _chosen_places(number: int | None, frame: int | None, batch: MultimodalBatch) -> list[list[Places]]:
    """Per sample, the places of its pictures, of one of them, or of one frame.

    Raises:
        InputError: for frames of what is no video, or lacks them.
    """
    result = []
    for sample in range(batch.size):
        sample_places = places_of(batch, sample)
        images = sorted({places.image for places in sample_places})
        if number is not None and number < 0:
            selection = images[number:][:1] if -number <= len(images) else []
        else:
            selection = images if number is None else [number]
        sample_places = [places for places in sample_places if places.image in selection]
        if frame is not None and sample_places:
            frames = {n for places in sample_places for n in places.frames}
            if frame not in frames:
                kind = f"a video of {len(frames)} frames, 0..{len(frames) - 1}" if frames else "a picture and no video"
                raise InputError(f"frame={frame} was asked for, and what sample {sample} shows is {kind}.")
            sample_places = [places for places in sample_places if frame in places.frames]
        result.append(sample_places)
    return result


def _require_places(
    rule: Rule, point: PointRows, part: Part | None, picture_places: Sequence[Sequence[Places]]
) -> None:
    """Refuse parts of the picture where a point's rows have no place in it.

    Raises:
        NoPlaceError: says why, and where they have one.
    """
    node = point.node
    if part is None:
        raise NoPlaceError(
            f"{rule!r} is a part of the picture, and rows of the {node.sequence} sequence at {node.name} have no place "
            "in it; choose points of the vision encoder, the projector's output or the language model."
        )
    for places in (place for sample_places in picture_places for place in sample_places):
        if part in places.placeless:
            raise NoPlaceError(
                f"{rule!r} is a part of the picture, and rows at {node.name} have no place in it: "
                f"{places.placeless[part]}."
            )


def regions(rule: Region, point: PointRows) -> list[torch.Tensor]:
    """The rows of a rule about regions of pictures, per sample."""
    batch, part = point.batch, place_part(point.node.sequence)
    if rule.per_sample and len(rule.areas) != batch.size:
        raise InputError(
            f"{rule.kind}() was given {len(rule.areas)} areas, and the batch has {batch.size} samples; give one each, None for "
            "samples without."
        )
    areas = rule.areas if rule.per_sample else rule.areas * batch.size
    picture_places = _chosen_places(rule.image, rule.frame, batch)
    without = [
        sample for sample, sample_places in enumerate(picture_places) if areas[sample] is not None and not sample_places
    ]
    if without:
        raise InputError(
            f"{rule!r} names a part of picture {rule.image}, which samples {without} do not have; give one area per "
            f"sample, None for those without: positions.{rule.kind}([...])."
        )
    _require_places(rule, point, part, picture_places)
    result = []
    for sample, (area, sample_places) in enumerate(zip(areas, picture_places, strict=True)):
        grids: list[RowGrid] = []
        where: list[torch.Tensor] = []
        for places in sample_places:
            if area is None:
                break
            views = places.views(part or "language")
            boxes = torch.cat([grid.boxes for grid in views])
            inside = (
                covered(boxes, area.inside, places.size)
                if isinstance(area, Mask)
                else touched(boxes, area, places.size)
            )
            grids += views
            where += inside.split([len(grid.boxes) for grid in views])
        result.append(_found(point, sample, grids, where))
    return result


def blocks(point: PointRows, side: int) -> list[tuple[str, list[torch.Tensor]]]:
    """The picture in blocks of `side x side` patches, row by row: each block's name, and per sample the numbers of its rows.

    Raises:
        InputError: where rows have no place, samples have not one picture each, or pictures differ in their rows of patches.
    """
    batch, node, part = point.batch, point.node, place_part(point.node.sequence)
    if part is None:
        raise InputError(
            f"Rows of the sequence {node.sequence!r} have no place in the picture, so {node.name} has no blocks; use words or "
            "indices."
        )
    unfit = [sample for sample in range(batch.size) if len(places_of(batch, sample)) != 1]
    if unfit:
        raise InputError(f"Blocks need one picture per sample; samples {unfit} have none or several.")
    grids = [batch.layout.grid(part, sample=sample) for sample in range(batch.size)]
    shapes = {tuple(grid.shape) for grid in grids}
    if len(shapes) > 1:
        raise InputError(
            f"The pictures have {sorted(shapes)} (rows, columns) of patches; sweep pictures of one shape together."
        )
    height, width = grids[0].shape
    result = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            numbers = []
            for sample, grid in enumerate(grids):
                rows, columns = grid.cells.unbind(1)
                inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
                numbers.append(_found(point, sample, [grid], [inside]))
            if len(numbers[0]):
                result.append((f"r{top // side}c{left // side}", numbers))
    return result


def boxes_of_rows(point: PointRows, pairs: torch.Tensor) -> Float[torch.Tensor, "row 4"] | None:
    """The pixel boxes of some rows of the first sample; None where not all of them have one in a single view of one picture."""
    part, places = place_part(point.node.sequence), places_of(point.batch, 0)
    if part is None or len(places) != 1 or not len(pairs):
        return None
    views = places[0].views(part)
    for grid in views if len(views) == 1 else ():
        where = {pair: at for at, pair in enumerate(map(tuple, entry_rows(grid).tolist()))}
        rows = [where.get(pair) for pair in map(tuple, pairs.tolist())]
        if None not in rows:
            return grid.boxes[rows]
    return None
