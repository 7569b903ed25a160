"""The runs of a dataset of pairs, batch by batch: what methods score and curves judge."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float

from mmlens.analysis.circuits.ablation import Ablation, ReadyAblation
from mmlens.analysis.circuits.build import edge_graph
from mmlens.analysis.circuits.graph import EdgeGraph, NodeKind, Towers
from mmlens.analysis.circuits.groups import REST
from mmlens.analysis.circuits.node_graph import node_graph
from mmlens.analysis.circuits.pairs import BatchPair, metrics_of
from mmlens.analysis.circuits.runs import Pair, graph_pairs
from mmlens.analysis.metrics import Metric, MetricFunction
from mmlens.core.errors import InputError
from mmlens.core.rules import Rule
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.picture_tensors import PICTURE_TENSORS
from mmlens.models.hooked import HookedMultimodal, WritingModel


@dataclass(frozen=True)
class PairData:
    """Pairs of runs, which are made batch by batch each time they are gone through.

    Attributes:
        model: the hooked model.
        pairs: the batches.
        graph: writers and readers.
        metrics: of each pair.
        ablation: what patched edges carry.
        ends: the metric with no edge and with all edges patched, of the batches that were gone through, by their number.
    """

    model: HookedMultimodal
    pairs: Sequence[BatchPair]
    graph: EdgeGraph
    metrics: Sequence[Metric | MetricFunction]
    ablation: ReadyAblation
    ends: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: HookedMultimodal,
        pairs: Sequence[BatchPair],
        graph: EdgeGraph,
        metric: Metric | MetricFunction,
        ablation: Ablation,
        check: "Callable[[PairData], None]" = lambda data: None,
    ) -> "PairData":
        """Check all that can be wrong, and count the means that the ablation needs.

        Raises:
            InputError: before any forward pass, for a metric that cannot work, pairs that lack a corrupted batch, or what
                `check` refuses.
        """
        ablation.require(pairs)
        data = cls(model, pairs, graph, metrics_of(metric, model, pairs), ReadyAblation(ablation))
        check(data)
        points = list(dict.fromkeys(writer.point for writer in graph.writers))
        return replace(data, ablation=ReadyAblation.of(ablation, model, [clean for clean, _ in pairs], points))

    def __iter__(self) -> Iterator[list[Pair]]:
        """Each batch's pairs, one for each reading of the metric, which is their sum."""
        for number, ((clean, corrupted), metric) in enumerate(zip(self.pairs, self.metrics, strict=True)):
            pairs = graph_pairs(self.model, clean, corrupted, self.graph, metric, self.ablation)
            first, second = (torch.stack([pair.ends[end] for pair in pairs]).sum(0) for end in (0, 1))
            self.ends[number] = (first.detach().cpu(), second.detach().cpu())
            yield pairs

    @property
    def size(self) -> int:
        """How many samples there are."""
        return sum(clean.size for clean, _ in self.pairs)

    def end(self, which: int) -> Float[torch.Tensor, "sample"]:
        """The metric with no edge (0) or all edges (1) patched, of all samples; once they were gone through."""
        return torch.cat([self.ends[number][which] for number in range(len(self.pairs))])


def graph_of(
    model: WritingModel,
    pairs: Sequence[BatchPair],
    *,
    nodes: NodeKind,
    groups: dict[str, Rule],
    towers: Towers,
    edges: bool,
) -> EdgeGraph:
    """The graph of a model on a dataset, of edges or of nodes.

    Raises:
        InputError: if there can be none; before any forward pass.
    """
    texts = [number for number, (clean, _) in enumerate(pairs) if not _has_pictures(clean)]
    if texts and towers == "all" and nodes != "feature":
        raise InputError(
            f"The batches {texts} hold no picture, so that the vision encoder has no run for a circuit to be in; begin at the "
            "language model: towers='language', groups=('text', 'last')."
        )
    build = edge_graph if edges else node_graph
    return build(model, [clean for clean, _ in pairs], nodes=nodes, groups=groups, towers=towers)


def _has_pictures(batch: MultimodalBatch) -> bool:
    return any(name in batch.inputs for name in PICTURE_TENSORS) or bool(batch.layout.is_image.any())


def require_graph(model: WritingModel, pairs: Sequence[BatchPair], graph: EdgeGraph) -> None:
    """Check that a circuit's graph is that of a model on other pairs, whose groups may be fewer.

    Raises:
        InputError: if it belongs to another model, or the pairs have positions that none of its groups name.
    """
    here = graph_of(
        model, pairs, nodes=graph.nodes, groups=dict(graph.groups), towers=graph.towers, edges=not graph.by_node
    )
    names, graph_names = {writer.name for writer in here.writers}, {writer.name for writer in graph.writers}
    by_groups = names <= graph_names and all(
        writer.group is not None for writer in graph.writers if writer.name not in names
    )
    if here.readers == graph.readers and by_groups:
        return
    further = [writer.name for writer in here.writers if writer.name not in graph_names]
    if here.readers == graph.readers and all(REST in name for name in further):
        raise InputError(
            f"These pairs have positions that no group of the circuit names ({', '.join(further)}), and the circuit was found "
            "where there were none. Find it with groups that name them: groups=('image', 'text', 'last')."
        )
    raise InputError(
        f"The circuit belongs to another model or other groups: it has {len(graph.writers)} writers and {len(graph.readers)} "
        f"readers, and here there are {len(here.writers)} and {len(here.readers)}."
    )
