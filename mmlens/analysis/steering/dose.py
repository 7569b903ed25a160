"""Dose curves: what a metric does as a steering vector is added with growing strength, layer by layer, beside random vectors.

    value(alpha) = metric( logits of the prompt with  x -> x + alpha * s  at the point )

One cell of the executor per sample, point and strength: nothing below the steered layer is computed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from mmlens.analysis.metrics import MetricLike, MetricReading, metric_name, readings, unit_of
from mmlens.analysis.samples import Data, batches
from mmlens.analysis.statistics import Interval, as_rates, mean_interval, paired_difference
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Distinct, PathLike, Seed, Several, SeveralDistinct, Text
from mmlens.core.names import Names
from mmlens.core.pictures import drawn_by
from mmlens.core.results import TensorKind
from mmlens.core.rules import Positions
from mmlens.execution import Cell, Change, CleanRun
from mmlens.hooks.nodes import Points, Selection
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.positions import resolve
from mmlens.interventions.steering import Gate, Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

_TENSORS = ("values", "controls", "baseline")
_FILE = TensorKind(
    "mmlens.steering.DoseCurve",
    2,
    "dose curve",
    {"points": list[str], "alphas": list[float], "metric": str},
    tensors=_TENSORS,
)


@checked_result
@dataclass(frozen=True)
class DoseCurve:
    """A metric over strengths and points.

    Attributes:
        values: with the vector, in the unit of the metric.
        controls: the same with random vectors of equal norm, one per seed.
        baseline: without steering.
        points: hook names.
        alphas: strengths.
        metric: name and unit.
    """

    values: Float[torch.Tensor, "point alpha sample"] = field(repr=False)
    controls: Float[torch.Tensor, "seed point alpha sample"] = field(repr=False)
    baseline: Float[torch.Tensor, "sample"] = field(repr=False)
    points: tuple[str, ...]
    alphas: tuple[float, ...]
    metric: str

    def __repr__(self) -> str:
        point, alpha = self.best
        return (
            f"DoseCurve({self.metric}: {len(self.points)} points x {len(self.alphas)} strengths, {len(self.baseline)} samples; "
            f"{float(self.baseline.mean()):.3f} without, at most {self.interval(point, alpha)} at {point} with alpha {alpha:g})"
        )

    @property
    def best(self) -> tuple[str, float]:
        """The point and strength of the highest mean."""
        row, column = divmod(int(self.values.mean(-1).argmax()), len(self.alphas))
        return self.points[row], self.alphas[column]

    @checked
    def interval(self, point: str, alpha: float) -> Interval:
        """Mean and 95% interval over samples.

        Raises:
            InputError: for a point or strength that was not run.
        """
        return mean_interval(as_rates(self.values[self._place(point, alpha)].numpy(), unit_of(self.metric)))

    @checked
    def control(self, point: str, alpha: float) -> Interval:
        """The same for the random vectors: each sample counts with its mean over seeds."""
        row, column = self._place(point, alpha)
        return mean_interval(self.controls[:, row, column].mean(0).numpy())

    @checked
    def beyond_control(self, point: str, alpha: float) -> Interval:
        """How far the vector goes beyond random ones, sample by sample."""
        row, column = self._place(point, alpha)
        return paired_difference(self.values[row, column].numpy(), self.controls[:, row, column].mean(0).numpy())

    def _place(self, point: str, alpha: float) -> tuple[int, int]:
        if point not in self.points or alpha not in self.alphas:
            raise InputError(
                f"The curve was run at {', '.join(self.points)} with alpha {', '.join(f'{a:g}' for a in self.alphas)}, not at "
                f"{point} with {alpha:g}."
            )
        return self.points.index(point), self.alphas.index(alpha)

    def to_frame(self) -> "pd.DataFrame":
        """A row per point and strength: means and intervals with the vector, with random ones, and of their difference."""
        import pandas as pd

        rows = []
        for point in self.points:
            for alpha in self.alphas:
                row: dict[str, object] = {"point": point, "alpha": alpha, "without": float(self.baseline.mean())}
                intervals = {"vector": self.interval(point, alpha)}
                if len(self.controls):
                    intervals |= {
                        "random": self.control(point, alpha),
                        "beyond_random": self.beyond_control(point, alpha),
                    }
                for name, interval in intervals.items():
                    row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
                rows.append(row)
        return pd.DataFrame(rows)

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The metric over strengths, a panel per point, random vectors in grey; heat maps for more than twelve points.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("steering.plot_dose")(self, figure=figure)

    @checked
    def save(self, path: PathLike) -> Path:
        """Write it as one safetensors file, whole or not at all."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        about = {"points": self.points, "alphas": self.alphas, "metric": self.metric}
        return _FILE.write(path, tensors, about)

    @classmethod
    @checked
    def load(cls, path: PathLike) -> "DoseCurve":
        """Read a curve that `save` wrote.

        Raises:
            InputError: if there is no file, or it is no dose curve.
        """
        tensors, about = _FILE.read(path)
        return cls(**tensors, points=tuple(about["points"]), alphas=tuple(about["alphas"]), metric=about["metric"])


