"""`attribution_graph`: from a batch and transcoders to nodes and edges, the most influential first."""

import torch
from jaxtyping import Float, Int

from mmlens.analysis.attribution_graphs.edges import Edges
from mmlens.analysis.attribution_graphs.graph import AttributionGraph
from mmlens.analysis.attribution_graphs.influence import influence_of, shares_of
from mmlens.analysis.attribution_graphs.linear import HEAD, LinearModel
from mmlens.analysis.attribution_graphs.nodes import GraphNode, Rows, pooled
from mmlens.analysis.attribution_graphs.structure import structure_of
from mmlens.analysis.attribution_graphs.targets import logit_targets
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.neurons.token_targets import token_text
from mmlens.core.contract import checked
from mmlens.core.gradients import require_autograd
from mmlens.core.kinds import Count, Several, SeveralDistinct, Text
from mmlens.core.progress import ProgressBar
from mmlens.core.rule_groups import Groups, named_rules
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.inputs.picture_tensors import require_running
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.identity import run_identity

#: Features are ranked anew after so many backward passes.
_RERANKED = 4


@checked
@torch.no_grad()
def attribution_graph(
    model: WritingModel,
    batch: BatchLike,
    transcoders: SparseDictionary | Several[SparseDictionary],
    *,
    target: Text | int | SeveralDistinct[str | int] | None = None,
    groups: Groups | None = None,
    max_nodes: Count = 1000,
    batch_size: Count = 64,
    progress: bool = True,
) -> AttributionGraph:
    """Trace what a model is about to say through features of transcoders to patches of the picture and words of the prompt.

    Attention patterns, the divisors of norms and what MLPs write are held fast as they are in this run. Then every active
    feature, and every logit, is a sum over what wrote into the streams in front of it: active features, errors (what features do
    not write: the whole of an MLP without a transcoder), patches and words as the first block receives them, what enters the
    language model between blocks (DeepStack, memories of cross-attention), and biases. These sums are checked.

    With a transcoder of the vision encoder or the projector, the graph begins at the patches as the encoder receives them.

    Args:
        model: the hooked model.
        batch: one sample, whose last position predicts.
        transcoders: from `mm.load_sae`; as a rule one for each MLP of the language model. Autoencoders can stand in for whole
            streams where they were trained.
        target: a word, a token's id, or several; of one word of several tokens each is a logit where it is predicted. By
            default the most probable tokens that make up .95, at most 10.
        groups: position rules by name, whose rows are one source each: `{"circle": mm.positions.box((0, 0, 16, 16))}`; a row
            belongs to the last group that names it, and rows that none names stay alone.
        max_nodes: features in the graph; the others count as errors of their dictionaries.
        batch_size: targets of one backward pass.
        progress: show a progress bar.

    Returns:
        The whole graph; `.prune()` leaves what carries most of the influence.

    Raises:
        InputError: for several samples, dictionaries that do not belong to the model, words of several tokens beside others; or
            if the model is not linear even with all this held fast (gates of attention): the message says what is missing.

    Example:
        >>> graph = mm.attribution_graph(model, batch, transcoders, target="red")  # doctest: +SKIP
        >>> graph.prune().plot(), graph.scores, graph.check(model, batch, transcoders)  # doctest: +SKIP

    Source: Ameisen et al., "Circuit Tracing: Revealing Computational Graphs in Language Models", 2025
    (https://transformer-circuits.pub/2025/attribution-graphs/methods.html).
    *Departs:* sources are the rows that the first block receives, so that pictures have any; features and errors of the first row
    are nodes like others; features beyond `max_nodes` are errors, so that what flows into a node still adds up.
    """
    require_autograd("attribution_graph")
    dictionaries = [transcoders] if isinstance(transcoders, SparseDictionary) else list(transcoders)
    targets = logit_targets(model, batch, target)
    structure = structure_of(model, dictionaries)
    if len(structure.parts) > 1:
        require_running(targets.batch, "vision", "A dictionary of the vision encoder or the projector")
    rules = {} if groups is None else named_rules(groups)
    linear = LinearModel(model, targets.batch, structure)
    run = linear.run()
    pairs, probabilities, weights = targets.of_run(run)
    edges = Edges(linear, run)
    logits, bias, value = edges.of_logits(pairs)
    features, rows, biases = _influential(edges, logits, weights, max_nodes, batch_size, progress)
    matrix = _folded(edges, torch.cat([rows, logits]), features)

    names = Rows(model, targets.batch)
    graph, leaves = model.plain_graph, run.leaves
    nodes = [_feature(edges, names, number) for number in features.tolist()]
    nodes += [names.node("error", graph[at], leaves[at].shape, row) for at, row in edges.errors]
    sources = [names.node("source", graph[at], leaves[at].shape, row) for at, row in edges.entering]
    if rules:
        points = {at: (graph[at], leaves[at].shape) for at, _ in edges.entering}
        first = len(nodes)
        sources, order = pooled(sources, rules, targets.batch, points)
        source_sums = matrix.new_zeros(len(matrix), len(sources)).index_add_(1, torch.tensor(order), matrix[:, first:])
        matrix = torch.cat([matrix[:, :first], source_sums], 1)
    nodes += sources
    nodes += [_logit(model, *pair, float(number)) for pair, number in zip(pairs, value, strict=True)]
    matrix = torch.cat([matrix, matrix.new_zeros(len(matrix), len(pairs))], 1)
    return AttributionGraph(
        members=tuple(nodes),
        weights=matrix,
        bias=torch.cat([biases, bias.to(biases)]),
        probabilities=probabilities,
        shares=weights,
        n_active=len(edges.code),
        texts=_texts(model, targets.batch),
        images=targets.batch.images[0] if targets.batch.images else (),
        identity=run_identity(
            model, exact=False, the_batch=targets.batch, transcoders=[d.W_enc for d in dictionaries], target=target
        ),
    )


