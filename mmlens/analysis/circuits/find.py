"""Finding a circuit: every edge gets a score, and the strongest ones are the circuit."""

import torch
from tqdm.auto import tqdm

from mmlens.analysis.circuits.build import edge_graph
from mmlens.analysis.circuits.circuit import Circuit
from mmlens.analysis.circuits.graph import NodeKind, Towers
from mmlens.analysis.circuits.methods import CIRCUIT_METHODS, CircuitChoice
from mmlens.analysis.circuits.outlook import outlook
from mmlens.analysis.circuits.runs import pairs_of
from mmlens.analysis.metrics import MetricLike, metric_name
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.rule_groups import Groups, named_rules
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.interventions.pairs import require_same_layout
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.identity import run_identity


@checked
def find_circuit(
    model: WritingModel,
    clean: BatchLike,
    corrupted: BatchLike,
    *,
    metric: MetricLike,
    method: CircuitChoice = "eap-ig",
    nodes: NodeKind = "head",
    groups: Groups = ("image", "text", "last"),
    towers: Towers = "all",
    progress: bool = True,
) -> Circuit:
    """Score every edge between heads, MLPs, projector and embeddings, in the vision encoder and the language model.

    An edge's score is what the metric changes when this edge alone carries the corrupted run: exactly, with one run per edge,
    or to first order for all edges at once. Heads of cross-attention (`L3.x2`) read queries from their own stream, and keys and
    values from what they look at: the projector's rows, or what an encoder read. What DeepStack adds between blocks is a writer
    for each merger. A norm behind the heads (Gemma) or behind a whole branch (BART) is a node between two sums.

    Args:
        model: the hooked model.
        clean: the run with the answer.
        corrupted: the run without; the same layout (see `mm.corrupt`).
        metric: of `mm.metrics`, or any function of logits `[batch vocab]` at the last position to `[batch]`.
        method: `"eap"` (gradients of the clean run), `"eap-ig"` (mean gradients along the way to the corrupted run's inputs),
            `"exact"` (small graphs: one run per edge), or settings: `mm.circuits.EAPIG(steps=20)`. docs/methods.md lists them.
        nodes: `"head"`, where queries, keys and values of every head read apart, or `"attention"`, whole branches.
        groups: the embeddings' position groups (see `mm.positions`): rules, or rules by name; a position belongs to the last
            group that names it. Groups of picture positions are what the projector writes.
        towers: `"all"`, or `"language"` to begin at the language model's embeddings.
        progress: say what it will take, and show a progress bar.

    Returns:
        All edges with their scores, one per sample; `.strongest(n)` or `.threshold(least)` choose among them.

    Raises:
        InputError: if the layouts differ, the metric does not give one value per sample, or the family's streams are no sums of
            branches (the message says where); before any forward pass, but for what only a run can tell.

    """
    scoring = CIRCUIT_METHODS.get(method)
    require_same_layout(clean, corrupted)
    graph = edge_graph(model, clean, nodes=nodes, groups=named_rules(groups), towers=towers)
    if towers == "all":
        _refuse_unseen_text(model, clean, corrupted)
    scoring.check(model, metric, clean)
    ahead = outlook(model, clean, graph, scoring)
    tqdm(desc=f"find_circuit, {scoring}: {ahead}", bar_format="{desc}", disable=not progress).close()
    pairs = pairs_of(model, clean, corrupted, graph, metric)
    scores = torch.stack([scoring.scores(pair, progress=progress) for pair in pairs]).sum(0)
    ends = (torch.stack(values).sum(0).detach().cpu() for values in zip(*(pair.ends for pair in pairs), strict=True))
    clean_values, corrupted_values = ends
    identity = run_identity(
        model,
        exact=False,
        the_clean_batch=clean,
        the_corrupted_batch=corrupted,
        graph=(
            [reader.name for reader in graph.readers],
            [writer.name for writer in graph.writers],
            graph.groups,
            towers,
        ),
        metric=metric,
        method=scoring,
    )
    kept, name = graph.allowed.clone(), metric_name(metric)
    return Circuit(graph, scores, kept, str(scoring), name, clean_values, corrupted_values, identity)


def _refuse_unseen_text(model: HookedMultimodal, clean: MultimodalBatch, corrupted: MultimodalBatch) -> None:
    """A Q-Former that reads the prompt gets it beside the streams, so another prompt would reach it over no edge."""
    reads_text = any(node.part == "projector" and "text" in node.sequence for node in model.graph)
    if reads_text and not torch.equal(clean["input_ids"], corrupted["input_ids"]):
        raise InputError(
            f"The projector of {model.family.name} reads the prompt beside the picture, over no edge of the graph; use a "
            "clean and a corrupted batch of the same text, or begin behind the projector: towers='language'."
        )
