"""Activation patching: put activations of one run into another and see how the answer moves.

Denoising: the corrupted run gets clean activations, one point and group of positions at a time; what brings the clean
answer back carries it. Noising is the reverse.

Source: Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022
(https://arxiv.org/abs/2202.05262); Zhang and Nanda, "Towards Best Practices of Activation Patching", ICLR 2024 (https://arxiv.org/abs/2309.16042).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from mmlens.analysis.metrics import Metric, MetricFunction, as_function, per_sample
from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.core.places import Positions
from mmlens.hooks.graph import Selection
from mmlens.interventions.activations import Replace
from mmlens.models.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.layout import TokenLayout

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PatchSweep:
    """Values of a metric after each patch.

    Attributes:
        values: `[point group sample]`, in the metric's unit.
        points: hook names.
        groups: names of the groups of positions.
        clean: the metric of the clean run, `[sample]`.
        corrupted: the metric of the corrupted run, `[sample]`.
        direction: `"denoise"` or `"noise"`.
        metric: its name and unit.
    """

    values: Float[torch.Tensor, "point group sample"]
    points: list[str]
    groups: list[str]
    clean: Float[torch.Tensor, "sample"]
    corrupted: Float[torch.Tensor, "sample"]
    direction: str
    metric: str

    def __repr__(self) -> str:
        gap = float((self.clean - self.corrupted).mean())
        return (
            f"PatchSweep({self.direction}, {len(self.points)} points x {len(self.groups)} groups x {len(self.clean)} "
            f"samples; "
            f"{self.metric}; clean - corrupted {gap:.3f})"
        )

    @property
    def effect(self) -> Float[torch.Tensor, "point group sample"]:
        """What each patch changed, in the metric's unit: against the corrupted run when denoising, else the clean."""
        return self.values - (self.corrupted if self.direction == "denoise" else self.clean)

    @property
    def recovered(self) -> Float[torch.Tensor, "point group sample"]:
        """The share of the gap from corrupted (0) to clean (1) that stands after each patch; NaN without a gap."""
        return (self.values - self.corrupted) / (self.clean - self.corrupted)

    def to_frame(self) -> "pd.DataFrame":
        """Mean over samples: one row per point and group, with value, effect and recovered share."""
        import pandas as pd

        rows = []
        for i, point in enumerate(self.points):
            for j, group in enumerate(self.groups):
                means = [float(t[i, j].mean()) for t in (self.values, self.effect, self.recovered)]
                rows.append(
                    {"point": point, "positions": group, "value": means[0], "effect": means[1], "recovered": means[2]}
                )
        return pd.DataFrame(rows)


