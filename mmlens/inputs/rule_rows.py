"""Rules of positions, one by one: which rows of each sample a rule means at a point, and which new tokens."""

import torch
from jaxtyping import Bool

from mmlens.core.errors import InputError
from mmlens.core.regions import Region
from mmlens.core.rules import Complement, Image, Index, Joined, Named, RandomRows, Row, Rule, Span, Word
from mmlens.inputs.picture_positions import own_pictures, pictures, regions
from mmlens.inputs.point_rows import GROWING, PointRows, place_part
from mmlens.inputs.random_rows import random_rows
from mmlens.inputs.words import word_positions


def rows_meant(rule: Rule, point: PointRows) -> list[torch.Tensor]:
    """Per sample, the rows that a rule means, counted among its own."""
    match rule:
        case Joined() | Complement():
            return numbers_of(_joined(rule, point))
        case Index():
            return _indices(rule, point)
        case Named(name):
            return _named(name, point)
        case Image():
            return pictures(rule, point)
        case Row():
            return _raw(rule, point)
        case Word():
            counts = point.counts if point.node.sequence in GROWING else []
            return [at[at < count] for at, count in zip(word_positions(rule, point), counts, strict=True)]
        case Region():
            return regions(rule, point)
        case RandomRows():
            before = None if rule.before is None else rows_meant(rule.before, point)
            return random_rows(rule, point, rows_meant(rule.rule, point), before)
    raise InputError(f"{rule!r} is no rule of mm.positions.")


def numbers_of(masks: list[torch.Tensor]) -> list[torch.Tensor]:
    """The numbers of the rows where each mask is True."""
    return [mask.nonzero().flatten() for mask in masks]


def _joined(rule: Rule, point: PointRows) -> list[torch.Tensor]:
    """Per sample, True at its own rows that a rule means."""
    if isinstance(rule, Complement):
        return [~mask for mask in _joined(rule.rule, point)]
    if isinstance(rule, Joined):
        pairs = zip(_joined(rule.left, point), _joined(rule.right, point), strict=True)
        return [_combined(rule.sign, first, second) for first, second in pairs]
    result = []
    for count, numbers in zip(point.counts, rows_meant(rule, point), strict=True):
        mask = torch.zeros(count, dtype=torch.bool)
        mask[numbers] = True
        result.append(mask)
    return result


