"""Concept shifts of all layers together: each beside other concepts' shifts, and p values corrected for their number.

Recovery is high by construction where shift and match come from the same samples: the mean of a cluster moves by the mean of its
samples' moves, whatever these are. So the tuned model's concepts are found here in other samples than the shifts are measured in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.concepts.methods import ConceptChoice
from mmlens.analysis.shift.pairing import Pairs
from mmlens.analysis.shift.result import ConceptShift, Control, Quantity
from mmlens.analysis.shift.shift import concept_shift
from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.analysis.statistics.significance import corrected, sign_flip_p
from mmlens.analysis.store.states import States
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Seed
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd


@checked_result
@dataclass(frozen=True)
class LayerShifts(Viewable, Saved):
    """Concept shifts by name, such as their layers'.

    Attributes:
        shifts: by name.
        held_out: whether the tuned model's concepts come from other samples than the shifts.
    """

    shifts: Mapping[str, ConceptShift] = field(repr=False)
    held_out: bool = False

    def __repr__(self) -> str:
        how = "held out" if self.held_out else "of the same samples"
        return (
            f"LayerShifts({len(self.shifts)} shifts, matches {how})\n{self.to_frame().round(3).to_string(index=False)}"
        )

    @checked
    def to_frame(
        self, quantity: Quantity = "recovery_distance", *, control: Control = "shuffled", draws: Count = 20
    ) -> "pd.DataFrame":
        """A row per shift: the mean of a quantity over concepts, the same under a control, and whether it goes beyond that.

        Columns: concepts; the mean with its interval; `control`, the mean over the draws; `beyond` with its interval, paired by
        concept; `p` of that (sign flips over concepts), and `p_corrected` by Holm for the number of shifts.

        Args:
            quantity: what is measured of each concept.
            control: `"shuffled"`: each concept gets another one's shift; `"random"` directions; both of equal length.
            draws: of the control.
        """
        import pandas as pd

        rows, tests = [], []
        for name, shift in self.shifts.items():
            values = shift.values(quantity).double().numpy()
            controls = [shift.control(control, seed=seed).values(quantity).double().numpy() for seed in range(draws)]
            finite = np.isfinite(values) & np.isfinite(controls).all(0)
            beyond = values[finite] - np.mean(controls, axis=0)[finite]
            interval, difference = mean_interval(values[np.isfinite(values)]), mean_interval(beyond)
            rows.append(
                {
                    "shift": name,
                    "concepts": int(finite.sum()),
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "control": float(np.mean(controls, axis=0)[finite].mean()) if finite.any() else np.nan,
                    "beyond": difference.mean,
                    "beyond_low": difference.low,
                    "beyond_high": difference.high,
                }
            )
            tests.append(float(sign_flip_p(beyond)) if len(beyond) > 1 else np.nan)
        return pd.DataFrame(rows).assign(p=tests, p_corrected=corrected(np.array(tests), "holm"))

    @checked
    def correlations(self, first: Quantity = "consistency", second: Quantity = "recovery_distance") -> "pd.DataFrame":
        """A row per shift: Pearson's r of two quantities over concepts with its 95% interval, p, and p corrected by Holm.

        A correlation at one layer out of many is what `p_corrected` is for: it holds where that is small.
        """
        import pandas as pd

        by_layer = {name: shift.correlation(first, second) for name, shift in self.shifts.items()}
        p = np.array([correlation.p for correlation in by_layer.values()])
        rows = [{"shift": name, **correlation._asdict()} for name, correlation in by_layer.items()]
        return pd.DataFrame(rows).assign(p_corrected=corrected(p, "holm"))


@checked
def layer_shifts(
    base: Mapping[str, States],
    tuned: Mapping[str, States],
    n_concepts: Count = 20,
    *,
    method: ConceptChoice = "kmeans",
    pairs: Pairs = "common",
    held_out: bool = True,
    seed: Seed = 0,
) -> LayerShifts:
    """Measure how concepts move at several layers, with matches from other samples than the shifts.

    Half of the samples (whole pictures) tell the base model's concepts and their shifts, the other half the concepts of the
    tuned model that these are compared with.

    Args:
        base: states of the base model by name, such as by hook point: `{point: store.at(point) for point in store.points}`.
        tuned: states of the tuned model under the same names.
        n_concepts: per layer, at most a fifth of the samples that the shifts are measured in.
        method: how concepts are found.
        pairs: as for `concept_shift`.
        held_out: False takes all samples for both, as published: then even random moves are recovered.
        seed: of the halves.

    Raises:
        InputError: for other names on the two sides, or too few samples.

    Source: Khayatan et al., ICCV 2025 (https://arxiv.org/abs/2501.03012). *Departs:* matches are held out.
    """
    if not base or set(base) != set(tuned):
        raise InputError(
            f"base and tuned must hold states under the same names, found {sorted(base)} and {sorted(tuned)}."
        )
    shifts = {}
    for name, states in base.items():
        others = tuned[name]
        keys = sorted({*states.keys} & {*others.keys})
        order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed)).tolist()
        half = {keys[number] for number in order[: len(keys) // 2]}
        first, second = (_of(states, half), _of(others, half)) if held_out else (states, others)
        count = min(n_concepts, len({*first.keys}) // 5)
        if count < 2:
            raise InputError(
                f"{name} has {len({*first.keys})} samples to measure shifts in, too few for two concepts of five samples each."
            )
        bank = extract_concepts(first, count, method=method)
        after = extract_concepts(_of(others, set(keys) - half), count, method=method) if held_out else None
        shifts[name] = concept_shift(first, second, bank, after, pairs=pairs)
    return LayerShifts(shifts, held_out)


def _of(states: States, keys: set[str]) -> States:
    """The states of some samples."""
    return states[[row for row, key in enumerate(states.keys) if key in keys]]