def _influential(
    edges: Edges,
    logits: Float[torch.Tensor, "logit column"],
    weights: Float[torch.Tensor, "logit"],
    most: int,
    batch_size: int,
    progress: bool,
) -> tuple[Int[torch.Tensor, "feature"], Float[torch.Tensor, "feature column"], Float[torch.Tensor, "feature"]]:
    """The features with the most influence, in the order of their cuts, with the edges into them and their biases.

    Influence is that along the edges that are known, and is worked out anew as more of them are.
    """
    count = len(edges.code)
    numbers_by_turn: list[torch.Tensor] = []
    rows = [logits.new_zeros(0, logits.shape[1])]
    biases = [logits.new_zeros(0)]
    with ProgressBar(total=min(most, count), desc="attribution_graph, features", disable=not progress) as bar:
        while (size := sum(map(len, numbers_by_turn))) < min(most, count):
            known = torch.cat([*numbers_by_turn, torch.zeros(0, dtype=torch.long)]).long()
            matrix = torch.cat([*rows, logits])
            reach = _reach(shares_of(matrix), known, weights)[:count]
            reach[known] = 0
            best = reach.topk(min(_RERANKED * batch_size, most - size, count - size))
            new = best.indices[best.values > 0]
            if not len(new):
                break
            for numbers, found, bias in edges.of_features(new, batch_size):
                numbers_by_turn.append(numbers)
                rows.append(found)
                biases.append(bias.to(found))
                bar.update(len(numbers))
    numbers = torch.cat([*numbers_by_turn, torch.zeros(0, dtype=torch.long)]).long()
    order = numbers.argsort()
    return numbers[order], torch.cat(rows)[order], torch.cat(biases)[order]


def _reach(
    shares: Float[torch.Tensor, "target column"],
    known: Int[torch.Tensor, "feature"],
    weights: Float[torch.Tensor, "logit"],
) -> Float[torch.Tensor, "column"]:
    """Influence of every column, along the edges into features that are known and into logits."""
    inner = torch.cat([shares[:, known], shares], 1)
    return influence_of(inner, weights)[len(known) :]


def _folded(
    edges: Edges, matrix: Float[torch.Tensor, "target column"], features: Int[torch.Tensor, "feature"]
) -> Float[torch.Tensor, "target node"]:
    """Edges from these features, errors and entrances; those from other features count as errors where they write."""
    count, errors = len(edges.code), edges.errors
    place = {error: number for number, error in enumerate(errors)}
    others = torch.ones(count, dtype=torch.bool)
    others[features] = False
    names = list(edges.dictionaries)
    of_error = torch.tensor(
        [
            place[names[cut], row]
            for cut, row in zip(edges.place[others].tolist(), edges.row[others].tolist(), strict=True)
        ],
        dtype=torch.long,
    )
    rest = matrix[:, count:].clone()
    rest.index_add_(1, of_error, matrix[:, :count][:, others])
    return torch.cat([matrix[:, features], rest], 1)


def _feature(edges: Edges, names: Rows, number: int) -> GraphNode:
    at = list(edges.dictionaries)[int(edges.place[number])]
    shape, row = edges.run.leaves[at].shape, int(edges.row[number])
    return names.node(
        "feature", names.model.plain_graph[at], shape, row, int(edges.feature[number]), float(edges.code[number])
    )


def _logit(model: HookedMultimodal, row: int, token: int, value: float) -> GraphNode:
    word = token_text(model, (token,)) or f"#{token}"
    return GraphNode("logit", f"logit {word}@{row}", HEAD, (row,), word, token=token, value=value)


def _texts(model: HookedMultimodal, batch: MultimodalBatch) -> tuple[str, ...]:
    """The prompt's tokens."""
    ids = batch.inputs.get("input_ids")
    if ids is None:
        return tuple(f"row {row}" for row in range(batch.layout.is_token.shape[1]))
    return tuple(f"#{i}" for i in ids[0].tolist()) if model.processor is None else tuple(model.to_str_tokens(ids))
