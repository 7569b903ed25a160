"""Whether a model does what an attribution graph says: nodes are taken out, one at a time.

    direct(t, s) = -A[t, s]                  with patterns, norms and all other nodes held fast: exact
    effect(l, s) = -[A (1 + F + F^2 + ...)](l, s)     F[t, s] = A[t, s] / a_t

a_t is the code of feature t, which falls by the share that s had in it. The second is compared with the model itself, in which
everything behind s goes its own way.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from mmlens.analysis.attribution_graphs.check_result import GraphCheck
from mmlens.analysis.attribution_graphs.edges import Edges
from mmlens.analysis.attribution_graphs.linear import HEAD, LinearModel, flat_rows
from mmlens.analysis.attribution_graphs.nodes import GraphNode
from mmlens.analysis.attribution_graphs.structure import structure_of
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.core.errors import InputError
from mmlens.hooks.point import reads_only
from mmlens.hooks.session import HookPair
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    pass

#: A node's control is drawn among so many of its dictionary that write as much.
_NEAREST = 5
#: The divisor of the final norm.
_FINAL = "ln_final.hook_scale"
#: Nodes whose direct effects are compared one by one.
_DIRECT = 5


@torch.no_grad()
def checked_graph(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    dictionaries: Sequence[SparseDictionary],
    members: Sequence[GraphNode],
    weights: Float[torch.Tensor, "target node"],
    shares: Float[torch.Tensor, "logit"],
    influence: Float[torch.Tensor, "node"],
    *,
    count: int,
    seed: int,
) -> GraphCheck:
    """Take nodes out of a model, and compare; see `AttributionGraph.check`.

    Raises:
        InputError: if the graph is of another batch, model or other dictionaries, or has no features.
    """
    features = [node for node in members if node.kind == "feature"]
    logits = [node for node in members if node.kind == "logit"]
    if not features:
        raise InputError("The graph has no feature nodes, so there is nothing to take out.")
    linear = LinearModel(model, _written(model, batch, logits), structure_of(model, dictionaries))
    run = linear.run()
    edges = Edges(linear, run)
    columns = _require_same(edges, features)
    order = influence[: len(features)].argsort(descending=True)[:count].tolist()
    controls = _controls(edges, features, order, seed)
    scales = tuple(name for name in linear.structure.scales if name != _FINAL)
    loose = replace(linear, structure=replace(linear.structure, scales=scales))
    direct = Edges(loose, loose.run()).logit_edges([(node.rows[0], int(node.token or 0)) for node in logits])
    codes = torch.tensor([node.value for node in features])
    predicted, predicted_free = (
        torch.stack([-(shares @ effects[:, numbers]) for numbers in (order, controls)]).float()
        for effects in (_total(weights, last, codes) for last in (weights[len(features) :], direct[:, columns]))
    )
    clean = _values(run.reads[HEAD], logits)
    measured, free = (
        torch.stack(
            [
                torch.stack([shares @ (_without(edges, features[n], logits, held) - clean) for n in numbers])
                for numbers in (order, controls)
            ]
        )
        for held in (True, False)
    )
    off = max(_off(edges, features, logits, weights, number) for number in order[:_DIRECT])
    names = [tuple(features[number].name for number in numbers) for numbers in (order, controls)]
    return GraphCheck(names[0], names[1], predicted, measured, predicted_free, free, off)


def _written(model: HookedMultimodal, batch: MultimodalBatch, logits: Sequence[GraphNode]) -> MultimodalBatch:
    """The batch with what was written of a word of several tokens."""
    tokens = [int(node.token or 0) for node in sorted(logits, key=lambda node: node.rows)]
    places = len({node.rows for node in logits})
    return batch if places == 1 else model.extend(batch, torch.tensor([tokens[: places - 1]]))


def _require_same(edges: Edges, features: Sequence[GraphNode]) -> list[int]:
    """The columns of a graph's features among all that are active.

    Raises:
        InputError: if one has another code.
    """
    names = list(edges.dictionaries)
    places = zip(edges.place.tolist(), edges.row.tolist(), edges.feature.tolist(), strict=True)
    numbers = {(names[place], row, feature): number for number, (place, row, feature) in enumerate(places)}
    columns = [numbers.get((node.at, node.rows[0], int(node.feature or 0))) for node in features]
    for node, column in zip(features, columns, strict=True):
        code, value = None if column is None else float(edges.code[column]), float(node.value or 0)
        if code is None or abs(code - value) > 1e-2 * max(1.0, abs(value)):
            raise InputError(
                f"{node.name} had the code {value:.3g} when the graph was drawn, and has {code or 0:.3g} in this batch: "
                "check it with the model, batch and transcoders that it was drawn of."
            )
    return [column for column in columns if column is not None]


def _controls(edges: Edges, features: Sequence[GraphNode], order: Sequence[int], seed: int) -> list[int]:
    """For each node a random one of the same dictionary that writes about as much, none of the nodes if there are others."""
    make = np.random.default_rng(seed)
    norms = {at: dictionary.W_dec.norm(dim=-1) for at, dictionary in edges.dictionaries.items()}
    size = [float(node.value or 0) * float(norms[node.at][node.feature or 0]) for node in features]
    result = []
    for number in order:
        same_point = [n for n, node in enumerate(features) if node.at == features[number].at and n != number]
        others = [n for n in same_point if n not in order] or same_point or [number]
        near = sorted(others, key=lambda n: abs(size[n] - size[number]))[:_NEAREST]
        result.append(int(make.choice(near)))
    return result


def _total(
    weights: Float[torch.Tensor, "target node"],
    direct: Float[torch.Tensor, "logit node"],
    codes: Float[torch.Tensor, "feature"],
) -> Float[torch.Tensor, "logit feature"]:
    """What flows from each feature into each logit, along all paths, given the edges into features and into logits."""
    count = len(codes)
    inner = weights[:count, :count].double() / codes.double()[:, None]
    return torch.linalg.solve(torch.eye(count).double() - inner, direct[:, :count].double(), left=False).to(weights)


def _values(head: torch.Tensor, logits: Sequence[GraphNode]) -> Float[torch.Tensor, "logit"]:
    rows = flat_rows(head.detach(), head.shape[-1])[[node.rows[0] for node in logits]].cpu()
    tokens = torch.tensor([node.token or 0 for node in logits])
    return (rows.gather(1, tokens[:, None])[:, 0] - rows.mean(1)).float()


def _written_by(edges: Edges, node: GraphNode) -> torch.Tensor:
    """What a feature writes at its row."""
    return edges.dictionaries[node.at].W_dec[node.feature or 0] * float(node.value or 0)


def _less(value: torch.Tensor, row: int, vector: torch.Tensor) -> torch.Tensor:
    new = value.clone()
    new.view(-1, len(vector))[row] -= vector.to(new)
    return new


def _without(edges: Edges, node: GraphNode, logits: Sequence[GraphNode], held: bool) -> Float[torch.Tensor, "logit"]:
    """Logits of the model itself without what a feature writes; `held`: the final norm divides by what it did."""
    vector, reads = _written_by(edges, node), dict[str, torch.Tensor]()

    @reads_only
    def read(activation: torch.Tensor, hook: Any) -> None:
        reads[HEAD] = activation

    hooks: list[HookPair] = [(node.at, lambda y, hook: _less(y, node.rows[0], vector)), (HEAD, read)]
    divisor = edges.run.fixed.get(_FINAL, [None])[0]
    if held and divisor is not None:
        hooks.append((_FINAL, lambda scale, hook: divisor.to(scale)))
    edges.linear.model.run_with_hooks(edges.linear.batch, fwd_hooks=hooks)
    return _values(reads[HEAD], logits)


def _off(
    edges: Edges,
    features: Sequence[GraphNode],
    logits: Sequence[GraphNode],
    weights: Float[torch.Tensor, "target node"],
    number: int,
) -> float:
    """How far edges from a feature are from what their targets change by when all else is held fast."""
    node, constants = features[number], edges.constants()
    clean = edges.linear.replay(edges.run, constants)
    constants[node.at] = _less(constants[node.at], node.rows[0], _written_by(edges, node))
    after = edges.linear.replay(edges.run, constants)
    codes = _codes(edges, after, features) - _codes(edges, clean, features)
    change = torch.cat([codes, _values(after[HEAD], logits) - _values(clean[HEAD], logits)])
    return float((change + weights[:, number]).abs().max() / weights[:, number].abs().max().clamp_min(1e-30))


def _codes(
    edges: Edges, reads: dict[str, torch.Tensor], features: Sequence[GraphNode]
) -> Float[torch.Tensor, "feature"]:
    """What codes are made of, of features at their rows."""
    codes = {}
    for at, dictionary in edges.dictionaries.items():
        x = flat_rows(reads[at], dictionary.d_in).to(dictionary.W_enc.dtype)
        codes[at] = dictionary.to(x.device).pre_codes(x)
    return torch.stack([codes[node.at][node.rows[0], node.feature or 0] for node in features]).cpu()
