"""How much two circuits have in common, beside random circuits of their sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool
from scipy.stats import spearmanr

from mmlens.analysis.circuits.circuit import Circuit
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.random_circuits import random_circuit
from mmlens.analysis.statistics.intervals import Interval, Standing, draws_interval, standing
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import CountOrZero, Seed
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

#: What is compared: edges, or the nodes that they join.
Compared: TypeAlias = Literal["edges", "nodes"]


@checked_result
@dataclass(frozen=True)
class CircuitOverlap(Viewable, Saved):
    """What two circuits have in common.

    Attributes:
        compared: edges, or nodes.
        shared, only_first, only_second: by name, of those that both graphs have.
        draws: the share that pairs of random circuits of the same sizes have in common.
        correlation: rank correlation of the absolute mean scores of all edges that both graphs have.
    """

    compared: Compared
    shared: list[str]
    only_first: list[str]
    only_second: list[str]
    draws: list[float]
    correlation: float

    def __repr__(self) -> str:
        return (
            f"CircuitOverlap({len(self.shared)} {self.compared} of {len(self.shared) + len(self.only_first)} and "
            f"{len(self.shared) + len(self.only_second)}: {self.standing}; rank correlation of scores {self.correlation:.2f})"
        )

    @property
    def jaccard(self) -> float:
        """What both have, as a share of what either has."""
        n_union = len(self.shared) + len(self.only_first) + len(self.only_second)
        return len(self.shared) / n_union if n_union else 0.0

    @property
    def chance(self) -> Interval:
        """The mean share of random circuits, and where 95% of the draws lie."""
        return draws_interval(self.draws)

    @property
    def standing(self) -> Standing:
        """Where the share lies among those of random circuits."""
        return standing(self.jaccard, self.draws)

    def to_frame(self) -> "pd.DataFrame":
        """One row per edge or node, and which circuit has it."""
        import pandas as pd

        lists = {"both": self.shared, "first": self.only_first, "second": self.only_second}
        return pd.DataFrame([{"name": name, "circuit": which} for which, names in lists.items() for name in names])

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """How many are shared and how many are not, and the shares of random circuits.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("circuit_plots.plot_overlap")(self, figure=figure)


@checked
def overlap(
    first: Circuit, second: Circuit, *, of: Compared = "edges", n_random: CountOrZero = 100, seed: Seed = 0
) -> CircuitOverlap:
    """What two circuits have in common: of two kinds of questions, of pictures and texts, of two models of one structure.

    Edges and nodes are the same if they have one name; what only one graph has (the groups of a picture that the other runs lack)
    counts for nothing.

    Args:
        first, second: circuits, of `.strongest(n)` or another choice.
        of: what is compared.
        n_random: pairs of random circuits of as many edges, all on paths from an input to the logits.
        seed: of these.

    Raises:
        InputError: if the graphs have nothing in common, or a circuit has no edges.

    Source: Hanna, Pezzelle and Belinkov, "Have Faith in Faithfulness", COLM 2024 (https://arxiv.org/abs/2403.17806), which shows
    that overlap is no measure of faithfulness: judge each circuit on the other's pairs too (`mm.circuits.curve`).
    """
    for name, circuit in (("first", first), ("second", second)):
        if not circuit.kept.any():
            raise InputError(
                f"The {name} circuit has no edges; choose more with .strongest(n) or .threshold(least), which leave out those on "
                "no path from an input to the logits."
            )
    places = [_names(circuit.graph) for circuit in (first, second)]
    common = [name for name in places[0] if name in places[1]]
    if not common:
        raise InputError(
            "The two circuits have no edge in common that they could share: they are of other models or nodes."
        )
    one, other = (_parts(c.graph, c.kept, p, common, of) for c, p in zip((first, second), places, strict=True))
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(n_random):
        random_parts = [
            _parts(c.graph, random_circuit(c.graph, int(c.kept.sum()), generator), p, common, of)
            for c, p in zip((first, second), places, strict=True)
        ]
        n_union = len(random_parts[0] | random_parts[1])
        draws.append(len(random_parts[0] & random_parts[1]) / n_union if n_union else 0.0)
    scores = [
        [float(circuit.scores[place[name]].mean().abs()) for name in common]
        for circuit, place in zip((first, second), places, strict=True)
    ]
    varies = len(common) > 2 and all(len(set(values)) > 1 for values in scores)
    order = sorted(one | other)
    return CircuitOverlap(
        compared=of,
        shared=[name for name in order if name in one and name in other],
        only_first=[name for name in order if name not in other],
        only_second=[name for name in order if name not in one],
        draws=draws,
        correlation=float(spearmanr(*scores).statistic) if varies else float("nan"),
    )


def _names(graph: EdgeGraph) -> dict[str, tuple[int, int]]:
    """Reader and writer of every edge, by its name."""
    return {
        f"{graph.writers[writer].name} -> {graph.readers[reader].name}": (reader, writer)
        for reader, writer in graph.allowed.nonzero().tolist()
    }


def _parts(
    graph: EdgeGraph,
    mask: Bool[torch.Tensor, "reader writer"],
    places: Mapping[str, tuple[int, int]],
    common: list[str],
    of: Compared,
) -> set[str]:
    """Names of a circuit's edges, or of the nodes that they join."""
    edges = [name for name in common if mask[places[name]]]
    if of == "edges":
        return set(edges)
    readers = {reader.name: reader.feeds or (reader.name,) for reader in graph.readers}
    ends = [name.split(" -> ") for name in edges]
    return {writer for writer, _ in ends} | {node for _, reader in ends for node in readers[reader]}
