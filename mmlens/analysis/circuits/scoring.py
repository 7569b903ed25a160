"""Scores of edges: how much the metric would change if one edge alone were patched.

Edge attribution patching (EAP) estimates it to first order, all edges at once: for writer w and reader r

    score(w, r) = sum over positions of (w corrupted - w clean) . d metric / d (what r receives)

with the gradient of the clean run. EAP-IG takes the mean of the gradients of runs whose inputs lie between clean and
corrupted. "exact" runs the model once per edge.

The gradient of a query, key or value of one head with respect to the stream is pulled back through the branch's own norm and
projection by autograd, so that no rule of a family is written down again.

Source: Syed, Rager and Conmy, "Attribution Patching Outperforms Automated Circuit Discovery", BlackboxNLP 2024
(https://arxiv.org/abs/2310.10348), equation 3. Hanna, Pezzelle and Belinkov, "Have Faith in Faithfulness", COLM 2024
(https://arxiv.org/abs/2403.17806), section 3.
Departs: the steps of EAP-IG are the midpoints (i - 1/2) / m rather than i / m, which makes the error of the sum quadratic in
1 / m; and the path starts at the pixels' embeddings as well as the words'. Scores are signed, and kept for each sample.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from mmlens.analysis.circuits.runs import Pair
from mmlens.core.errors import InputError
from mmlens.hooks.branch_inputs import KINDS
from mmlens.hooks.point import reads_only
from mmlens.hooks.session import HookPair, attached


def attributed(pair: Pair, *, steps: int | None, progress: bool) -> Float[torch.Tensor, "reader writer sample"]:
    """EAP (`steps=None`) or EAP-IG scores of all edges; zero for pairs that are no edges.

    Args:
        pair: the two runs and the graph.
        steps: points of the path from clean to corrupted.
        progress: show a progress bar.
    """
    shares = [0.0] if steps is None else [(i + 0.5) / steps for i in range(steps)]
    graph, writing = pair.graph, pair.writing
    scores = torch.zeros(len(graph.readers), len(graph.writers), pair.clean.size)
    for share in tqdm(shares, desc="EAP" if steps is None else "EAP-IG", disable=not progress):
        for number, gradient in _gradients(pair, share):
            reader = graph.readers[number]
            for source in writing.sources:
                if source.stream == reader.stream and graph.allowed[number, list(source.writers)].any():
                    along = source.along(pair.differences[source.node.name], gradient)
                    scores[number, list(source.writers)] += writing.per_sample(source, along).cpu() / len(shares)
    return scores * graph.allowed[..., None]


def exact(pair: Pair, *, progress: bool) -> Float[torch.Tensor, "reader writer sample"]:
    """What each edge changes when it alone is patched: one run per edge; zero for pairs that are no edges."""
    graph = pair.graph
    scores = torch.zeros(len(graph.readers), len(graph.writers), pair.clean.size)
    clean = pair.ends[0].detach()
    for reader, writer in tqdm(graph.allowed.nonzero().tolist(), desc="edges", disable=not progress):
        edge = torch.zeros_like(graph.allowed)
        edge[reader, writer] = True
        scores[reader, writer] = (pair.run(edge) - clean).cpu()
    return scores


def _gradients(pair: Pair, share: float) -> Iterator[tuple[int, torch.Tensor]]:
    """The gradient of the metric at what each reader receives, at a point of the path; with the reader's number.

    Args:
        pair: the two runs and the graph.
        share: 0 at the clean run's inputs, 1 at the corrupted one's.
    """
    model, readers = pair.model, pair.graph.readers
    seen: dict[str, torch.Tensor] = {}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        seen[hook.name] = activation

    inner = [f"{reader.attn}.hook_{reader.kind}" for reader in readers if reader.kind in KINDS]
    asked = [reader.at for reader in readers if reader.kind not in KINDS]
    where = dict.fromkeys([*(reader.at for reader in readers), *inner])
    with torch.enable_grad(), attached(pair.points, [*_inputs(pair, share), (list(where), keep)]):
        values = pair.values(model(pair.clean))
        wanted = list(dict.fromkeys([*asked, *inner]))
        found = torch.autograd.grad(values.sum(), [seen[name] for name in wanted], retain_graph=True)
    gradients = dict(zip(wanted, found, strict=True))
    for number, reader in enumerate(readers):
        if reader.kind not in KINDS:
            yield number, gradients[reader.at]
            continue
        name = f"{reader.attn}.hook_{reader.kind}"
        axis = model.graph[name].axes.split().index("head")
        own = torch.zeros_like(gradients[name])
        own.select(axis, reader.head or 0).copy_(gradients[name].select(axis, reader.head or 0))
        pulled = torch.autograd.grad(seen[name], seen[reader.at], own, retain_graph=True, allow_unused=True)[0]
        if pulled is None:
            raise InputError(
                f"The {reader.kind} of {reader.attn} are not computed from what the attention receives, "
                "so no gradient of their stream is known. Use nodes='attention'."
            )
        yield number, pulled


def _inputs(pair: Pair, share: float) -> list[HookPair]:
    """Hooks that put the inputs between the clean and the corrupted run's, and ask for their gradient."""
    graph, differences = pair.graph, pair.differences
    start = "vision.hook_embed"
    # a corruption behind the vision encoder (noise on the projector's rows) leaves the encoder's inputs as they were
    behind = start in differences and not differences[start].any()
    fed = {name for reader in graph.readers if behind and reader.part == "vision" for name in reader.feeds}
    inputs = torch.tensor([w.name in graph.inputs or (w.part != "vision" and w.name in fed) for w in graph.writers])

    def add(difference: torch.Tensor) -> Callable[..., torch.Tensor]:
        def put(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            new = activation + share * difference
            # parameters may be frozen; then nothing before this point asks for a gradient
            return new if new.requires_grad else new.detach().requires_grad_()

        return put

    pairs: list[HookPair] = []
    for source in pair.writing.sources:
        own = inputs[list(source.writers)]
        if own.any():
            moved = differences[source.node.name]
            moved = moved if source.masks is None else source.written(moved, own)
            pairs.append((source.node.name, add(moved)))
    return pairs
