"""What fine-tuning does to the lab model's concepts, on held-out scenes: `python -m benchmarks.shift`.

For each tune, word (or class of words) and layer: the concepts of the base model by k-means, shifted by the mean shift of their
samples and compared with the tuned model's. Recovery stands beside that of random shifts, and of other concepts' shifts, of equal
length. Intervals are 95%, over concepts. `--states` names a folder that keeps the states, to go on from or
to look at again; `--figure` writes the board of one shift.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

import mmlens as mm
from benchmarks.splits import fresh_scenes
from mmlens.analysis.shift.result import Control, Correlation, Quantity, correlation_of
from mmlens.analysis.statistics.intervals import Interval, mean_interval
from mmlens.lab.checkpoints import STYLES
from mmlens.lab.world import PEOPLE, SHAPES

N_CONCEPTS, PER_CONCEPT = 20, 5
WORDS: Mapping[str, Sequence[str]] = {
    "circle": ("circle",),
    "star": ("star",),
    "man": ("man",),
    "shapes": SHAPES,
    "people": PEOPLE,
    "all nouns": mm.lab.NOUNS,
}
_SEED, _NEW_TOKENS = 3, 24


class Line(NamedTuple):
    """One shift, measured."""

    tune: str
    words: str
    layer: int
    grounding: mm.concepts.ShiftGrounding
    alone: int

    @property
    def shift(self) -> mm.concepts.ConceptShift:
        """The shift itself."""
        return self.grounding.shift

    def text_gain(self) -> Interval:
        """T-Overlap of shifted concepts minus that of the original ones, concept by concept."""
        return _mean(self.grounding.text_overlap.diff(dim=0)[0])


def collect(
    model: mm.HookedMultimodal, folder: Path, shown: Sequence[mm.lab.Scene]
) -> dict[str, mm.store.ActivationStore]:
    """States of all generated tokens, of the base model and of each tune."""
    stores: dict[str, mm.store.ActivationStore] = {}
    for style in (None, *STYLES):
        name = style or "base"
        with model.adapter(style):
            stores[name] = mm.collect(
                model,
                shown,
                at="blocks.*.hook_resid_post",
                positions="generated",
                max_new_tokens=_NEW_TOKENS,
                into=folder / name,
                batch_size=32,
            )
    return stores


def first_of(states: mm.store.States, words: Sequence[str]) -> mm.store.States:
    """Per sample, the state that predicts the first of some words in its caption."""
    first: dict[str, int] = {}
    for row, (key, token) in enumerate(zip(states.keys, states.tokens, strict=True)):
        if token in words:
            first.setdefault(key, row)
    return states[list(first.values())]


def measure(model: mm.HookedMultimodal, stores: Mapping[str, mm.store.ActivationStore], tune: str) -> Iterator[Line]:
    """Every word and layer of one tune."""
    for layer, point in enumerate(stores["base"].points):
        every = {name: stores[name].at(point) for name in ("base", tune)}
        for name, words in WORDS.items():
            base, tuned = first_of(every["base"], words), first_of(every[tune], words)
            common = len(
                set(zip(base.keys, base.tokens, strict=True)) & set(zip(tuned.keys, tuned.tokens, strict=True))
            )
            bank = mm.extract_concepts(base, min(N_CONCEPTS, common // PER_CONCEPT), method="kmeans")
            shift = mm.concept_shift(base, tuned, bank, pairs="common")
            with model.adapter(tune):
                yield Line(
                    tune, name, layer, mm.concepts.ground_shift(model, shift), len(base) + len(tuned) - 2 * common
                )


def all_layers(
    stores: Mapping[str, mm.store.ActivationStore], tunes: Sequence[str]
) -> tuple[mm.concepts.LayerShifts, mm.concepts.LayerShifts]:
    """Every tune and layer for all nouns: matches held out, and of the same samples as published; tested together."""
    found = []
    for held_out in (True, False):
        shifts = {}
        for tune in tunes:
            base, tuned = (
                {point: first_of(stores[name].at(point), mm.lab.NOUNS) for point in stores["base"].points}
                for name in ("base", tune)
            )
            measured = mm.concepts.layer_shifts(base, tuned, N_CONCEPTS, held_out=held_out)
            shifts |= {f"{tune}, layer {layer}": shift for layer, shift in enumerate(measured.shifts.values())}
        found.append(mm.concepts.LayerShifts(shifts, held_out))
    return found[0], found[1]


def layer_table(held_out: mm.concepts.LayerShifts, same: mm.concepts.LayerShifts) -> str:
    """A Markdown table of both, and of the correlation of consistency and recovery; p by Holm over all rows."""
    rows = [
        "| tune, layer | concepts | recovery, distance, same samples | recovery, distance, held out | other concepts' shifts "
        "| held out minus these | p | consistency and recovery, held out: r | p | same samples: r | p |",
        "|---" * 11 + "|",
    ]
    frames = [some.to_frame().set_index("shift") for some in (held_out, same)]
    correlations = [some.correlations().set_index("shift") for some in (held_out, same)]
    for name in held_out.shifts:
        own, other = (frame.loc[name] for frame in frames)
        cells = [name, f"{own['concepts']:.0f}", _interval(other, ""), _interval(own, ""), f"{own['control']:.3f}"]
        cells += [_interval(own, "beyond"), f"{own['p_corrected']:.2g}"]
        for frame in correlations:
            row = frame.loc[name]
            cells += [f"{row['r']:.2f} [{row['low']:.2f}, {row['high']:.2f}]", f"{row['p_corrected']:.2g}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _interval(row: pd.Series, name: str) -> str:
    low, high = (f"{name}_low", f"{name}_high") if name else ("low", "high")
    return _bold(Interval(row[name or "mean"], row[low], row[high], 0))


def table(lines: Sequence[Line]) -> str:
    """A Markdown table, a row per shift."""
    rows = [
        "| tune | words | layer | pairs (alone) | K | recovery | cosine gain | random | shuffled | recovery, distance | "
        "T-Overlap: before, shifted, gain | consistency | magnitude | fates |",
        "|---" * 14 + "|",
    ]
    for line in lines:
        shift = line.shift
        before, shifted = line.grounding.text_overlap.nanmean(1).tolist()
        fates = ", ".join(f"{shift.fate.count(fate)} {fate}" for fate in dict.fromkeys(shift.fate))
        controls: Sequence[Control] = ("random", "shuffled")
        cells = (
            line.tune, line.words, line.layer, f"{len(shift.shifts)} ({line.alone})", len(shift.vectors),
            *(_bold(shift.mean(name)) for name in ("recovery", "cosine_gain")),
            *(f"{shift.control(kind).mean('cosine_gain').mean:.3f}" for kind in controls),
            _bold(shift.mean("recovery_distance")), f"{before:.2f}, {shifted:.2f}, {_bold(line.text_gain())}",
            f"{shift.mean('consistency').mean:.2f}", f"{shift.mean('magnitude').mean:.1f}",
            f"{fates}, {len(shift.appeared)} appeared",
        )  # fmt: skip
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def summary(lines: Sequence[Line], *, layer: int) -> str:
    """A Markdown table, a row per tune: the concepts of all nouns at one layer; and the tunes together."""
    rows = ["| tune | concepts | recovery | cosine gain | recovery, distance | minus shuffled | T-Overlap gain |"]
    rows += ["|---" * 7 + "|"]
    for name, chosen in _groups(lines, layer):
        shuffled = torch.cat([line.shift.control("shuffled").recovery_distance for line in chosen])
        overlap = torch.cat([line.grounding.text_overlap for line in chosen], dim=1)
        distance = _joined(chosen, "recovery_distance")
        intervals = (
            *(_mean(_joined(chosen, kind)) for kind in ("recovery", "cosine_gain")),
            *(_mean(values) for values in (distance, distance - shuffled, overlap[1] - overlap[0])),
        )
        rows.append(f"| {' | '.join([name, str(len(distance)), *map(_bold, intervals)])} |")
    return "\n".join(rows)


def correlations(lines: Sequence[Line], *, layer: int) -> str:
    """A Markdown table, a row per tune: Pearson's r and p of consistency, and of magnitude, with each kind of recovery."""
    ends: Sequence[Quantity] = ("recovery", "cosine_gain", "recovery_distance")
    starts: Sequence[Quantity] = ("consistency", "magnitude")
    rows = [f"| tune | {' | '.join(f'{start}, {end}' for start in starts for end in ends)} |", "|---" * 7 + "|"]
    for name, chosen in _groups(lines, layer):
        found = [correlation_of(_joined(chosen, start), _joined(chosen, end)) for start in starts for end in ends]
        rows.append(f"| {name} | {' | '.join(map(_said, found))} |")
    return "\n".join(rows)


