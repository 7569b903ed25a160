"""How good a circuit is: whether it suffices, whether it is needed, and whether all of it is.

With m(C) the metric when only the edges of C carry the clean run (all others are patched with the corrupted one), and the gap
m(all) - m(none) between the clean and the corrupted run:

    faithfulness = (m(C) - m(none)) / gap                  1: the circuit alone gives the clean answer
    completeness = 1 - (m(all without C) - m(none)) / gap  1: without the circuit nothing of it is left
    minimality of an edge e of C = (m(C) - m(C without e)) / gap

each beside the same of random circuits of as many edges, every one of which lies on a path from an input to the logits.

Source: Wang et al., "Interpretability in the Wild", ICLR 2023 (https://arxiv.org/abs/2211.00593), section 4; Hanna, Pezzelle and
Belinkov, "Have Faith in Faithfulness", COLM 2024 (https://arxiv.org/abs/2403.17806), section 4.
Departs: Wang et al. compare the circuit with the model under every subset of knocked-out nodes; here completeness is the case
in which the whole circuit is knocked out, and minimality removes single edges from the whole circuit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from tqdm.auto import tqdm

from mmlens.analysis.circuits.build import edge_graph
from mmlens.analysis.circuits.circuit import Circuit, Edge
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.runs import Pair, pairs_of
from mmlens.analysis.metrics import MetricLike, metric_name
from mmlens.analysis.statistics import Interval, mean_interval
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.core.kinds import Count, CountOrZero, PathLike, Seed
from mmlens.core.results import TensorKind
from mmlens.core.shares import shared_tensors
from mmlens.core.view import Viewable
from mmlens.inputs.batch import BatchLike
from mmlens.interventions.pairs import require_same_layout
from mmlens.models.hooked import WritingModel
from mmlens.models.identity import run_identity
from mmlens.models.processes import process_of

if TYPE_CHECKING:
    import pandas as pd

_TENSORS = tuple(
    f"{start}{word}" for start in ("", "random_") for word in ("faithfulness", "completeness", "minimality")
)
_FILE = TensorKind(
    "mmlens.circuits.CircuitEvaluation",
    3,
    "circuit evaluation",
    {"n_edges": int, "gap": float, "metric": str, "edges": list[dict], "identity": dict[str, str]},
    tensors=_TENSORS,
)
#: Random paths in a row that bring nothing that fits before edges are drawn one by one.
_MOST_MISSES = 200


@checked_result
@dataclass(frozen=True)
class CircuitEvaluation(Viewable):
    """How much of the answer a circuit carries, beside random circuits of equal size.

    Attributes:
        n_edges: edges of the circuit.
        gap: mean of clean minus corrupted, in the metric's unit.
        metric: its name and unit.
        faithfulness, completeness: shares of the gap.
        minimality: what removing one edge takes from the faithfulness.
        edges: those of `minimality`.
        random_faithfulness, random_completeness: the same of random circuits.
        random_minimality: of edges of random circuits.
        identity: what decided the values: see `mmlens.models.identity.run_identity`; empty where it is not known.
    """

    n_edges: Count
    gap: float
    metric: str
    faithfulness: Float[torch.Tensor, "sample"]
    completeness: Float[torch.Tensor, "sample"]
    minimality: Float[torch.Tensor, "edge sample"]
    edges: list[Edge]
    random_faithfulness: Float[torch.Tensor, "circuit sample"]
    random_completeness: Float[torch.Tensor, "circuit sample"]
    random_minimality: Float[torch.Tensor, "random_edge sample"]
    identity: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        lines = [f"CircuitEvaluation({self.n_edges} edges; {self.metric}, clean - corrupted {self.gap:.3f})"]
        for name in ("faithfulness", "completeness", "minimality"):
            share, random = self.interval(name), self.interval(f"random_{name}")
            lines.append(f"  {name:<12} {share}   random circuits {random}")
        return "\n".join(lines)

    @checked
    def interval(self, name: str) -> Interval:
        """The mean of one of the measures with its interval (see `statistics`): over samples, random circuits, or edges.

        Args:
            name: `"faithfulness"`, `"random_completeness"`, ...
        """
        if name not in _TENSORS:
            raise InputError(f"There is no measure {name!r}; there are {', '.join(_TENSORS)}.")
        values = getattr(self, name)
        return mean_interval(values.mean(-1) if values.ndim == 2 else values)

    @checked
    def save(self, path: PathLike) -> Path:
        """Write it as one safetensors file, whole or not at all."""
        about = {"n_edges": self.n_edges, "gap": self.gap, "metric": self.metric, "identity": dict(self.identity)}
        about["edges"] = [asdict(edge) for edge in self.edges]
        return _FILE.write(path, {name: getattr(self, name) for name in _TENSORS}, about)

    @classmethod
    @checked
    def load(cls, path: PathLike) -> "CircuitEvaluation":
        """Read an evaluation that `save` wrote.

        Raises:
            InputError: if there is no file, or it is no evaluation.
        """
        tensors, about = _FILE.read(path)
        about["edges"] = [Edge(**edge) for edge in about["edges"]]
        return cls(**(about | tensors))

    @property
    def as_good_at_random(self) -> float:
        """The share of random circuits that are at least as faithful."""
        better = self.random_faithfulness.mean(-1) >= self.faithfulness.mean()
        return float(better.float().mean()) if len(better) else float("nan")

    def to_frame(self) -> "pd.DataFrame":
        """One row per measure: mean and interval, for the circuit and for random ones."""
        import pandas as pd

        rows = []
        for name in ("faithfulness", "completeness", "minimality"):
            row: dict[str, object] = {"measure": name}
            for start in ("", "random_"):
                interval = self.interval(f"{start}{name}")
                row |= {f"{start}mean": interval.mean, f"{start}low": interval.low, f"{start}high": interval.high}
            rows.append(row)
        return pd.DataFrame(rows)


@checked
def evaluate_circuit(
    model: WritingModel,
    circuit: Circuit,
    clean: BatchLike,
    corrupted: BatchLike,
    *,
    metric: MetricLike,
    n_random: CountOrZero = 10,
    n_edges: CountOrZero = 20,
    seed: Seed = 0,
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> CircuitEvaluation:
    """Measure a circuit's faithfulness, completeness and minimality by exact runs, and those of random circuits.

    Args:
        model: the hooked model.
        circuit: from `mm.find_circuit(...).strongest(n)`.
        clean, corrupted: the pair; others than those it was found on tell whether it holds in general.
        metric: as for `mm.find_circuit`.
        n_random: random circuits of as many edges.
        n_edges: how many edges are removed one by one: the weakest of the circuit, and as many of the random ones together.
        seed: of the random circuits.
        checkpoint: a file that keeps finished runs; the same call goes on from it.
        progress: show a progress bar.

    Returns:
        Shares of the gap between clean and corrupted; the gap is the mean over samples.

    Raises:
        InputError: if the circuit has no edges or belongs to another model, or the runs do not differ.
    """
    if not circuit.kept.any():
        raise InputError("The circuit has no edges; choose some with .strongest(n) or .threshold(least).")
    require_same_layout(clean, corrupted)
    graph_of_circuit = circuit.graph
    graph = edge_graph(
        model, clean, nodes=graph_of_circuit.nodes, groups=graph_of_circuit.groups, towers=graph_of_circuit.towers
    )
    if (graph.writers, graph.readers) != (graph_of_circuit.writers, graph_of_circuit.readers):
        raise InputError(
            "The circuit belongs to another model or other groups: it has "
            f"{len(graph_of_circuit.writers)} writers and {len(graph_of_circuit.readers)} "
            f"readers, and here there are {len(graph.writers)} and {len(graph.readers)}."
        )
    results = Checkpoint(
        checkpoint,
        "circuit evaluation",
        lambda exact: run_identity(
            model,
            exact,
            the_clean_batch=clean,
            the_corrupted_batch=corrupted,
            circuit=(circuit.kept, [node.name for nodes in (graph.readers, graph.writers) for node in nodes]),
            metric=metric,
            settings=[n_random, n_edges, seed],
        ),
    )
    pairs = pairs_of(model, clean, corrupted, graph, metric)
    gap = sum(float((pair.ends[0] - pair.ends[1]).mean()) for pair in pairs)
    if abs(gap) < 1e-6:
        raise InputError("The clean and the corrupted run have the same metric, so there is no gap to take shares of.")
    generator = np.random.default_rng(seed)
    count = int(circuit.kept.sum())
    random_masks = [random_circuit(graph, count, generator) for _ in range(n_random)]
    weakest = list(reversed(circuit.edges))[:n_edges]
    without_edge = [_without(graph, circuit.kept, edge) for edge in weakest]
    per_circuit = -(-n_edges // n_random) if n_random else 0
    smaller = [(number, _drop(mask, generator)) for number, mask in enumerate(random_masks) for _ in range(per_circuit)]
    shares = _shares(
        pairs, gap, [circuit.kept, *random_masks], [*without_edge, *(mask for _, mask in smaller)], results, progress
    )
    (faithful, *at_random), (complete, *complete_at_random), less = shares
    drops = [faithful - share for share in less[: len(without_edge)]]
    drops_at_random = [
        at_random[number] - share for (number, _), share in zip(smaller, less[len(without_edge) :], strict=True)
    ]
    return CircuitEvaluation(
        n_edges=count,
        gap=gap,
        metric=metric_name(metric),
        faithfulness=faithful,
        completeness=complete,
        minimality=_stacked(drops, clean.size),
        edges=weakest,
        random_faithfulness=_stacked(at_random, clean.size),
        random_completeness=_stacked(complete_at_random, clean.size),
        random_minimality=_stacked(drops_at_random, clean.size),
        identity=results.identity,
    )


def _shares(
    pairs: Sequence[Pair],
    gap: float,
    circuits: list[torch.Tensor],
    smaller: list[torch.Tensor],
    results: Checkpoint,
    progress: bool,
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Shares of the gap `[sample]` that stand: of circuits, of all that is not in them (from 1), and of smaller circuits.

    Args:
        pairs: the two runs, for each reading of the metric.
        gap: mean of clean minus corrupted.
        circuits, smaller: masks of edges.
        results: keeps finished runs.
        progress: show a progress bar.
    """
    allowed = pairs[0].graph.allowed
    masks = {f"circuit {number}": mask for number, mask in enumerate(circuits)}
    masks |= {f"without {number}": allowed & ~mask for number, mask in enumerate(circuits)}
    masks |= {f"smaller {number}": mask for number, mask in enumerate(smaller)}

    def work(name: str) -> torch.Tensor:
        """The share that stands when only these edges carry the clean run."""
        left = [pair.run(allowed & ~masks[name]) - pair.ends[1] for pair in pairs]
        return (torch.stack(left).sum(0) / gap).detach().cpu()

    with tqdm(total=len(masks), desc="circuits", disable=not progress) as bar:
        found = shared_tensors(
            list(masks),
            work,
            process_of(pairs[0].model),
            results,
            run=partial(identity_of, [pairs[0].clean, pairs[0].corrupted]),
            on_done=bar.update,
        )
    kinds = ([found[name] for name in masks if name.startswith(kind)] for kind in ("circuit", "without", "smaller"))
    whole, rest, less = kinds
    return whole, [1 - share for share in rest], less


