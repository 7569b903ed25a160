"""Finding a circuit: every edge gets a score, and the strongest ones are the circuit."""

from collections.abc import Sequence

import torch

from mmlens.analysis.circuits.ablation import AblationChoice
from mmlens.analysis.circuits.ablations import ABLATIONS
from mmlens.analysis.circuits.circuit import Circuit
from mmlens.analysis.circuits.dataset import PairData, graph_of
from mmlens.analysis.circuits.graph import NodeKind, Towers
from mmlens.analysis.circuits.methods import CIRCUIT_METHODS, CircuitChoice
from mmlens.analysis.circuits.outlook import outlook
from mmlens.analysis.circuits.pairs import BatchPair, PairsLike
from mmlens.analysis.metrics import MetricLike, metric_name, unit_of
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.progress import say
from mmlens.core.rule_groups import Groups, named_rules
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.identity import run_identity


@checked
def find_circuit(
    model: WritingModel,
    pairs: PairsLike,
    *,
    metric: MetricLike,
    method: CircuitChoice = "eap-ig",
    ablation: AblationChoice = "counterfactual",
    nodes: NodeKind = "head",
    edges: bool | None = None,
    groups: Groups = ("image", "text", "last"),
    towers: Towers = "all",
    progress: bool = True,
) -> Circuit:
    """Score every edge between heads, MLPs, projector and embeddings, in the vision encoder and the language model.

    An edge's score is what the metric changes when this edge alone is ablated, by default when it alone carries the corrupted
    run: exactly, with one run per edge, or to first order for all edges at once. Heads of cross-attention (`L3.x2`) read queries
    from their own stream, and keys and values from what they look at: the projector's rows, or what an encoder read. What
    DeepStack adds between blocks is a writer for each merger. A norm behind the heads (Gemma) or behind a whole branch (BART) is
    a node between two sums. Without edges a node is there with all that reads it, or not; neurons and features always are so.

    Args:
        model: the hooked model.
        pairs: the runs with the answer and those without, of the same layout (see `mm.corrupt`): `(clean, corrupted)`, or a list
            of such pairs, each of a layout of its own. Scores of their samples stand side by side.
        metric: of `mm.metrics`, with words for all samples or one each through all pairs, or any function of logits
            `[batch vocab]` at the last position to `[batch]`.
        method: `"eap"` (gradients of the clean run), `"eap-ig"` (mean gradients along the way to the ablated inputs), `"exact"`
            (small graphs: one run per edge), `"acdc"`, `"edge-pruning"`, ..., or settings: `mm.circuits.EAPIG(steps=20)`.
            docs/circuits.md lists them with what each takes.
        ablation: what an edge carries that is left out: `"counterfactual"` (the corrupted run), `"zero"`, `"mean"`,
            `"group-mean"`, or settings: `mm.circuits.GroupMeanAblation(groups=...)`. Pairs may be `(clean, None)` for all
            but the first.
        nodes: `"head"`, where queries, keys and values of every head read apart; `"attention"`, whole branches; `"neuron"`, where
            MLPs are split too; `"feature"`, the features and errors of the dictionaries that are attached, and nothing else.
        edges: whether edges are scored, or nodes with all that reads them; by default where nodes are heads and whole branches.
        groups: the embeddings' position groups (see `mm.positions`): rules, or rules by name; a position belongs to the last
            group that names it. Groups of picture positions, such as boxes, are what the projector writes.
        towers: `"all"`, or `"language"` to begin at the language model's embeddings.
        progress: say what it will take, and show a progress bar.

    Returns:
        All edges with their scores, one per sample; `.strongest(n)` or `.threshold(least)` choose among them.

    Raises:
        InputError: if the layouts differ, the metric does not give one value per sample, or the family's streams are no sums of
            branches (the message says where); before any forward pass, but for what only a run can tell.

    """
    scoring = CIRCUIT_METHODS.get(method)
    has_edges = nodes in ("head", "attention") if edges is None else edges
    if has_edges and nodes in ("neuron", "feature"):
        raise InputError(
            f"edges=True needs streams of heads' and branches' own, and nodes={nodes!r} have none; leave it out."
        )
    graph = graph_of(model, pairs, nodes=nodes, groups=named_rules(groups), towers=towers, edges=has_edges)
    if towers == "all" and has_edges:
        _refuse_unseen_text(model, pairs)
    rule = ABLATIONS.get(ablation)
    data = PairData.of(model, pairs, graph, metric, rule, check=scoring.check)
    ahead = outlook(data, scoring)
    say(f"find_circuit, {scoring}: {ahead}", disable=not progress)
    scores = scoring.search(data, progress=progress)
    identity = run_identity(
        model,
        exact=False,
        the_clean_batches=[clean for clean, _ in pairs],
        the_corrupted_batches=[corrupted for _, corrupted in pairs],
        graph=(
            [reader.name for reader in graph.readers],
            [writer.name for writer in graph.writers],
            graph.groups,
            towers,
        ),
        metric=metric,
        method=scoring,
        ablation=rule,
    )
    return Circuit(
        graph=graph,
        scores=scores.scores,
        kept=scores.kept,
        method=str(scoring),
        metric=metric_name(metric),
        ablation=str(rule),
        unit=scoring.unit or unit_of(metric_name(metric)),
        clean=data.end(0),
        corrupted=data.end(1),
        identity=identity,
    )


def _refuse_unseen_text(model: HookedMultimodal, pairs: Sequence[BatchPair]) -> None:
    """A Q-Former that reads the prompt gets it beside the streams, so another prompt would reach it over no edge."""
    reads_text = any(node.part == "projector" and "text" in node.sequence for node in model.graph)
    texts = [(clean["input_ids"], other["input_ids"]) for clean, other in pairs if other is not None]
    if reads_text and any(not torch.equal(*pair) for pair in texts):
        raise InputError(
            f"The projector of {model.family.name} reads the prompt beside the picture, over no edge of the graph; use a "
            "clean and a corrupted batch of the same text, or begin behind the projector: towers='language'."
        )