@checked
@torch.no_grad()
def dose_curve(
    model: HookedMultimodal,
    data: Data,
    vectors: SteeringVector | Several[SteeringVector],
    *,
    alphas: SeveralDistinct[float],
    metric: MetricLike,
    at: Points | None = None,
    positions: Positions = "last",
    keep_norm: bool = False,
    gate: Gate | None = None,
    seeds: Distinct[Seed] = (0, 1, 2),
    prompt: Text | None = None,
    batch_size: Count = 8,
    progress: bool = True,
) -> DoseCurve:
    """Add a vector with several strengths, at several layers, and read a metric of the next token.

    Args:
        model: the hooked model.
        data: a prepared batch, or a dataset (see `mmlens.analysis.samples.Dataset`).
        vectors: one vector, or one per layer, each made from the states of its own.
        alphas: strengths.
        metric: of `mm.metrics`, or any function of logits `[batch vocab]` at the predicting position to `[batch]`. With a
            dataset, its tokens are the same for all samples.
        at: points at which one vector is added, one at a time; each vector's own point by default.
        positions: of the prompt (see `mm.positions`). New tokens play no part, since the metric is of the first; but the tokens
            of a word of several count as new ones, which `"all"` and `"generated"` mean too.
        keep_norm, gate: as for `mm.Steer`.
        seeds: of the random vectors; none for no control.
        prompt: asked where a sample brings none.
        batch_size: samples at a time.
        progress: show a progress bar.

    Returns:
        The curve: `.to_frame()`, `.plot()`, `.best`.

    Raises:
        InputError: for no strengths, several vectors with `at`, or of one point, or what `mm.Steer` refuses.

    Example:
        >>> import mmlens as mm
        >>> vector = mm.steering.SteeringVector(model.W_U[:, model.to_single_token("red")], "blocks.4.hook_resid_post")
        >>> curve = mm.steering.dose_curve(
        ...     model, batch, vector, alphas=[0, 10], metric=mm.metrics.log_probability("red"), seeds=[0], progress=False
        ... )
        >>> curve.values[0, 1] > curve.values[0, 0]
        tensor([True])
    """
    steers = _steers(model, vectors, at, positions=positions, keep_norm=keep_norm, gate=gate)
    strengths = tuple(float(alpha) for alpha in alphas)
    if isinstance(data, MultimodalBatch):
        batches_to_run, show_bar = [data], progress
    else:
        prepared_batches = batches(
            model, data, batch_size=batch_size, prompt=prompt, progress=progress, desc="dose curve"
        )
        batches_to_run, show_bar = (batch for _, batch in prepared_batches), False  # type: ignore[assignment]
    states: list[torch.Tensor] = []
    baseline: list[torch.Tensor] = []
    for batch in batches_to_run:
        values, ends = [], []
        for reading in readings(metric, model, batch.size, clean=batch):
            run = CleanRun(model, reading.behind(model, batch), n_rows=reading.n_rows)
            reading = reading.against(run.clean_logits.cpu())
            ends.append(reading.values(run.clean_logits.cpu()))
            values.append(_values(run, _doses(steers, seeds), strengths, reading, positions, show_bar))
        baseline.append(torch.stack(ends).sum(0))
        states.append(torch.stack(values).sum(0))
    if not states:
        raise InputError("The dataset holds no samples.")
    curve = torch.cat(states, dim=-1).unflatten(0, (1 + len(seeds), len(steers)))
    points = tuple(str(steer.at) for steer in steers)
    return DoseCurve(curve[0], curve[1:], torch.cat(baseline), points, strengths, metric_name(metric))


