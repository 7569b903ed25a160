"""Gradients of the metric at what readers receive, which first-order scores of edges are made of.

The gradient of a query, key or value of one head with respect to the stream is pulled back through the branch's own norm and
projection (`head_gradients`), so that no rule of a family is written down again.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from mmlens.analysis.circuits.head_gradients import HeadGradients, projection_calls
from mmlens.analysis.circuits.runs import Pair
from mmlens.core.errors import InputError
from mmlens.core.names import into_product
from mmlens.hooks.branch_inputs import KINDS
from mmlens.hooks.point import reads_only
from mmlens.hooks.session import HookPair, attached
from mmlens.models.claims import claimed


def first_order_scores(
    pair: Pair, shares: Sequence[float], *, label: str, progress: bool
) -> Float[torch.Tensor, "reader writer sample"]:
    """Differences of writers times mean gradients at readers, for all edges; zero for pairs that are no edges.

    Args:
        pair: the two runs and the graph.
        shares: the points of the path whose gradients are averaged: 0 at the clean run's inputs, 1 at the corrupted one's.
        label: of the progress bar.
        progress: show it.
    """
    graph, writing = pair.graph, pair.writing
    scores = torch.zeros(len(graph.readers), len(graph.writers), pair.clean.size)
    for share in tqdm(shares, desc=label, disable=not progress):
        for numbers, gradients in _gradients(pair, share):
            stream = graph.readers[numbers[0]].stream
            for source in writing.sources:
                if source.stream == stream and graph.allowed[numbers][:, list(source.writers)].any():
                    along = source.along(pair.differences[source.node.name], gradients)
                    for number, rows in zip(numbers, along, strict=True):
                        scores[number, list(source.writers)] += writing.per_sample(source, rows).cpu() / len(shares)
    return scores * graph.allowed[..., None]


def _gradients(pair: Pair, share: float) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """The gradients of the metric at what readers of one stream receive, at a point of the path; with the readers' numbers.

    Args:
        pair: the two runs and the graph.
        share: 0 at the clean run's inputs, 1 at the corrupted one's.
    """
    model, readers = pair.model, pair.graph.readers
    states: dict[str, torch.Tensor] = {}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        states[hook.name] = activation

    inner = [into_product(pair.points, reader.attn, reader.kind) for reader in readers if reader.kind in KINDS]
    entrances = [reader.at for reader in readers if reader.kind not in KINDS]
    where = dict.fromkeys([*(reader.at for reader in readers), *inner])
    hooks = [*_inputs(pair, share), (list(where), keep)]
    split = {(reader.attn, reader.kind): reader for reader in readers if reader.kind in KINDS}
    with (
        claimed(model, "A circuit"),
        torch.enable_grad(),
        attached(pair.points, hooks),
        projection_calls(model, split) as calls,
    ):
        values = pair.values(model(pair.clean))
        names = list(dict.fromkeys([*entrances, *inner]))
        gradients = dict(
            zip(
                names,
                torch.autograd.grad(values.sum(), [states[name] for name in names], retain_graph=True),
                strict=True,
            )
        )
    for number, reader in enumerate(readers):
        if reader.kind not in KINDS:
            yield [number], [gradients[reader.at]]
    for (attn, kind), reader in split.items():
        numbers = [number for number, other in enumerate(readers) if (other.attn, other.kind) == (attn, kind)]
        name = into_product(pair.points, attn, kind)
        axis = model.graph[name].axes.split().index("head")
        of_heads = HeadGradients(states[name], states[reader.at], gradients[name], axis, calls.get((attn, kind)))
        pulled = of_heads.of([readers[number].head or 0 for number in numbers])
        if pulled is None:
            raise InputError(
                f"The {kind} of {attn} are not computed from what the attention receives, "
                "so no gradient of their stream is known. Use nodes='attention'."
            )
        yield numbers, pulled


def _inputs(pair: Pair, share: float) -> list[HookPair]:
    """Hooks that put the inputs between the clean and the corrupted run's, and ask for their gradient."""
    graph, differences = pair.graph, pair.differences
    start = "vision.hook_embed"
    # a corruption behind the vision encoder (noise on the projector's rows) leaves the encoder's inputs as they were
    behind = start in differences and not differences[start].any()
    reader_inputs = {name for reader in graph.readers if behind and reader.part == "vision" for name in reader.feeds}
    inputs = torch.tensor(
        [w.name in graph.inputs or (w.part != "vision" and w.name in reader_inputs) for w in graph.writers]
    )

    def add(difference: torch.Tensor) -> Callable[..., torch.Tensor]:
        def put(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            new = activation + share * difference
            # parameters may be frozen; then nothing before this point asks for a gradient
            return new if new.requires_grad else new.detach().requires_grad_()

        return put

    pairs: list[HookPair] = []
    for source in pair.writing.sources:
        changes = inputs[list(source.writers)]
        if changes.any():
            difference = differences[source.node.name]
            difference = difference if source.masks is None else source.written(difference, changes)
            pairs.append((source.node.name, add(difference)))
    return pairs