def _combined(sign: str, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return first | second if sign == "|" else first & second if sign == "&" else first & ~second


def steps_meant(rule: Rule, point: PointRows, steps: torch.Tensor) -> Bool[torch.Tensor, "batch step"]:
    """Which new tokens a rule means, counted from the first one."""
    size = point.size
    empty = torch.zeros(size, len(steps), dtype=torch.bool)
    if point.node.sequence not in GROWING:
        return empty
    if isinstance(rule, Complement | RandomRows):
        inner = steps_meant(rule.rule, point, steps)
        return ~inner if isinstance(rule, Complement) else inner
    if isinstance(rule, Joined):
        return _combined(rule.sign, steps_meant(rule.left, point, steps), steps_meant(rule.right, point, steps))
    if isinstance(rule, Named):
        return ~empty if rule.name in ("all", "generated") else empty
    if isinstance(rule, Word) and point.written is not None:
        for sample, at in enumerate(word_positions(rule, point)):
            empty[sample] = torch.isin(steps, at - point.counts[sample])
    if isinstance(rule, Index) and not rule.per_sample:
        for span in rule.items:
            if isinstance(span, Span):
                for sample, length in enumerate(point.counts):
                    start, stop = span.bounds(length)
                    at = length + steps
                    empty[sample] |= (at >= start) & (at < stop) & ((at - start) % span.step == 0)
    return empty


def _named(name: str, point: PointRows) -> list[torch.Tensor]:
    sequence, batch = point.node.sequence, point.batch
    if name in ("all", "prompt"):
        return [torch.arange(count) for count in point.counts]
    if sequence not in GROWING and not (sequence == "text" and name == "text"):
        raise InputError(
            f"positions={name!r} has no meaning at {point.node.name}, whose {sequence} sequence holds rows of pictures and no "
            "tokens; there use 'all', 'image', mm.positions.box(...) or indices, or choose points of the language model."
        )
    if name == "generated":
        return [torch.zeros(0, dtype=torch.long)] * point.size
    if name == "last":
        return [torch.arange(count)[-1:] for count in point.counts]
    if sequence != "language":
        return [torch.arange(count) for count in point.counts]
    return numbers_of([~is_picture for is_picture in own_pictures(batch)])


def _indices(rule: Index, point: PointRows) -> list[torch.Tensor]:
    _require_samples(len(rule.items) if rule.per_sample else None, point)
    if point.own is None and point.length is None:
        return _ahead_of_the_run(rule, point)
    result = []
    wrong: dict[int, list[int]] = {}
    for sample, count in enumerate(point.counts):
        numbers: list[int] = []
        for item in rule.items[sample] if rule.per_sample else rule.items:
            if isinstance(item, Span):
                start, stop = item.bounds(count)
                numbers += range(start, count if stop > count else int(stop), item.step)
            elif -count <= item < count:
                numbers.append(item % count)
            elif count or point.node.sequence in GROWING:
                wrong.setdefault(sample, []).append(item)
        result.append(torch.tensor(list(dict.fromkeys(numbers)), dtype=torch.long))
    if wrong:
        kind = "tokens" if point.node.sequence in GROWING else f"rows of {point.node.name}"
        counts = [point.counts[sample] for sample in wrong]
        raise InputError(
            f"{rule!r} name {next(iter(wrong.values()))}, outside the {counts[0]} {kind} of sample {next(iter(wrong))}"
            f" (samples {list(wrong)} have {counts} on the {point.node.sequence} sequence, padding not counted)."
        )
    return result


def _require_samples(count: int | None, point: PointRows) -> None:
    """Refuse positions for each of another number of samples."""
    if count is not None and count != point.size:
        raise InputError(
            f"positions were given for {count} samples, and the batch has {point.size}; give one list each."
        )


def _ahead_of_the_run(rule: Index, point: PointRows) -> list[torch.Tensor]:
    """Numbers on a sequence whose length only a run tells."""
    numbers = [list(items) for items in rule.items] if rule.per_sample else [list(rule.items)] * point.size
    if any(isinstance(number, Span) or number < 0 for items in numbers for number in items):
        return [torch.empty(0)] * len(point.counts)  # `counts` says what is missing
    return [torch.tensor(items, dtype=torch.long) for items in numbers]


def _raw(rule: Row, point: PointRows) -> list[torch.Tensor]:
    node, length = point.node, point.extent
    if rule.sequence not in (None, node.sequence):
        part = place_part(node.sequence)
        there = f'batch.layout.patches(..., part="{part}") has those of this point, and ' if part else ""
        raise InputError(
            f"positions hold rows of the {rule.sequence} sequence, and {node.name} lies on the {node.sequence} sequence, where "
            f"the same numbers are other rows. {there}the rule mm.positions.box(...) holds at every point."
        )
    if rule.sample is not None and not rule.per_sample and rule.sample >= 0 and point.size > 1:
        raise InputError(
            f"positions hold rows of sample {rule.sample} alone, and the batch has {point.size} samples; give one entry per "
            "sample, or a rule that finds them in each: mm.positions.box([...])."
        )
    _require_samples(len(rule.rows) if rule.per_sample else None, point)
    point.counts  # noqa: B018 - says what is missing where it is not known which rows are whose
    lists = rule.rows if rule.per_sample else rule.rows * point.size
    wrong = list(dict.fromkeys(n for items in lists for n in items if not -length <= n < length))
    if wrong:
        raise InputError(f"{rule!r} name {wrong}, outside the {length} rows of the {node.sequence} sequence.")
    result = []
    for sample, (items, numbers) in enumerate(zip(point.known, lists, strict=True)):
        rows = [n % length for n in numbers]
        by_row = [(items[:, 1] == n).nonzero().flatten() for n in rows]
        absent = [n for n, sample_rows in zip(rows, by_row, strict=True) if not len(sample_rows)]
        if absent and (rule.per_sample or node.sequence in GROWING):
            why = "padding" if node.sequence in GROWING else "rows of other samples' pictures"
            raise InputError(f"{rule!r} name rows {absent} of sample {sample}, which are {why} at {node.name}.")
        result.append(torch.cat(by_row) if by_row else torch.zeros(0, dtype=torch.long))
    return result