def _groups(lines: Sequence[Line], layer: int) -> list[tuple[str, list[Line]]]:
    """Each tune's shift of all nouns at a layer, and these together."""
    some = [line for line in lines if line.layer == layer and line.words == "all nouns"]
    return [*((line.tune, [line]) for line in some), ("together", some)]


def _joined(lines: Sequence[Line], quantity: Quantity) -> torch.Tensor:
    return torch.cat([line.shift.values(quantity) for line in lines])


def _mean(values: torch.Tensor) -> Interval:
    """Over the concepts for which it is known."""
    return mean_interval(values[~values.isnan()].numpy())


def _bold(interval: Interval) -> str:
    return f"**{interval}**" if interval.excludes_zero else str(interval)


def _said(found: Correlation) -> str:
    return f"{found.r:.2f} ({found.p:.2g})"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument(
        "--part", choices=["layers"], help="all layers with matches from other scenes, corrected, alone"
    )
    parser.add_argument("--test-seed", type=int, help="of the scenes of that part (the commit's)")
    parser.add_argument("--states", type=Path, default=None, help="folder that keeps the states")
    parser.add_argument("--tune", choices=STYLES, action="append", help="one tune; repeat for several (all)")
    parser.add_argument("--figure", type=Path, default=None, help="where to write a board of all nouns, last layer")
    chosen = parser.parse_args()
    model = mm.lab.load_tuned()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.states or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if chosen.part == "layers":
            stores = collect(model, folder, fresh_scenes(chosen.scenes, chosen.test_seed))
            print(layer_table(*all_layers(stores, chosen.tune or STYLES)), flush=True)
            return
        stores = collect(model, folder, mm.lab.scenes(chosen.scenes, seed=_SEED))
        lines = [line for tune in chosen.tune or STYLES for line in measure(model, stores, tune)]
    for layer in range(model.cfg.n_layers):
        print(f"All nouns, layer {layer}\n\n{summary(lines, layer=layer)}\n\n{correlations(lines, layer=layer)}\n")
    print(table(lines))
    if chosen.figure is not None:
        shown = mm.concepts.ground_shift(model, lines[-1].shift, mm.lab.scenes(chosen.scenes, seed=_SEED))
        shown.plot().savefig(chosen.figure, dpi=110)


if __name__ == "__main__":
    main()
