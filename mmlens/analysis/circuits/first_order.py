"""Gradients of the metric at what readers receive, which first-order scores of edges are made of.

The gradient of a query, key or value of one head with respect to the stream is pulled back through the branch's own norm and
projection (`head_gradients`), so that no rule of a family is written down again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from mmlens.analysis.circuits.head_gradients import HeadGradients, projection_calls
from mmlens.analysis.circuits.node_runs import node_scores
from mmlens.analysis.circuits.runs import Pair
from mmlens.analysis.circuits.sources import Source
from mmlens.analysis.circuits.writing import sums_of_samples
from mmlens.core.errors import InputError
from mmlens.core.names import into_product
from mmlens.core.progress import progress_over
from mmlens.hooks.branch_inputs import KINDS
from mmlens.hooks.point import reads_only
from mmlens.hooks.session import HookPair, attached
from mmlens.models.claims import claimed


@dataclass(frozen=True)
class PathStep:
    """One of the runs whose gradients are summed up.

    Attributes:
        share: how far what is moved goes, from the clean run (0) to the ablation's values (1).
        weight: of its gradient in the sum.
        source: the number of the one point that is moved, whose writers alone get scores; None for the inputs, and all writers.
    """

    share: float
    weight: float
    source: int | None = None


def path_steps(count: int, *, source: int | None = None) -> list[PathStep]:
    """The points of Gauss and Legendre on the way from the clean to the ablated run, and their weights.

    Args:
        count: how many.
        source: the point that is moved; None for the inputs.
    """
    points, weights = np.polynomial.legendre.leggauss(count)
    return [
        PathStep((1 + x) / 2, weight / 2, source) for x, weight in zip(points.tolist(), weights.tolist(), strict=True)
    ]


def first_order_scores(
    pair: Pair, steps: Sequence[PathStep], *, label: str, progress: bool
) -> Float[torch.Tensor, "reader writer sample"]:
    """Differences of writers times sums of gradients at readers, for all edges; zero for pairs that are no edges.

    Args:
        pair: the runs and the graph.
        steps: whose gradients are summed up.
        label: of the progress bar.
        progress: show it.
    """
    graph, writing = pair.graph, pair.writing
    scores = torch.zeros(len(graph.readers), len(graph.writers), pair.clean.size)
    for step in progress_over(steps, desc=label, disable=not progress):
        sources = writing.sources if step.source is None else [writing.sources[step.source]]
        if graph.by_node:
            for source, gradient in zip(sources, _node_gradients(pair, step, sources), strict=True):
                sums = node_scores(source, writing, pair.difference(source.node.name), gradient)
                scores[0, list(source.writers)] += sums.cpu() * step.weight
            continue
        numbers_of_sources = [number for source in sources for number in source.writers]
        is_read = graph.allowed[:, numbers_of_sources].any(1)
        for numbers, gradients in _gradients(pair, step, is_read) if is_read.any() else ():
            stream = graph.readers[numbers[0]].stream
            for source in sources:
                if source.stream == stream and graph.allowed[numbers][:, list(source.writers)].any():
                    along = source.along(pair.difference(source.node.name), gradients)
                    for number, rows in zip(numbers, along, strict=True):
                        sums = sums_of_samples(source.rows, writing.batch, rows)
                        scores[number, list(source.writers)] += sums.cpu() * step.weight
    return scores * graph.allowed[..., None]


def _node_gradients(pair: Pair, step: PathStep, sources: Sequence[Source]) -> Sequence[torch.Tensor]:
    """The gradients of the metric at the points of nodes."""
    states: dict[str, torch.Tensor] = {}

    def keep(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        # nodes behind one another need no gradient of what lies in front of them where nothing else asks for one
        states[hook.name] = activation if activation.requires_grad else activation.detach().requires_grad_()
        return states[hook.name]

    names = [source.node.name for source in sources]
    with claimed(pair.model, "A circuit"), torch.enable_grad():
        with attached(pair.points, [*_moved(pair, step), (names, keep)]):
            values = pair.values(pair.model(pair.clean))
        return torch.autograd.grad(values.sum(), [states[name] for name in names])


def _gradients(
    pair: Pair, step: PathStep, is_read: Bool[torch.Tensor, "reader"]
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """The gradients of the metric at what readers of one stream receive, at a point of the path; with the readers' numbers.

    Args:
        pair: the runs and the graph.
        step: what is moved, and how far.
        is_read: the readers that are asked for.
    """
    model, readers = pair.model, pair.graph.readers
    states: dict[str, torch.Tensor] = {}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        states[hook.name] = activation

    reader_by_number = {number: reader for number, reader in enumerate(readers) if is_read[number]}
    split = {(reader.attn, reader.kind): reader for reader in reader_by_number.values() if reader.kind in KINDS}
    inner = [into_product(pair.points, attn, kind) for attn, kind in split]
    inputs = [reader.at for reader in reader_by_number.values() if reader.kind not in KINDS]
    where = dict.fromkeys([*(reader.at for reader in reader_by_number.values()), *inner])
    hooks = [*_moved(pair, step), (list(where), keep)]
    with (
        claimed(model, "A circuit"),
        torch.enable_grad(),
        attached(pair.points, hooks),
        projection_calls(model, split) as calls,
    ):
        values = pair.values(model(pair.clean))
        names = list(dict.fromkeys([*inputs, *inner]))
        at_points = torch.autograd.grad(values.sum(), [states[name] for name in names], retain_graph=True)
    gradients = dict(zip(names, at_points, strict=True))
    for number, reader in reader_by_number.items():
        if reader.kind not in KINDS:
            yield [number], [gradients[reader.at]]
    for (attn, kind), reader in split.items():
        numbers = [number for number, other in reader_by_number.items() if (other.attn, other.kind) == (attn, kind)]
        name = into_product(pair.points, attn, kind)
        axis = model.graph[name].axes.split().index("head")
        of_heads = HeadGradients(states[name], states[reader.at], gradients[name], axis, calls.get((attn, kind)))
        at_stream = of_heads.of([readers[number].head or 0 for number in numbers])
        if at_stream is None:
            raise InputError(
                f"The {kind} of {attn} are not computed from what the attention receives, "
                "so no gradient of their stream is known. Use nodes='attention'."
            )
        yield numbers, at_stream


def _moved(pair: Pair, step: PathStep) -> list[HookPair]:
    """Hooks that move the inputs, or one point, towards the ablation's values, and ask for their gradient."""
    graph = pair.graph
    start = "vision.hook_embed"
    # a corruption behind the vision encoder (noise on the projector's rows) leaves the encoder's inputs as they were
    behind = start in pair.reference and not pair.difference(start).any()
    bridges = {name for reader in graph.readers if behind and reader.part == "vision" for name in reader.feeds}
    if behind and graph.by_node:
        bridges = {writer.name for writer in graph.writers if writer.name.startswith("projector")}
    inputs = torch.tensor([w.name in graph.starts or (w.part != "vision" and w.name in bridges) for w in graph.writers])

    def add(difference: torch.Tensor) -> Callable[..., torch.Tensor]:
        def put(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            new = activation + step.share * difference
            # parameters may be frozen; then nothing before this point asks for a gradient
            return new if new.requires_grad else new.detach().requires_grad_()

        return put

    pairs: list[HookPair] = []
    for number, source in enumerate(pair.writing.sources):
        if step.source is not None:
            inputs[list(source.writers)] = number == step.source
        changes = inputs[list(source.writers)]
        if changes.any():
            difference = pair.difference(source.node.name)
            difference = difference if source.masks is None else source.written(difference, changes)
            pairs.append((source.node.name, add(difference)))
    return pairs