def random_circuit(graph: EdgeGraph, count: int, generator: np.random.Generator) -> Bool[torch.Tensor, "reader writer"]:
    """So many edges that all lie on paths from an input to the logits: random paths are added until there are enough.

    Args:
        graph: the writers and readers.
        count: how many edges.
        generator: draws the paths.
    """
    if not 1 <= count <= int(graph.allowed.sum()):
        raise InputError(f"count={count} must lie in 1..{int(graph.allowed.sum())}, the number of edges.")
    feeders: dict[str, list[int]] = {}
    for number, reader in enumerate(graph.readers):
        for name in reader.feeds:
            feeders.setdefault(name, []).append(number)
    edges = torch.zeros_like(graph.allowed)
    misses = 0
    while (remainder := count - int(edges.sum())) > 0:
        new = [pair for pair in _random_path(graph, feeders, generator) if not edges[pair]]
        if misses > _MOST_MISSES:
            candidates = _joining(graph, edges)
            new = [candidates[int(generator.integers(len(candidates)))]] if candidates else []
            if not candidates:  # no single edge fits between the nodes that there are
                edges[:] = False
        misses = 0 if 0 < len(new) <= remainder else misses + 1
        for pair in new if len(new) <= remainder else ():
            edges[pair] = True
    return edges


