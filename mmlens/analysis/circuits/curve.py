"""Faithfulness of circuits of growing size: the curve, the areas under it and beside it, and those of random circuits.

    f(n) = (m(C_n) - m(0)) / (m(N) - m(0)), means over samples first     CPR = area of f     CMD = area of |1 - f|

m(C_n) is the metric when the best n edges carry the clean run and all others are ablated, m(N) that of the model, m(0) that with
all edges ablated. Areas are trapezoids over the share of edges from .001 to 1, so that a circuit that is whole from the first
size on has CPR .999 and CMD 0.

Source: Mueller et al., "MIB: A Mechanistic Interpretability Benchmark", ICML 2025 (https://arxiv.org/abs/2504.13151), section 3.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch

from mmlens.analysis.circuits.ablation import AblationChoice
from mmlens.analysis.circuits.ablations import ABLATIONS
from mmlens.analysis.circuits.circuit import Circuit
from mmlens.analysis.circuits.curve_result import RANKINGS, CircuitCurve
from mmlens.analysis.circuits.dataset import PairData, require_graph
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.judging import judged_identity, measured, require_gap
from mmlens.analysis.circuits.pairs import PairsLike
from mmlens.analysis.circuits.random_circuits import permuted_scores, random_circuit
from mmlens.analysis.circuits.selection import Ranking, grown, strengths, strongest
from mmlens.analysis.metrics import MetricLike, metric_name
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.kinds import CountOrZero, Fraction, PathLike, Seed, SeveralDistinct
from mmlens.models.hooked import WritingModel

#: MIB's sizes: shares of all edges.
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
Choice: TypeAlias = Literal["strongest", "grown"]


@checked
def curve(
    model: WritingModel,
    circuit: Circuit,
    pairs: PairsLike,
    *,
    metric: MetricLike,
    ablation: AblationChoice = "counterfactual",
    sizes: SeveralDistinct[Fraction] = SIZES,
    choice: Choice = "strongest",
    n_random: CountOrZero = 5,
    seed: Seed = 0,
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> CircuitCurve:
    """Judge the scores of a circuit: how faithful its best edges are, at ten sizes, beside random circuits.

    Edges are ranked in two ways: `signed` (those that help the answer first), of which CPR is the area, and `absolute`, of which
    CMD is. Those that lie on no path from an input to the logits are left out of a circuit, and an empty circuit has f = 0.

    Args:
        model: the hooked model.
        circuit: from `mm.find_circuit`; which edges it keeps does not matter.
        pairs: as for `mm.find_circuit`; others than those it was found on tell whether it holds in general.
        metric, ablation: as for `mm.find_circuit`.
        sizes: shares of all edges, of which `int(share * edges)` are taken.
        choice: `"strongest"` edges, or `"grown"` from the logits back (`Circuit.grown`).
        n_random: draws of each control: random circuits of as many edges as the signed ones have, all on paths; and the same
            scores dealt out to other edges.
        seed: of the draws.
        checkpoint: a file that keeps finished runs; the same call goes on from it.
        progress: show a progress bar.

    Returns:
        The metric of every circuit and sample, with `.faithfulness`, `.cpr`, `.cmd`, their intervals over scenes and bands of the
        controls.

    Raises:
        InputError: before any forward pass, if the circuit belongs to another model; if the runs do not differ.
    """
    graph, rule = circuit.graph, ABLATIONS.get(ablation)
    require_graph(model, pairs, graph)
    shares = sorted(sizes)
    results = Checkpoint(
        checkpoint,
        "circuit curve",
        judged_identity(model, circuit, pairs, metric, rule, [shares, choice, n_random, seed]),
    )
    data = PairData.of(model, pairs, graph, metric, rule)
    mean, total = circuit.scores.mean(-1), int(graph.allowed.sum())
    counts = [int(share * total + 1e-9) for share in shares]
    masks_by_ranking: dict[str, list[torch.Tensor]] = {by: _ranked(graph, mean, by, counts, choice) for by in RANKINGS}
    n_edges = torch.tensor([[int(mask.sum()) for mask in masks] for masks in masks_by_ranking.values()])
    masks_by_name, generator = dict(masks_by_ranking), np.random.default_rng(seed)
    for draw in range(n_random):
        masks_by_name[f"random {draw}"] = [
            random_circuit(graph, n, generator) if n else torch.zeros_like(graph.allowed) for n in n_edges[0].tolist()
        ]
        other = permuted_scores(graph, mean, generator)
        masks_by_name[f"permuted {draw}"] = _ranked(graph, other, "signed", counts, choice)
    circuits = {f"{name} {place}": mask for name, masks in masks_by_name.items() for place, mask in enumerate(masks)}
    values = measured(data, circuits, results, progress=progress)
    whole, empty = data.end(0), data.end(1)
    require_gap(float((whole - empty).mean()))

    def of(names: Sequence[str]) -> torch.Tensor:
        rows = [torch.stack([values[f"{name} {place}"] for place in range(len(shares))]) for name in names]
        return torch.stack(rows) if rows else torch.zeros(0, len(shares), data.size)

    return CircuitCurve(
        shares=torch.tensor(shares),
        n_edges=n_edges,
        total=total,
        values=of(RANKINGS),
        random=of([f"random {draw}" for draw in range(n_random)]),
        permuted=of([f"permuted {draw}" for draw in range(n_random)]),
        whole=whole,
        empty=empty,
        metric=metric_name(metric),
        method=circuit.method,
        ablation=str(rule),
        counted="nodes" if graph.by_node else "edges",
        identity=results.identity,
    )


def _ranked(
    graph: EdgeGraph, scores: torch.Tensor, by: Ranking, counts: Sequence[int], choice: Choice
) -> list[torch.Tensor]:
    """The circuits of the best so many edges, less those that lie on no path."""
    strength = strengths(graph, scores, by)
    masks = (strongest(strength, n) if choice == "strongest" else grown(graph, strength, n) for n in counts)
    return [graph.connected(mask) for mask in masks]