def _steers(
    model: HookedMultimodal,
    vectors: SteeringVector | Sequence[SteeringVector],
    at: Names | Selection | None,
    *,
    positions: Positions,
    keep_norm: bool,
    gate: Gate | None,
) -> list[Steer]:
    """One steering per point, each checked."""
    vector_list = [vectors] if isinstance(vectors, SteeringVector) else list(vectors)
    if not vector_list or (at is not None and len(vector_list) > 1):
        raise InputError(
            f"Give one vector with at=, or one or more vectors that are added where each is from; found {len(vector_list)}"
            f"{'' if at is None else ' with at='}."
        )
    nodes = model.graph.select(vector_list[0].at if at is None else at) if len(vector_list) == 1 else None
    where = [vector.at for vector in vector_list] if nodes is None else list(nodes.names)
    if len(set(where)) < len(where):
        raise InputError(f"The vectors are of the points {', '.join(where)}; give one per point.")
    pairs = zip(vector_list * len(where) if nodes is not None else vector_list, where, strict=True)
    steers = [Steer(v, positions=positions, keep_norm=keep_norm, at=name, gate=gate) for v, name in pairs]
    for steer in steers:
        steer.hooks(model)
    return steers


def _doses(steers: Sequence[Steer], seeds: Sequence[int]) -> list[Steer]:
    """The steerings, then those with random vectors, seed by seed."""
    controls = [replace(steer, vector=steer.vector.random(seed=seed)) for seed in seeds for steer in steers]
    return [*steers, *controls]


def _values(
    run: CleanRun,
    doses: Sequence[Steer],
    alphas: Sequence[float],
    reading: MetricReading,
    positions: Positions,
    progress: bool,
) -> torch.Tensor:
    """The metric of every dose in every sample, `[dose alpha sample]`."""
    size = run.batch.size
    rows = {at: _rows(run, at, positions) for at in {str(dose.at) for dose in doses}}
    strong = [replace(dose, alpha=alpha) for dose in doses for alpha in alphas]
    cells = [
        Cell(sample, (Change(str(steer.at), rows[str(steer.at)][sample], partial(_steered, steer)),))
        for steer in strong
        for sample in range(size)
    ]
    with tqdm(total=len(cells), desc="dose curve", disable=not progress) as bar:

        def count(numbers: list[int], _: torch.Tensor) -> None:
            bar.update(len(numbers))

        logits = run.logits(cells, tokens=reading.reads, progress=False, on_done=count)
    values = [reading.values(chunk, only_reads=True) for chunk in logits.split(size)]
    return torch.stack(values).unflatten(0, (len(doses), len(alphas)))


def _rows(run: CleanRun, at: str, positions: Positions) -> list[torch.Tensor | None]:
    """The positions of the prompt that are steered at a point, per sample; None for all of them."""
    resolution = resolve(positions, run.batch, run.model.graph[at])
    if resolution.empty:
        raise InputError(f"positions={positions!r} name nothing in samples {resolution.empty} of the batch.")
    return [resolution.rows_of(sample) for sample in range(run.batch.size)]


def _steered(steer: Steer, states: Float[torch.Tensor, "row d_model"]) -> Float[torch.Tensor, "row d_model"]:
    """A sample's states, steered where the gate is open."""
    shifted_states = steer.change(states)
    if steer.gate is None:
        return shifted_states
    return torch.where(steer.gate(states[None])[0][:, None], shifted_states, states)
