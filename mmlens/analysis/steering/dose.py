"""Dose curves: what a metric does as a steering vector is added with growing strength, layer by layer, beside its controls.

    value(alpha) = metric( logits of the prompt with  x -> x + alpha * s  at the point )

One cell of the executor per sample, point and strength: nothing below the steered layer is computed again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float

from mmlens.analysis.metrics import MetricLike, MetricReading, metric_name, readings
from mmlens.analysis.metrics.reading import as_forced
from mmlens.analysis.patching.filling import Place, fill
from mmlens.analysis.samples.chunks import DataChunk, chunks_of, shared_chunks
from mmlens.analysis.samples.sample import Data, as_samples, length_of
from mmlens.analysis.steering.controls import ControlKind, StateDraws, controls_of
from mmlens.analysis.steering.dose_result import DoseCurve
from mmlens.analysis.steering.metric_weights import metric_weights
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Distinct, PathLike, Seed, Several, SeveralDistinct, Text
from mmlens.core.names import Names
from mmlens.core.rules import Positions
from mmlens.execution import Cell, Change, CleanRun
from mmlens.hooks.nodes import Points, Selection
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.positions import resolve
from mmlens.interventions.directed import Gate
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.identity import run_identity


@checked
@torch.no_grad()
def dose_curve(
    model: WritingModel,
    data: Data,
    vectors: SteeringVector | Several[SteeringVector],
    *,
    alphas: SeveralDistinct[float],
    metric: MetricLike,
    at: Points | None = None,
    positions: Positions = "last",
    keep_norm: bool = False,
    gate: Gate | None = None,
    controls: SeveralDistinct[ControlKind] | tuple[()] = ("words", "covariance", "isotropic"),
    seeds: Distinct[Seed] = (0, 1, 2),
    prompt: Text | None = None,
    batch_size: Count = 8,
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> DoseCurve:
    """Add a vector with several strengths, at several layers, and read a metric of the next token.

    Args:
        model: the hooked model.
        data: a prepared batch, or a dataset (see `mmlens.analysis.samples.sample.Dataset`).
        vectors: one vector, or one per layer, each made from the states of its own.
        alphas: strengths.
        metric: of `mm.metrics`, or any function of logits `[batch vocab]` at the predicting position to `[batch]`. With a
            dataset, its tokens are the same for all samples.
        at: points at which one vector is added, one at a time; each vector's own point by default.
        positions: of the prompt (see `mm.positions`). New tokens play no part, since the metric is of the first; but the tokens
            of a word of several count as new ones, which `"all"` and `"generated"` mean too.
        keep_norm, gate: as for `mm.Steer`.
        controls: kinds of control; `()` for none. Words are the metric's tokens (the first against the second, or against all by
            their probability), or along the gradient of a function that has one.
        seeds: of the random vectors; none for no random control.
        prompt: asked where a sample brings none.
        batch_size: samples at a time.
        checkpoint: a file that keeps what is measured; the same call goes on from it.
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
    dataset = data if isinstance(data, MultimodalBatch) else list(as_samples(data, prompt=prompt))
    chunks = list(chunks_of(model, dataset, None, batch_size))
    if not chunks:
        raise InputError("The dataset holds no samples.")
    for steer in steers:
        _rows(model, as_forced(metric, model, chunks[0].batch), str(steer.at), positions)
    doses = _doses(model, steers, (chunk.batch for chunk in chunks), metric, controls, seeds)
    results = Checkpoint(
        checkpoint,
        "dose curve",
        lambda exact: run_identity(
            model,
            exact,
            data=data if isinstance(data, MultimodalBatch) else "a dataset",
            vectors=doses,
            strengths=strengths,
            metric=metric,
            batch_size=batch_size,
        ),
    )
    runs = _Doses(model, doses, strengths, metric, positions, progress)
    if isinstance(data, MultimodalBatch):  # its cells are shared
        values, baseline = runs.values(chunks[0], results)
    else:
        for _, parts in shared_chunks(
            model,
            chunks,
            runs.values,
            checkpoint=results,
            desc="dose curve",
            total=length_of(dataset),
            progress=progress,
        ):
            for name, part in zip(("values", "baseline"), parts, strict=True):
                earlier = results.tensors.get(name)
                results.tensors[name] = part if earlier is None else torch.cat([earlier, part], dim=-1)
        values, baseline = results.tensors["values"], results.tensors["baseline"]
    every = values.unflatten(0, (-1, len(steers)))
    points = tuple(str(steer.at) for steer in steers)
    sizes = [len(seeds) if kind in controls else 0 for kind in ("isotropic", "covariance")]
    vector, isotropic, covariance, words = every.split([1, *sizes, int("words" in controls)])
    curve = DoseCurve(vector[0], isotropic, baseline, points, strengths, metric_name(metric))
    words_of_metric = words[0] if len(words) else curve.words
    return replace(curve, covariance=covariance, words=words_of_metric, identity=results.identity)