@torch.no_grad()
def patch(
    model: HookedMultimodal,
    clean: MultimodalBatch,
    corrupted: MultimodalBatch,
    *,
    at: Names | Selection,
    metric: Metric | MetricFunction,
    positions: Literal["each"] | Mapping[str, Positions] | list[str] | tuple[str, ...] = ("image", "text", "last"),
    direction: Literal["denoise", "noise"] = "denoise",
    progress: bool = True,
) -> PatchSweep:
    """Patch every point at every group of positions, one at a time.

    Args:
        model: the hooked model.
        clean: the run with the answer.
        corrupted: the run without; the same layout (see `mm.corrupt`).
        at: points with a batch axis, e.g. `"blocks.*.hook_resid_pre"`.
        metric: of `mm.metrics`, or any function of logits `[batch vocab]` at the last position to `[batch]`.
        positions: groups by name: words of the layout, a mapping from names to position rules, or `"each"` position.
        direction: `"denoise"` puts clean activations into the corrupted run, `"noise"` the reverse.
        progress: show a progress bar.

    Returns:
        One value per point, group and sample, beside both unpatched runs.

    Raises:
        InputError: if the layouts differ (the message says where), a point has no batch axis, or a position is out of
            range; before any forward pass.
    """
    if direction not in ("denoise", "noise"):
        raise InputError(f"direction={direction!r} must be 'denoise' or 'noise'.")
    _require_same_layout(clean, corrupted)
    nodes = model.graph.select(at)
    packed = [node.name for node in nodes if not node.axes.startswith("batch")]
    if packed:
        raise InputError(
            f"{', '.join(packed[:3])} have no batch axis (all pictures in one sequence); patch language points instead."
        )
    measure = as_function(metric, model)
    rows = {node.sequence: _groups(clean, node.sequence, positions) for node in nodes}
    groups = list(next(iter(rows.values())))
    if any(list(found) != groups for found in rows.values()):
        raise InputError(
            f"The points live on sequences of different lengths ({', '.join(rows)}); sweep them one sequence at a time."
        )
    source, target = (clean, corrupted) if direction == "denoise" else (corrupted, clean)
    source_logits, cache = model.run_with_cache(source, names=nodes)
    last = clean.layout.last
    ends = [per_sample(measure, logits, last).cpu() for logits in (source_logits, model(target))]
    values = torch.zeros(len(nodes), len(groups), clean.size)
    with tqdm(total=len(nodes) * len(groups), desc="patch", disable=not progress) as bar:
        for i, node in enumerate(nodes):
            for j, group in enumerate(groups):
                replace = Replace(node.name, cache[node.name], rows[node.sequence][group])
                with model.intervene(replace):
                    values[i, j] = per_sample(measure, model(target), last).cpu()
                bar.update()
    clean_value, corrupted_value = ends if direction == "denoise" else reversed(ends)
    name = f"{metric.name}, {metric.unit}" if isinstance(metric, Metric) else getattr(metric, "__name__", "metric")
    return PatchSweep(values, nodes.names, groups, clean_value, corrupted_value, direction, name)


def _groups(batch: MultimodalBatch, sequence: str, positions: object) -> dict[str, torch.Tensor]:
    """Rows of each group on a sequence."""
    layout = batch.layout
    if positions == "each":
        length = layout.length(sequence)
        if length is None:
            raise InputError(
                f"The length of the {sequence} sequence is not known before a run; give positions by index."
            )
        return {str(i): torch.tensor([i]) for i in range(length)}
    rules = dict(positions) if isinstance(positions, Mapping) else {str(rule): rule for rule in positions}  # type: ignore
    return {name: _rows(layout, rule, sequence) for name, rule in rules.items()}


def _rows(layout: TokenLayout, rule: Positions, sequence: str) -> torch.Tensor:
    """Rows `[row]` or `[batch row]`; samples with fewer than others name one of theirs again, which patches it once."""
    if sequence != "language" or not isinstance(rule, str) or rule not in ("image", "text"):
        return layout.rows(rule, sequence, layout.length(sequence))
    found = layout.image if rule == "image" else layout.text
    empty = [sample for sample, rows in enumerate(found) if not len(rows)]
    if empty:
        raise InputError(f"positions={rule!r} names nothing in samples {empty}.")
    longest = torch.arange(max(map(len, found)))
    return torch.stack([rows[longest.clamp(max=len(rows) - 1)] for rows in found])


def _require_same_layout(clean: MultimodalBatch, corrupted: MultimodalBatch) -> None:
    """Patching moves rows between runs, so both must mean the same by a row."""
    one, other = clean.layout, corrupted.layout
    if one.is_token.shape != other.is_token.shape:
        raise InputError(
            f"clean is {list(one.is_token.shape)} and corrupted {list(other.is_token.shape)} [batch pos]; use texts "
            "of equal token length."
        )
    for what, a, b in (("image tokens", one.is_image, other.is_image), ("padding", ~one.is_token, ~other.is_token)):
        if not torch.equal(a, b):
            sample, position = (a != b).nonzero()[0].tolist()
            raise InputError(
                f"clean and corrupted differ in where {what} are, first at position {position} of sample {sample}."
            )
