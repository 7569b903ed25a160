"""Gradients of the metric at what readers receive, which first-order scores of edges are made of.

The gradient of a query, key or value of one head with respect to the stream is pulled back through the branch's own norm and
projection by autograd, so that no rule of a family is written down again.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from mmlens.analysis.circuits.runs import Pair
from mmlens.core.errors import InputError
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
        for number, gradient in _gradients(pair, share):
            reader = graph.readers[number]
            for source in writing.sources:
                if source.stream == reader.stream and graph.allowed[number, list(source.writers)].any():
                    along = source.along(pair.differences[source.node.name], gradient)
                    scores[number, list(source.writers)] += writing.per_sample(source, along).cpu() / len(shares)
    return scores * graph.allowed[..., None]


def _gradients(pair: Pair, share: float) -> Iterator[tuple[int, torch.Tensor]]:
    """The gradient of the metric at what each reader receives, at a point of the path; with the reader's number.

    Args:
        pair: the two runs and the graph.
        share: 0 at the clean run's inputs, 1 at the corrupted one's.
    """
    model, readers = pair.model, pair.graph.readers
    states: dict[str, torch.Tensor] = {}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        states[hook.name] = activation

    inner = [f"{reader.attn}.hook_{reader.kind}" for reader in readers if reader.kind in KINDS]
    entrances = [reader.at for reader in readers if reader.kind not in KINDS]
    where = dict.fromkeys([*(reader.at for reader in readers), *inner])
    hooks = [*_inputs(pair, share), (list(where), keep)]
    with claimed(model, "A circuit"), torch.enable_grad(), attached(pair.points, hooks):
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
            yield number, gradients[reader.at]
            continue
        name = f"{reader.attn}.hook_{reader.kind}"
        axis = model.graph[name].axes.split().index("head")
        of_head = torch.zeros_like(gradients[name])
        of_head.select(axis, reader.head or 0).copy_(gradients[name].select(axis, reader.head or 0))
        gradient = torch.autograd.grad(states[name], states[reader.at], of_head, retain_graph=True, allow_unused=True)[
            0
        ]
        if gradient is None:
            raise InputError(
                f"The {reader.kind} of {reader.attn} are not computed from what the attention receives, "
                "so no gradient of their stream is known. Use nodes='attention'."
            )
        yield number, gradient


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