def _joining(graph: EdgeGraph, edges: torch.Tensor) -> list[tuple[int, int]]:
    """Edges (reader, writer) not there yet that join nodes which are on a path already."""
    inputs = {name for reader, row in zip(graph.readers, edges, strict=True) if row.any() for name in reader.feeds}
    writers = {writer.name for writer, column in zip(graph.writers, edges.T, strict=True) if column.any()}
    live = torch.tensor([writer.name in graph.inputs | inputs for writer in graph.writers])
    useful = torch.tensor([reader.kind == "logits" or bool(writers & {*reader.feeds}) for reader in graph.readers])
    return [(r, w) for r, w in (graph.allowed & ~edges & live[None] & useful[:, None]).nonzero().tolist()]


def _random_path(
    graph: EdgeGraph, feeders: dict[str, list[int]], generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Edges (reader, writer) from the logits back to an input, each step drawn at random."""
    path, reader = [], len(graph.readers) - 1
    while True:
        writer = int(generator.choice(graph.allowed[reader].nonzero().flatten().numpy()))
        path.append((reader, writer))
        name = graph.writers[writer].name
        if name in graph.inputs:
            return path
        reader = int(generator.choice(feeders[name]))


def _without(graph: EdgeGraph, mask: torch.Tensor, edge: Edge) -> torch.Tensor:
    less = mask.clone()
    reader = [reader_of_graph.name for reader_of_graph in graph.readers].index(edge.reader)
    writer = [reader_of_graph.name for reader_of_graph in graph.writers].index(edge.writer)
    less[reader, writer] = False
    return less


def _drop(mask: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """The circuit without one of its edges, drawn at random."""
    less = mask.clone()
    edges = mask.nonzero()
    less[tuple(edges[int(generator.integers(len(edges)))].tolist())] = False
    return less


def _stacked(values: list[torch.Tensor], size: int) -> torch.Tensor:
    return torch.stack(values) if values else torch.zeros(0, size)