@dataclass(frozen=True)
class _Doses:
    """What is run on every batch.

    Attributes:
        model: the hooked model.
        doses: the steerings and their controls.
        alphas: strengths.
        metric: what is read.
        positions: where the prompt is steered.
        progress: show a progress bar over the cells of a batch that is no part of a dataset.
    """

    model: HookedMultimodal
    doses: Sequence[Steer | None]
    alphas: Sequence[float]
    metric: MetricLike
    positions: Positions
    progress: bool

    def values(self, chunk: DataChunk, finished: Checkpoint | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Values `[dose alpha sample]` of a batch, and those without steering."""
        finished = Checkpoint(None, "dose curve", lambda exact: {}) if finished is None else finished
        values, ends = [], []
        for number, reading in enumerate(readings(self.metric, self.model, chunk.size, clean=chunk.batch)):
            run = CleanRun(self.model, reading.behind(self.model, chunk.batch), n_rows=reading.n_rows)
            reading = reading.against(run.clean_logits.cpu())
            ends.append(reading.values(run.clean_logits.cpu()))
            values.append(self._filled(finished, f"values {number}", run, reading, self.progress and not chunk.samples))
        return torch.stack(values).sum(0), torch.stack(ends).sum(0)

    def _filled(
        self, results: Checkpoint, name: str, run: CleanRun, reading: MetricReading, progress: bool
    ) -> torch.Tensor:
        """The metric of every dose in every sample, `[dose alpha sample]`; NaN where there is no such dose."""
        steers = {number: dose for number, dose in enumerate(self.doses) if dose is not None}
        rows = {
            at: _rows(run.model, run.batch, at, self.positions) for at in {str(dose.at) for dose in steers.values()}
        }
        strong = [[replace(dose, alpha=alpha) for alpha in self.alphas] for dose in steers.values()]

        def cell(place: Place, sample: int) -> Cell:
            steer = strong[place[0]][place[1]]
            return Cell(sample, (Change(str(steer.at), rows[str(steer.at)][sample], partial(_steered, steer)),))

        shape = (len(steers), len(self.alphas))
        fill(results, run, shape, cell, reading, desc="dose curve", name=name, plan=False, progress=progress)
        values = results.tensors[name]
        result = values.new_full((len(self.doses), len(self.alphas), run.batch.size), torch.nan)
        result[list(steers)] = values
        return result


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


def _doses(
    model: HookedMultimodal,
    steers: Sequence[Steer],
    data: Iterable[MultimodalBatch],
    metric: MetricLike,
    kinds: Sequence[ControlKind],
    seeds: Sequence[int],
) -> list[Steer | None]:
    """The steerings, then those with each control: isotropic and covariance seed by seed, words; None where there is none."""
    draws = StateDraws(model, [str(steer.at) for steer in steers] if "covariance" in kinds else (), seeds)
    weights: torch.Tensor | None = None
    if {"words", "covariance"} & set(kinds):
        for batch in data:
            hooks = draws.hooks(batch)
            logits = model.run_with_hooks(batch, fwd_hooks=hooks) if hooks else None
            of_batch = metric_weights(metric, model, batch, logits) if "words" in kinds else None
            weights = of_batch if weights is None or of_batch is None else weights + of_batch
    vectors_by_steer = [
        controls_of(model, steer.common_vector, [str(steer.at)], kinds, seeds=seeds, draws=draws, weights=weights)
        for steer in steers
    ]
    drawn_kinds: tuple[ControlKind, ...] = ("isotropic", "covariance")
    keys: list[tuple[ControlKind, int]] = [(kind, seed) for kind in drawn_kinds for seed in seeds if kind in kinds]
    keys += [("words", 0)] if "words" in kinds else []
    controls = [
        replace(steer, vector=vectors[key]) if key in vectors else None
        for key in keys
        for steer, vectors in zip(steers, vectors_by_steer, strict=True)
    ]
    return [*steers, *controls]


def _rows(model: HookedMultimodal, batch: MultimodalBatch, at: str, positions: Positions) -> list[torch.Tensor | None]:
    """The positions of the prompt that are steered at a point, per sample; None for all of them."""
    resolution = resolve(positions, batch, model.graph[at])
    if resolution.empty:
        raise InputError(f"positions={positions!r} name nothing in samples {resolution.empty} of the batch.")
    return [resolution.rows_of(sample) for sample in range(batch.size)]


def _steered(steer: Steer, states: Float[torch.Tensor, "row d_model"]) -> Float[torch.Tensor, "row d_model"]:
    """A sample's states, steered where the gate is open."""
    shifted_states = steer.change(states)
    if steer.gate is None:
        return shifted_states
    return torch.where(steer.gate(states[None])[0][:, None], shifted_states, states)
