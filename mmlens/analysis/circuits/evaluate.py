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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mmlens.analysis.circuits.ablation import AblationChoice
from mmlens.analysis.circuits.ablations import ABLATIONS
from mmlens.analysis.circuits.circuit import Circuit, Edge
from mmlens.analysis.circuits.dataset import PairData, require_graph
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.judging import judged_identity, measured, require_gap
from mmlens.analysis.circuits.pairs import PairsLike
from mmlens.analysis.circuits.random_circuits import random_circuit
from mmlens.analysis.metrics import MetricLike, metric_name
from mmlens.analysis.statistics.intervals import Interval, mean_interval
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import CountOrZero, PathLike, Seed
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.models.hooked import WritingModel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

_TENSORS = tuple(
    f"{start}{word}" for start in ("", "random_") for word in ("faithfulness", "completeness", "minimality")
)


@checked_result
@dataclass(frozen=True)
class CircuitEvaluation(Viewable, Saved):
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

    n_edges: CountOrZero
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
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The three measures beside those of random circuits, with 95% intervals.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("circuit_plots.plot_evaluation")(self, figure=figure)

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
    pairs: PairsLike,
    *,
    metric: MetricLike,
    ablation: AblationChoice = "counterfactual",
    n_random: CountOrZero = 10,
    n_edges: CountOrZero = 20,
    seed: Seed = 0,
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> CircuitEvaluation:
    """Measure a circuit's faithfulness, completeness and minimality by exact runs, and those of random circuits.

    Args:
        model: the hooked model.
        circuit: from `mm.find_circuit(...).strongest(n)`; an empty one is not faithful at all (0).
        pairs: as for `mm.find_circuit`; others than those it was found on tell whether it holds in general.
        metric, ablation: as for `mm.find_circuit`.
        n_random: random circuits of as many edges.
        n_edges: how many edges are removed one by one: the weakest of the circuit, and as many of the random ones together.
        seed: of the random circuits.
        checkpoint: a file that keeps finished runs; the same call goes on from it.
        progress: show a progress bar.

    Returns:
        Shares of the gap between clean and corrupted; the gap is the mean over samples.

    Raises:
        InputError: if the circuit belongs to another model, or the runs do not differ.
    """
    graph, rule = circuit.graph, ABLATIONS.get(ablation)
    require_graph(model, pairs, graph)
    results = Checkpoint(
        checkpoint,
        "circuit evaluation",
        judged_identity(model, circuit, pairs, metric, rule, [n_random, n_edges, seed]),
    )
    data = PairData.of(model, pairs, graph, metric, rule)
    generator = np.random.default_rng(seed)
    count = int(circuit.kept.sum())
    random_masks = [random_circuit(graph, count, generator) for _ in range(n_random)] if count else []
    weakest = list(reversed(circuit.edges))[:n_edges]
    per_circuit = -(-n_edges // n_random) if n_random else 0
    circuits = {"circuit": circuit.kept, "rest": graph.allowed & ~circuit.kept}
    circuits |= {f"edge {number}": _without(graph, circuit.kept, edge) for number, edge in enumerate(weakest)}
    for number, mask in enumerate(random_masks):
        circuits |= {f"random {number}": mask, f"random rest {number}": graph.allowed & ~mask}
        circuits |= {
            f"random {number} edge {number_of_edge}": _drop(mask, generator) for number_of_edge in range(per_circuit)
        }
    values = measured(data, circuits, results, progress=progress)
    empty, gap = data.end(1), float((data.end(0) - data.end(1)).mean())
    require_gap(gap)
    shares = {name: (of_circuit - empty) / gap for name, of_circuit in values.items()}
    numbers = range(len(random_masks))
    size = data.size
    return CircuitEvaluation(
        n_edges=count,
        gap=gap,
        metric=metric_name(metric),
        faithfulness=shares["circuit"],
        completeness=1 - shares["rest"],
        minimality=_stacked([shares["circuit"] - shares[f"edge {n}"] for n in range(len(weakest))], size),
        edges=weakest,
        random_faithfulness=_stacked([shares[f"random {n}"] for n in numbers], size),
        random_completeness=_stacked([1 - shares[f"random rest {n}"] for n in numbers], size),
        random_minimality=_stacked(
            [shares[f"random {n}"] - shares[f"random {n} edge {e}"] for n in numbers for e in range(per_circuit)], size
        ),
        identity=results.identity,
    )


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
